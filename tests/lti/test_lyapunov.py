"""Matrix equations: residuals, SciPy, ways that agree, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from lti_systems import stable

from statewise.lti import continuous_lyapunov, discrete_lyapunov, sylvester

SOLVERS = {None: continuous_lyapunov, 1.0: discrete_lyapunov}


def drawn(*shape: int, seed: int = 0, kind: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=kind, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("n", [1, 3, 8, 30])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_every_way_solves_the_equation(dt, n, complex_valued) -> None:
    A = stable(n, dt=dt, batch=(2,), complex_valued=complex_valued).A
    Q = drawn(2, n, n, kind=A.dtype)
    found = {way: SOLVERS[dt](A, Q, method=way) for way in ("auto", "schur", "doubling")}
    for X, residual in found.values():
        assert residual.shape == (2,)
        assert residual.max() < 1e-13
        torch.testing.assert_close(X, found["auto"].X, rtol=1e-9, atol=1e-10)
    scipy_solver = (
        (lambda a, q: scipy.linalg.solve_continuous_lyapunov(a, -q))
        if dt is None
        else scipy.linalg.solve_discrete_lyapunov
    )
    np.testing.assert_allclose(
        found["auto"].X[1], scipy_solver(A[1].numpy(), Q[1].numpy()), rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("dt", [None, 1.0])
def test_diagonal_dynamics_have_a_closed_form(dt) -> None:
    A = torch.diag_embed(torch.linalg.eigvals(stable(6, dt=dt).A))
    Q = drawn(6, 6, kind=A.dtype)
    closed, general = SOLVERS[dt](A, Q), SOLVERS[dt](A, Q, method="schur")
    assert closed.residual < 1e-15
    torch.testing.assert_close(closed.X, general.X, rtol=1e-11, atol=1e-11)


def test_near_the_boundary() -> None:
    A = stable(6, radius=1 - 1e-9).A
    for way in ("schur", "doubling"):
        assert discrete_lyapunov(A, torch.eye(6), method=way).residual < 1e-13


def test_an_unstable_matrix_has_a_solution_but_no_sum() -> None:
    A = stable(5, radius=1.3).A
    assert discrete_lyapunov(A, torch.eye(5), method="schur").residual < 1e-13
    with pytest.raises(ValueError, match=r"spectral radius is 1\.3"):
        discrete_lyapunov(A, torch.eye(5), method="doubling")
    with pytest.raises(ValueError, match="no unique solution"):
        discrete_lyapunov(torch.eye(2), torch.eye(2))
    with pytest.raises(ValueError, match="off the diagonal"):
        discrete_lyapunov(A, torch.eye(5), method="diagonal")
    with pytest.raises(ValueError, match="must both be"):
        continuous_lyapunov(torch.ones(2, 3), torch.eye(2))
    with pytest.raises(ValueError, match="must be one of"):
        continuous_lyapunov(A, torch.eye(5), method="kron")


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("way", ["schur", "doubling"])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_gradients_are_those_of_the_implicit_function(dt, way, complex_valued) -> None:
    A = stable(3, dt=dt, complex_valued=complex_valued).A.clone().requires_grad_()
    Q = drawn(3, 3, kind=A.dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, q: SOLVERS[dt](a, q, method=way).X, (A, Q))


@pytest.mark.parametrize("dt", [None, 1.0])
def test_the_closed_form_has_gradients_off_the_diagonal(dt) -> None:
    A = torch.diag(torch.tensor([-0.5, -0.2, -0.7], dtype=torch.float64))
    Q = drawn(3, 3)
    gradients = []
    for way in ("diagonal", "schur"):
        a = A.clone().requires_grad_()
        SOLVERS[dt](a, Q, method=way).X.sin().sum().backward()
        gradients.append(a.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_sylvester(complex_valued) -> None:
    kind = torch.complex128 if complex_valued else torch.float64
    A, B = drawn(2, 4, 4, kind=kind) - 5 * torch.eye(4), drawn(3, 3, seed=1, kind=kind)
    Q = drawn(2, 4, 3, seed=2, kind=kind)
    X, residual = sylvester(A, B, Q)
    assert residual.max() < 1e-14
    expected = scipy.linalg.solve_sylvester(A[1].numpy(), B.numpy(), Q[1].numpy())
    np.testing.assert_allclose(X[1], expected, rtol=1e-10, atol=1e-12)
    inputs = [M.clone().requires_grad_() for M in (A[0], B, Q[0])]
    assert torch.autograd.gradcheck(lambda *M: sylvester(*M).X, inputs)
    with pytest.raises(ValueError, match="sylvester needs"):
        sylvester(A, B, Q.mT)


@pytest.mark.parametrize("n", [2, 6])
def test_no_unique_solution_is_refused(n) -> None:
    turn = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0)).double())[
        0
    ]
    eye = torch.eye(n, dtype=torch.float64)
    values = torch.linspace(-2, -1, n, dtype=torch.float64)
    values[0], values[1] = 1.5, -1.5
    A = turn @ torch.diag(values) @ turn.mT
    with pytest.raises(ValueError, match="no unique solution"):
        continuous_lyapunov(A, eye)
    values[1] = 1 / 1.5
    A = turn @ torch.diag(values) @ turn.mT
    with pytest.raises(ValueError, match="no unique solution"):
        discrete_lyapunov(A, eye)
    with pytest.raises(ValueError, match="no unique solution"):
        sylvester(A, -A, eye)
