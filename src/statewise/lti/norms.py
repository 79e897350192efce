"""Norms of stable systems: H2, H-infinity with both bounds, and Hankel."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.lti.convert_rules import to_continuous
from statewise.lti.discretise import Bilinear
from statewise.lti.gramians import check_stable, controllability_gramian, hankel_singular_values
from statewise.lti.matrices import eigenvalues, identity_like
from statewise.lti.state_space import StateSpace

STEPS = 100
EPS = float(np.finfo(np.float64).eps)
NEAR = 1e-3
"""Relative distance of an eigenvalue from the axis up to which the gain there is looked at."""


class HInfinity(NamedTuple):
    """Bounds of the H-infinity norm.

    Attributes:
        lower: the gain at ``frequency``, (...).
        upper: a gain that is not reached at any frequency, to rounding, (...).
        frequency: where ``lower`` is reached, in radians per unit of time, (...); infinite where
            the gain of a continuous system is largest in the limit.
    """

    lower: Tensor
    upper: Tensor
    frequency: Tensor


def h2_norm(system: StateSpace) -> Tensor:
    """‖G‖₂ = √tr(C P C* + D D*): rms output for white noise inputs of unit variance.

    In continuous time the norm is infinite where D is not 0. Differentiable.

    Returns:
        (...), real.

    Raises:
        ValueError: the system is not stable.
    """
    P = controllability_gramian(system).X
    power = _trace(system.C @ P @ system.C.mH)
    direct = _trace(system.D @ system.D.mH)
    if system.is_discrete:
        return (power + direct).clamp_min(0).sqrt()
    return torch.where(direct > 0, torch.inf, power.clamp_min(0).sqrt())


def hankel_norm(system: StateSpace) -> Tensor:
    """The largest Hankel singular value, (...)."""
    sigma = hankel_singular_values(system)
    return sigma.amax(-1) if system.n_states else sigma.sum(-1)


def hinf_norm(system: StateSpace, *, tolerance: float = 1e-8) -> HInfinity:
    """‖G‖_∞ = sup_ω σ_max(G): the largest gain, between certified bounds.

    The gain at some frequencies is a lower bound. γ above it is an upper bound if the Hamiltonian
    matrix for γ has no eigenvalue on the imaginary axis; else the eigenvalues there are the
    frequencies at which the gain is γ, and the largest gain between them is the next lower bound
    (quadratic convergence). A discrete system is judged as the continuous one that the bilinear
    map gives, which has the same gains.

    Args:
        system: a stable system; batches are done one by one, without gradient.
        tolerance: relative distance of the bounds, at least 1e-10. Poles so near the boundary that
            rounding blurs the test of γ put the bounds further apart, by about the rounding unit
            over their relative damping.

    Raises:
        ValueError: the system is not stable, or the tolerance is too small.

    Source: Bruinsma & Steinbuch, A fast algorithm to compute the H∞-norm of a transfer function
    matrix (1990).
    """
    if tolerance < 1e-10:
        raise ValueError(f"tolerance is {tolerance}; it must be at least 1e-10")
    check_stable(system, "the H-infinity norm")
    with torch.no_grad():
        if not system.batch_shape:
            found = _bounds(system, tolerance)
            kind = system.A.real.dtype
            return HInfinity(*(torch.tensor(v, dtype=kind, device=system.device) for v in found))
        singles = [hinf_norm(system[k], tolerance=tolerance) for k in range(len(system.A))]
    return HInfinity(*(torch.stack(part) for part in zip(*singles, strict=True)))


def _bounds(system: StateSpace, tolerance: float) -> tuple[float, float, float]:
    """Lower and upper bound, and frequency, of one system."""
    kind = torch.promote_types(system.dtype, torch.float64)
    system = system.to(kind)
    dt = system.dt
    flat = system
    if dt is not None:
        # Sampling time 2 makes the map s = (z − 1)/(z + 1), and the frequency tan(angle/2).
        flat = to_continuous(StateSpace(*system.matrices, dt=2.0), Bilinear())
    one_sided = not system.is_complex
    at = eigenvalues(flat.A)
    starts = torch.cat((at.imag, at.abs(), -at.abs())).tolist()
    flat = _scaled(flat)
    best, where = _largest(flat, [0.0, math.inf, *starts, *_between(at)], one_sided)
    if best == 0:
        return 0.0, 0.0, 0.0
    gap, level = tolerance / 2, best
    for _ in range(STEPS):
        level = best * (1 + 2 * gap)
        crossing, near = _crossings(flat, level, one_sided)
        if not near:
            break
        between = [(a + b) / 2 for a, b in itertools.pairwise(near)]
        size, candidate = _largest(flat, [*between, *near], one_sided)
        if size > best * (1 + gap / 4):
            best, where, gap = size, candidate, tolerance / 2
        elif crossing:
            gap *= 4
        else:
            break
    # A peak this close above the level has crossings that rounding may move off the axis.
    damping = float((-at.real).min()) if len(at) else 1.0
    level *= 1 + 10 * len(at) * EPS * float(at.abs().max() if len(at) else 0) / damping
    if dt is not None:
        where = 2 * math.atan(where) / dt
    return best, level, where


def _between(at: Tensor) -> list[float]:
    """A few frequencies without meaning: 0, 1 and those of poles may all be zeros by symmetry."""
    size = at.abs()
    middle = float(size.log().mean().exp()) if len(at) and bool((size > 0).all()) else 1.0
    count = min(len(at), 15) + 1
    return [middle * math.tan(math.pi * (k + 0.37) / (2 * count)) for k in range(count)]


def _largest(system: StateSpace, frequencies: list[float], one_sided: bool) -> tuple[float, float]:
    """The largest gain at some frequencies of a continuous system, and its frequency."""
    if one_sided:
        frequencies = [abs(w) for w in frequencies]
    chosen = sorted(set(frequencies))
    finite = [w for w in chosen if math.isfinite(w)]
    G = system(1j * torch.tensor(finite, dtype=torch.float64))
    gains = torch.linalg.matrix_norm(G, 2).tolist()
    limit = torch.linalg.matrix_norm(system.D, 2).item()
    gain, where = max(zip(gains, finite, strict=True), default=(0.0, 0.0))
    return (limit, math.inf) if math.inf in chosen and limit > gain else (gain, where)


def _crossings(
    system: StateSpace, level: float, one_sided: bool
) -> tuple[list[float], list[float]]:
    """Frequencies at which a singular value of G is ``level``, by the Hamiltonian, ascending.

    The second list also has those of eigenvalues that are off the axis by more than rounding, as
    the two of a crossing that is nearly a touch may be, and all on a flat peak of a gain that is
    small beside the parts that cancel in it. Their gains are looked at, so one too many is no harm.
    """
    A, B, C, D = system.matrices
    if not system.n_states:
        return [], []
    inner = level**2 * identity_like(D.mH @ D) - D.mH @ D
    into = torch.linalg.solve(inner, B.mH)
    cross = torch.linalg.solve(inner, D.mH @ C)
    drift = A + B @ cross
    cost = C.mH @ (C + D @ cross)
    flow = torch.cat(
        (
            torch.cat((drift, level * B @ into), -1),
            torch.cat((-cost / level, -drift.mH), -1),
        ),
        -2,
    ).cpu()
    at: Any = eigenvalues(flow).numpy()
    tight = 10 * EPS * float(torch.linalg.matrix_norm(flow))
    frequencies, distance = at.imag, np.abs(at.real)
    if one_sided:
        frequencies, distance = frequencies[at.imag >= 0], distance[at.imag >= 0]
    near = frequencies[distance <= np.maximum(tight, NEAR * np.abs(frequencies))]
    return sorted(frequencies[distance <= tight].tolist()), sorted(near.tolist())


def _scaled(system: StateSpace) -> StateSpace:
    """The system in states for which B and C have one norm."""
    into, out = (torch.linalg.matrix_norm(M) for M in (system.B, system.C))
    if into == 0 or out == 0:
        return system
    scale = (out / into).sqrt()
    return StateSpace(system.A, system.B * scale, system.C / scale, system.D, system.dt)


def _trace(M: Tensor) -> Tensor:
    value = M.diagonal(dim1=-2, dim2=-1).sum(-1)
    return value.real if value.is_complex() else value
