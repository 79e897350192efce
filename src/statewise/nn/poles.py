"""Parametrisations of diagonal dynamics: unconstrained parameters in, stable poles out.

Every parametrisation answers one question: given a relative time step δ (1 = the nominal sampling
interval), what are a and the input gains of x_k = a x_{k−1} + gain v_k + gain_previous v_{k−1}?
|a| < 1 holds for every value of the parameters.
"""

from __future__ import annotations

import abc
import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti.discretise import ZOH, Bilinear, DiscretisedPoles
from statewise.lti.functions import complex_exp, phi1
from statewise.nn.initialisers import PoleLaw
from statewise.nn.specs import (
    ContinuousDiagonal,
    DiscreteDiagonal,
    PolarDiagonal,
    RealDiagonal,
)


def _as_work(parameter: Tensor) -> Tensor:
    """Poles and steps are computed in float32 at least, whatever the type of the parameters."""
    return parameter if parameter.dtype == torch.float64 else parameter.float()


class HeldPoles(NamedTuple):
    """Diagonal dynamics in the form that :func:`~statewise.ops.diagonal_ssm` takes.

    Attributes:
        poles: λ for a relative step of 1, (S,).
        scale: factor of the input, (S,).
        rule: "zoh" or "bilinear".
    """

    poles: Tensor
    scale: Tensor
    rule: str


class Poles(nn.Module, abc.ABC):
    """Diagonal dynamics of ``n`` states; subclasses hold the raw parameters."""

    is_complex: ClassVar[bool] = True
    output_scale: ClassVar[float] = 1.0
    """Factor of Re(C x): 2 where the conjugate half of the states is implied by the source."""
    points: int = 1
    n: int

    @abc.abstractmethod
    def discretise(self, dt: Tensor | None = None) -> DiscretisedPoles:
        """Coefficients of the recurrence.

        Args:
            dt: relative time step (..., 1), or None for the nominal step.

        Returns:
            Coefficients (S,) for ``dt=None``, else (..., S).
        """

    def held(self) -> HeldPoles | None:
        """The dynamics as those of one rule with the relative step as its only step, or None.

        With z = λδ the recurrence is that of ``rule`` for the poles λ, with its input scaled.
        """
        return None

    @property
    def eigenvalues(self) -> Tensor:
        """Discrete eigenvalues at the nominal step, complex, shape (S,)."""
        a = self.discretise().a
        return a if a.is_complex() else torch.complex(a, torch.zeros_like(a))


class DiscreteDiagonalPoles(Poles):
    """The module of :class:`~statewise.nn.DiscreteDiagonal`."""

    roles: ClassVar[dict[str, str]] = {"nu": "A", "theta": "A", "log_gamma": "A"}

    def __init__(self, config: DiscreteDiagonal, n: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.config, self.n = config, n
        poles = config.law.sample(n, rng)
        decay = np.maximum(-np.log(np.abs(poles)), 1e-8)
        phase = np.maximum(np.abs(np.angle(poles)), 1e-7)
        dtype = torch.get_default_dtype()
        self.nu = nn.Parameter(torch.tensor(np.log(decay), dtype=dtype))
        self.theta = nn.Parameter(torch.tensor(np.log(phase), dtype=dtype))
        if config.gain == "trained":
            log_gamma = 0.5 * np.log(-np.expm1(-2 * decay))
            self.log_gamma = nn.Parameter(torch.tensor(log_gamma, dtype=dtype))

    @property
    def log_poles(self) -> Tensor:
        """The logarithms log λ̄ = −e^ν + i e^θ, complex, shape (S,)."""
        return torch.complex(-torch.exp(_as_work(self.nu)), torch.exp(_as_work(self.theta)))

    @property
    def gamma(self) -> Tensor:
        """The factor γ of the input, (S,)."""
        if self.config.gain == "trained":
            return torch.exp(_as_work(self.log_gamma))
        real = -torch.exp(_as_work(self.nu))
        # 1 − |λ̄|² = −expm1(−2 e^ν) keeps all digits where |λ̄| is near 1.
        return (
            torch.sqrt(-torch.expm1(2 * real))
            if self.config.gain == "derived"
            else torch.ones_like(real)
        )

    def held(self) -> HeldPoles:
        """See :meth:`Poles.held`."""
        log_poles = self.log_poles
        return HeldPoles(log_poles, self.gamma / phi1(log_poles), "zoh")

    def discretise(self, dt: Tensor | None = None) -> DiscretisedPoles:
        """See :meth:`Poles.discretise`."""
        log_poles, gamma = self.log_poles, self.gamma
        if dt is None:
            return DiscretisedPoles(complex_exp(log_poles), gamma.to(log_poles.dtype), None)
        dt = dt.to(gamma.dtype)
        scaled = log_poles * dt
        hold = dt * phi1(scaled) / phi1(log_poles)
        return DiscretisedPoles(complex_exp(scaled), gamma * hold, None)


class PolarDiagonalPoles(Poles):
    """The module of :class:`~statewise.nn.PolarDiagonal`."""

    roles: ClassVar[dict[str, str]] = {"nu": "A", "theta": "A"}

    def __init__(self, config: PolarDiagonal, n: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.config, self.n = config, n
        dtype = torch.get_default_dtype()
        self.nu = nn.Parameter(torch.zeros(n, dtype=dtype))
        self.theta = nn.Parameter(torch.zeros(n, dtype=dtype))
        self.place(torch.from_numpy(config.law.sample(n, rng)))

    def place(self, poles: Tensor) -> None:
        """Put the poles somewhere: (S,), complex, inside the unit circle."""
        poles = poles.to(torch.complex128)
        decay = -poles.abs().log()
        with torch.no_grad():
            self.nu.copy_(decay.clamp(1e-12, 80.0).log())
            self.theta.copy_(poles.angle())

    @property
    def log_poles(self) -> Tensor:
        """The logarithms log λ̄ = −e^ν + iθ, complex, shape (S,)."""
        return torch.complex(-torch.exp(_as_work(self.nu)), _as_work(self.theta))

    def held(self) -> HeldPoles:
        """See :meth:`Poles.held`."""
        log_poles = self.log_poles
        return HeldPoles(log_poles, 1 / phi1(log_poles), "zoh")

    def discretise(self, dt: Tensor | None = None) -> DiscretisedPoles:
        """See :meth:`Poles.discretise`."""
        log_poles = self.log_poles
        if dt is None:
            return DiscretisedPoles(complex_exp(log_poles), torch.ones_like(log_poles), None)
        dt = dt.to(log_poles.real.dtype)
        scaled = log_poles * dt
        hold = dt * phi1(scaled) / phi1(log_poles)
        return DiscretisedPoles(complex_exp(scaled), hold, None)


def draw_log_steps(
    dt_min: float, dt_max: float, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw log Δ uniformly between log ``dt_min`` and log ``dt_max``, shape (count,)."""
    return rng.uniform(math.log(dt_min), math.log(dt_max), count)


class _SteppedPoles(Poles):
    """What real and complex continuous poles share: Δ and the rule."""

    roles: ClassVar[dict[str, str]] = {"log_decay": "A", "frequency": "A", "log_dt": "dt"}

    def __init__(
        self,
        config: ContinuousDiagonal | RealDiagonal,
        n: int,
        groups: int,
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        self.config, self.n, self.groups = config, n * groups, groups
        self.points = config.rule.points
        self._start(_tile(config.law, n, groups, rng))
        count = self.n if config.per_state else groups
        log_dt = draw_log_steps(config.dt_min, config.dt_max, count, rng)
        self.log_dt = nn.Parameter(torch.tensor(log_dt, dtype=torch.get_default_dtype()))

    @abc.abstractmethod
    def _start(self, poles: np.ndarray) -> None:
        """Make the parameters of λ from initial poles (S,)."""

    @property
    @abc.abstractmethod
    def continuous(self) -> Tensor:
        """λ, shape (S,), per unit of the layer's own time."""

    @property
    def dt(self) -> Tensor:
        """Δ of every state at the nominal step, shape (S,)."""
        dt = torch.exp(_as_work(self.log_dt))
        return dt if self.config.per_state else dt.repeat_interleave(self.n // self.groups)

    def held(self) -> HeldPoles | None:
        """See :meth:`Poles.held`."""
        rule = {ZOH(): "zoh", Bilinear(): "bilinear"}.get(self.config.rule)
        if rule is None:
            return None
        poles, step = self.continuous, self.dt
        return HeldPoles(poles * step, step.to(poles.dtype), rule)

    def discretise(self, dt: Tensor | None = None) -> DiscretisedPoles:
        """See :meth:`Poles.discretise`."""
        step = self.dt
        if dt is not None:
            step = step * dt.to(step.dtype)
        return self.config.rule(self.continuous, step)


def _tile(law: PoleLaw, n: int, groups: int, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([law.sample(n, rng) for _ in range(groups)])


class ContinuousDiagonalPoles(_SteppedPoles):
    """The module of :class:`~statewise.nn.ContinuousDiagonal`."""

    output_scale: ClassVar[float] = 2.0

    def _start(self, poles: np.ndarray) -> None:
        dtype = torch.get_default_dtype()
        self.log_decay = nn.Parameter(torch.tensor(np.log(-np.real(poles)), dtype=dtype))
        self.frequency = nn.Parameter(torch.tensor(np.imag(poles), dtype=dtype))

    @property
    def continuous(self) -> Tensor:
        """λ = −e^α + iβ, complex, shape (S,)."""
        return torch.complex(-torch.exp(_as_work(self.log_decay)), _as_work(self.frequency))


class RealDiagonalPoles(_SteppedPoles):
    """The module of :class:`~statewise.nn.RealDiagonal`."""

    is_complex: ClassVar[bool] = False

    def _start(self, poles: np.ndarray) -> None:
        log_decay = torch.tensor(np.log(-np.real(poles)), dtype=torch.get_default_dtype())
        self.log_decay = nn.Parameter(log_decay)

    @property
    def continuous(self) -> Tensor:
        """λ = −e^α, real, shape (S,)."""
        return -torch.exp(_as_work(self.log_decay))
