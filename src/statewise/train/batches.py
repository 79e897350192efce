"""From a plan to the tensors of a training step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.train.sampling import Plan
from statewise.train.signals import Signals, Slices


class Batch(NamedTuple):
    """What one rank simulates and scores in one step.

    Attributes:
        data: the windows; ``data.weight`` is broadcast over the outputs where it is (B, L, 1).
        first: leading samples that count in no window.
        count: outputs that count in the windows of all ranks.
        context: the samples in front of each window that serve its initial state.
        record: index of the record of each window (B,).
        at_start: whether a window starts at the start of its record (B,).
        fresh: whether a window needs a new initial state (B,); None when all do.
        any_fresh: whether any window does.
    """

    data: Slices
    first: int
    count: int
    context: Slices | None
    record: Tensor
    at_start: Tensor
    fresh: Tensor | None
    any_fresh: bool


def assemble(
    signals: Signals, plan: Plan, length: int, context: int, share: slice = slice(None)
) -> Batch:
    """Cut the windows of a plan.

    Args:
        signals: the records.
        plan: the windows.
        length: simulated samples of a window.
        context: samples in front of a window that serve its initial state.
        share: the windows that this rank takes.
    """
    count = int(signals.counts(plan.starts + plan.dead, plan.starts + plan.lengths).sum())
    starts, dead, valid = plan.starts[share], plan.dead[share], plan.lengths[share]
    data = signals.cut(starts, length)
    first = int(dead.min()) if len(dead) else 0
    if (dead != first).any() or (valid != length).any():
        time = np.arange(length)
        counts = (time >= dead[:, None]) & (time < valid[:, None])
        weight = torch.from_numpy(counts).to(data.y.device, data.y.dtype).unsqueeze(-1)
        data = data._replace(weight=weight if data.weight is None else weight * data.weight)
    before = None
    if context and (plan.fresh is None or plan.fresh.any()):
        before = signals.cut(starts - context, context, context=True)
    device = data.y.device
    return Batch(
        data,
        min(first, length),
        count,
        before,
        torch.from_numpy(plan.record[share]).to(device),
        torch.from_numpy(plan.at_start[share]).to(device),
        None if plan.fresh is None else torch.from_numpy(plan.fresh[share]).to(device),
        plan.fresh is None or bool(plan.fresh[share].any()),
    )
