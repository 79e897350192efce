from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from statewise._errors import DataError
from statewise.data import metrics
from statewise.data.experiments import Experiments
from statewise.data.record import Record
from statewise.data.task import METRICS, Task


def ramp(*lengths: int, n_u: int = 1) -> Experiments:
    """Records whose outputs count the samples, so that every cut shows where it was made."""
    records = []
    for index, length in enumerate(lengths):
        y = 1000.0 * index + np.arange(length, dtype=float)[:, None]
        u = np.repeat(-y, n_u, axis=1)
        records.append(Record(y=y, u=u, dt=0.5, name=f"r{index}", time_unit="s"))
    return Experiments(records)


def span(record: Record) -> tuple[float, float, int]:
    return record.y[0, 0], record.y[-1, 0], record.skip


def test_time_split_cuts_train_valid_and_test_in_order():
    task = Task.from_experiments(ramp(100), test_fraction=0.3, valid_fraction=0.2)
    assert span(task.train[0]) == (0, 55, 0)
    assert task.valid is not None
    assert span(task.valid[0]) == (56, 69, 0)
    assert span(task.test["test"][0]) == (70, 99, 0)
    assert task.test["test"][0].times()[0] == pytest.approx(35.0)


def test_context_precedes_a_part_and_the_window_eats_into_it():
    task = Task.from_experiments(
        ramp(100, 50), test_fraction=0.3, valid_fraction=0.2, context=7, window=4
    )
    assert task.valid is not None
    first, second = task.test["test"]
    assert span(first) == (63, 99, 11)
    assert span(second) == (1028, 1049, 11)
    assert span(task.valid[0]) == (49, 69, 7)
    # The part that is scored is the same with and without history.
    assert task.valid[0].y[7, 0] == 56
    assert span(task.train[1]) == (1000, 1027, 0)


def test_a_window_longer_than_the_context_becomes_the_history_of_validation():
    task = Task.from_experiments(ramp(100), context=2, window=9)
    assert task.valid is not None
    assert span(task.valid[0]) == (47, 69, 9)
    assert span(task.test["test"][0]) == (68, 99, 11)


def test_split_by_record_by_index_and_by_name():
    data = ramp(10, 11, 12, 13)
    task = Task.from_experiments(
        data, test_records=["r1", -1], valid_records=[0], window=3, test_name="held out"
    )
    assert task.valid is not None
    assert [record.name for record in task.train] == ["r2"]
    assert [record.name for record in task.valid] == ["r0"]
    assert [record.name for record in task.test["held out"]] == ["r1", "r3"]
    assert [record.skip for record in task.test["held out"]] == [3, 3]
    assert task.valid[0].skip == 3
    assert task.train[0].skip == 0


def test_split_by_record_cuts_validation_by_time_when_none_is_named():
    task = Task.from_experiments(ramp(20, 30), test_records=[1], valid_fraction=0.25, window=2)
    assert task.valid is not None
    assert span(task.train[0]) == (0, 14, 0)
    assert span(task.valid[0]) == (13, 19, 2)
    assert span(task.test["test"][0]) == (1000, 1029, 2)


def test_no_validation_data():
    task = Task.from_experiments(ramp(100), valid_fraction=0)
    assert task.valid is None
    assert span(task.train[0]) == (0, 69, 0)


def test_the_parts_of_a_time_split_share_no_scored_sample():
    rng = np.random.default_rng(0)
    for _ in range(50):
        length = int(rng.integers(20, 400))
        test_fraction, valid_fraction = rng.uniform(0.1, 0.6, 2)
        task = Task.from_experiments(
            ramp(length),
            test_fraction=test_fraction,
            valid_fraction=valid_fraction,
            context=int(rng.integers(0, 30)),
        )
        assert task.valid is not None
        parts = [task.train[0], task.valid[0], task.test["test"][0]]
        rows = np.concatenate([part.y[part.skip :, 0] for part in parts])
        np.testing.assert_array_equal(rows, np.arange(length))


def test_from_train_test_keeps_the_context_that_a_test_record_has():
    data = ramp(40)
    test = Experiments([dataclasses.replace(data[0], skip=5)])
    task = Task.from_train_test("t", data, {"a": test}, window=3, valid_fraction=0.5)
    assert task.test["a"][0].skip == 8
    assert task.valid is not None
    assert span(task.valid[0]) == (17, 39, 3)


def test_metadata_reaches_the_task():
    references = {"linear": {"test": 4.0}}
    task = Task.from_experiments(
        ramp(50), name="pump", metric="rmse", unit="mV", scale=1000.0, references=references
    )
    assert (task.name, task.unit, task.scale, task.references) == ("pump", "mV", 1e3, references)
    assert "pump" in repr(task)
    assert "rmse [mV]" in repr(task)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"test_fraction": 1.0}, "test_fraction must be in (0, 1), got 1.0"),
        ({"test_fraction": 0}, "test_fraction"),
        ({"test_fraction": float("nan")}, "test_fraction"),
        ({"valid_fraction": -0.1}, "valid_fraction must be in [0, 1), got -0.1"),
        ({"context": -1}, "context must be a whole number of samples"),
        ({"window": 2.5}, "window must be a whole number of samples"),
        ({"valid_records": [0]}, "valid_records needs test_records"),
        ({"test_records": [2]}, "test_records has 2, but there are 2 records"),
        ({"test_records": ["r7"]}, "'r7'"),
        ({"test_records": [0, 0]}, "twice"),
        ({"test_records": []}, "test_records names no record"),
        ({"test_records": [0], "valid_records": [0]}, "test_records and in valid_records"),
        ({"test_records": [0, 1]}, "no record of 2 is left to train on"),
        ({"metric": "mape"}, "metric 'mape' is not known"),
        ({"scale": 0.0}, "scale must be a positive number, got 0.0"),
        ({"references": {"GRU": {"tset": 1.0}}}, "['tset']"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError) as caught:
        Task.from_experiments(ramp(40, 40), **arguments)
    assert words in str(caught.value)


def test_a_window_that_leaves_nothing_to_score_is_refused():
    with pytest.raises(DataError, match="none is left to score"):
        Task.from_experiments(ramp(100), window=30)


def test_parts_with_other_channels_are_refused():
    with pytest.raises(DataError, match="2 inputs and 1 outputs, the training part 1 and 1"):
        Task("t", ramp(10), None, {"test": ramp(10, n_u=2)})


def test_a_task_needs_a_test_set():
    with pytest.raises(ValueError, match="no test set"):
        Task("t", ramp(10), None, {})


def test_every_metric_of_a_task_can_be_scored():
    data = ramp(10)
    for metric in sorted(METRICS):
        task = Task("t", data, None, {"test": data}, metric=metric)
        found = metrics.score(task.test["test"], [data[0].y + 1.0], metrics=[task.metric])
        assert len(found) == 1
        assert np.isfinite(found[0].value)


def test_a_csv_with_a_split_and_a_window(tmp_path):
    path = tmp_path / "pump one.csv"
    rows = "\n".join(f"{0.1 * k:.1f},{k},{2 * k}" for k in range(100))
    path.write_text(f"time,volt,level\n{rows}\n", encoding="utf-8")
    task = Task.from_file(path, ["volt"], ["level"], time="time", context=5, window=2)
    assert task.name == "pump one"
    assert task.train.input_names == ("volt",)
    assert task.train.dt == pytest.approx(0.1)
    assert span(task.test["test"][0]) == (130, 198, 7)


def test_an_npz_with_a_split(tmp_path):
    path = tmp_path / "pump.npz"
    np.savez(path, u=np.arange(60.0), y=2 * np.arange(60.0))
    task = Task.from_file(path, "u", "y", dt=0.5, test_fraction=0.5, valid_fraction=0)
    assert span(task.test["test"][0]) == (60, 118, 0)
    assert task.train.dt == 0.5
