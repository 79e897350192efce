"""GPU back end of the Vandermonde kernel: tables of powers, and an outer product per state."""

# Kernels are called in a way of Triton's own, which a checker of Python cannot follow.
# pyright: reportCallIssue=false
from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.vandermonde_kernel import _triton
from statewise.ops.vandermonde_kernel.reference import base


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("vandermonde_kernel", device, dtype, (torch.float32, torch.float64))


def stride(length: int) -> int:
    """T: the power of two near √L, from 16 to 256."""
    return 1 << min(max(round((length - 1).bit_length() / 2), 4), 8)


def _powers(
    root: Tensor, weight: Tensor | None, count: int, times: int, dtype: torch.dtype, slope: bool,
    states_last: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Tables of root^{e · times}, (D, 2, N, count) or (D, 2, count, N), and of their slopes."""
    D, N = root.shape[:2]
    table = torch.empty(2 * D * N * count, dtype=dtype, device=root.device)
    slopes = torch.empty_like(table) if slope else table
    strides = (1, N) if states_last else (count, 1)
    block = min(next_power_of_2(count), 128)
    _triton.powers_kernel[(D * N, cdiv(count, block))](
        root, root if weight is None else weight, table, slopes, N, count, times, *strides,
        WEIGHTED=weight is not None, SLOPE=slope,
        BITS=max(1, ((count - 1) * times).bit_length()), BE=block, num_warps=1,
    )  # fmt: skip
    return table, slopes


def forward(a: Tensor, c: Tensor, length: int, log: bool) -> Tensor:
    """The two-level product; arguments and results are those of ``reference.forward``."""
    D, N = a.shape[:2]
    kernel = torch.empty((D, length), dtype=a.dtype, device=a.device)
    if not (D and N):
        return kernel.zero_()
    T = stride(length)
    R = cdiv(length, T)
    root = torch.view_as_real(base(a, log)).contiguous()
    rows, _ = _powers(root, c.contiguous(), R, T, a.dtype, False, False)
    columns, _ = _powers(root, None, T, 1, a.dtype, False, False)
    BR, BS = min(next_power_of_2(R), 32), min(T, 64)
    _triton.product_kernel[(D, cdiv(R, BR) * (T // BS))](
        rows, columns, kernel, N, length, R, T=T, BR=BR, BS=BS, num_warps=4
    )
    return kernel


def backward(grad: Tensor, a: Tensor, c: Tensor, log: bool) -> tuple[Tensor, Tensor]:
    """The transposed product; arguments and results are those of ``reference.backward``."""
    D, N = a.shape[:2]
    length = grad.shape[1]
    T = stride(length)
    R = cdiv(length, T)
    sums = torch.zeros((D, N, 2, 2), dtype=a.dtype, device=a.device)
    complex_root = base(a, log)
    if D and N:
        root = torch.view_as_real(complex_root).contiguous()
        rows, row_slopes = _powers(root, None, R, T, a.dtype, True, True)
        columns, column_slopes = _powers(root, None, T, 1, a.dtype, True, False)
        BN = min(next_power_of_2(N), 16)
        _triton.gradients_kernel[(D, cdiv(N, BN))](
            grad.contiguous(), rows, row_slopes, columns, column_slopes, sums, N, length, R, T=T,
            BN=BN, BS=min(T, 64), num_warps=4,
        )  # fmt: skip
    dc, da = torch.view_as_complex(sums.double()).unbind(-1)
    dc = dc.conj_physical()
    da = (torch.view_as_complex(c.double().contiguous()) * da).conj_physical()
    if log:
        da = da * complex_root.conj_physical()
    pairs = (torch.view_as_real(x).clone().to(a.dtype) for x in (da, dc))
    grad_a, grad_c = pairs
    return grad_a, grad_c
