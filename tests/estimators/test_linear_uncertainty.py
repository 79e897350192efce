"""What a LinearSystem knows of its errors: units, sources, inputs without power, and silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from statewise.data import Experiments
from statewise.estimators import LinearSystem, StillInputWarning, reduce_states
from statewise.estimators.linear_uncertainty import excitation

A = np.array([[0.8, 0.3], [-0.3, 0.8]])


def _record(length: int = 500, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    u, e = rng.standard_normal((length, 1)), noise * rng.standard_normal((length, 1))
    x, y = np.zeros(2), np.empty((length, 1))
    for t in range(length):
        y[t] = x[0] - 0.5 * x[1] + 0.2 * u[t] + e[t]
        x = A @ x + np.array([1.0, 0.5]) * u[t] + np.array([0.4, 0.1]) * e[t]
    return u, y


@pytest.mark.parametrize("method", ["auto", "n4sid", "ssarx"])
def test_a_subspace_model_has_bands_that_are_drawn_once(method: str) -> None:
    model = LinearSystem(2, method).fit(*_record())
    bands = model.uncertainty()
    assert bands is not None
    assert bands.how == "bootstrap, 50 simulated records"
    assert bands.width == "90 % band"
    assert model.uncertainty() is bands
    assert model.uncertainty(20, 1).how == "bootstrap, 20 simulated records"
    again = LinearSystem(2, method).fit(*_record()).uncertainty()
    assert np.array_equal(again.gain_band, bands.gain_band)
    assert np.isnan(model.pole_deviation_).all()
    assert (bands.pole_deviation > 0).all()
    assert bands.pole_deviation[0] == bands.pole_deviation[1]
    low, high = bands.time_constant_band.T
    assert (low < model.time_constants_).all()
    assert (model.time_constants_ < high).all()
    for value, band in ((bands.gain, bands.gain_band), (bands.phase, bands.phase_band)):
        # At the last frequency the response is real, and its phase without doubt.
        assert (band[:-1, ..., 0] < value[:-1]).all()
        assert (value[:-1] < band[:-1, ..., 1]).all()


def test_bands_follow_the_units_of_the_data() -> None:
    u, y = _record()
    plain = LinearSystem(2, "cva").fit(u, y).uncertainty()
    records = Experiments.from_arrays(3 + 2 * u, 100 + 10 * y, dt=0.5, time_unit="s")
    other = LinearSystem(2, "cva").fit(records).uncertainty()
    assert np.allclose(other.gain_band, 5 * plain.gain_band, rtol=1e-6)
    assert np.allclose(other.response_deviation, 5 * plain.response_deviation, rtol=1e-6)
    assert np.allclose(other.phase_band, plain.phase_band, atol=1e-6)
    assert np.allclose(other.time_constant_band, 0.5 * plain.time_constant_band, rtol=1e-6)
    assert np.allclose(other.pole_deviation, plain.pole_deviation, rtol=1e-6)


def test_the_deviation_is_that_of_other_data_of_the_same_system() -> None:
    models = [LinearSystem(2, "cva").fit(*_record(seed=s)) for s in range(40)]
    bands = models[0].uncertainty()
    truth = np.linalg.eigvals(A)[0]
    errors = np.array([np.abs(model.poles_ - truth).min() for model in models])
    ratio = bands.pole_deviation[0] / np.sqrt(np.mean(errors**2))
    assert 0.7 < ratio < 1.4
    gains = np.array([model.uncertainty(2).gain[:, 0, 0] for model in models])
    ratio = bands.response_deviation[:, 0, 0] / gains.std(0)
    assert 0.8 < np.median(ratio) < 2.0  # of a complex number, at least that of its size


def test_gaps_are_left_out_of_the_records_that_are_made() -> None:
    u, y = _record()
    y[200:230] = np.nan
    model = LinearSystem(2, "cva").fit(u, y)
    assert [len(part) for part in model._source.inputs] == [200, 270]
    whole = LinearSystem(2, "cva").fit(*_record()).uncertainty()
    ratio = model.uncertainty().pole_deviation / whole.pole_deviation
    assert (ratio > 0.7).all()
    assert (ratio < 1.8).all()


def test_refined_models_have_an_information_matrix() -> None:
    model = LinearSystem(2, "refine").fit(*_record())
    bands = model.uncertainty()
    assert bands.how == "information matrix"
    assert bands.width == "2 standard errors"
    assert np.array_equal(bands.pole_deviation, model.pole_deviation_)
    assert np.isnan(bands.time_constant_band).all()
    reach = 2 * model.response_deviation_
    assert np.allclose(bands.gain_band[..., 1], bands.gain + reach)
    turn = np.arcsin(reach / bands.gain)
    assert np.allclose(bands.phase_band[..., 1] - bands.phase, turn)


def test_what_is_not_known_any_more_is_none(tmp_path: Path) -> None:
    u, y = _record()
    model = LinearSystem(4, "cva", radius=0.99).fit(u, y)
    model.save(tmp_path / "model")
    assert LinearSystem.load(tmp_path / "model").uncertainty() is None
    smaller, _ = reduce_states(model, Experiments.from_arrays(u, y), to=2)
    assert smaller.uncertainty() is None
    refined = LinearSystem(2, "refine").fit(u, y)
    refined.save(tmp_path / "refined")
    bands = LinearSystem.load(tmp_path / "refined").uncertainty()
    assert np.array_equal(bands.gain_band, refined.uncertainty().gain_band)
    assert bands.excited.all()


def test_frequencies_without_power_are_not_excited() -> None:
    omega = np.array([0.001, 0.02, 0.1, 0.3, 0.6, 1.5, 3.0])
    t = np.arange(2000)
    sines = sum(np.sin(w * t) for w in (0.02, 0.1, 0.3))
    found = excitation([sines[:, None], np.zeros((100, 1))], omega)[:, 0]
    assert found.tolist() == [False, True, True, True, False, False, False]
    white = np.random.default_rng(0).standard_normal((2000, 2))
    found = excitation([white * [1.0, 0.0]], omega)
    assert found[:, 0].tolist() == [False] + 6 * [True]
    assert not found[:, 1].any()
    assert excitation([white[:100]], omega)[:, 0].tolist() == [False, False] + 5 * [True]


@pytest.mark.parametrize("method", ["auto", "cva", "arx"])
def test_inputs_that_never_move_are_told(method: str) -> None:
    u, y = _record()
    still = np.hstack([np.full_like(u, 3.3), u])
    with pytest.warns(StillInputWarning, match="^u1 is constant in the training records: nothing"):
        model = LinearSystem(1, method).fit(still, y)
    assert model.still_inputs_ == ("u1",)
    bands = model.uncertainty()
    assert not bands.excited[:, 0].any()
    assert (bands.gain_band[:, 0, 0] == [0.0, np.inf]).all()
    assert np.allclose(bands.phase_band[:, 0, 0, 1] - bands.phase[:, 0, 0], np.pi)
    assert np.isfinite(bands.gain_band[:, 0, 1]).all()
    with pytest.warns(StillInputWarning, match="^u1 and u2 are constant in the training records"):
        LinearSystem(1, method).fit(np.zeros((500, 2)), y)
    apart = [np.full((250, 1), level) for level in (-1.0, 1.0)]
    assert LinearSystem(1, method).fit(apart, [y[:250], y[250:]]).still_inputs_ == ()


def test_an_unstable_model_says_why_it_has_none() -> None:
    x, y = 0.01, np.empty((200, 1))
    u = np.random.default_rng(0).standard_normal((200, 1))
    for t in range(200):
        y[t], x = x, 1.05 * x + u[t, 0]
    model = LinearSystem(1, "n4sid").fit(u, y)
    assert not model.stable_
    with pytest.raises(ValueError, match=r"not stable .* 1\.05.*stability=0\.999 keeps poles"):
        model.uncertainty()


def test_records_without_inputs_have_poles_with_deviations() -> None:
    _, y = _record()
    bands = LinearSystem(2, "cva").fit(None, y).uncertainty()
    assert (bands.pole_deviation > 0).all()
    assert bands.gain.shape == (200, 1, 0)
