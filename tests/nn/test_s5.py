"""S5 at its start: the real HiPPO-N blocks that its complex states stand for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from statewise.lti import LegS, legs, legs_normal
from statewise.nn import S5


def numbers(pairs: torch.Tensor) -> np.ndarray:
    values = pairs.detach().numpy()
    return values[..., 0] + 1j * values[..., 1]


@pytest.fixture
def layer() -> S5:
    """Three blocks of four real states, one time step for all, made in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    built = S5(3, 2, 6, blocks=3, dt_min=0.1, dt_max=0.1, seed=4)
    torch.set_default_dtype(before)
    return built


def blocks() -> tuple[np.ndarray, np.ndarray]:
    """The block-diagonal normal part (12, 12) and its eigenvectors (12, 6)."""
    p = LegS().factor(4)
    normal = legs(4)[0] + p @ p.T
    vectors = legs_normal(4)[1]
    return scipy.linalg.block_diag(*[normal] * 3), scipy.linalg.block_diag(*[vectors] * 3)


def real_system(layer: S5) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """e^{ΔA}, its input matrix, C and D on the 12 real states, by matrix exponential."""
    a, vectors = blocks()
    b = 2 * (vectors @ numbers(layer.coupling.B)).real
    c = 2 * (numbers(layer.coupling.C) @ vectors.conj().T).real
    joint = np.zeros((15, 15))
    joint[:12, :12], joint[:12, 12:] = a, b
    whole = scipy.linalg.expm(0.1 * joint)
    assert layer.D is not None
    return whole[:12, :12], whole[:12, 12:], c, layer.D.detach().numpy()


def test_poles_are_those_of_every_block(layer: S5) -> None:
    values = legs_normal(4)[0]
    np.testing.assert_allclose(layer.poles.continuous.detach(), np.tile(values, 3), rtol=1e-14)


def test_layer_is_the_real_system_with_resets(layer: S5) -> None:
    a, b, c, d = real_system(layer)
    u = np.random.default_rng(0).standard_normal((40, 3))
    reset = np.zeros(40, bool)
    reset[[7, 25]] = True
    y = layer(torch.from_numpy(u)[None], reset=torch.from_numpy(reset)[None])[0][0]
    x = np.zeros(12)
    for k in range(40):
        x = a @ (np.zeros(12) if reset[k] else x) + b @ u[k]
        np.testing.assert_allclose(y[k].detach(), c @ x + d @ u[k], rtol=0, atol=1e-12)


def test_start_is_real_and_lecun_normal() -> None:
    """B = Vᴴ B₀ and C = C₀ V with real B₀ and C₀ of variances 1/d_input and 1/(2 d_state)."""
    wide = S5(64, 64, 8, blocks=1, seed=2).double()
    vectors = legs_normal(16)[1]
    b = 2 * (vectors @ numbers(wide.coupling.B)).real
    c = 2 * (numbers(wide.coupling.C) @ vectors.conj().T).real
    # 1024 entries each: five standard errors of a variance are 5·√(2/1024) = 22 %.
    assert b.var() * 64 == pytest.approx(1, abs=0.22)
    assert c.var() * 16 == pytest.approx(1, abs=0.22)


def test_gaps_in_time_are_longer_steps(layer: S5) -> None:
    """A sample every other time with dt = 2 meets the system that holds each input twice."""
    a, b, c, d = real_system(layer)
    u = np.random.default_rng(1).standard_normal((20, 3))
    y = layer(torch.from_numpy(u)[None], dt=torch.full((20,), 2.0, dtype=torch.float64))[0][0]
    x = np.zeros(12)
    for k in range(20):
        x = a @ (a @ x + b @ u[k]) + b @ u[k]
        np.testing.assert_allclose(y[k].detach(), c @ x + d @ u[k], rtol=0, atol=1e-12)


def test_blocks_must_divide_the_states() -> None:
    with pytest.raises(ValueError, match="4 blocks do not divide 6 complex states"):
        S5(2, 2, 6, blocks=4)
