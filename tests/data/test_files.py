from __future__ import annotations

import gzip
import io
import time

import numpy as np
import polars as pl
import pytest

from statewise._errors import DataError
from statewise.data import Experiments


@pytest.fixture
def load(tmp_path):
    """Write text or bytes to a file and load it."""

    def write_and_load(content, *arguments, name="data.csv", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return Experiments.from_file(path, *arguments, **options)

    return write_and_load


def values(data: Experiments) -> tuple[list, list]:
    record = data[0]
    return ([] if record.u is None else record.u.tolist()), record.y.tolist()


PLAIN = ([[1.5], [-2.0], [30.0]], [[4.0], [5.25], [6.0]])
ROWS = [("1.5", "4"), ("-2", "5.25"), ("3e1", "6.")]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", "   "])
@pytest.mark.parametrize("header", [True, False])
def test_separators_with_and_without_header(load, separator, header):
    lines = ([("u", "y")] if header else []) + ROWS
    text = "\n".join(separator.join(line) for line in lines)
    chosen = () if header else ([0], [1])
    assert values(load(text, *chosen, name="x.txt")) == PLAIN


@pytest.mark.parametrize("separator", [";", "\t", " ", "|"])
def test_decimal_comma(load, separator):
    lines = [("u", "y"), *((a.replace(".", ","), b.replace(".", ",")) for a, b in ROWS)]
    assert values(load("\n".join(separator.join(line) for line in lines))) == PLAIN


def test_one_column_of_decimal_commas_beside_points(load):
    data = load("u;y\n1,5;4.5\n-2,25;5\n")
    assert values(data) == ([[1.5], [-2.25]], [[4.5], [5.0]])


def test_a_comma_that_may_group_thousands_is_asked_about(load):
    text = "u;y\n1,500;2\n12,250;3\n"
    with pytest.raises(DataError, match=r"'1,500' at line 2, which may be .* decimal=\",\""):
        load(text)
    assert values(load(text, decimal=","))[0] == [[1.5], [12.25]]
    assert values(load("u;y\n1,500;0,5\n12,250;3\n"))[0] == [[1.5], [12.25]]
    with pytest.raises(DataError, match="'1,500' at line 2; expected a number"):
        load(text, decimal=".")


@pytest.mark.parametrize(
    "content",
    [
        "u,y\r\n1.5,4\r\n-2,5.25\r\n30,6\r\n",
        "u,y\r1.5,4\r-2,5.25\r30,6",
        "\ufeffu,y\n1.5,4\n-2,5.25\n30,6\n",
        "u,y\n1.5,4\n-2,5.25\n30,6\n".encode("utf-16"),
        "# made by a logger\n% second remark\n\nu,y\n1.5,4\n# in between\n-2,5.25\n\n30,6\n\n\n",
        "# u y\n1.5 4\n-2 5.25\n30 6\n",
        '"u","y"\n"1.5","4"\n"-2","5.25"\n"30","6"\n',
        " u , y \n 1.5 , 4 \n -2 , 5.25 \n 30 , 6 \n",
        "u,y,\n1.5,4,\n-2,5.25,\n30,6,\n",
        "u,y\n1.5,4,\n-2,5.25,\n30,6,\n",
        "u,y\n1.5,4\n-2,5.25\n30,6\n,\n,\n",
        "u,y\n1.5,4\n-2,5.25\n30,6\n\x1a",
        'u,y,note\n1.5,4,"two\nlines"\n-2,5.25,"a,b"\n30,6,5"\n',
        gzip.compress(b"u,y\n1.5,4\n-2,5.25\n30,6\n", mtime=0),
        "input;output\n1.5;4\n-2;5.25\n30;6\n",
        "U,Y\n1.5,4\n-2,5.25\n30,6\n",
    ],
)
def test_ways_to_write_the_same_table(load, content):
    assert values(load(content)) == PLAIN


def test_latin_1_names_and_units(load):
    data = load("größe [°C];y\n1;2\n3;4\n".encode("latin-1"), "größe", "y")
    assert data.input_names == ("größe",)
    assert data.input_units == ("°C",)
    assert load("größe [°C];y\n1;2\n3;4\n", "größe [°C]", "y").input_names == ("größe",)


def test_a_units_row_under_the_header(load):
    text = "date,tmax,Prec,Q\n#,°C,mm/day,m³/s\n01.01.1979,-12.9,1,143\n02.01.1979,-10.9,.6,110\n"
    data = load(text, ["Prec", "tmax"], "Q")
    assert data.input_units == ("mm/day", "°C")
    assert data.output_units == ("m³/s",)
    assert (data.dt, data.time_unit) == (1.0, "d")
    assert data[0].start == np.datetime64("1979-01-01")
    assert values(data) == ([[1.0, -12.9], [0.6, -10.9]], [[143.0], [110.0]])
    plain = load("time,u,y\nms,V,[mm]\n0,1,2\n5,3,4\n")
    assert (plain.dt, plain.time_unit, plain.output_units) == (5.0, "ms", ("mm",))
    assert load("u [V],y (1/s)\n1,2\n3,4\n").output_units == ("1/s",)


@pytest.mark.parametrize("cell", ["", "NaN", "nan", "NA", "n/a", "null", "None", "-", "?", " "])
def test_missing_values(load, cell):
    data = load(f"u,y\n1,2\n{cell},3\n4,{cell}\n")
    np.testing.assert_array_equal(data[0].u_mask[:, 0], [True, False, True])
    np.testing.assert_array_equal(data[0].y_mask[:, 0], [True, True, False])
    np.testing.assert_array_equal(data[0].u[:, 0], [1.0, np.nan, 4.0])


def test_an_empty_line_in_a_single_column_is_a_missing_value(load):
    assert load("y\n1\n\n3\n\n\n")[0].y[:, 0].tolist()[::2] == [1.0, 3.0]
    assert np.isnan(load("y\n1\n\n3\n")[0].y[1, 0])


def test_a_line_of_separators_is_a_row_of_missing_values(load):
    for separator in ",;\t":
        data = load(f"u{separator}y\n1{separator}2\n{separator}\n\n3{separator}4\n")
        np.testing.assert_array_equal(data[0].u[:, 0], [1.0, np.nan, 3.0])


def test_booleans_are_zero_and_one(load):
    assert values(load("u,y\ntrue,1\nFALSE,2\n"))[0] == [[1.0], [0.0]]


def test_roles_by_name(load):
    data = load("u_b,u1,y_temp,other,y2\n1,2,3,x,5\n6,7,8,y,10\n")
    assert data.input_names == ("u_b", "u1")
    assert data.output_names == ("y_temp", "y2")
    assert load("y\n1\n2\n").n_u == 0
    assert load("a,y\n1,2\n3,4\n", []).n_u == 0
    assert load("a,b\n1,2\n3,4\n", 0, -1).output_names == ("b",)
    with pytest.raises(DataError, match="pass inputs and outputs from its columns: uEst, yEst"):
        load("uEst,yEst\n1,2\n3,4\n")


def test_a_record_column_and_the_long_convention(load):
    data = load("run,u,y\n1,1,2\n1,3,4\n2,5,6\n2,7,8\n", record="run")
    assert [r.name for r in data] == ["1", "2"]
    assert values(data[1:]) == ([[5.0], [7.0]], [[6.0], [8.0]])
    long = load("unique_id,ds,y,x\na,2020-01-01,1,5\na,2020-01-02,2,6\nb,2020-01-01,3,7\n")
    assert long.input_names == ("x",)
    assert [len(r) for r in long] == [2, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n  \n", "holds no rows of data"),
        ("# only\n% remarks\n", "holds no rows of data"),
        ("u,y\n", "has a header and no rows of data"),
        ("u,y\n1,2\n", "has one row of data; expected at least two"),
        ("u,y\n,\n,\n", "holds no rows of data"),
        (b"\x00\x01\x02\xff" * 9, "holds binary data; expected text"),
        (b"u,y\n1,\x07\n", "holds binary data"),
        (b"\x1f\x8b\x08 no gzip", "cannot be unpacked"),
        (gzip.compress(b"u,y\n1,2\n" * 99, mtime=0)[:-20], "damaged or cut short"),
        ("u,y\n1,2\nabc,4\n5,6\n", "column 'u' of .* has the text 'abc' at line 3; expected a num"),
        ("# x\nu,y\n\n1,2\n3,4x\n5,6\n", "column 'y' .* '4x' at line 5"),
        ("u,y\n1,2\n3,4\n5,6,7\n", "has 3 cells at line 4; expected 2 as in the header .line 1."),
        ("u;y\n1;2\n3\n5;6\n", "has 1 cell at line 3; expected 2 .* separated by ';'"),
        ("1,2\n3\n", "has 1 cell at line 2; expected 2 as in the first row"),
        ('u,y\n1,2\n"3,4\n5,6\n', "cell at line 3"),
        ("u,u,y\n1,2,3\n4,5,6\n", "column name 'u' twice .columns 1 and 2 of line 1."),
        ("u,y\n1,1e999\n2,3\n", "column 'y' .* has 1e999 at line 2, which is infinite or too larg"),
        ("u,y\n1,2\n-inf,3\n", "column 'u' .* has -inf at line 3"),
        ("u;y\n1.234,5;1\n2.000,1;3\n", "'1.234,5' at line 2; expected a number"),
        ("u;y\n1,234,567;1\n2,000,111;3\n", "a thousands separator is not understood"),
    ],
)
def test_refusals_name_file_column_and_line(load, content, message):
    with pytest.raises(DataError, match=message) as caught:
        load(content, name="the data.csv")
    assert "the data.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_no_tables(tmp_path, load):
    with pytest.raises(DataError, match=r"no\.csv does not exist"):
        Experiments.from_file(tmp_path / "no.csv")
    with pytest.raises(DataError, match="is a folder"):
        Experiments.from_file(tmp_path)
    with pytest.raises(DataError, match="cannot be opened"):
        Experiments.from_file("a\0b")
    with pytest.raises(TypeError, match="path is int"):
        Experiments.from_file(3)
    with pytest.raises(DataError, match=r"spreadsheet .* save the table as CSV"):
        load(b"PK\x03\x04rest", name="x.xlsx")
    with pytest.raises(DataError, match="single NumPy array"):
        load(b"\x93NUMPY\x01\x00", name="x.npy")


def test_wrong_text_options(load):
    with pytest.raises(ValueError, match="decimal is 'x'"):
        load("u,y\n1,2\n3,4\n", decimal="x")
    with pytest.raises(ValueError, match="separator is ''"):
        load("u,y\n1,2\n3,4\n", separator="")
    assert load("u:y\n1:2\n3:4\n", separator=":").n_u == 1


def test_a_large_file_loads_in_about_a_second(load):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((188_000, 2)).round(6)
    text = io.StringIO()
    pl.DataFrame(table, schema=["u", "y"]).write_csv(text)
    packed = gzip.compress(text.getvalue().encode(), compresslevel=1)
    start = time.perf_counter()
    data = load(packed, name="big.csv.gz")
    seconds = time.perf_counter() - start
    np.testing.assert_array_equal(data[0].u[:, 0], table[:, 0])
    np.testing.assert_array_equal(data[0].y[:, 0], table[:, 1])
    # Alone it takes 0.3 s; the bound leaves room for other work on the machine.
    assert seconds < 3.0


def test_the_last_bad_cell_of_a_large_file_is_found(load):
    text = "u,y\n" + "1.5,2.5\n" * 50_000
    with pytest.raises(DataError, match=r"column 'y' .* 'oops' at line 50002"):
        load(text + "1,oops\n")
    with pytest.raises(DataError, match="1 cell at line 50002"):
        load(text + "1\n")


def test_parquet(tmp_path):
    frame = pl.DataFrame(
        {
            "ds": pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 1, 4), eager=True),
            "u": [1, None, 3, 4],
            "y": [1.0, 2.0, 3.0, float("nan")],
        }
    )
    frame.write_parquet(tmp_path / "x.parquet")
    data = Experiments.from_file(tmp_path / "x.parquet")
    assert (data.dt, data.time_unit, data[0].start) == (1.0, "d", np.datetime64("2020-01-01"))
    np.testing.assert_array_equal(data[0].u[:, 0], [1.0, np.nan, 3.0, 4.0])
    np.testing.assert_array_equal(data[0].y_mask[:, 0], [True, True, True, False])
    with pytest.raises(DataError, match=r"x\.parquet has no column 'z'"):
        Experiments.from_file(tmp_path / "x.parquet", "z", "y")


def test_damaged_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"u": [1.0, 2.0], "y": [1.0, 2.0]}).write_parquet(path)
    whole = path.read_bytes()
    for damaged in (whole[:40], whole[:-1], b"PAR1" + whole[-8:], b"no parquet at all"):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"x\.parquet (is no Parquet|cannot be read as Parquet)"
        ):
            Experiments.from_file(path)
