"""Bands around identified models: what a person calls."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from identifier_systems import identifier, measured, quick
from observer_systems import errors
from scipy.signal import lfilter

from statewise.data import Experiments
from statewise.estimators import (
    Bands,
    ErrorNoise,
    ErrorObserver,
    LinearSystem,
    StateNoise,
    StateObserver,
    SystemIdentifier,
)
from statewise.estimators._base import NotFittedError
from statewise.estimators.transform import SignedPower


@pytest.fixture(scope="module")
def record() -> tuple[np.ndarray, np.ndarray]:
    """New data of the measured system: another 1500 samples."""
    return measured(1500, seed=5)


@pytest.fixture(scope="module")
def river() -> SystemIdentifier:
    """A model of a positive output whose errors grow with it, with a transform."""
    u, y = _river(1600)
    model = identifier(quick(steps=60, batch_size=8), transform=SignedPower(0.5, floor=0.0))
    return model.fit(u, y)


def _river(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    u = rng.exponential(1.0, length) * (rng.random(length) < 0.3)
    x = lfilter([0.3], [1.0, -0.8], u) + 0.2
    error = lfilter([1.0], [1.0, -0.7], 0.08 * rng.standard_normal(length))
    return u, (x * np.exp(error))[:, None]


def test_fit_leaves_noise_and_filter_beats_the_free_run(
    fitted: SystemIdentifier, record: tuple[np.ndarray, np.ndarray]
) -> None:
    u, y = record
    assert isinstance(fitted.noise_.levels, ErrorNoise)
    bands = fitted.filter(u, y)
    free = fitted.simulate(u)
    assert np.mean((bands.mean - y)[:, 0] ** 2) < 0.5 * np.mean((free - y)[:, 0] ** 2)
    assert (bands.lower < bands.mean).all()
    assert (bands.mean < bands.upper).all()
    assert bands.observed.all()
    assert np.isfinite(bands.log_likelihood)


@pytest.mark.parametrize("interval", [0.5, 0.9])
def test_coverage_on_new_data_is_near_nominal(
    fitted: SystemIdentifier, record: tuple[np.ndarray, np.ndarray], interval: float
) -> None:
    u, y = record
    found = fitted.filter(u, y, interval=interval).coverage(y)
    # The validation record that this was calibrated on has 180 samples.
    np.testing.assert_allclose(found, interval, atol=3 * (interval * (1 - interval) / 180) ** 0.5)


def test_innovations_of_new_data_are_nearly_white(
    fitted: SystemIdentifier, record: tuple[np.ndarray, np.ndarray]
) -> None:
    score = fitted.filter(*record).innovations[50:, 0]
    assert abs(np.corrcoef(score[1:], score[:-1])[0, 1]) < 0.15


def test_gaps_are_filled_with_bands(
    fitted: SystemIdentifier, record: tuple[np.ndarray, np.ndarray]
) -> None:
    u, y = record
    rng = np.random.default_rng(0)
    hidden = rng.random(y.shape) < 0.3
    hidden[700:730] = True
    shown = np.where(hidden, np.nan, y)
    smoothed, filtered = fitted.smooth(u, shown), fitted.filter(u, shown)
    assert not smoothed.observed[hidden].any()
    assert np.isfinite(smoothed.mean).all()
    free = fitted.simulate(u)
    for bands in (smoothed, filtered):
        assert _rms((bands.mean - y)[:, 0][hidden[:, 0]]) < _rms((free - y)[:, 0][hidden[:, 0]])
    inside = smoothed.coverage(np.where(hidden, y, np.nan))
    np.testing.assert_allclose(inside, 0.9, atol=0.07)
    measured_too = fitted.filter(u, y)
    wide, narrow = (b.upper[729, 0] - b.lower[729, 0] for b in (filtered, measured_too))
    assert wide > 1.2 * narrow
    np.testing.assert_array_equal(np.isnan(filtered.innovations), np.isnan(shown))


def test_online_is_offline(fitted: SystemIdentifier) -> None:
    model = copy.deepcopy(fitted)
    model.model_.double()
    u, y = measured(60, seed=7)
    y[20:24] = np.nan
    y[40, 1] = np.nan
    u[30, 0] = np.nan
    offline = model.filter(u, y)
    stream = model.observer()
    for t in range(len(u)):
        if t in (5, 22):
            ahead = stream.forecast(u[t : t + 3])
            guessed = stream.predict(u[t])
            np.testing.assert_array_equal(guessed, ahead[0])
            past = model.forecast(u[:t], y[:t], u[t : t + 3], interval=0.9)
            np.testing.assert_allclose([b.upper for b in ahead], past.upper, atol=1e-9)
        band = stream.update(u[t], y[t])
        for name in ("mean", "lower", "upper"):
            wanted = getattr(offline, name)[t]
            np.testing.assert_allclose(getattr(band, name), wanted, atol=1e-9)
    assert stream.steps == len(u)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_adaptive_bands_keep_their_coverage_where_errors_change(
    fitted: SystemIdentifier, record: tuple[np.ndarray, np.ndarray], factor: float
) -> None:
    u, y = record
    free = fitted.simulate(u)
    other = free + factor * (y - free)  # errors half or twice as large as in validation
    still, moving = (fitted.filter(u, other, adapt=rate).coverage(other) for rate in (0.0, 0.02))
    assert (np.abs(still - 0.9) > 0.06).all()
    # |log f| / (γ T), with a factor that is that of the errors, and half as much again.
    assert (np.abs(moving - 0.9) <= np.log(3) / (0.02 * len(u))).all()
    stream = fitted.observer(adapt=0.02)
    online = [stream.update(a, b).upper for a, b in zip(u[:40], other[:40], strict=True)]
    offline = fitted.filter(u[:40], other[:40], adapt=0.02).upper
    np.testing.assert_allclose(online, offline, rtol=1e-4)
    with pytest.raises(ValueError, match=r"adapt is a rate in \[0, 1\); given 2"):
        fitted.filter(u, y, adapt=2)


def test_forecast_has_bands_that_widen_and_the_point_forecast_stays(
    fitted: SystemIdentifier, record: tuple[np.ndarray, np.ndarray]
) -> None:
    u, y = record
    point = fitted.forecast(u[:500], y[:500], u[500:560])
    assert isinstance(point, np.ndarray)
    bands = fitted.forecast(u[:500], y[:500], u[500:560], interval=0.9)
    assert isinstance(bands, Bands)
    assert len(bands) == 60
    assert bands.innovations is None
    assert not bands.observed.any()
    wide = (bands.upper - bands.lower)[:, 0]
    assert wide[-1] > 1.3 * wide[0]
    extended = np.concatenate([y[:500], np.full((60, 2), np.nan)])
    np.testing.assert_array_equal(bands.mean, fitted.filter(u[:560], extended).mean[500:])


def test_bands_are_quantiles_on_the_scale_of_the_model(river: SystemIdentifier) -> None:
    u, y = _river(400, seed=3)
    bands = river.filter(u, y)
    assert (bands.lower >= 0).all()
    assert (bands.upper - bands.mean)[50:].mean() > (bands.mean - bands.lower)[50:].mean()
    # Square roots of the ends lie evenly about that of the middle.
    low, middle, high = (np.sqrt(x) for x in (bands.lower, bands.mean, bands.upper))
    off = bands.lower > 0
    np.testing.assert_allclose((high - middle)[off], (middle - low)[off], rtol=1e-9)


def test_bands_follow_errors_that_grow_with_the_output(river: SystemIdentifier) -> None:
    u, y = _river(3000, seed=4)
    bands = river.filter(u, y)
    high = bands.mean[:, 0] > np.quantile(bands.mean[:, 0], 0.8)
    wide = (bands.upper - bands.lower)[:, 0]
    assert np.median(wide[high]) > 2 * np.median(wide[~high])
    inside = ((y >= bands.lower) & (y <= bands.upper))[:, 0]
    assert 0.78 < inside[high].mean() < 0.98
    assert 0.78 < inside[~high].mean() < 0.98


def test_saved_model_gives_the_same_bands(fitted: SystemIdentifier, tmp_path: Path) -> None:
    u, y = measured(80, seed=2)
    fitted.save(tmp_path / "model")
    loaded = SystemIdentifier.load(tmp_path / "model")
    assert loaded.noise_ == fitted.noise_
    np.testing.assert_array_equal(loaded.smooth(u, y).upper, fitted.smooth(u, y).upper)


def test_folder_without_noise_loads_and_says_how_to_fit_it(
    fitted: SystemIdentifier, tmp_path: Path
) -> None:
    u, y = measured(600, seed=2)
    fitted.save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["fitted"]["noise"]
    path.write_text(json.dumps(config), encoding="utf-8")
    loaded = SystemIdentifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.simulate(u), fitted.simulate(u))
    for way in (loaded.filter, loaded.smooth):
        with pytest.raises(NotFittedError, match=r"fit them with model.fit_noise\(train, valid\)"):
            way(u, y)
    with pytest.raises(NotFittedError, match="has no noise levels"):
        loaded.observer()
    loaded.fit_noise(None, Experiments.from_arrays(u, y, dt=0.5))
    assert loaded.noise_.judged_on == "validation"
    assert loaded.filter(u, y).coverage(y)[0] > 0.8


def test_the_observer_that_predicts_held_out_data_best_is_kept(fitted: SystemIdentifier) -> None:
    u, y = measured(500, seed=8)
    model = copy.copy(fitted)
    data = Experiments.from_arrays(u, y, dt=0.5)
    model.fit_noise(None, data, observers=[ErrorObserver(order) for order in (1, 3, 5)])
    values = [value for _, value in model.noise_.candidates]
    order = (1, 3, 5)[int(np.argmax(values))]
    assert len(model.noise_.levels.coefficients[0]) == order
    # The error remembers one sample; more coefficients predict held-out data no better.
    assert order == 1


def test_state_observer_gives_bands_online_and_offline(fitted: SystemIdentifier) -> None:
    u, y = measured(290, seed=8)
    model = copy.copy(fitted)
    data = Experiments.from_arrays(u, y, dt=0.5)
    model.fit_noise(None, data, observers=[StateObserver(lowest=0.1, highest=1.0)])
    bands = model.filter(u[:60], y[:60])
    assert isinstance(model.noise_.levels, StateNoise)
    n = sum(x.numel() for x in model.model_.init_state(1))
    assert bands.state_mean.shape == bands.state_std.shape == (60, n)
    stream = model.observer()
    online = [stream.update(a, b).upper for a, b in zip(u[:30], y[:30], strict=True)]
    # The scale of the bands follows the free run, which the network computes in float32.
    np.testing.assert_allclose(online, bands.upper[:30], rtol=1e-4)


def test_summary_reports_coverage_before_and_after(fitted: SystemIdentifier) -> None:
    rows = [row for row in fitted.noise_.coverage if row.horizon == 1]
    assert [row.output for row in rows] == [0, 1]
    for row in rows:
        assert row.interval == 0.9
        assert 0.8 < row.after < 0.97
    text = fitted.noise_.summary()
    assert "ErrorObserver, held-out errors" in text
    assert "before calibration" in text


def test_linear_system_is_observed_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    u = rng.standard_normal((1500, 1))
    y = 20 + lfilter([0.0, 1.0], [1.0, -0.9], u, axis=0) + errors(1500)[:, :1]
    model = LinearSystem(1, "n4sid").fit(u[:800], y[:800])
    with pytest.raises(NotFittedError, match="LinearSystem has no noise levels"):
        model.filter(u, y)
    parts = (Experiments.from_arrays(u[part], y[part]) for part in (slice(800), slice(800, 1200)))
    model.fit_noise(*parts)
    bands = model.filter(u[1200:], y[1200:])
    np.testing.assert_allclose(bands.coverage(y[1200:]), 0.9, atol=0.06)
    assert _rms(bands.mean - y[1200:]) < 0.8 * _rms(model.simulate(u[1200:]) - y[1200:])
    stream = model.observer()
    for t in range(20):
        band = stream.update(u[1200 + t], y[1200 + t])
        np.testing.assert_allclose(band.upper, bands.upper[t], atol=1e-9)
    model.save(tmp_path / "linear")
    loaded = LinearSystem.load(tmp_path / "linear")
    assert loaded.noise_ == model.noise_
    point = loaded.forecast(u[:100], y[:100], u[100:110])
    np.testing.assert_array_equal(point, model.forecast(u[:100], y[:100], u[100:110]))
    assert point.shape == (10, 1)


def test_errors_read_well(fitted: SystemIdentifier) -> None:
    u, y = measured(50)
    with pytest.raises(ValueError, match="interval is a probability between 0 and 1; given 90"):
        fitted.filter(u, y, interval=90)
    with pytest.raises(TypeError, match=r"interval is a probability such as 0\.9; given '90 %'"):
        fitted.smooth(u, y, interval="90 %")
    with pytest.raises(ValueError, match="fitted with 2 input"):
        fitted.filter(u[:, :1], y)
    with pytest.raises(ValueError, match=r"fitted with 2 output\(s\)"):
        fitted.filter(u, y[:, 0])
    with pytest.raises(ValueError, match="u is one sample of 2 numbers here; given 3"):
        fitted.observer().update([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="no observer to fit"):
        fitted.fit_noise(None, Experiments.from_arrays(u, y), observers=[])
    with pytest.raises(ValueError, match="an output has fewer than 20 measurements"):
        fitted.fit_noise(None, Experiments.from_arrays(u[:20], y[:20]))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        identifier().filter(u, y)
    with pytest.raises(ValueError, match="the bands have the shape"):
        fitted.filter(u, y).coverage(y[:10])


def test_several_records_come_back_as_a_list(fitted: SystemIdentifier) -> None:
    u, y = measured(80)
    data = Experiments.from_arrays([u[:50], u[50:]], [y[:50], y[50:]])
    found = fitted.filter(data)
    assert [len(bands) for bands in found] == [50, 30]
    np.testing.assert_array_equal(found[0].mean, fitted.filter(u[:50], y[:50]).mean)


def test_plot_shows_band_mean_and_measurements(fitted: SystemIdentifier) -> None:
    u, y = measured(60)
    figure = fitted.smooth(u, y).plot(y, outputs=("level", "flow"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["level", "flow"]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["90 % interval", "mean", "measured"]


def test_fit_without_enough_outputs_leaves_no_noise() -> None:
    u, y = measured(200)
    y[60:] = np.nan
    model = identifier(valid_fraction=0.0).fit(u, y, dt=0.5)
    assert model.noise_ is None
    with pytest.raises(NotFittedError, match="has no noise levels"):
        model.filter(u, y)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def test_noise_is_a_value(fitted: SystemIdentifier) -> None:
    changed = dataclasses.replace(fitted.noise_, judged_on="training")
    assert changed != fitted.noise_
    assert fitted.noise_.process == fitted.noise_.levels.process
    assert len(fitted.noise_.measurement) == 2
