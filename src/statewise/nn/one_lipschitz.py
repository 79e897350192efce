"""Static maps that never stretch a difference, and the certificate of a chain of such parts."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.block import Block
from statewise.nn.l2_bounded import L2Bounded
from statewise.nn.static import LinearAndMap
from statewise.nn.static_specs import OneLipschitz

GELU_SLOPE = 0.5 * (1 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi)
"""Largest slope of η Φ(η), at √2."""


def group_sort(eta: Tensor) -> Tensor:
    """Sort each pair of neighbouring channels; a last one without a neighbour stays."""
    whole = eta.shape[-1] // 2 * 2
    pairs = eta[..., :whole].unflatten(-1, (-1, 2))
    ordered = torch.stack((pairs.amin(-1), pairs.amax(-1)), -1).flatten(-2)
    return torch.cat((ordered, eta[..., whole:]), -1)


class OneLipschitzMap(nn.Module):
    """The module of :class:`~statewise.nn.OneLipschitz`."""

    def __init__(self, config: OneLipschitz, channels: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.config = config
        start = rng.standard_normal((channels, channels)) / math.sqrt(channels)
        self.weight = None
        if config.linear != "none":
            self.weight = nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))
        self.bias = nn.Parameter(torch.zeros(channels))

    @property
    def matrix(self) -> Tensor | None:
        """Q with ‖Q‖₂ ≤ 1, in double precision; None where there is none."""
        if self.weight is None:
            return None
        W = self.weight.double()
        if self.config.linear == "spectral":
            return W / torch.linalg.matrix_norm(W, 2).clamp_min(1.0)
        eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
        turn = (W - W.mT) / 2
        # Cayley: orthogonal for every skew-symmetric matrix.
        return torch.linalg.solve(eye + turn, eye - turn)

    def gain_bound(self) -> float:
        """The Lipschitz constant, 1."""
        return 1.0

    def forward(self, eta: Tensor) -> Tensor:
        """σ(η) on the last axis."""
        Q = self.matrix
        if Q is not None:
            eta = eta @ Q.to(eta.dtype).mT
        eta = eta + self.bias.to(eta.dtype)
        if self.config.activation == "groupsort":
            return group_sort(eta)
        return {"abs": torch.abs, "tanh": torch.tanh, "relu": torch.relu}[self.config.activation](
            eta
        )


def certified_gain(part: nn.Module) -> Tensor:
    """A bound of ‖y − y'‖₂ / ‖u − u'‖₂ over two inputs of a part, with its gradient.

    Known are :class:`~statewise.nn.L2Bounded`, blocks of known parts without a norm, linear maps,
    activations with a bounded slope, :class:`~statewise.nn.OneLipschitz` and
    :class:`~statewise.nn.LinearPlus`. A block has (bound of the layer) · (bound of the map), and
    the norm of its skip is added. Dropout is taken as off.

    Args:
        part: a layer, a block or a static map.

    Returns:
        A number in double precision; infinite for a part whose bound is not known.
    """
    if isinstance(part, L2Bounded):
        return part.gain
    if isinstance(part, Block):
        return _block_gain(part)
    if isinstance(part, nn.Linear):
        return torch.linalg.matrix_norm(part.weight.double(), 2)
    if isinstance(part, LinearAndMap):
        inner = certified_gain(part.map)
        return part.linear.double().abs().amax() + part.weight.double().abs().amax() * inner
    if isinstance(part, nn.Sequential):
        total = torch.ones((), dtype=torch.float64)
        for one in part:
            total = total * certified_gain(one)
        return total
    if isinstance(part, nn.GELU):
        return torch.tensor(GELU_SLOPE, dtype=torch.float64)
    plain = (nn.Identity, nn.Dropout, nn.Tanh, nn.ReLU, nn.ELU, OneLipschitzMap)
    value = 1.0 if isinstance(part, plain) else math.inf
    return torch.tensor(value, dtype=torch.float64)


def _block_gain(block: Block) -> Tensor:
    bound = certified_gain(block.norm) * certified_gain(block.layer) * certified_gain(block.static)
    if block.adds_input:
        return bound + 1
    return bound if block.F is None else bound + torch.linalg.matrix_norm(block.F.double(), 2)
