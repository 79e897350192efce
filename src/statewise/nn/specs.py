"""The parts of a layer as data: they say what to build, and can be saved and read back.

Nothing here needs torch until a part is built, so that settings can be parsed and printed at once.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from statewise._config import register
from statewise.lti.discretise import ZOH, Discretisation
from statewise.nn.initialisers import ContinuousLaw, DiscreteLaw, Ring, S4DLegS, S4DReal

if TYPE_CHECKING:
    from torch import nn

    from statewise.nn.poles import Poles


@dataclasses.dataclass(frozen=True)
class PolesConfig(abc.ABC):
    """A parametrisation with its initial law, as data."""

    @abc.abstractmethod
    def build(self, n: int, groups: int, rng: np.random.Generator) -> Poles:
        """Make the module for ``groups`` × ``n`` states; a time step belongs to a state or a group.

        Args:
            n: states per group.
            groups: number of independent single-input systems, or 1.
            rng: source of the initial draw.
        """


@register
@dataclasses.dataclass(frozen=True)
class DiscreteDiagonal(PolesConfig):
    """λ̄ = exp(−e^ν + i e^θ), the stable exponential parametrisation of the LRU.

    The input is scaled by γ = √(1 − |λ̄|²), so that white input of variance one gives states of
    variance ‖B_j‖². With a relative step δ the poles are those of the sampled continuous system:
    λ̄^δ, and the gain is that of a zero-order hold, (λ̄^δ − 1)/(λ̄ − 1) γ.

    Source: Orvieto et al., LRU (2303.06349), section 3.

    Attributes:
        law: where the poles start.
        gain: "derived" recomputes γ from λ̄, "trained" starts there and is free, "none" is 1.
    """

    law: DiscreteLaw = dataclasses.field(default_factory=Ring)
    gain: str = "derived"

    def __post_init__(self) -> None:
        if self.gain not in ("derived", "trained", "none"):
            raise ValueError(
                f'the gain of DiscreteDiagonal is "derived", "trained" or "none"; '
                f"given {self.gain!r}"
            )

    def build(self, n: int, groups: int, rng: np.random.Generator) -> Poles:
        """See :meth:`PolesConfig.build`."""
        from statewise.nn.poles import DiscreteDiagonalPoles

        return DiscreteDiagonalPoles(self, n * groups, rng)


@register
@dataclasses.dataclass(frozen=True)
class ContinuousDiagonal(PolesConfig):
    """λ = −e^α + iβ with a trained time step Δ per state or per group, then a discretisation rule.

    Sources: S4D (2206.11893), S5 (2208.04933).

    Attributes:
        law: where λ starts.
        rule: the discretisation rule.
        dt_min: smallest initial Δ (log-uniform up to ``dt_max``).
        dt_max: largest initial Δ.
        per_state: a time step for every state (S5) or for every group (S4D).
    """

    law: ContinuousLaw = dataclasses.field(default_factory=S4DLegS)
    rule: Discretisation = dataclasses.field(default_factory=ZOH)
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    per_state: bool = False

    def __post_init__(self) -> None:
        _check_steps(self.dt_min, self.dt_max)

    def build(self, n: int, groups: int, rng: np.random.Generator) -> Poles:
        """See :meth:`PolesConfig.build`."""
        from statewise.nn.poles import ContinuousDiagonalPoles

        return ContinuousDiagonalPoles(self, n, groups, rng)


@register
@dataclasses.dataclass(frozen=True)
class RealDiagonal(PolesConfig):
    """λ = −e^α, real, with a trained time step Δ and a discretisation rule: no oscillation.

    Attributes:
        law: where λ starts; its real part is used.
        rule: the discretisation rule.
        dt_min: smallest initial Δ (log-uniform up to ``dt_max``).
        dt_max: largest initial Δ.
        per_state: a time step for every state or for every group.
    """

    law: ContinuousLaw = dataclasses.field(default_factory=S4DReal)
    rule: Discretisation = dataclasses.field(default_factory=ZOH)
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    per_state: bool = False

    def __post_init__(self) -> None:
        _check_steps(self.dt_min, self.dt_max)

    def build(self, n: int, groups: int, rng: np.random.Generator) -> Poles:
        """See :meth:`PolesConfig.build`."""
        from statewise.nn.poles import RealDiagonalPoles

        return RealDiagonalPoles(self, n, groups, rng)


@register
@dataclasses.dataclass(frozen=True)
class PolarDiagonal(PolesConfig):
    """λ̄ = exp(−e^ν + iθ) with any phase: it holds every pole inside the unit circle.

    Real poles, negative ones too, are single states (θ = 0 or π) and stay real in training where C
    and B are real. The input has no gain. What :func:`statewise.compress.reduce` gives is written
    in it. Relative steps δ are as for :class:`DiscreteDiagonal`, with |θ| ≤ π for the logarithm.

    Attributes:
        law: where the poles start.
    """

    law: DiscreteLaw = dataclasses.field(default_factory=Ring)

    def build(self, n: int, groups: int, rng: np.random.Generator) -> Poles:
        """See :meth:`PolesConfig.build`."""
        from statewise.nn.poles import PolarDiagonalPoles

        return PolarDiagonalPoles(self, n * groups, rng)


def _check_steps(dt_min: float, dt_max: float) -> None:
    if not 0 < dt_min <= dt_max:
        raise ValueError(
            f"time steps need 0 < dt_min <= dt_max; given dt_min = {dt_min}, dt_max = {dt_max}"
        )


@register
@dataclasses.dataclass(frozen=True)
class Dense:
    """Every input reaches every state and every state every output (LRU, S5)."""


@register
@dataclasses.dataclass(frozen=True)
class Bank:
    """One single-input single-output system of ``d_state`` states per channel (S4, S4D)."""


@register
@dataclasses.dataclass(frozen=True)
class Scan:
    """The recurrence, ``ops.linear_scan`` or ``ops.diagonal_ssm``: honours dt, reset, lengths."""


@register
@dataclasses.dataclass(frozen=True)
class FFT:
    """Convolution by FFT: a constant step only; refuses dt, reset and lengths."""


@register
@dataclasses.dataclass(frozen=True)
class Auto:
    """Whichever is faster where FFT honours the call, by measurement; else scan.

    That is FFT on a GPU for calls of at least ``crossover`` samples, and on a CPU the training of a
    bank with many states on long batches.

    Attributes:
        crossover: shortest sequence that is convolved on a GPU.
    """

    crossover: int = 64


@dataclasses.dataclass(frozen=True)
class Norm(abc.ABC):
    """A normalisation of each sample over its channels, as data; base of the kinds below."""

    @abc.abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Make the module for ``channels``."""


@register
@dataclasses.dataclass(frozen=True)
class LayerNorm(Norm):
    """(η − mean)/std over channels, then a trained scale and shift."""

    def build(self, channels: int) -> nn.Module:
        """See :meth:`Norm.build`."""
        from torch import nn

        return nn.LayerNorm(channels)


@register
@dataclasses.dataclass(frozen=True)
class RMSNorm(Norm):
    """η / rms(η) over channels, then a trained scale."""

    def build(self, channels: int) -> nn.Module:
        """See :meth:`Norm.build`."""
        from statewise.nn.static import RootMeanSquareNorm

        return RootMeanSquareNorm(channels, eps=1e-5)


@register
@dataclasses.dataclass(frozen=True)
class Selective:
    """Which parts of a selective state space depend on the input; the others are constants.

    With none of them the layer is linear and time-invariant between its convolution and its gate.

    Source: Gu and Dao, Mamba (2312.00752), table 7.

    Attributes:
        dt: step sizes Δ.
        B: input vectors.
        C: read-out vectors.
    """

    dt: bool = True
    B: bool = True
    C: bool = True
