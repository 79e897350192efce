from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from statewise._errors import DataError
from statewise.data import Experiments, Record, describe_file


@pytest.fixture
def describe(tmp_path):
    def write_and_describe(content, name="data.csv", **options):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return describe_file(path, **options)

    return write_and_describe


def test_columns_units_time_and_roles(describe):
    found = describe(
        "date,u_flow,y,note\n#,l/s,m,\n2020-01-01,1,2,a\n2020-01-02,,-4,\n2020-01-03,4,5,b\n"
    )
    assert (found.format, found.rows, found.time) == ("text", 3, "date")
    assert (found.dt, found.time_unit, found.start) == (1.0, "d", "2020-01-01")
    assert found.sampling == "even, dt 1 d"
    assert (found.inputs, found.outputs) == (("u_flow",), ("y",))
    date, flow, y, note = found.columns
    assert (date.kind, date.minimum, date.maximum) == ("date", "2020-01-01", "2020-01-03")
    assert (flow.kind, flow.unit, flow.missing) == ("number", "l/s", 1)
    assert (flow.minimum, flow.maximum, flow.mean) == (1.0, 4.0, 2.5)
    assert (y.minimum, y.maximum, y.mean) == (-4.0, 5.0, 1.0)
    assert (note.kind, note.missing, note.mean) == ("text", 1, None)
    assert json.loads(json.dumps(found.to_dict()))["columns"][1]["unit"] == "l/s"


def test_uneven_time_is_summed_up(describe):
    found = describe("t,y\n0,1\n1,2\n2,3\n5,3\n")
    assert found.dt is None
    assert found.sampling == "uneven, steps 1 to 3 s, median 1 s (66.7 % of the steps)"


def test_problems_are_told_and_do_not_stop_it(describe):
    found = describe("time,u,y,z\n0,1,2,1e999\n1,x,3,2\n1,5,4,3\n")
    assert "repeats the time stamp 1 at line 4" in found.notes[0]
    assert found.time is None
    assert found.columns[1].problem == "has the text 'x' at line 3"
    assert found.columns[3].problem == "holds numbers that are infinite or too large"
    assert found.inputs == ("time",)
    assert found.outputs == ("y",)


def test_a_guess_is_called_a_guess(describe):
    found = describe("a;b;c\n1,5;2;3\n2,5;3;4\n")
    assert (found.inputs, found.outputs) == (("a", "b"), ("c",))
    assert "guess" in found.notes[-1]
    assert describe("a;b\nx;y\nz;w\n").notes == (
        "no column of numbers can serve as input or output",
    )


def test_month_first_dates_show_their_range(describe):
    found = describe("date,y\n01/05/2020,1\n01/06/2020,2\n02/04/2020,3\n")
    assert found.start == "2020-01-05"
    assert found.columns[0].maximum == "2020-02-04"


def test_the_long_convention(describe):
    found = describe("unique_id,ds,y,x\na,1,1,5\na,2,2,5\nb,1,1,5\nb,2,1,6\n")
    assert (found.time, found.dt) == ("ds", 1.0)
    assert (found.inputs, found.outputs) == (("x",), ("y",))
    assert "one record for each unique_id" in found.notes[0]


def test_parquet(tmp_path):
    pl.DataFrame({"u": [1, 2, None], "y": [0.5, 1.5, 2.5], "l": [[1], [2], [3]]}).write_parquet(
        tmp_path / "x.parquet"
    )
    found = describe_file(tmp_path / "x.parquet")
    assert (found.format, found.rows, found.inputs, found.outputs) == ("parquet", 3, ("u",), ("y",))
    assert found.columns[0].missing == 1
    assert found.columns[2].kind == "other"


def test_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", u=np.ones((5, 2)), y=np.arange(5.0), dt=0.5, label="text")
    found = describe_file(tmp_path / "x.npz")
    assert (found.format, found.rows, found.dt) == ("npz", 5, 0.5)
    assert [c.name for c in found.columns] == ["u1", "u2", "y"]
    assert found.columns[2].mean == 2.0
    assert (found.inputs, found.outputs) == (("u1", "u2"), ("y",))
    assert found.notes == ("no signals: dt, label",)
    assert Experiments.from_file(tmp_path / "x.npz", found.inputs, found.outputs).n_u == 2


def test_archives(tmp_path):
    data = Experiments(Record(y=[1.0, np.nan, 3.0], u=[1, 2, 3], dt=2.0), output_units=["m"])
    data.to_npz(tmp_path / "x.npz")
    found = describe_file(tmp_path / "x.npz")
    assert (found.format, found.rows, found.sampling) == ("statewise", 3, "even, dt 2 s")
    assert found.columns[1].unit == "m"
    assert found.columns[1].missing == 1


def test_files_that_cannot_be_read(describe, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        describe_file(tmp_path / "none.csv")
    with pytest.raises(DataError, match="has 1 cell at line 3"):
        describe("a,b\n1,2\n3\n")
