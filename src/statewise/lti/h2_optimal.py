"""The nearest smaller system in the H2 norm, by iterated interpolation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from statewise.lti.gramians import check_stable
from statewise.lti.matrices import eigenvalues, eigenvectors, identity_like
from statewise.lti.norms import h2_norm
from statewise.lti.reduction import balanced_truncation
from statewise.lti.state_space import StateSpace, batch_of, each
from statewise.lti.structure import is_stable

BFGS_STEPS = 1000
SLOPE = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class H2Reduction:
    """A reduced system that is a stationary point of the H2 error.

    Attributes:
        system: the reduced system, the best of all iterates.
        values: Hankel singular values of the full system, (..., n).
        error: ‖G − G_r‖₂, of the batch shape.
        start_error: the same of balanced truncation, where the iteration starts.
        iterations: steps taken, of the batch shape.
        converged: whether a stationary point was reached, or balanced truncation is exact to
            rounding, of the batch shape; where not, ``system`` is the best iterate.
    """

    system: StateSpace
    values: Tensor
    error: Tensor
    start_error: Tensor
    iterations: Tensor
    converged: Tensor


def h2_reduction(
    system: StateSpace, order: int, *, iterations: int = 100, tolerance: float = 1e-8
) -> H2Reduction:
    """Iterative rational Krylov algorithm, tangential, from balanced truncation.

    At an optimum, G_r agrees with G at the mirrored poles, −λ̄ or 1/λ̄, in the directions of the
    residues and to first order. Each step interpolates so at the poles of the step before. Where
    these steps do not settle, as they may not, BFGS on the error itself goes on from the best.

    Args:
        system: a stable system, or a batch of them, worked on one by one.
        order: number of states.
        iterations: most steps to take.
        tolerance: largest relative change of the poles at which they have settled.

    Raises:
        ValueError: an unstable system, or an order out of range.

    Source: Gugercin, Antoulas & Beattie, H2 model reduction for large-scale linear dynamical
    systems (2008); Bunse-Gerstner et al., H2-norm optimal model reduction for large scale discrete
    dynamical MIMO systems (2010).
    """
    if system.batch_shape:
        parts = [
            h2_reduction(one, order, iterations=iterations, tolerance=tolerance)
            for one in each(system)
        ]
        shape = system.batch_shape

        def joined(name: str) -> Tensor:
            whole = torch.stack([getattr(part, name) for part in parts])
            return whole.reshape(*shape, *whole.shape[1:])

        return H2Reduction(
            batch_of([part.system for part in parts], shape),
            *(joined(field.name) for field in dataclasses.fields(H2Reduction)[1:]),
        )
    check_stable(system, "H2-optimal reduction")
    kind = system.dtype
    with torch.no_grad():
        system = system.to(torch.promote_types(kind, torch.float64))
        first = balanced_truncation(system, order)
        reduced = first.system
        best, start = reduced, _error(system, reduced)
        # The square of an error below this part of the norm is rounding, which has no minimum.
        exact = start <= 4 * torch.finfo(start.dtype).eps ** 0.5 * h2_norm(_proper(system))
        error, count = start, 0
        converged = reduced.n_states in (0, system.n_states) or bool(exact)
        while not converged and count < iterations:
            count += 1
            before = eigenvalues(reduced.A)
            following = _interpolate(system, reduced)
            if following is None:
                break
            reduced = following
            if not is_stable(reduced):
                continue
            now = eigenvalues(reduced.A)
            settled = converged = bool(_change(before, now) <= tolerance)
            found = _error(system, reduced)
            # Where the steps settle at a worse place than they have passed, descent goes on there.
            converged = converged and bool(found <= error * (1 + 1e-8))
            if converged or found < error:
                best, error = reduced, found
            elif settled:
                break
        if not converged:
            best, converged = _descend(system, best)
            error = _error(system, best)
    values, error, start = (x.to(kind.to_real()) for x in (first.values, error, start))
    ended = torch.tensor(count), torch.tensor(converged)
    return H2Reduction(best.to(kind), values, error, start, *ended)


def _interpolate(system: StateSpace, reduced: StateSpace) -> StateSpace | None:
    """The system that interpolates G at the mirrored poles of ``reduced``.

    None where poles coincide or directions vanish, so that the conditions are too few.
    """
    r = reduced.n_states
    poles, X = eigenvectors(reduced.A)
    kind = poles.dtype
    # An iterate need not be stable; its mirror image is, and has points at which G is analytic.
    if system.is_discrete:
        poles = torch.where(poles.abs() > 1, 1 / poles.conj(), poles)
    else:
        poles = torch.complex(-poles.real.abs(), poles.imag)
    into, defective = torch.linalg.solve_ex(X, reduced.B.to(kind))
    if defective:
        return None
    into = into.conj()
    out = (reduced.C.to(kind) @ X).conj()
    A, B, C = (M.to(kind) for M in (system.A, system.B, system.C))
    mirrored, eye = poles.conj()[:, None, None], identity_like(A)
    # In discrete time scaled by the pole, which may be 0.
    left = eye - mirrored * A if system.is_discrete else -mirrored * eye - A
    V = torch.linalg.solve(left, (B @ into.mT).mT[..., None])[..., 0].mT
    W = torch.linalg.solve(left.mH, (C.mH @ out.conj()).mT[..., None])[..., 0].mT
    if not all((M.isfinite().all() and M.abs().amax(0).all()) for M in (V, W)):
        return None
    V, W = (_basis(M, r, real=not system.is_complex) for M in (V, W))
    moved, singular = torch.linalg.solve_ex(
        W.mH @ V, torch.cat((W.mH @ system.A @ V, W.mH @ system.B), -1)
    )
    if singular or not moved.isfinite().all():
        return None
    return StateSpace(moved[:, :r], moved[:, r:], system.C @ V, system.D, system.dt)


def _descend(system: StateSpace, reduced: StateSpace) -> tuple[StateSpace, bool]:
    """A local minimum of the H2 error over all matrices, and whether it was reached."""
    start = balanced_truncation(reduced, reduced.n_states).system
    if not start.n_states:
        return reduced, False
    matrices = (start.A, start.B, start.C)
    sizes, shapes = [M.numel() for M in matrices], [M.shape for M in matrices]
    scale = float(_error(system, start)) ** 2

    def build(vector: Tensor) -> StateSpace:
        if system.is_complex:
            vector = torch.view_as_complex(vector.reshape(-1, 2))
        parts = [v.reshape(shape) for v, shape in zip(vector.split(sizes), shapes, strict=True)]
        return StateSpace(*parts, D=system.D, dt=system.dt)

    def cost(vector: Tensor) -> tuple[float, Tensor]:
        with torch.enable_grad():
            vector = vector.detach().requires_grad_()
            candidate = build(vector)
            if not is_stable(candidate):
                return math.inf, vector.detach()
            value = _error(system, candidate) ** 2 / scale
            (gradient,) = torch.autograd.grad(value, vector)
        return value.item(), gradient

    flat = torch.cat([M.reshape(-1) for M in matrices])
    vector = (torch.view_as_real(flat) if system.is_complex else flat).reshape(-1)
    noise = torch.finfo(vector.dtype).eps * (1 + float(h2_norm(_proper(system))) ** 2 / scale)
    vector, slope = _bfgs(cost, vector, noise)
    return build(vector), slope <= 1e-6


def _bfgs(
    cost: Callable[[Tensor], tuple[float, Tensor]], x: Tensor, noise: float
) -> tuple[Tensor, float]:
    """Quasi-Newton descent that steps back from infinite costs; the last point and its slope."""
    value, slope = cost(x)
    inverse = torch.eye(len(x), dtype=x.dtype, device=x.device) / slope.norm().clamp_min(1e-12)
    stalled = 0
    for _ in range(BFGS_STEPS):
        if slope.abs().max() <= SLOPE or stalled > len(x):
            break
        direction = -(inverse @ slope)
        descent = (slope @ direction).item()
        if descent >= 0:
            inverse = torch.eye(len(x), dtype=x.dtype, device=x.device)
            direction, descent = -slope, -(slope @ slope).item()
        length = 1.0
        new_value, new_slope = cost(x + direction)
        while not new_value <= value + 1e-4 * length * descent + 4 * noise:
            length /= 2
            if length < 1e-12:
                return x.detach(), slope.abs().max().item()
            new_value, new_slope = cost(x + length * direction)
        stalled = stalled + 1 if value - new_value <= noise else 0
        step, change = length * direction, new_slope - slope
        x, value, slope = (x + step).detach(), new_value, new_slope
        curvature = (step @ change).item()
        if curvature > 1e-10 * float(step.norm() * change.norm()):
            rank_one = torch.outer(step, change) / curvature
            keep = torch.eye(len(x), dtype=x.dtype, device=x.device) - rank_one
            inverse = keep @ inverse @ keep.T + torch.outer(step, step) / curvature
    return x.detach(), slope.abs().max().item()


def _proper(system: StateSpace) -> StateSpace:
    return StateSpace(system.A, system.B, system.C, dt=system.dt)


def _basis(M: Tensor, r: int, *, real: bool) -> Tensor:
    """An orthonormal basis of the span of r columns that come in conjugate pairs if real."""
    M = M / torch.linalg.vector_norm(M, dim=0)
    if real:
        M = torch.cat((M.real, M.imag), 1)
    return torch.linalg.svd(M, full_matrices=False)[0][:, :r]


def _change(before: Tensor, now: Tensor) -> Tensor:
    """The largest relative distance of a pole to the nearest one of the step before."""
    gap = (now[:, None] - before).abs().amin(1)
    return (gap / now.abs().clamp_min(torch.finfo(gap.dtype).eps ** 0.5)).max()


def _error(system: StateSpace, reduced: StateSpace) -> Tensor:
    return h2_norm(_proper(system - reduced))
