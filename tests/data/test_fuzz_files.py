"""Damaged and odd files end in the right values or in one sentence, never in a foreign error."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import polars as pl
import pytest
import scipy.io
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from statewise._errors import DataError
from statewise.data import Experiments, describe_file

FUZZ = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def outcome(path, *arguments, **options):
    """The experiments, or the sentence of the DataError; anything else is a failure."""
    try:
        data = Experiments.from_file(path, *arguments, **options)
    except DataError as error:
        sentence = str(error)
        assert sentence.strip()
        assert "\n" not in sentence
        return sentence
    for record in data:
        for signal, mask in ((record.u, record.u_mask), (record.y, record.y_mask)):
            if signal is not None:
                observed = np.ones(signal.shape, dtype=bool) if mask is None else mask
                assert np.isfinite(signal[observed]).all()
                assert np.isnan(signal[~observed]).all()
        assert np.isfinite(record.times()).all()
        assert (np.diff(record.times()) > 0).all()
    return data


def both(path, *arguments, **options):
    """Loading and describing the file."""
    try:
        description = describe_file(path)
    except DataError as error:
        description = None
        sentence = str(error)
    if description is None:
        assert "\n" not in sentence
    else:
        assert description.rows >= 0
        assert description.to_dict()["path"] == str(path)
    return outcome(path, *arguments, **options)


@given(
    content=st.binary(max_size=300),
    suffix=st.sampled_from(["csv", "tsv", "txt", "dat", "csv.gz", "parquet", "npz", "mat", "bin"]),
    head=st.sampled_from(
        [
            b"",
            b"PAR1",
            b"PK\x03\x04",
            b"\x1f\x8b\x08",
            b"MATLAB 5.0 MAT-file",
            b"\xff\xfe",
            b"u,y\n",
        ]
    ),
)
@FUZZ
def test_binary_junk(tmp_path, content, suffix, head):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(head + content)
    both(path)


_PIECES = st.sampled_from(
    ["u", "y", "t", "date", "1", "-2.5", "3,5", "1e400", "inf", "nan", "NA", "", " ", "\t", ",",
     ";", "|", "\n", "\n", "\n", "\r\n", '"', "#", "%", "2020-01-01", "01/02/2020", "31.12.2020",
     "12:30", "unique_id", "ds", "é", "°C", "[m]", "(", "-", "?", "0x1F", "1_000", "１", "true",
     "\u2028", "\x0c", "20200101", "99999-99-99", "2020-13-45 99:99", "+", ".", "e5"]
)  # fmt: skip


@given(pieces=st.lists(_PIECES, max_size=60), as_text=st.text(max_size=40))
@FUZZ
def test_pieces_of_tables_in_any_order(tmp_path, pieces, as_text):
    path = tmp_path / "x.csv"
    path.write_text("".join(pieces) + as_text, encoding="utf-8", errors="replace", newline="")
    both(path)
    outcome(path, 0, 1)
    outcome(path, [], 0, time=1)
    outcome(path, [], 0, record=1)


@given(
    rows=st.lists(st.lists(_PIECES, min_size=2, max_size=4), min_size=1, max_size=8),
    separator=st.sampled_from(",;\t| "),
    header=st.sampled_from(["t,u,y", "date,u,y", "u,y", "unique_id,ds,y", "time,y", "a,b,c,d"]),
)
@FUZZ
def test_rows_of_mixed_types(tmp_path, rows, separator, header):
    path = tmp_path / "x.dat"
    lines = [header.replace(",", separator), *(separator.join(row) for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    both(path)
    outcome(path, dt=1.0)


_CELL = st.none() | st.integers(-(10**6), 10**6) | st.floats(-1e300, 1e300) | st.floats(-9, 9)


@st.composite
def written_tables(draw):
    """A table of numbers, and the text of it in one of many ways."""
    width, height = draw(st.integers(2, 4)), draw(st.integers(3, 12))
    table = [[draw(_CELL) for _ in range(width)] for _ in range(height)]
    # The first rows show what the columns hold; a first row of missing values shows nothing.
    table[0] = [1.5] * width
    table[1] = [0.25 + k for k in range(width)]
    separator = draw(st.sampled_from([",", ";", "\t", "|", " ", "  "]))
    comma = separator != "," and draw(st.booleans())
    empty = draw(st.sampled_from(["NaN", "NA", "?", "-", "null"]))
    if separator.strip() or separator == "\t":
        empty = draw(st.sampled_from(["", empty]))
    quote = '"' if draw(st.booleans()) else ""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    names = ["y", *(f"u{k}" for k in range(1, width))]
    lines = [separator.join(names)]
    for row in table:
        cells = [empty if cell is None else repr(cell) for cell in row]
        cells = [cell.replace(".", ",") if comma else cell for cell in cells]
        lines.append(separator.join(f"{quote}{cell}{quote}" for cell in cells))
        if draw(st.integers(0, 5)) == 0:
            lines.append(draw(st.sampled_from(["# remark", "% remark", ""])))
    text = (
        draw(st.sampled_from(["", "\ufeff"])) + end.join(lines) + draw(st.sampled_from(["", end]))
    )
    expected = np.array([[math.nan if cell is None else cell for cell in row] for row in table])
    while np.isnan(expected[-1]).all() and empty == "":
        expected = expected[:-1]
    return text, expected


@given(table=written_tables())
@FUZZ
def test_written_tables_come_back_exactly(tmp_path, table):
    text, expected = table
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode("utf-8"))
    data = both(path)
    assert isinstance(data, Experiments), data
    np.testing.assert_array_equal(data[0].y[:, 0], expected[:, 0])
    np.testing.assert_array_equal(data[0].u, expected[:, 1:])


@given(
    height=st.integers(3, 40),
    data=st.data(),
    separator=st.sampled_from([",", ";", "\t"]),
    junk=st.sampled_from(["abc", "1.2.3", "12 V", "--1", "1e", "0x10", "1_000", "#REF!", "’"]),
)
@FUZZ
def test_one_bad_cell_is_named(tmp_path, height, data, separator, junk):
    row, column = data.draw(st.integers(1, height - 1)), data.draw(st.integers(0, 1))
    cells = [["1.5", "2.5"] for _ in range(height)]
    cells[row][column] = junk
    assume(not (column == 0 and junk.startswith("#")))
    path = tmp_path / "x.csv"
    lines = [f"u{separator}y", *(separator.join(r) for r in cells)]
    path.write_text("\n".join(lines), encoding="utf-8")
    sentence = outcome(path)
    assert isinstance(sentence, str)
    assert f"column {'uy'[column]!r}" in sentence
    assert repr(junk) in sentence
    assert f"line {row + 2};" in sentence


@given(height=st.integers(3, 30), data=st.data(), change=st.sampled_from([-1, 1]))
@FUZZ
def test_a_ragged_row_is_named(tmp_path, height, data, change):
    row = data.draw(st.integers(1, height - 1))
    cells = [["1.5", "2.5", "0"] for _ in range(height)]
    cells[row] = cells[row][:2] if change < 0 else [*cells[row], "7"]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["u1,u2,y", *(",".join(r) for r in cells)]))
    sentence = outcome(path)
    assert f"has {3 + change} cells at line {row + 2}; expected 3" in sentence


@given(
    height=st.integers(4, 30),
    data=st.data(),
    fault=st.sampled_from(["none", "gap", "repeat", "backwards", "reversed", "empty", "broken"]),
    calendar=st.booleans(),
)
@FUZZ
def test_faults_of_the_time_axis(tmp_path, height, data, fault, calendar):
    row = data.draw(st.integers(2, height - 1))
    days = np.arange(height)
    if fault == "gap":
        days[row:] += 3
    elif fault == "repeat":
        days[row] = days[row - 1]
    elif fault == "backwards":
        days[row] = days[row - 2]
    elif fault == "reversed":
        days = days[::-1]
    stamps = [str(np.datetime64("2021-12-20") + d) if calendar else f"{d}.5" for d in days]
    if fault in ("empty", "broken"):
        stamps[row] = "" if fault == "empty" else "2021-02-30" if calendar else "noon"
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["time,y", *(f"{s},{k}" for k, s in enumerate(stamps))]))
    result = outcome(path)
    if fault == "none":
        assert result.dt == 1.0
    elif fault == "gap":
        np.testing.assert_array_equal(result[0].t - result[0].t[0], days)
        assert result[0].steps()[row] == 4.0
    elif fault == "reversed":
        assert f"runs backwards from line 2 ({stamps[0]})" in result
    else:
        assert re.search(rf"at line {row + 2}\b", result)
        words = {"repeat": "repeats", "empty": "is empty", "broken": repr(stamps[row])}
        assert words.get(fault, "goes backwards") in result


def _binary_files() -> dict[str, bytes]:
    u, y = np.arange(40.0), np.sin(np.arange(40.0))
    files = {}
    buffer = io.BytesIO()
    pl.DataFrame({"u": u, "y": y, "s": ["a", "b"] * 20}).write_parquet(buffer)
    files["parquet"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, u=u, y=y, dt=0.5)
    files["npz"] = buffer.getvalue()
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"u": u, "y": y, "s": {"a": 1.0, "b": "text"}}, do_compression=True)
    files["mat"] = buffer.getvalue()
    return files


_BINARY = _binary_files()


@pytest.mark.parametrize("suffix", sorted(_BINARY))
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4),
    cut=st.none() | st.integers(0, 10**6),
)
@FUZZ
def test_damaged_binary_files(tmp_path, suffix, flips, cut):
    content = bytearray(_BINARY[suffix])
    for position, change in flips:
        content[position % len(content)] ^= change
    if cut is not None:
        content = content[: cut % len(content)]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(bytes(content))
    result = both(path)
    if not flips and cut is None:
        np.testing.assert_array_equal(result[0].y[:, 0], np.sin(np.arange(40.0)))


@given(arrays=st.dictionaries(
    st.sampled_from(["u", "y", "t", "dt", "Ts", "fs", "y1", "x", "time", "input"]),
    st.sampled_from([
        np.arange(5.0), np.arange(5), np.zeros((5, 2)), np.zeros((2, 5, 1)), np.zeros((1, 5)),
        np.float64(0.5), np.zeros(0), np.zeros((0, 3)), np.zeros((5, 0)), np.array(["a"] * 5),
        np.array([np.nan] * 5), np.array([np.inf] * 5), np.arange(5) * 1j, np.zeros((2, 2, 2, 2)),
        np.array("2020", dtype="M8[Y]") + np.arange(5), np.array([True] * 5), np.float64(-1),
        np.array([(1, 2.0)] * 5, dtype=[("a", int), ("b", float)]), np.arange(5)[::-1],
        np.array([3, 4], dtype=np.float16), np.array(["NaT"] * 5, dtype="M8[s]"),
    ]), max_size=5))  # fmt: skip
@FUZZ
def test_any_arrays_in_an_npz_file(tmp_path, arrays):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    both(path)
    outcome(path, [], "y")
    outcome(path, "u", "y", time="t")
