"""CPU back end of the steps: two products with large matrices, and a kernel between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.mamba_step import _kernels
from statewise.ops.matvec.product import product
from statewise.ops.simd import WIDER, elements

if TYPE_CHECKING:
    from statewise.ops.mamba_step.op import Mamba2Weights, MambaWeights


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    if dtype not in (torch.float32, torch.float64):
        return f"the cpu back end of mamba_step computes in float32 and float64, not in {dtype}"
    return refuses_cpu("mamba_step", device)


def _flat(x: Tensor) -> np.ndarray:
    return as_array(x, x.dtype).reshape(-1)


def _optional(x: Tensor | None, absent: np.ndarray) -> tuple[np.ndarray, bool]:
    return (absent, False) if x is None else (_flat(x), True)


def _product(x: np.ndarray, weight: Tensor, bias: Tensor | None) -> np.ndarray:
    """The rows x Wᵀ + bias, flat."""
    outer, inner = weight.shape
    offset = None if bias is None else _flat(bias)
    return product(x, _flat(weight), offset, (x.size // inner, inner, outer))


def mamba(
    u: Tensor,
    window: Tensor,
    h: Tensor,
    weights: MambaWeights,
    scale: Tensor | None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`~statewise.ops.mamba_step`."""
    p, batch = weights, u.shape[0]
    channels, count = p.conv_weight.shape
    rank, states = p.dt_weight.shape[1], p.A_log.shape[1]
    entered = _product(_flat(u), p.in_weight, p.in_bias)
    y = np.empty(batch * channels, entered.dtype)
    last, after = u.new_empty(window.shape), h if overwrite else u.new_empty(h.shape)
    _kernels.mamba(
        *(entered, _flat(window), _flat(h), _flat(p.conv_weight), *_optional(p.conv_bias, entered)),
        *(_flat(p.x_weight), _flat(p.dt_weight), _flat(p.dt_bias), _flat(p.A_log), _flat(p.D)),
        *(*_optional(scale, entered), y, _flat(last), _flat(after)),
        *((batch, channels, states, rank, count), _kernels.fullest(states, u.itemsize)),
    )
    out = torch.from_numpy(_product(y, p.out_weight, p.out_bias))
    return out.view(batch, len(p.out_weight)), last, after


def mamba2(
    u: Tensor,
    window: Tensor,
    h: Tensor,
    weights: Mamba2Weights,
    n_groups: int,
    norm_before_gate: bool,
    eps: float,
    dt_limit: tuple[float, float],
    scale: Tensor | None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`~statewise.ops.mamba2_step`."""
    p = weights
    batch, heads, width, states = h.shape
    mixed, count = p.conv_weight.shape
    wide = p.out_weight.shape[1]
    beside = wide - heads * width
    entered = _product(_flat(u), p.in_weight, p.in_bias)
    y = np.empty(batch * wide, entered.dtype)
    last, after = u.new_empty(window.shape), h if overwrite else u.new_empty(h.shape)
    _kernels.mamba2(
        *(entered, _flat(window), _flat(h), _flat(p.conv_weight), *_optional(p.conv_bias, entered)),
        *(_flat(p.dt_bias), _flat(p.A_log), _flat(p.D), *_optional(p.norm_weight, entered)),
        *(*_optional(scale, entered), y, _flat(last), _flat(after)),
        *(norm_before_gate, eps, dt_limit),
        *(
            (batch, heads, width, states, n_groups, beside, mixed, count),
            _kernels.fullest(states, u.itemsize),
        ),
    )
    out = torch.from_numpy(_product(y, p.out_weight, p.out_bias))
    return out.view(batch, len(p.out_weight)), last, after


def warm() -> None:
    """Compile the kernels for both types and every kind of pack."""
    from statewise.ops.mamba_step.op import Mamba2Weights, MambaWeights

    for dtype in (torch.float32, torch.float64):
        pack = elements(dtype.itemsize)
        for states in (1, pack, WIDER * pack):
            zeros = lambda *shape, dtype=dtype: torch.zeros(shape, dtype=dtype)  # noqa: E731
            one, taps = zeros(1), zeros(1, 2)
            small = MambaWeights(
                *(zeros(2, 1), None, taps, None, zeros(1 + 2 * states, 1), zeros(1, 1), one),
                *(zeros(1, states), one, zeros(1, 1), None),
            )
            mamba(zeros(1, 1), zeros(1, 1, 1), zeros(1, 1, states), small, None)
            mixed = 1 + 2 * states
            small = Mamba2Weights(
                *(zeros(2 + mixed, 1), None, zeros(mixed, 2), None, one, one, one, one),
                *(zeros(1, 1), None),
            )
            state = zeros(1, 1, 1, states)
            limits = (0.0, float("inf"))
            mamba2(zeros(1, 1), zeros(1, 1, mixed), state, small, 1, False, 1e-5, limits, None)
