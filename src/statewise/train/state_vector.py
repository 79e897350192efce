"""States as flat real vectors, one per sequence, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.nn.contract import Layer, State, map_state, state_tensors


def state_size(model: Layer) -> int:
    """Real numbers in the state of one sequence."""
    return sum(tensor.numel() for tensor in state_tensors(model.init_state(1)))


def flatten_state(state: State) -> Tensor:
    """A state of B sequences as a matrix (B, S)."""
    return torch.cat([tensor.flatten(1) for tensor in state_tensors(state)], dim=1)


def unflatten_state(vector: Tensor, like: State) -> State:
    """The inverse of :func:`flatten_state`.

    Args:
        vector: (B, S).
        like: a state of any batch size, for the structure and the types.
    """
    position = 0

    def take(tensor: Tensor) -> Tensor:
        nonlocal position
        size = tensor[0].numel()
        piece = vector[:, position : position + size]
        position += size
        return piece.reshape(-1, *tensor.shape[1:]).to(tensor.dtype)

    return map_state(take, like)
