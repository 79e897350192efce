"""Invertible static maps of the outputs, applied before a model is trained and undone after."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from statewise._config import register
from statewise.data import Experiments

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class OutputTransform(abc.ABC):
    """An increasing map z = T(y) with its inverse, channel by channel."""

    @abc.abstractmethod
    def forward(self, y: Array) -> Array:
        """The transformed outputs T(y); NaN stays NaN."""

    @abc.abstractmethod
    def inverse(self, z: Array) -> Array:
        """The outputs T⁻¹(z)."""

    def limit(self, y: Array) -> Array:
        """The values nearest to ``y`` that the inverse can give."""
        return y

    def apply(self, experiments: Experiments) -> Experiments:
        """The records with transformed outputs."""
        return experiments.map(lambda r: dataclasses.replace(r, y=self.forward(r.y)))


@register
@dataclasses.dataclass(frozen=True)
class SignedPower(OutputTransform):
    """z = sign(y) |y|^p: evens out errors that grow with the output, such as those of river flow.

    Attributes:
        power: p, in (0, 1]; 1 changes nothing.
        floor: smallest y that the inverse gives, or None; 0 for a quantity that is never negative.
    """

    power: float = 0.5
    floor: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.power <= 1:
            raise ValueError(f"SignedPower needs a power in (0, 1]; given {self.power}")

    def forward(self, y: Array) -> Array:
        """See :meth:`OutputTransform.forward`."""
        return np.sign(y) * np.abs(y) ** self.power

    def inverse(self, z: Array) -> Array:
        """See :meth:`OutputTransform.inverse`."""
        y = np.sign(z) * np.abs(z) ** (1 / self.power)
        return self.limit(y)

    def limit(self, y: Array) -> Array:
        """See :meth:`OutputTransform.limit`."""
        return y if self.floor is None else np.maximum(y, self.floor)


def undo(transform: OutputTransform | None, z: Any) -> Any:
    """Outputs in physical units from transformed ones; None is the identity."""
    return z if transform is None else transform.inverse(z)
