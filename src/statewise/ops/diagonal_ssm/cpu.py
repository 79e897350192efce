"""CPU back end of the diagonal bank: numba kernels over blocks of sequences and channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.ops import blocks, pool
from statewise.ops.arrays import as_array, refuses_cpu, reset_array
from statewise.ops.diagonal_ssm import (
    _constant,
    _constant_backward,
    _varying,
    _varying_backward,
    rules,
)
from statewise.ops.diagonal_ssm._bundle import GROUP, kind
from statewise.ops.diagonal_ssm._tiles import SEGMENT
from statewise.ops.diagonal_ssm.reference import Gradients, bounds_shape, nothing
from statewise.ops.memory import fresh
from statewise.ops.precision import accumulation_dtype
from statewise.ops.simd_pack import WIDE_BYTES

SHARED_STEPS = True
"""Whether steps (B, L, 1) need not be written out for all channels."""

TABLES = 320 * 1024
"""Bytes of tables that a sweep over time uses, so that they stay in the second-level cache."""

MIN_TABLE = 2048
"""Poles that a thread must have tables of before another one is worth waking."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("diagonal_ssm", device)


class _Sizes(NamedTuple):
    """Of one call: the tensors' B, L, D, N, and the blocks that channels are cut into."""

    batch: int
    length: int
    channels: int
    states: int
    width: int

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.width)

    @property
    def padded(self) -> int:
        return self.states + self.states % 2

    @property
    def empty(self) -> bool:
        return self.batch == 0 or self.channels == 0

    def bundles(self, single: bool) -> int:
        return self.batch if single else self.batch // GROUP + self.batch % GROUP


def _sizes(u: Tensor, a: Tensor, dtype: torch.dtype) -> _Sizes:
    batch, length, channels = u.shape
    return _Sizes(batch, length, channels, a.shape[1], len(kind(dtype.itemsize, 1)))


def _run(
    function: Callable[..., None],
    arguments: Callable[[int], tuple],
    room: Callable[[int], int],
    sizes: _Sizes,
    dtype: torch.dtype,
    single: bool,
) -> None:
    """Call ``function`` on blocks of bundles × channel blocks, in threads.

    Sequences go in bundles of ``GROUP``, and what is left one by one; ``single`` sends all one by
    one. Which sequences share a bundle does not depend on the number of threads.

    Args:
        function: a kernel; it is given ``arguments``, scratch memory, and the part to work on.
        arguments: the arguments, given the number of the first bundle.
        room: scratch elements a lane, given a number of channel blocks.
        sizes: sizes of the call.
        dtype: type of the scratch memory.
        single: whether resets keep sequences from sharing bundles.
    """
    units = sizes.bundles(single)
    full = 0 if single else sizes.batch // GROUP
    one = kind(dtype.itemsize, 1)
    work = sizes.batch * sizes.length * sizes.channels * sizes.states
    # Pairs of blocks share the cache lines of the sequences.
    step = 2 * max(1, TABLES // (2 * WIDE_BYTES * 4 * SEGMENT * 2 * sizes.padded))
    calls = []

    def call(first: int, group: int, i0: int, i1: int, p0: int, p1: int) -> None:
        many = kind(dtype.itemsize, group)
        scratch = torch.empty(room(step) * len(many), dtype=dtype).numpy()
        for q0 in range(p0, p1, step):
            function(*arguments(first), scratch, i0, i1, q0, min(q0 + step, p1), one, many)

    for b0, b1, p0, p1 in blocks.cut(units, sizes.blocks, work, align=2):
        middle = min(max(full, b0), b1)
        if middle > b0:
            calls.append(partial(call, b0, GROUP, b0 * GROUP, middle * GROUP, p0, p1))
        if b1 > middle:
            shift = full * (GROUP - 1)
            calls.append(partial(call, middle, 1, middle + shift, b1 + shift, p0, p1))
    pool.run(calls)


def _share(function: Callable[..., None], arguments: tuple, items: int, work: int) -> None:
    """Call ``function`` on the items in about one part a thread."""
    count = max(1, min(pool.threads(), items, work // MIN_TABLE))
    bounds = [items * k // count for k in range(count + 1)]
    pool.run([partial(function, *arguments, *bounds[k : k + 2]) for k in range(count)])


def _complex(x: Tensor) -> np.ndarray:
    return as_array(x, torch.float64).view(np.complex128)[..., 0]


def _real(dtype: torch.dtype) -> type:
    return np.float64 if dtype is torch.float64 else np.float32


def _pairs(x: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Complex numbers as (re, im) in a tensor of its own."""
    return torch.from_numpy(np.stack((np.real(x), np.imag(x)), -1).astype(_real(dtype)))


def _discrete(a: Tensor, b: Tensor, dt: Tensor | None, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """ā and b̄, (D, N) complex, in double precision."""
    if dt is None:
        return _complex(a), _complex(b)
    poles, weights = (torch.view_as_complex(x.double().contiguous()) for x in (a, b))
    found = rules.discretise(rule, poles, dt.double().unsqueeze(-1), weights)
    return found[0].numpy(), found[1].numpy()


def _tables(
    a: np.ndarray, b: np.ndarray, c: Tensor, d: Tensor | None, sizes: _Sizes, dtype: torch.dtype
) -> tuple[np.ndarray, ...]:
    """Tables of powers: power, slope, drive, read, response."""
    shape = (sizes.blocks, sizes.padded)
    powers = (*shape, SEGMENT + 1, 2, sizes.width)
    power, slope = (torch.empty(s, dtype=dtype).numpy() for s in ((2, *powers), powers))
    drive, read = (
        torch.empty((*shape, SEGMENT, 2, sizes.width), dtype=dtype).numpy() for _ in range(2)
    )
    response = torch.empty((sizes.blocks, SEGMENT, sizes.width), dtype=dtype).numpy()
    direct = np.zeros(sizes.channels) if d is None else as_array(d, torch.float64)
    arguments = (a, b, _complex(c), direct, power, slope, drive, read, response)
    _share(_constant.tabulate, arguments, sizes.blocks, a.size)
    return power, slope, drive, read, response


def _coefficients(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, sizes: _Sizes, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients for steps that vary, and the direct term."""
    direct = np.zeros(sizes.channels) if d is None else as_array(d, torch.float64)
    poles, inward, outward = (_complex(x) for x in (a, b, c))
    size = (sizes.blocks, sizes.width)
    return _varying.tabulate(poles, inward, outward, direct, *size, _real(dtype))


def forward(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    h0: Tensor | None,
    dt: Tensor | None,
    reset: Tensor | None,
    rule: str,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled bank; arguments and results are those of ``reference.forward``."""
    dtype = accumulation_dtype(u.dtype)
    sizes = _sizes(u, a, dtype)
    y = fresh(u.shape, dtype)
    last = torch.empty((sizes.batch, *a.shape), dtype=dtype)
    bounds = fresh(bounds_shape(u, a) if keep else (0,), dtype)
    if sizes.empty:
        return y.to(u.dtype), last, bounds
    given = as_array(u, dtype)
    start = last.numpy() if h0 is None else as_array(h0, dtype)
    resets = (reset_array(reset), reset is not None)
    kept = bounds.numpy() if keep else np.empty((0, 0, 0, 0, 0), given.dtype)
    results = (y.numpy(), last.numpy(), kept, keep, reverse)
    if dt is not None and dt.dim() == 3:
        table = _coefficients(a, b, c, d, sizes, dtype)
        arguments = (given, as_array(dt, dtype), start, h0 is not None, *resets, rule == "zoh",
                     *table, *results)  # fmt: skip
        _run(_varying.forward, lambda first: arguments, partial(_varying.room, sizes.states),
             sizes, dtype, reset is not None)  # fmt: skip
    else:
        power, _, *tables = _tables(*_discrete(a, b, dt, rule), c, d, sizes, dtype)
        arguments = (given, start, h0 is not None, *resets, power, *tables, *results)
        _run(_constant.forward, lambda first: arguments, partial(_constant.room, sizes.states),
             sizes, dtype, reset is not None)  # fmt: skip
    return (y if u.dtype is dtype else y.to(u.dtype)), last, bounds


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    h0: Tensor | None,
    dt: Tensor | None,
    reset: Tensor | None,
    bounds: Tensor,
    rule: str,
    reverse: bool,
    need_parameters: bool,
) -> Gradients:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    dtype = accumulation_dtype(u.dtype)
    sizes = _sizes(u, a, dtype)
    du = fresh(u.shape, dtype)
    dh0 = None if h0 is None else torch.empty(h0.shape, dtype=dtype)
    if sizes.empty:
        return nothing(du, a, b, c, d, dh0, dt, need_parameters)
    ends = np.zeros(u.shape, du.numpy().dtype) if grad_y is None else as_array(grad_y, dtype)
    some = torch.empty((1, *a.shape), dtype=dtype).numpy()
    inward = (some if grad_last is None else as_array(grad_last, dtype), grad_last is not None)
    resets = (reset_array(reset), reset is not None)
    outward = (du.numpy(), some if dh0 is None else dh0.numpy())
    task = _Task(sizes, dtype, reset is not None, ends, inward, h0 is not None, resets, outward)
    if dt is not None and dt.dim() == 3:
        found = _by_steps(task, u, a, b, c, d, dt, bounds, rule, reverse, need_parameters)
    else:
        found = _by_powers(task, u, a, b, c, d, dt, bounds, rule, reverse, need_parameters)
    da, db, dc, dd, ddt = found
    return Gradients(du if u.dtype is dtype else du.to(u.dtype), da, db, dc, dd, dh0, ddt)


class _Task(NamedTuple):
    """What both kinds of backward pass share."""

    sizes: _Sizes
    dtype: torch.dtype
    single: bool
    ends: np.ndarray
    inward: tuple[np.ndarray, bool]
    has_h0: bool
    resets: tuple[np.ndarray, bool]
    outward: tuple[np.ndarray, np.ndarray]

    def sums(self, *rows: int) -> np.ndarray:
        """Zeros (bundles, blocks, rows..., W) in double precision."""
        lead = (self.sizes.bundles(self.single), self.sizes.blocks)
        return np.zeros((*lead, *rows, self.sizes.width))


def _by_powers(
    task: _Task, u: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, dt: Tensor | None,
    bounds: Tensor, rule: str, reverse: bool, need_parameters: bool,
) -> list[Tensor | None]:  # fmt: skip
    """Constant poles: gradients of a, b, c, d and dt, where wanted."""
    sizes, dtype = task.sizes, task.dtype
    poles, weights = _discrete(a, b, dt, rule)
    power, slope, *tables = _tables(poles, weights, c, d, sizes, dtype)
    room = partial(_constant.room, sizes.states)
    if not need_parameters:
        arguments = (task.ends, *task.inward, task.has_h0, *task.resets, power, *tables,
                     *task.outward, reverse)  # fmt: skip
        _run(_constant.adjoint, lambda first: arguments, room, sizes, dtype, task.single)
        return [None] * 5
    sums = task.sums(sizes.padded, 2 * _constant.MOMENTS)
    lags = task.sums(SEGMENT)
    given, kept = as_array(u, dtype), as_array(bounds, dtype)

    def arguments_from(first: int) -> tuple:
        return (given, task.ends, *task.inward, kept, task.has_h0, *task.resets, power, slope,
                *tables, *task.outward, sums, lags, first, reverse)  # fmt: skip

    _run(_constant_backward.backward, arguments_from, room, sizes, dtype, task.single)
    da, db, dc = (torch.empty(a.shape[:2], dtype=torch.complex128) for _ in range(3))
    dd = torch.empty(sizes.channels, dtype=torch.float64)
    results = (da.numpy(), db.numpy(), dc.numpy(), dd.numpy())
    arguments = (poles, weights, _complex(c), sums, lags, *results)
    _share(_constant_backward.collect, arguments, sizes.channels, poles.size)
    ddt = None
    if dt is not None:
        lam, inner = (torch.view_as_complex(x.double().contiguous()) for x in (a, b))
        da, db, steps = rules.gradients(rule, lam, dt.double().unsqueeze(-1), inner, da, db)
        ddt = steps.sum(-1).to(dtype)
    pairs = [_pairs(x.numpy(), dtype) for x in (da, db, dc)]
    return [*pairs, None if d is None else dd.to(dtype), ddt]


def _by_steps(
    task: _Task, u: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, dt: Tensor,
    bounds: Tensor, rule: str, reverse: bool, need_parameters: bool,
) -> list[Tensor | None]:  # fmt: skip
    """Steps that vary: gradients of a, b, c, d and dt, where wanted."""
    sizes, dtype = task.sizes, task.dtype
    table = _coefficients(a, b, c, d, sizes, dtype)
    shared = dt.shape[2] != sizes.channels
    shape = (*u.shape[:2], sizes.blocks) if shared else u.shape
    ddt = torch.empty(shape if need_parameters else (0, 0, 0), dtype=dtype)
    sums, straight = task.sums(sizes.states, _varying.GRADIENTS), task.sums(1)
    kept = as_array(bounds, dtype) if need_parameters else np.empty((0,) * 5, task.ends.dtype)
    given, steps = as_array(u, dtype), as_array(dt, dtype)

    def arguments_from(first: int) -> tuple:
        return (given, steps, task.ends, *task.inward, kept, task.has_h0, *task.resets,
                rule == "zoh", *table, *task.outward, ddt.numpy(), sums, straight, first,
                need_parameters, reverse)  # fmt: skip

    room = partial(_varying.room, sizes.states)
    _run(_varying_backward.backward, arguments_from, room, sizes, dtype, task.single)
    if not need_parameters:
        return [None] * 5
    # (N, 6, blocks, W) to (D, N, 6)
    found = sums.sum(0).transpose(0, 3, 1, 2).reshape(-1, sizes.states, _varying.GRADIENTS)
    da, db, dc = np.moveaxis(found[: sizes.channels].copy().view(np.complex128), -1, 0)
    whole = (da, db / np.conj(_varying.away_from_zero(_complex(a))), dc)
    pairs = [_pairs(x, dtype) for x in whole]
    dd = torch.from_numpy(straight.sum((0, 2)).reshape(-1)[: sizes.channels]).to(dtype)
    if shared:
        ddt = torch.from_numpy(ddt.numpy().sum(-1, keepdims=True))
    return [*pairs, None if d is None else dd, ddt]


def warm() -> None:
    """Compile every kernel, for both precisions, single sequences and bundles."""
    for dtype in (torch.float32, torch.float64):
        for batch in (1, GROUP):
            u = torch.zeros((batch, 2, 1), dtype=dtype)
            a = torch.zeros((1, 1, 2), dtype=dtype)
            for dt, rule in ((None, ""), (torch.ones_like(u), "zoh")):
                start = (u, a, a, a, None, None, dt, None)
                y, last, bounds = forward(*start, rule, False, True)
                for parameters in (False, True):
                    backward(y, last, *start, bounds, rule, False, parameters)
