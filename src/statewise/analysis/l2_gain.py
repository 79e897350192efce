"""How much can a model amplify a change of its input, over all inputs?"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._chain import Chain, Stage, chain_of
from statewise.analysis._drawing import COLOURS, MUTED, legend, new_figure, title
from statewise.analysis._flow import Flow
from statewise.analysis._joint_gain import Link, joint_gain
from statewise.analysis._linear import dense, linear_system
from statewise.analysis.static_maps import Lipschitz, lipschitz, own_bound
from statewise.lti import StateSpace, hinf_norm, is_stable
from statewise.nn.contract import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_STATES = 160
"""Real states up to which blocks are bounded together."""


@dataclasses.dataclass(frozen=True, eq=False)
class BlockGain:
    """Bounds of one block y = F u + σ(G norm(u)).

    Attributes:
        name: where the block stands.
        linear: upper bound of ‖G‖_∞.
        static: Lipschitz bound of σ.
        norm: Lipschitz bound of the norm, 1 without one.
        skip: ‖F‖.
        bound: ‖F‖ + static · linear · norm, with the norm behind the sum as a factor of both.
        reason: why the bound is infinite, or what it rests on.
    """

    name: str
    linear: float
    static: float
    norm: float
    skip: float
    bound: float
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Gain:
    """Result of :func:`gain`.

    Attributes:
        bound: γ of the whole model; infinite where no bound is known.
        product: the product of the bounds of blocks and of the maps around them.
        blocks: the blocks.
        reasons: sentences about what makes a bound infinite, or what it rests on.
    """

    bound: float
    product: float
    blocks: tuple[BlockGain, ...]
    reasons: tuple[str, ...]

    @property
    def certified(self) -> bool:
        """Whether there is a finite bound."""
        return math.isfinite(self.bound)

    def plot(self) -> Figure:
        """The bounds of the parts of every block, and those of the model."""
        figure, grid = new_figure(1, 1, width=7.0, height=3.4)
        axes = grid[0, 0]
        place = np.arange(len(self.blocks))
        kinds = ("linear", "static", "norm", "skip", "bound")
        labels = ("linear system", "static map", "norm", "skip", "whole block")
        values = [[getattr(b, kind) for b in self.blocks] for kind in kinds]
        for index, (row, label) in enumerate(zip(values, labels, strict=True)):
            shown = [v if math.isfinite(v) and v > 0 else math.nan for v in row]
            # Blocks without a norm, or a skip, have nothing to show there.
            if all(math.isnan(v) for v in shown) or (label == "norm" and set(row) == {1.0}):
                continue
            axes.bar(place + 0.16 * (index - 2), shown, 0.15, color=COLOURS[index], label=label)
        for value, dash, word in ((self.bound, "-", "model"), (self.product, "--", "product")):
            if math.isfinite(value) and value > 0:
                axes.axhline(value, color=MUTED, lw=1.0, ls=dash, label=f"{word}: {value:.3g}")
        axes.set_yscale("log")
        axes.margins(y=0.15)
        axes.set_xticks(place, [b.name for b in self.blocks])
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("bound of the gain [-]")
        title(axes, "Certified gain" if self.certified else "No finite gain is known")
        legend(axes, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure


def gain(model: Layer, *, joint: bool = True, steps: int = 150) -> Gain:
    """A number γ with ‖y − y'‖₂ ≤ γ ‖u − u'‖₂ for all inputs from one initial state.

    ‖·‖₂ sums squares over time and channels. Without offsets, where u' = 0 gives y' = 0, γ bounds
    the ratio of energies of output and input, the ℓ2 gain. A block y = F u + σ(G u) has
    ‖F‖ + L ‖G‖_∞ with the Lipschitz constant L of σ and the certified H-infinity norm of its
    linear system; a stack has the product of those of its blocks.

    With ``joint`` successive blocks without a norm are bounded together: σ(η) = m η + w with
    |δw| ≤ r |δη| by the slopes m ± r of each channel (for a map that mixes channels m = 0, r = L,
    for the vectors) makes the stack one linear system M from (u, w) to (y, r η), and γ holds if
    scales D > 0 of the channels of w make ‖diag(1, D) M diag(1/γ, 1/D)‖_∞ ≤ 1. The scales are found
    on a grid of frequencies, and the inequality is certified by :func:`~statewise.lti.hinf_norm`.

    A layer may have a method ``gain_bound()`` with such a γ of its own, which is taken as it is; a
    layer that is not linear has an infinite bound without it.

    Args:
        model: a layer or model in the layer contract.
        joint: bound blocks together where that is possible (up to 160 real states).
        steps: steps of the search for scales.

    Returns:
        The bounds, infinite with the reason where none is known.

    Raises:
        ValueError: a model that is no chain of blocks.

    Source: Doyle, Analysis of feedback systems with structured uncertainties (1982), for the
    scales; Bonassi et al. (2312.06211) for the chain.
    """
    with torch.no_grad():
        chain = chain_of(Flow(model).model)
        own = own_bound(model)
        links = [_link(stage) for stage in chain.stages]
        parts = tuple(_block(stage, link) for stage, link in zip(chain.stages, links, strict=True))
        behind = lipschitz(chain.norm)
        reasons = [f"{part.name}: {part.reason}" for part in parts if part.reason]
        reasons += [behind.reason] if behind.reason else []
        around = 0.0 if chain.direct is None else _norm(chain.direct)
        product = math.prod(part.bound for part in parts) * behind.value
        product = around + _norm(chain.entry) * product * _norm(chain.exit)
    bound = product
    if joint:
        bound = min(bound, _together(chain, links, parts, behind, steps))
    if own is not None:
        bound = min(bound, own)
        if math.isfinite(own) and not math.isfinite(product):
            reasons = ["by its own account"]
    return Gain(bound, product, parts, tuple(reasons))


def _link(stage: Stage) -> Link | None:
    """What a block needs for the joint bound, or None where it cannot take part."""
    system = linear_system(stage.layer)
    if system is None or stage.norm is not None or not bool(is_stable(system).all()):
        return None
    static = lipschitz(stage.static)
    if not math.isfinite(static.value):
        return None
    channels = stage.layer.d_output
    skip = None if stage.skip is None else stage.skip.cpu()
    system = system.to(device="cpu")
    if static.slopes is None:
        mean = torch.zeros(channels, dtype=torch.float64)
        return Link(system, mean, mean + static.value, skip, shared=True)
    low, high = (end.cpu().expand(channels) for end in static.slopes)
    return Link(system, (low + high) / 2, (high - low) / 2, skip, shared=False)


def _block(stage: Stage, link: Link | None) -> BlockGain:
    size, why = _layer_gain(stage.layer, None if link is None else link.system)
    static, norm = lipschitz(stage.static), lipschitz(stage.norm)
    skip = 0.0 if stage.skip is None else _norm(stage.skip)
    inner = size * static.value
    bound = skip + inner * norm.value if stage.prenorm else norm.value * (skip + inner)
    reasons = [text for text in (why, static.reason, norm.reason) if text]
    return BlockGain(stage.name, size, static.value, norm.value, skip, bound, "; ".join(reasons))


def _layer_gain(layer: Layer, system: StateSpace | None) -> tuple[float, str]:
    """Upper bound of the gain of a layer, and why it is infinite."""
    name = type(layer).__name__
    own = own_bound(layer)
    given = math.inf if own is None else own
    system = linear_system(layer) if system is None else system
    if system is not None:
        if not bool(is_stable(system).all()):
            return given, "" if math.isfinite(given) else f"{name} is not stable"
        return min(given, float(hinf_norm(system).upper.max())), ""
    if math.isfinite(given):
        return given, ""
    static: Lipschitz = lipschitz(layer)
    if math.isfinite(static.value):
        return static.value, static.reason
    return math.inf, (
        f"{name} is no linear layer and gives no gain_bound(), so that no bound of its gain is "
        f"known"
    )


def _together(
    chain: Chain,
    links: list[Link | None],
    parts: tuple[BlockGain, ...],
    behind: Lipschitz,
    steps: int,
) -> float:
    """The product over stretches of blocks, each bounded as one."""
    entry, total = chain.entry.cpu(), 1.0
    alone = chain.direct is None
    whole = all(link is not None for link in links) and chain.norm is None
    index = 0
    while index < len(links):
        stop = index
        states = 0
        found: list[Link] = []
        while stop < len(links):
            link = links[stop]
            if link is None:
                break
            states += link.system.n_states * max(1, link.system.batch_shape.numel())
            if states > MOST_STATES:
                break
            found.append(dataclasses.replace(link, system=dense(link.system)))
            stop += 1
        if not found:
            total *= _norm(entry) * parts[index].bound
            entry = torch.eye(_width(chain, index), dtype=torch.float64)
            index += 1
            continue
        last = stop == len(links) and chain.norm is None
        width = _width(chain, stop - 1)
        leave = chain.exit.cpu() if last else torch.eye(width, dtype=torch.float64)
        direct = None
        if last and whole and index == 0 and chain.direct is not None:
            direct, alone = chain.direct.cpu(), True
        plain = math.prod(part.bound for part in parts[index:stop]) * _norm(entry) * _norm(leave)
        plain += 0.0 if direct is None else _norm(direct)
        total *= min(plain, joint_gain(entry, found, leave, direct, steps))
        entry = torch.eye(width, dtype=torch.float64)
        index = stop
        if last:
            return total if alone else total + _norm(_given(chain.direct))
    total *= behind.value * _norm(chain.exit) * _norm(entry)
    return total if alone else total + _norm(_given(chain.direct))


def _width(chain: Chain, index: int) -> int:
    """Channels behind a block."""
    return chain.stages[index].layer.d_output


def _given(matrix: Tensor | None) -> Tensor:
    assert matrix is not None
    return matrix


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2)) * (1 + 1e-12) if matrix.numel() else 0.0
