"""Where poles start: named laws for the eigenvalues of a linear layer.

Each law gives either discrete poles λ̄ (inside the unit disc, per sample) or continuous poles λ
(left half plane, per unit of the layer's own time); a parametrisation converts between the two with
its initial time step.
"""

from __future__ import annotations

import abc
import dataclasses
import math

import numpy as np

from statewise._config import register
from statewise.lti.hippo import legs_normal


@dataclasses.dataclass(frozen=True)
class PoleLaw(abc.ABC):
    """A law for initial poles; only one of each conjugate pair is given."""

    @abc.abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw ``n`` poles as a complex128 array (n,)."""


@dataclasses.dataclass(frozen=True)
class DiscreteLaw(PoleLaw):
    """A law for discrete poles, |λ̄| < 1."""


@dataclasses.dataclass(frozen=True)
class ContinuousLaw(PoleLaw):
    """A law for continuous poles, Re λ < 0."""


@register
@dataclasses.dataclass(frozen=True)
class Ring(DiscreteLaw):
    """Uniform on the annulus r_min ≤ |λ̄| ≤ r_max, phase uniform in (phase_min, phase_max).

    Source: Orvieto et al., LRU (2303.06349), section 3.

    Attributes:
        r_min: inner radius, in [0, 1).
        r_max: outer radius, in (r_min, 1].
        phase_max: largest phase, in radians per sample, in (0, 2π].
        phase_min: smallest phase, in radians per sample.
    """

    r_min: float = 0.5
    r_max: float = 0.999
    phase_max: float = math.pi
    phase_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError(
                f"Ring needs 0 <= r_min < r_max <= 1; given r_min = {self.r_min}, "
                f"r_max = {self.r_max}"
            )
        if not 0 <= self.phase_min < self.phase_max <= 2 * math.pi:
            raise ValueError(
                f"Ring needs 0 <= phase_min < phase_max <= 2π; given phase_min = "
                f"{self.phase_min}, phase_max = {self.phase_max}"
            )

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw ``n`` poles; radii stay below 1 and phases above 0."""
        square = rng.uniform(self.r_min**2, self.r_max**2, n)
        radius = np.sqrt(np.clip(square, 1e-12, (1 - 1e-6) ** 2))
        phase = np.maximum(rng.uniform(self.phase_min, self.phase_max, n), 1e-6)
        return radius * np.exp(1j * phase)


@register
@dataclasses.dataclass(frozen=True)
class LogTimeConstants(DiscreteLaw):
    """Time constants log-uniform between two bounds, phase uniform up to a bound.

    A pole with time constant τ (in samples) has radius e^{−1/τ}. Suits records whose memory spans
    decades, such as river flow.

    Attributes:
        shortest: smallest time constant, in samples.
        longest: largest time constant, in samples.
        phase_max: largest phase, in radians per sample.
    """

    shortest: float = 1.0
    longest: float = 300.0
    phase_max: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.shortest < self.longest:
            raise ValueError(
                f"LogTimeConstants needs 0 < shortest < longest; given shortest = "
                f"{self.shortest}, longest = {self.longest}"
            )

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw ``n`` poles."""
        tau = np.exp(rng.uniform(math.log(self.shortest), math.log(self.longest), n))
        phase = np.maximum(rng.uniform(0, self.phase_max, n), 1e-6)
        return np.exp(-1 / tau + 1j * phase)


@register
@dataclasses.dataclass(frozen=True)
class NyquistFan(DiscreteLaw):
    """Continuous poles ω_j e^{i(π − angle)}, ω_j equally spaced up to Nyquist, sampled.

    Attributes:
        angle: damping angle φ in radians; the damping ratio is cos φ.
    """

    angle: float = math.pi / 4

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Give the ``n`` poles of the fan (nothing is drawn)."""
        frequency = math.pi * np.arange(1, n + 1) / n
        poles = frequency * np.exp(1j * (math.pi - self.angle))
        return np.exp(poles)


@register
@dataclasses.dataclass(frozen=True)
class GivenDiscrete(DiscreteLaw):
    """Discrete poles given by the caller, such as those of a linear fit.

    Attributes:
        real: real parts.
        imag: imaginary parts (of the upper half plane).
    """

    real: tuple[float, ...] = ()
    imag: tuple[float, ...] = ()

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Give the poles; ``n`` must be their number."""
        poles = np.asarray(self.real) + 1j * np.asarray(self.imag)
        if poles.shape != (n,):
            raise ValueError(f"GivenDiscrete holds {len(poles)} poles, the layer has {n}")
        if np.any(np.abs(poles) >= 1):
            raise ValueError(
                f"GivenDiscrete needs poles inside the unit disc; the largest modulus is "
                f"{np.abs(poles).max():.6g}"
            )
        return poles


@register
@dataclasses.dataclass(frozen=True)
class GivenContinuous(ContinuousLaw):
    """Continuous poles given by the caller, such as those of a diagonalised operator.

    Attributes:
        real: real parts, below 0.
        imag: imaginary parts (of the upper half plane).
    """

    real: tuple[float, ...] = ()
    imag: tuple[float, ...] = ()

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Give the poles; ``n`` must be their number."""
        poles = np.asarray(self.real) + 1j * np.asarray(self.imag)
        if poles.shape != (n,):
            raise ValueError(f"GivenContinuous holds {len(poles)} poles, the layer has {n}")
        if np.any(poles.real >= 0):
            raise ValueError(
                f"GivenContinuous needs poles in the left half plane; the largest real part is "
                f"{poles.real.max():.6g}"
            )
        return poles


@register
@dataclasses.dataclass(frozen=True)
class S4DLegS(ContinuousLaw):
    """Eigenvalues of the normal part of HiPPO-LegS: −½ + iω_n (S4D, 2206.11893)."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Give ``n`` poles of the 2n-state operator."""
        return legs_normal(2 * n)[0]


@register
@dataclasses.dataclass(frozen=True)
class S4DInv(ContinuousLaw):
    """λ_n = −½ + i (N/π)(N/(2n+1) − 1) with N = 2 × the number of complex states (S4D)."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Give ``n`` poles."""
        full, index = 2 * n, np.arange(n)
        return -0.5 + 1j * full / math.pi * (full / (2 * index + 1) - 1)


@register
@dataclasses.dataclass(frozen=True)
class S4DLin(ContinuousLaw):
    """λ_n = −½ + iπn, a damped Fourier series (S4D)."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Give ``n`` poles."""
        return -0.5 + 1j * math.pi * np.arange(n)


@register
@dataclasses.dataclass(frozen=True)
class S4DReal(ContinuousLaw):
    """λ_n = −(n + 1), real poles (S4D-Real; the start of Mamba's A)."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Give ``n`` poles."""
        return -(np.arange(n) + 1.0) + 0j


@register
@dataclasses.dataclass(frozen=True)
class LegSBlocks(ContinuousLaw):
    """Eigenvalues of J equal blocks of the normal part of HiPPO-LegS, one of each pair.

    Attributes:
        blocks: J, which must divide the number of states.
    """

    blocks: int = 1

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Give ``n`` poles, the same for every block."""
        if self.blocks < 1 or n % self.blocks:
            raise ValueError(f"{self.blocks} blocks do not divide {n} complex states")
        return np.tile(legs_normal(2 * n // self.blocks)[0], self.blocks)
