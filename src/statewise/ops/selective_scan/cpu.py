"""CPU back end of the selective scan: numba kernels over blocks of channels.

Kernels want the channels of each group in whole packs, so other numbers of channels are padded
with zeros, at the cost of a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import NO_RESET, as_array, refuses_cpu, reset_array
from statewise.ops.memory import fresh
from statewise.ops.selective_scan import _kernels, _kernels_back
from statewise.ops.selective_scan._layout import (
    Layout,
    Teams,
    backward_tasks,
    forward_block,
    forward_tasks,
    layout_of,
    teams_of,
    threads_for,
)
from statewise.ops.selective_scan._shapes import chunks, varies

LOG2E = 1 / math.log(2)


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("selective_scan", device)


def _flat(x: Tensor) -> np.ndarray:
    """A contiguous tensor as the flat array that a kernel fills."""
    return x.view(-1).numpy()


def _total(x: Tensor) -> Tensor:
    """The sum over the first axis, without torch's threads."""
    return x[0] if len(x) == 1 else torch.from_numpy(x.numpy().sum(0))


class _Inputs(NamedTuple):
    """The arrays that both kernels read."""

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    D: np.ndarray
    z: np.ndarray
    bias: np.ndarray
    constant: tuple[bool, bool]


def _inputs(
    layout: Layout,
    u: np.ndarray,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
) -> _Inputs:
    zeros = np.zeros(layout.padded, u.dtype)
    rows = [
        as_array(x, layout.dtype).reshape(-1) if varies(x, A) else layout.by_state(x, 0)
        for x in (B, C)
    ]
    return _Inputs(
        A=layout.by_state(A if layout.pairs else A * LOG2E, 0),
        B=rows[0],
        C=rows[1],
        D=zeros if D is None else layout.array(D, 0),
        z=u if z is None else layout.array(z, 2),
        bias=zeros if dt_bias is None else layout.array(dt_bias, 0),
        constant=(not varies(B, A), not varies(C, A)),
    )


def _aligned(count: int, dtype: torch.dtype) -> np.ndarray:
    """Scratch memory that starts at a multiple of 64 bytes."""
    item = dtype.itemsize
    memory = torch.empty(count + 64 // item, dtype=dtype)
    start = -memory.data_ptr() % 64 // item
    return memory.numpy()[start : start + count]


def _run(
    function: Callable[..., None],
    arguments: tuple,
    tasks: Sequence[tuple[int, ...]],
    threads: int,
    scratch: Callable[[int], tuple[np.ndarray, ...]],
    kind: tuple[bool | None, ...],
) -> None:
    """Share the tasks among threads."""
    most = max(task[2] for task in tasks)
    count = min(threads, len(tasks))
    bounds = [k * len(tasks) // count for k in range(count + 1)]
    table = np.array(tasks, np.int64)
    pool.run(
        [
            partial(function, *arguments, table, first, stop, *scratch(most), *kind)
            for first, stop in pairwise(bounds)
        ]
    )


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
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled scan; arguments and results are those of ``reference.forward``."""
    layout = layout_of(u, A, B, C)
    batch, dtype = layout.batch, layout.dtype
    y = fresh((batch, layout.length, layout.padded), dtype)
    state = (layout.states, layout.padded, *A.shape[2:])
    last = torch.empty((batch, *state), dtype=dtype)
    states = torch.empty((batch, chunks(layout.length), *state) if keep else (0,), dtype=dtype)
    if batch and layout.channels:
        x = layout.array(u, 2)
        given = _inputs(layout, x, A, B, C, D, z, dt_bias)
        end = _flat(last)
        arguments = (
            x, layout.array(dt, 2), given.A, given.B, given.C, given.D, given.z, given.bias,
            end if h0 is None else layout.by_state(h0, 1),
            reset_array(reset), _flat(y), end, _flat(states),
            z is not None, h0 is not None, reset is not None, given.constant, softplus, reverse,
            keep, layout.sizes, forward_block(layout),
        )  # fmt: skip
        threads = threads_for(layout)

        def scratch(lanes: int) -> tuple[np.ndarray, ...]:
            return (_aligned(layout.forward_memory(lanes), dtype),)

        tasks = forward_tasks(layout, threads)
        kind = (layout.pairs or None, zoh or None, any(given.constant) or None)
        _run(_kernels.forward, arguments, tasks, threads, scratch, kind)
    kept = layout.narrow(states, 3) if keep else states
    return layout.narrow(y, 2).to(u.dtype), layout.by_channel(last, 1), kept


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
) -> tuple[Tensor, ...]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    layout = layout_of(u, A, B, C)
    batch, dtype = layout.batch, layout.dtype
    rows = (batch, layout.length, layout.padded)
    state = (batch, layout.states, layout.padded, *A.shape[2:])
    constant = (not varies(B, A), not varies(C, A))
    work = batch * layout.channels > 0
    teams = teams_of(layout) if work else Teams(0, 0, 1)
    du, ddt = fresh(rows, dtype), fresh(rows, dtype)
    dz = du if z is None else fresh(rows, dtype)
    dA = torch.zeros(state, dtype=torch.float64)
    fill = torch.empty if work else torch.zeros
    dB, dC = (
        fill(0 if fixed else (teams.count, *x.shape), dtype=dtype)
        for x, fixed in zip((B, C), constant, strict=True)
    )
    sum_B, sum_C = (torch.zeros(state if fixed else 0, dtype=torch.float64) for fixed in constant)
    dD, dbias = (torch.zeros((batch, layout.padded), dtype=torch.float64) for _ in range(2))
    dh0 = torch.empty(state if h0 is not None else (0,), dtype=dtype)
    if work:
        x = layout.array(u, 2)
        given = _inputs(layout, x, A, B, C, D, z, dt_bias)
        arguments = (
            x if grad_y is None else layout.array(grad_y, 2),
            x if grad_last is None else layout.by_state(grad_last, 1),
            x, layout.array(dt, 2), given.A, given.B, given.C, given.D, given.z, given.bias,
            NO_RESET if reset is None else reset_array(reset), layout.array(states, 3),
            grad_y is not None, grad_last is not None, z is not None, h0 is not None,
            reset is not None, constant, softplus, reverse,
            *(_flat(x) for x in (du, ddt, dz, dA, dB, dC, sum_B, sum_C, dD, dbias, dh0)),
            layout.sizes, teams.block, teams.depth,
        )  # fmt: skip
        threads = threads_for(layout)

        def scratch(lanes: int) -> tuple[np.ndarray, ...]:
            blocks = -(-lanes // teams.block)
            totals = 3 * layout.states * layout.parts * blocks * teams.block + 2 * lanes
            memory = _aligned(layout.backward_memory(lanes, teams.block), dtype)
            return memory, _aligned(totals, torch.float64)

        tasks = backward_tasks(layout, teams, threads)
        kind = (layout.pairs or None, zoh or None, any(given.constant) or None)
        _run(_kernels_back.backward, arguments, tasks, threads, scratch, kind)
    found = (
        layout.narrow(du, 2),
        layout.narrow(ddt, 2),
        layout.by_channel(_total(dA), 0),
        *(
            layout.by_channel(_total(total), 0) if fixed else _total(g)
            for g, total, fixed in zip((dB, dC), (sum_B, sum_C), constant, strict=True)
        ),
        layout.narrow(_total(dD), 0),
        layout.narrow(dz, 2),
        layout.narrow(_total(dbias), 0),
        layout.by_channel(dh0, 1) if h0 is not None else dh0,
    )
    inputs = (u, dt, A, B, C, D, z, dt_bias, h0)
    return tuple(
        g.to(x.dtype) if x is not None and need else u.new_empty(0)
        for g, x, need in zip(found, inputs, needs, strict=True)
    )


def warm() -> None:
    """Compile every kernel: precisions, real and complex states, input rules, kinds of B and C."""
    absent = (None, None, None, None, None)
    needs = (True,) * 5 + (False,) * 4
    for dtype, pair, zoh, varying in product(
        (torch.float32, torch.float64), ((), (2,)), (False, True), (True, False)
    ):
        u, A = torch.zeros((1, 2, 1), dtype=dtype), torch.zeros((1, 1, *pair), dtype=dtype)
        row = torch.zeros((1, 2, 1, 1, *pair), dtype=dtype) if varying else A
        y, last, states = forward(u, u, A, row, row, *absent, True, zoh, False, True)
        backward(y, last, u, u, A, row, row, *absent, states, True, zoh, False, needs)
