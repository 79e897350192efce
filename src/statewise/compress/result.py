"""What a reduction did to a model: values, orders, bounds, errors and fit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise.compress.methods import ReductionMethod

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class BlockReduction:
    """One linear layer before and after; for a bank, of its channel with the largest number.

    Orders count real states: two for a conjugate pair, one for a real pole. States are what the
    layer stores and computes: one for either.

    Attributes:
        name: name of the layer in the model, as in ``model.get_submodule``.
        values: Hankel singular values before, (n,) descending; (H, n) for a bank.
        order_before: real states, per channel for a bank.
        order_after: the same of the reduced layer.
        states_before: stored states, per channel for a bank.
        states_after: the same of the reduced layer.
        gain: ‖G‖_∞ before; NaN when it was not to be measured, as ``rounding`` and ``error``.
        bound: a-priori bound of ‖G − G_r‖_∞; None for a method without one.
        rounding: ‖G_r − G_w‖_∞ of the reduced system and the layer as it was written: its weights
            are rounded to their type, and a matrix without independent eigenvectors is perturbed.
        error: ‖G − G_w‖_∞, measured; at most ``bound + rounding``.
    """

    name: str
    values: np.ndarray
    order_before: int
    order_after: int
    states_before: int
    states_after: int
    gain: float
    bound: float | None
    rounding: float
    error: float


@dataclasses.dataclass(frozen=True, eq=False)
class ModelReduction:
    """What :func:`statewise.compress.reduce` gives back.

    Attributes:
        model: the reduced model, of the class of the one that was given.
        method: how its linear layers were reduced.
        blocks: one entry for each linear layer.
        fit_before: 100 (1 − NRMSE) % of free runs on the data before; None without data.
        fit_after: the same of the reduced model.
        parameters_before: trained numbers of the whole model before.
        parameters_after: the same of the reduced model.
        untouched: layers of blocks that cannot be reduced, with their kind, such as
            "blocks.1.layer (Mamba)", and what keeps a linear one, such as ", not stable".
    """

    model: Any
    method: ReductionMethod
    blocks: tuple[BlockReduction, ...]
    fit_before: float | None
    fit_after: float | None
    parameters_before: int
    parameters_after: int
    untouched: tuple[str, ...] = ()

    @property
    def removed(self) -> float:
        """Fraction of the stored states that are gone, over all ``blocks``."""
        before = sum(block.states_before for block in self.blocks)
        return 1 - sum(block.states_after for block in self.blocks) / before

    def __str__(self) -> str:
        """A table with a line for each layer."""
        method = type(self.method).__name__
        lines = [f"{method}: {100 * self.removed:.0f} % of the states removed"]
        if self.fit_before is not None and self.fit_after is not None:
            lines[0] += f", FIT {self.fit_before:.2f} % before and {self.fit_after:.2f} % after"
        width = max(len("layer"), *(len(block.name) for block in self.blocks))
        head = f"{'layer':{width}}  {'order':>9}  {'states':>9}  {'gain':>9}  {'error':>9}"
        lines.append(f"{head}  {'bound':>9}")
        for block in self.blocks:
            bound = "none" if block.bound is None else f"{block.bound:.3g}"
            order = f"{block.order_before} > {block.order_after}"
            states = f"{block.states_before} > {block.states_after}"
            lines.append(
                f"{block.name:{width}}  {order:>9}  {states:>9}  {block.gain:9.3g}  "
                f"{block.error:9.3g}  {bound:>9}"
            )
        if self.untouched:
            lines.append(f"as they were: {', '.join(self.untouched)}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Hankel singular values of every layer with the order that is kept, and errors."""
        from statewise.analysis._drawing import COLOURS, INK, MUTED, legend, new_figure, title

        figure, grid = new_figure(1, 2, width=9.0, height=3.7)
        left, right = grid[0]
        for index, block in enumerate(self.blocks):
            values = block.values if block.values.ndim == 1 else block.values.max(0)
            floor = 1e-12 * max(values.max(initial=0), 1e-300)
            count = np.arange(1, len(values) + 1)
            colour = COLOURS[index % len(COLOURS)]
            shown = np.maximum(values, floor)
            left.semilogy(count, shown, ".-", lw=1.0, color=colour, label=block.name)
            left.axvline(block.order_after + 0.5, color=colour, linestyle=":", linewidth=1)
        left.locator_params(axis="x", integer=True)
        left.set_xlabel("real state; dotted: kept up to here")
        left.set_ylabel("Hankel singular value [-]")
        title(left, "How much each state matters")
        legend(left, loc="lower left")
        place = np.arange(len(self.blocks))
        bounds = [np.nan if block.bound is None else block.bound for block in self.blocks]
        errors = [block.error if block.error > 0 else np.nan for block in self.blocks]
        gains = [block.gain for block in self.blocks]
        right.plot(place, gains, "s", color=MUTED, ms=6, label="gain of the system")
        right.plot(place, bounds, "_", color=INK, ms=22, mew=1.6, label="bound of the error")
        right.plot(place, errors, "o", color=COLOURS[1], ms=6, label="error")
        right.set_yscale("log")
        right.set_xlim(-0.6, len(self.blocks) - 0.4)
        right.margins(y=0.15)
        right.set_xticks(place, [block.name for block in self.blocks], rotation=20, ha="right")
        right.set_ylabel("H-infinity norm [-]")
        title(right, "Errors of the reduced systems")
        legend(right, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure
