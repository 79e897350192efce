"""The state of a convolution with K taps: its last K − 1 inputs, in scan order, newest last."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.precision import accumulation_dtype


def cleared(reset: Tensor, reverse: bool) -> Tensor:
    """(B, L) bool in scan order: True at steps that come before the last reset."""
    ordered = reset.flip(1) if reverse else reset
    after = ordered.flip(1).cumsum(1).flip(1)
    return after - ordered.to(after.dtype) > 0


def last_state(
    u: Tensor, state: Tensor | None, reset: Tensor | None, reverse: bool, taps: int, wanted: bool
) -> Tensor:
    """The last K − 1 inputs of the state and ``u`` together, zero before a reset.

    Args:
        u: (B, L, D).
        state: (B, K − 1, D), in the type of the result, or None for zeros.
        reset: (B, L) bool or None.
        reverse: whether scan order runs from the last step to the first.
        taps: K.
        wanted: whether anyone wants to know.

    Returns:
        (B, K − 1, D), a new tensor in the accumulation type of ``u``; empty when not wanted.
    """
    batch, length, channels = u.shape
    dtype = accumulation_dtype(u.dtype)
    if not wanted:
        return u.new_empty(0, dtype=dtype)
    keep = min(taps - 1, length)
    if keep == 0:
        return u.new_zeros((batch, taps - 1, channels), dtype=dtype)
    recent = u[:, :keep].flip(1) if reverse else u[:, length - keep :]
    recent = recent.to(dtype)
    older = taps - 1 - keep
    if reset is not None:
        gone = cleared(reset, reverse)[:, length - keep :, None]
        recent = recent.masked_fill(gone, 0)
    if not older:
        return recent.clone(memory_format=torch.contiguous_format)
    if state is None:
        before = u.new_zeros((batch, older, channels), dtype=dtype)
    else:
        before = state[:, state.shape[1] - older :]
        if reset is not None:
            before = before.masked_fill(reset.any(1)[:, None, None], 0)
    return torch.cat([before, recent], 1)


def carry_back(
    grad: Tensor,
    length: int,
    du: Tensor | None,
    dstate: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> None:
    """Add the gradient of :func:`last_state` (B, K − 1, D) to those of u and the state, in place.

    Args:
        grad: gradient of the last state.
        length: L.
        du: gradient of u so far, (B, L, D), or None where it is not wanted.
        dstate: gradient of the state so far, (B, K − 1, D), or None.
        reset: as given to :func:`last_state`.
        reverse: as given to it.
    """
    keep = min(grad.shape[1], length)
    older = grad.shape[1] - keep
    recent, before = grad[:, older:], grad[:, :older]
    if reset is not None and grad.shape[1]:
        gone = cleared(reset, reverse)[:, length - keep :, None]
        recent = recent.masked_fill(gone, 0)
        before = before.masked_fill(reset.any(1)[:, None, None], 0)
    if du is not None and keep:
        if reverse:
            du[:, :keep] += recent.flip(1)
        else:
            du[:, length - keep :] += recent
    if dstate is not None and older:
        dstate[:, dstate.shape[1] - older :] += before
