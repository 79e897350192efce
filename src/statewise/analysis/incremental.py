"""Does a model forget its initial state, and how far do bounded input changes move it?"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._chain import Stage, chain_of
from statewise.analysis._drawing import COLOURS, MUTED, legend, new_figure, title
from statewise.analysis._flow import Flow
from statewise.analysis._linear import linear_system
from statewise.analysis.static_maps import lipschitz
from statewise.lti import discrete_lyapunov
from statewise.nn.contract import Layer
from statewise.nn.coupling import BankCoupling
from statewise.nn.lti import LTI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 256
MOST_POWERS = 4_000_000
ROUNDING = 1 + 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class BlockStability:
    """‖x_k − x'_k‖ ≤ c ρ^k ‖x_0 − x'_0‖ + gain · sup ‖u − u'‖ for one block.

    Attributes:
        name: where the block stands.
        c: factor of the initial difference; 1 for diagonal dynamics, infinite without a bound.
        rho: rate of forgetting ρ per sample; 1 without a bound.
        gain: from input differences to state differences, c ‖B‖/(1 − ρ).
        state_out: Lipschitz constant from the state before a sample to the output.
        input_out: Lipschitz constant from the input to the output of the same sample.
        reason: why there is no bound.
    """

    name: str
    c: float
    rho: float
    gain: float
    state_out: float
    input_out: float
    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class IncrementalStability:
    """Result of :func:`incremental_stability`: ‖x_k − x'_k‖ ≤ c ρ^k ‖x_0 − x'_0‖ + γ sup ‖u − u'‖.

    The norms are Euclidean, over the states of all blocks. k counts the samples seen.

    Attributes:
        c: factor of the initial difference; infinite without a bound.
        rho: rate of forgetting per sample.
        gain: γ, from input differences to state differences.
        output_gain: from sup ‖u − u'‖ to sup ‖y − y'‖ for equal initial states.
        blocks: the blocks on their own.
        reasons: why there is no bound.
        transition: M ≥ 0 of the comparison system e_k = M e_{k−1} + N ‖δu_k‖, (L, L), whose
            states are the differences of the blocks.
        into: N, (L,).
        start: largest e_l of a block's initial difference of norm 1, (L,).
    """

    c: float
    rho: float
    gain: float
    output_gain: float
    blocks: tuple[BlockStability, ...]
    reasons: tuple[str, ...]
    transition: np.ndarray
    into: np.ndarray
    start: np.ndarray

    @property
    def certified(self) -> bool:
        """Whether there is a bound."""
        return math.isfinite(self.c)

    def bound(self, length: int, *, state: float = 0.0, inputs: float = 0.0) -> np.ndarray:
        """Bounds of ‖x_k − x'_k‖ for k = 0..length by the comparison system, (length + 1,).

        Never above c ρ^k · state + γ · inputs.

        Args:
            length: samples.
            state: ‖x_0 − x'_0‖.
            inputs: sup ‖u_k − u'_k‖.

        Raises:
            ValueError: there is no bound.
        """
        if not self.certified:
            raise ValueError(f"there is no bound: {'; '.join(self.reasons)}")
        power = np.diag(self.start)
        pushed = np.zeros(len(self.into))
        found = []
        for _ in range(length + 1):
            norm = float(np.linalg.norm(power, 2)) if power.size else 0.0
            found.append(norm * state + float(np.linalg.norm(pushed)) * inputs)
            power = self.transition @ power
            pushed = self.transition @ pushed + self.into
        return np.array(found)

    def plot(self) -> Figure:
        """How an initial difference of 1 is forgotten at most, for the model and its blocks."""
        figure, grid = new_figure(1, 1, width=6.4, height=3.6)
        axes = grid[0, 0]
        if self.certified:
            slow = -1 / math.log(self.rho) if 0 < self.rho < 1 else 1.0
            length = max(10, min(5000, math.ceil(12 * slow)))
            k = np.arange(length + 1)
            axes.plot(k, self.bound(length, state=1.0), color=COLOURS[0], lw=1.8, label="model")
            axes.plot(
                k, self.c * self.rho**k, color=MUTED, lw=1.0, ls="--", label="c ρ^k of the model"
            )
            for index, block in enumerate(self.blocks[:5]):
                line = block.c * block.rho ** k.astype(float)
                axes.plot(k, line, color=COLOURS[1 + index], lw=1.0, label=block.name)
            axes.set_yscale("log")
            axes.set_ylim(bottom=max(1e-8, 0.2 * float(self.c * self.rho**length)))
        axes.set_xlabel("samples seen")
        axes.set_ylabel("bound of the state difference [-]")
        word = "What is left of an initial difference of 1"
        title(axes, word if self.certified else "No bound is known")
        legend(axes, loc="upper right")
        return figure


def incremental_stability(model: Layer, *, slack: float = 0.1) -> IncrementalStability:
    """Constants of incremental input-to-state stability (δISS) from the parameters of a model.

    A block x⁺ = A x + B u with ‖A‖ ≤ ρ < 1 in some norm forgets at the rate ρ; diagonal dynamics
    have c = 1 and ρ = max |λ| in the Euclidean norm, others a norm √(x* P x) from a Lyapunov
    equation. A series of blocks with Lipschitz maps obeys e_k ≤ M e_{k−1} + N ‖δu_k‖ for the norms
    e of the differences of the blocks, with a triangular M ≥ 0 whose diagonal has their rates; ρ of
    the series lies between the largest and 1, and c = sup_k ‖M^k‖/ρ^k.

    Args:
        model: a layer or model in the layer contract.
        slack: where ρ of several blocks, or of dynamics that are not diagonal, lies between the
            largest modulus of a pole (0) and 1 (1).

    Returns:
        The constants; infinite, with the reasons, where the parametrisation gives none (layers
        that are not linear, maps without a Lipschitz constant).

    Raises:
        ValueError: a slack outside (0, 1), or a model that is no chain of blocks.

    Source: Bonassi et al., Structured state-space models are deep Wiener models (2312.06211),
    proposition 2.
    """
    if not 0 < slack < 1:
        raise ValueError(f"slack must lie between 0 and 1; given {slack}")
    with torch.no_grad():
        chain = chain_of(Flow(model).model)
        parts = [_part(stage, slack) for stage in chain.stages]
        behind = lipschitz(chain.norm)
    blocks = tuple(part[0] for part in parts)
    reasons = [f"{block.name}: {block.reason}" for block in blocks if block.reason]
    if not math.isfinite(behind.value):
        reasons.append(behind.reason)
    count = len(blocks)
    M, N, start = np.zeros((count, count)), np.zeros(count), np.zeros(count)
    if reasons:
        empty = (np.full_like(M, np.inf), np.full(count, np.inf), start)
        inf = math.inf
        return IncrementalStability(inf, 1.0, inf, inf, blocks, tuple(reasons), *empty)
    # The signal behind a block is bounded by row · e + level · ‖δu‖.
    row, level = np.zeros(count), _norm(chain.entry)
    for index, (block, push, size) in enumerate(parts):
        start[index] = size
        M[index] = push * row
        M[index, index] += block.rho
        N[index] = push * level
        row = block.input_out * row
        row[index] += block.state_out
        level = block.input_out * level
    out = behind.value * _norm(chain.exit)
    steady = np.linalg.solve(np.eye(count) - M, N) if count else N
    direct = 0.0 if chain.direct is None else _norm(chain.direct)
    top = float(np.diag(M).max(initial=0.0))
    rate = top if count == 1 else top + slack * (1 - top)
    return IncrementalStability(
        _supremum(M, start, rate) * ROUNDING,
        rate,
        float(np.linalg.norm(steady)) * ROUNDING,
        float(out * (row @ steady + level) + direct) * ROUNDING,
        blocks,
        (),
        M,
        N,
        start,
    )


def _part(stage: Stage, slack: float) -> tuple[BlockStability, float, float]:
    """A block with ‖B‖ and the size of its norm for a state of Euclidean norm 1."""
    static, norm = lipschitz(stage.static), lipschitz(stage.norm)
    reasons = [one.reason for one in (static, norm) if not math.isfinite(one.value)]
    found = _dynamics(stage.layer, slack)
    if isinstance(found, str):
        reasons.append(found)
    if reasons or isinstance(found, str):
        inf = math.inf
        return BlockStability(stage.name, inf, 1.0, inf, inf, inf, "; ".join(reasons)), inf, inf
    rho, push, read, direct, size = found
    before, after = (norm.value, 1.0) if stage.prenorm else (1.0, norm.value)
    skip = 0.0 if stage.skip is None else _norm(stage.skip)
    push *= before
    block = BlockStability(
        stage.name,
        size,
        rho,
        push / (1 - rho),
        after * static.value * read,
        after * (static.value * direct * before + skip),
    )
    return block, push, size


def _dynamics(layer: Layer, slack: float) -> tuple[float, float, float, float, float] | str:
    """ρ, ‖B‖, ‖C‖, ‖D‖ in a norm that contracts, and its size for a Euclidean 1; or why not."""
    name = type(layer).__name__
    system = linear_system(layer)
    if system is None:
        return f"{name} is no linear layer, and its parameters give no rate of forgetting"
    if isinstance(layer, LTI) and layer.poles.points == 1:
        rho, push, read = _diagonal(layer)
        direct = float(torch.linalg.matrix_norm(system.D, 2).max())
        return rho, push * ROUNDING, read * ROUNDING, direct * ROUNDING, 1.0
    flow = Flow(layer)
    if not flow.n:
        return 0.0, 0.0, 0.0, _norm(system.D), 0.0
    x = flow.rest()
    A, B, C, D = (part[0].cpu() for part in flow.jacobians(x, x.new_zeros(1, flow.m)))
    top = float(torch.linalg.eigvals(A).abs().max())
    if top >= 1:
        return f"{name} is not stable: the largest modulus of a pole is {top:.6g}"
    if _norm(A) <= top * (1 + 1e-9):
        return min(_norm(A), 1.0), _norm(B), _norm(C), _norm(D), 1.0
    rho = top + slack * (1 - top)
    eye = torch.eye(flow.n, dtype=torch.float64)
    P = discrete_lyapunov(A.mT / rho, eye).X
    # P solves its equation to rounding; the rate is that of the norm that was found.
    L = torch.linalg.cholesky((P + P.mT) / 2)
    turned = torch.linalg.solve_triangular(L, (L.mT @ A).mT, upper=False).mT
    found = _norm(turned)
    if found >= 1:
        return f"{name} has poles too near the unit circle for a Lyapunov equation"
    read = _norm(torch.linalg.solve_triangular(L, C.mT, upper=False))
    smallest = float(torch.linalg.svdvals(L)[-1])
    scale = 1 / smallest
    return found, _norm(L.mT @ B) * scale, read / scale, _norm(D), _norm(L) * scale


def _diagonal(layer: LTI) -> tuple[float, float, float]:
    """The largest |λ|, the norm from input to state, and that from state to output."""
    a, gain, _ = (
        None if part is None else part.to(torch.complex128) for part in layer.poles.discretise()
    )
    assert a is not None
    assert gain is not None
    b, c = (matrix.to(a.dtype) for matrix in layer.coupling.matrices())
    b, c = gain[:, None] * b, layer.poles.output_scale * c * a
    if isinstance(layer.coupling, BankCoupling):
        # Channels share no state, so that the norms are those of the worst channel.
        width = layer.d_input
        b = b.sum(1).unflatten(0, (width, -1))[..., None]
        c = c.sum(0).unflatten(0, (width, -1))[:, None, :]
    push = torch.linalg.matrix_norm(torch.cat([b.real, b.imag], -2), 2).max()
    read = torch.linalg.matrix_norm(torch.cat([c.real, -c.imag], -1), 2).max()
    return float(a.abs().max()), float(push), float(read)


def _supremum(M: np.ndarray, start: np.ndarray, rate: float) -> float:
    """sup_k ‖M^k diag(start)‖/rate^k; once ‖M^K‖ ≤ rate^K, k < K is enough."""
    if not len(M):
        return 0.0
    if len(M) == 1:
        return float(start[0])
    scaled = M / rate
    powers = [np.eye(len(M))]
    for _ in range(BATCH):
        powers.append(scaled @ powers[-1])
    jump, batch = powers[-1], np.stack(powers[:-1])
    best = 0.0
    for _ in range(MOST_POWERS // BATCH):
        best = max(best, float(np.linalg.norm(batch * start, 2, axis=(1, 2)).max()))
        batch = batch @ jump
        if float(np.linalg.norm(batch[0], 2)) <= 1:
            return best
    return math.inf


def _norm(matrix: Tensor) -> float:
    if not matrix.numel():
        return 0.0
    return float(torch.linalg.matrix_norm(matrix, 2)) * ROUNDING
