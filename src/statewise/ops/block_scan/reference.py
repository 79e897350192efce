"""The block scan as a readable loop, and its adjoint as one.

Shapes: A (1 or B, 1 or L, D, k, k), b and h (B, L, D, k), h0 and h_last (B, D, k), reset (B, L).
See README.md for the derivation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.precision import accumulation_dtype


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def _fresh(k: int, t: int, h0: Tensor | None, reset: Tensor | None, like: Tensor) -> Tensor:
    """(B, 1, 1): True where the step, k-th in scan order and t-th in time, has no predecessor."""
    fresh = torch.full((like.shape[0], 1, 1), k == 0 and h0 is None, device=like.device)
    return fresh if reset is None else fresh | reset[:, t, None, None]


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix * vector.unsqueeze(-2)).sum(-1)


def forward(
    A: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h_t = A_t h_{t−1} + b_t, and h_t = b_t where the sequence starts anew.

    Args:
        A: matrices, (1 or B, 1 or L, D, k, k).
        b: inputs, (B, L, D, k), in the type of ``A``.
        h0: state before the first step in scan order, (B, D, k), in the accumulation type, or
            None.
        reset: (B, L) bool, True where the state is zeroed before the step, or None.
        reverse: scan from the last step to the first.

    Returns:
        h (B, L, D, k) in the type of ``b``, and the last state (B, D, k) in the accumulation type.
    """
    dtype = accumulation_dtype(b.dtype)
    matrices, x = A.to(dtype), b.to(dtype)
    state = torch.zeros_like(x[:, 0]) if h0 is None else h0
    h = torch.empty_like(x)
    for k, t in enumerate(_order(x.shape[1], reverse)):
        carried = _apply(matrices[:, t if A.shape[1] > 1 else 0], state) + x[:, t]
        state = torch.where(_fresh(k, t, h0, reset, x), x[:, t], carried)
        h[:, t] = state
    return h.to(b.dtype), state


def backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    A: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_A: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """g_t = A_{t+1}ᵀ g_{t+1} + ∂h_t;  ∂b_t = g_t,  ∂A_t = g_t h_{t−1}ᵀ.

    Args:
        grad_h: gradient of ``h``, (B, L, D, k), or None for zero.
        grad_last: gradient of the last state, (B, D, k), or None for zero.
        A: as given to :func:`forward`.
        h: as returned by it, (B, L, D, k).
        h0: as given to it.
        reset: as given to it.
        reverse: as given to it.
        need_A: whether the gradient of ``A`` is wanted.

    Returns:
        The gradients of A (its shape and type), b and h0 (accumulation type); that of ``A`` is
        empty when it is not wanted, that of ``h0`` when there is none.
    """
    dtype = accumulation_dtype(h.dtype)
    transposed, states = A.to(dtype).mT, h.to(dtype)
    start = torch.zeros_like(states[:, 0]) if h0 is None else h0
    carry = torch.zeros_like(start) if grad_last is None else grad_last.to(dtype)
    ends = None if grad_h is None else grad_h.to(dtype)
    nil = torch.zeros_like(start)
    db = torch.empty_like(states)
    dA = states.new_empty((*states.shape, states.shape[-1]) if need_A else 0)
    steps = list(enumerate(_order(states.shape[1], reverse)))
    for k, t in reversed(steps):
        fresh = _fresh(k, t, h0, reset, states)
        before = start if k == 0 else states[:, steps[k - 1][1]]
        g = carry if ends is None else carry + ends[:, t]
        db[:, t] = g
        if need_A:
            outer = g.unsqueeze(-1) * before.unsqueeze(-2)
            dA[:, t] = torch.where(fresh.unsqueeze(-1), torch.zeros_like(outer), outer)
        carry = torch.where(fresh, nil, _apply(transposed[:, t if A.shape[1] > 1 else 0], g))
    dA = dA.sum_to_size(A.shape) if need_A else dA
    dh0 = states.new_empty(0) if h0 is None else carry.clone()
    return dA.to(A.dtype), db.to(h.dtype), dh0
