"""From an estimator and a task to a report."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from report_builders import FakeIdentifier, Page, experiments

from statewise.data.task import Task
from statewise.estimators.transform import SignedPower
from statewise.models import DeepWienerConfig
from statewise.nn import LRU, Gated
from statewise.report import collect, render_html, to_json
from statewise.report.collect import nominal_dt

CONFIG = DeepWienerConfig(n_layers=2, d_model=3, d_state=4)


def _task(**about) -> Task:
    train = experiments(
        (300, 200),
        2,
        2,
        dt=0.5,
        time_unit="h",
        input_names=("a", "b"),
        output_names=("y", "z"),
        output_units=("V", "V"),
        names=("one", "two"),
    )
    test = train.map(lambda record: record.part(20, 180, skip=30))
    fields = {
        "name": "rig",
        "train": train,
        "valid": None,
        "test": {"sweep": test, "steps": test[:1]},
    }
    return Task(**(fields | about))


@pytest.fixture(scope="module")
def task() -> Task:
    return _task(metric="rmse", scale=1000.0, unit="mV", references={"GRU": {"sweep": 120.0}})


def test_collect_gives_what_the_estimators_measure(task: Task) -> None:
    model, fir = FakeIdentifier(task, CONFIG), FakeIdentifier(task, CONFIG, noise=0.4, seed=5)
    data = collect(
        model, task, {"FIR": fir}, command="statewise fit", steps=(2,), created="2025-01-01"
    )
    assert (data.title, data.created, data.command) == ("rig", "2025-01-01", "statewise fit")
    summary = data.data
    assert [(c.name, c.unit) for c in summary.outputs] == [("y", "V"), ("z", "V")]
    assert (summary.dt, summary.time_unit) == (0.5, "h")
    assert [(p.split, p.record, p.samples, p.skip) for p in summary.parts] == [
        ("train", "one", 300, 0),
        ("train", "two", 200, 0),
        ("sweep", "one", 160, 30),
        ("sweep", "two", 160, 30),
        ("steps", "one", 160, 30),
    ]
    assert [p.missing_outputs for p in summary.parts] == [1, 1, 0, 0, 0]
    assert (summary.parts[2].begin, summary.parts[2].end) == ("10 h", "89.5 h")
    column = np.concatenate([record.u[:, 1] for record in task.train])
    assert summary.inputs[1].mean == pytest.approx(column.mean())
    expected = model.evaluate(task.test["sweep"], split="sweep", scale=1000.0, unit="mV")
    rows = [r for r in data.scores if (r.method, r.split) == ("deep Wiener", "sweep")]
    assert [r.value for r in rows if r.mode == "simulation"] == [s.value for s in expected]
    assert {r.mode for r in rows} == {"simulation", "2-step prediction"}
    assert {r.unit for r in rows if r.metric == "rmse"} == {"mV"}
    assert [(r.method, r.value, r.unit, r.metric) for r in data.references] == [
        ("GRU", 120.0, "mV", "rmse")
    ]
    assert len(data.traces) == 6
    first = data.traces[1]
    assert (first.record, first.channel, first.split, first.skip, first.unit) == (
        "one",
        "z",
        "sweep",
        30,
        "V",
    )
    simulated = fir.simulate_experiments(task.test["sweep"])[0][:, 1]
    np.testing.assert_array_equal(first.simulated["FIR"], simulated)
    assert [t.channel for t in data.residuals["whiteness"]] == ["y", "z"]
    assert [(t.channel, t.input) for t in data.residuals["input"]] == [
        ("y", "a"),
        ("y", "b"),
        ("z", "a"),
        ("z", "b"),
    ]
    assert data.model.n_parameters == model.model_.n_parameters
    assert data.model.config["model"]["d_state"] == 4
    assert [layer.dt for layer in data.layers] == [0.5, 0.5]
    assert data.layers[0].visited is not None
    assert data.path is not None
    assert data.path.gain.shape[1:] == (2, 2)
    assert data.environment["seed"] == 4
    assert data.environment["training time"] == "1.5 s"
    assert data.environment["back end"] in ("cpu (compiled)", "reference", "cpu")


def test_collected_report_can_be_shown_and_saved(task: Task) -> None:
    task = dataclasses.replace(task, test={"sweep": task.test["steps"]})
    data = collect(FakeIdentifier(task, CONFIG), task, created="2025-01-01", notes=("Note.",))
    page = Page(render_html(data))
    assert "of 2 outputs on average" in page.text
    assert "130 samples (65.0 hours) it never saw" in page.text
    assert json.loads(json.dumps(to_json(data), allow_nan=False))["notes"] == ["Note."]


def test_validation_and_dates_are_used() -> None:
    whole = experiments((400,), dt=1.0, time_unit="d")
    whole = whole.map(lambda record: record.with_fields(start=np.datetime64("1979-01-01", "us")))
    task = Task.from_experiments(whole, context=20)
    data = collect(FakeIdentifier(task, CONFIG), task)
    assert {row.split for row in data.scores} == {"test", "valid"}
    assert [part.split for part in data.data.parts] == ["train", "valid", "test"]
    assert data.data.parts[0].begin == "1979-01-01"
    assert data.traces[0].time.dtype.kind == "M"
    assert data.traces[-1].split == "valid"
    assert data.created.endswith("+00:00")


def test_output_transform_is_undone_in_the_path() -> None:
    task = Task.from_experiments(experiments((300,)))
    plain, powered = FakeIdentifier(task, CONFIG), FakeIdentifier(task, CONFIG)
    powered.transform = SignedPower(0.5)  # type: ignore[attr-defined]
    before, after = collect(plain, task).path, collect(powered, task)
    assert before is not None
    assert after.path is not None
    expected = np.sign(before.steady) * before.steady**2
    np.testing.assert_allclose(after.path.steady, expected)
    assert "SignedPower" in after.model.description


def test_a_short_test_record_has_no_residual_tests() -> None:
    whole = experiments((60,))
    task = Task("short", whole, None, {"test": whole.map(lambda r: r.part(10, 16))})
    data = collect(FakeIdentifier(task, CONFIG), task)
    assert data.residuals == {}
    assert data.references == []


def test_a_baseline_must_not_take_the_name_of_the_model(task: Task) -> None:
    model = FakeIdentifier(task, CONFIG)
    with pytest.raises(ValueError, match="'deep Wiener'"):
        collect(model, task, {"deep Wiener": model})


def test_nominal_interval() -> None:
    assert nominal_dt(experiments((50,), dt=0.2)) == 0.2
    assert nominal_dt(experiments((50,))) is None
    uneven = np.concatenate([np.arange(40.0) * 2, 80 + np.arange(10.0) * 5])
    assert nominal_dt(experiments((50,), t=uneven)) == 2.0


def test_layers_without_poles_leave_their_section_away(task: Task) -> None:
    config = dataclasses.replace(CONFIG, layer=Gated.spec(inner=LRU.spec(d_state=2)))
    data = collect(FakeIdentifier(task, config), task, {})
    assert (data.layers, data.path) == ((), None)
    assert "each a layer of the kind Gated" in data.model.description
    page = render_html(data)
    assert "rig" in page
    assert "unit circle" not in page
    linear = collect(FakeIdentifier(task, dataclasses.replace(CONFIG, layer=LRU.spec())), task, {})
    assert len(linear.layers) == 2
