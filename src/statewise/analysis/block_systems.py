"""What does each block of a model do on its own: poles, zeros, responses, time constants?"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from statewise.analysis._drawing import COLOURS, MUTED, legend, new_figure, title, unit_disc
from statewise.analysis._flow import Flow
from statewise.analysis._linear import stage_systems
from statewise.lti import (
    StateSpace,
    frequency_response,
    hankel_singular_values,
    is_stable,
    transmission_zeros,
)
from statewise.nn.contract import Layer
from statewise.nn.lti import LTI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Complex = npt.NDArray[np.complex128]
FREQUENCIES = 240
WEAK = 1e-8
"""Hankel singular values below it, relative to the largest, count as none."""
CANCELS = 0.01
NEAR_NYQUIST = 0.9
MOST_STATES = 400


@dataclasses.dataclass(frozen=True, eq=False)
class BlockSystem:
    """The linear system of one block; a bank has one for each channel, in a batch (H,).

    Attributes:
        name: where the block stands.
        system: the system, without norm, static map and skip of the block.
        linear: whether the layer is linear; else ``system`` is its linearisation.
        poles: (n,) or (H, n), complex, discrete.
        zeros: transmission zeros, one array for each system.
        hankel: Hankel singular values, (n,) or (H, n), descending; empty where the system is not
            stable or too large.
        omega: frequencies in radians per unit of time, (F,).
        response: G(e^{iω dt}), (F, p, m) or (H, F, 1, 1), complex.
        time_unit: unit of time.
        warnings: sentences about what the data cannot have told.
    """

    name: str
    system: StateSpace
    linear: bool
    poles: np.ndarray
    zeros: tuple[np.ndarray, ...]
    hankel: np.ndarray
    omega: np.ndarray
    response: np.ndarray
    time_unit: str
    warnings: tuple[str, ...]

    @property
    def dt(self) -> float:
        """Sampling time."""
        return self.system.dt or 1.0

    @property
    def time_constants(self) -> np.ndarray:
        """τ = −dt/log|λ| of the poles, in units of time; 0 for a pole at 0."""
        with np.errstate(divide="ignore"):
            return self.dt / -np.log(np.abs(self.poles))

    @property
    def natural_frequencies(self) -> np.ndarray:
        """ω_n = |log λ|/dt of the poles, in radians per unit of time."""
        return np.abs(self._logarithms()) / self.dt

    @property
    def damping(self) -> np.ndarray:
        """ζ = −Re(log λ)/|log λ| of the poles: 1 without oscillation, 0 without decay."""
        value = self._logarithms()
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(value), -value.real / np.abs(value), 1.0)

    def _logarithms(self) -> Complex:
        with np.errstate(divide="ignore"):
            return np.log(self.poles)

    def plot(self) -> Figure:
        """Poles and zeros, gain, and Hankel singular values."""
        return Blocks((self,)).plot()


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
    """Result of :func:`blocks`.

    Attributes:
        blocks: the blocks, from input to output.
    """

    blocks: tuple[BlockSystem, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all blocks, with their names."""
        return tuple(f"{b.name}: {text}" for b in self.blocks for text in b.warnings)

    def plot(self) -> Figure:
        """A row for each block: poles and zeros, gain, and Hankel singular values.

        Raises:
            ValueError: no block has a state.
        """
        rows = len(self.blocks)
        if not rows:
            raise ValueError("no block of the model has a state, so that there is nothing to draw")
        figure, grid = new_figure(rows, 3, width=10.5, height=3.2, width_ratios=(1, 1.5, 1.1))
        for block, (disc, bode, values) in zip(self.blocks, grid, strict=True):
            unit_disc(disc, block.poles.ravel(), label="pole")
            zeros: Complex = np.concatenate([z.ravel() for z in block.zeros])
            inside: Complex = zeros[np.abs(zeros) <= 1.6]
            disc.plot(
                inside.real, inside.imag, "o", mfc="none", mec=COLOURS[1], ms=5.5, label="zero"
            )
            reach = max(1.08, 1.05 * float(np.abs(inside).max(initial=0.0)), disc.get_xlim()[1])
            disc.set_xlim(-reach, reach)
            disc.set_ylim(-reach, reach)
            title(disc, f"{block.name}{'' if block.linear else ' (linearised)'}: poles")
            if len(zeros):
                legend(disc, loc="upper right", handletextpad=0.2, borderpad=0.1)
            _gain(bode, block)
            _hankel(values, block)
        return figure


def blocks(
    model: Layer,
    *,
    u: Any = None,
    dt: float | None = None,
    time_unit: str | None = None,
    omega: Any = None,
) -> Blocks:
    """Poles, zeros, frequency response and Hankel values of the linear system of every block.

    Time constants τ = −dt/log|λ|, natural frequencies and damping follow from the poles. Warnings
    name what a record cannot tell: poles that alias (|Im log λ| at or above π in the parameters of
    the layer: the same samples come from a slower mode), poles and zeros that nearly cancel
    (|p − z| ≤ 0.01 (1 − |p|): together they change the gain by no more than a hundredth), and
    states that the input does not reach or the output does not show (Hankel value below 1e-8 of
    the largest).

    Args:
        model: a layer or model in the layer contract.
        u: constant input of the model, (d_input,); layers that are not linear are linearised at
            the equilibrium under it, or without one where a run of 200 samples ends. None for 0.
        dt: sampling time; None counts in samples.
        time_unit: unit of ``dt``; None is "s", or "sample" without ``dt``.
        omega: frequencies of the responses in radians per unit of time, (F,); None for 240 from
            π/1000 to the Nyquist frequency π, divided by ``dt``.

    Returns:
        One entry for each block that has a state.

    Raises:
        ValueError: a model that is no chain of blocks.
    """
    step = 1.0 if dt is None else float(dt)
    unit = time_unit or ("sample" if dt is None else "s")
    grid = np.geomspace(1e-3, 1.0, FREQUENCIES) * np.pi / step
    if omega is not None:
        grid = np.asarray(omega, np.float64)
    flow = Flow(model)
    held = flow.sample(torch.zeros(flow.m) if u is None else u)
    found = [
        _describe(stage.name, stage.layer, system, linear, grid, unit)
        for stage, system, linear in stage_systems(flow, held, dt=step)
        if system.n_states
    ]
    return Blocks(tuple(found))


def _describe(
    name: str, layer: Layer, system: StateSpace, linear: bool, omega: np.ndarray, unit: str
) -> BlockSystem:
    with torch.no_grad():
        poles = torch.linalg.eigvals(system.A).cpu().numpy()
        response = frequency_response(system, torch.from_numpy(omega)).cpu().numpy()
        singles = [system] if not system.batch_shape else [system[k] for k in range(len(system.A))]
        zeros = tuple(transmission_zeros(single).cpu().numpy() for single in singles)
        hankel = np.zeros((*poles.shape[:-1], 0))
        if system.n_states <= MOST_STATES and bool(is_stable(system).all()):
            hankel = hankel_singular_values(system).cpu().numpy()
    warnings = [*_aliased(layer, poles), *_cancelling(poles, zeros), *_weak(hankel)]
    return BlockSystem(
        name, system, linear, poles, zeros, hankel, omega, response, unit, tuple(warnings)
    )


def _aliased(layer: Layer, poles: np.ndarray) -> list[str]:
    if isinstance(layer, LTI):
        held = layer.poles.held()
        if held is not None and held.rule == "zoh" and held.poles.is_complex():
            angle = held.poles.detach().imag.abs()
            count = int((angle >= math.pi).sum())
            if count:
                return [
                    f"{count} of {layer.poles.n} poles are outside the Nyquist strip, |Im log λ| "
                    f"up to {float(angle.max()) / math.pi:.2f} π: slower modes give the same "
                    f"samples, so that their frequencies are no property of the data"
                ]
    with np.errstate(divide="ignore"):
        turn = np.abs(np.angle(poles[np.abs(poles) > 1e-6]))
    count = int((turn > NEAR_NYQUIST * math.pi).sum())
    if not count:
        return []
    return [
        f"{count} of {poles.size} poles are above {NEAR_NYQUIST} of the Nyquist frequency: faster "
        f"continuous modes would give the same samples"
    ]


def _cancelling(poles: np.ndarray, zeros: tuple[np.ndarray, ...]) -> list[str]:
    count = 0
    for p, z in zip(poles.reshape(-1, poles.shape[-1]), zeros, strict=True):
        if len(z):
            gap = np.abs(p[:, None] - z[None]).min(1)
            count += int((gap <= CANCELS * np.abs(1 - np.abs(p))).sum())
    if not count:
        return []
    return [
        f"{count} of {poles.size} poles nearly cancel with a zero: the input-output behaviour "
        f"hardly shows them, and data hardly determine them"
    ]


def _weak(hankel: np.ndarray) -> list[str]:
    if not hankel.size:
        return []
    count = int((hankel < WEAK * hankel.max(-1, keepdims=True)).sum())
    if not count:
        return []
    return [
        f"{count} of {hankel.size} states are out of reach of the input or of sight of the output "
        f"(Hankel singular value below {WEAK:g} of the largest)"
    ]


def _gain(axes: Any, block: BlockSystem) -> None:
    gains = np.linalg.svd(block.response, compute_uv=False)[..., :1]
    lines = gains.reshape(-1, len(block.omega)) if block.system.batch_shape else gains.T
    for line in lines[:24]:
        axes.plot(block.omega, line, color=COLOURS[0], lw=1.2, alpha=0.9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axvline(np.pi / block.dt, color=MUTED, lw=0.8, ls="--")
    axes.set_xlabel(f"frequency [rad/{block.time_unit}]; dashed: Nyquist")
    axes.set_ylabel("gain [-]")
    title(axes, "Gain of each channel" if block.system.batch_shape else "Largest gain")


def _hankel(axes: Any, block: BlockSystem) -> None:
    values = np.sort(block.hankel.ravel())[::-1]
    if values.size and values[0] > 0:
        shown = np.maximum(values, 1e-18 * values[0])
        axes.plot(np.arange(1, len(shown) + 1), shown, "o", ms=4, color=COLOURS[0], mew=0)
        axes.axhline(WEAK * values[0], color=MUTED, lw=0.8, ls="--")
        axes.set_yscale("log")
        axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("state; dashed: counts as none below")
    axes.set_ylabel("Hankel singular value [-]")
    title(axes, "Hankel values")
