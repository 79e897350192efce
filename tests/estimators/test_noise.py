"""ErrorModel: coefficients found, predictions by the plain recursion, gaps, stability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from statewise.estimators.noise import ErrorModel, telling_errors

PHI = np.array([[1.2, -0.5], [-0.6, 0.3]])
MODEL = ErrorModel(PHI, np.array([1.0, 4.0]))


def coloured(length, seed=0, phi=PHI):
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((length, len(phi))) * [1.0, 2.0][: len(phi)]
    return np.stack(
        [lfilter([1.0], [1.0, *-row], w) for row, w in zip(phi, white.T, strict=True)], axis=1
    )


def plain(phi, known, ahead):
    """ê for the next ``ahead`` samples of one channel, as the definition is written."""
    e = list(known)
    for t, value in enumerate(e):
        if np.isnan(value):
            e[t] = sum(p * e[t - i] for i, p in enumerate(phi, start=1) if t >= i)
    for _ in range(ahead):
        e.append(sum(p * e[len(e) - i] for i, p in enumerate(phi, start=1) if len(e) >= i))
    return e[len(known) :]


# ---- fit ----


def test_finds_coefficients_and_order():
    model = ErrorModel.fit([coloured(4000)])
    assert model.order == 2
    np.testing.assert_allclose(model.coefficients, PHI, atol=0.05)
    np.testing.assert_allclose(model.variance, [1.0, 4.0], rtol=0.08)


def test_records_are_learned_from_together_and_not_across():
    parts = [coloured(n, seed) for seed, n in enumerate([40, 7, 300, 90, 1, 800])]
    model = ErrorModel.fit(parts)
    target = np.concatenate([p[10:, 0] for p in parts])
    past = np.concatenate(
        [np.stack([p[10 - i : len(p) - i, 0] for i in (1, 2)], 1) for p in parts if len(p) > 10]
    )
    expected = np.linalg.lstsq(past, target, rcond=None)[0]
    assert model.order == 2
    np.testing.assert_allclose(model.coefficients[0], expected, atol=1e-10)
    left = target - past @ expected
    assert model.variance[0] == pytest.approx(np.mean(left**2))


def test_white_errors_have_no_memory():
    white = np.random.default_rng(3).standard_normal((3000, 1))
    model = ErrorModel.fit([white])
    assert model.coefficients.shape == (1, 0)
    assert model.variance[0] == pytest.approx(np.mean(white[10:] ** 2))
    np.testing.assert_array_equal(model.predict(white, 1), 0.0)
    np.testing.assert_array_equal(model.forecast(white, 5), np.zeros((5, 1)))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_gaps_and_units_do_not_choose_the_order(scale):
    errors = coloured(6000, seed=4)
    holes = np.random.default_rng(5).random(errors.shape) < 0.04
    model = ErrorModel.fit([np.where(holes, np.nan, scale * errors)])
    assert model.order == 2
    np.testing.assert_allclose(model.coefficients, PHI, atol=0.08)
    np.testing.assert_allclose(model.variance, np.array([1.0, 4.0]) * scale**2, rtol=0.15)


def test_gaps_between_short_stretches_leave_short_orders():
    errors = coloured(4000, seed=6)
    errors[::4] = np.nan  # no stretch longer than 3
    model = ErrorModel.fit([errors])
    assert model.order == 2
    np.testing.assert_allclose(model.coefficients, PHI, atol=0.1)


@pytest.mark.parametrize(("length", "largest"), [(0, 0), (1, 0), (10, 0), (11, 1), (22, 2)])
def test_few_samples_bound_the_order(length, largest):
    model = ErrorModel.fit([coloured(length, seed=7, phi=np.array([[1.8, -0.9]]))])
    assert model.order == largest
    assert np.isfinite(model.variance).all()


def test_nothing_known_is_nothing_predicted():
    unknown = np.full((50, 2), np.nan)
    model = ErrorModel.fit([unknown])
    assert (model.order, model.variance.tolist()) == (0, [0.0, 0.0])
    np.testing.assert_array_equal(model.predict(unknown, 1), 0.0)


def test_errors_without_noise_are_no_trouble():
    model = ErrorModel.fit([np.zeros((100, 1)), np.zeros((30, 1))])
    assert model.variance[0] == 0.0
    decay = 0.9 ** np.arange(200)[:, None]
    assert ErrorModel.fit([decay]).forecast(decay, 3)[:, 0] == pytest.approx(
        0.9 ** np.arange(200, 203)
    )


def test_validation_errors_tell_more_when_there_are_enough():
    unseen, seen = [coloured(150, 1), coloured(60, 2)], [coloured(500, 3)]
    assert [len(e) for e in telling_errors(unseen, seen)] == [150, 60]
    assert [len(e) for e in telling_errors([], seen)] == [500]
    unseen[0][:20, 1] = np.nan
    assert [len(e) for e in telling_errors(unseen, seen)] == [150, 60, 500]


# ---- stability ----


def test_unstable_poles_are_pulled_back():
    growing = ErrorModel(np.array([[2.2, -1.3], [0.5, 0.1]]), np.ones(2))
    stable = growing.stabilised()
    before, after = (np.roots([1.0, *-m.coefficients[0]]) for m in (growing, stable))
    assert np.abs(before).max() > 1.1
    np.testing.assert_allclose(np.abs(after), 0.999, atol=1e-9)
    np.testing.assert_allclose(np.sort(np.angle(after)), np.sort(np.angle(before)), atol=1e-9)
    np.testing.assert_allclose(stable.coefficients[1], [0.5, 0.1], atol=1e-12)
    assert np.abs(stable.forecast(np.ones((5, 2)), 5000)).max() < 10.0


def test_fit_gives_stable_models():
    growth = 1.02 ** np.arange(400)[:, None]
    model = ErrorModel.fit([growth + 0.01 * coloured(400, phi=PHI[:1])])
    assert np.abs(np.roots([1.0, *-model.coefficients[0]])).max() < 0.9991


def test_no_memory_is_stable_already():
    model = ErrorModel(np.zeros((2, 0)), np.ones(2))
    assert model.stabilised() is model


# ---- prediction ----


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_prediction_is_the_recursion(steps):
    errors = coloured(40, seed=8)
    predicted = MODEL.predict(errors, steps)
    for t in range(40):
        known = errors[: max(t - steps + 1, 0)]
        for channel in range(2):
            expected = plain(PHI[channel], known[:, channel], min(steps, t + 1))
            assert predicted[t, channel] == pytest.approx(expected[-1], abs=1e-12)


@given(
    st.lists(st.none() | st.floats(-10, 10), min_size=1, max_size=25),
    st.lists(st.floats(-0.4, 0.4), min_size=1, max_size=4),
    st.integers(1, 30),
)
def test_prediction_over_gaps_is_the_recursion(values, phi, steps):
    e = np.array([np.nan if v is None else v for v in values])
    model = ErrorModel(np.array([phi]), np.ones(1))
    predicted = model.predict(e[:, None], steps)[:, 0]
    for t in range(len(e)):
        expected = plain(phi, e[: max(t - steps + 1, 0)], min(steps, t + 1))[-1]
        assert predicted[t] == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 12), st.integers(0, 12))
def test_forecast_is_the_recursion_beyond_the_record(length, horizon):
    errors = coloured(length, seed=9)
    errors[1::3, 0] = np.nan
    ahead = MODEL.forecast(errors, horizon)
    assert ahead.shape == (horizon, 2)
    for channel in range(2):
        expected = plain(PHI[channel], errors[:, channel], horizon)
        np.testing.assert_allclose(ahead[:, channel], expected, atol=1e-12)


def test_prediction_beyond_the_record_costs_nothing():
    errors = coloured(20)
    np.testing.assert_array_equal(MODEL.predict(errors, 10**15), 0.0)
    assert MODEL.predict(np.empty((0, 2)), 1).shape == (0, 2)


def test_errors_stay_as_they_were():
    errors = coloured(30)
    errors[5:9] = np.nan
    before = errors.copy()
    MODEL.predict(errors, 2)
    MODEL.forecast(errors, 4)
    ErrorModel.fit([errors])
    np.testing.assert_array_equal(errors, before)


def test_one_step_errors_are_white_with_the_variance():
    errors = coloured(4000, seed=10)
    left = errors - MODEL.predict(errors, 1)
    np.testing.assert_allclose(left.var(axis=0), MODEL.variance, rtol=0.08)
    lagged = [np.corrcoef(left[1:, c], left[:-1, c])[0, 1] for c in range(2)]
    assert np.abs(lagged).max() < 3 / np.sqrt(4000)
