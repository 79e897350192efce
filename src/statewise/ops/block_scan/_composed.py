"""The block scan of larger matrices as batched matrix products.

Time is cut into chunks of ``STEPS``. All chunks advance together, one step at a time, and keep
the prefix maps h ↦ P_t h + q_t from the chunk's start; the map of each whole chunk is one step of
a shorter scan, which is solved in the same way; one product with the states before the chunks then
gives every state. A length of L takes about STEPS · log L / log STEPS calls of a batched product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.precision import accumulation_dtype

STEPS = 16
"""Steps to a chunk; lengths up to twice that are walked."""


def _matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _scan(A: Tensor, b: Tensor, fresh: Tensor) -> Tensor:
    """h_t = A_t h_{t−1} + b_t from a zero state, and h_t = b_t where ``fresh`` (B, L).

    A (1 or B, 1 or L, D, k, k), b (B, L, D, k); forward in time.
    """
    B, L, D, k = b.shape
    if L <= 2 * STEPS:
        states = [b[:, 0]]
        for t in range(1, L):
            carried = _matvec(A[:, t if A.shape[1] > 1 else 0], states[-1]) + b[:, t]
            states.append(torch.where(fresh[:, t, None, None], b[:, t], carried))
        return torch.stack(states, 1)
    chunks = -(-L // STEPS)
    padding = chunks * STEPS - L
    if padding:
        b = torch.cat([b, b.new_zeros(B, padding, D, k)], 1)
        fresh = torch.cat([fresh, fresh.new_zeros(B, padding)], 1)
        if A.shape[1] > 1:
            A = torch.cat([A, A.new_zeros(A.shape[0], padding, D, k, k)], 1)
    varies = A.shape[1] > 1
    if varies:
        A = A.reshape(A.shape[0], chunks, STEPS, D, k, k)
    b = b.reshape(B, chunks, STEPS, D, k)
    fresh = fresh.reshape(B, chunks, STEPS)
    maps, offsets, ignores = [], [], []
    for t in range(STEPS):
        matrix = A[:, :, t] if varies else A
        here = fresh[:, :, t, None, None]
        if t:
            total = torch.where(here.unsqueeze(-1), 0, matrix @ maps[-1])
            offset = torch.where(here, b[:, :, t], _matvec(matrix, offsets[-1]) + b[:, :, t])
            ignored = ignores[-1] | fresh[:, :, t]
        else:
            total = torch.where(here.unsqueeze(-1), 0, matrix)
            total = total.expand(B, chunks, D, k, k)
            offset, ignored = b[:, :, 0], fresh[:, :, 0]
        maps.append(total)
        offsets.append(offset)
        ignores.append(ignored)
    ends = _scan(maps[-1], offsets[-1], ignores[-1])
    start = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1).unsqueeze(2)
    offset = torch.stack(offsets, 2)
    moved = _matvec(torch.stack(maps, 2), start) + offset
    h = torch.where(torch.stack(ignores, 2)[..., None, None], offset, moved)
    return h.reshape(B, chunks * STEPS, D, k)[:, :L]


def _fresh(h0: Tensor | None, reset: Tensor | None, like: Tensor, reverse: bool) -> Tensor:
    """(B, L): True where a step has no predecessor."""
    fresh = torch.zeros(like.shape[:2], dtype=torch.bool, device=like.device)
    if reset is not None:
        fresh = fresh | reset
    if h0 is None:
        fresh[:, -1 if reverse else 0] = True
    return fresh


def _flip(x: Tensor, reverse: bool) -> Tensor:
    return x.flip(1) if reverse else x


def forward(
    A: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The scan; arguments and results are those of ``reference.forward``."""
    dtype = accumulation_dtype(b.dtype)
    fresh = _flip(_fresh(h0, reset, b, reverse), reverse)
    matrices, x = _flip(A.to(dtype), reverse), _flip(b.to(dtype), reverse)
    if h0 is not None:
        # The first step is made by hand, so that the scan may start from nothing.
        first = _matvec(matrices[:, 0], h0) + x[:, 0]
        first = torch.where(fresh[:, 0, None, None], x[:, 0], first)
        x = torch.cat([first.unsqueeze(1), x[:, 1:]], 1)
    h = _scan(matrices, x, fresh)
    return _flip(h, reverse).to(b.dtype), h[:, -1].clone()


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
    """The adjoint; arguments and results are those of ``reference.backward``.

    g_t = A_{t+1}ᵀ g_{t+1} + ∂h_t is a scan against the scan's order, with the matrices moved by
    one step.
    """
    dtype = accumulation_dtype(h.dtype)
    fresh = _flip(_fresh(h0, reset, h, reverse), not reverse)
    # From here on the first step is the last one of the scan.
    A_turned = _flip(A.to(dtype).mT, not reverse)
    states = _flip(h.to(dtype), not reverse)
    x = torch.zeros_like(states) if grad_h is None else _flip(grad_h.to(dtype), not reverse)
    if grad_last is not None:
        x = torch.cat([x[:, :1] + grad_last.to(dtype).unsqueeze(1), x[:, 1:]], 1)
    before_fresh = torch.cat([torch.ones_like(fresh[:, :1]), fresh[:, :-1]], 1)
    moved = A_turned
    if A.shape[1] > 1:
        moved = torch.cat([A_turned[:, :1], A_turned[:, :-1]], 1)
    g = _scan(moved, x, before_fresh)
    start = torch.zeros_like(g[:, 0]) if h0 is None else h0
    dA = g.new_empty(0)
    if need_A:
        before = torch.cat([states[:, 1:], start.unsqueeze(1)], 1)
        outer = g.unsqueeze(-1) * before.unsqueeze(-2)
        dA = torch.where(fresh[..., None, None, None], 0, outer)
        dA = _flip(dA, not reverse).sum_to_size(A.shape)
    dh0 = g.new_empty(0)
    if h0 is not None:
        dh0 = torch.where(fresh[:, -1, None, None], 0, _matvec(A_turned[:, -1], g[:, -1]))
    db = _flip(g, not reverse).to(h.dtype).contiguous()
    return dA.to(A.dtype).contiguous(), db, dh0
