"""``block_scan``: the public door, where arguments are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import (
    check_length,
    check_reset,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.block_scan._library import scan
from statewise.ops.precision import accumulation_dtype

_OP = "block_scan"


def block_scan(
    A: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Linear recurrence with a k×k matrix for each channel: h_t = A_t h_{t−1} + b_t.

    Where a sequence starts, at its first step without ``h0`` and at each reset, h_t = b_t.
    A system with one dense n×n matrix is D = 1, k = n.

    Types promote together. Half-precision inputs are accumulated in float32: ``h`` then has their
    type and the last state is float32, which may be given back as ``h0``. Differentiable once
    with respect to A, b and h0.

    Args:
        A: matrices, anything that broadcasts to (B, L, D, k, k) and ends in (k, k): (D, k, k) or
            (B, 1, D, k, k) for constant ones, which are not expanded over batch or time.
        b: inputs, (B, L, D, k), with k ≥ 1.
        h0: state before the first step, (B, D, k); None for a sequence that starts here.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        Every state h, (B, L, D, k), and the last one in scan order, (B, D, k).

    Raises:
        ValueError: a shape that does not fit, or no steps at all.
        TypeError: a type that is not real floating-point, or a reset that is not bool.

    Example:
        >>> import torch
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> h, last = block_scan(turn, torch.zeros(1, 3, 1, 2), torch.tensor([[[1.0, 0.0]]]))
        >>> h[0, :, 0].tolist(), last.tolist()
        ([[0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [[[0.0, -1.0]]])
    """
    require_tensors(_OP, A=A, b=b)
    optional_tensors(_OP, h0=h0, reset=reset)
    floating(_OP, "A", A)
    floating(_OP, "b", b)
    out = torch.promote_types(A.dtype, b.dtype)
    acc = accumulation_dtype(out)
    if h0 is not None:
        floating(_OP, "h0", h0)
        if h0.dtype not in (out, acc):
            wider = torch.promote_types(acc, h0.dtype)
            out, acc = (out, acc) if wider == acc else (wider, wider)
    shape = tuple(b.shape)
    if len(shape) != 4 or shape[3] == 0:
        raise ValueError(f"{_OP}: b has shape {shape}; it must be (B, L, D, k) with k at least 1")
    check_length(_OP, "b", b)
    if h0 is not None:
        check_shape(_OP, "h0", h0, (shape[0], *shape[2:]), f"b of shape {shape}")
    check_reset(_OP, reset, shape[0], shape[1])
    return scan(
        _matrices(A, shape).to(out),
        b.to(out),
        None if h0 is None else h0.to(acc),
        reset,
        reverse,
    )


def _matrices(A: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``A`` with five axes, its channel axis in full and nothing else expanded."""
    target = (*shape, shape[-1])
    missing = 5 - A.dim()
    fits = (
        0 <= missing <= 3
        and tuple(A.shape[-2:]) == target[-2:]
        and all(n in (1, m) for n, m in zip(A.shape, target[missing:], strict=True))
    )
    if not fits:
        raise ValueError(
            f"{_OP}: A has shape {tuple(A.shape)}; b of shape {shape} needs one that broadcasts "
            f"to {target} and ends in {target[-2:]}"
        )
    full = A.reshape((1,) * missing + tuple(A.shape)) if missing else A
    if full.shape[2] != target[2]:
        full = full.expand(*full.shape[:2], *target[2:])
    return full
