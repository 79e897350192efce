"""GPU back end of the Cauchy product: Triton kernels."""

# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.cauchy_kernel import _triton
from statewise.ops.cauchy_kernel.terms import gradients, split, weights
from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("cauchy_product", device, dtype, (torch.float32, torch.float64))


def _arguments(v: Tensor, poles: Tensor, frequencies: Tensor) -> tuple[Tensor, ...]:
    lam = torch.cat([poles[None, ..., 0].to(v.dtype), split(poles[..., 1], v.dtype)])
    return split(frequencies, v.dtype), lam, *(x.contiguous() for x in weights(v, poles))


def _sizes(v: Tensor, nodes: int) -> tuple[tuple[int, ...], dict[str, int]]:
    """(P, D, N, J), and blocks with room for four sets of P products in registers."""
    products = next_power_of_2(v.shape[0])
    tile = max(16, min(256, 1024 // products, next_power_of_2(nodes)))
    return (*v.shape[:3], nodes), {"PB": products, "BJ": tile, "num_warps": 4}


def forward(v: Tensor, poles: Tensor, frequencies: Tensor) -> Tensor:
    """The sums by Triton; arguments and results are those of ``reference.forward``."""
    sizes, options = _sizes(v, frequencies.shape[0])
    r = torch.empty((*v.shape[:2], sizes[3], 2), dtype=v.dtype, device=v.device)
    if r.numel():
        grid = (v.shape[1] * cdiv(sizes[3], options["BJ"]),)
        _triton.forward[grid](*_arguments(v, poles, frequencies), r, *sizes, **options)
    return r


def backward(grad: Tensor, v: Tensor, poles: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """The adjoint by Triton; arguments and results are those of ``reference.backward``."""
    sizes, options = _sizes(v, frequencies.shape[0])
    sums = torch.zeros((2 * v.shape[0] + 2, *v.shape[1:3]), dtype=v.dtype, device=v.device)
    if grad.numel() and v.numel():
        arguments = (*_arguments(v, poles, frequencies), grad.contiguous(), sums)
        _triton.backward[(v.shape[1] * v.shape[2],)](*arguments, *sizes, **options)
    return gradients(sums.double(), v, poles)
