"""Levenberg-Marquardt descent on triangular factors, with a stop that statistics can read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Point = TypeVar("Point")

DAMPING = 1e-3
REJECTIONS = 16
# Relative to the signals: below, residuals are rounding and have no statistics.
ROUNDING = 1e-28
# Standard errors; as near to a minimum as this, a descent that rounding stops has converged.
NEAR = 1e-3
# Descents of N log(loss) that are too small to be worth a step along the bound of stability.
STILL = 1e-6
# A share of the cost that summation in floating point may change.
TIE = 1e-14
# Steps in a row that shorten the distance by less than this factor before curvature is measured.
SLOW, PATIENCE = 0.3, 6
# And only where the cost falls by less than this in a step.
FALLEN = 1.0
# Standard errors between the two gradients whose difference is a column of the Hessian.
APART = 1e-2
# Least curvature, with that of Gauss-Newton as 1.
FLAT = 0.01


@dataclasses.dataclass(frozen=True)
class Linearised:
    """The residuals near a point: ‖ε(δ)‖² ≈ ‖R δ + r‖² + what no step changes.

    Attributes:
        R: triangular factor of the sensitivities, (k, d).
        r: residuals in its coordinates, (k,).
        variance: mean square of the residuals, so that the slope of the cost is 2 Rᵀ r/variance
            and ‖r‖² becomes a number of squared standard errors.
        level: mean square of the residuals relative to that of the signals.
        basis: orthonormal directions of the coordinates δ among all parameters, (k, d); None
            where these are the coordinates.
    """

    R: Array
    r: Array
    variance: float
    level: float
    basis: Array | None = None

    @property
    def slope(self) -> Array:
        """The gradient of the cost with respect to δ."""
        return 2 * self.R.T @ self.r / self.variance


@dataclasses.dataclass(frozen=True)
class Descent(Generic[Point]):
    """Where a descent ended.

    Attributes:
        point: the last point.
        cost: its cost.
        iterations: steps taken.
        converged: whether the point is a minimum, as far as numbers tell.
        reason: why it ended, in words.
    """

    point: Point
    cost: float
    iterations: int
    converged: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Problem(Generic[Point]):
    """A cost N log(Σ ε²), or its like with several outputs.

    Attributes:
        cost: of a point; ∞ for one that is not allowed.
        linearise: at a point.
        move: the point a step in the local coordinates away, or None where that is not allowed.
    """

    cost: Callable[[Point], float]
    linearise: Callable[[Point], Linearised]
    move: Callable[[Point, Array], Point | None]

    def tried(self, point: Point, step: Array) -> tuple[Point | None, float]:
        """The point a step away, and its cost, which is infinite where it is not allowed."""
        after = self.move(point, step)
        return after, math.inf if after is None else self.cost(after)


def minimise(
    problem: Problem[Point], point: Point, *, iterations: int, tolerance: float
) -> Descent[Point]:
    """Descend until the Gauss-Newton step is below ``tolerance`` standard errors.

    The step solves min ‖R δ + r‖² + λ ‖S δ‖², S the norms of the columns of R. The distance to
    the minimum in standard errors is √(‖r̂‖²/variance), r̂ the part of r within the range of R.
    Where such steps converge slowly, since the data say little about some direction, the Hessian
    is measured by differences of gradients, and a Newton step is taken.

    Args:
        problem: what to minimise.
        point: the start; its cost must be finite.
        iterations: most steps.
        tolerance: in standard errors.
    """
    value, damping, slow = problem.cost(point), DAMPING, 0
    start, before, distance = math.inf, math.inf, math.inf
    for count in range(iterations + 1):
        local = problem.linearise(point)
        if local.level <= ROUNDING:
            return Descent(point, value, count, True, "the residuals are rounding errors")
        scale, sigma, Vh, along = _decomposed(local)
        distance = float(np.linalg.norm(along)) / math.sqrt(local.variance)
        if distance <= tolerance:
            reason = f"the next step is {distance:.2g} standard errors long"
            return Descent(point, value, count, True, reason)
        if count == iterations:
            break
        slow = slow + 1 if distance > SLOW * before and start - value < FALLEN else 0
        start, before, blocked = value, distance, False
        if slow >= PATIENCE:
            units = Vh.T / scale[:, None] / sigma * math.sqrt(local.variance)
            after, changed = _newton(problem, point, value, local, units)
            if after is not None:
                point, value = after, changed
                continue
            slow = -PATIENCE
        for _ in range(REJECTIONS):
            step = -(Vh.T @ (sigma / (sigma**2 + damping) * along)) / scale
            after, changed = problem.tried(point, step)
            blocked = blocked or math.isinf(changed)
            if after is not None and changed <= value + TIE * abs(value):
                point, value = after, changed
                damping = 0.0 if damping < 1e-9 else damping / 10
                break
            damping = max(10 * damping, 1e-8)
        else:
            near = distance <= NEAR or local.level <= 1e6 * ROUNDING
            reason = (
                f"no step lowers the cost; the last one was {distance:.2g} standard errors long"
            )
            return Descent(point, value, count, near, reason)
        if blocked and start - value < STILL:
            reason = (
                f"the bound of stability holds the descent; without it the next step is "
                f"{distance:.2g} standard errors long"
            )
            return Descent(point, value, count + 1, False, reason)
    reason = f"{iterations} iterations were not enough; the next step is {distance:.2g} standard "
    return Descent(point, value, iterations, False, reason + "errors long")


def _decomposed(local: Linearised) -> tuple[Array, Array, Array, Array]:
    """Norms of the columns of R; σ and V of what is left, without null directions; Uᵀ r."""
    scale = np.linalg.norm(local.R, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    U, sigma, Vh = np.linalg.svd(local.R / scale, full_matrices=False)
    rank = int((sigma > 1e-13 * max(1.0, sigma[0])).sum()) if sigma.size else 0
    return scale, sigma[:rank], Vh[:rank], U[:, :rank].T @ local.r


def _newton(
    problem: Problem[Point], point: Point, value: float, local: Linearised, units: Array
) -> tuple[Point | None, float]:
    """A Newton step in coordinates of unit standard error, or None where it does not descend."""
    slope = units.T @ local.slope
    columns = []
    for unit in units.T:
        aside, cost = problem.tried(point, APART * unit)
        if aside is None or not math.isfinite(cost):
            return None, math.inf
        there = problem.linearise(aside)
        turned = there.slope
        if local.basis is not None and there.basis is not None:
            turned = local.basis.T @ (there.basis @ turned)
        columns.append((units.T @ turned - slope) / APART)
    hessian = np.stack(columns)
    curvature, axes = np.linalg.eigh((hessian + hessian.T) / 2)
    step = -units @ (axes @ ((axes.T @ slope) / np.maximum(np.abs(curvature), 2 * FLAT)))
    for _ in range(4):
        after, changed = problem.tried(point, step)
        if after is not None and changed < value:
            return after, changed
        step = step / 4
    return None, math.inf


def triangle(rows: Array, above: Array | None = None) -> Array:
    """R of the QR factorisation of the rows behind an earlier R."""
    stacked = rows if above is None else np.concatenate((above, rows))
    return np.asarray(np.linalg.qr(stacked, mode="r"))


def least_norm(M: Array, y: Array, tolerance: float = 1e-13) -> Array:
    """The θ of least norm that minimises ‖y − M θ‖."""
    return np.asarray(np.linalg.lstsq(M, y, rcond=tolerance)[0], np.float64)


def inverse_normal(R: Array) -> Array:
    """(RᵀR)⁻¹, by singular values, of which those that are rounding do not count."""
    scale = np.linalg.norm(R, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    _, sigma, Vh = np.linalg.svd(R / scale, full_matrices=False)
    rank = int((sigma > 1e-13 * max(1.0, sigma[0])).sum()) if sigma.size else 0
    half = Vh[:rank].T / sigma[:rank] / scale[:, None]
    return half @ half.T
