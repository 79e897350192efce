"""GPU back end of the linear scan: Triton kernels over tiles of steps and channels."""

# Kernels are called in a way of Triton's own, which a checker of Python cannot follow.
# pyright: reportCallIssue=false, reportArgumentType=false
from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.linear_scan import _tiles, _triton
from statewise.ops.precision import accumulation_dtype

_WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


class Plan(NamedTuple):
    """How a pass is cut into tiles, each the work of one program."""

    steps: int
    """Steps that a thread walks, at most 16."""

    groups: int
    """Runs of as many steps in one tile."""

    channels: int
    """Channels in one tile."""

    warps: int

    chained: bool = True
    """One pass, tile waiting for tile; else a pass for summaries and one for outputs."""


def plan(batch: int, length: int, channels: int, parts: int, itemsize: int, lean: bool) -> Plan:
    """The cut for sequences of this length, from nothing but their shape and type.

    The tiles of one sequence follow each other at the pace of memory latency. Few sequences are
    therefore cut into rows of one cache line and as many steps as fill the registers; many
    (batch × channels ≥ 8192) keep the memory busy by their number, and wider rows, which are read
    faster, pay. A thread loads 16 bytes at once. Short sequences get small tiles. Measured on an
    H100 with Triton 3.6.

    Args:
        batch: B.
        length: L.
        channels: D.
        parts: 2 for pairs, else 1.
        itemsize: bytes of one part in memory.
        lean: whether registers are short, as in the adjoint pass, which holds three arrays instead
            of two, and with resets.
    """
    lines = 1 if batch * channels < 8192 else 2 if lean else 4
    # Triton 3.6 cannot compile some scans over tiles of one or two pairs a row, and one over two
    # channels in float64 gave a wrong number: narrower rows are padded to what is tested.
    width = min(lines * 128 // (itemsize * parts), next_power_of_2(max(channels, 16)))
    vector = min(16 // itemsize, 4)
    steps = 32 // vector // (2 if itemsize == 8 else 1)
    warps = 4 if lean else 8
    while warps > 1 and 32 * (warps // 2) * vector // (width * parts) * steps >= length:
        warps //= 2
    groups = max(32 * warps * vector // (width * parts), 2)
    if steps * vector > 16 and (length % (steps * groups) or channels % width):
        steps //= 2  # the masks need registers, too
    while steps > 1 and groups * (steps // 2) >= length:
        steps //= 2
    while groups * steps >= 2 * length and groups * width * parts >= 64 * warps:
        groups //= 2
    return Plan(steps, groups, width, warps)


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("linear_scan", device, dtype)


class _Pass:
    """What the forward and the backward pass share: sizes, constants, the buffers of the carry."""

    def __init__(
        self, like: Tensor, a: Tensor, reset: Tensor | None, pairs: bool, how: Plan
    ) -> None:
        self.batch, self.length, self.channels = like.shape[:3]
        self.parts = 2 if pairs else 1
        self.dtype = accumulation_dtype(like.dtype)
        self.device = like.device
        self.how = how
        self.chunks = cdiv(self.length, how.steps * how.groups)
        self.lanes = self.batch * self.channels * self.parts
        rows, steps = a.shape[0], a.shape[1]
        self.a_batch = steps * self.channels * self.parts if rows > 1 else 0
        self.constants = {
            "HAS_RESET": reset is not None,
            "A_TIMED": steps > 1,
            "EVEN": not (self.length % (how.steps * how.groups) or self.channels % how.channels),
            "TYPE": _TYPES[self.dtype],
            "C": self.parts,
            "S": how.steps,
            "R": how.groups,
            "BD": how.channels,
            "num_warps": how.warps,
        }

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    def launch(self, kernel: Any, tensors: tuple, start: Tensor | None, **constants: Any) -> None:
        """Run the pass; ``start`` is the state that enters the first tile."""
        grid = (self.chunks * self.batch * cdiv(self.channels, self.how.channels),)
        sizes = (self.batch, self.length, self.channels, self.a_batch)
        constants = self.constants | constants
        nothing = tensors[0]
        if self.chunks == 1:
            spare = (nothing, nothing, nothing, nothing)
            kernel[grid](*tensors, *spare, *sizes, MODE=_tiles.APPLY, **constants)
            return
        rows = self.chunks - 1
        words = torch.full(
            (rows * self.lanes + 1,), -1, dtype=_WORDS[self.dtype], device=self.device
        )
        if self.how.chained:
            buffers = (words, nothing, nothing, words[-1:])
            kernel[grid](*tensors, *buffers, *sizes, MODE=_tiles.CHAIN, **constants)
            return
        decays, opens = self.empty(rows, self.lanes), self.empty(rows, self.lanes)
        buffers = (words, decays, opens, nothing)
        kernel[grid](*tensors, *buffers, *sizes, MODE=_tiles.SUMMARY, **constants)
        _triton.join_kernel[(cdiv(self.lanes, 64 * self.parts),)](
            *(words, decays, opens, decays if start is None else start, rows, self.lanes),
            HAS_START=start is not None,
            TYPE=constants["TYPE"],
            C=self.parts,
            BLOCK=64,
            num_warps=2,  # pyright: ignore[reportCallIssue]
        )
        kernel[grid](*tensors, *buffers, *sizes, MODE=_tiles.APPLY, **constants)


def _flags(reset: Tensor | None, instead: Tensor) -> Tensor:
    return instead if reset is None else reset.contiguous().view(torch.uint8)


def forward(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    pairs: bool,
    how: Plan | None = None,
) -> tuple[Tensor, Tensor]:
    """The scan; arguments and results are those of ``reference.forward``.

    ``how`` overrides :func:`plan`; it changes the speed, and results by rounding only.
    """
    shape = b.shape
    a, b = a.contiguous(), b.contiguous()
    h = torch.empty_like(b)
    if how is None:
        how = plan(*shape[:3], 2 if pairs else 1, b.itemsize, reset is not None)
    scan = _Pass(b, a, reset, pairs, how)
    h_last = scan.empty(shape[0], *shape[2:])
    if h.numel():
        h0 = None if h0 is None else h0.contiguous()
        with torch.cuda.device_of(b):
            scan.launch(
                _triton.forward_kernel,
                (a, b, b if h0 is None else h0, _flags(reset, b), h, h_last),
                h0,
                HAS_H0=h0 is not None,
                DOWN=reverse,
            )
    return h, h_last


def backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    pairs: bool,
    need_a: bool,
    how: Plan | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint; arguments and results are those of ``reference.backward``.

    ``how`` overrides :func:`plan`, as in :func:`forward`.
    """
    shape = h.shape
    a, h = a.contiguous(), h.contiguous()
    if how is None:
        how = plan(*shape[:3], 2 if pairs else 1, h.itemsize, True)
    scan = _Pass(h, a, reset, pairs, how)
    total = need_a and a.shape[1] == 1
    shared = need_a and a.shape[0] == 1 and shape[0] > 1
    db = torch.empty_like(h)
    dh0 = scan.empty(0) if h0 is None else scan.empty(*h0.shape)
    if not need_a:
        da = a.new_empty(0)
    elif total:
        da = scan.empty(shape[0], scan.chunks, *shape[2:])
    else:
        da = scan.empty(*shape, dtype=scan.dtype if shared else a.dtype)
    if h.numel():
        grads = [None if x is None else x.contiguous() for x in (grad_h, grad_last, h0)]
        grad_h, grad_last, h0 = grads
        with torch.cuda.device_of(h):
            scan.launch(
                _triton.backward_kernel,
                (
                    h if grad_h is None else grad_h,
                    h if grad_last is None else grad_last,
                    *(a, h, h if h0 is None else h0, _flags(reset, h), da, db, dh0),
                ),
                grad_last,
                HAS_GRAD=grad_h is not None,
                HAS_GRAD_LAST=grad_last is not None,
                HAS_H0=h0 is not None,
                DA=(_triton.TOTAL if total else _triton.EACH) if need_a else _triton.NONE,
                DOWN=not reverse,
            )
    if total:
        # The sum over time has L terms: tiles add theirs in double.
        axes = (0, 1) if shared else 1
        da = da.sum(axes, dtype=torch.float64, keepdim=True)
    elif shared:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), db, dh0
