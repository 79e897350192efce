"""What the Triton back ends share.

Triton kernels run on CUDA (and ROCm) tensors. Where Triton's interpreter is on, which the
environment variable ``TRITON_INTERPRET=1`` says before Triton is imported, they run on CPU
tensors, slowly: that is how they are tested on a machine without a GPU.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def interpreting() -> bool:
    """Whether Triton's interpreter is on."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def refuses_gpu(
    op: str, device: str, dtype: torch.dtype, allowed: Sequence[torch.dtype] = FLOATS
) -> str | None:
    """None when Triton kernels of ``op`` can run on such tensors, else why not."""
    if importlib.util.find_spec("triton") is None:
        return f"the gpu back end of {op} needs the package triton, which is not installed"
    if device != "cuda" and not (device == "cpu" and interpreting()):
        return f"the gpu back end of {op} computes on CUDA tensors, not on {device} tensors"
    if device == "cuda" and not torch.cuda.is_available():
        return f"the gpu back end of {op} needs a CUDA device, and torch finds none"
    if dtype not in allowed:
        names = ", ".join(str(x).removeprefix("torch.") for x in allowed)
        kind = str(dtype).removeprefix("torch.")
        return f"the gpu back end of {op} computes in {names}, not in {kind}"
    return None


def cdiv(a: int, b: int) -> int:
    """⌈a / b⌉."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()
