"""How wide bands are: scales, conformal widths, distances, and the gaps they are found on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from observer_systems import error_signals

from statewise.estimators import ErrorObserver
from statewise.estimators.calibration import HORIZONS, INTERVALS, Scores, features
from statewise.estimators.noise_model import _gappy, fit_noise, gap_distance, since_measured


def _scores(error: np.ndarray, free: np.ndarray, horizon: int = 1) -> Scores:
    scores = Scores(np.ones(free.shape[1]))
    rows = features(free, free, scores.change)
    fold = (np.arange(len(error)) >= len(error) // 2).astype(np.intp)[:, None]
    fold = np.broadcast_to(fold, error.shape)
    scores.add(horizon, error, np.ones_like(error), rows, fold)
    return scores


def test_conformal_widths_hold_heavy_tailed_scores() -> None:
    rng = np.random.default_rng(0)
    error, free = rng.standard_t(2.5, (4000, 1)), np.zeros((4000, 1))
    table = _scores(error[:800], free[:800]).calibrate()
    one = np.ones((3200, 1))
    for interval in (0.5, 0.75, 0.9, 0.95):
        rows = features(free[800:], free[800:], np.ones(1))
        half = table.width_at(interval, one) * table.scale_at(rows, one)
        share = np.mean(np.abs(error[800:]) <= half)
        assert abs(share - interval) < 3 * (interval * (1 - interval) / 800) ** 0.5


def test_widths_have_the_correction_for_finite_samples() -> None:
    error = np.arange(1.0, 51.0)[:, None]
    table = _scores(error, np.zeros((50, 1))).calibrate()
    scale = np.exp(table.scale[0][0][0])
    # 0.9 of 50 + 1 scores: the 46th.
    np.testing.assert_allclose(table.widths[0][0][INTERVALS.index(0.9)] * scale, 46.0)
    np.testing.assert_allclose(table.width_at(0.9, np.ones((1, 1)))[0, 0] * scale, 46.0)


def test_scale_is_found_where_errors_grow_and_left_out_where_not() -> None:
    rng = np.random.default_rng(1)
    free = rng.standard_normal((3000, 2))
    error = rng.standard_normal((3000, 2))
    error[:, 0] *= np.exp(0.5 * np.tanh(free[:, 0]))
    table = _scores(error, free).calibrate()
    np.testing.assert_allclose(table.scale[0][0], (0.0, 0.5, 0.0), atol=0.06)
    assert table.scale[1][0][1:] == (0.0, 0.0)


def test_widths_between_horizons_are_interpolated() -> None:
    scores = _scores(np.full((60, 1), 1.0), np.zeros((60, 1)))
    two = _scores(np.full((60, 1), 3.0), np.zeros((60, 1)), 4)
    scores.parts |= two.parts
    table = scores.calibrate()
    assert table.horizons == (1, 4)
    rows = features(np.zeros((1, 1)), np.zeros((1, 1)), np.ones(1))
    sizes = [
        (table.scale_at(rows, h) * table.width_at(0.9, h)).item()
        for h in (np.full((1, 1), x) for x in (0.0, 1.0, 2.0, 4.0, 90.0))
    ]
    np.testing.assert_allclose(sizes, [1.0, 1.0, 3**0.5, 3.0, 3.0], rtol=1e-6)


def test_scale_follows_the_level_that_the_observer_expects() -> None:
    rng = np.random.default_rng(2)
    level, free = rng.standard_normal((2, 3000, 1))
    error = rng.standard_normal((3000, 1)) * np.exp(0.5 * np.tanh(level))
    scores = Scores(np.ones(1))
    fold = np.zeros(error.shape, dtype=np.intp)
    scores.add(1, error, np.ones_like(error), features(level, free, scores.change), fold)
    table = scores.calibrate()
    np.testing.assert_allclose(table.scale[0][0], (0.0, 0.5, 0.0), atol=0.06)
    one, high = np.ones(level.shape), level > 1
    half = table.width_at(0.9, one) * table.scale_at(features(level, free, np.ones(1)), one)
    assert 0.86 < np.mean(np.abs(error)[high] <= half[high]) < 0.94


def test_distances_from_measurements() -> None:
    z = np.array([[np.nan, 1.0, np.nan, np.nan, np.nan, 2.0, 3.0]]).T
    since, gap = since_measured(z)[:, 0], gap_distance(z)[:, 0]
    np.testing.assert_array_equal(since[2:], [1, 2, 3, 4, 1])
    assert (since[:2] > 60).all()
    np.testing.assert_allclose(gap[2:5], [1.5, 2.0, 1.5])
    np.testing.assert_array_equal(gap, gap_distance(z[::-1])[::-1, 0])


@given(st.lists(st.booleans(), min_size=2, max_size=200).filter(any))
def test_distance_in_a_gap_is_that_of_a_bridge(measured: list[bool]) -> None:
    z = np.where(measured, 1.0, np.nan)[:, None]
    found = gap_distance(z)[:, 0]
    at, known = np.arange(len(z)), np.flatnonzero(measured)
    before = np.array([min((t - k for k in known if k < t), default=t + 65) for t in at])
    behind = np.array([min((k - t for k in known if k > t), default=len(z) - t + 64) for t in at])
    np.testing.assert_allclose(found, 2 / (1 / before + 1 / behind))
    near = np.minimum(before, behind)
    assert (found >= near - 1e-9).all()
    assert (found <= 2 * near + 1e-9).all()


def test_gaps_that_are_calibrated_on_have_all_lengths_and_hide_every_sample_as_often() -> None:
    found = np.array(_gappy(3000, 0))
    np.testing.assert_array_equal(found.sum(0), len(found) // 2)
    distances = np.concatenate([gap_distance(np.where(h, np.nan, 1.0)[:, None])[h] for h in found])
    edges = [*HORIZONS, np.inf]
    counts = np.histogram(distances, edges)[0]
    # A month and longer too, in a record of some years.
    assert (counts > 200).all()
    assert any((a != b).any() for a, b in zip(found, _gappy(3000, 1), strict=True))


@pytest.mark.parametrize("length", [1, 6, 40])
def test_bands_in_gaps_hold_whatever_their_length(length: int) -> None:
    records = [error_signals(4000, seed, gaps=False) for seed in (0, 1)]
    noise = fit_noise([ErrorObserver(2)], (), records[:1], None)
    hidden = np.arange(4000) // length % 2 == 1
    shown = records[1]._replace(z=np.where(hidden[:, None], np.nan, records[1].z))
    track, distance = noise.levels.smooth(shown, None), gap_distance(shown.z)
    rows = features(track.mean, shown.free, np.asarray(noise.inside.change))
    half = np.sqrt(track.variance) * noise.inside.scale_at(rows, distance)
    half = half * noise.inside.width_at(0.9, distance)
    share = np.mean((np.abs(records[1].z - track.mean) <= half)[hidden], axis=0)
    np.testing.assert_allclose(share, 0.9, atol=0.03)
