"""How the CPU back end of the selective scan lays out memory and cuts the work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array
from statewise.ops.blocks import MIN_ELEMENTS
from statewise.ops.precision import accumulation_dtype
from statewise.ops.selective_scan import _kernels
from statewise.ops.selective_scan._shapes import varies
from statewise.ops.simd import WIDER, elements

FORWARD_BYTES = 384 * 1024
"""Scratch memory of one task going forward: as wide as the second-level cache allows."""

STEP_BYTES = 16 * 1024
"""Dynamics and states that a tile of steps works on."""

BACKWARD_BYTES = 768 * 1024
"""Scratch memory of one block going back, where a chunk's states are held."""

PANEL = 1024
"""Channels that a task of the backward pass has at most."""

TEAMS = 8
"""Partial sums over channels that a gradient of B or C is made of, at most, for each group."""


class Layout(NamedTuple):
    """Sizes of one call, and how channels are padded within their groups."""

    batch: int
    length: int
    channels: int
    states: int
    groups: int
    pairs: bool
    dtype: torch.dtype
    pack: int

    @property
    def parts(self) -> int:
        return 2 if self.pairs else 1

    @property
    def given(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def group(self) -> int:
        """Channels of a group, with padding."""
        return -(-self.given // self.pack) * self.pack

    @property
    def padded(self) -> int:
        return self.groups * self.group

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.length, self.padded, self.states, self.groups

    def forward_memory(self, lanes: int) -> int:
        return _kernels.forward_memory(self.states, self.parts, lanes, self.pack)

    def backward_memory(self, lanes: int, block: int) -> int:
        return _kernels.backward_memory(self.states, self.parts, lanes, block, self.pack)

    def widen(self, x: Tensor, axis: int) -> Tensor:
        if self.group == self.given:
            return x
        shape = list(x.shape)
        shape[axis] = self.padded
        wide = x.new_zeros(shape)
        inner = wide.unflatten(axis, (self.groups, self.group))
        narrow = inner.narrow(axis + 1, 0, self.given)
        narrow.copy_(x.unflatten(axis, (self.groups, self.given)))
        return wide

    def narrow(self, x: Tensor, axis: int) -> Tensor:
        if self.group == self.given:
            return x
        inner = x.unflatten(axis, (self.groups, self.group)).narrow(axis + 1, 0, self.given)
        return inner.flatten(axis, axis + 1).contiguous()

    def array(self, x: Tensor, axis: int) -> np.ndarray:
        """As a kernel reads it: padded along the channel axis, contiguous, in the right type."""
        return as_array(self.widen(x.detach(), axis), self.dtype).reshape(-1)

    def by_state(self, x: Tensor, axis: int) -> np.ndarray:
        """(…, D, N, …) as (…, N, D, …)."""
        return self.array(x.transpose(axis, axis + 1), axis + 1)

    def by_channel(self, x: Tensor, axis: int) -> Tensor:
        """The inverse: (…, N, D, …) as (…, D, N, …)."""
        return self.narrow(x, axis + 1).transpose(axis, axis + 1).contiguous()


def layout_of(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Layout:
    dtype = accumulation_dtype(u.dtype)
    groups = max(x.shape[2] if varies(x, A) else 1 for x in (B, C))
    pack = WIDER * elements(dtype.itemsize)
    batch, length, channels = u.shape
    return Layout(batch, length, channels, A.shape[1], groups, A.dim() == 3, dtype, pack)


def _fitting(layout: Layout, budget: int, memory: Callable[[int], int]) -> int:
    """Channels of the widest block within the budget of bytes; at least one pack."""
    lanes = layout.pack
    while memory(lanes + layout.pack) * layout.dtype.itemsize <= budget:
        lanes += layout.pack
    return lanes


def threads_for(layout: Layout) -> int:
    work = layout.batch * layout.length * layout.channels * layout.states * layout.parts
    return max(1, min(pool.threads(), work // MIN_ELEMENTS))


def _cut(total: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(step, total - start)) for start in range(0, total, step)]


def forward_block(layout: Layout) -> int:
    """Channels whose dynamics and states stay in the first-level cache for a tile of steps."""
    number = 2 * layout.states * layout.parts * layout.dtype.itemsize
    return max(STEP_BYTES // number // layout.pack, 1) * layout.pack


def forward_tasks(layout: Layout, threads: int) -> list[tuple[int, ...]]:
    """(sequence, first channel, channels), all independent of each other."""
    whole = layout.batch * layout.groups
    pieces = threads // math.gcd(threads, whole) if whole < 8 * threads else 1
    share = -(-layout.group // (pieces * layout.pack)) * layout.pack
    most = _fitting(layout, FORWARD_BYTES, layout.forward_memory)
    return [
        (i, g * layout.group + d0, lanes)
        for i in range(layout.batch)
        for g in range(layout.groups)
        for d0, lanes in _cut(layout.group, min(share, most))
    ]


class Teams(NamedTuple):
    """How the channels of a group are cut where sums over them matter; by the sizes alone."""

    block: int
    depth: int
    count: int


def teams_of(layout: Layout) -> Teams:
    block = _fitting(layout, BACKWARD_BYTES, lambda lanes: layout.backward_memory(lanes, lanes))
    block = min(block, layout.group)
    blocks = -(-layout.group // block)
    depth = -(-blocks // TEAMS)
    return Teams(block, depth, -(-blocks // depth))


def backward_tasks(layout: Layout, teams: Teams, threads: int) -> list[tuple[int, ...]]:
    """Panels of whole teams: (sequence, first channel, channels)."""
    whole = layout.batch * layout.groups
    pieces = threads // math.gcd(threads, whole) if whole < 8 * threads else 1
    width = teams.block * teams.depth
    share = width * max(1, min(teams.count // pieces, PANEL // width))
    return [
        (i, g * layout.group + d0, lanes)
        for i in range(layout.batch)
        for g in range(layout.groups)
        for d0, lanes in _cut(layout.group, share)
    ]
