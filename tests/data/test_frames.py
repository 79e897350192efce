from __future__ import annotations

import datetime
import decimal
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise._errors import DataError
from statewise.data import Experiments

MAKERS = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "polars lazy": pl.LazyFrame,
    "pyarrow": pa.table,
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_every_kind_of_frame(make):
    frame = make({"time": [0.0, 0.5, 1.0], "force": [1, 2, 3], "y": [4.0, None, 6.0]})
    data = Experiments.from_frame(frame, ["force"], ["y"])
    np.testing.assert_array_equal(data[0].u, [[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(data[0].y, [[4.0], [np.nan], [6.0]])
    np.testing.assert_array_equal(data[0].y_mask, [[True], [False], [True]])
    assert (data.dt, data.time_unit) == (0.5, "s")
    assert data.input_names == ("force",)


def test_dates_and_records(make):
    start = datetime.datetime(2020, 2, 28)
    days = [start + datetime.timedelta(days=d) for d in (0, 1, 2, 0, 2)]
    frame = make({"day": days, "id": ["a", "a", "a", "b", "b"], "y": [1.0, 2.0, 3.0, 4.0, 5.0]})
    data = Experiments.from_frame(frame, [], "y", time="day", record="id")
    assert [r.name for r in data] == ["a", "b"]
    assert [r.dt for r in data] == [1.0, 2.0]
    assert data.time_unit == "d"
    assert data[1].start == np.datetime64("2020-02-28")
    np.testing.assert_array_equal(data[1].y[:, 0], [4.0, 5.0])


def test_the_long_convention(make):
    frame = make(
        {
            "unique_id": ["b", "a", "b", "a"],
            "ds": [1, 1, 2, 2],
            "y": [1.0, 2.0, 3.0, 4.0],
            "x1": [5, 6, 7, 8],
            "note": ["p", "q", "r", "s"],
        }
    )
    data = Experiments.from_long(frame)
    assert data.input_names == ("x1",)
    assert [r.name for r in data] == ["b", "a"]
    np.testing.assert_array_equal(data[0].u[:, 0], [5.0, 7.0])
    np.testing.assert_array_equal(data[1].y[:, 0], [2.0, 4.0])
    assert Experiments.from_frame(frame).input_names == ("x1",)
    assert Experiments.from_long(frame, inputs=[]).n_u == 0


def test_column_types(make):
    frame = make(
        {
            "u_flag": [True, False, True],
            "u_small": np.array([1, 2, 3], dtype=np.int8),
            "u_text": ["1.5", "NA", "2"],
            "y": np.array([1, 2, 3], dtype=np.float32),
        }
    )
    data = Experiments.from_frame(frame)
    np.testing.assert_array_equal(data[0].u, [[1, 1, 1.5], [0, 2, np.nan], [1, 3, 2]])


def test_decimals_and_nullable_integers():
    frame = pl.DataFrame({"y": [decimal.Decimal("1.25"), None], "u": [1, None]})
    data = Experiments.from_frame(frame)
    np.testing.assert_array_equal(data[0].y[:, 0], [1.25, np.nan])
    np.testing.assert_array_equal(data[0].u[:, 0], [1.0, np.nan])
    nullable = pd.DataFrame({"y": pd.array([1, None, 3], dtype="Int64")})
    np.testing.assert_array_equal(Experiments.from_frame(nullable)[0].y[:, 0], [1.0, np.nan, 3.0])


def test_a_date_index_of_pandas_is_the_time_axis():
    index = pd.date_range("2020-01-01", periods=4, freq="h")
    frame = pd.DataFrame({"y": [1.0, 2.0, 3.0, 4.0]}, index=index)
    data = Experiments.from_frame(frame)
    assert (data.dt, data.time_unit) == (1.0, "h")
    assert data[0].start == np.datetime64("2020-01-01")
    named = pd.DataFrame({"y": [1.0, 2.0]}, index=pd.Index([0.0, 0.25], name="clock"))
    assert Experiments.from_frame(named, time="clock").dt == 0.25
    assert Experiments.from_frame(frame, time=False).dt is None


def test_time_zones_become_utc():
    frame = pl.DataFrame({"ds": pl.datetime_range(
        datetime.datetime(2020, 3, 28, 12), datetime.datetime(2020, 3, 30, 12), "1h",
        time_zone="Europe/Berlin", eager=True,
    )}).with_columns(y=pl.lit(1.0))  # fmt: skip
    data = Experiments.from_frame(frame)
    assert (data.dt, data.time_unit) == (1.0, "h")
    assert data[0].start == np.datetime64("2020-03-28T11:00")


def test_headers_with_units():
    frame = pl.DataFrame({"flow [l/s]": [1.0, 2.0], "T(1)": [3.0, 4.0], "y (°C)": [5.0, 6.0]})
    data = Experiments.from_frame(frame, ["flow", "T(1)"], "y (°C)")
    assert data.input_names == ("flow", "T(1)")
    assert data.input_units == ("l/s", "")
    assert data.output_units == ("°C",)


def test_a_lazy_frame_that_fails_is_one_sentence():
    lazy = pl.LazyFrame({"y": ["a", "b"]}).with_columns(pl.col("y").cast(pl.Float64))
    with pytest.raises(DataError, match="the frame cannot be collected") as caught:
        Experiments.from_frame(lazy, [], "y")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"y": [1.0, 2.0]}, {"inputs": "uu", "outputs": "y"}, "no column 'uu'; it has y"),
        ({"temp": [1, 2], "y": [1, 2]}, {"inputs": "tepm"}, "did you mean 'temp'"),
        ({"a": [1, 2], "b": [1, 2]}, {}, "pass inputs and outputs from its columns: a, b"),
        ({"a": [1, 2], "y": [1, 2]}, {}, r"pass inputs \(or \[\] for none\)"),
        ({"y": [1.0, float("inf")]}, {}, r"'y' of the frame has inf at row 1 \(counting from 0\)"),
        ({"y": ["1", "two"]}, {}, "has the text 'two' at row 1"),
        ({"y": [1.0]}, {}, "has one row of data; expected at least two"),
        ({"y": []}, {}, "has no rows of data"),
        ({"y": [[1.0], [2.0]]}, {}, "holds values of type List"),
        ({"y": [1, 2], "t": [0, 0]}, {"time": "t"}, "repeats the time stamp 0 at row 1"),
        ({"y": [1, 2], "t": [0, None]}, {"time": "t"}, "is empty at row 1"),
        ({"y": [1, 2], "t": ["a", "b"]}, {"time": "t"}, "has 'a' at row 0"),
        ({"y": [1, 2], "id": ["a", None]}, {"record": "id"}, "'id' of the frame is empty at row 1"),
        ({"y": [1, 2]}, {"inputs": [], "outputs": []}, "neither inputs nor outputs"),
        ({"y": [1, 2]}, {"inputs": "y", "outputs": "y"}, "chosen more than once"),
        ({"y": [1, 2]}, {"outputs": "y", "time": "y"}, "as a signal and as time"),
        ({"y": [1, 2]}, {"outputs": 3}, "no column at position 3"),
    ],
)
def test_refusals(columns, arguments, message):
    with pytest.raises(DataError, match=message) as caught:
        Experiments.from_frame(pl.DataFrame(columns, strict=False), **arguments)
    assert "\n" not in str(caught.value)


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"expected a data frame .* got list"):
        Experiments.from_frame([1, 2], [], "y")
    frame = pl.DataFrame({"y": [1.0, 2.0], "t": [0, 1]})
    with pytest.raises(ValueError, match="time and dt"):
        Experiments.from_frame(frame, time="t", dt=1.0)
    with pytest.raises(ValueError, match="dt is 0"):
        Experiments.from_frame(frame, dt=0.0)
    with pytest.raises(TypeError, match="time is True"):
        Experiments.from_frame(frame, time=True)
    with pytest.raises(TypeError, match="named by a string or a position"):
        Experiments.from_frame(frame, outputs=[1.5])
    with pytest.raises(DataError, match="the frame has the column name 'y' twice"):
        Experiments.from_frame(pd.DataFrame([[1, 2], [3, 4]], columns=["y", "y"]), [], "y")


_VALUES = st.none() | st.floats(-1e9, 1e9)


@given(
    lengths=st.lists(st.integers(2, 8), min_size=1, max_size=4),
    values=st.data(),
    kind=st.sampled_from(["pandas", "polars", "pyarrow"]),
    shuffle=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_frame_and_experiments_round_trip(lengths, values, kind, shuffle):
    """Interleaved records come back in order, and to_frame gives the same rows."""
    total = sum(lengths)
    column = st.lists(_VALUES, min_size=total, max_size=total)
    u, y = values.draw(column), values.draw(column)
    owner = [i for i, n in enumerate(lengths) for _ in range(n)]
    shuffle.shuffle(owner)
    seen = [0] * len(lengths)
    time = []
    for i in owner:
        time.append(seen[i] ** 2 * 1.5)
        seen[i] += 1
    rows = {"id": [f"r{i}" for i in owner], "time": time, "u": u, "y": y}
    if kind == "pandas":
        frame = pd.DataFrame(rows)
    elif kind == "polars":
        frame = pl.DataFrame(rows, schema_overrides={"u": pl.Float64, "y": pl.Float64})
    else:
        frame = pa.table(rows)
        for i, name in enumerate(frame.column_names):
            if pa.types.is_null(frame.schema.types[i]):
                frame = frame.set_column(i, name, frame.column(name).cast(pa.float64()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Experiments.from_frame(frame, "u", "y", time="time", record="id")
    order = list(dict.fromkeys(rows["id"]))
    assert [r.name for r in data] == order
    for record in data:
        mine = [k for k in range(total) if rows["id"][k] == record.name]
        for signal, given_values in ((record.u, u), (record.y, y)):
            expected = [np.nan if given_values[k] is None else given_values[k] for k in mine]
            np.testing.assert_array_equal(signal[:, 0], expected)
        np.testing.assert_allclose(record.times(), [time[k] for k in mine], rtol=1e-14)
    again = Experiments.from_frame(data.to_frame(), "u", "y", record="record")
    for ours, theirs in zip(again, data, strict=True):
        np.testing.assert_array_equal(ours.y, theirs.y)
        np.testing.assert_array_equal(ours.u, theirs.u)
        np.testing.assert_allclose(ours.times(), theirs.times(), rtol=1e-14)


def test_to_frame_shows_dates():
    t = np.datetime64("2020-01-01", "D") + np.arange(3)
    data = Experiments.from_arrays(None, [1.0, np.nan, 3.0], t=t, names=["a"])
    frame = data.to_frame()
    assert frame.columns == ["record", "time", "y"]
    assert frame["time"].to_list()[2] == datetime.datetime(2020, 1, 3)
    assert frame["y"].to_list() == [1.0, None, 3.0]
