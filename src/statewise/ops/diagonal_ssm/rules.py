"""Discretisation of diagonal poles, and its derivative, exact to rounding also for λΔ near 0.

Both rules are told apart by E = ā − 1 as a function of z = λΔ:

    zoh:       E = e^z − 1                 bilinear:  E = z / (1 − z/2)

and share b̄ = b E/λ. With F = dā/dz and Ψ = (zF − E)/z²,

    ∂ā/∂λ = Δ F,  ∂ā/∂Δ = λ F,  ∂b̄/∂b = E/λ,  ∂b̄/∂λ = b Δ² Ψ,  ∂b̄/∂Δ = b F.

Tensors are complex; ``dt`` is real and broadcasts against λ (..., N). Conjugates are taken in
memory: inside an operator, a traced graph may call torch with its lazy conjugates switched off.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RULES = ("zoh", "bilinear")

TINY = 1e-30
"""Stands for a pole of smaller size, so that E/λ is right at λ = 0 too."""

SMALL = 0.25
"""|z|² below which Ψ is summed as a series, because zF − E loses its digits."""


def away_from_zero(poles: Tensor) -> Tensor:
    """λ, with :data:`TINY` in place of what is smaller."""
    return torch.where(poles.abs() < TINY, torch.full_like(poles, TINY), poles)


def series_terms(dtype: torch.dtype) -> int:
    """Terms of Ψ = Σ_k (k + 1)/(k + 2)! z^k that |z|² < :data:`SMALL` needs."""
    return 16 if dtype in (torch.float64, torch.complex128) else 9


def growth(rule: str, z: Tensor) -> Tensor:
    """E(z) = ā − 1."""
    if rule == "bilinear":
        return z / (1 - z / 2)
    # e^{x+iy} − 1 = expm1(x) cos y − 2 sin²(y/2) + i e^x sin y
    rise, half = torch.expm1(z.real), torch.sin(z.imag / 2)
    sine = torch.sin(z.imag)
    return torch.complex(rise * torch.cos(z.imag) - 2 * half * half, (rise + 1) * sine)


def discretise(rule: str, poles: Tensor, dt: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """ā and b̄ of h_t = ā h_{t−1} + b̄ u_t, of shape (..., N)."""
    poles = away_from_zero(poles)
    E = growth(rule, poles * dt)
    return 1 + E, b * (E / poles)


def followed(rule: str, poles: Tensor, dt: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`discretise`, slower, whose own derivative is exact to rounding too, also at λ = 0."""
    z = poles * dt
    E = growth(rule, z)
    if rule == "bilinear":
        return 1 + E, b * (dt / (1 - z / 2))
    near = z.real.square() + z.imag.square() < SMALL
    small = torch.where(near, z, torch.zeros_like(z))
    series = torch.zeros_like(z)
    for k in reversed(range(series_terms(z.dtype))):
        series = series * small + 1 / math.factorial(k + 1)
    ratio = torch.where(near, series, E / torch.where(near, torch.ones_like(z), z))
    return 1 + E, b * (dt * ratio)


def _curvature(rule: str, z: Tensor, E: Tensor, F: Tensor) -> Tensor:
    """Ψ(z) = (zF − E)/z²."""
    if rule == "bilinear":
        return F / 2
    near = z.real.square() + z.imag.square() < SMALL
    far = torch.where(near, torch.ones_like(z), z)
    total = torch.zeros_like(z)
    for k in reversed(range(series_terms(z.dtype))):
        total = total * z + (k + 1) / math.factorial(k + 2)
    return torch.where(near, total, (far * F - E) / (far * far))


def gradients(
    rule: str, poles: Tensor, dt: Tensor, b: Tensor, grad_a: Tensor, grad_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pull the gradients of ā and b̄ back to λ, b (complex) and Δ (real), element by element."""
    poles = away_from_zero(poles)
    z = poles * dt
    E = growth(rule, z)
    F = 1 + E if rule == "zoh" else (1 + E / 2).square()
    Ψ = _curvature(rule, z, E, F)
    grad_poles = (dt * F).conj_physical() * grad_a + (b * dt * dt * Ψ).conj_physical() * grad_b
    both = poles.conj_physical() * grad_a + b.conj_physical() * grad_b
    grad_dt = (F.conj_physical() * both).real
    return grad_poles, (E / poles).conj_physical() * grad_b, grad_dt


def step_columns(poles: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """What a kernel needs to discretise with steps that vary: (D, N, 6) in ``dtype``.

    Re λ and Im λ; Im λ/2π in a high and a low part, which keep the phase where λΔ is large; and
    Re and Im of b/λ. ``poles`` and ``b`` are (D, N) complex, in double precision.
    """
    poles = away_from_zero(poles)
    turns = poles.imag / (2 * math.pi)
    high = turns.to(dtype).to(turns.dtype)
    ratio = b / poles
    columns = (poles.real, poles.imag, high, turns - high, ratio.real, ratio.imag)
    return torch.stack(columns, -1).to(dtype)
