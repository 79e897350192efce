"""SystemIdentifier at work: states, free runs, predictions, forecasts and time steps."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identifier_systems import TRAINED, identifier, measured, quick

from statewise.data import Experiments, Record
from statewise.estimators.transform import SignedPower
from statewise.train import EncoderState, LeastSquaresState
from statewise.train import simulate as free_runs

U, Y = measured()
NEW_U, NEW_Y = U[TRAINED:], Y[TRAINED:]


# ---- simulation and its state ----


@settings(max_examples=10)
@given(cut=st.integers(1, 119))
def test_simulation_in_two_parts_is_the_whole(fitted, cut):
    whole, after = fitted.simulate_with_state(NEW_U[:120])
    head, state = fitted.simulate_with_state(NEW_U[:cut])
    tail, last = fitted.simulate_with_state(NEW_U[cut:120], state)
    np.testing.assert_allclose(np.concatenate([head, tail]), whole, atol=2e-5)
    np.testing.assert_allclose(fitted.simulate(NEW_U[cut:120], x0=state), tail, atol=0)
    one, two = (fitted.simulate(U[:30], x0=state) for state in (after, last))
    np.testing.assert_allclose(one, two, atol=2e-5)


def test_long_simulations_run_in_pieces(fitted, monkeypatch):
    whole, after = fitted.simulate_with_state(NEW_U)
    monkeypatch.setattr(free_runs, "SAMPLES_AT_ONCE", 70)
    pieces, last = fitted.simulate_with_state(NEW_U)
    np.testing.assert_allclose(pieces, whole, atol=2e-5)
    np.testing.assert_allclose(
        fitted.simulate(U[:30], x0=last), fitted.simulate(U[:30], x0=after), atol=2e-5
    )


def test_each_record_starts_where_it_is_told(fitted):
    _, state = fitted.simulate_with_state(NEW_U[:100])
    rest, moved = fitted.simulate([NEW_U[100:], NEW_U[100:]], x0=[None, state])
    np.testing.assert_array_equal(rest, fitted.simulate(NEW_U[100:]))
    np.testing.assert_array_equal(moved, fitted.simulate(NEW_U[100:], x0=state))
    assert np.abs(rest - moved)[0].max() > 0.1
    with pytest.raises(ValueError, match="2 records need as many x0, got 1"):
        fitted.simulate([NEW_U, NEW_U], x0=[state])


def test_estimated_state_beats_rest(fitted):
    state = fitted.estimate_state(U[1000:1030], Y[1000:1030])
    error = {
        name: np.sqrt(np.mean((fitted.simulate(U[1030:1036], x0=x0) - Y[1030:1036]) ** 2, axis=0))
        for name, x0 in {"rest": None, "estimated": state}.items()
    }
    assert (error["estimated"] < 0.5 * error["rest"]).all()


def test_estimated_state_needs_no_complete_data(fitted):
    u, y = NEW_U[:60].copy(), NEW_Y[:60].copy()
    y[::2, 0], y[1::3, 1] = np.nan, np.nan
    full = fitted.simulate(NEW_U[60:70], x0=fitted.estimate_state(u, NEW_Y[:60]))
    holes = fitted.simulate(NEW_U[60:70], x0=fitted.estimate_state(u, y))
    np.testing.assert_allclose(holes, full, atol=0.2)
    u[50] = np.nan
    assert np.isfinite(fitted.simulate(NEW_U[60:70], x0=fitted.estimate_state(u, y))).all()


# ---- prediction ----


def test_prediction_beats_simulation_under_slow_noise(fitted):
    spread = [np.nanstd(fitted.residuals(NEW_U, NEW_Y, steps=k), axis=0) for k in (1, 5, None)]
    assert spread[0][0] < 0.85 * spread[2][0]
    assert spread[0][0] < spread[1][0] < spread[2][0]
    assert fitted.error_model_.order >= 1


def test_prediction_far_ahead_is_the_simulation(fitted):
    u, y = NEW_U[:40], NEW_Y[:40]
    for steps in (40, 41, 10**9):
        np.testing.assert_allclose(fitted.predict(u, y, steps=steps), fitted.simulate(u), atol=2e-5)
    np.testing.assert_array_equal(fitted.predict(u), fitted.simulate(u))
    nothing = np.full_like(y, np.nan)
    np.testing.assert_allclose(fitted.predict(u, nothing), fitted.simulate(u), atol=2e-5)


@settings(max_examples=20)
@given(known=st.integers(1, 79), steps=st.integers(1, 30), size=st.floats(-1e3, 1e3))
def test_prediction_uses_no_later_output(fitted, known, steps, size):
    changed = NEW_Y[:80].copy()
    changed[known:] += size
    before = fitted.predict(NEW_U[:80], NEW_Y[:80], steps=steps)
    after = fitted.predict(NEW_U[:80], changed, steps=steps)
    np.testing.assert_array_equal(before[: known + steps], after[: known + steps])


@settings(max_examples=10)
@given(known=st.integers(1, 60), horizon=st.integers(1, 20))
def test_forecast_is_the_prediction_from_the_last_output(fitted, known, horizon):
    u, y = NEW_U[: known + horizon], NEW_Y[: known + horizon]
    forecast = fitted.forecast(u[:known], y[:known], u[known:])
    assert forecast.shape == (horizon, 2)
    expected = [
        fitted.predict(u, y, steps=ahead)[known + ahead - 1] for ahead in range(1, horizon + 1)
    ]
    np.testing.assert_allclose(forecast, expected, atol=5e-5)


def test_forecast_with_no_future_is_empty(fitted):
    assert fitted.forecast(NEW_U[:20], NEW_Y[:20], np.empty((0, 2))).shape == (0, 2)


def test_outputs_stay_in_the_range_of_the_transform():
    rng = np.random.default_rng(2)
    rain = rng.exponential(1.0, 400) * (rng.random(400) < 0.1)
    flow = np.maximum(np.convolve(rain, 0.7 ** np.arange(20))[:400] - 0.2, 0.0)
    model = identifier(quick(steps=40), transform=SignedPower(0.5, floor=0.0)).fit(rain, flow)
    simulated = model.simulate(rain)
    assert (simulated >= 0.0).all()
    raw = simulated + model.error_model_.predict(flow[:, None] - simulated, 1)
    assert (raw < -1e-3).any()
    np.testing.assert_allclose(model.predict(rain, flow), np.maximum(raw, 0.0), atol=1e-4)
    below = 0
    for now in range(50, 350, 10):
        ahead = model.forecast(rain[:now], flow[:now], rain[now : now + 5])
        errors = (flow[:, None] - simulated)[:now]
        raw = simulated[now : now + 5] + model.error_model_.forecast(errors, 5)
        np.testing.assert_allclose(ahead, np.maximum(raw, 0.0), atol=1e-4)
        below += int((raw < -1e-3).sum())
    assert below > 0
    assert model.transform.forward(np.array([4.0])) == 2.0


# ---- initial state of records ----


@pytest.fixture(scope="module", params=[LeastSquaresState(16), EncoderState(16, 8)], ids=repr)
def starter(request):
    """A model that finds its state from the skipped start of a record."""
    training = quick(steps=60, initial_state=request.param)
    return identifier(training).fit(U[:300], Y[:300])


def test_skipped_outputs_find_the_state_and_nothing_else(starter):
    record = Record(y=NEW_Y, u=NEW_U, skip=20)
    (free,) = starter.simulate(Experiments([record]))
    changes = {"skipped": 5, "scored": 25}
    runs = {}
    for what, row in changes.items():
        y = NEW_Y.copy()
        y[row] += 3.0
        (runs[what],) = starter.simulate(Experiments([dataclasses.replace(record, y=y)]))
    np.testing.assert_array_equal(runs["scored"], free)
    assert np.abs(runs["skipped"] - free)[20:].max() > 1e-3
    np.testing.assert_array_equal(runs["skipped"][:20], free[:20])


@pytest.mark.parametrize("starter", [LeastSquaresState(16)], indirect=True)
def test_state_by_least_squares_is_the_estimated_one(starter):
    (free,) = starter.simulate(Experiments([Record(y=NEW_Y, u=NEW_U, skip=16)]))
    state = starter.estimate_state(NEW_U[:16], NEW_Y[:16])
    close = np.abs(free[16:] - starter.simulate(NEW_U[16:], x0=state))[:5].max()
    far = np.abs(free[16:] - starter.simulate(NEW_U)[16:])[:5].max()
    assert close < 0.1 * far


def test_errors_before_a_found_state_do_not_enter_predictions(starter):
    assert starter.error_model_.order > 0
    data = Experiments([Record(y=NEW_Y, u=NEW_U, skip=20)])
    (free,), (ahead,) = starter.simulate(data), starter.predict(data)
    expected = free[20:] + starter.error_model_.predict((NEW_Y - free)[20:], 1)
    np.testing.assert_allclose(ahead[20:], expected, atol=1e-9)


def test_settings_changed_after_fit_leave_the_model_alone(starter):
    data = Experiments([Record(y=NEW_Y, u=NEW_U, skip=20)])
    other = copy.deepcopy(starter).set_params(training=None)
    np.testing.assert_array_equal(other.simulate(data)[0], starter.simulate(data)[0])


def test_context_of_validation_feeds_the_state_strategy():
    training = quick(washout=0, initial_state=LeastSquaresState(samples=24))
    model = identifier(training).fit(U[:200], Y[:200])
    score = next(s for s in model.scores_ if s.split == "validation")
    assert score.window == "samples 25–64: first 24 for the initial state"


# ---- time ----


def held(count, seed=5):
    """The same held input twice: at every step, and once in two steps."""
    v = np.random.default_rng(seed).standard_normal((count, 2)) * [1.0, 5.0]
    return np.repeat(v, 2, axis=0)[1:], v


@pytest.mark.parametrize(("unit", "dt"), [("s", 1.0), ("min", 1.0 / 60.0), ("samples", None)])
def test_slower_records_are_simulated_in_the_steps_of_the_training(fitted, unit, dt):
    fine, coarse = held(60)
    times = {} if dt is None else {"dt": dt, "time_unit": unit}
    data = Experiments([Record(y=np.zeros((60, 2)), u=coarse, **times)])
    (slow,) = fitted.simulate(data)
    # Where no time is known, the steps are those of the training.
    expected = fitted.simulate(coarse) if dt is None else fitted.simulate(fine)[::2]
    np.testing.assert_allclose(slow, expected, atol=5e-5)


def test_uneven_time_goes_through_fit_and_simulation():
    t = np.cumsum(np.random.default_rng(6).choice([1.0, 1.0, 1.0, 2.5], 400)) * 0.5
    y = np.sin(0.3 * t)[:, None] + Y[:400]
    data = Experiments([Record(y=y, u=U[:400], t=t)])
    model = identifier().fit(data)
    assert model.dt_ is None
    assert model.nominal_dt_ == 0.5
    (uneven,) = model.simulate(data)
    assert np.abs(uneven - model.simulate(U[:400])).max() > 1e-2
    fine, coarse = held(60)
    slow = Experiments([Record(y=np.zeros((60, 2)), u=coarse, dt=1.0, time_unit="s")])
    np.testing.assert_allclose(model.simulate(slow)[0], model.simulate(fine)[::2], atol=5e-5)
