"""Large tensors on huge pages.

The C library returns large blocks to the system, and each new one is mapped page by page when it is
first written: at 4 KiB a page that costs more than the scan that writes it. Linux maps 2 MiB at
a time where it is asked to.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

HUGE_PAGE = 2**21
MIN_BYTES = 2 * HUGE_PAGE
_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25

_madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None


def fresh(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised CPU tensor; the advice about its pages may be ignored by the system."""
    x = torch.empty(shape, dtype=dtype)
    _advise(x, _MADV_HUGEPAGE)
    return x


def settle(tensors: Iterable[Tensor]) -> None:
    """Put large CPU tensors, which have been written, on huge pages where they lie.

    A core reads such memory faster, by a tenth where it was measured: it looks up fewer addresses,
    and what it fetches ahead does not end at every 4 KiB. Linux copies the pages once, from 6.1 on;
    elsewhere nothing happens. Values and addresses stay as they are.
    """
    for x in tensors:
        if x.device.type == "cpu" and x.is_contiguous():
            _advise(x, _MADV_COLLAPSE)


def _advise(x: Tensor, advice: int) -> None:
    if _madvise is not None and x.nbytes >= MIN_BYTES:
        start = -(-x.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        stop = (x.data_ptr() + x.nbytes) // HUGE_PAGE * HUGE_PAGE
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), advice)
