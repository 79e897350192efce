"""Numba kernels of Philox 4x32-10: bits of a block of counters, then numbers from them."""

from __future__ import annotations

import math

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.philox.reference import MULTIPLIERS, ROUNDS, WEYL
from statewise.ops.simd import WIDER, apart, broadcast, load, mul, store, width
from statewise.ops.simd_math import log

LOW, HALF, REST = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(11)
P, Q = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
STEP0, STEP1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
QUARTER, THIRD = np.uint64(0x3FFFFFFFFFFFFFFF), np.uint64(62)

CHUNK = 512
"""Blocks at a time, so that what lies between the loops stays in the nearest cache."""

ROUND = 32
"""A divisor of that, and a multiple of the numbers that fit into registers."""


@kernel
def _sine(x, z):
    """Of x between −π/4 and π/4, with z = x²."""
    odd = -1 / 1307674368000
    odd = odd * z + 1 / 6227020800
    odd = odd * z - 1 / 39916800
    odd = odd * z + 1 / 362880
    odd = odd * z - 1 / 5040
    odd = odd * z + 1 / 120
    odd = odd * z - 1 / 6
    return x + x * z * odd


@kernel
def _cosine(z):
    even = 1 / 20922789888000
    even = even * z - 1 / 87178291200
    even = even * z + 1 / 479001600
    even = even * z - 1 / 3628800
    even = even * z + 1 / 40320
    even = even * z - 1 / 720
    even = even * z + 1 / 24
    return 1.0 + z * (even * z - 0.5)


@kernel
def _bits(key, stream, first, count, v, w):
    for j in range(count):
        block = first + np.uint64(j)
        c0, c1, c2, c3 = block & LOW, block >> HALF, stream & LOW, stream >> HALF
        k0, k1 = key & LOW, key >> HALF
        for _ in range(ROUNDS):
            p, q = P * c0, Q * c2
            c0, c1, c2, c3 = (q >> HALF) ^ c1 ^ k0, q & LOW, (p >> HALF) ^ c3 ^ k1, p & LOW
            k0, k1 = (k0 + STEP0) & LOW, (k1 + STEP1) & LOW
        v[j] = (c1 << HALF) | c0
        w[j] = (c3 << HALF) | c2


@kernel
def _turned(r, w, c, s):
    """√r cos θ and √r sin θ, θ from the bits w."""
    apart()
    for j in range(len(r)):
        # The quarter of the circle, and the way along it from its middle.
        turn = w[j] >> THIRD
        x = (((w[j] & QUARTER) >> REST) * 2.0**-51 - 0.5) * (math.pi / 2)
        z = x * x
        sine, cosine = _sine(x, z), _cosine(z)
        odd = (turn & np.uint64(1)) != np.uint64(0)
        first = -sine if odd else cosine
        second = cosine if odd else sine
        length = math.sqrt(r[j])
        length = -length if turn > np.uint64(1) else length
        c[j], s[j] = length * first, length * second


@kernel
def scratch():
    """What :func:`uniform` and :func:`normal` work on, for kernels that call them."""
    return np.zeros((2, CHUNK), np.uint64), np.zeros((3, CHUNK))


@kernel
def uniform(key, stream, start, stop, first, second, spare):
    """Of each block from start to stop a number to ``first`` and one to ``second``, if it fits."""
    v, w = spare[0][0], spare[0][1]
    for o in range(start, stop, CHUNK):
        count, at = min(CHUNK, stop - o), o - start
        _bits(key, stream, np.uint64(o), count, v, w)
        for j in range(count):
            first[at + j] = (v[j] >> REST) * 2.0**-53
        for j in range(min(count, len(second) - at)):
            second[at + j] = (w[j] >> REST) * 2.0**-53


@kernel
def normal(key, stream, start, stop, first, second, spare):
    """Likewise, with normal numbers."""
    v, w = spare[0][0], spare[0][1]
    r, c, s = spare[1][0], spare[1][1], spare[1][2]
    W = width(r, WIDER)
    scale = broadcast(r, -2.0, WIDER)
    for o in range(start, stop, CHUNK):
        count, at = min(CHUNK, stop - o), o - start
        # Loops end at a multiple of what the compiler packs, so that none has single steps left.
        full = (count + ROUND - 1) // ROUND * ROUND
        _bits(key, stream, np.uint64(o), full, v, w)
        for j in range(full):
            r[j] = ((v[j] >> REST) + np.uint64(1)) * 2.0**-53
        for j in range(0, full, W):
            store(r, j, mul(scale, log(load(r, j, WIDER))))
        _turned(r[:full], w, c, s)
        for j in range(count):
            first[at + j] = c[j]
        for j in range(min(count, len(second) - at)):
            second[at + j] = s[j]
