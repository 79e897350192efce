"""SystemIdentifier: what it takes, what its methods promise to each other, what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn.exceptions
import torch
from identifier_systems import TRAINED, identifier, measured, quick, small, without_time
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.utils.validation import check_is_fitted

from statewise._errors import DataError
from statewise.data import Experiments, Normaliser, Record
from statewise.estimators import SystemIdentifier
from statewise.estimators._base import NotFittedError
from statewise.estimators.noise import ErrorModel

U, Y = measured()
NEW_U, NEW_Y = U[TRAINED:], Y[TRAINED:]


# ---- what it takes ----


@pytest.mark.parametrize(
    "form",
    [
        lambda a: a.tolist(),
        lambda a: [a],
        lambda a: a[None],
        torch.from_numpy,
        lambda a: torch.from_numpy(a).requires_grad_(),
        pd.DataFrame,
        lambda a: pl.DataFrame(a, schema=["a", "b"]),
        np.asfortranarray,
    ],
    ids=["lists", "records", "stack", "tensor", "gradient", "pandas", "polars", "fortran"],
)
def test_every_form_of_data_gives_the_same_model(form):
    u, y = U[:150], Y[:150]
    plain = identifier().fit(u, y)
    other = identifier().fit(form(u), form(y))
    np.testing.assert_array_equal(np.squeeze(other.simulate(form(u))), plain.simulate(u))
    np.testing.assert_array_equal(np.squeeze(other.predict(form(u), form(y))), plain.predict(u, y))
    assert other.score(form(u), form(y)) == plain.score(u, y)


def test_experiments_carry_names_units_and_time():
    records = [Record(y=Y[:100], u=U[:100], dt=0.5), Record(y=Y[100:170], u=U[100:170], dt=0.5)]
    names = {"input_names": ["volt", "load"], "output_names": ["speed", "heat"]}
    data = Experiments(records, **names, output_units=["rad/s", "K"], time_unit="s")
    model = identifier().fit(data)
    assert (model.input_names_, model.output_names_) == (("volt", "load"), ("speed", "heat"))
    assert (model.output_units_, model.time_unit_, model.dt_) == (("rad/s", "K"), "s", 0.5)
    arrays = identifier().fit([r.u for r in records], [r.y for r in records], dt=0.5)
    for one, two in zip(model.simulate(data), arrays.simulate([r.u for r in data]), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    assert [len(y_hat) for y_hat in model.predict(data, steps=3)] == [100, 70]
    with pytest.raises(ValueError, match=r"fitted with 2 input\(s\) \(volt, load\), got 1"):
        model.simulate(U[:, :1])


def test_one_dimensional_signals_are_one_channel():
    model = SystemIdentifier(small(), quick()).fit(U[:150, 0], Y[:150, 1])
    assert model.simulate(U[:20, 0]).shape == (20, 1)
    assert model.predict(U[:20, 0], Y[:20, 1]).shape == (20, 1)
    assert model.forecast(U[:20, 0], Y[:20, 1], U[20:27, 0]).shape == (7, 1)


def test_layout_of_the_answer_is_that_of_the_question(fitted):
    stack = U[:60].reshape(3, 20, 2)
    assert fitted.simulate(stack).shape == (3, 20, 2)
    uneven = fitted.simulate([U[:7], U[7:20]])
    assert [y.shape for y in uneven] == [(7, 2), (13, 2)]
    np.testing.assert_array_equal(uneven[1], fitted.simulate(U[7:20]))


def test_gaps_are_learned_around():
    rng = np.random.default_rng(1)
    u, y = U[:300].copy(), Y[:300].copy()
    u[rng.random(u.shape) < 0.05] = np.nan
    y[rng.random(y.shape) < 0.2] = np.nan
    model = identifier(quick(steps=60, eval_every=30)).fit(u, y)
    assert model.score(U[:300], Y[:300]) > 0.3
    for steps in (None, 1, 4):
        np.testing.assert_array_equal(np.isnan(model.residuals(u, y, steps=steps)), np.isnan(y))
    assert np.isfinite(model.predict(u, y, steps=2)).all()
    assert np.isfinite(model.forecast(u, y, u[:5])).all()


def test_missing_input_is_its_training_mean(fitted):
    holes, filled = U[:80].copy(), U[:80].copy()
    holes[20:30, 1], filled[20:30, 1] = np.nan, fitted.normaliser_.u_mean[1]
    filled_run, state = fitted.simulate_with_state(filled)
    run, after = fitted.simulate_with_state(holes)
    np.testing.assert_allclose(run, filled_run, atol=1e-5)
    record = Experiments([Record(y=Y[:80], u=holes)])
    np.testing.assert_allclose(fitted.simulate(record)[0], filled_run, atol=1e-5)
    one, two = fitted.simulate(U[80:90], x0=after), fitted.simulate(U[80:90], x0=state)
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_records_without_outputs_are_simulated(fitted):
    bare = Experiments([Record(y=np.empty((50, 0)), u=U[:50])])
    np.testing.assert_allclose(fitted.simulate(bare)[0], fitted.simulate(U[:50]), atol=1e-5)


# ---- what it learns ----


def test_learns_the_system_and_says_on_what(fitted):
    assert fitted.score(NEW_U, NEW_Y) > 0.9
    train, valid = (
        [s for s in fitted.scores_ if (s.split, s.metric) == (split, "rmse")]
        for split in ("train", "validation")
    )
    assert [s.channel for s in train] == [s.channel for s in valid] == ["y1", "y2"]
    assert valid[0].window == "samples 17–196: first 16 for the initial state"
    assert {s.mode for s in fitted.scores_} == {"simulation"}
    expected = Normaliser.fit(Experiments.from_arrays(U[:720], Y[:720]))
    np.testing.assert_array_equal(fitted.normaliser_.y_mean, expected.y_mean)


def test_seed_decides_everything():
    one, two, other = (identifier(seed=s).fit(U[:150], Y[:150]) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.simulate(U), two.simulate(U))
    assert without_time(one.history_) == without_time(two.history_)
    assert np.abs(one.simulate(U) - other.simulate(U)).max() > 1e-3


def test_without_validation_everything_is_learned_from():
    model = identifier(valid_fraction=0.0).fit(U[:150], Y[:150])
    assert [row["valid"] for row in model.history_] == [None, None]
    assert {s.split for s in model.scores_} == {"train"}
    whole = Normaliser.fit(Experiments.from_arrays(U[:150], Y[:150]))
    np.testing.assert_array_equal(model.normaliser_.u_std, whole.u_std)


def test_given_validation_leaves_training_whole():
    valid = Experiments.from_arrays(NEW_U, NEW_Y)
    model = identifier(valid_fraction=0.9).fit(U[:150], Y[:150], valid=valid)
    (last,) = [s for s in model.scores_ if (s.split, s.metric, s.channel) == ("train", "nse", "y1")]
    assert last.window == "samples 1–150"
    assert np.isfinite([row["valid"] for row in model.history_]).all()
    assert model.evaluate(valid, split="validation")[0] in model.scores_


def test_error_model_is_that_of_data_the_weights_never_saw():
    u, y = U[:150, :1], Y[:150, 1:]
    valid = Experiments.from_arrays(NEW_U[:, :1], NEW_Y[:, 1:])
    model = identifier().fit(u, y, valid=valid)
    settled = (NEW_Y[:, 1:] - model.simulate(NEW_U[:, :1]))[64:]
    expected = ErrorModel.fit([settled])
    np.testing.assert_allclose(
        model.error_model_.coefficients, expected.coefficients, rtol=1e-3, atol=1e-4
    )


def test_interrupted_fit_goes_on_to_the_same_model(tmp_path, monkeypatch):
    from statewise.train.loop import Run

    training = quick(steps=6, polish_steps=2)
    straight = identifier(training).fit(U[:150], Y[:150])
    evaluate = Run._evaluate_adam

    def stop(run):
        evaluate(run)
        if run.adam.step_index == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_evaluate_adam", stop)
    broken = identifier(training)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(U[:150], Y[:150], folder=tmp_path)
    with pytest.raises(NotFittedError):
        broken.simulate(U)
    monkeypatch.undo()
    resumed = identifier(training).fit(U[:150], Y[:150], folder=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.simulate(U), straight.simulate(U))
    assert without_time(resumed.history_) == without_time(straight.history_)
    assert resumed.error_model_.coefficients.tolist() == straight.error_model_.coefficients.tolist()


def test_fit_that_fails_leaves_no_mixture():
    model = identifier().fit(U[:150], Y[:150])
    with pytest.raises(ValueError, match="the folder of the run"):
        model.fit(U[:150], 5.0 * Y[:150], resume=True)
    with pytest.raises(NotFittedError, match="this SystemIdentifier is not fitted yet"):
        model.simulate(U)


# ---- scikit-learn ----


def test_clone_has_the_settings_and_nothing_learned(fitted):
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    check_is_fitted(fitted)
    assert not hasattr(copied, "model_")
    with pytest.raises(sklearn.exceptions.NotFittedError):
        check_is_fitted(copied)
    assert repr(copied).startswith("SystemIdentifier(model=DeepWienerConfig(n_layers=1")
    again = copy.deepcopy(fitted)
    np.testing.assert_array_equal(again.simulate(NEW_U), fitted.simulate(NEW_U))


def test_nested_settings_are_set_by_path():
    model = identifier().set_params(seed=4, training__lr=0.5, model__poles__law__r_max=0.6)
    assert model.get_params()["seed"] == 4
    assert model.training == quick(lr=0.5)
    assert model.model.poles.law.r_max == 0.6
    assert model.model.n_layers == 1
    for name, message in {
        "depth": "has no parameter 'depth'",
        "model__depth": "has no setting 'depth'",
        "transform__power": "transform is None, which has no setting 'power'",
    }.items():
        with pytest.raises(ValueError, match=message):
            model.set_params(**{name: 1})


def test_cross_validation_and_search():
    folds = TimeSeriesSplit(2)
    scores = cross_val_score(identifier(), U[:300], Y[:300], cv=folds)
    train, test = next(iter(folds.split(U[:300])))
    by_hand = identifier().fit(U[train], Y[train]).score(U[test], Y[test])
    assert scores[0] == by_hand
    search = GridSearchCV(identifier(), {"training__steps": [0, 30]}, cv=folds, error_score="raise")
    search.fit(U[:300], Y[:300])
    assert search.best_params_ == {"training__steps": 30}
    assert search.best_estimator_.training == quick(steps=30)


# ---- scores ----


def test_scores_and_residuals_are_what_they_say(fitted):
    simulated = fitted.simulate(NEW_U)
    errors = NEW_Y - simulated
    np.testing.assert_array_equal(fitted.residuals(NEW_U, NEW_Y), errors)
    nse = 1 - (errors**2).sum(0) / ((NEW_Y - NEW_Y.mean(0)) ** 2).sum(0)
    assert fitted.score(NEW_U, NEW_Y) == pytest.approx(nse.mean())
    data = Experiments([Record(y=NEW_Y, u=NEW_U, skip=40)], output_units=["rad/s", ""])
    free = fitted.evaluate(data, metrics=["rmse"], split="later")
    assert [s.value for s in free] == pytest.approx(np.sqrt((errors[40:] ** 2).mean(0)), rel=1e-5)
    assert (free[0].unit, free[0].split, free[0].mode) == ("rad/s", "later", "simulation")
    assert free[0].window == "samples 41–300: first 40 for the initial state"
    ahead = fitted.evaluate(data, 3, metrics=["rmse"], scale=1000.0, unit="mrad/s")
    assert (ahead[0].mode, ahead[0].unit) == ("3-step prediction", "mrad/s")
    predicted = fitted.residuals(NEW_U, NEW_Y, steps=3)[40:, 0]
    assert ahead[0].value == pytest.approx(1000.0 * np.sqrt((predicted**2).mean()), rel=1e-5)


# ---- edges ----


def test_records_shorter_than_a_window_are_learned_from():
    lengths = [30, 45, 64, 20]
    cuts = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    model = identifier().fit([U[c] for c in cuts], [Y[c] for c in cuts])
    assert np.isfinite(model.simulate(U)).all()
    with pytest.raises(DataError, match="no observed output is left to learn from"):
        identifier().fit(U[:15], Y[:15])
    with pytest.raises(DataError, match=r"too few to give part 1 the share 0\.2"):
        identifier().fit(U[:2], Y[:2])


def test_constant_input_is_kept_apart_from_scale():
    u = np.column_stack([U[:150, 0], np.full(150, 7.0)])
    model = identifier().fit(u, Y[:150])
    assert model.normaliser_.u_std[1] == 1.0
    assert np.isfinite(model.simulate(u)).all()


def test_single_samples(fitted):
    one = fitted.predict(U[:1], Y[:1])
    np.testing.assert_allclose(one, fitted.simulate(U)[:1], atol=2e-5)
    assert fitted.residuals(U[:1], Y[:1]).shape == (1, 2)
    assert fitted.forecast(U[:1], Y[:1], U[1:2]).shape == (1, 2)


# ---- refusals ----


USES = {
    "simulate": lambda m: m.simulate(U),
    "simulate_with_state": lambda m: m.simulate_with_state(U),
    "estimate_state": lambda m: m.estimate_state(U, Y),
    "predict": lambda m: m.predict(U, Y),
    "forecast": lambda m: m.forecast(U, Y, U),
    "residuals": lambda m: m.residuals(U, Y),
    "score": lambda m: m.score(U, Y),
    "evaluate": lambda m: m.evaluate(Experiments.from_arrays(U, Y)),
    "simulate_experiments": lambda m: m.simulate_experiments(Experiments.from_arrays(U, Y)),
    "save": lambda m: m.save("nowhere"),
}


@pytest.mark.parametrize("use", USES)
def test_before_fit_one_sentence_says_so(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFittedError, match="this SystemIdentifier is not fitted yet: call fit"):
        USES[use](identifier())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings_", "error", "message"),
    [
        ({"valid_fraction": 1.0}, ValueError, r"valid_fraction is in \[0, 1\); given 1.0"),
        ({"valid_fraction": -0.1}, ValueError, r"valid_fraction is in \[0, 1\); given -0.1"),
        ({"model": quick()}, TypeError, "model is None or of type DeepWienerConfig; given FitC"),
        ({"training": small()}, TypeError, "training is None or of type FitConfig; given DeepW"),
        ({"transform": np.sqrt}, TypeError, "transform is None or of type OutputTransform"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_, error, message):
    with pytest.raises(error, match=message):
        identifier().set_params(**settings_).fit(U[:150], Y[:150])


def experiments():
    return Experiments.from_arrays(U[:150], Y[:150])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.fit(None, Y), ValueError, "needs at least one input, the records have none"),
        (lambda m: m.fit(U), ValueError, "y is missing"),
        (lambda m: m.fit(experiments(), Y[:150]), TypeError, "leave y out"),
        (lambda m: m.fit(experiments(), dt=0.1), TypeError, "leave out dt=0.1"),
        (
            lambda m: m.fit(U[:99], Y),
            DataError,
            r"u has shape \(99, 2\) and y has shape \(1200, 2\)",
        ),
        (lambda m: m.fit(U, Y * np.nan), DataError, "has no observed sample"),
        (lambda m: m.fit(U, Y, valid=(U, Y)), TypeError, "Experiments or None; given tuple"),
        (lambda m: m.fit(U * np.inf, Y), DataError, "infinite|inf"),
    ],
)
def test_fit_refuses_what_it_cannot_use(call, error, message):
    with pytest.raises(error, match=message):
        call(identifier())


INF = np.where(np.arange(20)[:, None] == 7, np.inf, U[:20])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.simulate(U[:, :1]), r"was fitted with 2 input\(s\) \(u1, u2\), got 1"),
        (lambda m: m.predict(U[:, :1], Y), r"was fitted with 2 input\(s\) \(u1, u2\), got 1"),
        (lambda m: m.predict(U, Y[:, :1]), r"2 output\(s\) \(y1, y2\), the records have 1"),
        (lambda m: m.predict(U, Y, steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda m: m.simulate(np.empty((0, 2))), "u has no samples"),
        (lambda m: m.simulate(INF), "u is infinite in sample 7"),
        (lambda m: m.simulate_with_state([U, U]), "u is one record here.*given 2 records"),
        (lambda m: m.estimate_state(U, [Y, Y]), "y is one record here.*given 2 records"),
        (lambda m: m.estimate_state(U, Y[:9]), r"u has 1200 samples.*y of shape \(9, 2\)"),
        (lambda m: m.estimate_state(U[:9], Y[:9] * np.nan), "none of the first 9 outputs"),
        (lambda m: m.forecast(U, Y[:9], U), r"u has 1200 samples.*y of shape \(9, 2\)"),
        (lambda m: m.forecast(U, Y[:, :1], U), r"2 output\(s\); given y of shape \(1200, 1\)"),
        (lambda m: m.forecast(U, Y, U[:, 0]), r"was fitted with 2 input\(s\) \(u1, u2\), got 1"),
        (lambda m: m.forecast(U, Y, [U, U]), "u_future is one record here"),
        (lambda m: m.simulate(U, x0=1.0), "takes a tuple of 1 states"),
        (lambda m: m.evaluate(experiments(), "free run"), "simulation"),
        (lambda m: m.simulate(experiments(), x0=1.0), "leave x0 out"),
    ],
)
def test_use_refuses_what_does_not_fit(fitted, call, message):
    with pytest.raises(ValueError, match=message):
        call(fitted)
