"""Tensors as the arrays that numba kernels read."""

from __future__ import annotations

import numpy as np
import torch
from numba.core import config
from torch import Tensor

_COMPLEX = {torch.float32: np.complex64, torch.float64: np.complex128}

NO_RESET = np.empty((0, 0), np.bool_)
"""What a kernel is given in place of resets when there are none."""


def refuses_cpu(op: str, device: str) -> str | None:
    """None when compiled CPU kernels of ``op`` can run on such tensors, else why not."""
    if device != "cpu":
        return f"the cpu back end of {op} computes on CPU tensors, not on {device} tensors"
    if config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue]
        return f"the cpu back end of {op} needs numba to compile, and NUMBA_DISABLE_JIT is set"
    return None


def as_array(x: Tensor, dtype: torch.dtype, pairs: bool = False) -> np.ndarray:
    """The tensor as a contiguous array of ``dtype``; with ``pairs``, (re, im) become complex.

    Made without torch's threads, which would spin for some milliseconds after a copy, on cores that
    the kernel behind it needs.
    """
    x = x.detach().resolve_neg()
    if x.dtype in _COMPLEX:
        wide = np.float64 if dtype is torch.float64 else np.float32
        array = np.asarray(x.numpy(), wide, order="C")
    else:
        array = x.to(dtype).contiguous().numpy()
    return array.view(_COMPLEX[dtype]) if pairs else array


def reset_array(reset: Tensor | None) -> np.ndarray:
    """The resets as an array, or :data:`NO_RESET`."""
    return NO_RESET if reset is None else reset.contiguous().numpy()
