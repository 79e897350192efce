"""Resampling of weighted particles: ancestors whose expected number of copies is N times a weight.

Random numbers are torch's; a filter seeds them. The ways of this module themselves, not classes
derived from them, are compiled within a particle filter, with the filter's own random numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from statewise.ops import ancestors

__all__ = ["Multinomial", "Resampling", "Residual", "Stratified", "Systematic", "inverse"]


class Resampling(ABC):
    """A way to draw N ancestors from N weights."""

    @abstractmethod
    def __call__(self, weights: Tensor) -> Tensor:
        """Ancestors (B, N) int64 of weights (B, N) that sum to 1; none of weight 0 is drawn."""

    def scheme(self) -> str | Callable[[Tensor], Tensor]:
        """What a particle filter calls: a way that it knows by name, or this one itself."""
        return _KNOWN.get(type(self), self)


def inverse(weights: Tensor, u: Tensor) -> Tensor:
    """Indices at which the distribution function passes u in [0, 1), both (…, N)."""
    return ancestors("multinomial", weights, u)


class _Named(Resampling):
    name: ClassVar[str]

    def __call__(self, weights: Tensor) -> Tensor:
        """Ancestors (B, N)."""
        count = 1 if self.name == "systematic" else weights.shape[-1]
        shape = (*weights.shape[:-1], count)
        u = torch.rand(shape, dtype=torch.float64, device=weights.device)
        return ancestors(self.name, weights, u)


class Multinomial(_Named):
    """Independent draws."""

    name = "multinomial"


class Stratified(_Named):
    """One draw from each N-th of the distribution: u_i = (i + U_i) / N."""

    name = "stratified"


class Systematic(_Named):
    """One draw shifted to each N-th: u_i = (i + U) / N; copies are ⌊N W⌋ or ⌈N W⌉."""

    name = "systematic"


class Residual(_Named):
    """⌊N W⌋ copies of each, and independent draws of the rest."""

    name = "residual"


_KNOWN: dict[type, str] = {way: way.name for way in (Multinomial, Stratified, Systematic, Residual)}
