"""GPU back end of the block scan: Triton kernels for k ≤ 4, batched matrix products beyond.

Matrices of up to 4×4 fit in registers and are scanned by :mod:`._triton`. Larger ones are left
to the device's batched matrix product, by :mod:`._composed`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from statewise.ops.block_scan import _composed, _triton
from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.precision import accumulation_dtype

REGISTERS = 4
"""The largest k whose matrices are kept in registers."""

LANES = 131_072
"""Channels × chunks that keep a large device busy."""

_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("block_scan", device, dtype)


class Plan(NamedTuple):
    """How a call is cut: ``chunks`` of ``steps`` in time, ``channels`` to a program."""

    chunks: int
    steps: int
    channels: int


def plan(batch: int, length: int, channels: int) -> Plan:
    """The cut for a shape: a function of nothing else, so that results repeat.

    Chunks are added until ``LANES`` channels run at once, but none is shorter than 16 steps: a
    chunk's map costs k + 1 times the work of its states.
    """
    wanted = cdiv(LANES, max(batch * channels, 1))
    chunks = max(1, min(next_power_of_2(wanted), length // 16))
    steps = cdiv(length, chunks)
    return Plan(cdiv(length, steps), steps, min(64, max(16, next_power_of_2(channels))))


def forward(
    A: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The scan; arguments and results are those of ``reference.forward``."""
    if b.shape[-1] > REGISTERS:
        return _composed.forward(A, b, h0, reset, reverse)
    call = _Call(A, b, h0, reset, reverse)
    states = call.chain(b.contiguous(), h0, adjoint=False)
    h = torch.empty(b.shape, dtype=b.dtype, device=b.device)
    h_last = torch.empty((b.shape[0], *b.shape[2:]), dtype=call.dtype, device=b.device)
    if h_last.numel():
        call.launch(
            _triton.walk,
            *(call.A, b.contiguous(), states, call.reset, h, h_last, *call.sizes, *call.strides),
            HAS_STATES=states is not None,
            REVERSE=reverse,
        )
    return h, h_last


def backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    A: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_A: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint; arguments and results are those of ``reference.backward``."""
    if h.shape[-1] > REGISTERS:
        return _composed.backward(grad_h, grad_last, A, h, h0, reset, reverse, need_A)
    batch, length, channels, k = h.shape
    call = _Call(A, h, h0, reset, reverse)
    constant = need_A and A.shape[1] == 1 and length > 1
    each = need_A and not constant
    grad = None if grad_h is None else grad_h.contiguous()
    states = call.chain(grad, grad_last, adjoint=True)
    db = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    steps = call.plan.chunks if constant else length
    dA = torch.empty(
        (batch, steps, channels, k, k) if need_A else 0, dtype=call.dtype, device=h.device
    )
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=call.dtype, device=h.device)
    if h.numel():
        call.launch(
            _triton.walk_back,
            *(grad, call.A, h.contiguous(), call.h0, states, call.reset, dA, db, dh0),
            *(*call.sizes, *call.strides),
            HAS_GRAD_H=grad is not None,
            HAS_STATES=states is not None,
            EACH_A=each,
            SUM_A=constant,
            REVERSE=reverse,
        )
    if constant:
        dA = dA.sum(1, keepdim=True)
    if need_A and A.shape[0] == 1 and batch != 1:
        dA = dA.sum(0, keepdim=True)
    return dA.to(A.dtype), db, dh0


class _Call:
    """What the kernels of one call have in common."""

    def __init__(
        self, A: Tensor, x: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
    ) -> None:
        self.batch, length, self.channels, k = x.shape
        self.dtype = accumulation_dtype(x.dtype)
        self.plan = plan(self.batch, length, self.channels)
        self.device = x.device
        self.A = A.contiguous()
        self.h0 = None if h0 is None else h0.contiguous()
        self.reset = None if reset is None else reset.contiguous().view(torch.uint8)
        self.reverse = reverse
        self.k = k
        row = self.channels * k * k
        self.strides = (
            A.shape[1] * row if A.shape[0] > 1 else 0,
            row if A.shape[1] > 1 else 0,
        )
        self.sizes = (length, self.channels, self.plan.chunks, self.plan.steps)
        self.programs = cdiv(self.channels, self.plan.channels) * self.batch
        self.grid = (self.programs, self.plan.chunks)
        self.tile = {"K": k, "BD": self.plan.channels, "ACC": _TYPES[self.dtype], "num_warps": 2}
        self.constants = {
            **self.tile,
            "HAS_H0": h0 is not None,
            "HAS_RESET": reset is not None,
        }

    def launch(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """Run a Triton kernel, one program for each chunk and group of channels."""
        kernel[self.grid](*arguments, **constants, **self.constants)

    def chain(self, x: Tensor | None, start: Tensor | None, adjoint: bool) -> Tensor | None:
        """The state (or the carried gradient) before every chunk, in the pass's order."""
        start = None if start is None else start.to(self.dtype).contiguous()
        chunks = self.plan.chunks
        if chunks == 1 or not self.batch * self.channels:
            return start
        shape = (self.batch, chunks, self.channels, self.k)
        states, q = (torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        P = torch.empty((*shape, self.k), dtype=self.dtype, device=self.device)
        broken = torch.empty(shape[:2], dtype=torch.int8, device=self.device)
        self.launch(
            _triton.summarise,
            *(self.A, x, self.reset, P, q, broken, *self.sizes, *self.strides),
            HAS_X=x is not None,
            ADJOINT=adjoint,
            REVERSE=self.reverse,
        )
        chain: Any = _triton.chain
        chain[(self.programs,)](
            *(P, q, broken, start, states, self.channels, chunks),
            HAS_START=start is not None,
            ADJOINT=adjoint,
            **self.tile,
        )
        return states
