"""CPU back end of the linear map of a few rows: a numba kernel over rows of the matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.matvec.product import product


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    if dtype not in (torch.float32, torch.float64):
        return f"the cpu back end of matvec computes in float32 and float64, not in {dtype}"
    return refuses_cpu("matvec", device)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The compiled product; arguments and result are those of ``reference.forward``."""
    sizes = (x.shape[0], x.shape[1], weight.shape[0])
    y = product(
        as_array(x, x.dtype).reshape(-1),
        as_array(weight, x.dtype).reshape(-1),
        None if bias is None else as_array(bias, x.dtype),
        sizes,
    )
    return torch.from_numpy(y).view(sizes[0], sizes[2])


def warm() -> None:
    """Compile the kernel for both types."""
    for dtype in (torch.float32, torch.float64):
        forward(torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype), None)
