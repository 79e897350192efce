"""Start a deep Wiener model as a linear model that was identified before."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti import StateSpace
from statewise.models.config import DeepWienerConfig
from statewise.nn.block import Block
from statewise.nn.coupling import BankCoupling
from statewise.nn.lti import LTI
from statewise.nn.placement import place_poles
from statewise.nn.static import LinearAndMap
from statewise.nn.static_specs import LinearPlus

GRID = 256
"""Frequencies on which responses are compared."""
WORST = 1e4
"""Largest condition of the equations of a bank."""


class Modes(NamedTuple):
    """x_{k+1} = λ ⊙ x_k + B u_k, y_k = Re(C x_k) + D u_k, in double precision.

    Attributes:
        poles: λ, one of each conjugate pair, (K,).
        B: (K, m).
        C: (p, K).
        D: (p, m), real.
    """

    poles: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    def response(self) -> Tensor:
        """The frequency response on a grid, (GRID, p, m)."""
        z = _circle()

        def half(point: Tensor) -> Tensor:
            return torch.einsum("pk,fk,km->fpm", self.C, 1 / (point - self.poles), self.B)

        return (half(z[:, None]) + half(z.conj()[:, None]).conj()) / 2 + self.D

    def amplification(self) -> float:
        """How much larger the single modes are than the response of all of them together."""
        damping = (1 - self.poles.abs()).abs().clamp_min(math.pi / GRID)
        weight = self.C.abs().amax(0) * self.B.abs().amax(1) / damping
        return float(weight.sum() / self.response().abs().max().clamp_min(1e-300))


def _circle() -> Tensor:
    """Points of the upper half circle, without its ends, where integrators have their poles."""
    angle = math.pi * (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    return torch.polar(torch.ones_like(angle), angle)


def config_for_linear_start(config: DeepWienerConfig) -> DeepWienerConfig:
    """The config whose static maps have a linear part, so that a model of it can be linear."""
    if config.norm is not None:
        raise ValueError(
            "a model that starts linear has no normalisation, which is not linear; given norm = "
            f"{config.norm!r}"
        )
    if isinstance(config.static, LinearPlus):
        return config
    return dataclasses.replace(config, static=LinearPlus(config.static))


def modes_of(system: StateSpace, eps: float, margin: float, seed: int = 0) -> Modes:
    """The modes of a system, moved where a layer could not hold them, with a warning for each.

    Args:
        system: real, discrete, one system.
        eps: rounding unit of the layer.
        margin: distance of the poles from the unit circle at least.
        seed: seed of the perturbation of a defective A.

    Raises:
        ValueError: a system of another kind.
    """
    if not system.is_discrete or system.is_complex or system.batch_shape:
        raise ValueError(
            f"a single real system in discrete time is needed; given {system!r} of type "
            f"{system.dtype}"
        )
    modes = _separated(system, eps, seed)
    return _inside(modes, eps, margin)


def _separated(system: StateSpace, eps: float, seed: int) -> Modes:
    """Modes of A, or of the nearest of some perturbations whose modes do not cancel each other."""
    A, B, C, D = (M.detach().double().cpu() for M in system.matrices)
    noise = np.random.default_rng(seed).standard_normal(tuple(A.shape))
    direction = torch.from_numpy(noise / max(float(np.linalg.norm(noise)), 1e-300))
    scale = torch.linalg.matrix_norm(A).clamp_min(1e-3) if system.n_states else A.new_zeros(())
    best, least, size = None, math.inf, 0.0
    for change in (0.0, *(10.0**power for power in range(-12, -3))):
        found = _eigen(A + change * scale * direction, B, C, D)
        cancelled = math.inf if found is None else found.amplification()
        if cancelled < least:
            best, least, size = found, cancelled, change
        if cancelled < 0.1 * eps**-0.5:
            break
    if best is None:
        raise ValueError(f"the modes of {system!r} cannot be told apart")
    if size:
        exact = StateSpace(A, B, C, D, 1.0)(_circle())
        error = (best.response() - exact).abs().max() / exact.abs().max().clamp_min(1e-300)
        warnings.warn(
            f"the linear model has repeated or nearly repeated poles, which a diagonal layer "
            f"cannot hold: A was perturbed by {size:.0e} of its size, and the frequency response "
            f"changed by {float(error):.2g} of its largest gain",
            stacklevel=4,
        )
    return best


def _eigen(A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Modes | None:
    poles, V = torch.linalg.eig(A)
    B, singular = torch.linalg.solve_ex(V, B.to(V.dtype))
    if singular:
        return None
    C = C.to(V.dtype) @ V
    kept = poles.imag >= 0
    poles, B, C = poles[kept], B[kept], C[:, kept]
    real = poles.imag == 0
    B = torch.where(real[:, None], B.real.to(B.dtype), B)
    C = torch.where(real, C.real.to(C.dtype), 2 * C)
    finite = B.isfinite().all() and C.isfinite().all()
    return Modes(poles, B, C, D) if finite else None


def _inside(modes: Modes, eps: float, margin: float) -> Modes:
    """The modes with poles in a ring that a layer can hold."""
    size, largest, floor = modes.poles.abs(), 1 - margin, eps**0.5
    outside, tiny = size > largest, size < floor
    if outside.any():
        warnings.warn(
            f"{int(outside.sum())} of the poles of the linear model reach a radius of "
            f"{float(size.max()):.6g}; they were moved to {largest:.6g}",
            stacklevel=4,
        )
    if tiny.any():
        warnings.warn(
            f"{int(tiny.sum())} of the poles of the linear model are delays, with a radius below "
            f"{floor:.1e}; they were moved there",
            stacklevel=4,
        )
    turn = torch.where(size > 0, modes.poles / size.clamp_min(1e-300), 1.0)
    return modes._replace(poles=turn * size.clamp(floor, largest))


def start_linear(
    input_map: nn.Linear | None,
    blocks: list[Block],
    output_map: nn.Linear,
    direct: nn.Linear | None,
    modes: Modes,
    offset: Tensor | None,
) -> None:
    """Make the parts of a deep Wiener model, changed in place, simulate linear modes.

    Raises:
        ValueError: parts that cannot hold the modes.
    """
    first = blocks[0]
    layer = _linear_layer(first)
    n_outputs, width = output_map.weight.shape
    n_inputs = modes.B.shape[1] if input_map is None else input_map.weight.shape[1]
    if (n_outputs, n_inputs) != tuple(modes.D.shape):
        raise ValueError(
            f"the model has {n_inputs} inputs and {n_outputs} outputs; the linear model has "
            f"{modes.D.shape[1]} and {modes.D.shape[0]}"
        )
    narrow = n_outputs if input_map is None else max(n_inputs, n_outputs)
    if width < narrow:
        raise ValueError(
            f"the linear model has {n_inputs} inputs and {n_outputs} outputs, which {width} "
            f"channels between the blocks cannot carry; d_model >= {narrow} is needed"
        )
    with torch.no_grad():
        _orthogonal_rows(output_map.weight, math.sqrt(1 / 3))
        nn.init.zeros_(output_map.bias)
        if offset is not None:
            output_map.bias.copy_(offset)
        if input_map is not None:
            _orthogonal_rows(input_map.weight.mT, math.sqrt(width / (3 * n_inputs)))
            nn.init.zeros_(input_map.bias)
        W = output_map.weight.double()
        M = torch.eye(n_inputs).double() if input_map is None else input_map.weight.double()
        for block in blocks:
            _start_static(block, first=block is first)
        for block in blocks[1:]:
            if not block.adds_input:
                _start_as_identity(_linear_layer(block))
        if isinstance(layer.coupling, BankCoupling):
            _put_bank(layer, modes, W, M)
        else:
            _put_dense(layer, modes, W, M)
        _put_direct(first, layer, direct, modes.D, W, M)


def _linear_layer(block: Block) -> LTI:
    if not isinstance(block.layer, LTI):
        raise ValueError(
            "a linear start needs layers whose poles can be put in place (LTI, LRU, S5, S4D); "
            f"given {type(block.layer).__name__}"
        )
    return block.layer


def _orthogonal_rows(weight: Tensor, size: float) -> None:
    """The nearest matrix with orthogonal rows of a norm: its pseudo-inverse loses no digits."""
    U, _, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    weight.copy_(size * U @ Vh)


def _start_static(block: Block, *, first: bool) -> None:
    static = cast(LinearAndMap, block.static)
    nn.init.zeros_(static.weight)
    passes = first or not block.adds_input
    nn.init.constant_(static.linear, 1.0 if passes else 0.0)


def _start_as_identity(layer: LTI) -> None:
    if layer.D is None:
        raise ValueError("blocks without a skip need a direct term D to pass a linear signal on")
    nn.init.zeros_(layer.coupling.C)
    layer.D.copy_(torch.eye(len(layer.D)) if layer.D.ndim == 2 else torch.ones_like(layer.D))


def _gains(layer: LTI) -> tuple[Tensor, Tensor, Tensor]:
    """a, the gain of the present input, and the factor of it in the next states, of all states."""
    a, gain, before = copy.deepcopy(layer.poles).double().discretise()
    later = a * gain if before is None else a * gain + before
    return a, gain, layer.poles.output_scale * later


def _check_room(modes: Modes, own: int) -> int:
    count = len(modes.poles)
    if count > own:
        raise ValueError(
            f"the linear model has {count} modes (a conjugate pair is one); the first layer has "
            f"{own} states: d_state >= {count} is needed"
        )
    return count


def _put_dense(layer: LTI, modes: Modes, W: Tensor, M: Tensor) -> None:
    B, C = layer.coupling.B, layer.coupling.C
    count = _check_room(modes, layer.poles.n)
    place_poles(layer.poles, modes.poles)
    a, gain, later = (x[:count] for x in _gains(layer))
    into = modes.B @ torch.linalg.pinv(M).to(modes.B.dtype)
    # Rows of B such that white inputs of variance 1 give states of variance about 1.
    norm = into.norm(dim=1).clamp_min(1e-300)
    scale = norm * gain.abs() / (1 - a.abs() ** 2).sqrt()
    out = torch.linalg.pinv(W).to(modes.C.dtype) @ (modes.C * scale / later)
    nn.init.zeros_(C)
    B[:count] = _stored(into / scale[:, None], B)
    C[:, :count] = _stored(out, C)


def _put_bank(layer: LTI, modes: Modes, W: Tensor, M: Tensor) -> None:
    B, C = layer.coupling.B, layer.coupling.C
    channels, own = B.shape[:2]
    count = _check_room(modes, own)
    place_poles(layer.poles, modes.poles.expand(channels, count))
    a, gain, later = (x.view(channels, own)[:, :count] for x in _gains(layer))
    residues = torch.einsum("pk,km->pmk", modes.C, modes.B).flatten(0, 1)
    size = (1 - a.abs() ** 2).sqrt() / gain.abs()
    weight = _through_channels(residues, W, M) / (later * size)
    nn.init.zeros_(C)
    B[:, :count] = _stored(size.to(modes.B.dtype), B)
    C[:, :count] = _stored(weight, C)


def _through_channels(wanted: Tensor, W: Tensor, M: Tensor) -> Tensor:
    """Weights r_h of channels with Σ_h r_h W_h M_h = wanted, (p·m, K) to (H, K)."""
    paths = torch.einsum("ph,hm->pmh", W, M).flatten(0, 1).to(wanted.dtype)
    sigma = torch.linalg.svdvals(paths)
    if paths.shape[0] > paths.shape[1] or sigma[-1] * WORST < sigma[0]:
        raise ValueError(
            f"{len(M)} channels with systems of their own cannot hold a linear model of "
            f"{M.shape[1]} inputs and {len(W)} outputs; an input map to d_model >= {len(paths)} "
            "channels is needed, or a layer with dense input and output maps"
        )
    return torch.linalg.pinv(paths) @ wanted


def _stored(values: Tensor, parameter: Tensor) -> Tensor:
    """Complex values as a parameter holds them."""
    complex_ = parameter.ndim == values.ndim + 1
    values = torch.view_as_real(values.contiguous()) if complex_ else values.real
    return values.to(parameter)


def _put_direct(
    block: Block, layer: LTI, direct: nn.Linear | None, D: Tensor, W: Tensor, M: Tensor
) -> None:
    """Correct what is left of the direct term by ``direct``, or else by the layer's own."""
    _, gain, _ = _gains(layer)
    b, c = copy.deepcopy(layer.coupling).double().matrices()
    inner = layer.poles.output_scale * ((c * gain) @ b).real
    if layer.D is not None:
        inner = inner + (torch.diag(layer.D) if layer.D.ndim == 1 else layer.D).double()
    if block.adds_input:
        inner = inner + torch.eye(len(inner)).double()
    elif block.F is not None:
        inner = inner + block.F.double()
    rest = D - W @ inner @ M
    if direct is not None:
        direct.weight.copy_(rest)
    elif layer.D is None:
        if rest.abs().max() > 1e-6 * D.abs().max().clamp_min(1e-6):
            raise ValueError(
                "the direct term of the linear model has no place: the layer has none; "
                "direct=True gives the model one"
            )
    elif layer.D.ndim == 2:
        layer.D.add_(torch.linalg.pinv(W) @ rest @ torch.linalg.pinv(M))
    else:
        layer.D.add_(_through_channels(rest.flatten()[:, None], W, M)[:, 0])
