"""Rotation of pairs of entries: positions, or states that turn."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, angle: Tensor, *, neighbours: bool) -> Tensor:
    """Turn pairs of entries by angles.

    Args:
        x: (..., N), N even where there are angles.
        angle: (..., S) with S ≤ N/2, for the first S pairs; the others stay.
        neighbours: pairs are (2i, 2i + 1); otherwise (i, i + N/2).

    Returns:
        (..., N).
    """
    count = angle.shape[-1]
    if not count:
        return x
    cosine, sine = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
    pairs = x.unflatten(-1, (-1, 2)) if neighbours else x.unflatten(-1, (2, -1)).mT
    first, second = pairs[..., :count, 0], pairs[..., :count, 1]
    turned = [first * cosine - second * sine, first * sine + second * cosine]
    pairs = torch.cat([torch.stack(turned, -1), pairs[..., count:, :]], -2)
    return pairs.flatten(-2) if neighbours else pairs.mT.flatten(-2)
