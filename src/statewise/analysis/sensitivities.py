"""Which inputs, and how long ago, does an output depend on?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._drawing import COLOURS, legend, names, new_figure, title
from statewise.analysis._flow import Flow
from statewise.analysis._lag_gradients import drawn_times, lag_gradients, windows
from statewise.nn.contract import Layer, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class InputEffect:
    """A row of the table: one input and one output.

    Attributes:
        output: name of the output.
        input: name of the input.
        effect: root of the sum over lags of squared effects (or their sum, integrated).
        share: fraction of this input among all, of squared effects (or of absolute ones).
        peak_lag: lag with the largest effect, in units of time.
        mean_lag: mean of the lags weighted by effects, in units of time.
    """

    output: str
    input: str
    effect: float
    share: float
    peak_lag: float
    mean_lag: float


@dataclasses.dataclass(frozen=True, eq=False)
class Sensitivity:
    """Result of :func:`sensitivity`.

    Attributes:
        effects: by lag, output and input, (K + 1, p, m), in units of the output.
        gradients: root mean square of ∂y_t/∂u_{t−k}, (K + 1, p, m), in output per input unit.
        rows: the table.
        inputs: names of the inputs.
        outputs: names of the outputs.
        method: "squared" or "integrated".
        dt: sampling time.
        time_unit: unit of time.
    """

    effects: np.ndarray
    gradients: np.ndarray
    rows: tuple[InputEffect, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    method: str
    dt: float
    time_unit: str

    def to_dicts(self) -> list[dict[str, Any]]:
        """The table as rows for a data frame."""
        return [dataclasses.asdict(row) for row in self.rows]

    def plot(self) -> Figure:
        """Effect of every input against the lag, a panel for each of the first four outputs."""
        count = min(4, len(self.outputs))
        figure, grid = new_figure(count, 1, width=7.2, height=2.9, sharex=True)
        time = self.dt * np.arange(len(self.effects))
        for i in range(count):
            axes = grid[i, 0]
            for j, name in enumerate(self.inputs[: len(COLOURS)]):
                share = next(
                    r.share for r in self.rows if (r.output, r.input) == (self.outputs[i], name)
                )
                axes.plot(
                    time,
                    self.effects[:, i, j],
                    ".-",
                    ms=3.5,
                    lw=1.0,
                    color=COLOURS[j],
                    label=f"{name}: {100 * share:.0f} %",
                )
            axes.set_ylabel(f"effect [unit of {self.outputs[i]}]")
            axes.set_ylim(bottom=0)
            word = "one deviation of an input" if self.method == "squared" else "inputs"
            title(axes, f"Effect of {word} on {self.outputs[i]}")
            legend(axes, loc="upper right", title="share", title_fontsize=8.5)
        grid[count - 1, 0].set_xlabel(f"lag [{self.time_unit}]")
        return figure


def sensitivity(
    model: Layer,
    u: Any,
    state: State | Tensor | None = None,
    *,
    lags: int | None = None,
    times: int = 64,
    method: Literal["squared", "integrated"] = "squared",
    nodes: int = 8,
    inputs: list[str] | None = None,
    outputs: list[str] | None = None,
    dt: float | None = None,
    time_unit: str | None = None,
    seed: int | np.random.Generator = 0,
) -> Sensitivity:
    """√(mean_t (∂y_t/∂u_{t−k})²) · std(u), for every output, input and lag, along data.

    "squared" is what one deviation of an input does to the output, to first order. "integrated"
    is mean_t |(u_{t−k} − ū) ∫₀¹ ∂y_t/∂u_{t−k} dα| with gradients on inputs ū + α (u − ū), whose
    sums over inputs and lags account for all of y_t(u) − y_t(ū) within the window; the state
    before the window is that of the run.

    Args:
        model: a layer or model in the layer contract; :class:`InUnits` gives effects in units of
            the data.
        u: inputs, (L, d_input).
        state: state before the first sample; None for rest.
        lags: largest lag; None for a quarter of the samples, at most 100.
        times: times that are drawn from the run.
        method: "squared" or "integrated".
        nodes: Gauss–Legendre nodes of the integral.
        inputs: names of the inputs; ``u1``, ``u2``, ... when None.
        outputs: names of the outputs; ``y1``, ``y2``, ... when None.
        dt: sampling time; None counts in samples.
        time_unit: unit of ``dt``; None is "s", or "sample" without ``dt``.
        seed: seed of the draw, or a NumPy generator.

    Returns:
        Effects, and a table with a row for every output and input.

    Raises:
        ValueError: sizes that do not fit, or an unknown method.

    Source: Sundararajan, Taly and Yan, Axiomatic attribution for deep networks (1703.01365), for
    the integral.
    """
    if method not in ("squared", "integrated") or nodes < 1:
        raise ValueError(
            f'method is "squared" or "integrated" and nodes at least 1; given {method!r} and '
            f"{nodes}"
        )
    flow = Flow(model)
    values = flow.sequence(u)
    ins, outs = names(inputs, flow.m, "u"), names(outputs, flow.p, "y")
    most = min(100, len(values) // 4) if lags is None else lags
    chosen = drawn_times(len(values), most, times, seed)
    start = flow.rest() if state is None else flow.flatten(state)
    x, window = windows(flow, values, start, most, chosen)
    slopes = lag_gradients(flow, x, window).square().mean(0).sqrt()
    if method == "squared":
        effects = slopes * values.std(0, correction=0)
        weight = effects.square()
    else:
        effects = integrated(flow, x, window, values.mean(0), nodes).abs().mean(0)
        weight = effects
    step = 1.0 if dt is None else float(dt)
    lag = step * torch.arange(most + 1, dtype=torch.float64, device=weight.device)
    total = weight.sum(0)
    share = total / total.sum(1, keepdim=True).clamp_min(1e-300)
    mean_lag = (lag[:, None, None] * weight).sum(0) / total.clamp_min(1e-300)
    size = total.sqrt() if method == "squared" else total
    rows = tuple(
        InputEffect(
            outs[i],
            ins[j],
            float(size[i, j]),
            float(share[i, j]),
            float(lag[effects[:, i, j].argmax()]),
            float(mean_lag[i, j]),
        )
        for i in range(flow.p)
        for j in range(flow.m)
    )
    unit = time_unit or ("sample" if dt is None else "s")
    return Sensitivity(
        effects.cpu().numpy(), slopes.cpu().numpy(), rows, ins, outs, method, step, unit
    )


def integrated(flow: Flow, x: Tensor, window: Tensor, base: Tensor, nodes: int) -> Tensor:
    """(u_{t−k} − ū) ∫₀¹ ∂y_t/∂u_{t−k} dα by Gauss–Legendre quadrature, (T, K + 1, p, m).

    Args:
        flow: the model.
        x: states before the windows (T, n).
        window: inputs (T, K + 1, m).
        base: ū, (m,).
        nodes: nodes of the quadrature.
    """
    at, weights = np.polynomial.legendre.leggauss(nodes)
    total = 0.0
    for place, weight in zip((at + 1) / 2, weights / 2, strict=True):
        mixed = base + float(place) * (window - base)
        total = total + float(weight) * lag_gradients(flow, x, mixed)
    return total * (window - base).flip(1)[:, :, None, :]
