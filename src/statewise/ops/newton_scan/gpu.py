"""GPU back end of the ParaGRU and ParaLSTM scans: Triton, one kernel a pass.

With many channels each walks its own sequence. With few, time is cut into stretches that run at
once and are joined by Newton's method on the states between them (README.md, "Stretches"): the
walks stop when neighbours agree within :data:`TOLERANCE`, and after as many walks as there are
stretches the answer is that of the sequential walk, whatever the weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.newton_scan import _triton_gru, _triton_lstm
from statewise.ops.precision import accumulation_dtype

LANES = 65_536
"""Channels × stretches that keep a large device busy."""

STRETCHES = 32
"""The most stretches of one sequence; they share a program."""

SHORTEST = 16
"""Steps that a stretch has at least."""

TOLERANCE = 4.0
"""Mismatch between stretches that is left, in units of machine epsilon times max(1, |h|)."""

_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("para_gru and para_lstm", device, dtype)


class Plan(NamedTuple):
    """How a call is cut: ``stretches`` of ``steps`` in time, ``channels`` to a program."""

    stretches: int
    steps: int
    channels: int


def plan(batch: int, length: int, channels: int) -> Plan:
    """The cut for a shape: a function of nothing else, so that results repeat.

    Half of ``LANES`` channels keep a device busy alone and make one walk each; fewer ones are
    joined by stretches of time until there are ``LANES``, at most ``STRETCHES`` of them and none
    shorter than ``SHORTEST`` steps.
    """
    lanes = max(batch * channels, 1)
    most = max(length // SHORTEST, 1)
    stretches = 1
    while 2 * stretches <= min(STRETCHES, most) and 2 * stretches * lanes <= LANES:
        stretches *= 2
    width = 128 if stretches == 1 else 16
    return Plan(stretches, cdiv(length, stretches), min(width, next_power_of_2(channels)))


class _Call:
    """What both passes of one call have in common."""

    def __init__(self, pre: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool) -> None:
        batch, length, _, channels = pre.shape
        self.dtype = accumulation_dtype(pre.dtype)
        self.plan = plan(batch, length, channels)
        self.h0 = None if h0 is None else h0.contiguous()
        self.reset = None if reset is None else reset.contiguous().view(torch.uint8)
        self.sizes = (length, channels, self.plan.steps)
        self.tolerance = TOLERANCE * torch.finfo(self.dtype).eps
        self.groups = cdiv(channels, self.plan.channels)
        self.grid = (self.groups * batch,)
        tile = self.plan.stretches * self.plan.channels
        self.constants = {
            "C": self.plan.stretches,
            "BD": self.plan.channels,
            "ACC": _TYPES[self.dtype],
            "HAS_H0": h0 is not None,
            "HAS_RESET": reset is not None,
            "REVERSE": reverse,
            "STAGES": 4,
            "num_warps": max(1, min(8, tile // 64)),
        }

    def launch(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """Run a Triton kernel over the grid of this call."""
        kernel[self.grid](*arguments, **constants, **self.constants)

    def report(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the programs leave their number of walks and their mismatch."""
        programs = (self.grid[0] // max(self.groups, 1), self.groups)
        walks = torch.empty(programs, dtype=torch.int32, device=device)
        return walks, torch.empty(programs, dtype=torch.float32, device=device)


class Report(NamedTuple):
    """How a forward pass went, for each sequence and group of channels, (B, groups).

    Attributes:
        walks: walks over time; 1 where nothing had to be joined.
        residual: largest mismatch left between stretches, relative to max(1, |state|).
    """

    walks: Tensor
    residual: Tensor


def solve_gru(
    pre: Tensor, a: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Report]:
    """:func:`gru_forward`, with a report."""
    batch, length, _, channels = pre.shape
    call = _Call(pre, h0, reset, reverse)
    h = torch.empty((batch, length, channels), dtype=pre.dtype, device=pre.device)
    last = torch.empty((batch, channels), dtype=call.dtype, device=pre.device)
    report = Report(*call.report(pre.device))
    if last.numel():
        call.launch(
            _triton_gru.forward,
            *(pre.contiguous(), a.contiguous(), call.h0, call.reset, h, last, *report),
            *call.sizes,
            call.tolerance,
        )
    return h, last, report


def gru_forward(
    pre: Tensor, a: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The scan; arguments and results are those of ``reference.gru_forward``."""
    return solve_gru(pre, a, h0, reset, reverse)[:2]


def gru_backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    pre: Tensor,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint; arguments and results are those of ``reference.gru_backward``."""
    batch, _, _, channels = pre.shape
    call = _Call(pre, h0, reset, reverse)
    dpre = torch.empty(pre.shape, dtype=pre.dtype, device=pre.device)
    da = torch.empty((batch, 3, channels), dtype=call.dtype, device=pre.device)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=call.dtype, device=pre.device)
    if batch and channels:
        call.launch(
            _triton_gru.backward,
            *(_contiguous(grad_h), _contiguous(grad_last), pre.contiguous(), a.contiguous()),
            *(h.contiguous(), call.h0, call.reset, dpre, da, dh0, *call.sizes),
            HAS_GRAD_H=grad_h is not None,
            HAS_GRAD_LAST=grad_last is not None,
        )
    return dpre, da.sum(0), dh0


def solve_lstm(
    pre: Tensor, a: Tensor, w: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Report]:
    """:func:`lstm_forward`, with a report."""
    batch, length, _, channels = pre.shape
    call = _Call(pre, h0, reset, reverse)
    shape = (batch, length, channels)
    h, c = (torch.empty(shape, dtype=pre.dtype, device=pre.device) for _ in range(2))
    last = torch.empty((batch, channels, 2), dtype=call.dtype, device=pre.device)
    report = Report(*call.report(pre.device))
    if last.numel():
        call.launch(
            _triton_lstm.forward,
            *(pre.contiguous(), a.contiguous(), w.contiguous(), call.h0, call.reset, h, c, last),
            *(*report, *call.sizes, call.tolerance),
        )
    return h, c, last, report


def lstm_forward(
    pre: Tensor, a: Tensor, w: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The scan; arguments and results are those of ``reference.lstm_forward``."""
    return solve_lstm(pre, a, w, h0, reset, reverse)[:3]


def lstm_backward(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    grad_last: Tensor | None,
    pre: Tensor,
    a: Tensor,
    w: Tensor,
    h: Tensor,
    c: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adjoint; arguments and results are those of ``reference.lstm_backward``."""
    batch, _, _, channels = pre.shape
    call = _Call(pre, h0, reset, reverse)
    dpre = torch.empty(pre.shape, dtype=pre.dtype, device=pre.device)
    weights = torch.empty((batch, 5, channels), dtype=call.dtype, device=pre.device)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=call.dtype, device=pre.device)
    if batch and channels:
        call.launch(
            _triton_lstm.backward,
            *(_contiguous(grad_h), _contiguous(grad_c), _contiguous(grad_last)),
            *(pre.contiguous(), a.contiguous(), w.contiguous(), h.contiguous(), c.contiguous()),
            *(call.h0, call.reset, dpre, weights, dh0, *call.sizes),
            HAS_GRAD_H=grad_h is not None,
            HAS_GRAD_C=grad_c is not None,
            HAS_GRAD_LAST=grad_last is not None,
        )
    total = weights.sum(0)
    return dpre, total[:3].clone(), total[3:].clone(), dh0


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
