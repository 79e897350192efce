"""One thing to measure: an operator on a shape, beside its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
Way = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Problem:
    """An operator, a shape and ways to compute it.

    Attributes:
        op: name of the operator.
        label: shape and options, as the table shows them.
        dtype: type of the timed run.
        inputs: draws float32 CPU tensors; the runner moves them and casts the floating ones.
        run: ours; returns the output that is timed and differentiated.
        rivals: the same by others, by name.
        moved: bytes that forward, and forward with backward, must move at least.
        rates: other floors by name of the unit of work ("exp", "flop", "bf16 flop"): how many
            forward, and forward with backward.
        differentiate: names of the inputs whose gradients are taken.
        keep_float32: names of inputs that are not cast to ``dtype``.
        reference: the float64 yardstick; None takes ``run`` on the compiled CPU kernels, which the
            tests hold to the reference loop.
    """

    op: str
    label: str
    dtype: torch.dtype
    inputs: Callable[[torch.Generator], Inputs]
    run: Way
    moved: tuple[float, float]
    differentiate: tuple[str, ...]
    rivals: dict[str, Way] = field(default_factory=dict)
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    keep_float32: tuple[str, ...] = ()
    reference: Way | None = None
