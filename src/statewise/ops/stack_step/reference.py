"""Steps of a stack of blocks, block by block; shapes are those of op.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from statewise.ops.mamba_step import reference
from statewise.ops.mamba_step.op import MambaWeights

if TYPE_CHECKING:
    from statewise.ops.stack_step.op import BlockStack


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any real floating-point type."""
    return None


def step(
    h: Tensor,
    states: Sequence[tuple[Tensor, Tensor]],
    stack: BlockStack,
    scale: Tensor | None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """See :func:`~statewise.ops.stack_step`."""
    after = []
    for norm, weights, (window, inner) in zip(stack.norms, stack.weights, states, strict=True):
        u = torch.nn.functional.rms_norm(h, norm.shape, norm, stack.norm_eps)
        if isinstance(weights, MambaWeights):
            y, *last = reference.mamba(u, window, inner, weights, scale)
        else:
            y, *last = reference.mamba2(
                *(u, window, inner, weights, stack.n_groups, stack.norm_before_gate),
                *(stack.eps, stack.dt_limit, scale),
            )
        h = h + y
        after.append(tuple(last))
    return h, after
