"""What are the kernels of a model around a point, as an experimenter would measure them?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._drawing import COLOURS, MUTED, legend, names, new_figure, title
from statewise.analysis._flow import Flow
from statewise.analysis.equilibrium import the_equilibrium
from statewise.nn.contract import Layer, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 6


@dataclasses.dataclass(frozen=True, eq=False)
class VolterraKernels:
    """Result of :func:`volterra`: δy_t = Σ_k h1(k) δu_{t−k} + Σ_k h2(k, k) δu²_{t−k} + ….

    Attributes:
        first: h1(k), (K, p, m), in output units per input unit.
        second: diagonal h2(k, k) of each input with itself, (K, p, m), in output units per squared
            input unit.
        u: the operating input, (m,).
        y: the output without a pulse, (K, p).
        amplitude: size of the pulses, (m,).
        error: largest difference of ``first`` to what pulses of twice the size give, relative to
            the largest entry: below 1e-2 the pulses are small.
        dt: sampling time.
        time_unit: unit of time.
    """

    first: np.ndarray
    second: np.ndarray
    u: np.ndarray
    y: np.ndarray
    amplitude: np.ndarray
    error: float
    dt: float
    time_unit: str

    def plot(self, *, inputs: list[str] | None = None, outputs: list[str] | None = None) -> Figure:
        """Kernels of the first six pairs of channels: the first order above, the second below."""
        _, p, m = self.first.shape
        ins, outs = names(inputs, m, "u"), names(outputs, p, "y")
        pairs = [(i, j) for i in range(p) for j in range(m)][:MOST_PANELS]
        figure, grid = new_figure(2, 1, width=7.5, height=2.6, sharex=True)
        time = self.dt * np.arange(len(self.first))
        for axes, kernel, word in (
            (grid[0, 0], self.first, "first order h1(k)"),
            (grid[1, 0], self.second, "second order, diagonal h2(k, k)"),
        ):
            axes.axhline(0, color=MUTED, lw=0.8)
            for index, (i, j) in enumerate(pairs):
                label = f"{ins[j]} to {outs[i]}"
                axes.plot(
                    time, kernel[:, i, j], ".-", ms=4, lw=1.0, color=COLOURS[index], label=label
                )
            title(axes, f"Kernel of {word}")
        grid[0, 0].set_ylabel("output / input unit")
        grid[1, 0].set_ylabel("output / input unit²")
        grid[1, 0].set_xlabel(f"lag [{self.time_unit}]")
        legend(grid[0, 0], loc="upper right")
        return figure


def volterra(
    model: Layer,
    u: Any = None,
    state: State | Tensor | None = None,
    *,
    length: int = 64,
    amplitude: Any = 1e-3,
    dt: float | None = None,
    time_unit: str | None = None,
) -> VolterraKernels:
    """First-order and diagonal second-order Volterra kernels by pulses at an operating point.

    Runs with pulses of ±a and ±2a on one input at sample 0 give odd and even parts of the
    response, o(a) = (y₊ − y₋)/2 and e(a) = (y₊ + y₋)/2 − y₀, and h1 = (8 o(a) − o(2a))/(6a),
    h2 = (16 e(a) − e(2a))/(12a²), which leave errors of fourth order in a. h1 is the impulse
    response of the linearised model.

    Args:
        model: a layer or model in the layer contract.
        u: the constant input of the operating point, (d_input,); None for 0.
        state: state at the pulse; None for the equilibrium under ``u``.
        length: lags K, from 0.
        amplitude: size a of the pulses, a number or (d_input,), in units of the inputs.
        dt: sampling time; None counts in samples.
        time_unit: unit of ``dt``; None is "s", or "sample" without ``dt``.

    Returns:
        The kernels.

    Raises:
        ValueError: sizes that do not fit, or no equilibrium.
    """
    flow = Flow(model)
    held = flow.sample(torch.zeros(flow.m) if u is None else u)
    size = torch.as_tensor(amplitude, dtype=torch.float64).expand(flow.m).to(flow.device)
    if length < 1 or not bool((size > 0).all()):
        raise ValueError(
            f"volterra needs a length of at least 1 and positive amplitudes; given {length} and "
            f"{amplitude}"
        )
    x = the_equilibrium(model, held).x[None] if state is None else flow.flatten(state)
    factors = torch.tensor([0.0, 1.0, -1.0, 2.0, -2.0], dtype=torch.float64, device=flow.device)
    runs = held.expand(flow.m, 5, length, flow.m).clone()
    index = torch.arange(flow.m)
    runs[index, :, 0, index] += factors * size[:, None]
    with torch.no_grad():
        flat = runs.reshape(5 * flow.m, length, flow.m)
        y, _ = flow.model(flat, flow.unflatten(x.expand(5 * flow.m, -1)))
    y = y.reshape(flow.m, 5, length, flow.p)
    still, up, down, up_twice, down_twice = y.unbind(1)
    a = size[:, None, None]
    odd, odd_twice = (up - down) / 2, (up_twice - down_twice) / 2
    even, even_twice = (up + down) / 2 - still, (up_twice + down_twice) / 2 - still
    first = ((8 * odd - odd_twice) / (6 * a)).permute(1, 2, 0).cpu().numpy()
    second = ((16 * even - even_twice) / (12 * a**2)).permute(1, 2, 0).cpu().numpy()
    coarse = (odd_twice / (2 * a)).permute(1, 2, 0).cpu().numpy()
    scale = float(np.abs(first).max())
    return VolterraKernels(
        first,
        second,
        held.cpu().numpy(),
        still[0].cpu().numpy(),
        size.cpu().numpy(),
        float(np.abs(coarse - first).max()) / scale if scale > 0 else 0.0,
        1.0 if dt is None else float(dt),
        time_unit or ("sample" if dt is None else "s"),
    )
