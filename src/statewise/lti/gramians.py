"""Gramians, their square-root factors and Hankel singular values of stable systems."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.lti.lyapunov import Solution, cayley_shift, continuous_lyapunov, discrete_lyapunov
from statewise.lti.matrices import eigenvalues, identity_like
from statewise.lti.state_space import StateSpace
from statewise.lti.structure import is_stable

DOUBLINGS = 64


def controllability_gramian(system: StateSpace, *, method: str = "auto") -> Solution:
    """P = Σ_k AᵏBB*A*ᵏ, or its integral: the solution of P = APA* + BB*, or AP + PA* + BB* = 0.

    Args:
        system: a stable system.
        method: see :func:`~statewise.lti.discrete_lyapunov`.

    Returns:
        P, (..., n, n), and the residual of the equation; differentiable.

    Raises:
        ValueError: the system is not stable.
    """
    check_stable(system, "a Gramian")
    solve = discrete_lyapunov if system.is_discrete else continuous_lyapunov
    return solve(system.A, system.B @ system.B.mH, method=method)


def observability_gramian(system: StateSpace, *, method: str = "auto") -> Solution:
    """Q = Σ_k A*ᵏC*CAᵏ, or its integral; see :func:`controllability_gramian`."""
    return controllability_gramian(system.dual(), method=method)


def controllability_factor(system: StateSpace) -> Tensor:
    """L with P = L L*, (..., n, n) lower triangular, without forming P.

    [L, A L] is compressed by a QR decomposition while A is squared, so that small Hankel singular
    values keep digits that a Cholesky factor of P has lost. Without gradient.

    Raises:
        ValueError: the system is not stable.
    """
    check_stable(system, "a Gramian")
    with torch.no_grad():
        A, L = system.A, system.B
        if not system.is_discrete:
            shift = cayley_shift(A)
            eye = identity_like(A)
            left = shift * eye - A
            L = torch.linalg.solve(left, (2 * shift).sqrt() * L)
            A = torch.linalg.solve(left, shift * eye + A)
        L = compressed(L)
        for _ in range(DOUBLINGS):
            moved = A @ L
            L = compressed(torch.cat((L, moved), -1))
            size = torch.linalg.matrix_norm(moved)
            small = torch.finfo(size.dtype).eps / 16 * torch.linalg.matrix_norm(L)
            if (size <= small).all():
                break
            A = A @ A
    return L


def observability_factor(system: StateSpace) -> Tensor:
    """L with Q = L L*, (..., n, n) lower triangular; see :func:`controllability_factor`."""
    return controllability_factor(system.dual())


def hankel_singular_values(system: StateSpace) -> Tensor:
    """σ_i = √eig(PQ), the singular values of the map from past inputs to future outputs.

    By the square-root method, σ = singular values of L_q* L_p. First derivatives are those of the
    values, exact where they are distinct, so that Σσ is a regulariser.

    Returns:
        (..., n), descending.

    Raises:
        ValueError: the system is not stable.
    """
    Lp, Lq = controllability_factor(system), observability_factor(system)
    U, sigma, Vh = torch.linalg.svd(Lq.mH @ Lp)
    wanted = torch.is_grad_enabled() and any(M.requires_grad for M in system.matrices)
    if not wanted or not system.n_states:
        return sigma
    # dσ_i = (x_i* dQ x_i + y_i* dP y_i) / 2σ_i with x = L_p v and y = L_q u.
    x, y = Lp @ Vh.mH, Lq @ U
    P, Q = controllability_gramian(system).X, observability_gramian(system).X
    change = _forms(x, Q - Q.detach()) + _forms(y, P - P.detach())
    floor = torch.finfo(sigma.dtype).eps * sigma[..., :1]
    return sigma + change / (2 * sigma.maximum(floor))


def compressed(L: Tensor) -> Tensor:
    """A square lower triangular factor of L L*, (..., n, k) to (..., n, n)."""
    n, k = L.shape[-2:]
    if k < n:
        L = torch.cat((L, L.new_zeros(*L.shape[:-1], n - k)), -1)
    return torch.linalg.qr(L.mH, mode="r")[1].mH


def check_stable(system: StateSpace, what: str) -> None:
    """Refuse a system that is not stable.

    Raises:
        ValueError: with the pole that is furthest out.
    """
    if is_stable(system).all():
        return
    at = eigenvalues(system.A.detach()).reshape(-1)
    key = at.abs() if system.is_discrete else at.real
    worst = at[key.argmax()].item()
    where = "inside the unit circle" if system.is_discrete else "left of the imaginary axis"
    raise ValueError(f"{what} needs a stable system, poles {where}; one is at {worst:.6g}")


def _forms(x: Tensor, M: Tensor) -> Tensor:
    """Re x_i* M x_i of the columns of x."""
    value = (x.conj() * (M @ x)).sum(-2)
    return value.real if value.is_complex() else value
