"""Resampling of weighted particles: ancestors whose expected number of copies is N times a weight.

Random numbers are torch's; a filter seeds them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Resampling(ABC):
    """A way to draw N ancestors from N weights."""

    @abstractmethod
    def __call__(self, weights: Tensor) -> Tensor:
        """Ancestors (B, N) int64 of weights (B, N) that sum to 1; none of weight 0 is drawn."""


def inverse(weights: Tensor, u: Tensor) -> Tensor:
    """Indices at which the distribution function passes u in [0, 1), both (B, N)."""
    c = weights.double().cumsum(-1)
    c = c / c[..., -1:]
    below = 1 - torch.finfo(torch.float64).eps
    # From the right, so that weights of 0, where c stands still, are passed over.
    return torch.searchsorted(c, u.clamp_max(below).contiguous(), right=True)


def _uniform(weights: Tensor, count: int) -> Tensor:
    return torch.rand(*weights.shape[:-1], count, dtype=torch.float64, device=weights.device)


class Multinomial(Resampling):
    """Independent draws."""

    def __call__(self, weights: Tensor) -> Tensor:
        """Ancestors (B, N)."""
        return inverse(weights, _uniform(weights, weights.shape[-1]))


class Stratified(Resampling):
    """One draw from each N-th of the distribution: u_i = (i + U_i) / N."""

    def __call__(self, weights: Tensor) -> Tensor:
        """Ancestors (B, N)."""
        N = weights.shape[-1]
        i = torch.arange(N, device=weights.device)
        return inverse(weights, (i + _uniform(weights, N)) / N)


class Systematic(Resampling):
    """One draw shifted to each N-th: u_i = (i + U) / N; copies are ⌊N W⌋ or ⌈N W⌉."""

    def __call__(self, weights: Tensor) -> Tensor:
        """Ancestors (B, N)."""
        N = weights.shape[-1]
        i = torch.arange(N, device=weights.device)
        return inverse(weights, (i + _uniform(weights, 1)) / N)


class Residual(Resampling):
    """⌊N W⌋ copies of each, and independent draws of the rest."""

    def __call__(self, weights: Tensor) -> Tensor:
        """Ancestors (B, N)."""
        N = weights.shape[-1]
        share = N * weights.double() / weights.double().sum(-1, keepdim=True)
        counts = share.floor()
        ends = counts.cumsum(-1)
        slot = torch.arange(N, dtype=torch.float64, device=weights.device).expand(share.shape)
        sure = torch.searchsorted(ends, slot.contiguous(), right=True).clamp_max(N - 1)
        rest = share - counts
        left = rest.sum(-1, keepdim=True) > 0
        drawn = inverse(torch.where(left, rest, weights.double()), _uniform(weights, N))
        return torch.where(slot < ends[..., -1:], sure, drawn)
