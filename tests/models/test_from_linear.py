"""A deep Wiener model that starts as a linear one: exact, trainable, clear about its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise.lti import Bilinear, StateSpace, Trapezoid, simulate
from statewise.models import DeepWiener, DeepWienerConfig, load_model, save_model
from statewise.nn import (
    ELU,
    LRU,
    MLP,
    S4D,
    S5,
    Bank,
    ContinuousDiagonal,
    DiscreteDiagonal,
    LayerNorm,
    LinearPlus,
    Mamba,
    PolarDiagonal,
    RealDiagonal,
    Ring,
    S4DLin,
    Tanh,
)

CONFIGS = {
    "default": {},
    "published": {"d_model": 3, "input_map": False, "bias": True, "static": ELU()},
    "trained gain": {"poles": DiscreteDiagonal(Ring(), "trained")},
    "polar": {"poles": PolarDiagonal()},
    "bilinear": {"poles": ContinuousDiagonal(S4DLin(), Bilinear()), "static": MLP(4)},
    "LRU": {"layer": LRU.spec(d_state=9)},
    "S5": {"layer": S5.spec(d_state=8), "direct": True},
    "S4D": {"layer": S4D.spec(d_state=8)},
    "bank": {"coupling": Bank(), "skip": "none"},
    "no skip": {"layer": LRU.spec(d_state=8), "skip": "none"},
    "linear skip": {"d_model": 5, "skip": "linear", "input_map": False, "static": Tanh()},
}


def system(n: int, m: int, p: int, seed: int = 0, radius: float = 0.95) -> StateSpace:
    """A stable random system with real and complex poles, scaled to moderate gain."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A *= radius / np.abs(np.linalg.eigvals(A)).max()
    B, C = rng.standard_normal((n, m)), rng.standard_normal((p, n))
    return StateSpace(A, B, C, rng.standard_normal((p, m)), dt=1.0)


def noise(length: int, channels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        length, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def gap(model: DeepWiener, linear: StateSpace, u: torch.Tensor, offset=0.0) -> float:
    """Largest error of the model's simulation against that of the system, relative."""
    expected = simulate(linear, u)[0] + offset
    with torch.no_grad():
        y = model.eval()(u[None].to(next(model.parameters()).dtype))[0][0].double()
    return float((y - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("parts", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 3)])
def test_start_is_the_linear_model(parts: dict, m: int, p: int) -> None:
    linear, u, offset = system(7, m, p), noise(300, m), torch.arange(p) - 0.5
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = DeepWiener.from_linear(
            linear, DeepWienerConfig(**parts), offset=offset, dtype=dtype, seed=1
        )
        assert gap(model, linear, u, offset) < tolerance


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 8),
    m=st.integers(1, 3),
    p=st.integers(1, 3),
    layers=st.integers(1, 3),
    width=st.integers(3, 6),
    seed=st.integers(0, 10**6),
)
def test_any_sizes(n: int, m: int, p: int, layers: int, width: int, seed: int) -> None:
    config = DeepWienerConfig(n_layers=layers, d_model=width, d_state=8)
    linear = system(n, m, p, seed)
    model = DeepWiener.from_linear(linear, config, dtype=torch.float64, seed=seed)
    assert gap(model, linear, noise(120, m)) < 1e-10


def test_real_poles_of_both_signs() -> None:
    poles = np.array([0.99, 0.5, -0.3, -0.8])
    linear = StateSpace(np.diag(poles), np.ones((4, 1)), np.ones((1, 4)), dt=1.0)
    for parts in ({}, {"layer": S5.spec(d_state=4)}, {"poles": PolarDiagonal()}):
        model = DeepWiener.from_linear(linear, DeepWienerConfig(**parts), dtype=torch.float64)
        assert gap(model, linear, noise(2000, 1)) < 1e-10
    config = DeepWienerConfig(poles=RealDiagonal(rule=Bilinear()))
    model = DeepWiener.from_linear(linear, config, dtype=torch.float64)
    assert gap(model, linear, noise(2000, 1)) < 1e-10
    with pytest.raises(ValueError, match="real poles only"):
        DeepWiener.from_linear(linear, DeepWienerConfig(poles=RealDiagonal()))


def test_other_states_are_there_and_learn() -> None:
    """They change nothing at first, and get their gradient through C."""
    model = DeepWiener.from_linear(system(4, 1, 1), DeepWienerConfig(n_layers=2), seed=0)
    u = noise(200, 1)[None].float()
    layer = model.blocks[0].layer
    assert not layer.coupling.C[:, 4:].any()
    assert layer.coupling.B[4:].any()
    loss = (model(u)[0] - torch.tanh(u)).square().mean()
    loss.backward()
    assert layer.coupling.C.grad[:, 4:].abs().min() > 0
    for block in model.blocks:
        assert block.static.weight.grad.abs().min() > 0
    before = float(loss.detach())
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(30):
        optimiser.zero_grad()
        loss = (model(u)[0] - torch.tanh(u)).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.5 * before


def test_model_is_saved_with_its_linear_part(tmp_path) -> None:
    linear = system(3, 2, 1)
    model = DeepWiener.from_linear(linear)
    assert isinstance(model.config.static, LinearPlus)
    save_model(model, tmp_path / "model")
    assert gap(load_model(tmp_path / "model"), linear, noise(50, 2)) < 1e-5


def test_repeated_poles_are_moved_apart_and_reported() -> None:
    jordan = np.array([[0.8, 1.0, 0.0], [0.0, 0.8, 1.0], [0.0, 0.0, 0.8]])
    linear = StateSpace(jordan, [[0.0], [0.0], [1.0]], [[0.1, 0.0, 0.0]], dt=1.0)
    with pytest.warns(UserWarning, match="repeated or nearly repeated poles"):
        model = DeepWiener.from_linear(linear, dtype=torch.float64)
    assert gap(model, linear, noise(300, 1)) < 1e-4


def test_equal_poles_with_two_modes_are_no_trouble() -> None:
    """A repeated pole is defective only without enough eigenvectors."""
    linear = StateSpace(0.9 * np.eye(2), np.eye(2), np.eye(2), dt=1.0)
    model = DeepWiener.from_linear(linear, dtype=torch.float64)
    assert gap(model, linear, noise(300, 2)) < 1e-10


def test_poles_on_the_circle_and_delays_are_moved_and_reported() -> None:
    integrator = StateSpace([[1.0]], [[1.0]], [[0.01]], dt=1.0)
    with pytest.warns(UserWarning, match=r"1 of the poles .* radius of 1; .* moved to 0.9999"):
        model = DeepWiener.from_linear(integrator)
    assert float(model.blocks[0].layer.eigenvalues().detach().abs()[0]) == pytest.approx(0.9999)
    delay = StateSpace([[0.0]], [[1.0]], [[1.0]], dt=1.0)
    with pytest.warns(UserWarning, match="delays"):
        model = DeepWiener.from_linear(delay, dtype=torch.float64)
    assert gap(model, delay, noise(100, 1)) < 1e-6


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"norm": LayerNorm()}, "no normalisation"),
        ({"layer": Mamba.spec(d_state=4)}, "LTI, LRU, S5, S4D.*given Mamba"),
        ({"d_state": 2}, "5 modes.*d_state >= 5"),
        ({"d_model": 1}, "d_model >= 2"),
        ({"poles": ContinuousDiagonal(S4DLin(), Trapezoid())}, r"ZOH\(\) or Bilinear\(\)"),
        ({"coupling": Bank(), "d_model": 3}, "d_model >= 4"),
    ],
)
def test_what_cannot_be_is_told(parts: dict, words: str) -> None:
    linear = system(7, 2, 2, seed=0)
    assert int((torch.linalg.eigvals(linear.A).imag >= 0).sum()) == 5
    with pytest.raises(ValueError, match=words):
        DeepWiener.from_linear(linear, DeepWienerConfig(**parts))


def test_systems_of_another_kind_are_refused() -> None:
    continuous = StateSpace([[-1.0]], [[1.0]], [[1.0]])
    turning = StateSpace([[0.5j]], [[1.0]], [[1.0]], dt=1.0)
    for other in (continuous, turning, system(2, 1, 1).expand(3)):
        with pytest.raises(ValueError, match="a single real system in discrete time"):
            DeepWiener.from_linear(other)


def test_slow_poles_keep_their_digits() -> None:
    size, turn = 1 - 2e-4, 0.01
    pair = size * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = StateSpace(pair, [[1.0], [0.0]], [[0.0, 1.0]], dt=1.0)
    u = noise(20_000, 1)
    for parts in ({}, {"layer": S5.spec(d_state=4)}):
        model = DeepWiener.from_linear(linear, DeepWienerConfig(**parts), dtype=torch.float64)
        assert gap(model, linear, u) < 1e-10
