"""CPU back end of the Cauchy product: numba kernels over blocks of channels."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.blocks import cut
from statewise.ops.cauchy_kernel import _kernels
from statewise.ops.cauchy_kernel.terms import gradients, split, weights


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("cauchy_product", device)


def _arguments(v: Tensor, poles: Tensor, frequencies: Tensor) -> tuple[tuple, int]:
    """What both kernels read, and the number of tiles; nodes are padded by the last of them."""
    tiles = -(-frequencies.shape[0] // _kernels.TILE)
    more = tiles * _kernels.TILE - frequencies.shape[0]
    nodes = torch.cat([frequencies, frequencies[-1:].expand(more)])
    lam = torch.cat([poles[None, ..., 0].to(v.dtype), split(poles[..., 1], v.dtype)])
    tensors = (split(nodes, v.dtype), lam, *weights(v, poles).unbind())
    return tuple(as_array(x, v.dtype) for x in tensors), tiles


def _run(kernel, arguments: tuple, tiles: int, out: np.ndarray, extra: tuple) -> None:
    products, channels, states = arguments[2].shape
    work = channels * states * tiles * _kernels.TILE * products
    blocks = cut(1, channels, work, 1)
    pool.run([partial(kernel, *arguments, *extra, out, tiles, *block[2:]) for block in blocks])


def forward(v: Tensor, poles: Tensor, frequencies: Tensor) -> Tensor:
    """The compiled sums; arguments and results are those of ``reference.forward``."""
    r = torch.zeros((v.shape[0], v.shape[1], frequencies.shape[0], 2), dtype=v.dtype)
    if r.numel():
        arguments, tiles = _arguments(v, poles, frequencies)
        _run(_kernels.forward, arguments, tiles, r.numpy(), ())
    return r


def backward(grad: Tensor, v: Tensor, poles: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    sums = torch.zeros((2 * v.shape[0] + 2, *v.shape[1:3]), dtype=torch.float64)
    if grad.numel():
        arguments, tiles = _arguments(v, poles, frequencies)
        _run(_kernels.backward, arguments, tiles, sums.numpy(), (as_array(grad, v.dtype),))
    return gradients(sums, v, poles)


def warm() -> None:
    """Compile every kernel, for both precisions."""
    for dtype in (torch.float32, torch.float64):
        v, poles = torch.ones((1, 1, 1, 2), dtype=dtype), torch.ones((1, 1, 2), dtype=dtype)
        nodes = torch.ones(1, dtype=dtype)
        backward(forward(v, poles, nodes), v, poles, nodes)
