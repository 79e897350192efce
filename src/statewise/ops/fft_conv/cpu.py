"""CPU back end of the convolution: numba kernels over pieces of sequences and packs of channels."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.blocks import MIN_ELEMENTS, cut
from statewise.ops.fft_conv import _kernels
from statewise.ops.fft_conv.plan import Piece, Sizes, plan, radices, twiddles
from statewise.ops.fft_conv.state import carry_back, last_state
from statewise.ops.precision import accumulation_dtype
from statewise.ops.simd import elements

SIZES = Sizes(cached=8192)
"""A point of a transform takes 64 bytes, and 8192 of them half of a common second cache."""

BLOCK = 256
"""Points of a block that is transformed, multiplied and brought back in the first cache."""

ROWS = 8
"""Sequences whose gradient of k is summed as spectra, before it joins the rest."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("fft_conv", device)


class _Lanes:
    """Channels rounded up to whole packs; few channels are joined by those of all sequences."""

    def __init__(self, u: Tensor, reset: Tensor | None) -> None:
        self.batch, self.length, self.channels = u.shape
        self.dtype = accumulation_dtype(u.dtype)
        self.pack = elements(self.dtype.itemsize)
        self.folded = self.channels < self.pack and self.batch > 1 and reset is None
        lanes = self.channels * (self.batch if self.folded else 1)
        self.pad = -lanes % self.pack
        self.lanes = lanes + self.pad
        self.rows = 1 if self.folded else self.batch

    def array(self, x: Tensor) -> np.ndarray:
        """(B, T, D) as (rows, T, lanes)."""
        if self.folded:
            x = x.transpose(0, 1).reshape(1, x.shape[1], self.batch * self.channels)
        if self.pad:
            x = torch.nn.functional.pad(x, (0, self.pad))
        return as_array(x, self.dtype)

    def parameter(self, x: Tensor) -> np.ndarray:
        """(D, ...) as (lanes, ...)."""
        if self.folded:
            x = x.repeat(self.batch, *(1,) * (x.dim() - 1))
        if self.pad:
            x = torch.cat([x, x.new_zeros((self.pad, *x.shape[1:]))])
        return as_array(x, self.dtype)

    def tensor(self, x: Tensor) -> Tensor:
        """(rows, T, lanes) as (B, T, D)."""
        if self.pad:
            x = x[:, :, : self.lanes - self.pad]
        if self.folded:
            x = x.reshape(x.shape[1], self.batch, self.channels).transpose(0, 1)
        return x.contiguous()

    def gradient(self, x: Tensor) -> Tensor:
        """Gradient of a parameter, (parts, lanes, ...), as (D, ...)."""
        x = x.sum(0)[: self.lanes - self.pad]
        return x.reshape(-1, self.channels, *x.shape[1:]).sum(0)


class _Transform:
    """What the kernels need of one size of transform; and the spectra of the taps."""

    def __init__(self, lanes: _Lanes, k: np.ndarray, points: int, taps: int) -> None:
        table, offsets = twiddles(points, str(k.dtype))
        passes = np.array(radices(points), np.int64)
        self.tables = (table, offsets, passes)
        self.plan = (BLOCK, 4 if points <= 2048 else 2)
        self.taps = taps
        self.packs = lanes.lanes // lanes.pack
        self.spectra = np.empty((self.packs, 2 * points * lanes.pack), k.dtype)
        work = lanes.lanes * points * 4
        pool.run([partial(self._spectra, k, *block[2:]) for block in cut(1, self.packs, work, 1)])

    def _spectra(self, k: np.ndarray, p0: int, p1: int) -> None:
        _kernels.spectra(k, self.taps, self.spectra, self.tables, BLOCK, p0, p1)


def forward(
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_state: bool,
) -> tuple[Tensor, Tensor]:
    """The compiled convolution; arguments and results are those of ``reference.forward``."""
    lanes, K = _Lanes(u, reset), k.shape[1]
    last = last_state(u, state, reset, reverse, K, need_state)
    if not u.numel():
        return torch.empty_like(u, memory_format=torch.contiguous_format), last
    x, taps = lanes.array(u), lanes.parameter(k)
    before = x if state is None else lanes.array(state)
    skip = taps.reshape(-1) if d is None else lanes.parameter(d)
    y = torch.empty((lanes.rows, lanes.length, lanes.lanes), dtype=lanes.dtype)
    sizes = (lanes.length, lanes.lanes, K)
    work = plan(lanes.rows, lanes.length, K, state is not None, reset, reverse, SIZES)
    for (points, reach), found in work.items():
        transform = _Transform(lanes, taps, points, reach)
        arguments = (
            *(x, before, skip, d is not None, y.numpy(), transform.spectra),
            *(np.array(found, np.int64), transform.tables, sizes, transform.plan, reverse),
        )
        numbers = len(found) * points * 8 * lanes.lanes
        blocks = cut(len(found), transform.packs, numbers, transform.plan[1])
        pool.run([partial(_kernels.forward, *arguments, *block) for block in blocks])
    return lanes.tensor(y).to(u.dtype), last


def _parts(found: list[Piece], rows: int) -> list[tuple[int, int, int]]:
    """(part, i0, i1): the pieces of each ROWS sequences."""
    ends = np.searchsorted([piece.row for piece in found], range(0, rows + ROWS, ROWS))
    return [(part, int(ends[part]), int(ends[part + 1])) for part in range(len(ends) - 1)]


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_u: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    lanes, dtype = _Lanes(u, reset), accumulation_dtype(u.dtype)
    du = torch.zeros(u.shape if need_u else 0, dtype=dtype)
    dk = torch.zeros(k.shape if need_k else 0, dtype=dtype)
    with_state = need_u and state is not None
    carried = (lanes.batch, k.shape[1] - 1, lanes.channels) if with_state else 0
    dstate = torch.zeros(carried, dtype=dtype)
    if grad_y is not None and u.numel():
        parts = _products(lanes, grad_y, u, k, d, state, reset, reverse, need_u, need_k)
        if need_u:
            du = lanes.tensor(parts[0])
        if with_state:
            dstate = lanes.tensor(parts[1])
        if need_k:
            dk = lanes.gradient(parts[2])
    if grad_last is not None and need_u:
        carry_back(grad_last, lanes.length, du, dstate if with_state else None, reset, reverse)
    # The gradient of the skip is that of the tap at lag 0: both are Σ ȳ_t u_t.
    dd = dk[:, 0].clone() if need_k and d is not None else torch.zeros(0, dtype=dtype)
    return du.to(u.dtype), dk, dd, dstate


def _products(
    lanes: _Lanes,
    grad_y: Tensor,
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_u: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u, the state and, by parts of the batch, k, in the kernels' layout."""
    K, rows, width = k.shape[1], lanes.rows, lanes.lanes
    count = -(-rows // ROWS)
    du = torch.empty((rows, lanes.length, width) if need_u else 0, dtype=lanes.dtype)
    carried = (rows, K - 1, width) if need_u and state is not None else (0, 0, 0)
    dstate = torch.zeros(carried, dtype=lanes.dtype)
    dk = torch.zeros((count, width, K) if need_k else 0, dtype=lanes.dtype)
    g, x, taps = lanes.array(grad_y), lanes.array(u), lanes.parameter(k)
    before = x if state is None else lanes.array(state)
    skip = taps.reshape(-1) if d is None else lanes.parameter(d)
    work = plan(rows, lanes.length, K, state is not None, reset, reverse, SIZES)
    for (points, reach), found in work.items():
        transform = _Transform(lanes, taps, points, reach)
        part_dk = torch.zeros((count, width, reach) if need_k else (1, 1, 1), dtype=lanes.dtype)
        arguments = (
            *(g, x, before, skip, d is not None, du.numpy() if need_u else g, dstate.numpy()),
            *(need_u, part_dk.numpy(), need_k, transform.spectra, np.array(found, np.int64)),
            *(transform.tables, (lanes.length, width, K), transform.plan, reverse),
        )
        several = max(1, len(found) * points * 16 * width // MIN_ELEMENTS)
        columns = min(-(-min(pool.threads(), several) // count), transform.packs)
        edges = [c * transform.packs // columns for c in range(columns + 1)]
        calls = [
            partial(_kernels.backward, *arguments, part, i0, i1, p0, p1)
            for part, i0, i1 in _parts(found, rows)
            for p0, p1 in pairwise(edges)
        ]
        pool.run(calls)
        if need_k:
            dk[:, :, :reach] += part_dk
    return du, dstate, dk


def warm() -> None:
    """Compile every kernel, for both precisions."""
    for dtype in (torch.float32, torch.float64):
        u, k, d = torch.zeros((1, 2, 8), dtype=dtype), torch.zeros((8, 2), dtype=dtype), None
        y, last = forward(u, k, d, None, None, False, True)
        backward(y, last, u, k, d, None, None, False, True, True)
