"""Initial states: found by least squares, learned, encoded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from train_systems import linear_model, oscillator, quick, small_model

from statewise.data import Record
from statewise.models import DeepWiener
from statewise.nn import DiscreteDiagonal, Ring
from statewise.nn.contract import state_tensors
from statewise.train import (
    Carry,
    EncoderState,
    FitConfig,
    LearnedState,
    LeastSquaresState,
    ZeroState,
    estimate_state,
    fit,
    free_run,
)
from statewise.train.state_vector import flatten_state, state_size, unflatten_state


def _started(model, batch: int, length: int, size: float = 1.0):
    """Inputs, a random start, and the outputs that follow from it."""
    generator = torch.Generator().manual_seed(5)
    dtype = next(model.parameters()).dtype
    u = torch.randn(batch, length, model.d_input, generator=generator, dtype=dtype)
    rest = model.init_state(batch)
    vector = size * torch.randn(batch, state_size(model), generator=generator, dtype=dtype)
    state = unflatten_state(vector, rest)
    return u, state


def test_a_state_is_a_vector_and_back() -> None:
    model = small_model()
    _, state = _started(model, 3, 4)
    vector = flatten_state(state)
    assert vector.shape == (3, state_size(model)) == (3, 8)
    for one, other in zip(
        state_tensors(state), state_tensors(unflatten_state(vector, state)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_linear_state_is_found_exactly() -> None:
    model = linear_model(seed=1).double()
    u, state = _started(model, 2, 40, size=5.0)
    y = model(u, state)[0].detach()
    found = estimate_state(model, u, y, iterations=3, ridge=0.0)
    torch.testing.assert_close(flatten_state(found), flatten_state(state), atol=1e-6, rtol=1e-6)
    assert not flatten_state(found).requires_grad


def test_a_nonlinear_state_is_found() -> None:
    model = small_model(seed=2).double()
    u, state = _started(model, 2, 60)
    y = model(u, state)[0].detach()
    found = estimate_state(model, u, y, iterations=100, ridge=1e-12)
    y_hat = model(u, found)[0].detach()
    rest = model(u)[0].detach()
    assert (y_hat - y).abs().max() < 1e-5 < 0.05 < (rest - y).abs().max()


def test_gaps_and_uneven_steps_count_in_the_estimate() -> None:
    model = linear_model(seed=1).double()
    u, state = _started(model, 1, 40, size=5.0)
    generator = torch.Generator().manual_seed(2)
    dt = 0.5 + torch.rand(1, 40, generator=generator, dtype=torch.float64)
    mask = torch.rand(1, 40, 1, generator=generator) > 0.2
    seen = torch.rand(1, 40, 1, generator=generator) > 0.3
    y = model(u, state, dt=dt, mask=mask)[0].detach()
    holes = torch.where(seen, y, torch.full_like(y, 1e3))
    gaps = torch.where(mask, u, torch.full_like(u, float("nan")))
    found = estimate_state(model, gaps, holes, dt=dt, mask=mask, y_mask=seen, ridge=0.0)
    torch.testing.assert_close(flatten_state(found), flatten_state(state), atol=1e-5, rtol=1e-5)
    plain = estimate_state(model, gaps, holes, dt=dt, ridge=0.0)
    assert (flatten_state(plain) - flatten_state(state)).abs().max() > 1


def test_only_the_first_samples_are_used() -> None:
    model = linear_model(seed=1).double()
    u, state = _started(model, 1, 40, size=5.0)
    y = model(u, state)[0].detach()
    y[:, 20:] = 1e3
    found = estimate_state(model, u[0].numpy(), y[0].numpy(), samples=20, ridge=0.0)
    torch.testing.assert_close(flatten_state(found), flatten_state(state), atol=1e-5, rtol=1e-5)


def test_what_the_outputs_do_not_see_stays_at_rest() -> None:
    model = small_model(n_layers=3, d_state=8).double()
    u, state = _started(model, 1, 4)
    y = model(u, state)[0].detach()
    found = estimate_state(model, u, y, iterations=50, ridge=1e-9)
    assert torch.isfinite(flatten_state(found)).all()
    assert (model(u, found)[0] - y).abs().max() < 1e-4
    assert flatten_state(found).norm() < 2 * flatten_state(state).norm()


def test_a_model_of_single_precision_gives_its_own_type() -> None:
    model = linear_model(seed=1)
    u, state = _started(model, 1, 40)
    y = model(u, state)[0].detach()
    found = flatten_state(estimate_state(model, u, y, ridge=1e-9))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, flatten_state(state), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"u": np.ones(5), "y": np.ones((5, 1))}, "u has shape"),
        ({"u": np.ones((5, 1)), "y": np.ones((4, 1))}, "do not have one length"),
        ({"u": np.ones((5, 2)), "y": np.ones((5, 1))}, "the model has 1 inputs"),
        ({"u": np.ones((5, 1)), "y": np.full((5, 1), np.nan)}, "was observed"),
        ({"u": np.ones((5, 1)), "y": np.ones((5, 1)), "samples": 6}, "samples is 1 to 5"),
        ({"u": np.ones((5, 1)), "y": np.ones((5, 1)), "dt": np.ones(4)}, "dt of shape"),
        ({"u": np.ones((5, 1)), "y": np.ones((5, 1)), "y_mask": [True]}, "y_mask of shape"),
    ],
)
def test_signals_that_do_not_fit_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        estimate_state(linear_model(), **arguments)


def _decays(count: int, seed: int, skip: int) -> list[Record]:
    """Short records that start far from rest: most of the output is the free response."""
    rng = np.random.default_rng(seed)
    starts = 6 * (rng.standard_normal(count) + 1j * rng.standard_normal(count))
    pole = 0.97 * np.exp(0.2j)
    return [
        oscillator(60, seed + i, x0=x0, drive=0.3, pole=pole, skip=skip)
        for i, x0 in enumerate(starts)
    ]


def _settings(**changes) -> FitConfig:
    parts = {"window": 60, "steps": 80, "eval_every": 40, "lr": 0.1, "batch_size": 16}
    return quick(**(parts | {"clip": None} | changes))


def _slow_model() -> DeepWiener:
    return linear_model(seed=1, poles=DiscreteDiagonal(Ring(0.9, 0.99, 0.6)))


@pytest.fixture(scope="module")
def from_rest() -> float:
    """Validation error of a model that was trained and simulated from rest."""
    result = fit(_slow_model(), _decays(40, 100, 0), _decays(8, 500, 16), _settings())
    assert result.best_valid is not None
    return result.best_valid


@pytest.mark.parametrize(
    ("initial", "valid"),
    [
        (EncoderState(16, 16), None),
        (LeastSquaresState(16, 2), None),
        (LearnedState(), LeastSquaresState(16)),
        (ZeroState(), LeastSquaresState(16)),
    ],
)
def test_a_strategy_beats_the_state_of_rest(from_rest: float, initial, valid) -> None:
    washout = 0 if isinstance(initial, LearnedState) else 16
    config = _settings(initial_state=initial, valid_state=valid, washout=washout)
    model, held_out = _slow_model(), _decays(8, 500, 16)
    result = fit(model, _decays(40, 100, 0), held_out, config)
    assert result.best_valid is not None
    assert result.best_valid < 0.7 * from_rest
    runs = free_run(model, held_out, initial_state=result.initialiser)
    error = np.concatenate([(r.y - y)[16:] for r, y in zip(held_out, runs, strict=True)])
    measured = np.concatenate([r.y[16:] for r in held_out])
    again = np.sqrt(np.mean(error**2)) / measured.std()
    assert again == pytest.approx(result.best_valid, rel=1e-5)


def test_learned_states_explain_the_training_records() -> None:
    """Whole records from learned starts: the loss falls where no model could lower it from rest."""
    config = _settings(window=None, washout=0)
    losses = {}
    for name, initial in (("rest", ZeroState()), ("learned", LearnedState())):
        result = fit(
            _slow_model(),
            _decays(16, 100, 0),
            None,
            dataclasses.replace(config, initial_state=initial),
        )
        losses[name] = result.history[-1]["loss"]
    assert losses["learned"] < 0.3 * losses["rest"]


@pytest.mark.parametrize(
    "initial", [EncoderState(16, 16), LeastSquaresState(16, 2), LearnedState()]
)
@pytest.mark.parametrize("polish", [0, 10])
def test_strategies_work_with_carried_states_and_polish(initial, polish: int) -> None:
    train = [oscillator(400, 1), oscillator(150, 2)]
    config = quick(method=Carry(), initial_state=initial, polish_steps=polish, steps=40, lr=0.03)
    model = linear_model(seed=1)
    result = fit(model, train, [oscillator(200, 3, skip=20)], config)
    assert result.history[-1]["valid"] < 0.8 * result.history[0]["valid"]
