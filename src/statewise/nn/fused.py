"""When a step of a layer may be one call of an operator instead of many small ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from statewise.ops.gpu import FLOATS
from statewise.ops.library import in_forward_mode
from statewise.ops.precision import accumulation_dtype

MOST_ROWS = 4
"""Rows from which on products of whole matrices are faster on the CPU."""

_overwriting: ContextVar[bool] = ContextVar("statewise_overwriting", default=False)


@contextmanager
def overwriting() -> Iterator[None]:
    """Let fused steps write the next states over those they read, here and in this thread."""
    token = _overwriting.set(True)
    try:
        yield
    finally:
        _overwriting.reset(token)


def is_overwriting() -> bool:
    """Whether :func:`overwriting` is on in this thread."""
    return _overwriting.get()


def overwrites(*states: Tensor) -> bool:
    """Whether a fused step writes over these states: :func:`overwriting` is on, and it can."""
    return _overwriting.get() and all(state.is_contiguous() for state in states)


def fuses(
    u: Tensor,
    maps: tuple[nn.Module | None, ...],
    tensors: Iterable[Tensor | None],
    states: Iterable[Tensor] = (),
    dt: Tensor | None = None,
) -> bool:
    """Whether a sample u (B, D) may take the fused step: without gradients, on the CPU few rows.

    Args:
        u: the sample.
        maps: modules that must be plain linear maps which nobody watches.
        tensors: parameters, which must be plain tensors of the type of u.
        states: states, plain tensors of the type in which u is accumulated.
        dt: relative step, of any type.
    """
    dtype, device, asked = u.dtype, u.device.type, torch.is_grad_enabled()
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(device) or in_forward_mode():
        return False
    if device == "cpu":
        if u.shape[0] > MOST_ROWS or dtype not in (torch.float32, torch.float64):
            return False
    elif device != "cuda" or dtype not in FLOATS:
        return False
    for one in maps:
        if type(one) is not nn.Linear or one._forward_hooks or one._forward_pre_hooks:
            return False
    if asked and dt is not None and dt.requires_grad:
        return False
    wide = accumulation_dtype(dtype)
    for group, kind in (((u, *tensors), dtype), (states, wide)):
        for one in group:
            if one is None:
                continue
            if type(one) not in (Tensor, nn.Parameter) or one.dtype is not kind:
                return False
            if asked and one.requires_grad:
                return False
    return True
