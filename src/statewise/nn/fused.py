"""When a step of a layer may be one call of an operator instead of many small ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOST_ROWS = 4
"""Rows from which on products of whole matrices are faster."""


def fuses(u: Tensor, maps: tuple[nn.Module | None, ...], tensors: Iterable[Tensor | None]) -> bool:
    """Whether a sample u (B, D) may take the fused step: few rows on the CPU, without gradients.

    Args:
        u: the sample.
        maps: modules that must be plain linear maps which nobody watches.
        tensors: states and parameters, which must be plain tensors of the type of u.
    """
    dtype, asked = u.dtype, torch.is_grad_enabled()
    if u.shape[0] > MOST_ROWS or dtype not in (torch.float32, torch.float64):
        return False
    if torch.compiler.is_compiling() or u.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    for one in maps:
        if type(one) is not nn.Linear or one._forward_hooks or one._forward_pre_hooks:
            return False
    for one in (u, *tensors):
        if one is None:
            continue
        if type(one) not in (Tensor, nn.Parameter) or one.dtype is not dtype:
            return False
        if asked and one.requires_grad:
            return False
    return True
