"""GPU back end of the selective scan: recurrences in registers, channels on lanes.

Where batch × channels fill the machine, time is walked in one piece. Elsewhere it is cut into
segments: one kernel finds what each segment but the last does to the state, and the scan starts
every segment from what those before it add up to. That costs every exponential twice, so no more
segments are made than the machine needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.precision import accumulation_dtype
from statewise.ops.selective_scan._gpu_backward import adjoint_kernel
from statewise.ops.selective_scan._gpu_forward import scan_kernel, summary_kernel
from statewise.ops.selective_scan._gpu_math import LOG2E
from statewise.ops.selective_scan._shapes import chunk_of, states_shape, varies

LANES = 32
PROGRAMS = 2112
"""Programs of one warp that keep a large GPU busy, four a scheduler: measured on an H100."""

SHORTEST = 256
"""Steps below which a segment is not worth a program."""

# Triton's annotations would have flags be constexpr objects.
_summary: Any = summary_kernel
_scan: Any = scan_kernel
_adjoint: Any = adjoint_kernel


@dataclass(frozen=True)
class Plan:
    """How one pass is laid out: channels a program, steps a tile of rows, segments of time."""

    block: int
    steps: int
    segments: int


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("selective_scan", device, dtype)


def plan_forward(
    batch: int, length: int, groups: int, per_group: int, states: int, words: int
) -> Plan:
    """The layout of the forward pass, a function of shapes and types alone.

    A lane holds one or two channels with all their states: two where those are at most 16 registers
    a channel, so that what a lane reads of B and C serves twice. Where the states of one channel
    take more, the block is halved until a lane holds few enough. ``words`` is the number of
    registers for one number.
    """
    block, held = _block(per_group, states, words)
    if block == LANES and held <= 16 and per_group >= 2 * LANES:
        block *= 2
    # Wide blocks leave room for half as many programs on the machine.
    programs = PROGRAMS * LANES // max(block, LANES)
    return Plan(block, 2, _segments(batch, length, groups * cdiv(per_group, block), programs))


def plan_backward(
    batch: int, length: int, groups: int, per_group: int, states: int, words: int, zoh: bool
) -> Plan:
    """The layout of the backward pass, a function of shapes, types and rule alone.

    Registers hold the states and the decays of a tile of steps: 64 of them when full, fewer
    where the arithmetic of a step needs more room. Their number divides the chunk.
    """
    block, held = _block(per_group, states, words)
    room = min(max(32 // (held * (words + zoh)), 1), 8)
    steps = 1 << (room.bit_length() - 1)
    return Plan(block, steps, _segments(batch, length, groups * cdiv(per_group, block), PROGRAMS))


def _block(per_group: int, states: int, words: int) -> tuple[int, int]:
    """Channels a program, and registers of a lane that hold their states."""
    needed = next_power_of_2(states) * words
    block = min(LANES, next_power_of_2(per_group))
    while block > 8 and needed * block > 16 * LANES:
        block //= 2
    return block, max(needed * block // LANES, 1)


def _ahead(words: int) -> int:
    """Steps whose rows are loaded together."""
    return max(8 // words**2, 1)


def _segments(batch: int, length: int, blocks: int, programs: int) -> int:
    wanted = programs // (batch * blocks)
    return max(1, min(wanted, length // SHORTEST))


def _segment(length: int, segments: int, chunk: int) -> tuple[int, int]:
    """The number of segments, and their length, a multiple of the chunk."""
    steps = cdiv(cdiv(length, segments), chunk) * chunk
    return cdiv(length, steps), steps


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever its tensors are on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


class _Operands:
    """What both passes give to their kernels."""

    def __init__(self, u, dt, A, B, C, D, z, bias, reset, reverse, softplus, zoh):
        self.acc = accumulation_dtype(u.dtype)
        self.batch, self.length, self.channels = u.shape
        self.states = A.shape[1]
        self.parts = A.dim() - 1
        self.varies = {name: varies(x, A) for name, x in (("B", B), ("C", C))}
        counts = {x.shape[2] for x in (B, C) if varies(x, A)}
        self.groups = math.lcm(*counts)
        self.u, self.dt = u.contiguous(), dt.contiguous()
        self.z = None if z is None else z.contiguous()
        scale = LOG2E.value
        slow = A.transpose(0, 1).contiguous()
        if self.parts == 1:
            self.A = slow * scale
        else:
            self.A = torch.stack((slow[..., 0] * scale, slow[..., 1]), dim=-1)
        self.B, self.C = self._vectors(B, A), self._vectors(C, A)
        self.D = None if D is None else D.contiguous()
        self.bias = None if bias is None else bias.contiguous()
        self.reset = None if reset is None else reset.contiguous().view(torch.int8)
        self.options = {
            "N": self.states,
            "STATES": next_power_of_2(self.states),
            "PARTS": self.parts,
            "ZOH": zoh,
            "SOFTPLUS": softplus,
            "REVERSE": reverse,
            "HAS_Z": z is not None,
            "HAS_BIAS": bias is not None,
            "HAS_RESET": reset is not None,
            "num_warps": 1,
            "num_stages": 1,
        }

    def _vectors(self, x: Tensor, A: Tensor) -> Tensor:
        """B or C in the accumulation type: every lane reads all of it, and would convert it."""
        x = x.to(self.acc)
        if not varies(x, A):
            return x.transpose(0, 1).contiguous()
        if x.shape[2] != self.groups:
            x = x.repeat_interleave(self.groups // x.shape[2], dim=2)
        return x.contiguous()

    @property
    def per_group(self) -> int:
        return self.channels // self.groups

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """What a plan depends on."""
        words = self.parts * self.acc.itemsize // 4
        return self.batch, self.length, self.groups, self.per_group, self.states, words

    def tile(self, *more: int) -> Tensor:
        """An empty tensor of states: (B, ..., N, D), complex ones with a trailing axis."""
        pair = () if self.parts == 1 else (2,)
        shape = (self.batch, *more, self.states, self.channels, *pair)
        return self.u.new_empty(shape, dtype=self.acc)

    def summaries(
        self, plan: Plan, count: int, steps: int, grad: Tensor | None
    ) -> tuple[Any, Any, Any]:
        """What each segment does to the state, or to the adjoint state given a gradient of y."""
        if count == 1:
            return None, None, None
        ends, decays = self.tile(count), self.tile(count)
        cuts = self.u.new_empty((self.batch, count), dtype=torch.int8)
        adjoint = grad is not None
        blocks = cdiv(self.per_group, plan.block) * self.groups
        ahead = _ahead(self.sizes[-1])
        with _on(self.u):
            _summary[(blocks * self.batch * (count - 1),)](
                self.dt, grad if adjoint else self.u, self.z if adjoint else None, self.A,
                self.C if adjoint else self.B, self.bias, self.reset, ends, decays, cuts,
                self.length, self.channels, self.per_group, self.groups, int(adjoint), count, steps,
                BLOCK=plan.block, STEPS=ahead, ADJOINT=adjoint,
                VARIES=self.varies["C" if adjoint else "B"],
                EVEN=not adjoint or self.length % ahead == 0,
                **(self.options | {"HAS_Z": adjoint and self.z is not None}),
            )  # fmt: skip
        return ends, decays, cuts


def forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    softplus: bool,
    zoh: bool,
    reverse: bool,
    keep: bool,
    plan: Plan | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the kept states; see the reference for the arguments.

    ``plan`` replaces :func:`plan_forward`; results then differ by rounding alone.
    """
    x = _Operands(u, dt, A, B, C, D, z, dt_bias, reset, reverse, softplus, zoh)
    plan = plan or plan_forward(*x.sizes)
    chunk = chunk_of(x.u)
    count, steps = _segment(x.length, plan.segments, chunk)
    ends, decays, cuts = x.summaries(plan, count, steps, None)
    y = torch.empty_like(x.u)
    last = x.tile()
    states = x.u.new_empty(states_shape(u, A, keep), dtype=x.acc)
    start = None if h0 is None else h0.transpose(1, 2).contiguous()
    blocks = cdiv(x.per_group, plan.block) * x.groups
    with _on(x.u):
        _scan[(blocks * x.batch * count,)](
            x.u, x.dt, x.z, x.A, x.B, x.C, x.D, x.bias, start, x.reset, ends, decays, cuts,
            y, last, states if keep else None,
            x.length, x.channels, x.per_group, x.groups, count, steps, cdiv(x.length, chunk),
            BLOCK=plan.block, STEPS=plan.steps, CHUNK=chunk, VARIES_B=x.varies["B"],
            VARIES_C=x.varies["C"], HAS_D=D is not None, HAS_H0=h0 is not None,
            SPLIT=count > 1, KEEP=keep,
            EVEN=x.length % plan.steps == 0, **x.options,
        )  # fmt: skip
    return y, last.transpose(1, 2).contiguous(), states


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    states: Tensor,
    softplus: bool,
    zoh: bool,
    reverse: bool,
    needs: Sequence[bool],
    plan: Plan | None = None,
    matrix: bool | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of u, dt, A, B, C, D, z, dt_bias, h0; see the reference for the arguments.

    ``plan`` replaces :func:`plan_backward`, and ``matrix`` whether sums over channels are matrix
    products. They are unless in float64; operands of half-precision problems then round to tf32.
    """
    x = _Operands(u, dt, A, B, C, D, z, dt_bias, reset, reverse, softplus, zoh)
    plan = plan or plan_backward(*x.sizes, zoh)
    chunk = chunk_of(x.u)
    count, steps = _segment(x.length, plan.segments, chunk)
    grad = torch.zeros_like(x.u) if grad_y is None else grad_y.contiguous()
    end = None if grad_last is None else grad_last.transpose(1, 2).contiguous()
    ends, decays, cuts = x.summaries(plan, count, steps, grad)
    slots = cdiv(x.per_group, plan.block)
    programs = slots * x.groups * x.batch * count
    padded = x.options["STATES"]
    if matrix is None:
        matrix = x.acc == torch.float32 and plan.block >= 16 and padded >= 16
    join = (
        plan.steps == 2 and matrix and x.parts == 1 and all(x.varies.values())
        and needs[3] and needs[4]
    )  # fmt: skip
    scratch = x.u.new_empty(
        programs * (chunk // plan.steps) * padded * plan.block * x.parts, dtype=x.acc
    )
    pair = () if x.parts == 1 else (2,)

    def partial(name: str, need: bool) -> Tensor | None:
        if not need:
            return None
        if not x.varies[name]:
            return x.tile(count)
        shape = (slots, x.batch, x.length, x.groups, x.states, *pair)
        return x.u.new_empty(shape, dtype=x.acc)

    def per_channel(given: Tensor | None) -> Tensor | None:
        shape = (x.batch, count, x.channels)
        return None if given is None else x.u.new_empty(shape, dtype=x.acc)

    du, ddt = torch.empty_like(x.u), torch.empty_like(x.u)
    dz = None if z is None else torch.empty_like(x.u)
    dA, dB, dC = x.tile(count), partial("B", needs[3]), partial("C", needs[4])
    dD, dbias, dh0 = per_channel(D), per_channel(dt_bias), x.tile()
    with _on(x.u):
        _adjoint[(programs,)](
            grad, end, x.u, x.dt, x.z, x.A, x.B, x.C, x.D, x.bias, x.reset, states, ends, decays,
            cuts, scratch, du, ddt, dz, dA, dB, dC, dD, dbias, dh0,
            x.length, x.channels, x.per_group, x.groups, x.batch, count, steps,
            cdiv(x.length, chunk), BLOCK=plan.block, STEPS=plan.steps, COLUMNS=max(plan.steps, 8),
            CHUNK=chunk,
            VARIES_B=x.varies["B"], VARIES_C=x.varies["C"], NEED_B=needs[3], NEED_C=needs[4],
            HAS_D=D is not None, HAS_LAST=end is not None, SPLIT=count > 1,
            EVEN=x.length % plan.steps == 0, MATRIX=matrix,
            PRECISION="tf32x3" if u.dtype == torch.float32 else "tf32", JOIN=join, **x.options,
        )  # fmt: skip

    def vectors(part: Tensor | None, given: Tensor) -> Tensor:
        if part is None:
            return u.new_empty(0)
        if given.dim() == A.dim():
            return part.sum((0, 1)).transpose(0, 1).to(given.dtype)
        whole = part.sum(0) if slots > 1 else part[0]
        if given.shape[2] != x.groups:
            whole = whole.unflatten(2, (given.shape[2], -1)).sum(3)
        return whole.to(given.dtype)

    found = (
        du,
        ddt,
        dA.sum((0, 1)).transpose(0, 1),
        vectors(dB, B),
        vectors(dC, C),
        None if dD is None else dD.sum((0, 1)),
        dz,
        None if dbias is None else dbias.sum((0, 1)),
        None if h0 is None else dh0.transpose(1, 2),
    )
    return tuple(
        g.contiguous() if g is not None and need else u.new_empty(0)
        for g, need in zip(found, needs, strict=True)
    )
