"""Sizes that every back end of the selective scan agrees on."""

from __future__ import annotations

from torch import Tensor

CHUNK = 64
"""Steps between two states that the forward pass keeps for the backward pass."""


def chunks(length: int) -> int:
    """Number of kept states."""
    return -(-length // CHUNK)


def states_shape(u: Tensor, A: Tensor, keep: bool) -> tuple[int, ...]:
    """Shape of the kept states, (B, K, N, D) or (B, K, N, D, 2); (0,) when none are kept."""
    if not keep:
        return (0,)
    batch, length, channels = u.shape
    return (batch, chunks(length), A.shape[1], channels, *A.shape[2:])


def varies(x: Tensor, A: Tensor) -> bool:
    """Whether B or C is given for every step, (B, L, G, N), rather than constant, (D, N)."""
    return x.dim() == A.dim() + 2
