"""Reference back end: Philox 4x32-10 and Box-Muller as operations on tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW = 0xFFFFFFFF


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: this back end always works."""
    return None


def words(key: int, counter: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four words of 32 bits, in int64, of counters that are four such words.

    A product of two words has 64 bits; int64 keeps all of them, with the highest as a sign, which
    the mask behind the shift takes away.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & LOW, key >> 32
    for _ in range(ROUNDS):
        p, q = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((q >> 32) & LOW) ^ c1 ^ k0,
            q & LOW,
            ((p >> 32) & LOW) ^ c3 ^ k1,
            p & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1, c2, c3


def numbers(
    key: int, stream: int, count: int, dtype: torch.dtype, device: torch.device, normal: bool
) -> Tensor:
    """``count`` numbers: the first ones of all blocks, then the second ones."""
    block = torch.arange(-(-count // 2), device=device)
    fixed = [torch.full_like(block, word) for word in (stream & LOW, stream >> 32)]
    c0, c1, c2, c3 = words(key, (block & LOW, block >> 32, *fixed))
    # The 53 high bits of two words of 64.
    first, second = ((high << 21) | (low >> 11) for high, low in ((c1, c0), (c3, c2)))
    if normal:
        r = (-2 * ((first + 1).double() * 2.0**-53).log()).sqrt()
        angle = 2 * math.pi * (second.double() * 2.0**-53) - math.pi / 4
        both = r * angle.cos(), r * angle.sin()
    else:
        both = first.double() * 2.0**-53, second.double() * 2.0**-53
    return torch.cat(both)[:count].to(dtype)
