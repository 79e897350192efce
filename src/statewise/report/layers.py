"""Summaries of a deep Wiener model's blocks: poles, frequency responses, static maps."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from statewise.analysis import memory
from statewise.lti import from_diagonal, hankel_singular_values, is_stable
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import ELU, GELU, GLU, MLP, Identity, Polynomial, StaticMap, Tanh, WienerBlock
from statewise.nn.modes import layer_modes
from statewise.report.content import LayerSummary

Array = npt.NDArray[np.float64]

#: Half width of the drawn range of a static map when no data say which range is visited.
DEFAULT_RANGE = 3.0
GRID_POINTS = 121
FREQUENCIES = (100, 160)
#: States up to which a model is linearised as one system.
MOST_STATES = 200
#: Maps that act on every channel alike, so that one curve shows them all.
_SHARED = (ELU, Tanh, GELU, Identity)


def frequency_grid(model: DeepWiener) -> Array:
    """Angular frequencies (F,) in radians per sample: log-spaced, then even from π/8 up to π.

    The lowest is a fifth of the slowest decay rate of the model, between 10⁻⁵ and π/100.
    """
    with torch.no_grad():
        poles = np.concatenate([_poles(block) for block in _blocks(model)])
    with np.errstate(divide="ignore"):
        slowest = float(np.min(-np.log(np.abs(poles))))
    lowest = min(max(0.2 * slowest, 1e-5), np.pi / 100)
    slow, fast = FREQUENCIES
    edge = np.pi / 8
    return np.concatenate(
        [np.geomspace(lowest, edge, slow, endpoint=False), np.linspace(edge, np.pi, fast)]
    )


def layer_summaries(
    model: DeepWiener,
    dt: float | None = None,
    time_unit: str = "",
    *,
    u: npt.ArrayLike | None = None,
) -> list[LayerSummary]:
    """Describe every block of a model.

    Args:
        model: the model; it is not changed.
        dt: sampling interval in ``time_unit``; None counts in samples.
        time_unit: unit of time.
        u: normalised inputs (L, n_u) that show which range of the static maps is used, NaN where
            missing; without them the range is ±3.

    Returns:
        One summary per block.
    """
    model = copy.deepcopy(model).double().eval()
    omega = frequency_grid(model)
    with torch.no_grad():
        ranges = [None] * len(model.blocks) if u is None else _visited(model, u)
        return [
            _summary(index, block, visited, omega, dt, time_unit, model.config)
            for index, (block, visited) in enumerate(zip(_blocks(model), ranges, strict=True))
        ]


def pulse_memory(model: DeepWiener, dt: float) -> float | None:
    """Time that holds 99 % of the energy of the response to a pulse, at the mean input.

    Args:
        model: the model.
        dt: sampling interval.

    Returns:
        The time, infinite for a response that stays; None for models with too many states to
        linearise as one.
    """
    states = sum(block.lti.n_states for block in _blocks(model))
    if states > MOST_STATES:
        return None
    length = memory(copy.deepcopy(model).double().eval()).model.length
    return dt * length


def _hankel(block: WienerBlock) -> Array:
    """Hankel singular values; the largest of the channels of a bank, none of an unstable system."""
    system = from_diagonal(layer_modes(block.lti))
    if not bool(is_stable(system).all()):
        return np.empty(0)
    values = hankel_singular_values(system).cpu().numpy()
    return values if values.ndim == 1 else values.max(0)


def _summary(
    index: int,
    block: WienerBlock,
    visited: Array | None,
    omega: Array,
    dt: float | None,
    time_unit: str,
    config: DeepWienerConfig,
) -> LayerSummary:
    response = block.lti.frequency_response(torch.from_numpy(omega)).numpy()
    grid, values, note = _static_curves(block.static, config.static, block.d_output, visited)
    norm = "" if config.norm is None else type(config.norm).__name__
    skip = "identity" if block.adds_input else "none" if block.F is None else "linear"
    return LayerSummary(
        name=f"block {index + 1}",
        n_inputs=block.lti.d_input,
        n_outputs=block.lti.d_output,
        eigenvalues=_poles(block),
        paired=bool(block.lti.poles.is_complex),
        dt=1.0 if dt is None else float(dt),
        time_unit="samples" if dt is None else time_unit or "samples",
        omega=omega,
        singular_values=np.linalg.svd(response, compute_uv=False),
        static=type(config.static).__name__,
        static_grid=grid,
        static_values=values,
        static_note=note,
        visited=visited,
        skip=skip,
        norm=norm,
        hankel=_hankel(block),
    )


def _blocks(model: DeepWiener) -> list[WienerBlock]:
    return [block for block in model.blocks if isinstance(block, WienerBlock)]


def _poles(block: WienerBlock) -> npt.NDArray[np.complex128]:
    return block.lti.eigenvalues().detach().cpu().numpy().astype(np.complex128)


def _visited(model: DeepWiener, u: npt.ArrayLike) -> list[Array]:
    """Lowest and highest input of every static map while the model runs on ``u``."""
    ranges: list[Array] = []

    def note(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        eta = arguments[0].reshape(-1, arguments[0].shape[-1])
        ranges.append(torch.stack([eta.amin(0), eta.amax(0)], dim=-1).cpu().numpy())

    hooks = [block.static.register_forward_pre_hook(note) for block in _blocks(model)]
    try:
        signal = torch.as_tensor(np.nan_to_num(np.asarray(u, np.float64)))[None]
        model(signal.to(next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def _static_curves(
    module: nn.Module, kind: StaticMap, channels: int, visited: Array | None
) -> tuple[Array | None, Array | None, str]:
    """Grid, values per curve and a sentence; no curves for a map that mixes channels."""
    low, high = -DEFAULT_RANGE, DEFAULT_RANGE
    if visited is not None:
        low, high = float(visited[:, 0].min()), float(visited[:, 1].max())
        margin = 0.05 * max(high - low, 1e-3)
        low, high = low - margin, high + margin
    grid = np.linspace(low, high, GRID_POINTS)
    if channels > 1 and not isinstance(kind, (*_SHARED, Polynomial)):
        return None, None, _mixing_note(kind, channels)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    line = torch.from_numpy(grid).to(device)[:, None].expand(-1, channels)
    values = module(line).cpu().numpy()
    if isinstance(kind, _SHARED):
        return grid, values[:, :1].copy(), _shared_note(kind, channels)
    return grid, values, "One curve per channel." if channels > 1 else ""


def _shared_note(kind: StaticMap, channels: int) -> str:
    name = type(kind).__name__
    if isinstance(kind, Identity):
        return "The map is the identity, so the block is linear."
    return f"All {channels} channels share the {name} curve." if channels > 1 else ""


def _mixing_note(kind: StaticMap, channels: int) -> str:
    if isinstance(kind, GLU):
        reason = f"a gate that mixes all {channels} channels"
    elif isinstance(kind, MLP):
        reason = f"a network with {kind.hidden} hidden units that mixes all {channels} channels"
    else:
        reason = f"a map that may mix its {channels} channels"
    return (
        f"{type(kind).__name__} is {reason}, so no curve of one variable shows it; "
        "the steady-state curves of the whole model show what the maps do together."
    )
