"""Evaluation mode and number of threads, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation, as without dropout, and back to the mode it was in."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


SMALL = 100_000
"""Parameters of a model below which its operations are too short to be shared by threads."""


@contextlib.contextmanager
def cpu_threads(model: nn.Module, threads: int | None) -> Iterator[None]:
    """Set the number of threads of torch on the CPU, and set it back.

    Args:
        model: what is trained.
        threads: the number; None is 1 for a model of fewer than ``SMALL`` parameters, whose
            threads would wait for each other longer than they work, and what torch has otherwise.
    """
    before = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    torch.set_num_threads(threads or (1 if small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
