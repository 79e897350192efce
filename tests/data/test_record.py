from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from statewise._errors import DataError
from statewise.data import Record


def test_vectors_become_single_channels_and_the_caller_keeps_his_arrays():
    u, y = np.arange(4), np.array([1.0, 2.0, 3.0, 4.0])
    record = Record(y=y, u=u)
    assert record.y.shape == record.u.shape == (4, 1)
    assert record.u.dtype == np.float64
    assert (len(record), record.n_u, record.n_y) == (4, 1, 1)
    y[0] = 99.0
    assert record.y[0, 0] == 1.0
    assert y.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        record.y[0, 0] = 5.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.y = y


def test_missing_values_are_nan_exactly_where_the_mask_is_false():
    y = np.array([[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]])
    mask = np.array([[True, True], [False, True], [True, True]])
    record = Record(y=y, y_mask=mask)
    np.testing.assert_array_equal(record.y_mask, [[True, False], [False, True], [True, True]])
    np.testing.assert_array_equal(np.isnan(record.y), ~record.y_mask)
    assert Record(y=np.ones(3), y_mask=np.ones(3, dtype=bool)).y_mask is None
    row = Record(y=np.ones((3, 2)), y_mask=[True, False, True])
    np.testing.assert_array_equal(row.y_mask, [[True] * 2, [False] * 2, [True] * 2])


def test_an_even_time_axis_becomes_dt():
    record = Record(y=np.zeros(5), t=2.0 + 0.1 * np.arange(5), time_unit="seconds")
    assert record.t is None
    assert record.dt == 0.1
    assert record.time_unit == "s"
    np.testing.assert_allclose(record.times(), [2.0, 2.1, 2.2, 2.3, 2.4], rtol=1e-14)
    assert record.steps() is None


def test_uneven_time_gives_relative_steps():
    record = Record(y=np.zeros(5), t=[0.0, 2.0, 4.0, 9.0, 11.0])
    assert record.dt is None
    np.testing.assert_array_equal(record.steps(), [1.0, 1.0, 1.0, 2.5, 1.0])
    np.testing.assert_array_equal(record.times(), [0.0, 2.0, 4.0, 9.0, 11.0])
    assert not record.t.flags.writeable


def test_steps_are_counted_in_the_nominal_interval():
    record = Record(y=np.zeros(3), dt=2.0, nominal_dt=1.0)
    np.testing.assert_array_equal(record.steps(), [1.0, 2.0, 2.0])
    assert Record(y=np.zeros(3)).steps() is None
    assert Record(y=np.zeros(3), dt=0.5).steps() is None


@pytest.mark.parametrize("rounding", [3, 4])
def test_stamps_rounded_to_decimals_are_even(rounding):
    t = np.round(np.arange(200) / 3.0, rounding)
    record = Record(y=np.zeros(200), t=t)
    assert record.t is None
    assert record.dt == pytest.approx(1 / 3, rel=1e-5)


def test_jitter_above_the_rounding_is_uneven():
    t = np.arange(50) + 0.004 * np.sin(np.arange(50))
    assert Record(y=np.zeros(50), t=t).t is not None
    coarse = np.round(np.arange(50) + 0.2 * np.sin(np.arange(50)), 1)
    assert Record(y=np.zeros(50), t=coarse).t is not None


def test_float32_stamps_of_an_even_grid_are_even():
    t = (np.arange(5000) * 0.01).astype(np.float32)
    assert Record(y=np.zeros(5000), t=t).dt == pytest.approx(0.01, rel=1e-6)


def test_calendar_time():
    start = np.datetime64("2020-02-28")
    record = Record(y=np.zeros(3), dt=1.0, time_unit="d", start=start)
    assert record.dates().astype("datetime64[D]").tolist() == [
        np.datetime64(d).item() for d in ("2020-02-28", "2020-02-29", "2020-03-01")
    ]
    assert Record(y=np.zeros(3), dt=1.0, start=start).dates() is None
    assert Record(y=np.zeros(3), dt=1.0, time_unit="d").dates() is None


def test_nanoseconds_are_kept():
    start = np.datetime64("2020-01-01T00:00:00.000000001")
    record = Record(y=np.zeros(2), dt=2.0, time_unit="ns", start=start)
    assert record.dates()[1] == np.datetime64("2020-01-01T00:00:00.000000003")


def test_part_runs_on_in_time_and_keeps_masks():
    y = np.arange(6.0)
    y[1] = np.nan
    record = Record(
        y=y, u=-y, dt=0.5, time_unit="h", start=np.datetime64("2020-01-01"), t0=3.0, name="a"
    )
    part = record.part(2, 5, skip=1)
    np.testing.assert_array_equal(part.y[:, 0], [2.0, 3.0, 4.0])
    np.testing.assert_array_equal(part.times(), [4.0, 4.5, 5.0])
    assert part.y_mask is None
    assert part.skip == 1
    assert part.name == "a"
    assert part.start == np.datetime64("2020-01-01T01:00")
    np.testing.assert_array_equal(record.part(0, 2).y_mask[:, 0], [True, False])
    assert not part.y.flags.writeable
    with pytest.raises(ValueError, match="cannot cut"):
        record.part(4, 7)


def test_parts_of_uneven_time_keep_the_nominal_interval():
    record = Record(y=np.zeros(6), t=[0.0, 1.0, 2.0, 3.0, 5.0, 7.0])
    even = record.part(4, 6)
    assert even.t is None
    assert even.dt == 2.0
    np.testing.assert_array_equal(even.steps(), [1.0, 2.0])
    np.testing.assert_array_equal(record.part(2, 5).steps(), [1.0, 1.0, 2.0])
    assert record.part(0, 3).steps() is None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_copies_are_immutable_too(clone):
    record = clone(Record(y=[1.0, np.nan, 3.0], u=[1, 2, 3], t=[0.0, 1.0, 3.0], name="x", skip=1))
    np.testing.assert_array_equal(record.y[:, 0], [1.0, np.nan, 3.0])
    assert (record.name, record.skip, record.t.tolist()) == ("x", 1, [0.0, 1.0, 3.0])
    assert not record.y.flags.writeable
    assert not record.t.flags.writeable


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"y": []}, "y is empty"),
        ({"y": 3.0}, r"y has shape \(\)"),
        ({"y": np.zeros((2, 2, 2))}, r"shape \(2, 2, 2\)"),
        ({"y": [1.0, np.inf]}, "y is infinite at sample 1 .counting from 0., channel 0"),
        ({"y": ["a", "b"]}, "y holds text"),
        ({"y": [1 + 2j]}, "y holds complex numbers"),
        ({"y": [[1, 2], [3]]}, "y cannot be read"),
        ({"y": [10**400, 1]}, "y cannot be read"),
        ({"y": np.array(["2020-01-01"], dtype="datetime64")}, "time stamps"),
        ({"y": [1, 2], "u": [1]}, "u has 1 samples and y has 2"),
        ({"y": [1, 2], "u_mask": [True, True]}, "without u"),
        ({"y": [1, 2], "y_mask": [True]}, "y_mask has shape"),
        ({"y": [1, 2], "y_mask": [0, 2]}, "booleans"),
        ({"y": [1, 2], "t": [0, 0]}, "repeats the time stamp 0 at sample 1"),
        ({"y": [1, 2, 3], "t": [0, 2, 1]}, "goes backwards at sample 2: 1 after 2"),
        ({"y": [1, 2, 3], "t": [2, 1, 0]}, "runs backwards .* sort the rows"),
        ({"y": [1, 2], "t": [0, np.nan]}, "t is nan at sample 1"),
        ({"y": [1, 2], "t": [0]}, "expected 2 numbers"),
        ({"y": [1, 2], "t": [0, 1], "dt": 1.0}, "both t and dt"),
        ({"y": [1, 2], "dt": 0.0}, "dt is 0.0; expected a positive"),
        ({"y": [1, 2], "dt": np.nan}, "dt is nan"),
        ({"y": [1, 2], "t0": np.inf}, "t0 is inf"),
        ({"y": [1, 2], "skip": 2}, "skip is 2; expected 0 to 1"),
        ({"y": [1, 2], "skip": -1}, "skip is -1"),
        ({"y": np.zeros((2, 0))}, "neither inputs nor outputs"),
        ({"y": [1, 2], "start": np.datetime64("NaT")}, "start is NaT"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(fields, message):
    with pytest.raises(DataError, match=message) as caught:
        Record(**fields)
    assert "\n" not in str(caught.value)


def test_the_record_is_named_in_messages():
    with pytest.raises(DataError, match="y of record 'tank' is infinite"):
        Record(y=[np.inf], name="tank")


def test_inputs_only_records_have_no_outputs():
    record = Record(y=np.empty((3, 0)), u=[1.0, 2.0, 3.0])
    assert (record.n_y, record.n_u, len(record)) == (0, 1, 3)


def test_repr():
    record = Record(y=np.zeros((8, 2)), u=np.zeros(8), dt=0.5, time_unit="s", name="a", skip=2)
    assert repr(record) == "Record('a', 8 samples, 1 inputs, 2 outputs, dt 0.5 s, skip 2)"
