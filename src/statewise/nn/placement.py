"""Put the poles of a layer where a linear model has them."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.lti.discretise import ZOH, Bilinear, Discretisation
from statewise.nn.poles import (
    ContinuousDiagonalPoles,
    DiscreteDiagonalPoles,
    PolarDiagonalPoles,
    Poles,
    RealDiagonalPoles,
)

REAL_PHASE = 1e-7
"""Phase of a real pole over its damping, where a phase of 0 has no logarithm: the error that it
makes in k samples, (phase · k)²/2, is below rounding for as long as the response lasts."""


def place_poles(poles: Poles, wanted: Tensor) -> None:
    """Give states the discrete poles λ̄ at the nominal step; the other states stay as they are.

    A time step that belongs to one state is set to |log λ̄|, so that its continuous pole has the
    size 1; one that is shared stays. A trained gain γ is set to √(1 − |λ̄|²).

    Args:
        poles: the parametrisation, changed in place.
        wanted: λ̄ of the first K states, (K,), complex, 0 < |λ̄| < 1, imaginary parts not below 0;
            in the groups of a bank each, (groups, K).

    Raises:
        ValueError: poles that the parametrisation cannot have, or more of them than states.
    """
    wanted = wanted.to(torch.complex128)
    groups = len(wanted) if wanted.ndim == 2 else 1
    count, own = wanted.shape[-1], poles.n // groups
    if count > own:
        raise ValueError(f"{count} poles need as many states; the layer has {own}")
    at = torch.arange(own)[:count] + own * torch.arange(groups)[:, None]
    at, wanted = at.flatten(), wanted.flatten()
    if not ((wanted.abs() > 0) & (wanted.abs() < 1)).all():
        raise ValueError(
            f"poles between 0 and 1 in size are needed; given {wanted.abs().min():.6g} to "
            f"{wanted.abs().max():.6g}"
        )
    with torch.no_grad():
        if isinstance(poles, DiscreteDiagonalPoles | PolarDiagonalPoles):
            _place_discrete(poles, at, wanted)
        elif isinstance(poles, ContinuousDiagonalPoles | RealDiagonalPoles):
            _place_continuous(poles, at, wanted)
        else:
            raise ValueError(f"poles cannot be put into {type(poles).__name__}")


def _place_discrete(
    poles: DiscreteDiagonalPoles | PolarDiagonalPoles, at: Tensor, wanted: Tensor
) -> None:
    decay, phase = -wanted.abs().log(), wanted.angle()
    _put(poles.nu, at, decay.log())
    if isinstance(poles, PolarDiagonalPoles):
        _put(poles.theta, at, phase)
        return
    _put(poles.theta, at, phase.maximum(REAL_PHASE * decay.clamp(max=1.0)).log())
    if poles.config.gain == "trained":
        _put(poles.log_gamma, at, 0.5 * torch.log(-torch.expm1(-2 * decay)))


def _place_continuous(
    poles: ContinuousDiagonalPoles | RealDiagonalPoles, at: Tensor, wanted: Tensor
) -> None:
    z = _inverse(poles.config.rule, wanted)
    if not poles.is_complex and z.imag.any():
        raise ValueError(
            "RealDiagonal has real poles only, and with ZOH positive ones; the linear model has "
            f"{int((z.imag != 0).sum())} others"
        )
    if poles.config.per_state:
        _put(poles.log_dt, at, z.abs().log())
    z = z / poles.dt.double()[at]
    if not (z.real < 0).all():
        raise ValueError("a pole on the unit circle has no continuous counterpart")
    _put(poles.log_decay, at, (-z.real).log())
    if isinstance(poles, ContinuousDiagonalPoles):
        _put(poles.frequency, at, z.imag)


def _inverse(rule: Discretisation, poles: Tensor) -> Tensor:
    """Δλ of discrete poles."""
    if rule == ZOH():
        return poles.log()
    if rule == Bilinear():
        return 2 * (poles - 1) / (poles + 1)
    raise ValueError(
        f"poles can be put where the rule is ZOH() or Bilinear(); the layer has {rule!r}"
    )


def _put(parameter: Tensor, at: Tensor, values: Tensor) -> None:
    parameter[at.to(parameter.device)] = values.to(parameter)
