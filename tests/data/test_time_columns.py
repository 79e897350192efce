from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from statewise._errors import DataError
from statewise.data import Experiments


def series(stamps, *, name="date", separator=";", **options):
    """Experiments from a text file with the given time stamps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        rows = [f"{name}{separator}y", *(f"{s}{separator}{i}" for i, s in enumerate(stamps))]
        path.write_text("\n".join(rows), encoding="utf-8")
        return Experiments.from_file(path, **options)


JANUARY = ["2020-01-30", "2020-01-31", "2020-02-01"]


@pytest.mark.parametrize(
    "stamps",
    [
        JANUARY,
        ["2020/01/30", "2020/01/31", "2020/02/01"],
        ["30.01.2020", "31.01.2020", "01.02.2020"],
        ["30.1.2020", "31.1.2020", "1.2.2020"],
        ["30/01/2020", "31/01/2020", "01/02/2020"],
        ["01/30/2020", "01/31/2020", "02/01/2020"],
        ["30-01-2020", "31-01-2020", "01-02-2020"],
        ["30-Jan-2020", "31-Jan-2020", "01-Feb-2020"],
        ["30 January 2020", "31 January 2020", "1 February 2020"],
        ["2020-01-30T00:00", "2020-01-31T00:00", "2020-02-01T00:00"],
        ["2020-01-30 00:00:00.000", "2020-01-31 00:00:00.000", "2020-02-01 00:00:00.000"],
        ["2020-01-30T00:00:00Z", "2020-01-31T00:00:00Z", "2020-02-01T00:00:00Z"],
        ["2020-01-30 02:00+02:00", "2020-01-31 02:00+02:00", "2020-02-01 02:00+02:00"],
        ["01/30/2020 12:00 AM", "01/31/2020 12:00 am", "02/01/2020 12:00 AM"],
        ["2020-01-29 24:00", "2020-01-30 24:00", "2020-01-31 24:00"],
        ["20200130", "20200131", "20200201"],
    ],
)
def test_forms_of_dates(stamps):
    data = series(stamps)
    assert data[0].start == np.datetime64("2020-01-30")
    assert (data.dt, data.time_unit) == (1.0, "d")
    assert data[0].dates()[2] == np.datetime64("2020-02-01")


@pytest.mark.parametrize(
    ("step", "count", "unit"),
    [(0.25, 1, "s"), (59, 59, "s"), (60, 1, "min"), (900, 15, "min"), (3600, 1, "h"),
     (43200, 12, "h"), (86400, 1, "d"), (604800, 7, "d")],
)  # fmt: skip
def test_the_median_step_chooses_the_unit(step, count, unit):
    start = np.datetime64("2019-12-31T23:00:00.000", "ms")
    stamps = [str(start + np.timedelta64(int(1000 * step * k), "ms")) for k in range(4)]
    data = series(stamps, name="timestamp")
    assert data.time_unit == unit
    assert data.dt == (0.25 if step == 0.25 else count)


def test_the_unit_can_be_asked_for():
    assert series(JANUARY, time_unit="hours").dt == 24.0
    with pytest.raises(DataError, match="time_unit is 'fortnight'; calendar time can be counted"):
        series(JANUARY, time_unit="fortnight")


def test_missing_rows_of_a_calendar_are_uneven_time():
    data = series(["2020-01-01", "2020-01-02", "2020-01-05", "2020-01-06"])
    assert data.dt is None
    assert data.time_unit == "d"
    np.testing.assert_array_equal(data[0].t, [0.0, 1.0, 4.0, 5.0])
    np.testing.assert_array_equal(data[0].steps(), [1.0, 1.0, 3.0, 1.0])


def test_months_of_unequal_length_are_uneven_time():
    data = series(["2020-01", "2020-02", "2020-03", "2020-04"])
    np.testing.assert_array_equal(data[0].t, [0.0, 31.0, 60.0, 91.0])


def test_day_and_month_are_told_apart_by_the_order_of_rows():
    """Only one reading of these is sorted, though no number exceeds twelve."""
    monthly = [f"01/{m:02d}/2020" for m in (1, 2, 3)] + ["02/01/2021"]
    with pytest.raises(DataError, match=r"order of rows does not tell .* pass day_first=True"):
        series(monthly)
    first = ["05/01/2020", "06/01/2020", "04/02/2020", "05/02/2020"]
    assert series(first)[0].dates()[2] == np.datetime64("2020-02-04")
    second = ["01/05/2020", "01/06/2020", "02/04/2020", "02/05/2020"]
    assert series(second)[0].dates()[2] == np.datetime64("2020-02-04")
    assert series(monthly[:3], day_first=True)[0].dates()[1] == np.datetime64("2020-02-01")
    assert series(monthly[:3], day_first=False)[0].dates()[1] == np.datetime64("2020-01-02")


def test_numbers():
    data = series([0, 0.1, 0.2, 0.3], name="t")
    assert (data.dt, data.time_unit) == (0.1, "s")
    assert series([2, 4, 6], name="t_min").time_unit == "min"
    assert series([2, 4, 6], name="Time [ms]").time_unit == "ms"
    assert series([2, 4, 6], name="zeit", time_unit="h").time_unit == "h"
    np.testing.assert_array_equal(series([2, 4, 6], name="time")[0].times(), [2.0, 4.0, 6.0])
    assert series([0, 1, 5], name="lap", time="lap")[0].t.tolist() == [0.0, 1.0, 5.0]
    assert series(["0,5", "1,0", "1,5"], name="t").dt == 0.5


def test_times_of_day_are_durations():
    data = series(["00:00:58.5", "00:00:59.5", "00:01:00.5"], name="time")
    assert (data.dt, data.time_unit) == (1.0, "s")
    assert data[0].times()[0] == 58.5
    assert series(["1:00", "1:30", "2:00"], name="time", time_unit="min").dt == 30.0


def test_date_and_clock_in_two_columns(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("Date;Time;y\n1.2.2020;23:30;1\n2.2.2020;00:00;2\n2.2.2020;00:30;3\n")
    data = Experiments.from_file(path)
    assert (data.dt, data.time_unit) == (30.0, "min")
    assert data[0].start == np.datetime64("2020-02-01T23:30")


def test_a_column_t_that_does_not_run_is_a_signal_like_any_other():
    data = series([5, 3, 4, 1], name="t", inputs="t")
    assert data.input_names == ("t",)
    assert data.dt is None
    assert series([5, 3, 4, 1], name="t", inputs=[]).dt is None
    assert series(["am", "pm", "am"], name="time", inputs=[]).dt is None


def test_time_can_be_switched_off():
    assert series([3, 2, 1], name="time", time=False, inputs=[]).dt is None
    assert series([1, 2, 3], name="time", dt=0.5, inputs=[]).dt == 0.5


@pytest.mark.parametrize(
    ("stamps", "name", "message"),
    [
        ([*JANUARY, "2020-02-01"], "date", "repeats the time stamp 2020-02-01 at line 5 .*line 4"),
        (["2020-01-01", "2020-01-03", "2020-01-02", "2020-01-04"], "date",
         "goes backwards at line 4: 2020-01-02 after 2020-01-03"),
        (JANUARY[::-1], "date", r"runs backwards from line 2 .2020-02-01. .* sort the rows"),
        ([*JANUARY, "32.13.2020"], "date", "has '32.13.2020' at line 5; expected a date such as"),
        ([*JANUARY, "2020-02-30"], "date", "has '2020-02-30' at line 5"),
        ([*JANUARY, "2020-02-02 25:00"], "date", "has '2020-02-02 25:00' at line 5"),
        ([*JANUARY, ""], "date", "is empty at line 5; expected a time stamp"),
        ([0, 1, 2, 2, 3], "time", "repeats the time stamp 2 at line 5"),
        ([0, 1, 2, 1.5, 3], "time", "goes backwards at line 5: 1.5 after 2"),
        ([3, 2, 1], "time", "runs backwards"),
        ([0, 1, "x", 3], "time", "has 'x' at line 4; expected a number or a date"),
        ([0, 1, "inf"], "time", "is infinite at line 4"),
        ([0, "", 2], "time", "is empty at line 3"),
        ([*range(20), 19.5, 21], "t", "goes backwards|repeats"),
        (["13/01/2020", "01/13/2020"], "date", "at line 3"),
    ],
)  # fmt: skip
def test_refusals(stamps, name, message):
    stamps = [*range(20), 18.5, 21] if name == "t" else stamps
    with pytest.raises(DataError, match=message) as caught:
        series(stamps, name=name)
    assert "time=False" in str(caught.value)
    assert "\n" not in str(caught.value)
