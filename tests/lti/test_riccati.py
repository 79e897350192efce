"""Riccati equations: residuals, SciPy, doubling, gradients and the filter of a known system."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from lti_systems import stable

from statewise._errors import ConvergenceError
from statewise.lti import continuous_riccati, discrete_riccati

SOLVERS = {None: continuous_riccati, 1.0: discrete_riccati}
PEERS = {None: scipy.linalg.solve_continuous_are, 1.0: scipy.linalg.solve_discrete_are}


def problem(dt, n: int, *, batch: tuple[int, ...] = (), complex_valued: bool = False):
    """An unstable plant with a cost that is positive, cross term included."""
    system = stable(n, 2, dt=dt, radius=1.4, batch=batch, complex_valued=complex_valued)
    g = torch.Generator().manual_seed(5)
    root = torch.randn(n + 2, n + 2, dtype=system.dtype, generator=g)
    cost = root @ root.mH + 0.1 * torch.eye(n + 2)
    return system.A, system.B, cost[:n, :n], cost[n:, n:], cost[:n, n:]


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("n", [1, 5, 20])
@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_both_ways_solve_the_equation(dt, n, complex_valued, cross) -> None:
    A, B, Q, R, S = problem(dt, n, batch=(2,), complex_valued=complex_valued)
    S = S if cross else None
    found = {way: SOLVERS[dt](A, B, Q, R, S, method=way) for way in ("scipy", "doubling")}
    for X, gain, residual in found.values():
        assert residual.max() < 1e-12
        poles = torch.linalg.eigvals(A - B @ gain)
        assert (poles.abs() < 1).all() if dt else (poles.real < 0).all()
        expected = PEERS[dt](
            *(M.numpy() for M in (A[1], B[1], Q, R)), s=S.numpy() if cross else None
        )
        np.testing.assert_allclose(X[1], expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("dt", [None, 1.0])
def test_gradients_are_those_of_the_implicit_function(dt) -> None:
    A, B, Q, R, S = problem(dt, 3)
    inputs = [M.clone().requires_grad_() for M in (A, B, Q, R, S)]

    def solve(A, B, Q, R, S):
        Q, R = (Q + Q.mT) / 2, (R + R.mT) / 2
        X, gain, _ = SOLVERS[dt](A, B, Q, R, S)
        return X, gain

    assert torch.autograd.gradcheck(solve, inputs)


def test_the_filter_of_a_random_walk() -> None:
    q, r = 0.3, 2.0
    X, gain, _ = discrete_riccati([[1.0]], [[1.0]], [[q]], [[r]])
    expected = (q + np.sqrt(q * q + 4 * q * r)) / 2
    assert abs(X.item() - expected) < 1e-14
    assert abs(gain.item() - expected / (expected + r)) < 1e-14


@pytest.mark.parametrize("dt", [None, 1.0])
def test_what_cannot_be_stabilised_is_refused(dt) -> None:
    A, B = torch.diag(torch.tensor([2.0, 0.5])).double(), torch.tensor([[0.0], [1.0]]).double()
    eye = torch.eye(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="stabilisable"):
        SOLVERS[dt](A, B, eye, eye[:1, :1])
    with pytest.raises((ConvergenceError, ValueError), match="stabilisable"):
        SOLVERS[dt](A, B, eye, eye[:1, :1], method="doubling")
    with pytest.raises(ValueError, match="R has shape"):
        SOLVERS[dt](A, B, eye, eye)
    with pytest.raises(ValueError, match="must be one of"):
        SOLVERS[dt](A, B, eye, eye[:1, :1], method="newton")


def test_a_singular_weight_is_named() -> None:
    one, none = [[1.0]], [[0.0]]
    for solve in (discrete_riccati, continuous_riccati):
        with pytest.raises(ValueError, match="R is singular"):
            solve([[0.5]], one, one, none, method="doubling")
