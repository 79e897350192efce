"""How does a model answer small changes around a point or along a run?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._drawing import COLOURS, MUTED, legend, new_figure, title, unit_disc
from statewise.analysis._flow import Flow
from statewise.analysis.equilibrium import the_equilibrium
from statewise.lti import StateSpace, frequency_response
from statewise.nn.contract import Layer, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class Linearisation:
    """Result of :func:`linearise`: δx⁺ = A δx + B δu, δy = C δx + D δu.

    Attributes:
        system: the linear system in the textbook form; along a run a batch of them, (L,).
        x: states before the sample, (n,) or (L, n).
        u: inputs, (m,) or (L, m).
        y: outputs, (p,) or (L, p).
        x_next: states behind the sample, shaped as ``x``.
        time_unit: unit of the sampling time.
    """

    system: StateSpace
    x: Tensor
    u: Tensor
    y: Tensor
    x_next: Tensor
    time_unit: str

    @property
    def along_a_run(self) -> bool:
        """Whether there is a system for every sample."""
        return self.x.ndim == 2

    @property
    def residual(self) -> float:
        """‖f(x, u) − x‖, 0 at an equilibrium; along a run the largest."""
        return float((self.x_next - self.x).norm(dim=-1).max())

    @property
    def poles(self) -> Tensor:
        """Eigenvalues of A, (n,) or (L, n), complex."""
        return torch.linalg.eigvals(self.system.A)

    def plot(self) -> Figure:
        """Poles and gain over frequency at a point; eigenvalues over time along a run."""
        return self._plot_run() if self.along_a_run else self._plot_point()

    def _plot_point(self) -> Figure:
        dt = self.system.dt or 1.0
        figure, grid = new_figure(1, 2, width=8.6, height=3.7, width_ratios=(1, 1.35))
        unit_disc(grid[0, 0], self.poles.cpu().numpy())
        title(grid[0, 0], "Eigenvalues")
        omega = np.geomspace(1e-3, 1.0, 400) * np.pi / dt
        response = frequency_response(self.system, torch.from_numpy(omega)).abs().cpu().numpy()
        axes = grid[0, 1]
        count = 0
        for i in range(self.system.n_outputs):
            for j in range(self.system.n_inputs):
                if count < len(COLOURS) and response[:, i, j].max() > 0:
                    label = f"u{j + 1} to y{i + 1}"
                    axes.plot(omega, response[:, i, j], color=COLOURS[count], lw=1.3, label=label)
                    count += 1
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.axvline(np.pi / dt, color=MUTED, lw=0.8, ls="--")
        axes.set_xlabel(f"frequency [rad/{self.time_unit}]; dashed: Nyquist")
        axes.set_ylabel("gain [output unit per input unit]")
        title(axes, "Small-signal gain")
        legend(axes, loc="best")
        return figure

    def _plot_run(self) -> Figure:
        dt = self.system.dt or 1.0
        moduli = np.sort(self.poles.abs().cpu().numpy(), axis=1)[:, ::-1]
        time = dt * np.arange(len(moduli))
        figure, grid = new_figure(2, 1, width=8.0, height=2.4, sharex=True)
        shown = moduli[:, : min(12, moduli.shape[1])]
        grid[0, 0].plot(time, shown[:, 1:], color=COLOURS[5], lw=0.8)
        grid[0, 0].plot(time, shown[:, :1], color=COLOURS[0], lw=1.3)
        grid[0, 0].axhline(1.0, color=MUTED, lw=0.9, ls="--")
        grid[0, 0].set_ylabel("modulus of eigenvalues")
        title(grid[0, 0], "Frozen-time eigenvalues (largest dark; dashed: stability)")
        for index, row in enumerate(self.y.mT[: len(COLOURS)].cpu().numpy()):
            grid[1, 0].plot(time, row, color=COLOURS[index], lw=1.0, label=f"y{index + 1}")
        grid[1, 0].set_ylabel("output [output unit]")
        grid[1, 0].set_xlabel(f"time [{self.time_unit}]")
        title(grid[1, 0], "Output along the run")
        legend(grid[1, 0], loc="best", ncols=len(COLOURS))
        return figure


def linearise(
    model: Layer,
    u: Any,
    state: State | Tensor | None = None,
    *,
    dt: float | None = None,
    time_unit: str | None = None,
) -> Linearisation:
    """A = ∂f/∂x, B = ∂f/∂u, C = ∂g/∂x, D = ∂g/∂u of one step x⁺ = f(x, u), y = g(x, u).

    The derivatives are those of ``step`` by automatic differentiation, in float64, with the state
    as one vector of real numbers: complex states count as two. The result is in the textbook form,
    whose state is the one before the sample; :func:`~statewise.lti.to_updated` gives the other.

    Args:
        model: a layer or model in the layer contract; :class:`InUnits` brings its normalisation.
        u: the input of a point, (m,), or inputs of a run, (L, m).
        state: state before the sample, or before the run: as the layer has it (batch 1), or a
            vector (n,). None is the equilibrium under a constant input for a point, and the state
            of rest for a run.
        dt: sampling time; None counts in samples.
        time_unit: unit of ``dt``; None is "s", or "sample" without ``dt``.

    Returns:
        The linear system, or a batch of L systems along the run.

    Raises:
        ValueError: sizes that do not fit, or no equilibrium that Newton's method finds.
    """
    flow = Flow(model)
    unit = time_unit or ("sample" if dt is None else "s")
    value = torch.as_tensor(u)
    if value.ndim <= 1:
        held = flow.sample(value)
        x = the_equilibrium(model, held).x[None] if state is None else flow.flatten(state)
        after, y = (part[0] for part in _ahead(flow, x, held[None]))
        inputs, before = held, x[0]
        matrices = [part[0] for part in flow.jacobians(x, held[None])]
    else:
        inputs = flow.sequence(value)
        start = flow.rest() if state is None else flow.flatten(state)
        states, y = flow.trajectory(start, inputs)
        before, after = states[:-1], states[1:]
        matrices = list(flow.jacobians(before, inputs))
    system = StateSpace(*matrices, dt=1.0 if dt is None else dt)
    return Linearisation(system, before, inputs, y, after, unit)


def _ahead(flow: Flow, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return flow.step(x, u)
