"""Sizes that every back end of the selective scan agrees on."""

from __future__ import annotations

from torch import Tensor

CHUNK = 64
"""Steps between two states that the forward pass keeps for the backward pass."""

GPU_CHUNK = 16
"""The same on a GPU, whose caches hold a chunk's states of every program that runs at a time."""


def chunks(length: int) -> int:
    """Number of states that are kept on a CPU."""
    return -(-length // CHUNK)


def chunk_of(u: Tensor) -> int:
    """Steps between two kept states, for an input on this device."""
    return GPU_CHUNK if u.is_cuda else CHUNK


def states_shape(u: Tensor, A: Tensor, keep: bool) -> tuple[int, ...]:
    """Shape of the kept states, (B, K, N, D) or (B, K, N, D, 2); (0,) when none are kept."""
    if not keep:
        return (0,)
    batch, length, channels = u.shape
    return (batch, -(-length // chunk_of(u)), A.shape[1], channels, *A.shape[2:])


def varies(x: Tensor, A: Tensor) -> bool:
    """Whether B or C is given for every step, (B, L, G, N), rather than constant, (D, N)."""
    return x.dim() == A.dim() + 2
