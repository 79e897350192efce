"""The diagonal bank as a readable loop, and its adjoint as one.

Shapes: u and y (B, L, D); a, b, c (D, N, 2); d (D,); h0 and the last state (B, D, N, 2); dt (D,),
(B, L, D) or (B, L, 1); reset (B, L); pairs (re, im) on the last axis. See README.md for the
derivation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from statewise.ops.diagonal_ssm import rules
from statewise.ops.pairs import from_pairs
from statewise.ops.precision import accumulation_dtype

SHARED_STEPS = True
"""Whether steps (B, L, 1) need not be written out for all channels."""

BOUNDARY = 64
"""Steps from one kept state to the next."""


class Gradients(NamedTuple):
    """Gradients of every tensor given to ``forward``; None where it was None or is not wanted."""

    u: Tensor | None
    a: Tensor | None
    b: Tensor | None
    c: Tensor | None
    d: Tensor | None
    h0: Tensor | None
    dt: Tensor | None


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def bounds_shape(u: Tensor, a: Tensor) -> tuple[int, ...]:
    """(B, ⌈L / BOUNDARY⌉, N, 2, D): channels last, as the back ends walk over them."""
    return (u.shape[0], -(-u.shape[1] // BOUNDARY), a.shape[1], 2, u.shape[2])


def nothing(
    du: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, dh0: Tensor | None,
    dt: Tensor | None, need_parameters: bool,
) -> Gradients:  # fmt: skip
    """The gradients where there is no sequence or no channel: zero, or without an element."""
    if not need_parameters:
        return Gradients(du, None, None, None, None, dh0, None)
    da, db, dc = (torch.zeros_like(x) for x in (a, b, c))
    dd, ddt = (None if x is None else torch.zeros_like(x) for x in (d, dt))
    return Gradients(du, da, db, dc, dd, dh0, ddt)


def _number(x: Tensor) -> Tensor:
    return from_pairs(x)


def _pairs(x: Tensor) -> Tensor:
    # A fresh tensor: an operator may not return a view of another tensor.
    return torch.view_as_real(x).clone()


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def _coefficients(
    a: Tensor, b: Tensor, dt: Tensor | None, rule: str, t: int
) -> tuple[Tensor, Tensor]:
    """ā and b̄ at step t, (D, N) or (B, D, N)."""
    if dt is None:
        return a, b
    step = dt if dt.dim() == 1 else dt[:, t]
    return rules.followed(rule, a, step.unsqueeze(-1), b)


def _fresh(k: int, t: int, h0: Tensor | None, reset: Tensor | None, like: Tensor) -> Tensor:
    """(B, 1, 1): True where the step, k-th in scan order and t-th in time, has no predecessor."""
    fresh = torch.full((like.shape[0], 1, 1), k == 0 and h0 is None, device=like.device)
    return fresh if reset is None else fresh | reset[:, t, None, None]


def forward(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    h0: Tensor | None,
    dt: Tensor | None,
    reset: Tensor | None,
    rule: str,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_t = ā_t h_{t−1} + b̄_t u_t,  y_t = Re Σ_n c_n h_{t,n} + d u_t.

    Args:
        u: inputs, (B, L, D).
        a: discrete poles, or with ``rule`` continuous ones, (D, N, 2), like all that follow in
            the accumulation type of ``u``.
        b: input weights, (D, N, 2).
        c: output weights, (D, N, 2).
        d: direct term, (D,), or None.
        h0: state before the first step in scan order, (B, D, N, 2), or None.
        dt: steps, (D,), (B, L, D) or (B, L, 1); None exactly when ``rule`` is empty.
        reset: (B, L) bool, True where the state is zeroed before the step, or None.
        rule: "zoh", "bilinear", or "" for discrete poles.
        reverse: scan from the last step to the first.
        keep: also return the states that ``backward`` needs.

    Returns:
        y (B, L, D) in the type of ``u``; the last state (B, D, N, 2); and the states before steps
        0, BOUNDARY, 2 BOUNDARY, … in scan order (:func:`bounds_shape`), empty unless kept.
    """
    dtype = accumulation_dtype(u.dtype)
    x, A, B, C = u.to(dtype), _number(a), _number(b), _number(c)
    state = A.new_zeros(u.shape[0], *A.shape) if h0 is None else _number(h0)
    y = torch.empty_like(x)
    bounds = a.new_empty(bounds_shape(u, a) if keep else 0)
    for k, t in enumerate(_order(u.shape[1], reverse)):
        if keep and k % BOUNDARY == 0:
            bounds[:, k // BOUNDARY] = torch.view_as_real(state).permute(0, 2, 3, 1)
        pole, weight = _coefficients(A, B, dt, rule, t)
        driven = weight * x[:, t, :, None]
        fresh = _fresh(k, t, h0, reset, x)
        state = torch.where(fresh, driven, pole * state + driven)
        y[:, t] = (C * state).real.sum(-1)
        if d is not None:
            y[:, t] += d * x[:, t]
    return y.to(u.dtype), _pairs(state), bounds


def _states(
    x: Tensor, A: Tensor, B: Tensor, start: Tensor, h0: Tensor | None, dt: Tensor | None,
    reset: Tensor | None, rule: str, reverse: bool,
) -> list[Tensor]:  # fmt: skip
    """The states before each step in scan order, and the last one."""
    states = [start]
    for k, t in enumerate(_order(x.shape[1], reverse)):
        pole, weight = _coefficients(A, B, dt, rule, t)
        driven = weight * x[:, t, :, None]
        fresh = _fresh(k, t, h0, reset, x)
        states.append(torch.where(fresh, driven, pole * states[-1] + driven))
    return states


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    h0: Tensor | None,
    dt: Tensor | None,
    reset: Tensor | None,
    bounds: Tensor,
    rule: str,
    reverse: bool,
    need_parameters: bool,
) -> Gradients:
    """g_t = conj(ā_{t+1}) g_{t+1} + conj(c) ∂y_t, and what follows from it.

    ∂u_t = Re Σ conj(b̄_t) g_t + d ∂y_t,  ∂c = Σ ∂y_t conj(h_t),  ∂d = Σ ∂y_t u_t,
    ∂ā_t = g_t conj(h_{t−1}),  ∂b̄_t = g_t u_t, pulled back to λ, b and Δ when there is a rule.

    Args:
        grad_y: gradient of y, (B, L, D), or None for zero.
        grad_last: gradient of the last state, (B, D, N, 2), or None for zero.
        u: as given to :func:`forward`, like the other arguments of its names.
        a: poles.
        b: input weights.
        c: output weights.
        d: direct term.
        h0: initial state.
        dt: steps.
        reset: resets.
        bounds: as returned by it; not used here.
        rule: discretisation.
        reverse: direction.
        need_parameters: whether gradients of a, b, c, d and dt are wanted.

    Returns:
        The gradients: of u in its type, of the others in the accumulation type.
    """
    dtype = accumulation_dtype(u.dtype)
    x, A, B, C = u.to(dtype), _number(a), _number(b), _number(c)
    start = A.new_zeros(u.shape[0], *A.shape) if h0 is None else _number(h0)
    ends = torch.zeros_like(x) if grad_y is None else grad_y.to(dtype)
    states = _states(x, A, B, start, h0, dt, reset, rule, reverse)
    carry = torch.zeros_like(start) if grad_last is None else _number(grad_last.to(dtype))
    nil = torch.zeros_like(start)
    du = torch.empty_like(x)
    dA, dB, dC = (torch.zeros_like(start) for _ in range(3))
    ddt = None if dt is None else x.new_zeros(x.shape)
    for k, t in reversed(list(enumerate(_order(u.shape[1], reverse)))):
        fresh = _fresh(k, t, h0, reset, x)
        pole, weight = _coefficients(A, B, dt, rule, t)
        g = carry + C.conj_physical() * ends[:, t, :, None]
        du[:, t] = (weight.conj_physical() * g).real.sum(-1)
        if d is not None:
            du[:, t] += d * ends[:, t]
        dC += ends[:, t, :, None] * states[k + 1].conj_physical()
        grad_pole = torch.where(fresh, nil, g * states[k].conj_physical())
        grad_weight = g * x[:, t, :, None]
        if dt is not None and ddt is not None:
            step = dt.expand_as(x[:, t]) if dt.dim() == 1 else dt[:, t]
            grad_pole, grad_weight, grad_step = rules.gradients(
                rule, A, step.unsqueeze(-1), B, grad_pole, grad_weight
            )
            ddt[:, t] = grad_step.sum(-1)
        dA += grad_pole
        dB += grad_weight
        carry = torch.where(fresh, nil, pole.conj_physical() * g)
    dh0 = None if h0 is None else _pairs(carry)
    if not need_parameters:
        return Gradients(du.to(u.dtype), None, None, None, None, dh0, None)
    if ddt is not None and dt is not None:
        ddt = ddt.sum_to_size(dt.shape)
    dd = None if d is None else (ends * x).sum((0, 1))
    da, db, dc = (_pairs(total.sum(0)) for total in (dA, dB, dC))
    return Gradients(du.to(u.dtype), da, db, dc, dd, dh0, ddt)
