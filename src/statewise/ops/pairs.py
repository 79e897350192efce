"""Complex numbers that are stored as pairs of real ones."""

from __future__ import annotations

import torch
from torch import Tensor


def aligned(x: Tensor) -> Tensor:
    """``x``, copied if it begins at an odd place in memory.

    Torch sees pairs as complex numbers only from an even place on. A part of a longer vector may
    begin at an odd one, as parameters do after ``torch.nn.utils.vector_to_parameters``. A graph
    that is traced knows no places, and is left as it is.
    """
    if torch.compiler.is_compiling() or not x.storage_offset() % 2:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def from_pairs(x: Tensor) -> Tensor:
    """Pairs (..., 2) of (re, im) as complex numbers (...), without a copy where that can be."""
    return torch.view_as_complex(aligned(x).contiguous())
