"""Numba kernels that walk a stack of blocks whose arrays are given by their addresses.

``table`` has a row for each block and the columns named here; those from ``REST`` on are for the
kernel between the two large products. ``maps`` is (B, K, rows of W_in, columns of W_out), and
``biased`` says whether these two and the convolution have biases.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.mamba_step import _kernels as layers
from statewise.ops.matvec._kernels import forward
from statewise.ops.pointers import array_at
from statewise.ops.simd import WIDER, load, madd, total, width, zero

NORM, IN, IN_BIAS, OUT, OUT_BIAS, WINDOW, H, LAST, AFTER, REST = range(10)

_mamba, _mamba2 = layers.mamba, layers.mamba2


@kernel
def normalise(table, k, h, inside, eps, maps):
    """Fill ``inside`` with h / rms(h) ⊙ w of block k."""
    batch, inner = maps[0], maps[1]
    W = width(h, WIDER)
    weight, packs = array_at(table[k, NORM], inner, h), inner // W * W
    for i in range(batch):
        at, sums = i * inner, zero(h, WIDER)
        for j in range(0, packs, W):
            v = load(h, at + j, WIDER)
            sums = madd(v, v, sums)
        squares = total(sums)
        for j in range(packs, inner):
            squares += h[at + j] * h[at + j]
        factor = 1 / np.sqrt(squares / inner + eps)
        for j in range(inner):
            inside[at + j] = h[at + j] * factor * weight[j]


@kernel
def enter(table, k, inside, entered, maps, biased, first, stop):
    """Columns [first, stop) of W_in times the normalised rows."""
    batch, inner, rows = maps[0], maps[1], maps[2]
    weight = array_at(table[k, IN], rows * inner, inside)
    bias = array_at(table[k, IN_BIAS], rows, inside)
    forward(inside, weight, bias, biased[0], entered, (batch, inner, rows), first, stop)


@kernel
def leave(table, k, y, out, h, maps, biased, first, stop):
    """Add columns [first, stop) of W_out y to h."""
    batch, inner, wide = maps[0], maps[1], maps[3]
    weight = array_at(table[k, OUT], inner * wide, y)
    bias = array_at(table[k, OUT_BIAS], inner, y)
    forward(y, weight, bias, biased[1], out, (batch, wide, inner), first, stop)
    for i in range(batch):
        for m in range(i * inner + first, i * inner + stop):
            h[m] += out[m]


@kernel
def mamba(table, k, entered, y, scale, has_scale, biased, settings, sizes, wide):
    """From W_in u to the input of W_out in block k; the window and the states move on."""
    batch, channels, states, rank, count = sizes
    past, cells, drawn = batch * (count - 1) * channels, channels * states, rank + 2 * states
    _mamba(
        entered,
        array_at(table[k, WINDOW], past, y),
        array_at(table[k, H], batch * cells, y),
        array_at(table[k, REST], channels * count, y),
        array_at(table[k, REST + 1], channels, y),
        biased[2],
        array_at(table[k, REST + 2], drawn * channels, y),
        array_at(table[k, REST + 3], channels * rank, y),
        array_at(table[k, REST + 4], channels, y),
        array_at(table[k, REST + 5], cells, y),
        array_at(table[k, REST + 6], channels, y),
        scale,
        has_scale,
        y,
        array_at(table[k, LAST], past, y),
        array_at(table[k, AFTER], batch * cells, y),
        sizes,
        wide,
    )


@kernel
def mamba2(table, k, entered, y, scale, has_scale, biased, settings, sizes, wide):
    """See :func:`mamba`; ``settings`` are (numbers in D, whether normed, before the gate, ...)."""
    batch, heads, P, states, _groups, _beside, mixed, count = sizes
    skips, normed, before_gate, eps, low, high = settings
    past, cells = batch * (count - 1) * mixed, batch * heads * P * states
    _mamba2(
        entered,
        array_at(table[k, WINDOW], past, y),
        array_at(table[k, H], cells, y),
        array_at(table[k, REST], mixed * count, y),
        array_at(table[k, REST + 1], mixed, y),
        biased[2],
        array_at(table[k, REST + 2], heads, y),
        array_at(table[k, REST + 3], heads, y),
        array_at(table[k, REST + 4], skips, y),
        array_at(table[k, REST + 5], heads * P, y),
        normed,
        scale,
        has_scale,
        y,
        array_at(table[k, LAST], past, y),
        array_at(table[k, AFTER], cells, y),
        before_gate,
        eps,
        (low, high),
        sizes,
        wide,
    )


@kernel
def walk_mamba(
    table, h, inside, entered, y, out, scale, has_scale, maps, eps, biased, settings, sizes, wide
):
    """All blocks, one after the other, on the calling thread."""
    for k in range(table.shape[0]):
        normalise(table, k, h, inside, eps, maps)
        enter(table, k, inside, entered, maps, biased, 0, maps[2])
        mamba(table, k, entered, y, scale, has_scale, biased, settings, sizes, wide)
        leave(table, k, y, out, h, maps, biased, 0, maps[1])


@kernel
def walk_mamba2(
    table, h, inside, entered, y, out, scale, has_scale, maps, eps, biased, settings, sizes, wide
):
    """See :func:`walk_mamba`."""
    for k in range(table.shape[0]):
        normalise(table, k, h, inside, eps, maps)
        enter(table, k, inside, entered, maps, biased, 0, maps[2])
        mamba2(table, k, entered, y, scale, has_scale, biased, settings, sizes, wide)
        leave(table, k, y, out, h, maps, biased, 0, maps[1])
