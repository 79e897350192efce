"""Filter and smoother in parallel over time, as prefix sums of Gaussian messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from statewise.inference.linear_gaussian import Problem
from statewise.inference.methods import Method, prediction
from statewise.inference.moments import (
    Moments,
    chol_innovation,
    dot,
    log_normal,
    observe,
    predict,
    spread,
    symmetric,
    update,
)


def associative_scan(combine: Callable[[Any, Any], Any], elements: Any) -> Any:
    """All prefixes e_1, e_1 ⊗ e_2, … of elements with time on axis 1, in O(log T) rounds.

    Args:
        combine: an associative function of (earlier, later).
        elements: a NamedTuple of tensors (B, T, …).

    Returns:
        The prefixes, shaped like the elements.

    Source: Blelloch, Prefix sums and their applications (1990); pairs are combined, the prefixes of
    the pairs found, and those in between filled in, so that the work is O(T).
    """
    length = elements[0].shape[1]
    if length == 1:
        return elements
    kind = type(elements)
    first = kind(*(x[:, 0 : length - 1 : 2] for x in elements))
    second = kind(*(x[:, 1:length:2] for x in elements))
    odd = associative_scan(combine, combine(first, second))
    rest = kind(*(x[:, 2:length:2] for x in elements))
    if rest[0].shape[1]:
        before = kind(*(x[:, : rest[0].shape[1]] for x in odd))
        rest = combine(before, rest)
    found = []
    for x, o, r in zip(elements, odd, rest, strict=True):
        even = torch.cat([x[:, :1], r], 1)
        paired = torch.stack([even[:, : o.shape[1]], o], 2).flatten(1, 2)
        found.append(torch.cat([paired, even[:, o.shape[1] :]], 1))
    return kind(*found)


class Message(NamedTuple):
    """What the steps from i to j say of x_j and of x_i.

    p(x_j | y_{i+1…j}, x_i) = N(A x_i + b, C), p(y_{i+1…j} | x_i) = exp(ℓ + ηᵀx_i − ½ x_iᵀJ x_i).
    """

    A: Tensor
    b: Tensor
    C: Tensor
    eta: Tensor
    J: Tensor
    log: Tensor


class ParallelKalman(Method):
    """The Kalman filter as an associative product of messages; log-depth in time.

    Neither Q nor P0 is inverted, so both may be singular.

    Source: Särkkä and García-Fernández, Temporal parallelization of Bayesian smoothers
    (1905.13002), section IV, with the likelihood carried along.
    """

    associative: ClassVar[bool] = True

    def init(self, problem: Problem) -> Message:
        """The neutral message; the prior enters with the first step."""
        m = problem.m0
        zero = torch.zeros_like(problem.P0)
        eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device).expand(zero.shape)
        none = torch.zeros_like(m)
        return Message(eye, none, zero, none, zero, none.sum(-1))

    def prepare(self, problem: Problem, t: int | None) -> Message:
        """The message of one step, or of all of them."""
        if t is not None:
            return Message(*(x[:, 0] for x in self._messages(problem.steps(t, t + 1))))
        return self._messages(problem)

    def _messages(self, problem: Problem) -> Message:
        o = observe(problem)
        batch, length, n, _ = problem.size
        F, c = problem.F, problem.c
        Q = symmetric(problem.Q).expand(batch, length, n, n)
        V = o.H @ Q
        L = chol_innovation(V @ o.H.mT + o.R)
        gain = torch.cholesky_solve(V, L).mT
        eye = torch.eye(n, dtype=Q.dtype, device=Q.device)
        left = eye - gain @ o.H
        offset = Q.new_zeros(batch, length, n) if c is None else c.expand(batch, length, n)
        e = o.y - dot(o.H, offset)
        HF = o.H @ F
        solved = torch.cholesky_solve(torch.cat([HF, e.unsqueeze(-1)], -1), L)
        found = Message(
            left @ F,
            offset + dot(gain, e),
            symmetric(left @ Q @ left.mT + gain @ o.R @ gain.mT),
            dot(HF.mT, solved[..., -1]),
            symmetric(HF.mT @ solved[..., :-1]),
            log_normal(e, L, o.count),
        )
        valid = problem.valid()
        neutral = self.init(problem)
        found = Message(
            *(spread(valid, x, z.unsqueeze(1)) for x, z in zip(found, neutral, strict=True))
        )
        if not problem.begins:
            return found
        m, P = predict(problem, 0, problem.m0, symmetric(problem.P0))
        m, P, ll, _ = update(observe(problem, 0), m, P)
        zero, none = torch.zeros_like(P), torch.zeros_like(m)
        start = Message(zero, m, P, none, zero, ll)
        return Message(
            *(torch.cat([s.unsqueeze(1), x[:, 1:]], 1) for s, x in zip(start, found, strict=True))
        )

    def combine(self, state: Message, element: Message) -> Message:
        """The message over both stretches, the state's the earlier."""
        A1, b1, C1, eta1, J1, log1 = state
        A2, b2, C2, eta2, J2, log2 = element
        inner = torch.eye(A1.shape[-1], dtype=A1.dtype, device=A1.device) + C1 @ J2
        delta = eta2 - dot(J2, b1)
        reach = dot(C1, delta)
        right = torch.cat([A1, C1, (b1 + dot(C1, eta2)).unsqueeze(-1), reach.unsqueeze(-1)], -1)
        # Without a look at every level for pivots of zero, which a host would wait for.
        lu, pivots, _ = torch.linalg.lu_factor_ex(inner)
        solved = torch.linalg.lu_solve(lu, pivots, right)
        n = A1.shape[-1]
        MA, MC, Mb = solved[..., :n], solved[..., n : 2 * n], solved[..., 2 * n]
        # N = A₁ᵀ(I + J₂C₁)⁻¹ is the transpose of (I + C₁J₂)⁻¹A₁.
        log_det = lu.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        quadratic = (delta * solved[..., -1]).sum(-1) - (b1 * dot(J2, b1)).sum(-1)
        return Message(
            A2 @ MA,
            dot(A2, Mb) + b2,
            symmetric(A2 @ MC @ A2.mT + C2),
            dot(MA.mT, delta) + eta1,
            symmetric(MA.mT @ J2 @ A1 + J1),
            log1 + log2 - 0.5 * log_det + (eta2 * b1).sum(-1) + 0.5 * quadratic,
        )

    def read(self, state: Message) -> Moments:
        """What the message says of the state, whatever was before."""
        return Moments(state.b, state.C, state.log)


class Backward(NamedTuple):
    """p(x_i | x_j, y) = N(E x_j + g, L)."""

    E: Tensor
    g: Tensor
    L: Tensor


def combine_backward(later: Backward, earlier: Backward) -> Backward:
    """The message over both stretches; arguments in the order of a reverse scan."""
    E = earlier.E @ later.E
    g = dot(earlier.E, later.g) + earlier.g
    return Backward(E, g, symmetric(earlier.E @ later.L @ earlier.E.mT + earlier.L))


def _solved(P: Tensor, V: Tensor) -> Tensor:
    """P⁻¹V for covariances P, by the pseudoinverse where rounding alone may have made a pivot."""
    L, failed = torch.linalg.cholesky_ex(P)
    pivots, least = L.diagonal(dim1=-2, dim2=-1).square(), P.diagonal(dim1=-2, dim2=-1)
    firm = pivots > 4 * P.shape[-1] * torch.finfo(P.dtype).eps * least
    if bool(firm.all() & ~failed.any()):
        return torch.cholesky_solve(V, L)
    return torch.linalg.pinv(P, hermitian=True) @ V


def backward_messages(problem: Problem, mean: Tensor, cov: Tensor) -> Backward:
    """p(x_t | x_{t+1}, y_1 … y_t) of every step; at and behind the end, what the filter knows."""
    length, n = mean.shape[1:]
    eye = torch.eye(n, dtype=cov.dtype, device=cov.device)
    E = torch.zeros_like(cov)
    g, L = mean.clone(), cov.clone()
    if length > 1:
        F, Q = (x if x.shape[1] == 1 else x[:, 1:] for x in (problem.F, problem.Q))
        m, P = prediction(problem, mean, cov)
        V = F @ cov[:, :-1]
        gain = _solved(P[:, 1:], V).mT
        J = eye - gain @ F
        rest = symmetric(J @ cov[:, :-1] @ J.mT + gain @ symmetric(Q) @ gain.mT)
        more = problem.valid()[:, 1:]
        E = torch.cat([spread(more, gain, torch.zeros_like(gain)), E[:, -1:]], 1)
        centre = mean[:, :-1] - dot(gain, m[:, 1:])
        g = torch.cat([spread(more, centre, mean[:, :-1]), g[:, -1:]], 1)
        L = torch.cat([spread(more, rest, cov[:, :-1]), L[:, -1:]], 1)
    return Backward(E, g, L)


def smooth_parallel(problem: Problem, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed means, covariances and Cov(x_t, x_{t−1}) by a reverse scan; differentiable."""
    messages = backward_messages(problem, mean, cov)
    turned = Backward(*(x.flip(1) for x in messages))
    found = associative_scan(combine_backward, turned)
    ms, Ps = found.g.flip(1), found.L.flip(1)
    between = Ps[:, 1:] @ messages.E[:, :-1].mT
    return ms, Ps, torch.cat([torch.zeros_like(Ps[:, :1]), between], 1)
