"""Training losses, as data."""

from __future__ import annotations

import dataclasses
from typing import Any

from statewise._config import register


@register
@dataclasses.dataclass(frozen=True)
class MSE:
    """Squared error e²; its mean over the scored samples is the training loss."""

    def values(self, error: Any) -> Any:
        """The loss of every entry of ``error`` = ŷ − y, a tensor of any shape."""
        return error * error


@register
@dataclasses.dataclass(frozen=True)
class Huber:
    """e²/2 for |e| ≤ δ, δ(|e| − δ/2) beyond: outliers pull with bounded force.

    Attributes:
        delta: δ > 0, in standard deviations of the output.

    Raises:
        ValueError: δ that is not positive.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"Huber needs delta > 0; given {self.delta}")

    def values(self, error: Any) -> Any:
        """The loss of every entry of ``error`` = ŷ − y, a tensor of any shape."""
        size = error.abs()
        inside = size.clamp(max=self.delta)
        return inside * (size - 0.5 * inside)


Loss = MSE | Huber
