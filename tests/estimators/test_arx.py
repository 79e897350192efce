"""ARX: exact recovery, definitions of simulation and prediction, gaps, stability, folders."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from statewise._errors import DataError
from statewise.data import Experiments, Record
from statewise.estimators import ARX
from statewise.estimators._base import NotFittedError

A = np.array([[[0.7, 0.2], [-0.1, 0.5]], [[-0.2, 0.0], [0.1, -0.3]]])
B = np.array([[[1.0, 0.0, 0.5], [0.0, -2.0, 0.1]], [[0.3, 0.3, 0.0], [0.0, 0.5, -1.0]]])
C = np.array([3.0, -10.0])


def mimo(rng, length, noise=0.0, nk=0):
    """The difference equation as it is written, from rest."""
    u = rng.standard_normal((length, 3)) * [1.0, 5.0, 0.2] + [0.0, 2.0, 1.0]
    y = np.zeros((length, 2))
    for t in range(length):
        y[t] = C + noise * rng.standard_normal(2)
        for k, a in enumerate(A, start=1):
            y[t] += a @ y[t - k] if t >= k else 0.0
        for k, b in enumerate(B):
            y[t] += b @ u[t - nk - k] if t >= nk + k else 0.0
    return u, y


def siso(rng, length, noise=0.0):
    u = rng.standard_normal(length)
    e = noise * rng.standard_normal(length)
    return u, lfilter([0.0, 1.0, 0.5], [1.0, -1.5, 0.7], u) + lfilter([1.0], [1.0, -1.5, 0.7], e)


def rows(u, y, na, nb, nk=0, start=0):
    """Regressors and targets of one record, the plain way."""
    first = max(na, nb + nk - 1, start)
    x = [
        np.concatenate(
            [y[t - k] for k in range(1, na + 1)] + [u[t - nk - k] for k in range(nb)] + [[1.0]]
        )
        for t in range(first, len(y))
    ]
    return np.array(x), y[first:]


@pytest.mark.parametrize("nk", [0, 2])
def test_recovers_a_noise_free_system(nk):
    u, y = mimo(np.random.default_rng(0), 400, nk=nk)
    model = ARX(2, 2, nk=nk, ridge=0.0).fit(u, y)
    np.testing.assert_allclose(model.a_, A, atol=1e-8)
    np.testing.assert_allclose(model.b_, B, atol=1e-8)
    np.testing.assert_allclose(model.intercept_, C, atol=1e-8)
    companion = np.block([[A[0], A[1]], [np.eye(2), np.zeros((2, 2))]])
    expected = np.sort(np.abs(np.linalg.eigvals(companion)))[::-1]
    np.testing.assert_allclose(np.abs(model.poles_), expected, atol=1e-8)
    assert model.stable_
    free = model.simulate(u[10:], x0=(y[:10], u[:10]))
    np.testing.assert_allclose(free, y[10:], atol=1e-7)
    assert model.score(u, y) > 0.9


def test_chooses_orders_that_hold_the_true_ones():
    u, y = siso(np.random.default_rng(1), 600)
    model = ARX().fit(u, y)
    assert model.na_ >= 2
    assert model.nb_ >= 3
    assert len(model.search_) == 7 * 7 * 13
    errors = [trial["error"] for trial in model.search_]
    assert errors == sorted(errors)
    free = model.simulate(u[50:], x0=(y[:50], u[:50]))
    np.testing.assert_allclose(free[:, 0], y[50:], atol=1e-6)


def test_one_step_errors_are_the_least_squares_residuals():
    u, y = mimo(np.random.default_rng(2), 200, noise=0.5)
    x, target = rows(u, y, 3, 2)
    weights, *_ = np.linalg.lstsq(x, target, rcond=None)
    model = ARX(3, 2, ridge=0.0).fit(u, y)
    errors = model.residuals(u, y, steps=1)
    np.testing.assert_allclose(errors[3:], target - x @ weights, atol=1e-9)
    np.testing.assert_allclose(x.T @ errors[3:], 0.0, atol=1e-7)


def test_several_records_are_the_stacked_problem():
    rng = np.random.default_rng(3)
    pairs = [mimo(rng, n, noise=0.3) for n in (50, 7, 120, 3)]
    stacked = [rows(u, y, 2, 3) for u, y in pairs if len(y) > 2]
    x, target = (np.concatenate([s[i] for s in stacked if len(s[0])]) for i in (0, 1))
    weights, *_ = np.linalg.lstsq(x, target, rcond=None)
    model = ARX(2, 3, ridge=0.0).fit([u for u, _ in pairs], [y for _, y in pairs])
    np.testing.assert_allclose(model.a_[0], weights[:2].T, atol=1e-8)
    np.testing.assert_allclose(model.b_[2], weights[10:13].T, atol=1e-8)
    np.testing.assert_allclose(model.intercept_, weights[-1], atol=1e-8)


def test_ridge_is_the_penalised_problem_in_standardised_signals():
    u, y = mimo(np.random.default_rng(4), 300, noise=1.0)
    ridge = 0.07
    us, ys = (u - u.mean(0)) / u.std(0), (y - y.mean(0)) / y.std(0)
    x, target = rows(us, ys, 2, 2)
    penalty = np.sqrt(ridge * len(x)) * np.eye(x.shape[1])
    penalty[-1] = 0.0
    weights, *_ = np.linalg.lstsq(
        np.vstack([x, penalty]), np.vstack([target, np.zeros((len(penalty), 2))]), rcond=None
    )
    model = ARX(2, 2, ridge=ridge).fit(u, y)
    np.testing.assert_allclose(model.equation_.a[1], weights[2:4].T, atol=1e-10)
    np.testing.assert_allclose(model.equation_.b[0], weights[4:7].T, atol=1e-10)
    np.testing.assert_allclose(model.equation_.c, weights[-1], atol=1e-10)


def test_without_bias_nothing_is_centred():
    u, y = mimo(np.random.default_rng(5), 300, noise=0.1)
    x, target = rows(u, y, 2, 2)
    weights, *_ = np.linalg.lstsq(x[:, :-1], target, rcond=None)
    model = ARX(2, 2, ridge=0.0, bias=False).fit(u, y)
    np.testing.assert_allclose(model.a_[0], weights[:2].T, atol=1e-9)
    np.testing.assert_array_equal(model.intercept_, 0.0)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_prediction_is_what_its_definition_says(steps):
    u, y = mimo(np.random.default_rng(6), 60, noise=0.3)
    model = ARX(2, 2, ridge=0.0).fit(u, y)
    predicted = model.predict(u, y, steps=steps)
    for t in range(steps + 3, 60):
        known = t - steps + 1  # samples 0 … t − steps
        rest = model.simulate(u[known : t + 1], x0=(y[:known], u[:known]))
        np.testing.assert_allclose(predicted[t], rest[-1], atol=1e-10)
    np.testing.assert_allclose(predicted[:steps], model.simulate(u)[:steps], atol=1e-10)


def test_prediction_beyond_the_record_is_the_free_run():
    u, y = mimo(np.random.default_rng(7), 40, noise=0.3)
    model = ARX(2, 2, ridge=0.0).fit(u, y)
    for steps in (40, 41, 1000):
        np.testing.assert_allclose(model.predict(u, y, steps=steps), model.simulate(u), atol=1e-10)
    np.testing.assert_array_equal(model.predict(u), model.simulate(u))


def test_prediction_uses_no_later_output():
    u, y = mimo(np.random.default_rng(8), 50, noise=0.3)
    model = ARX(2, 2, ridge=0.0).fit(u, y)
    changed = y.copy()
    changed[30:] += 100.0
    before, after = model.predict(u, y, steps=4), model.predict(u, changed, steps=4)
    np.testing.assert_array_equal(before[:34], after[:34])
    assert (np.abs(before[34:36] - after[34:36]) > 0.1).all()


def test_skip_window_sets_the_initial_state_and_nothing_else():
    u, y = mimo(np.random.default_rng(9), 80, noise=0.3)
    model = ARX(2, 2, ridge=0.0).fit(u, y)
    record = Experiments([Record(y=y, u=u, skip=20)])
    [free] = model.simulate_experiments(record)
    np.testing.assert_allclose(free[20:], model.simulate(u[20:], x0=(y[:20], u[:20])), atol=1e-10)
    np.testing.assert_allclose(free[:20], model.predict(u, y)[:20], atol=1e-12)
    poisoned = Experiments([Record(y=np.where(np.arange(80)[:, None] < 20, y, 1e6), u=u, skip=20)])
    np.testing.assert_array_equal(model.simulate_experiments(poisoned)[0], free)
    [rmse] = model.evaluate(record, metrics=["rmse"])[:1]
    assert rmse.value == pytest.approx(np.sqrt(np.mean((free - y)[20:, 0] ** 2)))
    assert rmse.window == "samples 21–80: first 20 for the initial state"
    assert model.evaluate(record, 3)[0].mode == "3-step prediction"


def test_training_skips_are_history_only():
    u, y = mimo(np.random.default_rng(10), 100, noise=0.3)
    x, target = rows(u, y, 2, 2, start=40)
    weights, *_ = np.linalg.lstsq(x, target, rcond=None)
    model = ARX(2, 2, ridge=0.0).fit(Experiments([Record(y=y, u=u, skip=40)]))
    np.testing.assert_allclose(model.a_[0], weights[:2].T, atol=1e-9)


def test_rows_that_touch_a_gap_are_left_out():
    rng = np.random.default_rng(11)
    u, y = mimo(rng, 300)
    u[rng.random(u.shape) < 0.03] = np.nan
    y[rng.random(y.shape) < 0.03] = np.nan
    model = ARX(2, 2, ridge=0.0).fit(u, y)
    np.testing.assert_allclose(model.a_, A, atol=1e-8)
    np.testing.assert_allclose(model.b_, B, atol=1e-8)
    assert np.isfinite(model.simulate(u)).all()
    assert np.isfinite(model.predict(u, y, steps=3)).all()
    np.testing.assert_array_equal(np.isnan(model.residuals(u, y)), np.isnan(y))


def test_gaps_do_not_stop_the_choice_of_orders():
    rng = np.random.default_rng(12)
    u, y = siso(rng, 900, noise=0.1)
    y[::8] = np.nan  # no stretch longer than 7
    model = ARX().fit(u, y)
    assert model.na_ <= 6
    assert model.score(u, y) > 0.9
    y[::2] = np.nan
    with pytest.raises(ValueError, match="no stretch of more than 2 samples"):
        ARX(2, 2).fit(u, y)


def test_a_missing_output_counts_as_its_prediction():
    u, y = mimo(np.random.default_rng(13), 40, noise=0.3)
    model = ARX(2, 2, ridge=0.0).fit(u, y)
    holed = y.copy()
    holed[20] = np.nan
    filled = holed.copy()
    filled[20] = model.predict(u, holed)[20]
    np.testing.assert_allclose(model.predict(u, holed), model.predict(u, filled), atol=1e-12)


def test_autonomous_records():
    t = np.arange(200)
    y = np.cos(0.3 * t) * 0.99**t + 5.0
    model = ARX(2, 0, ridge=0.0).fit(None, y)
    np.testing.assert_allclose(model.a_[:, 0, 0], [2 * 0.99 * np.cos(0.3), -(0.99**2)], atol=1e-8)
    free = model.simulate(np.zeros((150, 0)), x0=y[:50])
    np.testing.assert_allclose(free[:, 0], y[50:], atol=1e-7)
    np.testing.assert_allclose(model.predict(None, y)[2:, 0], y[2:], atol=1e-8)
    with pytest.raises(ValueError, match="nb is 2, but the records have no inputs"):
        ARX(2, 2).fit(None, y)
    assert ARX().fit(None, y).nb_ == 0


def test_an_unstable_model_stays_finite():
    rng = np.random.default_rng(14)
    u = rng.standard_normal(60)
    y = lfilter([1.0], [1.0, -1.3], u)
    model = ARX(1, 1, ridge=0.0).fit(u, y)
    assert not model.stable_
    assert model.poles_[0] == pytest.approx(1.3)
    free = model.simulate(rng.standard_normal(5000))
    assert np.isfinite(free).all()
    assert np.abs(free).max() <= 1.001e6 * y.std() + abs(y.mean())
    assert np.isfinite(model.predict(u, y, steps=59)).all()


def test_the_choice_prefers_stable_models():
    rng = np.random.default_rng(15)
    u = rng.standard_normal(400)
    y = lfilter([1.0], [1.0, -2.0, 1.0], u)  # a double integrator
    model = ARX().fit(u, y)
    assert model.stable_
    assert np.isfinite(model.simulate(rng.standard_normal(10_000))).all()


def test_a_long_record_is_quick():
    u, y = siso(np.random.default_rng(16), 100_000, noise=0.1)
    model = ARX(8, 8, ridge=0.0).fit(u[:1000], y[:1000])
    model.predict(u[:50], y[:50], steps=10)
    started = time.perf_counter()
    model.simulate(u)
    simulated = time.perf_counter()
    model.predict(u, y, steps=10)
    assert simulated - started < 1.0
    assert time.perf_counter() - simulated < 2.0


def test_given_validation_data_choose_and_are_then_learned_from():
    rng = np.random.default_rng(17)
    u, y = siso(rng, 400, noise=0.5)
    whole = Experiments.from_arrays(u, y)
    train, valid = whole.split_time((0.5, 0.5), context=10)
    model = ARX(2, 2).fit(train, valid=valid)
    again = ARX(2, 2, ridge=model.ridge_).fit(Experiments.concat([train, valid]))
    np.testing.assert_array_equal(model.a_, again.a_)
    assert len(model.search_) == 13
    assert {s.split for s in model.scores_} == {"train", "validation"}
    held = [s for s in model.scores_ if s.split == "validation" and s.metric == "rmse"]
    before = ARX(2, 2, ridge=model.ridge_).fit(train)
    assert held[0].value == pytest.approx(before.evaluate(valid)[0].value, rel=1e-9)


def test_folder_gives_the_same_predictions(tmp_path):
    u, y = mimo(np.random.default_rng(18), 200, noise=0.5)
    data = Experiments.from_arrays(
        u, y, dt=0.5, time_unit="s", input_names=["a", "b", "c"], output_units=["V", "m"]
    )
    model = ARX(2, 2).fit(data)
    model.save(tmp_path / "a model")
    model.save(tmp_path / "a model")
    names = {path.name for path in (tmp_path / "a model").iterdir()}
    assert names == {"config.json", "model.safetensors", "metrics.json"}
    back = ARX.load(tmp_path / "a model")
    assert back.get_params() == model.get_params()
    for steps in (1, 7):
        np.testing.assert_array_equal(back.predict(u, y, steps), model.predict(u, y, steps))
    np.testing.assert_array_equal(back.simulate(u), model.simulate(u))
    np.testing.assert_array_equal(back.poles_, model.poles_)
    assert back.scores_ == model.scores_
    assert (back.dt_, back.time_unit_, back.input_names_) == (0.5, "s", ("a", "b", "c"))
    assert back.output_units_ == ("V", "m")
    assert back.search_ == model.search_


def test_damaged_folders_are_refused(tmp_path):
    u, y = siso(np.random.default_rng(19), 100)
    model = ARX(2, 2, ridge=0.0).fit(u, y)
    with pytest.raises(DataError, match=r"lacks config\.json"):
        ARX.load(tmp_path / "nothing")
    model.save(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        ARX.load(tmp_path / "m")
    model.save(tmp_path / "m")
    other = ARX(3, 1, ridge=0.0).fit(u, y)
    other.save(tmp_path / "other")
    weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"a of shape \(3, 1, 1\), expected \(2, 1, 1\)"):
        ARX.load(tmp_path / "m")
    weights.unlink()
    with pytest.raises(DataError, match=r"lacks a file of the model .*model\.safetensors"):
        ARX.load(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "params": {"order": 3}}))
    with pytest.raises(DataError, match="do not fit together"):
        ARX.load(tmp_path / "m")
    config.write_text(json.dumps({**values, "kind": "FIR"}))
    with pytest.raises(DataError, match="holds a FIR, not a ARX"):
        ARX.load(tmp_path / "m")
    config.write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        ARX.load(tmp_path / "m")


@settings(max_examples=30, deadline=None)
@given(
    n_u=st.integers(1, 3),
    n_y=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    na=st.integers(0, 3),
    nb=st.integers(1, 3),
    nk=st.integers(0, 2),
    steps=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_shapes(n_u, n_y, lengths, na, nb, nk, steps, seed):
    rng = np.random.default_rng(seed)
    u = [rng.standard_normal((n, n_u)) for n in [*lengths, 60]]
    y = [rng.standard_normal((n, n_y)) for n in [*lengths, 60]]
    model = ARX(na, nb, nk, ridge=0.01).fit(u, y)
    assert model.a_.shape == (na, n_y, n_y)
    assert model.b_.shape == (nb, n_y, n_u)
    assert model.poles_.shape == (na * n_y,)
    for outputs in (model.simulate(u), model.predict(u, y, steps), model.residuals(u, y)):
        assert [o.shape for o in outputs] == [part.shape for part in y]
        assert all(np.isfinite(o).all() for o in outputs)
    one = model.simulate(u[-1])
    np.testing.assert_array_equal(one, model.simulate(u)[-1])
    stack = model.simulate(np.stack([u[-1], 2 * u[-1]]))
    assert stack.shape == (2, 60, n_y)
    np.testing.assert_array_equal(stack[0], one)


def test_errors_are_sentences():
    u, y = siso(np.random.default_rng(20), 100)
    with pytest.raises(NotFittedError, match="this ARX is not fitted yet: call fit first"):
        ARX().simulate(u)
    with pytest.raises(ValueError, match="y is missing"):
        ARX().fit(u)
    with pytest.raises(TypeError, match="leave y out"):
        ARX().fit(Experiments.from_arrays(u, y), y)
    for bad, words in (
        ({"na": -1}, "na must be at least 0, got -1"),
        ({"na": 0, "nb": 0}, "nothing to regress on"),
        ({"ridge": -1.0}, "ridge must be at least 0"),
        ({"ridge": float("nan")}, "ridge must be at least 0"),
        ({"folds": 1}, "folds must be at least 2"),
    ):
        with pytest.raises(ValueError, match=words):
            ARX(**bad).fit(u, y)
    with pytest.raises(ValueError, match="give valid=, fewer folds, or fix them"):
        ARX(1, 1).fit(u[:3], y[:3])
    with pytest.raises(ValueError, match="no stretch of more than 8 samples"):
        ARX(8, 8, ridge=0.0).fit(u[:8], y[:8])
    model = ARX(2, 2, ridge=0.0).fit(u, y)
    with pytest.raises(ValueError, match=r"fitted with 1 input\(s\) \(u\), got 2"):
        model.simulate(np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"fitted with 1 output\(s\) \(y\), the records have 2"):
        model.predict(u, np.stack([y, y], 1))
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        model.predict(u, y, steps=0)
    with pytest.raises(ValueError, match="x0 holds the last outputs"):
        model.simulate(u, x0=np.zeros((2, 3)))
    with pytest.raises(ValueError, match='mode must be "simulation"'):
        model.evaluate(Experiments.from_arrays(u, y), "prediction")
    uneven = Experiments.from_arrays(u[:4], y[:4], t=np.array([0.0, 1.0, 2.0, 5.0]))
    with pytest.raises(ValueError, match="unevenly sampled"):
        ARX(1, 1).fit(uneven)
    slow = ARX(1, 1, ridge=0.0).fit(Experiments.from_arrays(u, y, dt=1.0, time_unit="s"))
    with pytest.raises(ValueError, match="sampling interval of 1 s, the records have 2"):
        slow.evaluate(Experiments.from_arrays(u, y, dt=2.0, time_unit="s"))
