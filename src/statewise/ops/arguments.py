"""Checks of the arguments of operators; each raises one sentence that repeats what was given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex64, torch.complex128)


def require_tensors(op: str, **arguments: object) -> None:
    """Raise TypeError for the first argument that is not a tensor."""
    for label, x in arguments.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {label} must be a tensor, and is a {type(x).__name__}")


def optional_tensors(op: str, **arguments: object) -> None:
    """Raise TypeError for the first argument that is neither a tensor nor None."""
    require_tensors(op, **{label: x for label, x in arguments.items() if x is not None})


def floating(op: str, label: str, x: Tensor, allowed: Sequence[torch.dtype] = REAL) -> None:
    """Raise TypeError when the type of ``x`` is not among ``allowed``."""
    if x.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{op}: {label} is {x.dtype}; it must be one of {names}")


def check_shape(op: str, label: str, x: Tensor, expected: Sequence[int], because: str) -> None:
    """Raise ValueError when ``x`` is not of the expected shape; ``because`` says what needs it."""
    if tuple(x.shape) != tuple(expected):
        raise ValueError(
            f"{op}: {label} has shape {tuple(x.shape)}; {because} needs {tuple(expected)}"
        )


def check_length(op: str, label: str, x: Tensor) -> None:
    """Raise ValueError when ``x`` (B, L, ...) has no steps."""
    if x.shape[1] == 0:
        raise ValueError(
            f"{op}: {label} has shape {tuple(x.shape)}, no steps; L must be at least 1"
        )


def check_reset(op: str, reset: Tensor | None, batch: int, length: int) -> None:
    """Raise when ``reset`` is neither None nor (B, L) bool."""
    if reset is None:
        return
    require_tensors(op, reset=reset)
    if reset.dtype is not torch.bool:
        raise TypeError(f"{op}: reset is {reset.dtype}; it must be bool")
    check_shape(op, "reset", reset, (batch, length), f"a batch of {batch} with {length} steps")
