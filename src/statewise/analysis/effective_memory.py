"""How far back does a model look?"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._drawing import COLOURS, MUTED, legend, new_figure, title
from statewise.analysis._flow import Flow
from statewise.analysis._lag_gradients import drawn_times, lag_gradients, windows
from statewise.analysis._linear import stage_systems
from statewise.analysis.equilibrium import operating_state
from statewise.analysis.linearisation import linearise
from statewise.lti import StateSpace, is_stable
from statewise.nn.contract import Layer, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOUBLINGS = 40
DRAWN = 2000
"""Samples of impulse responses that are kept for the figure, at most."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImpulseMemory:
    """Energy of an impulse response over time.

    Attributes:
        name: of the block, or "model".
        length: samples until the given fraction of the energy is reached, counted with sample 0;
            infinite for a system that does not decay.
        remaining: fraction of the energy behind the first k samples, k = 0, 1, ..., (K,).
        linear: whether the system is exact, and not a linearisation.
    """

    name: str
    length: float
    remaining: np.ndarray
    linear: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """Result of :func:`memory`.

    Attributes:
        blocks: impulse responses of the linear systems of the blocks.
        model: impulse response of the whole model, linearised at the mean of its input.
        lags: lags k in samples, (K + 1,); empty without data.
        gradients: root mean square over the drawn times of ‖∂y_t/∂u_{t−k}‖, Frobenius, (K + 1,).
        horizon: the smallest lag up to which the squared gradients hold the given fraction of
            their sum; NaN without data.
        fraction: that fraction.
        dt: sampling time.
        time_unit: unit of time.
    """

    blocks: tuple[ImpulseMemory, ...]
    model: ImpulseMemory
    lags: np.ndarray
    gradients: np.ndarray
    horizon: float
    fraction: float
    dt: float
    time_unit: str

    def plot(self) -> Figure:
        """Energy that is left in the impulse responses, and the gradient against the lag."""
        both = len(self.lags) > 0
        figure, grid = new_figure(1, 1 + both, width=9.0 if both else 5.5, height=3.5)
        axes = grid[0, 0]
        for index, one in enumerate((self.model, *self.blocks[:5])):
            time = self.dt * np.arange(len(one.remaining))
            style = {"lw": 1.8} if not index else {"lw": 1.0}
            label = f"{one.name}: {one.length * self.dt:.3g} {self.time_unit}"
            axes.plot(time, one.remaining, color=COLOURS[index], label=label, **style)
        axes.axhline(1 - self.fraction, color=MUTED, lw=0.9, ls="--")
        axes.set_yscale("log")
        axes.set_ylim(1e-6, 1.5)
        axes.set_xscale("symlog", linthresh=self.dt)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"time [{self.time_unit}]")
        axes.set_ylabel("energy left [-]")
        title(axes, f"Impulse responses (dashed: {100 * (1 - self.fraction):.3g} % left)")
        legend(axes, loc="lower left")
        if both:
            axes = grid[0, 1]
            floor = 1e-16 * float(self.gradients.max(initial=1e-300))
            axes.plot(
                self.dt * self.lags,
                np.maximum(self.gradients, floor),
                color=COLOURS[0],
                lw=1.4,
            )
            axes.axvline(self.dt * self.horizon, color=MUTED, lw=0.9, ls="--")
            axes.set_yscale("log")
            axes.set_xlabel(f"lag [{self.time_unit}]; dashed: horizon")
            axes.set_ylabel("gradient, rms [output per input unit]")
            title(axes, "Gradient of the output to past inputs")
        return figure


def memory(
    model: Layer,
    u: Any = None,
    state: State | Tensor | None = None,
    *,
    fraction: float = 0.99,
    lags: int | None = None,
    times: int = 32,
    dt: float | None = None,
    time_unit: str | None = None,
    seed: int | np.random.Generator = 0,
) -> Memory:
    """Samples that hold a fraction of Σ_k ‖h_k‖² of impulse responses h, and of gradients on data.

    The impulse responses are those of the linear systems of the blocks, and of the model; what is
    not linear is linearised at the equilibrium of the mean input, or without one where a run of it
    ends. On data, ‖∂y_t/∂u_{t−k}‖ against k tells what gradients, and so training, can see: its
    root mean square is taken over times t that are drawn.

    Args:
        model: a layer or model in the layer contract.
        u: inputs, (L, d_input); None leaves out the gradients, and takes 0 as the mean.
        state: state before the first sample of ``u``; None for rest.
        fraction: of the energy, between 0 and 1.
        lags: largest lag of the gradients; None for half the samples, at most 1000.
        times: times that are drawn.
        dt: sampling time; None counts in samples.
        time_unit: unit of ``dt``; None is "s", or "sample" without ``dt``.
        seed: seed of the draw, or a NumPy generator.

    Returns:
        The lengths and curves.

    Raises:
        ValueError: sizes that do not fit, or a model that is no chain of blocks.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1; given {fraction}")
    flow = Flow(model)
    step = 1.0 if dt is None else float(dt)
    unit = time_unit or ("sample" if dt is None else "s")
    inputs = None if u is None else flow.sequence(u)
    centre = flow.sample(torch.zeros(flow.m)) if inputs is None else inputs.mean(0)
    whole = _impulse(
        "model", linearise(model, centre, operating_state(flow, centre)[0]).system, fraction, False
    )
    parts = [
        _impulse(stage.name, system, fraction, linear)
        for stage, system, linear in stage_systems(flow, centre)
        if system.n_states
    ]
    none = np.zeros(0)
    if inputs is None:
        return Memory(tuple(parts), whole, none, none, math.nan, fraction, step, unit)
    most = min(1000, len(inputs) // 2) if lags is None else lags
    chosen = drawn_times(len(inputs), most, times, seed)
    start = flow.rest() if state is None else flow.flatten(state)
    found = lag_gradients(flow, *windows(flow, inputs, start, most, chosen))
    energy = found.square().sum((2, 3)).mean(0).cpu().numpy()
    horizon = _first(np.cumsum(energy), fraction)
    return Memory(
        tuple(parts),
        whole,
        np.arange(most + 1),
        np.sqrt(energy),
        horizon,
        fraction,
        step,
        unit,
    )


def _first(total: np.ndarray, fraction: float) -> float:
    """The first index at which a running sum reaches a fraction of its last value."""
    if not total[-1] > 0:
        return 0.0
    return float(np.searchsorted(total, fraction * total[-1]))


def _impulse(name: str, system: StateSpace, fraction: float, linear: bool) -> ImpulseMemory:
    """‖D‖² and tr(Bᵀ Aᵀᵏ Q Aᵏ B) behind sample k + 1, with the observability Gramian Q."""
    if not system.n_states:
        return ImpulseMemory(name, 1.0, np.array([1.0, 0.0]), linear)
    if not bool(is_stable(system).all()):
        return ImpulseMemory(name, math.inf, np.ones(1), linear)
    with torch.no_grad():
        A, B, C, D = (matrix.cpu() for matrix in system.matrices)
        powers, Q = [A], C.mT @ C
        # Q = Σ Aᵀᵏ CᵀC Aᵏ by doubling, whose powers of A find the length by bisection.
        for _ in range(DOUBLINGS):
            added = powers[-1].mT @ Q @ powers[-1]
            Q = Q + added
            if float(added.abs().max()) <= 1e-17 * float(Q.abs().max()):
                break
            powers.append(powers[-1] @ powers[-1])

        def energy(X: Tensor) -> float:
            return float(((Q @ X) * X).sum())

        total = float(D.square().sum()) + energy(B)
        if not total > 0:
            return ImpulseMemory(name, 0.0, np.zeros(1), linear)
        target = (1 - fraction) * total
        if energy(B) <= target:
            length = 1.0
        else:
            X, steps = B, 0
            for level in range(len(powers) - 1, -1, -1):
                further = powers[level] @ X
                if energy(further) > target:
                    X, steps = further, steps + 2**level
            length = float(steps + 2)
        count = int(min(DRAWN, 3 * length + 2))
        remaining, X = [1.0], B
        for _ in range(count):
            remaining.append(max(energy(X), 0.0) / total)
            X = A @ X
    return ImpulseMemory(name, length, np.array(remaining), linear)
