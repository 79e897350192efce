"""Counter-based random numbers: the public door, where arguments are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops import dispatch

OP = "philox"

dispatch.register(
    OP,
    reference="statewise.ops.philox.reference",
    cpu="statewise.ops.philox.cpu",
    gpu="statewise.ops.philox.reference",
)

FLOATS = (torch.float32, torch.float64)
CPU = torch.device("cpu")


def philox_normal(
    key: int,
    stream: int,
    count: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device = CPU,
) -> Tensor:
    """Independent standard normal numbers, the same for the same key and stream.

    (z, z′) = √(−2 log U) (cos, sin)(2π U′ − π/4). Computed in float64 whatever is asked for.

    Args:
        key: from 0 to 2⁶⁴ − 1.
        stream: from 0 to 2⁶⁴ − 1; different streams are independent.
        count: how many.
        dtype: float32 or float64.
        device: where they are wanted.

    Returns:
        (count,).

    Raises:
        ValueError: an argument out of its range.
        TypeError: another type than float32 and float64.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011); Box and Muller.
    """
    return _made(key, stream, count, dtype, device, normal=True)


def philox_uniform(
    key: int,
    stream: int,
    count: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device = CPU,
) -> Tensor:
    """Independent uniform numbers, k 2⁻⁵³ with k < 2⁵³; float32 ones are rounded and may be 1.

    Args:
        key: as for :func:`philox_normal`.
        stream: likewise; the same bits as the normal numbers of that stream.
        count: how many.
        dtype: float32 or float64.
        device: where they are wanted.

    Returns:
        (count,).

    Raises:
        ValueError: an argument out of its range.
        TypeError: another type than float32 and float64.

    Source: Salmon et al. (2011).
    """
    return _made(key, stream, count, dtype, device, normal=False)


def _made(
    key: int, stream: int, count: int, dtype: torch.dtype, device: torch.device, normal: bool
) -> Tensor:
    for label, x in (("key", key), ("stream", stream)):
        if not 0 <= x < 2**64:
            raise ValueError(f"{OP}: {label} is {x}; it must be from 0 to 2**64 - 1")
    if count < 0:
        raise ValueError(f"{OP}: count is {count}; it cannot be negative")
    if dtype not in FLOATS:
        raise TypeError(f"{OP}: dtype is {dtype}; it must be float32 or float64")
    backend = dispatch.select(OP, device.type, dtype)
    return backend.numbers(key, stream, count, dtype, device, normal)
