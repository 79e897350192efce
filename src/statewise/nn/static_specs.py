"""Static maps as data: what stands between the linear systems of a deep Wiener model.

Nothing here needs torch until a map is built.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from statewise._config import register

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True)
class StaticMap(abc.ABC):
    """A memoryless map on channels, as data."""

    @abc.abstractmethod
    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """Make the module for ``channels`` inputs and outputs."""


@register
@dataclasses.dataclass(frozen=True)
class Identity(StaticMap):
    """σ(η) = η: the block stays linear."""

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from torch import nn

        return nn.Identity()


@register
@dataclasses.dataclass(frozen=True)
class ELU(StaticMap):
    """σ(η) = η for η > 0, e^η − 1 otherwise, channel by channel."""

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from torch import nn

        return nn.ELU()


@register
@dataclasses.dataclass(frozen=True)
class Tanh(StaticMap):
    """σ(η) = tanh η, channel by channel."""

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from torch import nn

        return nn.Tanh()


@register
@dataclasses.dataclass(frozen=True)
class GELU(StaticMap):
    """σ(η) = η Φ(η), channel by channel."""

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from torch import nn

        return nn.GELU()


@register
@dataclasses.dataclass(frozen=True)
class GLU(StaticMap):
    """σ(η) = (W₁ g + b₁) ⊙ sigmoid(W₂ g + b₂) with g = GELU(η), the gate of S4, S5 and LRU."""

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from statewise.nn.static import GatedUnit

        return GatedUnit(channels, rng)


@register
@dataclasses.dataclass(frozen=True)
class MLP(StaticMap):
    """σ(η) = W₂ tanh(W₁ η + b₁) + b₂.

    Attributes:
        hidden: number of hidden units.
    """

    hidden: int = 32

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from torch import nn

        from statewise.nn.static import linear

        return nn.Sequential(
            linear(channels, self.hidden, rng), nn.Tanh(), linear(self.hidden, channels, rng)
        )


@register
@dataclasses.dataclass(frozen=True)
class Polynomial(StaticMap):
    """σ(η) = Σ_p c_p T_p(η/s), Chebyshev polynomials per channel, linear outside |η| ≤ s.

    The linear continuation keeps the map Lipschitz, so that a simulation cannot run away outside
    the range that the data covered. It starts as the identity.

    Attributes:
        degree: highest degree, at least 1.
        support: s, the half width of the range, in units of the signal's standard deviation.
    """

    degree: int = 3
    support: float = 3.0

    def __post_init__(self) -> None:
        if self.degree < 1 or self.support <= 0:
            raise ValueError(
                f"Polynomial needs degree >= 1 and support > 0; given degree = {self.degree}, "
                f"support = {self.support}"
            )

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from statewise.nn.static import ChebyshevSeries

        return ChebyshevSeries(self, channels)


@register
@dataclasses.dataclass(frozen=True)
class OneLipschitz(StaticMap):
    """σ(η) = φ(Q η + b) with ‖Q‖₂ ≤ 1 and a φ of slopes up to 1: it stretches no difference.

    Source: Anil, Lucas and Grosse, Sorting out Lipschitz function approximation (1811.05381).

    Attributes:
        activation: φ: "groupsort" sorts pairs of channels, "abs", "tanh" or "relu"; the first two
            keep the size of gradients.
        linear: "orthogonal" (Cayley), "spectral" (a free matrix, divided by its largest singular
            value where that is above 1), or "none".
    """

    activation: str = "groupsort"
    linear: str = "orthogonal"

    def __post_init__(self) -> None:
        for name, choices in (
            ("activation", ("groupsort", "abs", "tanh", "relu")),
            ("linear", ("orthogonal", "spectral", "none")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"the {name} of OneLipschitz is one of {', '.join(choices)}; given "
                    f"{getattr(self, name)!r}"
                )

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from statewise.nn.one_lipschitz import OneLipschitzMap

        return OneLipschitzMap(self, channels, rng)


@register
@dataclasses.dataclass(frozen=True)
class LinearPlus(StaticMap):
    """σ(η) = p ⊙ η + q ⊙ σ'(η): a trained linear part beside another map, channel by channel.

    It starts as σ' (p = 0, q = 1); :meth:`statewise.models.DeepWiener.from_linear` starts with
    q = 0, so that the whole model is linear at first.

    Attributes:
        map: σ'.
    """

    map: StaticMap = dataclasses.field(default_factory=Tanh)

    def __post_init__(self) -> None:
        if not isinstance(self.map, StaticMap):
            raise TypeError(f"LinearPlus takes a static map; given {self.map!r}")

    def build(self, channels: int, rng: np.random.Generator) -> nn.Module:
        """See :meth:`StaticMap.build`."""
        from statewise.nn.static import LinearAndMap

        return LinearAndMap(self.map.build(channels, rng), channels)
