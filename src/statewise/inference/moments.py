"""Steps of Gaussian filters on batches of matrices, differentiable, in torch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from statewise.inference.linear_gaussian import Problem

LOG_2PI = math.log(2 * math.pi)


class Moments(NamedTuple):
    """What a filter knows after a step.

    Attributes:
        mean: (B, n).
        cov: (B, n, n).
        log_likelihood: log p(y_t | y_1 … y_{t−1}) of the step, (B,).
        chol_cov: L with L Lᵀ = cov, where the method carries it.
    """

    mean: Tensor
    cov: Tensor
    log_likelihood: Tensor
    chol_cov: Tensor | None = None


def symmetric(x: Tensor) -> Tensor:
    """The symmetric part of matrices."""
    return (x + x.mT) / 2


def dot(A: Tensor, x: Tensor) -> Tensor:
    """Matrices times vectors."""
    return (A @ x.unsqueeze(-1)).squeeze(-1)


def spread(condition: Tensor, given: Tensor, other: Tensor) -> Tensor:
    """``given`` where the condition holds, its axes those that the tensors begin with."""
    more = (1,) * (given.dim() - condition.dim())
    return torch.where(condition.reshape(*condition.shape, *more), given, other)


@overload
def at(x: Tensor, t: int) -> Tensor: ...


@overload
def at(x: Tensor | None, t: int) -> Tensor | None: ...


def at(x: Tensor | None, t: int) -> Tensor | None:
    """A parameter (b, t, …) at a step."""
    return None if x is None else x[:, min(t, x.shape[1] - 1)]


def psd_root(x: Tensor) -> Tensor:
    """A square matrix L with L Lᵀ the positive semi-definite part of x, whatever its rank.

    Raises:
        ValueError: an eigenvalue clearly below zero.
    """
    values, vectors = torch.linalg.eigh(symmetric(x))
    lowest, scale = values[..., 0], values.abs().amax(-1)
    if bool((lowest < -1e3 * torch.finfo(x.dtype).eps * scale).any()):
        raise ValueError(
            f"a covariance has the eigenvalue {lowest.min().item():.6g}; none may be negative"
        )
    return vectors * values.clamp_min(0).sqrt().unsqueeze(-2)


def _lower(A: Tensor) -> Tensor:
    """Lower triangular L with L Lᵀ = A Aᵀ and no negative diagonal."""
    L = torch.linalg.qr(A.mT, mode="r").R.mT
    sign = torch.where(L.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(L)
    return L * sign.unsqueeze(-2)


def _of_square(L: Tensor, gradient: Tensor) -> Tensor:
    """The symmetric gradient with respect to L Lᵀ, from that with respect to L."""
    # dL = L Φ(L⁻¹ d(L Lᵀ) L⁻ᵀ), Φ the lower triangle with half the diagonal.
    inner = (L.mT @ gradient).tril()
    inner = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1)) / 2
    half = torch.linalg.solve_triangular(L.mT, inner, upper=True)
    return symmetric(torch.linalg.solve_triangular(L, half, upper=False, left=False))


class _Tria(torch.autograd.Function):
    """Lower triangular L with L Lᵀ = A Aᵀ, its gradient through A Aᵀ and not through Q of QR."""

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        L = _lower(A)
        ctx.save_for_backward(A, L)
        return L

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        A, L = ctx.saved_tensors
        return 2 * _of_square(L, grads[0]) @ A


def tria(A: Tensor) -> Tensor:
    """Lower triangular L with L Lᵀ = A Aᵀ and no negative diagonal, for A (…, n, m), m ≥ n.

    The gradient needs A of full rank.
    """
    return _Tria.apply(A)


class _TriaSum(torch.autograd.Function):
    """Lower triangular L with L Lᵀ = A Aᵀ + Q, its gradient through the sum and not through √Q."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, Q: Tensor, minus: Tensor | None) -> Tensor:
        if minus is None:
            root = psd_root(Q).expand(*A.shape[:-1], Q.shape[-1])
            L = _lower(torch.cat([A, root], -1))
        else:
            total = symmetric(A @ A.mT + symmetric(Q) - minus @ minus.mT)
            L, failed = torch.linalg.cholesky_ex(total)
            if bool(failed.any()):
                raise ValueError(
                    "weighted points gave a covariance that is not positive definite; take a rule "
                    "without negative weights, such as Cubature()"
                )
        ctx.save_for_backward(A, Q, minus, L)
        return L

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        A, Q, minus, L = ctx.saved_tensors
        full = _of_square(L, grads[0])
        return 2 * full @ A, full.sum_to_size(Q.shape), None if minus is None else -2 * full @ minus


def tria_sum(A: Tensor, Q: Tensor, minus: Tensor | None = None) -> Tensor:
    """Lower triangular L with L Lᵀ = A Aᵀ + Q − minus minusᵀ and no negative diagonal.

    A and Q may be singular; the gradient needs L of full rank. Without ``minus`` nothing is
    squared.

    Raises:
        ValueError: Q with an eigenvalue below zero, or a difference that is no covariance.
    """
    return _TriaSum.apply(A, Q, minus)


class Observed(NamedTuple):
    """One step's observation with the outputs that are missing made harmless.

    A row of zeros in H, a variance of one in R and no innovation: the same as deleting the
    output, but for log 2π, which ``count`` is for.
    """

    H: Tensor
    R: Tensor
    y: Tensor
    seen: Tensor
    count: Tensor


def observe(problem: Problem, t: int | None = None) -> Observed:
    """The observation of a step, (B, …), or of all, (B, T, …); what lies behind the end is missing.

    The offset of the outputs is taken off y.
    """
    seen, y = problem.seen(), problem.y
    H, R, d = problem.H, problem.R, problem.d
    if t is not None:
        seen, y, H, R = seen[:, t], y[:, t], at(H, t), at(R, t)
        d = at(d, t)
    y = y if d is None else y - d
    both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
    R = torch.where(both, symmetric(R), 0.0) + torch.diag_embed((~seen).to(y))
    H = torch.where(seen.unsqueeze(-1), H, 0.0)
    return Observed(H, R, torch.where(seen, y, 0.0), seen, seen.sum(-1).to(y))


def chol_innovation(S: Tensor) -> Tensor:
    """The Cholesky factor of innovation covariances, or an error in words."""
    L, failed = torch.linalg.cholesky_ex(symmetric(S))
    if bool(failed.any()):
        raise ValueError(
            "the covariance of an innovation is not positive definite; R, or Q and P0 through H, "
            "must give every observed output some variance"
        )
    return L


def inverse_of(L: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹ of a lower triangle (..., n, n)."""
    # The forward-mode derivative of torch.cholesky_inverse is wrong in torch 2.13.
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
    return torch.cholesky_solve(eye.expand_as(L), L)


def log_normal(e: Tensor, L: Tensor, count: Tensor) -> Tensor:
    """Log N(e; 0, L Lᵀ), counting log 2π for so many outputs."""
    white = torch.linalg.solve_triangular(L, e.unsqueeze(-1), upper=False).squeeze(-1)
    log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (count * LOG_2PI + (white * white).sum(-1)) - log_det


def predict(problem: Problem, t: int, m: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Moments moved into step t; at the first step only when the problem says so."""
    if t == 0 and not problem.moves_first:
        return m, P
    F, c = at(problem.F, t), at(problem.c, t)
    m = dot(F, m)
    return (m if c is None else m + c), symmetric(F @ P @ F.mT + symmetric(at(problem.Q, t)))


def update(
    o: Observed, m: Tensor, P: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Moments after an observation by Joseph's form, its log-likelihood, and (K, L of S)."""
    V = o.H @ P
    L = chol_innovation(V @ o.H.mT + o.R)
    K = torch.cholesky_solve(V, L).mT
    e = o.y - dot(o.H, m)
    J = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - K @ o.H
    cov = symmetric(J @ P @ J.mT + K @ o.R @ K.mT)
    return m + dot(K, e), cov, log_normal(e, L, o.count), (K, L)


def chol_start(P: Tensor) -> Tensor:
    """Lower triangular L with L Lᵀ = P, whatever the rank of P."""
    return tria_sum(P.new_zeros(*P.shape[:-1], 0), P)


def update_root(
    m: Tensor,
    L: Tensor,
    e: Tensor,
    slope: Tensor,
    R: Tensor,
    count: Tensor,
    rest: Tensor | None = None,
    minus: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, factor and log-likelihood after an innovation, by one triangularisation.

    tria([[M, rest, √R], [L, 0, 0]]) = [[√S, 0, 0], [K √S, L₊, 0]] with M = H L.

    Args:
        m: (…, n).
        L: (…, n, n).
        e: (…, p).
        slope: M, (…, p, n).
        R: (…, p, p).
        count: observed outputs, (…).
        rest: factor of more noise, (…, p, K), or None.
        minus: factor of noise to take away, (…, p, K), or None.
    """
    p, n = slope.shape[-2:]
    above = slope if rest is None else torch.cat([slope, rest], -1)
    below = torch.nn.functional.pad(L, (0, above.shape[-1] - n))
    both = torch.cat([above, below.expand(*above.shape[:-2], n, above.shape[-1])], -2)
    noise = torch.nn.functional.pad(R, (0, n, 0, n))
    less = None if minus is None else torch.nn.functional.pad(minus, (0, 0, 0, n))
    whole = tria_sum(both, noise.expand(*both.shape[:-1], p + n), less)
    S, gain, L = whole[..., :p, :p], whole[..., p:, :p], whole[..., p:, p:]
    if not bool((S.diagonal(dim1=-2, dim2=-1) > 0).all()):
        chol_innovation(S @ S.mT)
    white = torch.linalg.solve_triangular(S, e.unsqueeze(-1), upper=False)
    return m + (gain @ white).squeeze(-1), L, log_normal(e, S, count)
