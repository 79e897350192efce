"""The linear scan as a readable loop, and its adjoint as one.

Shapes: a (1 or B, 1 or L, D), b and h (B, L, D), h0 and h_last (B, D), reset (B, L); with
``pairs`` each has a trailing axis (re, im). See README.md for the derivation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.pairs import from_pairs
from statewise.ops.precision import accumulation_dtype


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def _numbers(x: Tensor, dtype: torch.dtype, pairs: bool) -> Tensor:
    x = x.to(dtype)
    return from_pairs(x) if pairs else x


def _tensor(x: Tensor, pairs: bool) -> Tensor:
    # A fresh tensor: an operator may not return a view of another tensor.
    return torch.view_as_real(x.resolve_conj()).clone() if pairs else x


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def _fresh(k: int, t: int, h0: Tensor | None, reset: Tensor | None, like: Tensor) -> Tensor:
    """(B, 1): True where the step, k-th in scan order and t-th in time, has no predecessor."""
    fresh = torch.full((like.shape[0], 1), k == 0 and h0 is None, device=like.device)
    return fresh if reset is None else fresh | reset[:, t, None]


def forward(
    a: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool, pairs: bool
) -> tuple[Tensor, Tensor]:
    """h_t = a_t ⊙ h_{t−1} + b_t, and h_t = b_t where the sequence starts anew.

    Args:
        a: coefficients, (1 or B, 1 or L, D).
        b: inputs, (B, L, D), in the type of ``a``.
        h0: state before the first step in scan order, (B, D), in the accumulation type, or None.
        reset: (B, L) bool, True where the state is zeroed before the step, or None.
        reverse: scan from the last step to the first.
        pairs: every tensor but ``reset`` has a trailing axis (re, im).

    Returns:
        h (B, L, D) in the type of ``b``, and the last state (B, D) in the accumulation type.
    """
    dtype = accumulation_dtype(b.dtype)
    A, x = _numbers(a, dtype, pairs), _numbers(b, dtype, pairs)
    state = torch.zeros_like(x[:, 0]) if h0 is None else _numbers(h0, dtype, pairs)
    h = torch.empty_like(x)
    for k, t in enumerate(_order(x.shape[1], reverse)):
        carried = A[:, t if A.shape[1] > 1 else 0] * state + x[:, t]
        state = torch.where(_fresh(k, t, h0, reset, x), x[:, t], carried)
        h[:, t] = state
    return _tensor(h, pairs).to(b.dtype), _tensor(state, pairs)


def backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    pairs: bool,
    need_a: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """g_t = conj(a_{t+1}) g_{t+1} + ∂h_t;  ∂b_t = g_t,  ∂a_t = g_t conj(h_{t−1}).

    Args:
        grad_h: gradient of ``h``, (B, L, D), or None for zero.
        grad_last: gradient of the last state, (B, D), or None for zero.
        a: as given to :func:`forward`.
        h: as returned by it, (B, L, D).
        h0: as given to it.
        reset: as given to it.
        reverse: as given to it.
        pairs: as given to it.
        need_a: whether the gradient of ``a`` is wanted.

    Returns:
        The gradients of a (its shape and type), b and h0 (accumulation type); that of ``a`` is
        empty when it is not wanted, that of ``h0`` when there is none.
    """
    dtype = accumulation_dtype(h.dtype)
    A, states = _numbers(a, dtype, pairs), _numbers(h, dtype, pairs)
    start = torch.zeros_like(states[:, 0]) if h0 is None else _numbers(h0, dtype, pairs)
    carry = torch.zeros_like(start)
    if grad_last is not None:
        carry = carry + _numbers(grad_last, dtype, pairs)
    ends = None if grad_h is None else _numbers(grad_h, dtype, pairs)
    nil = torch.zeros_like(start)
    db, da = torch.empty_like(states), torch.empty_like(states)
    steps = list(enumerate(_order(states.shape[1], reverse)))
    for k, t in reversed(steps):
        fresh = _fresh(k, t, h0, reset, states)
        before = start if k == 0 else states[:, steps[k - 1][1]]
        g = carry if ends is None else carry + ends[:, t]
        db[:, t] = g
        da[:, t] = torch.where(fresh, nil, g * before.conj())
        carry = torch.where(fresh, nil, A[:, t if A.shape[1] > 1 else 0].conj() * g)
    da = _tensor(da, pairs).sum_to_size(a.shape) if need_a else h.new_empty(0)
    dh0 = h.new_empty(0, dtype=dtype) if h0 is None else _tensor(carry, pairs)
    return da.to(a.dtype), _tensor(db, pairs).to(h.dtype), dh0
