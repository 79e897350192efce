"""Residual tests: their size when the hypothesis holds, their power when it does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom, chi2, kstest

from statewise.analysis import input_residual_correlation, whiteness


def coloured(rng, length, pole):
    return lfilter([1.0], [1.0, -pole], rng.standard_normal(length + 400))[400:]


def test_autocorrelation_and_ljung_box_by_definition():
    e = np.random.default_rng(0).standard_normal(200) + 3.0
    [result] = whiteness(e, max_lag=10)
    centred = e - e.mean()
    plain = np.array([centred[: 200 - k] @ centred[k:] for k in range(11)]) / (centred @ centred)
    np.testing.assert_allclose(result.values, plain * 200 / (200 - np.arange(11)), atol=1e-13)
    q = 200 * 202 * np.sum(plain[1:] ** 2 / (200 - np.arange(1, 11)))
    assert result.statistic == pytest.approx(q, rel=1e-12)
    assert result.p_value == pytest.approx(chi2.sf(q, 10), rel=1e-9)
    np.testing.assert_allclose(result.bounds, 2.5758293 / np.sqrt(200 - np.arange(11)), rtol=1e-6)


def test_whiteness_keeps_its_size():
    rng = np.random.default_rng(1)
    results = [whiteness(rng.standard_normal(500))[0] for _ in range(400)]
    outside = round(sum(25 * r.outside for r in results))
    low, high = binom.interval(0.999, 400 * 25, 0.01)
    assert low <= outside <= high
    failed = sum(not r.passed for r in results)
    assert failed <= binom.ppf(0.999, 400, 0.015)  # χ² is a large-sample law: up to 1.5 %
    assert kstest([r.p_value for r in results], "uniform").pvalue > 1e-3


def test_whiteness_keeps_its_size_with_gaps_and_records():
    rng = np.random.default_rng(2)
    outside, failed = 0, 0
    for _ in range(300):
        records = [rng.standard_normal(n) for n in (300, 80, 20)]
        for record in records:
            record[rng.random(len(record)) < 0.3] = np.nan
        [result] = whiteness(records, max_lag=20)
        outside += round(20 * result.outside)
        failed += not result.passed
    low, high = binom.interval(0.999, 300 * 20, 0.01)
    assert low <= outside <= high
    assert failed <= binom.ppf(0.999, 300, 0.02)


@pytest.mark.parametrize("pole", [0.2, -0.3, 0.9])
def test_whiteness_sees_colour(pole):
    rng = np.random.default_rng(3)
    results = [whiteness(coloured(rng, 1000, pole))[0] for _ in range(20)]
    assert not any(r.passed for r in results)
    assert all(r.values[1] * pole > 0 for r in results)


@pytest.mark.parametrize(("pole_u", "pole_e"), [(0.0, 0.0), (0.9, 0.0), (0.95, 0.9), (-0.8, 0.8)])
def test_input_correlation_keeps_its_size_whatever_the_colour(pole_u, pole_e):
    rng = np.random.default_rng(4)
    results = [
        input_residual_correlation(coloured(rng, 1000, pole_u), coloured(rng, 1000, pole_e))[0]
        for _ in range(200)
    ]
    # Neighbouring lags are correlated, so the count spreads more than a binomial one.
    assert 0.002 < np.mean([r.outside for r in results]) < 0.02
    assert sum(not r.passed for r in results) <= binom.ppf(0.999, 200, 0.01)


def test_bounds_that_ignore_colour_would_be_wrong():
    rng = np.random.default_rng(5)
    naive = []
    for _ in range(100):
        u, e = coloured(rng, 1000, 0.95), coloured(rng, 1000, 0.9)
        [result] = input_residual_correlation(u, e)
        naive.append(np.mean(np.abs(result.values) > 2.576 / np.sqrt(1000)))
    assert np.mean(naive) > 0.3


def test_variance_of_the_cross_correlation_for_known_colours():
    # Σ_j φ^|j| ψ^|j| = (1 + φψ) / (1 − φψ)
    rng = np.random.default_rng(6)
    u, e = coloured(rng, 200_000, 0.8), coloured(rng, 200_000, 0.5)
    [result] = input_residual_correlation(u, e, max_lag=5, confidence=0.6826894921370859)
    expected = np.sqrt((1 + 0.4) / (1 - 0.4) / (200_000 - np.abs(result.lags)))
    np.testing.assert_allclose(result.bounds, expected, rtol=0.02)


def test_input_correlation_sees_a_missing_lag_on_the_right_side():
    rng = np.random.default_rng(7)
    u = rng.standard_normal(1000)
    e = rng.standard_normal(1000)
    e[3:] += 0.3 * u[:-3]
    [result] = input_residual_correlation(u, e, max_lag=10)
    assert result.lags[np.argmax(np.abs(result.values))] == 3
    assert result.passed is False
    assert "correlate with past u1" in result.sentence
    [reverse] = input_residual_correlation(e, u, max_lag=10)
    assert reverse.lags[np.argmax(np.abs(reverse.values))] == -3
    assert reverse.passed  # a correlation with future inputs is feedback, not a missing effect


def test_cross_correlation_by_definition_with_gaps_and_records():
    rng = np.random.default_rng(8)
    us, es = [], []
    for n in (40, 25):
        us.append(rng.standard_normal(n))
        es.append(rng.standard_normal(n))
        us[-1][rng.random(n) < 0.2] = np.nan
        es[-1][rng.random(n) < 0.2] = np.nan
    [result] = input_residual_correlation(us, es, max_lag=6)
    u_all, e_all = np.concatenate(us), np.concatenate(es)
    scale = np.nanstd(u_all) * np.nanstd(e_all)
    for lag, value in zip(result.lags, result.values, strict=True):
        products = [
            (u[t] - np.nanmean(u_all)) * (e[t + lag] - np.nanmean(e_all))
            for u, e in zip(us, es, strict=True)
            for t in range(len(u))
            if 0 <= t + lag < len(u)
        ]
        assert value == pytest.approx(np.nanmean(products) / scale, abs=1e-12)


def test_channels_are_named_and_ordered():
    rng = np.random.default_rng(9)
    e, u = rng.standard_normal((100, 2)), rng.standard_normal((100, 3))
    assert [r.channel for r in whiteness(e, names=["level", "flow"])] == ["level", "flow"]
    pairs = [(r.channel, r.input) for r in input_residual_correlation(u, e)]
    assert pairs == [(y, x) for y in ("y1", "y2") for x in ("u1", "u2", "u3")]


def test_fitted_parameters_cost_degrees_of_freedom():
    e = np.random.default_rng(10).standard_normal(100)
    plain, fewer = whiteness(e)[0], whiteness(e, fitted=5)[0]
    assert fewer.p_value == pytest.approx(chi2.sf(plain.statistic, 20), rel=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_constant_residuals_leave_nothing_to_test(level):
    e = np.full(60, level)
    u = np.random.default_rng(11).standard_normal(60)
    for result in (whiteness(e)[0], input_residual_correlation(u, e)[0]):
        assert result.passed is None
        assert "constant" in result.sentence
        json.dumps(result.to_dict(), allow_nan=False)
    assert "input u1" in input_residual_correlation(e, u)[0].sentence


def test_to_dict_is_json():
    rng = np.random.default_rng(12)
    u, e = rng.standard_normal((2, 100))
    for result in (*whiteness(e), *input_residual_correlation(u, e)):
        back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert back["lags"] == result.lags.tolist()
        assert back["values"] == result.values.tolist()
        assert back["passed"] is result.passed


def test_errors_are_sentences():
    e = np.zeros(100)
    with pytest.raises(ValueError, match="max_lag 25 needs a record longer"):
        whiteness(e[:20])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 99"):
        whiteness(e, confidence=99)
    with pytest.raises(ValueError, match="max_lag must be at least 1"):
        whiteness(e, max_lag=0)
    with pytest.raises(ValueError, match="fitted must be"):
        whiteness(e, fitted=25)
    with pytest.raises(ValueError, match="infinite"):
        whiteness(np.r_[e, np.inf])
    with pytest.raises(ValueError, match="has 20 samples that are not missing"):
        whiteness(np.r_[np.arange(20.0), np.full(80, np.nan)])
    with pytest.raises(ValueError, match=r"\[100\] samples, residuals of \[99\]"):
        input_residual_correlation(e, e[:-1])
    with pytest.raises(ValueError, match="2 channels need 2 names"):
        whiteness(np.zeros((100, 2)), names=["a"])
    with pytest.raises(ValueError, match=r"\(L,\) or \(L, n\)"):
        whiteness(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="different numbers of channels"):
        whiteness([np.zeros((50, 1)), np.zeros((50, 2))])


def test_a_probability_too_small_to_tell_is_a_bound() -> None:
    walk = np.cumsum(np.random.default_rng(0).standard_normal((3000, 1)), axis=0)
    (outcome,) = whiteness(walk)
    assert "p < 1e-16" in outcome.sentence
    assert "p = 0;" not in outcome.sentence
