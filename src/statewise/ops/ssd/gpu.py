"""The Triton back end of ``ssd``.

Forward: one kernel walks over blocks of 64 steps, the state in registers, and writes y. Where
few heads and batches leave the device idle, time is cut in segments: a first kernel computes the
state that each segment adds, a second chains them, and the walks of all segments start at once.

Backward: the adjoint is the same scan run backward, and writes the gradient of x and the adjoint
states after all blocks; the states before all blocks are computed again from the kept ones; then
two kernels compute the other gradients of all blocks at once, first what steps receive as
readers of the state, then as its sources.
"""

# Triton's annotations would have flags be constexpr objects.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from statewise.ops.gpu import cdiv, interpreting, refuses_gpu
from statewise.ops.precision import accumulation_dtype
from statewise.ops.ssd import reference
from statewise.ops.ssd._gpu_config import Config, Launch, configuration, heads_together, segments
from statewise.ops.ssd._gpu_readers import readers_kernel
from statewise.ops.ssd._gpu_scan import chain_kernel, scan_kernel
from statewise.ops.ssd._gpu_sources import sources_kernel
from statewise.ops.ssd._library import present
from statewise.ops.ssd._shapes import CHUNK, chunks

_OPERAND = {
    # Triton's interpreter multiplies the bits of bfloat16 as if they were integers.
    torch.bfloat16: (tl.float32 if interpreting() else tl.bfloat16, "tf32"),
    torch.float16: (tl.float32, "tf32"),
    torch.float32: (tl.float32, "tf32x3"),
    torch.float64: (tl.float64, "ieee"),
}
_CHAIN_WIDTH = 1024


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end can compute on such tensors, else why not."""
    return refuses_gpu("ssd", device, dtype)


def _on(x: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _rows(x: Tensor) -> Tensor:
    """A tensor (B, L, heads, width) whose last two axes are contiguous."""
    width = x.shape[3]
    dense = (width == 1 or x.stride(3) == 1) and (x.shape[2] == 1 or x.stride(2) == width)
    return x if dense else x.contiguous()


def _steps(x: Tensor) -> tuple[int, int]:
    return x.stride(0), x.stride(1)


class _Problem:
    """What every launch of one call shares: sizes, flags and types."""

    def __init__(
        self,
        x: Tensor,
        log_a: Tensor,
        w: Tensor | None,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        h0: Tensor | None,
        reset: Tensor | None,
        reverse: bool,
        config: Config | None,
    ) -> None:
        self.batch, self.length, self.heads, self.width = x.shape
        self.groups, self.lanes = B.shape[2:]
        self.config = config or configuration(x.dtype, self.width, self.lanes, reset is not None)
        self.blocks = cdiv(self.length, self.config.block)
        self.tiles = cdiv(self.width, self.config.tile)
        self.per_group = self.heads // self.groups
        self.acc = accumulation_dtype(x.dtype)
        self.x, self.B, self.C = _rows(x), _rows(B), _rows(C)
        self.log_a = log_a.contiguous()
        self.w = None if w is None else w.contiguous()
        self.D = None if D is None else D.contiguous()
        self.z = None if z is None else _rows(z)
        self.h0 = None if h0 is None else h0.contiguous()
        self.reset = None if reset is None else reset.contiguous().view(torch.uint8)
        operand, precision = _OPERAND[x.dtype]
        self.common: dict[str, Any] = {
            "P": self.width,
            "N": self.lanes,
            "Q": self.config.block,
            "PB": self.config.tile,
            "NB": self.config.lanes,
            "HAS_RESET": reset is not None,
            "FRESH": h0 is None,
            "REVERSE": reverse,
            "OPERAND": operand,
            "ACC": tl.float64 if self.acc == torch.float64 else tl.float32,
            "PRECISION": precision,
            "PRECISE": x.dtype == torch.float32,
        }

    def state(self, *leading: int, dtype: torch.dtype | None = None) -> Tensor:
        """An empty (B, ..., H, P, N)."""
        shape = (self.batch, *leading, self.heads, self.width, self.lanes)
        return self.x.new_empty(shape, dtype=dtype or self.acc)

    def pieces(self) -> tuple[int, int]:
        """Segments of time and blocks in each."""
        walks = self.batch * self.heads * self.tiles
        return segments(walks, self.blocks, self.config.programs)

    def scan(
        self,
        v: Tensor,
        count: int,
        per: int,
        launch: Launch,
        *,
        adjoint: bool = False,
        start: Tensor | None = None,
        other: Tensor | None = None,
        y: Tensor | None = None,
        states: Tensor | None = None,
        end: Tensor | None = None,
        total: Tensor | None = None,
        through: Tensor | None = None,
    ) -> None:
        """Launch the scan over ``count`` segments of ``per`` blocks, or its adjoint.

        What it writes is what it is given a tensor for; see the kernel.
        """
        into, out = (self.C, self.B) if adjoint else (self.B, self.C)
        kept = 1 if states is None else states.shape[1]
        every = 1 if kept == self.blocks else CHUNK // self.config.block
        # The gate is on y: the adjoint meets it on its way in, the scan on its way out.
        gate = self.z if adjoint or y is not None else None
        scan_kernel[(self.batch * count * self.heads * self.tiles,)](
            *(v, self.log_a, _or(self.w, v), into, out, _or(self.D, v), _or(gate, v)),
            *(_or(self.reset, v), _or(start, v), _or(other, v), _or(y, v), _or(states, v)),
            *(_or(end, v), _or(total, v), _or(through, v)),
            *(self.length, self.heads, self.per_group, self.blocks, count, per),
            *(kept, every),
            *(*_steps(v), *_steps(into), *_steps(out), *_steps(_or(gate, v))),
            **self.common,
            HAS_W=self.w is not None,
            HAS_D=self.D is not None,
            HAS_Z=gate is not None,
            HAS_START=start is not None,
            ADJOINT=adjoint,
            OUTPUT=y is not None,
            STORE=states is not None,
            SUMMARY=total is not None,
            END=end is not None and total is None,
            THROUGH=through is not None,
            **_launch(launch),
        )

    def starts(self, v: Tensor, first: Tensor | None, adjoint: bool) -> Tensor | None:
        """The state that each segment starts from, (B, segments, H, P, N)."""
        count, per = self.pieces()
        if count == 1:
            return first
        ends = self.state(count)
        total = v.new_empty((self.batch, count, self.heads), dtype=self.acc)
        self.scan(v, count, per, self.config.walk, adjoint=adjoint, end=ends, total=total)
        size = self.width * self.lanes
        chain_kernel[(cdiv(size, _CHAIN_WIDTH), self.batch * self.heads)](
            *(ends, total, _or(first, ends), self.heads, count, size),
            WIDTH=_CHAIN_WIDTH,
            HAS_START=first is not None,
            ADJOINT=adjoint,
        )
        return ends


def _or(x: Tensor | None, other: Tensor) -> Tensor:
    """A tensor for a pointer that the kernel does not read where ``x`` is absent."""
    return other if x is None else x


def _launch(launch: Launch) -> dict[str, int]:
    return {"num_warps": launch.warps, "num_stages": launch.stages}


def forward(
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    keep: bool,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state and the states before each chunk; see the reference."""
    if x.numel() == 0 or B.numel() == 0:
        return reference.forward(x, log_a, w, B, C, D, z, h0, reset, reverse, keep)
    with _on(x):
        problem = _Problem(x, log_a, w, B, C, D, z, h0, reset, reverse, config)
        y = x.new_empty(x.shape)
        last = problem.state()
        kept = problem.state(chunks(problem.length)) if keep else None
        start = problem.starts(problem.x, problem.h0, adjoint=False)
        problem.scan(
            *(problem.x, *problem.pieces(), problem.config.scan),
            start=start,
            y=y,
            states=kept,
            end=last,
        )
    return y, last, last.new_empty(0) if kept is None else kept


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    states: Tensor,
    reverse: bool,
    needs: Sequence[bool],
    config: Config | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of x, log_a, w, B, C, D, z and h0; see the reference."""
    tensors = (x, log_a, w, B, C, D, z, h0)
    if x.numel() == 0 or B.numel() == 0:
        return reference.backward(grad_y, grad_last, *tensors, reset, states, reverse, needs)
    with _on(x):
        problem = _Problem(*tensors, reset, reverse, config)
        grad_y = torch.zeros_like(x) if grad_y is None else grad_y
        g = _rows(grad_y)
        start = None if grad_last is None else grad_last.contiguous()
        dx, afters, dh0 = _adjoint(problem, g, start, needs[7])
        befores, through = _again(problem, states, afters)
        gradients = _gradients(problem, g, befores, afters, through, needs)
    return tuple(
        gradient if need and gradient is not None else like.new_empty(0)
        for gradient, like, need in zip((dx, *gradients, dh0), present(tensors), needs, strict=True)
    )


def _inner_dtype(x: Tensor) -> torch.dtype:
    """The type of states between two kernels: what the matrix units take of them."""
    return x.dtype if x.dtype == torch.bfloat16 else accumulation_dtype(x.dtype)


def _adjoint(
    problem: _Problem, g: Tensor, start: Tensor | None, need_h0: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """∂x, the adjoint of the state after every block, and ∂h0."""
    starts = problem.starts(g, start, adjoint=True)
    dx = g.new_empty(problem.x.shape)
    states = problem.state(problem.blocks, dtype=_inner_dtype(problem.x))
    dh0 = problem.state() if need_h0 else None
    problem.scan(
        *(g, *problem.pieces(), problem.config.scan),
        adjoint=True,
        start=starts,
        y=dx,
        states=states,
        end=dh0,
    )
    return dx, states, dh0


def _again(problem: _Problem, kept: Tensor, afters: Tensor) -> tuple[Tensor, Tensor]:
    """The state before every block, from that before every chunk; what flows through the block."""
    states = torch.empty_like(afters)
    size = (problem.batch, problem.blocks, problem.heads, problem.tiles)
    through = afters.new_empty(size, dtype=problem.acc)
    problem.scan(
        *(problem.x, chunks(problem.length), CHUNK // problem.config.block, problem.config.walk),
        start=kept,
        other=afters,
        states=states,
        through=through,
    )
    return states, through


def _gradients(
    problem: _Problem,
    g: Tensor,
    befores: Tensor,
    afters: Tensor,
    through: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of log_a, w, B, C, D and z, from the states at the edges of every block."""
    x, w, B, C, D, z = problem.x, problem.w, problem.B, problem.C, problem.D, problem.z
    batch, length, blocks = problem.batch, problem.length, problem.blocks
    together = heads_together(
        *(batch * blocks, problem.groups, problem.per_group, problem.config.gradient_programs)
    )
    splits = problem.per_group // together
    dlog_a = torch.empty_like(problem.log_a)
    flow = torch.empty_like(problem.log_a)
    dw = None if w is None else torch.empty_like(w)
    parts = (splits, batch, length, problem.groups, problem.lanes)
    kind = x.dtype if splits == 1 else problem.acc
    db, dc = (x.new_empty(parts if need else 0, dtype=kind) for need in needs[3:5])
    dd_parts = (batch * blocks, problem.heads, problem.width)
    dd = x.new_empty(dd_parts if needs[5] else 0, dtype=problem.acc)
    dz = x.new_empty(x.shape) if needs[6] else None
    grid = (batch * blocks * problem.groups * splits,)
    given = (g, x, problem.log_a, _or(w, x), B, C)
    gates = (_or(z, x), _or(problem.reset, x))
    sizes = (
        *(batch, length, problem.heads, problem.groups, problem.per_group, together, splits),
        *(blocks, *_steps(g), *_steps(x), *_steps(B), *_steps(C), *_steps(_or(z, x))),
    )
    flags = problem.common | _launch(problem.config.gradients)
    flags |= {"HAS_W": w is not None, "HAS_Z": z is not None}
    readers_kernel[grid](
        *(*given, _or(D, x), *gates, befores, flow, dc, dd, _or(dz, x), *sizes),
        **flags,
        HAS_D=D is not None,
        NEED_C=needs[4],
        NEED_D=needs[5],
        NEED_Z=needs[6],
    )
    sources_kernel[grid](
        *(*given, *gates, afters, flow, through, dlog_a, _or(dw, x), db, *sizes),
        **flags,
        NEED_B=needs[3],
    )
    if splits == 1:
        db, dc = (one[0] if one.numel() else one for one in (db, dc))
    else:
        db, dc = (one.sum(0).to(x.dtype) if one.numel() else one for one in (db, dc))
    return [dlog_a, dw, db, dc, dd.sum(0) if needs[5] else None, dz]
