"""Discretisation rules for diagonal continuous-time systems, as objects.

A rule turns x'(t) = λ x(t) + v(t) into x_k = a x_{k−1} + g v_k + g' v_{k−1}. The state x_k already
holds the input v_k (the "updated" convention used everywhere in Statewise).
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from statewise._config import register

if TYPE_CHECKING:
    from torch import Tensor


class DiscretisedPoles(NamedTuple):
    """The coefficients of x_k = a x_{k−1} + gain v_k + gain_previous v_{k−1}.

    Attributes:
        a: discrete pole, shape (..., S), the dtype of λ.
        gain: factor of the present input, shape of ``a``.
        gain_previous: factor of the previous input, or None when the rule does not use it.
    """

    a: Tensor
    gain: Tensor
    gain_previous: Tensor | None


@dataclasses.dataclass(frozen=True)
class Discretisation(abc.ABC):
    """A rule from continuous poles and a time step to a recurrence."""

    points: ClassVar[int] = 1
    """Number of input samples that one step uses: 1, or 2 when the previous input enters."""

    @abc.abstractmethod
    def __call__(self, poles: Tensor, dt: Tensor) -> DiscretisedPoles:
        """Discretise diagonal poles.

        Args:
            poles: λ, real or complex, shape (S,), Re λ < 0, in 1/time.
            dt: time step Δ > 0, shape broadcastable to (..., S), in time.

        Returns:
            Coefficients of shape (..., S) in the dtype of ``poles``.
        """


@register
@dataclasses.dataclass(frozen=True)
class ZOH(Discretisation):
    """Zero-order hold: a = e^{Δλ}, gain = (e^{Δλ} − 1)/λ. Exact for a piecewise constant input."""

    def __call__(self, poles: Tensor, dt: Tensor) -> DiscretisedPoles:
        """See :meth:`Discretisation.__call__`."""
        from statewise.lti.functions import complex_exp, phi1

        z = poles * dt
        return DiscretisedPoles(complex_exp(z), phi1(z) * dt, None)


@register
@dataclasses.dataclass(frozen=True)
class FOH(Discretisation):
    """First-order hold: exact for an input that is linear between samples.

    x_k = e^{Δλ} x_{k−1} + Δ (φ₁(Δλ) − φ₂(Δλ)) v_{k−1} + Δ φ₂(Δλ) v_k.
    """

    points: ClassVar[int] = 2

    def __call__(self, poles: Tensor, dt: Tensor) -> DiscretisedPoles:
        """See :meth:`Discretisation.__call__`."""
        from statewise.lti.functions import complex_exp, phi1, phi2

        z = poles * dt
        late = phi2(z) * dt
        return DiscretisedPoles(complex_exp(z), late, phi1(z) * dt - late)


@register
@dataclasses.dataclass(frozen=True)
class Bilinear(Discretisation):
    """Tustin's rule as used by S4: a = (1 + Δλ/2)/(1 − Δλ/2), gain = Δ/(1 − Δλ/2).

    Attributes:
        prewarp: frequency ω in radians per unit of time at which the frequency response is kept,
            by 2 tan(ωΔ/2)/ω in place of Δ; None for 0. Where a trained Δ would reach the Nyquist
            frequency of ω, it is held at 0.95 of that.
    """

    prewarp: float | None = None

    def __post_init__(self) -> None:
        """Refuse a frequency that is not positive."""
        if self.prewarp is not None and not self.prewarp > 0:
            raise ValueError(
                f"prewarp is {self.prewarp!r}; a positive frequency is needed, or None"
            )

    def __call__(self, poles: Tensor, dt: Tensor) -> DiscretisedPoles:
        """See :meth:`Discretisation.__call__`."""
        if self.prewarp is not None:
            half_turn = (self.prewarp / 2 * dt).clamp_max(0.95 * math.pi / 2)
            dt = half_turn.tan() * (2 / self.prewarp)
        half = poles * dt / 2
        return DiscretisedPoles((1 + half) / (1 - half), dt / (1 - half), None)


@register
@dataclasses.dataclass(frozen=True)
class Euler(Discretisation):
    """Forward Euler: a = 1 + Δλ, gain = Δ.

    The rule is stable only for Δ < −2 Re λ / |λ|²; Δ is held at ``margin`` times that bound, pole
    by pole, so that the recurrence is stable for every parameter value. (Systems of matrices are
    converted with Δ as it is.)

    Attributes:
        margin: largest fraction of the stability bound that Δ may take, in (0, 1).
    """

    margin: float = 0.99

    def __call__(self, poles: Tensor, dt: Tensor) -> DiscretisedPoles:
        """See :meth:`Discretisation.__call__`."""
        real = poles.real if poles.is_complex() else poles
        size = poles.real**2 + poles.imag**2 if poles.is_complex() else poles**2
        dt = dt.minimum(self.margin * -2 * real / size)
        return DiscretisedPoles(1 + poles * dt, (dt + 0 * real).to(poles.dtype), None)


@register
@dataclasses.dataclass(frozen=True)
class BackwardEuler(Discretisation):
    """Backward Euler: a = 1/(1 − Δλ), gain = Δ/(1 − Δλ)."""

    def __call__(self, poles: Tensor, dt: Tensor) -> DiscretisedPoles:
        """See :meth:`Discretisation.__call__`."""
        a = 1 / (1 - poles * dt)
        return DiscretisedPoles(a, dt * a, None)


@register
@dataclasses.dataclass(frozen=True)
class Impulse(Discretisation):
    """Matched impulse: a = e^{Δλ}, gain = Δ. Exact for impulses of size Δ v_k at the samples."""

    def __call__(self, poles: Tensor, dt: Tensor) -> DiscretisedPoles:
        """See :meth:`Discretisation.__call__`."""
        from statewise.lti.functions import complex_exp

        a = complex_exp(poles * dt)
        return DiscretisedPoles(a, dt + 0 * a, None)


@register
@dataclasses.dataclass(frozen=True)
class Trapezoid(Discretisation):
    """Exponential trapezoid: x_k = e^{Δλ} x_{k−1} + Δ/2 (e^{Δλ} v_{k−1} + v_k), second order.

    Source: the trapezoidal rule on the variation-of-constants integral, as in Mamba-3.
    """

    points: ClassVar[int] = 2

    def __call__(self, poles: Tensor, dt: Tensor) -> DiscretisedPoles:
        """See :meth:`Discretisation.__call__`."""
        from statewise.lti.functions import complex_exp

        a = complex_exp(poles * dt)
        half = (dt / 2).to(poles.dtype)
        return DiscretisedPoles(a, half + 0 * a, half * a)
