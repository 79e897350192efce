"""Zeros, poles and gain of systems with one input and one output."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from statewise.lti import polynomials
from statewise.lti.interconnect import series
from statewise.lti.state_space import StateSpace, as_tensor, checked_dt
from statewise.lti.transfer_function import TransferFunction, from_transfer_function


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class ZeroPoleGain:
    """G(s) = gain Π (s − z_i) / Π (s − p_i), one input and one output.

    Attributes:
        zeros: z, (..., k), complex.
        poles: p, (..., n), complex, n ≥ k.
        gain: (...).
        dt: sampling time, or None for continuous time.
    """

    zeros: Tensor
    poles: Tensor
    gain: Tensor
    dt: float | None

    def __init__(self, zeros: Any, poles: Any, gain: Any, dt: float | None = None) -> None:
        """See the class.

        Raises:
            ValueError: more zeros than poles, or batch shapes that do not broadcast.
        """
        zeros, poles, gain = (
            as_tensor(name, value)
            for name, value in (("zeros", zeros), ("poles", poles), ("gain", gain))
        )
        if zeros.dim() < 1 or poles.dim() < 1 or zeros.shape[-1] > poles.shape[-1]:
            raise ValueError(
                f"zeros have shape {tuple(zeros.shape)} and poles {tuple(poles.shape)}; (..., k) "
                f"and (..., n) with k ≤ n are needed"
            )
        real = torch.promote_types(zeros.dtype, poles.dtype)
        kind = torch.promote_types(real, torch.complex64)
        batch = torch.broadcast_shapes(zeros.shape[:-1], poles.shape[:-1], gain.shape)
        object.__setattr__(self, "zeros", zeros.to(kind).expand(*batch, zeros.shape[-1]))
        object.__setattr__(self, "poles", poles.to(kind).expand(*batch, poles.shape[-1]))
        object.__setattr__(self, "gain", gain.expand(batch))
        object.__setattr__(self, "dt", checked_dt(dt))

    def __call__(self, points: Any) -> Tensor:
        """G at ``points``, which broadcast with the batch dimensions; complex."""
        s = torch.as_tensor(points, dtype=self.poles.dtype, device=self.poles.device)[..., None]
        return self.gain * (s - self.zeros).prod(-1) / (s - self.poles).prod(-1)


def zpk_to_transfer_function(form: ZeroPoleGain, *, real: bool = True) -> TransferFunction:
    """The polynomials of zeros and poles; ``real`` drops rounding in imaginary parts.

    Raises:
        ValueError: ``real`` and zeros or poles that are no conjugate pairs.
    """
    num = polynomials.from_roots(form.zeros) * form.gain[..., None]
    den = polynomials.from_roots(form.poles)
    if real:
        _check_pairs(form)
        num, den = num.real, den.real
    return TransferFunction(num[..., None, None, :], den[..., None, None, :], form.dt)


def from_zpk(form: ZeroPoleGain) -> StateSpace:
    """A real realisation as a cascade of sections of order 2, and one of order 1 if n is odd.

    Sections keep the digits that the polynomial of high order loses. Poles far from the origin
    come first, each section with the zeros nearest to its poles.

    Raises:
        ValueError: zeros or poles that are no conjugate pairs.
    """
    _check_pairs(form)
    batch = form.gain.shape
    count = form.gain.numel()
    zeros, poles = (x.reshape(count, x.shape[-1]) for x in (form.zeros, form.poles))
    gains = form.gain.reshape(-1)
    singles = [_cascade(z, p, g) for z, p, g in zip(zeros, poles, gains, strict=True)]
    parts = zip(*singles, strict=True)
    stacked = (torch.stack(part).reshape(*batch, *part[0].shape) for part in parts)
    return StateSpace(*stacked, dt=form.dt)


def _cascade(zeros: Tensor, poles: Tensor, gain: Tensor) -> tuple[Tensor, ...]:
    """A, B, C, D of one cascade."""
    total = StateSpace.gain(gain.reshape(1, 1).to(poles.real.dtype))
    left = list(_factors(zeros))
    for pole in _factors(poles):
        chosen, room = [], len(pole)
        while left and room:
            fits = [z for z in left if len(z) <= room]
            if not fits:
                break
            best = min(fits, key=lambda z: (-len(z), float((z[0] - pole[0]).abs())))
            left = [z for z in left if z is not best]
            chosen.append(best)
            room -= len(best)
        num = polynomials.from_roots(torch.cat(chosen) if chosen else zeros[:0]).real
        den = polynomials.from_roots(pole).real
        total = _follow(total, num, den)
    return total.matrices


def _follow(first: StateSpace, num: Tensor, den: Tensor) -> StateSpace:
    return series(first, from_transfer_function(TransferFunction(num, den)))


def _factors(roots: Tensor) -> list[Tensor]:
    """Real factors: conjugate pairs, real roots two by two, and at the end a single one."""
    order = torch.argsort(-roots.abs(), stable=True)
    roots = roots[order]
    pairs = [torch.stack((r, r.conj())) for r in roots if r.imag > 0]
    real = [r for r in roots if r.imag == 0]
    doubles = [torch.stack((a, b)) for a, b in zip(real[::2], real[1::2], strict=False)]
    rest = [real[-1][None]] if len(real) % 2 else []
    return pairs + doubles + rest


def _check_pairs(form: ZeroPoleGain) -> None:
    for name, roots in (("zeros", form.zeros), ("poles", form.poles)):
        balance = roots.imag.sign().sum(-1)
        if (balance != 0).any() or (roots.sum(-1).imag.abs() > 1e-8 * roots.abs().sum(-1)).any():
            raise ValueError(
                f"the {name} are no conjugate pairs, so that the system is not real: "
                f"{roots.tolist()}"
            )
