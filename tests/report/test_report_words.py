"""Numbers in words, stretches of records, reduced lines, the headline."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_builders import minimal, report, rows, trace

from statewise.report import Part, Trace
from statewise.report.figures.series import envelope
from statewise.report.headline import headline
from statewise.report.stretches import stretches
from statewise.report.words import (
    column,
    duration,
    exact,
    number,
    percent_explained,
    shorten,
    stamp,
    tick,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.0, "1.000"),
        (-3.14159, "−3.142"),
        (9.9999, "10.00"),
        (12345.6, "12\u202f346"),
        (-1234567.0, "−1\u202f234\u202f567"),
        (1e7, "1·10⁷"),
        (1.2344e-7, "1.234·10⁻⁷"),
        (0.00012345, "0.0001234"),
        (float("nan"), "–"),
        (None, "–"),
        (float("-inf"), "−∞"),
        (True, "yes"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_number_keeps_four_digits(value: float) -> None:
    text = number(value).replace("\u202f", "").replace("−", "-")
    mantissa, _, power = text.partition("·10")
    digits = power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    read = float(mantissa) * 10.0 ** int(digits or 0)
    assert read == pytest.approx(value, rel=5.1e-4, abs=1e-300)


@pytest.mark.parametrize(
    ("nse", "text"),
    [
        (0.805, "80 %"),
        (0.9314, "93 %"),
        (0.9731, "97.3 %"),
        (0.99951, "99.951 %"),
        (0.9999998, "99.999980 %"),
        (1 - 1e-12, "more than 99.9999 %"),
        (1.0, "100 %"),
        (-0.2, "−20 %"),
    ],
)
def test_percent_never_rounds_up_to_perfect(nse: float, text: str) -> None:
    assert percent_explained(nse) == text


def test_columns_line_up() -> None:
    assert column([19.9, 121.75, None, float("nan")], "rmse") == ["19.90", "121.75", "–", "–"]
    assert column([43.2299, -13.82, 5.0], "fit") == ["43.23", "−13.82", "5.00"]
    assert column([0.99995, 0.5], "nse") == ["0.999950", "0.500000"]
    assert column([1e-9, 5.0], "rmse") == ["1·10⁻⁹", "5.000"]


def test_durations_and_stamps() -> None:
    assert duration(1096, 1.0, "d") == "1096 days"
    assert duration(40_000, 1 / 610.35, "s") == "40\u202f000 samples (65.5 seconds)"
    assert duration(512, None, "") == "512 samples"
    assert stamp(np.datetime64("2001-03-01T00:00:00.000000")) == "2001-03-01"
    assert stamp(np.datetime64("2001-03-01T12:30:00.000000")) == "2001-03-01 12:30"
    assert stamp(1.536, "s") == "1.536 s"
    assert exact(0.004) == "0.004"
    assert shorten("abcdefgh", 5) == "abcd…"
    assert [tick(v) for v in (0, 0.001, -250, 1e5, 2e-7)] == [
        "0",
        "0.001",
        "−250",
        "10⁵",
        "2·10⁻⁷",
    ]


def _trace(error: np.ndarray, skip: int = 0, measured: np.ndarray | None = None) -> Trace:
    zero = np.zeros(len(error)) if measured is None else measured
    time = np.arange(float(len(error)))
    return Trace("", "y", "test", time, zero, {"m": zero - error}, skip=skip)


def test_worst_stretch_has_the_largest_error_energy() -> None:
    error = np.full(1200, 0.1)
    error[700:760] = 2.0
    error[:20] = 50.0
    worst, typical = stretches(_trace(error, skip=20), "m")
    width = worst.stop - worst.first
    assert width == (1200 - 20) // 12
    assert worst.first <= 700
    assert worst.stop >= 760
    assert worst.rmse == pytest.approx(np.sqrt((60 * 4 + (width - 60) * 0.01) / width))
    assert typical.rmse == pytest.approx(0.1)
    assert typical.stop <= worst.first or typical.first >= worst.stop
    assert typical.first >= 20


@given(st.integers(1, 700), st.integers(0, 10_000), st.integers(0, 60))
def test_stretches_lie_in_the_scored_part(length: int, seed: int, skip: int) -> None:
    rng = np.random.default_rng(seed)
    skip = min(skip, length - 1)
    error = rng.standard_normal(length) ** 3
    error[rng.random(length) < 0.3] = np.nan
    shown = _trace(np.nan_to_num(error), skip, np.where(np.isnan(error), np.nan, 0.0))
    found = stretches(shown, "m")
    assert len(found) <= 2
    energies = []
    for stretch in found:
        assert skip <= stretch.first < stretch.stop <= length
        assert np.isfinite(stretch.rmse)
        energies.append(np.nansum(shown.errors("m")[stretch.first : stretch.stop] ** 2))
    assert energies == sorted(energies, reverse=True)
    if np.isfinite(shown.errors("m")).any():
        assert found[0].kind == "worst"


def test_a_mostly_missing_stretch_is_not_chosen() -> None:
    error = np.full(960, 0.1)
    error[500] = 3.0
    measured = np.zeros(960)
    measured[460:540] = np.nan
    measured[500] = 0.0
    worst = stretches(_trace(error, measured=measured), "m")[0]
    assert not worst.first <= 460 < 540 <= worst.stop


def test_stretches_need_the_method() -> None:
    assert stretches(_trace(np.ones(100)), "other") == []


@given(st.integers(1, 3000), st.integers(1, 60), st.integers(0, 1000))
def test_reduced_lines_keep_extremes_ends_and_gaps(length: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.uniform(0.1, 2.0, length))
    values = rng.standard_normal(length)
    values[rng.random(length) < 0.2] = np.nan
    if length > 4 * columns:
        gap = slice(length // 3, length // 3 + 3 * length // columns)
        values[gap] = np.nan
    t, v = envelope(time, values, columns)
    assert len(t) <= max(4 * columns, 1)
    assert (np.diff(t) > 0).all()
    kept = np.isfinite(v)
    if np.isfinite(values).any():
        assert np.nanmax(v) == np.nanmax(values)
        assert np.nanmin(v) == np.nanmin(values)
        known = np.flatnonzero(np.isfinite(values))
        assert t[kept][0] == time[known[0]]
        assert t[kept][-1] == time[known[-1]]


def test_a_wide_gap_breaks_the_reduced_line() -> None:
    values = np.sin(np.arange(10_000) / 50)
    values[4000:5000] = np.nan
    t, v = envelope(np.arange(10_000.0), values, 100)
    inside = (t > 4000) & (t < 5000)
    assert inside.any()
    assert np.isnan(v[inside]).all()


def test_trace_refuses_lengths_that_differ() -> None:
    with pytest.raises(ValueError, match=r"'Q' has arrays of lengths .*'FIR': 3"):
        dataclasses.replace(trace(60), simulated={"FIR": np.zeros(3)})


def _verdict(own: dict[str, float], other: dict[str, float]) -> str:
    scores = rows("deep Wiener", own) + rows("FIR", other)
    return headline(minimal(scores=scores)).verdict


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [
        ({"nse": 0.9, "rmse": 1.0}, {"nse": 0.1, "rmse": 3.0}, "error (RMSE) is 3.0 times"),
        ({"nse": 0.9, "rmse": 1.0}, {"nse": 0.8, "rmse": 1.25}, "error (RMSE) is 20 % lower"),
        ({"nse": 0.9, "rmse": 1.0}, {"nse": 0.9, "rmse": 1.001}, "the simpler baseline is enough"),
        ({"nse": 0.7, "rmse": 1.5}, {"nse": 0.9, "rmse": 1.0}, "50 % higher, so the baseline"),
        ({"nse": 0.7, "rmse": 1.0}, {"nse": -2.0, "rmse": 3.0}, "FIR, does worse than the mean"),
        ({"nse": 0.7}, {"nse": 0.6}, "the model is better"),
        ({"rmse": 2.0}, {"rmse": 1.0}, "100 % higher"),
        ({"fit": 50.0}, {"fit": 60.0}, "the model is not better"),
    ],
)
def test_verdict(own: dict[str, float], other: dict[str, float], said: str) -> None:
    assert said in _verdict(own, other)


def test_best_baseline_wins_and_undefined_ones_do_not() -> None:
    scores = (
        rows("deep Wiener", {"nse": 0.9})
        + rows("mean", {"nse": 0.0})
        + rows("ARX", {"nse": float("nan")})
        + rows("FIR", {"nse": 0.6})
    )
    found = headline(minimal(scores=scores))
    assert (found.baseline, found.baseline_value) == ("FIR", 0.6)
    alone = headline(minimal(scores=scores[:1]))
    assert alone.baseline is None
    assert "No baseline" in alone.verdict


def test_error_ratio_is_per_output() -> None:
    scores = []
    for channel, own, other in (("a", 1.0, 2.0), ("b", 100.0, 400.0)):
        scores += rows("deep Wiener", {"nse": 0.9, "rmse": own}, channel)
        scores += rows("FIR", {"nse": 0.5, "rmse": other}, channel)
    ratio = headline(minimal(scores=scores)).error_ratio
    assert ratio == pytest.approx(np.sqrt((0.25 + 0.0625) / 2))


def test_headline_counts_all_records_of_the_test() -> None:
    data = report()
    more = (*data.data.parts, Part("test", "b", 300, 100))
    data = dataclasses.replace(data, data=dataclasses.replace(data.data, parts=more))
    assert "on 1296 days it never saw" in headline(data).claim
