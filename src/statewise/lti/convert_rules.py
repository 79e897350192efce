"""Between continuous and discrete time, for systems of matrices."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from statewise.lti.discretise import (
    FOH,
    ZOH,
    BackwardEuler,
    Bilinear,
    Discretisation,
    Euler,
    Impulse,
    Trapezoid,
)
from statewise.lti.matrices import block, eigenvalues, identity_like, numpy_each
from statewise.lti.state_space import StateSpace, checked_dt

WEIGHTS = {Euler: 0.0, Bilinear: 0.5, BackwardEuler: 1.0}
HOLD = ZOH()
RULES = (ZOH, FOH, Bilinear, Euler, BackwardEuler, Trapezoid, Impulse)


class AliasingWarning(UserWarning):
    """Discrete poles near the Nyquist frequency may be those of faster continuous ones."""


def to_discrete(system: StateSpace, dt: float, rule: Discretisation = HOLD) -> StateSpace:
    """A discrete system in the textbook form from a continuous one.

    - ``ZOH()``: exact for inputs constant over each step, Ā = e^{AΔ}, B̄ = ∫₀^Δ e^{As} ds B.
    - ``FOH()``: exact for inputs linear between samples (triangle hold).
    - ``Bilinear()``: s = 2 (z − 1)/(Δ (z + 1)); keeps stability and the H-infinity norm.
      ``Bilinear(prewarp=ω)`` keeps the response at ω, below the Nyquist frequency, too.
    - ``Euler()``, ``BackwardEuler()``: s = (z − 1)/Δ and s = (z − 1)/(Δ z). The margin of Euler is
      for layers, and does not act here.
    - ``Trapezoid()``: the trapezoidal rule on the convolution with e^{At}, second order.
    - ``Impulse()``: the pulse response is Δ times the impulse response at the samples; D must
      be 0.

    States of all but ``ZOH``, ``Euler`` and ``Impulse`` are not samples of continuous ones, but
    changed by the present input, so that the form has no delay.

    Args:
        system: a continuous system.
        dt: sampling time Δ.
        rule: one of the above.

    Returns:
        The discrete system; differentiable.

    Raises:
        TypeError: a rule that is no :class:`Discretisation`.
        ValueError: a discrete system, a rule for poles alone, or a ``prewarp`` that does not fit.
    """
    if system.dt is not None:
        raise ValueError(f"to_discrete needs a continuous system; this one has dt = {system.dt}")
    step = checked_dt(dt)
    if step is None:
        raise ValueError("to_discrete needs a sampling time; given None")
    length = _warped(rule, step)
    kind = type(rule)
    A, B, C, D = system.matrices
    eye = identity_like(A)
    if kind in WEIGHTS:
        weight = WEIGHTS[kind]
        left = eye - weight * length * A
        Ad = torch.linalg.solve(left, eye + (1 - weight) * length * A)
        Bd = torch.linalg.solve(left, length * B)
        Cd = torch.linalg.solve(left, C, left=False)
        return StateSpace(Ad, Bd, Cd, D + weight * C @ Bd, step)
    if kind in (ZOH, FOH):
        flow, first, second = hold_integrals(A, length)
        if kind is ZOH:
            return StateSpace(flow, first @ B, C, D, step)
        late = second @ B
        return StateSpace(flow, first @ B - late + flow @ late, C, D + C @ late, step)
    flow = torch.linalg.matrix_exp(A * length)
    if kind is Impulse:
        _no_direct_term(D)
        return StateSpace(flow, length * flow @ B, C, length * C @ B, step)
    return StateSpace(flow, length * flow @ B, C, D + length / 2 * C @ B, step)


def to_continuous(system: StateSpace, rule: Discretisation = HOLD) -> StateSpace:
    """The continuous system that :func:`to_discrete` with the same rule makes into this one.

    Rules with an exponential take the principal logarithm of Ā: continuous poles are sought
    within the Nyquist strip |Im λ| < π/Δ. Above 0.9 of it an :class:`AliasingWarning` says so,
    since the discrete system cannot tell them from faster ones. Those rules have no gradient here.

    Args:
        system: a discrete system.
        rule: see :func:`to_discrete`.

    Raises:
        TypeError: see :func:`to_discrete`.
        ValueError: a continuous system, a rule for poles alone, poles without a continuous
            counterpart (0 or on the negative real axis for exponential rules, −1 for Bilinear, 0
            for BackwardEuler), or a direct term that Impulse cannot have made.
    """
    if system.dt is None:
        raise ValueError("to_continuous needs a discrete system, and dt is None")
    length = _warped(rule, system.dt)
    kind = type(rule)
    Ad, Bd, Cd, Dd = system.matrices
    eye = identity_like(Ad)
    if kind in WEIGHTS:
        weight = WEIGHTS[kind]
        mixed = weight * Ad + (1 - weight) * eye
        size = torch.linalg.svdvals(mixed)
        if size.numel() and (size[..., -1] <= 1e-14 * size[..., 0]).any():
            raise ValueError(f"a pole at {-1 if weight < 1 else 0} has no counterpart by {rule!r}")
        A = torch.linalg.solve(mixed, Ad - eye, left=False) / length
        back = eye - weight * length * A
        C = Cd @ back
        return StateSpace(A, back @ Bd / length, C, Dd - weight * C @ Bd)
    _check_poles(eigenvalues(Ad.detach()))
    (A,) = numpy_each(_logarithm, Ad)
    A = A / length
    if kind in (ZOH, FOH):
        flow, first, second = hold_integrals(A, length)
        if kind is ZOH:
            return StateSpace(A, torch.linalg.solve(first, Bd), Cd, Dd)
        B = torch.linalg.solve(first - second + flow @ second, Bd)
        return StateSpace(A, B, Cd, Dd - Cd @ second @ B)
    B = torch.linalg.solve(Ad, Bd) / length
    if kind is Trapezoid:
        return StateSpace(A, B, Cd, Dd - length / 2 * Cd @ B)
    made = length * (Cd @ B).detach()
    rest = torch.linalg.matrix_norm(Dd.detach() - made)
    # C B may cancel, to 0 for a response that starts slowly; what is left then is rounding.
    size = length * torch.linalg.matrix_norm(Cd.detach()) * torch.linalg.matrix_norm(B.detach())
    if (rest > 1e-9 * torch.linalg.matrix_norm(made) + 1e-13 * size).any():
        raise ValueError(
            f"D is not Δ C B, as Impulse makes it, and misses it by {rest.max().item():.3g}"
        )
    return StateSpace(A, B, Cd, torch.zeros_like(Dd))


def hold_integrals(A: Tensor, dt: float) -> tuple[Tensor, Tensor, Tensor]:
    """The flow over one step and its integrals for held and for ramp inputs, by one exponential.

    Returns:
        E = e^{AΔ}, Δ φ₁(AΔ) and Δ φ₂(AΔ), each (..., n, n); φ_{k+1}(z) = (φ_k(z) − 1/k!)/z.

    Source: Van Loan, Computing integrals involving the matrix exponential (1978).
    """
    n = A.shape[-1]
    eye, zero = identity_like(A), A.new_zeros(n, n)
    large = block([[A * dt, eye * dt, zero], [zero, zero, eye], [zero, zero, zero]])
    flow = torch.linalg.matrix_exp(large)
    top = flow[..., :n, :]
    return top[..., :n], top[..., n : 2 * n], top[..., 2 * n :]


def _warped(rule: Discretisation, dt: float) -> float:
    if not isinstance(rule, Discretisation):
        raise TypeError(f"rule is {rule!r}; a rule object such as ZOH() or Bilinear() is needed")
    if type(rule) not in RULES:
        names = ", ".join(kind.__name__ for kind in RULES)
        raise ValueError(f"rule is {rule!r}, which is for poles alone; matrices take {names}")
    if not isinstance(rule, Bilinear) or rule.prewarp is None:
        return dt
    if not rule.prewarp < math.pi / dt:
        raise ValueError(
            f"prewarp is {rule.prewarp}; it must lie between 0 and the Nyquist frequency "
            f"{math.pi / dt:.6g}"
        )
    return 2 * math.tan(rule.prewarp * dt / 2) / rule.prewarp


def _no_direct_term(D: Tensor) -> None:
    if torch.count_nonzero(D):
        raise ValueError(
            "the rule Impulse() needs D = 0: an impulse in continuous time has no sample"
        )


def _logarithm(A: Any) -> Any:
    import scipy.linalg

    result: Any = scipy.linalg.logm(A) if A.size else A
    return result if A.dtype.kind == "c" else result.real


def _check_poles(poles: Tensor) -> None:
    tiny = 1e-14 * max(1.0, float(poles.abs().max())) if poles.numel() else 0.0
    if (poles.abs() <= tiny).any():
        raise ValueError("a pole at 0 has no continuous counterpart: it is a pure delay")
    angle = poles.angle().abs()
    if (angle >= math.pi * (1 - 1e-12)).any():
        raise ValueError(
            "a pole on the negative real axis is at the Nyquist frequency, and has no real "
            "continuous counterpart"
        )
    if (angle > 0.9 * math.pi).any():
        warnings.warn(
            f"a pole is at {float(angle.max()) / math.pi:.2f} of the Nyquist frequency: a faster "
            f"continuous pole would give the same samples",
            AliasingWarning,
            stacklevel=3,
        )
