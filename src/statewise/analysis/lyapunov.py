"""Do small differences between states grow or die out, and how fast?"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._drawing import COLOURS, MUTED, legend, new_figure, title
from statewise.analysis._flow import Flow
from statewise.analysis._own_decay import own_exponents
from statewise.nn.contract import Layer, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORGOTTEN = 1e-10
"""Stretching of a direction, relative to the largest, that counts as none."""
KEPT = 1000
"""Points of the running estimate that are kept for the figure."""


@dataclasses.dataclass(frozen=True, eq=False)
class LyapunovSpectrum:
    """Result of :func:`lyapunov_spectrum`.

    Attributes:
        exponents: Lyapunov exponents per unit of time, (k,), descending; −inf for a direction
            that is forgotten within some samples (a delay line, or decay below rounding).
        running: estimates over the run for the figure, (K, k); empty for the closed form.
        samples: samples behind the rows of ``running``, (K,).
        length: samples that count, behind the burn-in.
        dt: sampling time.
        time_unit: unit of time.
        method: "qr" or "closed".
    """

    exponents: np.ndarray
    running: np.ndarray
    samples: np.ndarray
    length: int
    dt: float
    time_unit: str
    method: str

    @property
    def largest(self) -> float:
        """The largest exponent: chaos above 0, forgetting of initial states below."""
        return float(self.exponents[0]) if len(self.exponents) else -math.inf

    @property
    def dimension(self) -> float:
        """Kaplan–Yorke dimension of the attractor: 0 where all exponents are negative."""
        total = np.cumsum(self.exponents)
        above = np.flatnonzero(total >= 0)
        if not len(above):
            return 0.0
        j = int(above[-1])
        if j + 1 == len(total):
            return float(len(total))
        return j + 1 + float(total[j] / abs(self.exponents[j + 1]))

    @property
    def memory_times(self) -> np.ndarray:
        """−1/λ in units of time, (k,), descending; infinite for exponents that are not negative."""
        with np.errstate(divide="ignore"):
            return np.where(self.exponents < 0, -1 / self.exponents, np.inf)

    @property
    def integrators(self) -> float:
        """Fraction of the exponents with a memory −1/λ longer than the run."""
        if not len(self.exponents):
            return 0.0
        return float(np.mean(self.memory_times > self.length * self.dt))

    def plot(self) -> Figure:
        """The exponents, and with the QR method how their estimates settle."""
        both = len(self.running) > 1
        figure, grid = new_figure(1, 1 + both, width=8.6 if both else 5.0, height=3.4)
        axes = grid[0, 0]
        index = np.arange(1, len(self.exponents) + 1)
        finite = np.isfinite(self.exponents)
        axes.axhline(0, color=MUTED, lw=0.9, ls="--")
        axes.plot(index[finite], self.exponents[finite], "o", ms=4.5, color=COLOURS[0], mew=0)
        if not finite.all():
            axes.plot([], [], " ", label=f"{int((~finite).sum())} more at −∞")
        axes.set_xlabel("index")
        axes.set_ylabel(f"Lyapunov exponent [1/{self.time_unit}]")
        title(axes, "Spectrum")
        legend(axes, loc="lower left")
        if both:
            axes = grid[0, 1]
            axes.axhline(0, color=MUTED, lw=0.9, ls="--")
            shown = np.where(np.isfinite(self.running), self.running, np.nan)[:, :8]
            axes.plot(self.samples * self.dt, shown, lw=1.0)
            for line, colour in zip(axes.lines[1:], COLOURS * 2, strict=False):
                line.set_color(colour)
            axes.set_xscale("log")
            axes.set_xlabel(f"time [{self.time_unit}]")
            axes.set_ylabel(f"running estimate [1/{self.time_unit}]")
            title(axes, "Convergence of the eight largest" if shown.shape[1] == 8 else "Settling")
        return figure


def lyapunov_spectrum(
    model: Layer,
    u: Any,
    state: State | Tensor | None = None,
    *,
    method: Literal["auto", "qr", "closed"] = "auto",
    count: int | None = None,
    burn_in: int | None = None,
    every: int = 1,
    dt: float | None = None,
    time_unit: str | None = None,
    seed: int | np.random.Generator = 0,
) -> LyapunovSpectrum:
    """λ_i = lim 1/(T dt) Σ_t log |R_ii,t|, with Q_t R_t = J_t Q_{t−1} and J_t = ∂x_t/∂x_{t−1}.

    "qr" carries an orthonormal frame along the run with all columns of the Jacobians. "closed"
    needs no frame: in layers whose states do not act on each other (LTI, Mamba, and other linear
    recurrences with diagonal decay), λ is the mean of log |ā_t| of each state, and the exponents of
    a chain of layers are those of all its layers, since its Jacobian is block triangular. That
    costs no more than the run and gives the same numbers. With all exponents asked for, the frame
    starts at the unit vectors, the last state first, so that the QR method has no transient in
    such models; otherwise it starts at random.

    Exponents hold for the given input: estimate them on real data, and on long runs. They are
    about states, not about how outputs follow changes of the input.

    Args:
        model: a layer or model in the layer contract.
        u: inputs, (L, d_input).
        state: state before the first sample, batch 1 or (n,); None for rest.
        method: "auto" takes the closed form where there is one.
        count: number of exponents from the largest; None for all.
        burn_in: samples at the start that do not count; None for a tenth.
        every: samples between two QR decompositions.
        dt: sampling time; None counts in samples.
        time_unit: unit of ``dt``; None is "s", or "sample" without ``dt``.
        seed: seed of a random frame, or a NumPy generator.

    Returns:
        The exponents, descending; a complex mode counts twice.

    Raises:
        ValueError: sizes that do not fit, or a closed form of a model that has none.

    Sources: Benettin et al. (1980) for QR; Halloran et al., Mamba state-space models are
    Lyapunov-stable learners (2406.00209) for the closed form.
    """
    flow = Flow(model)
    inputs = flow.sequence(u, least=2)
    length = len(inputs)
    skip = length // 10 if burn_in is None else burn_in
    k = flow.n if count is None else count
    if method not in ("auto", "qr", "closed"):
        raise ValueError(f'method is "auto", "qr" or "closed"; given {method!r}')
    if not 0 <= skip < length or every < 1 or not 0 <= k <= flow.n:
        raise ValueError(
            f"burn_in must be at least 0 and below the {length} samples, every at least 1 and "
            f"count at most the {flow.n} states; given burn_in = {skip}, every = {every}, "
            f"count = {k}"
        )
    step = 1.0 if dt is None else float(dt)
    unit = time_unit or ("sample" if dt is None else "s")
    start = flow.rest() if state is None else flow.flatten(state)
    own = None if method == "qr" else own_exponents(flow, inputs, start, skip)
    if isinstance(own, np.ndarray):
        found = np.sort(own)[::-1][:k] / step
        none = np.zeros((0, k))
        return LyapunovSpectrum(found, none, np.zeros(0), length - skip, step, unit, "closed")
    if method == "closed":
        raise ValueError(f"there is no closed form: {own}")
    frame = torch.eye(flow.n, dtype=torch.float64)
    if k < flow.n:
        rng = np.random.default_rng(seed)
        frame = torch.linalg.qr(torch.from_numpy(rng.standard_normal((flow.n, k))))[0]
    running, samples = _carried(flow, inputs, start, frame.to(flow.device), skip, every)
    order = np.argsort(-running[-1], kind="stable")
    keep = np.unique(np.geomspace(1, len(running), min(KEPT, len(running))).astype(int) - 1)
    return LyapunovSpectrum(
        running[-1, order] / step,
        running[keep][:, order] / step,
        samples[keep],
        length - skip,
        step,
        unit,
        "qr",
    )


def _carried(
    flow: Flow, inputs: Tensor, x: Tensor, frame: Tensor, skip: int, every: int
) -> tuple[np.ndarray, np.ndarray]:
    """Running means of log |R_ii| (K, k) and the samples they are over (K,)."""
    n, length = flow.n, len(inputs)
    total = torch.zeros(frame.shape[1], dtype=torch.float64)
    chunk = max(1, 2**21 // max(1, n * n))
    running, samples = [], []
    begin = 0
    for us in inputs.split(chunk):
        states = flow.trajectory(x, us)[0]
        if not states.isfinite().all():
            raise ValueError(f"the run leaves the finite numbers within {begin + len(us)} samples")
        x = states[-1:]
        # The last state comes first: what is behind in a chain has an invariant subspace, which
        # the reflections of a QR decomposition then keep to the last bit.
        for index, jacobian in enumerate(flow.jacobians(states[:-1], us).A.flip(1, 2)):
            t = begin + index + 1
            frame = jacobian @ frame
            if t % every and t not in (skip, length):
                continue
            size = float(torch.linalg.matrix_norm(frame)) if frame.numel() else 0.0
            frame, R = torch.linalg.qr(frame)
            stretch = R.diagonal().abs().cpu()
            floor = FORGOTTEN * size
            grown = torch.where(stretch > floor, stretch.log(), -torch.inf)
            if t > skip:
                total = total + grown
                running.append(total / (t - skip))
                samples.append(t - skip)
        begin += len(us)
    return torch.stack(running).numpy(), np.array(samples, np.float64)
