"""Where does a model stay under a constant input, and does it come back?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._drawing import COLOURS, legend, new_figure, title, unit_disc
from statewise.analysis._flow import Flow
from statewise.nn.contract import Layer, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALVINGS = 30


@dataclasses.dataclass(frozen=True, eq=False)
class Equilibrium:
    """A state that stays.

    Attributes:
        x: the state as real numbers, (n,).
        state: the same as a state of the layer, batch 1.
        y: the output there, (p,).
        residual: ‖f(x, u) − x‖.
        eigenvalues: of ∂f/∂x, (n,), complex, the largest modulus first.
        stable: whether all of them lie inside the unit circle.
        starts: how many starts of the search came here.
    """

    x: Tensor
    state: State
    y: Tensor
    residual: float
    eigenvalues: np.ndarray
    stable: bool
    starts: int


@dataclasses.dataclass(frozen=True, eq=False)
class Equilibria:
    """Result of :func:`equilibria`.

    Attributes:
        u: the constant input, (m,).
        points: the equilibria that were found, stable ones first, then by starts.
        starts: number of starts.
        failed: starts from which the search did not converge.
        worst: the smallest ‖f(x, u) − x‖ among those, NaN without any.
        settled: the state after a run from rest under the input, (n,).
    """

    u: Tensor
    points: tuple[Equilibrium, ...]
    starts: int
    failed: int
    worst: float
    settled: Tensor

    @property
    def sentence(self) -> str:
        """The result in words."""
        stable = sum(point.stable for point in self.points)
        lost = "" if not self.failed else f"; {self.failed} of {self.starts} starts did not settle"
        count = len(self.points)
        word = "equilibrium" if count == 1 else "equilibria"
        return f"{count} {word} found, {stable} of them stable{lost}."

    def plot(self) -> Figure:
        """Eigenvalues at every equilibrium in the unit disc."""
        figure, grid = new_figure(1, 1, width=4.4, height=4.2)
        axes = grid[0, 0]
        unit_disc(axes, np.zeros(0, complex))
        for index, point in enumerate(self.points):
            word = "stable" if point.stable else "unstable"
            values = ", ".join(f"{value:.3g}" for value in point.y[:3].tolist())
            unit_disc(
                axes,
                point.eigenvalues,
                label=f"{word}, y = {values}",
                colour=COLOURS[index % len(COLOURS)],
            )
        title(axes, "Eigenvalues at the equilibria")
        legend(axes, loc="upper left", bbox_to_anchor=(0.0, -0.16))
        return figure


def equilibria(
    model: Layer,
    u: Any,
    *,
    starts: int = 8,
    spread: float = 1.0,
    settle: int = 200,
    iterations: int = 50,
    tolerance: float = 1e-10,
    seed: int | np.random.Generator = 0,
) -> Equilibria:
    """The states with x* = f(x*, u) by Newton's method from several starts, with their stability.

    A step solves (I − ∂f/∂x) δ = f(x, u) − x and is halved until the residual falls. The starts
    are the state of rest, the state after ``settle`` samples of the input, and points drawn
    around both.

    Args:
        model: a layer or model in the layer contract.
        u: the constant input, (m,).
        starts: number of starts.
        spread: standard deviation of the drawn starts, relative to the size of the settled state
            (at least 1).
        settle: samples of the run from rest.
        iterations: most Newton steps.
        tolerance: largest ‖f(x, u) − x‖/(1 + ‖x‖) of an equilibrium.
        seed: seed of the draw, or a NumPy generator.

    Returns:
        The equilibria; there may be others that no start reached.

    Raises:
        ValueError: sizes that do not fit, or no start.
    """
    if starts < 1 or settle < 0 or iterations < 1 or tolerance <= 0:
        raise ValueError(
            f"equilibria needs starts and iterations of at least 1, settle of at least 0 and a "
            f"positive tolerance; given starts = {starts}, iterations = {iterations}, "
            f"settle = {settle}, tolerance = {tolerance}"
        )
    flow = Flow(model)
    held = flow.sample(u)
    rest = flow.rest()
    settled = flow.trajectory(rest, held.expand(settle, -1))[0][-1:] if settle else rest
    if not settled.isfinite().all():
        settled = rest
    rng = np.random.default_rng(seed)
    size = spread * max(1.0, float(settled.abs().max()) if flow.n else 1.0)
    drawn = size * torch.from_numpy(rng.standard_normal((max(starts - 2, 0), flow.n)))
    x = torch.cat([settled, rest, settled + drawn.to(settled)])[:starts]
    x, residual = _newton(flow, x, held, iterations, tolerance)
    with torch.no_grad():
        _, y = flow.step(x, held.expand(len(x), -1))
    found = residual <= tolerance * (1 + x.norm(dim=1))
    points: list[Equilibrium] = []
    remaining = [int(k) for k in found.nonzero()[:, 0]]
    while remaining:
        k = min(remaining, key=lambda index: float(residual[index]))
        near = (x - x[k]).norm(dim=1) <= 1e3 * tolerance**0.5 * (1 + x[k].norm())
        same = [index for index in remaining if bool(near[index])]
        remaining = [index for index in remaining if index not in same]
        values = torch.linalg.eigvals(flow.jacobians(x[k : k + 1], held[None]).A[0])
        values = values[values.abs().argsort(descending=True)].cpu().numpy()
        points.append(
            Equilibrium(
                x[k],
                flow.unflatten(x[k : k + 1]),
                y[k],
                float(residual[k]),
                values,
                bool((np.abs(values) < 1).all()),
                len(same),
            )
        )
    points.sort(key=lambda point: (not point.stable, -point.starts))
    lost = residual[~found]
    worst = float(lost.min()) if len(lost) else float("nan")
    return Equilibria(held, tuple(points), len(x), len(lost), worst, settled[0])


def the_equilibrium(model: Layer, u: Any) -> Equilibrium:
    """The first one of :func:`equilibria`.

    Raises:
        ValueError: no start led to one.
    """
    found = equilibria(model, u)
    if not found.points:
        raise ValueError(
            f"no equilibrium was found from {found.starts} starts (smallest residual "
            f"{found.worst:.3g}); give the state to start from"
        )
    return found.points[0]


def operating_state(flow: Flow, u: Tensor) -> Tensor:
    """The equilibrium under a constant input, or without one the end of a run, (1, n)."""
    found = equilibria(flow.model, u)
    return found.points[0].x[None] if found.points else found.settled[None]


def _newton(
    flow: Flow, x: Tensor, held: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """States (S, n) after damped Newton steps from all starts side by side, and residuals (S,)."""
    eye = torch.eye(flow.n, dtype=torch.float64, device=flow.device)

    def gap(at: Tensor) -> Tensor:
        with torch.no_grad():
            value = flow.step(at, held.expand(len(at), -1))[0] - at
        return torch.where(value.isfinite(), value, torch.full_like(value, torch.inf))

    rest = gap(x)
    for _ in range(iterations):
        size = rest.norm(dim=1)
        # Beyond the tolerance a few more digits cost one step, and are there for the asking.
        active = (size > 1e-4 * tolerance * (1 + x.norm(dim=1))) & size.isfinite()
        if not active.any():
            break
        A = flow.jacobians(x, held.expand(len(x), -1)).A
        A = torch.where(A.isfinite(), A, torch.zeros_like(A))
        safe = torch.where(rest.isfinite(), rest, torch.zeros_like(rest))
        step, fault = torch.linalg.solve_ex(eye - A, safe)
        if bool((fault != 0).any()):
            step = torch.linalg.lstsq(eye - A, safe[..., None], driver="gelsd").solution[..., 0]
        factor = active.to(x)
        for _ in range(HALVINGS):
            trial = x + factor[:, None] * step
            new = gap(trial)
            worse = active & ~(new.norm(dim=1) < size)
            if not worse.any():
                break
            factor = torch.where(worse, factor / 2, factor)
        better = active & (new.norm(dim=1) < size)
        if not better.any():
            break
        x = torch.where(better[:, None], trial, x)
        rest = torch.where(better[:, None], new, rest)
    return x, rest.norm(dim=1)
