"""FIR: exact recovery, history, gaps, the choice of lags, and scikit-learn's conventions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise.data import Experiments, Record
from statewise.estimators import ARX, FIR


def system(rng, length, lags=6, n_u=2, n_y=2, noise=0.0):
    """Inputs, outputs once all lags lie in the record, and the true response."""
    response = rng.standard_normal((lags, n_y, n_u)) * 0.7 ** np.arange(lags)[:, None, None]
    u = rng.standard_normal((length, n_u)) + 2.0
    y = np.full((length, n_y), 1.5)
    for k, gain in enumerate(response):
        y[k:] += u[: max(length - k, 0)] @ gain.T
    return u, y + noise * rng.standard_normal(y.shape), response


def test_recovers_a_noise_free_response():
    u, y, response = system(np.random.default_rng(0), 300)
    model = FIR(lags=6, ridge=0.0).fit(u, y)
    np.testing.assert_allclose(model.coef_, response, atol=1e-8)
    np.testing.assert_allclose(model.intercept_, 1.5, atol=1e-8)
    np.testing.assert_allclose(model.simulate(u)[5:], y[5:], atol=1e-8)
    longer = FIR(lags=9, ridge=0.0).fit(u, y)
    np.testing.assert_allclose(longer.coef_[6:], 0.0, atol=1e-8)


def test_is_the_stacked_least_squares_problem():
    rng = np.random.default_rng(1)
    parts = [system(rng, n, noise=1.0)[:2] for n in (30, 4, 80)]
    x, target = [], []
    for u, y in parts:
        for t in range(4, len(y)):
            x.append(np.concatenate([*(u[t - k] for k in range(5)), [1.0]]))
            target.append(y[t])
    weights, *_ = np.linalg.lstsq(np.array(x), np.array(target), rcond=None)
    model = FIR(lags=5, ridge=0.0).fit([u for u, _ in parts], [y for _, y in parts])
    np.testing.assert_allclose(model.coef_[3], weights[6:8].T, atol=1e-9)
    np.testing.assert_allclose(model.intercept_, weights[-1], atol=1e-9)


def test_is_an_arx_without_past_outputs():
    u, y, _ = system(np.random.default_rng(2), 200, noise=0.3)
    fir, arx = FIR(lags=4, ridge=0.01).fit(u, y), ARX(0, 4, ridge=0.01).fit(u, y)
    np.testing.assert_array_equal(fir.simulate(u), arx.simulate(u))
    np.testing.assert_array_equal(fir.coef_, arx.b_)


def test_ridge_shrinks():
    u, y, _ = system(np.random.default_rng(3), 200, noise=0.3)
    sizes = [np.linalg.norm(FIR(lags=6, ridge=r).fit(u, y).coef_) for r in (0.0, 0.1, 1.0, 100.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.05 * sizes[0]


def test_dependent_inputs_are_solved_by_the_smallest_answer():
    u, y, _ = system(np.random.default_rng(4), 200, n_u=1, n_y=1)
    doubled = np.concatenate([u, u, np.full_like(u, 7.0)], axis=1)
    model = FIR(lags=6, ridge=0.0).fit(doubled, y)
    np.testing.assert_allclose(model.coef_[..., 0], model.coef_[..., 1], atol=1e-9)
    np.testing.assert_allclose(model.coef_[..., 2], 0.0, atol=1e-14)
    np.testing.assert_allclose(model.simulate(doubled)[5:], y[5:], atol=1e-8)


def test_prediction_at_any_horizon_is_the_simulation():
    u, y, _ = system(np.random.default_rng(5), 100, noise=0.3)
    model = FIR(lags=4, ridge=0.0).fit(u, y)
    for steps in (1, 3, 500):
        np.testing.assert_array_equal(model.predict(u, y, steps), model.simulate(u))


def test_history_comes_from_x0_or_from_the_skip_window():
    u, y, _ = system(np.random.default_rng(6), 100, noise=0.3)
    model = FIR(lags=5, ridge=0.0).fit(u, y)
    whole = model.simulate(u)
    np.testing.assert_allclose(model.simulate(u[40:], x0=u[:40]), whole[40:], atol=1e-12)
    np.testing.assert_allclose(model.simulate(u[40:], x0=u[36:40]), whole[40:], atol=1e-12)
    assert np.abs(model.simulate(u[40:]) - whole[40:])[:4].max() > 0.01
    part = Experiments([Record(y=y, u=u)]).split_time((0.5, 0.5), context=4)[1]
    np.testing.assert_allclose(model.simulate_experiments(part)[0][4:], whole[50:], atol=1e-12)
    with pytest.raises(ValueError, match=r"x0 holds the last inputs, \(m, 2\), got \(3, 1\)"):
        model.simulate(u, x0=np.zeros(3))


def test_before_the_record_inputs_are_at_the_mean():
    u, y, _ = system(np.random.default_rng(7), 100, noise=0.3)
    model = FIR(lags=5, ridge=0.0).fit(u, y)
    past = np.tile(u.mean(axis=0), (4, 1))
    np.testing.assert_allclose(model.simulate(u), model.simulate(u, x0=past), atol=1e-12)
    holed = u.copy()
    holed[50] = np.nan
    filled = u.copy()
    filled[50] = u.mean(axis=0)
    np.testing.assert_allclose(model.simulate(holed), model.simulate(filled), atol=1e-12)


def test_outputs_missing_at_different_times_are_separate_problems():
    rng = np.random.default_rng(8)
    u, y, _ = system(rng, 200, noise=0.5)
    y[rng.random(y.shape) < 0.3] = np.nan
    both = FIR(lags=4, ridge=0.0).fit(u, y)
    for channel in range(2):
        alone = FIR(lags=4, ridge=0.0).fit(u, y[:, channel])
        np.testing.assert_allclose(both.coef_[:, channel], alone.coef_[:, 0], atol=1e-10)
    chosen = FIR().fit(u, y)
    assert chosen.score(u, y) > 0.5


def test_chooses_lags_and_ridge_on_data_left_out():
    u, y, _ = system(np.random.default_rng(9), 900, lags=12, noise=0.3)
    model = FIR().fit(u, y)
    assert model.lags_ == 15  # the shortest offer that holds 12
    assert model.search_[0]["error"] == min(trial["error"] for trial in model.search_)
    again = FIR(lags=15, ridge=model.ridge_).fit(u, y)
    np.testing.assert_array_equal(model.coef_, again.coef_)
    assert {s.split for s in model.scores_} == {"train", "5-fold cross-validation"}
    noise = FIR(lags=30).fit(u, np.random.default_rng(10).standard_normal(900))
    assert noise.ridge_ == 1.0


def test_a_short_record_is_offered_short_responses():
    u, y, _ = system(np.random.default_rng(11), 60, lags=3, noise=0.1)
    assert max(trial["nb"] for trial in FIR().fit(u, y).search_) <= 10


def test_many_short_records_are_left_out_whole():
    rng = np.random.default_rng(16)
    u, y, response = system(rng, 600, lags=3, noise=0.1)
    cuts = np.sort(rng.choice(np.arange(10, 590), 60, replace=False))
    model = FIR().fit(np.split(u, cuts), np.split(y, cuts))
    np.testing.assert_allclose(model.coef_[:3], response, atol=0.1)
    assert len(model.search_) > 1


def test_torch_tensors_and_frames():
    torch = pytest.importorskip("torch")
    pandas = pytest.importorskip("pandas")
    u, y, _ = system(np.random.default_rng(12), 100, noise=0.3)
    model = FIR(lags=4, ridge=0.0).fit(torch.tensor(u), torch.tensor(y, requires_grad=True))
    plain = FIR(lags=4, ridge=0.0).fit(u, y)
    np.testing.assert_array_equal(model.coef_, plain.coef_)
    frame = FIR(lags=4, ridge=0.0).fit(pandas.DataFrame(u), pandas.DataFrame(y))
    np.testing.assert_array_equal(frame.coef_, plain.coef_)
    with pytest.raises(ValueError, match="u cannot be read as an array of numbers"):
        plain.simulate(np.array([["a", "b"]]))
    with pytest.raises(ValueError, match=r"u must be \(L,\), \(L, n\) or \(R, L, n\)"):
        plain.simulate(np.zeros((1, 1, 1, 2)))


def test_records_without_outputs_can_be_simulated():
    u, y, _ = system(np.random.default_rng(13), 100, noise=0.3)
    model = FIR(lags=4, ridge=0.0).fit(u, y)
    [free] = model.simulate(Experiments([Record(y=np.zeros((100, 0)), u=u)]))
    np.testing.assert_array_equal(free, model.simulate(u))


@settings(max_examples=30, deadline=None)
@given(
    n_u=st.integers(1, 3),
    n_y=st.integers(1, 3),
    lags=st.integers(1, 12),
    length=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_shapes(n_u, n_y, lags, length, seed):
    rng = np.random.default_rng(seed)
    u, y, _ = system(rng, 50, n_u=n_u, n_y=n_y)
    model = FIR(lags=lags, ridge=0.01).fit(u, y)
    assert model.coef_.shape == (lags, n_y, n_u)
    assert model.simulate(u[:length]).shape == (length, n_y)
    assert model.simulate(u[:length], x0=u).shape == (length, n_y)


def test_scikit_learn_conventions():
    base = pytest.importorskip("sklearn.base")
    selection = pytest.importorskip("sklearn.model_selection")
    validation = pytest.importorskip("sklearn.utils.validation")
    u, y, _ = system(np.random.default_rng(14), 300, noise=0.3)
    for estimator in (FIR(lags=7, ridge=0.5), ARX(na=1, nb=2, nk=1)):
        copy = base.clone(estimator)
        assert copy is not estimator
        assert copy.get_params() == estimator.get_params()
        assert base.is_regressor(copy)
        with pytest.raises(ValueError, match="not fitted"):
            validation.check_is_fitted(copy)
        copy.fit(u, y)
        validation.check_is_fitted(copy)
        assert not hasattr(base.clone(copy), "n_features_in_")
    search = selection.GridSearchCV(
        FIR(ridge=0.0), {"lags": [1, 6]}, cv=selection.TimeSeriesSplit(3)
    )
    search.fit(u, y)
    assert search.best_params_ == {"lags": 6}
    assert search.best_score_ > 0.5
    scores = selection.cross_val_score(
        FIR(6, 0.0), u, y, cv=selection.TimeSeriesSplit(3), scoring="r2"
    )
    assert (scores > 0.5).all()


def test_parameters_by_name():
    model = FIR(lags=3).set_params(ridge=0.1, lags=4)
    assert model.get_params() == {"lags": 4, "ridge": 0.1, "bias": True, "folds": 5}
    assert repr(model) == "FIR(lags=4, ridge=0.1)"
    with pytest.raises(ValueError, match="FIR has no parameter 'order'; its parameters are lags"):
        model.set_params(order=3)


def test_errors_are_sentences():
    u, y, _ = system(np.random.default_rng(15), 50)
    with pytest.raises(ValueError, match="FIR needs inputs"):
        FIR().fit(None, y)
    with pytest.raises(ValueError, match="lags must be at least 1"):
        FIR(lags=0).fit(u, y)
    model = FIR(lags=3, ridge=0.0).fit(u, y)
    with pytest.raises(ValueError, match="2 records need as many x0, got 1"):
        model.simulate([u, u], x0=[u])
    with pytest.raises(ValueError, match="leave x0 out"):
        model.simulate(Experiments.from_arrays(u, y), x0=u)
    name = "NARX"
    with pytest.raises(AttributeError, match="has no attribute 'NARX'"):
        getattr(sys.modules["statewise.estimators"], name)


def test_baselines_need_neither_torch_nor_scikit_learn():
    code = (
        "import sys, numpy as np\n"
        "from statewise.estimators import ARX, FIR\n"
        "rng = np.random.default_rng(0)\n"
        "u, y = rng.standard_normal((2, 100))\n"
        "repr(ARX(1, 1, ridge=0.0).fit(u, y).score(u, y)), FIR(3, 0.0).fit(u, y)\n"
        "loaded = {'torch', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
