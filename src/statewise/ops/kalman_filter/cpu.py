"""CPU back end of the Kalman filter and smoother: numba kernels, in float64 whatever is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.blocks import cut
from statewise.ops.kalman_filter import (
    _kernels,
    _kernels_back,
    _kernels_batch,
    _kernels_smooth,
)
from statewise.ops.kalman_filter._small import constant, padded
from statewise.ops.kalman_filter.reference import Parameters, not_positive
from statewise.ops.memory import fresh

SMALL = 4
"""Models of no more states and outputs than this run code compiled for them."""

LINE = 8
"""Numbers in a cache line; a workspace starts at one, since no pack may straddle two."""

SCRATCH = 500_000
"""Numbers of moments that a thread keeps where only gradients of the likelihood are asked for."""

_NO_FLAGS = np.empty(0, np.bool_)
_NO_LENGTHS = np.empty(0, np.int64)
_NOTHING = np.empty(0)


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("kalman_filter", device)


def _flat(x: Tensor | None) -> np.ndarray:
    return _NOTHING if x is None else as_array(x, torch.float64).reshape(-1)


def _strides(parameters: tuple[Tensor | None, ...], each: bool = False) -> np.ndarray:
    """Numbers from one series, and from one step, to the next; 0 where one serves all.

    With ``each`` every series has its own, also where there is only one.
    """
    found = []
    for x in parameters:
        if x is None:
            found.append((0, 0))
            continue
        series, steps, *rest = x.shape
        size = math.prod(rest)
        found.append((size * steps if each or series > 1 else 0, size if steps > 1 else 0))
    return np.array(found, np.int64)


def _sizes(n: int, p: int) -> tuple:
    """Sizes as the kernels take them; padded ones are tuples for small models."""
    wide, narrow = padded(n), padded(p)
    if n <= SMALL and p <= SMALL:
        return n, p, constant(wide), constant(narrow), constant(wide + 4)
    return n, p, wide, narrow, wide + 4


def _workspace(count: int) -> np.ndarray:
    room = np.zeros(count + LINE)
    start = -(room.ctypes.data // room.itemsize) % LINE
    return room[start : start + count]


def _observations(observed: Tensor | None, lengths: Tensor | None) -> tuple:
    return (
        _NO_FLAGS if observed is None else observed.contiguous().numpy().reshape(-1),
        _NO_LENGTHS if lengths is None else lengths.contiguous().numpy(),
    )


def _run(function: Callable[..., object], batch: int, work: int, room: int, p: int) -> None:
    """Call ``function(workspace, index, i0, i1)`` for all series, shared among threads."""
    pool.run(
        [
            partial(function, _workspace(room), np.zeros(padded(p), np.int64), i0, i1)
            for i0, i1, _, _ in cut(batch, 1, work)
        ]
    )


class _Call:
    """A problem as the kernels take it."""

    def __init__(
        self,
        y: Tensor,
        parameters: Parameters,
        start: tuple[Tensor, Tensor],
        observed: Tensor | None,
        lengths: Tensor | None,
        moves_first: bool,
    ) -> None:
        (self.batch, self.length, self.p), self.n = y.shape, parameters[0].shape[-1]
        self.parameters = parameters
        self.seen = (_flat(y), *_observations(observed, lengths))
        self.model = tuple(map(_flat, (*parameters, *start)))
        self.strides = _strides(parameters)
        offsets = (parameters[4] is not None, parameters[5] is not None)
        self.flags = (observed is not None, lengths is not None, *offsets, moves_first)
        self.sizes = _sizes(self.n, self.p)
        self.failed = np.zeros(self.batch, np.int64)

    def filter(
        self,
        out: tuple[np.ndarray, ...],
        stores: bool,
        space: tuple[np.ndarray, np.ndarray],
        series: tuple[int, int, int],
    ) -> None:
        """Filter the series [i0, i1) of ``series``, (base, i0, i1)."""
        flags = (*self.flags, stores)
        rest = (self.strides, flags, self.sizes, self.length, *out, self.failed, *space, *series)
        _kernels.forward(*self.seen, *self.model, *rest)

    def run(self, function: Callable[..., object], rounds: int, room: int) -> None:
        """Call ``function(workspace, index, i0, i1)`` for all series, shared among threads."""
        work = rounds * self.batch * self.length * self.n * self.n
        _run(function, self.batch, work, room, self.p)

    def check(self) -> None:
        """Say at which step the filter stopped, if it did."""
        if self.failed.any():
            series = int(self.failed.argmax())
            raise not_positive(series, int(self.failed[series]) - 1)


class _Gradients:
    """Gradients of y, the parameters and the start, series by series."""

    def __init__(self, call: _Call, y: Tensor, start: tuple[Tensor, Tensor]) -> None:
        self.call, self.dtype = call, y.dtype
        wide = torch.float64
        self.each = [
            torch.zeros(0 if x is None else (call.batch, *x.shape[1:]), dtype=wide)
            for x in call.parameters
        ]
        self.steps = _strides(call.parameters, each=True)
        self.dy = torch.zeros(y.shape, dtype=wide)
        self.ends = [torch.zeros(x.shape, dtype=wide) for x in start]
        self.out = tuple(x.view(-1).numpy() for x in (self.dy, *self.each, *self.ends))

    def add(
        self,
        gradients: tuple[Tensor | None, ...],
        found: tuple[np.ndarray, np.ndarray, np.ndarray],
        space: tuple[np.ndarray, np.ndarray],
        series: tuple[int, int, int],
    ) -> None:
        """Those of the series [i0, i1) of ``series``, (base, i0, i1)."""
        call = self.call
        flags = (*call.flags, *(x is not None for x in gradients))
        given = (*map(_flat, gradients), *call.seen, *call.model, *found)
        rest = (call.strides, self.steps, flags, call.sizes, call.length)
        _kernels_back.backward(*given, *rest, *self.out, *space, *series)

    def read(self) -> tuple[Tensor, ...]:
        """One gradient for each tensor given, in its type."""
        summed = [
            g if x is None or x.shape[0] == self.call.batch else g.sum(0, keepdim=True)
            for g, x in zip(self.each, self.call.parameters, strict=True)
        ]
        return tuple(x.to(self.dtype) for x in (self.dy, *summed, *self.ends))


def forward(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The compiled filter; arguments and results are those of ``reference.forward``."""
    call = _Call(y, (F, H, Q, R, c, d), (m0, P0), observed, lengths, moves_first)
    m = fresh((call.batch, call.length, call.n), torch.float64)
    P = fresh((call.batch, call.length, call.n, call.n), torch.float64)
    ll = torch.empty(call.batch, call.length, dtype=torch.float64)
    still = torch.empty(call.batch, call.length, dtype=torch.bool)
    out = tuple(x.view(-1).numpy() for x in (m, P, ll, still))

    def block(w: np.ndarray, index: np.ndarray, i0: int, i1: int) -> None:
        call.filter(out, True, (w, index), (0, i0, i1))

    call.run(block, 1, _kernels.room(call.n, call.p))
    call.check()
    return m.to(y.dtype), P.to(y.dtype), ll.to(y.dtype), still


def likelihood(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> Tensor:
    """The compiled filter without its moments; see ``reference.likelihood``."""
    call = _Call(y, (F, H, Q, R, c, d), (m0, P0), observed, lengths, moves_first)
    ll = torch.empty(call.batch, call.length, dtype=torch.float64)
    out = (_NOTHING, _NOTHING, ll.view(-1).numpy(), np.empty(ll.numel(), np.bool_))

    def block(w: np.ndarray, index: np.ndarray, i0: int, i1: int) -> None:
        call.filter(out, False, (w, index), (0, i0, i1))

    call.run(block, 1, _kernels.room(call.n, call.p))
    call.check()
    return ll.to(y.dtype)


def backward(
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    y: Tensor,
    parameters: Parameters,
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    lengths: Tensor | None,
    found: tuple[Tensor, Tensor, Tensor],
    moves_first: bool,
) -> tuple[Tensor, ...]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    call = _Call(y, parameters, start, observed, lengths, moves_first)
    sums = _Gradients(call, y, start)
    if y.dtype is not torch.float64:
        # Rounded moments may give gains that have nothing to do with those of the filter.
        wide = y.to(torch.float64)
        m, P, _, still = forward(wide, *parameters, *start, observed, lengths, moves_first)
        found = m, P, still
    kept = _flat(found[0]), _flat(found[1]), found[2].contiguous().view(-1).numpy()

    def block(w: np.ndarray, index: np.ndarray, i0: int, i1: int) -> None:
        sums.add(gradients, kept, (w, index), (0, i0, i1))

    call.run(block, 2, _kernels_back.room(call.n, call.p))
    return sums.read()


def likelihood_backward(
    gll: Tensor,
    y: Tensor,
    parameters: Parameters,
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> tuple[Tensor, ...]:
    """The compiled adjoint of ``likelihood``, which filters a few series again at a time."""
    call = _Call(y, parameters, start, observed, lengths, moves_first)
    sums = _Gradients(call, y, start)
    ll, still = np.empty(call.batch * call.length), np.empty(call.batch * call.length, np.bool_)
    n = call.n
    few = max(1, min(call.batch, SCRATCH // (call.length * (n + n * n))))

    def block(w: np.ndarray, index: np.ndarray, i0: int, i1: int) -> None:
        m, P = (np.empty(few * call.length * k) for k in (n, n * n))
        # Each kernel counts on zeros in the padding of its own workspace.
        own = _workspace(_kernels.room(n, call.p))
        for base in range(i0, i1, few):
            series = (base, base, min(base + few, i1))
            call.filter((m, P, ll, still), True, (own, index), series)
            sums.add((None, None, gll), (m, P, still), (w, index), series)

    call.run(block, 3, _kernels_back.room(n, call.p))
    return sums.read()


def smooth(
    m: Tensor,
    P: Tensor,
    F: Tensor,
    Q: Tensor,
    c: Tensor | None,
    lengths: Tensor | None,
    cross: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled smoother; arguments and results are those of ``reference.smooth``."""
    batch, length, n = m.shape
    ms, Ps = fresh(m.shape, torch.float64), fresh(P.shape, torch.float64)
    both = fresh(P.shape if cross else (0,), torch.float64)
    parameters = (F, Q, c)
    given = (_flat(m), _flat(P), *map(_flat, parameters), _observations(None, lengths)[1])
    flags = (lengths is not None, c is not None, cross)
    _, _, wide, *_ = _sizes(n, 1)
    out = (ms.view(-1).numpy(), Ps.view(-1).numpy(), both.view(-1).numpy())
    strides = _strides(parameters)

    def call(w: np.ndarray, index: np.ndarray, i0: int, i1: int) -> None:
        _kernels_smooth.smooth(*given, strides, flags, (n, wide), length, *out, w, i0, i1)

    _run(call, batch, 2 * batch * length * n * n, _kernels_smooth.room(n), 1)
    return ms.to(m.dtype), Ps.to(m.dtype), both.to(m.dtype)


def _groups(function: Callable[..., object], batch: int, work: int, n: int, p: int) -> None:
    """Call ``function(workspace, index, i0, i1)`` for groups of series, shared among threads."""

    def block(w: np.ndarray, index: np.ndarray, i0: int, i1: int) -> None:
        for i in range(i0, i1, _kernels_batch.ROWS):
            function(w, index, i, min(i + _kernels_batch.ROWS, i1))

    _run(block, batch, work, _kernels_batch.room(n, p), p)


def forward_shared(
    y: Tensor,
    parameters: Parameters,
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    moves_first: bool,
    stores: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The filter of series that differ in y, m0 and offsets alone.

    Their covariances are those of the first, (1, T, n, n). Without ``stores`` neither these nor
    the means count.
    """
    F, H, Q, R, *offsets = parameters
    c, d, seen = (None if x is None else x[:1] for x in (*offsets, observed))
    first = start[0][:1], start[1][:1]
    # Rounded to float32, a covariance may give gains that have nothing to do with it.
    one = y[:1].to(torch.float64)
    _, P, _, still = forward(one, F, H, Q, R, c, d, *first, seen, None, moves_first)
    call = _Call(y, parameters, (start[0], first[1]), seen, None, moves_first)
    m = fresh((call.batch, call.length, call.n if stores else 0), torch.float64)
    ll = torch.empty(call.batch, call.length, dtype=torch.float64)
    has_mask, _, *flags = call.flags
    given = (*call.seen[:2], *call.model, _flat(P), still.view(-1).numpy(), call.strides)
    out = m.view(-1).numpy(), ll.view(-1).numpy()
    more = ((has_mask, *flags, stores), call.sizes, call.length, *out)

    def group(w: np.ndarray, index: np.ndarray, i0: int, i1: int) -> None:
        _kernels_batch.filter_means(*given, *more, w, index, i0, i1)

    _groups(group, call.batch, call.batch * call.length * call.n, call.n, call.p)
    return m.to(y.dtype), P.to(y.dtype), ll.to(y.dtype)


def smooth_shared(
    m: Tensor, P: Tensor, F: Tensor, Q: Tensor, c: Tensor | None, cross: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The smoother of series with one filtered covariance, (1, T, n, n), as are those it gives."""
    batch, length, n = m.shape
    _, Ps, both = smooth(m[:1], P, F, Q, None if c is None else c[:1], None, cross)
    ms = fresh(m.shape, torch.float64)
    parameters = (F, Q, c)
    given = (_flat(m), _flat(P), *map(_flat, parameters), _strides(parameters))
    _, _, wide, *_ = _sizes(n, 1)
    more = ((c is not None, cross), (n, wide), length, ms.view(-1).numpy())

    def group(w: np.ndarray, index: np.ndarray, i0: int, i1: int) -> None:
        _kernels_batch.smooth_means(*given, *more, w, i0, i1)

    _groups(group, batch, batch * length * n, n, 1)
    return ms.to(m.dtype), Ps, both


def warm() -> None:
    """Compile every kernel, for small models and for others."""
    for n in (1, SMALL + 1):
        eye = torch.eye(n, dtype=torch.float64).expand(1, 1, n, n)
        y = torch.zeros(1, 2, n, dtype=torch.float64)
        start = (torch.zeros(1, n, dtype=torch.float64), eye[0])
        m, P, ll, still = forward(y, eye, eye, eye, eye, None, None, *start, None, None, True)
        parameters = (eye, eye, eye, eye, None, None)
        backward((None, None, ll), y, parameters, start, None, None, (m, P, still), True)
        smooth(m, P, eye, eye, None, None, True)
        two, starts = y.expand(2, 2, n), (y[0, :1].expand(2, n), eye[0])
        m, P, _ = forward_shared(two, parameters, starts, None, True, True)
        smooth_shared(m, P, eye, eye, None, True)
