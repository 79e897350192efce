"""A machine for formulas: registers of packs of particles, instructions as data.

Nothing is compiled for a new model. What to decide about an instruction costs some nanoseconds, and
each is done for so many particles at once that this does not count; the registers stay in the
nearest cache.
"""

from __future__ import annotations

import math

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import (
    WIDER,
    add,
    apart,
    broadcast,
    div,
    load,
    madd,
    mul,
    store,
    sub,
    width,
)
from statewise.ops.simd_math import cosine, exp, log, sigmoid, sine

CHUNK = 256
"""Particles of a register."""

ROUND = 32
"""A divisor of that; what is the same for all particles takes so much room. It is also a
multiple of the numbers that fit into registers of the processor."""

(
    ADD, SUB, MUL, DIV, MADD, ADD_S, SUB_S, FROM_S, MUL_S, DIV_S, OVER_S, MADD_S,
    LOAD_X, LOAD_Z, LOAD_Y, LOAD_U, LOAD_C, STORE, SPREAD,
    MAXIMUM, MINIMUM, LESS, AT_MOST, EQUAL, WHERE, NEG, ABS, SQRT,
    EXP, LOG, SIN, COS, SIGMOID, TANH,
    POW, EXPM1, LOG1P, TAN, ATAN, SINH, COSH, ERF, LGAMMA,
) = range(43)  # fmt: skip
"""What the machine does; _S are operations with a number that is the same for all particles."""

APART = 8
"""Numbers between two registers."""

SMALL = 0.4
"""Below this, tanh by a continued fraction: 1 − e^−2x has lost digits there."""


@kernel
def _arithmetic(op, count, R, to, a, b, c):
    """On packs; registers are given by where they begin."""
    apart()
    W = width(R, WIDER)
    if op == ADD:
        for i in range(0, count, W):
            store(R, to + i, add(load(R, a + i, WIDER), load(R, b + i, WIDER)))
    elif op == SUB:
        for i in range(0, count, W):
            store(R, to + i, sub(load(R, a + i, WIDER), load(R, b + i, WIDER)))
    elif op == MUL:
        for i in range(0, count, W):
            store(R, to + i, mul(load(R, a + i, WIDER), load(R, b + i, WIDER)))
    elif op == DIV:
        for i in range(0, count, W):
            store(R, to + i, div(load(R, a + i, WIDER), load(R, b + i, WIDER)))
    else:
        for i in range(0, count, W):
            x, y = load(R, a + i, WIDER), load(R, b + i, WIDER)
            store(R, to + i, madd(x, y, load(R, c + i, WIDER)))


@kernel
def _scaled(op, count, R, to, a, s, c):
    """Likewise, with a number for all particles."""
    apart()
    W = width(R, WIDER)
    same = broadcast(R, s, WIDER)
    if op == ADD_S:
        for i in range(0, count, W):
            store(R, to + i, add(load(R, a + i, WIDER), same))
    elif op == SUB_S:
        for i in range(0, count, W):
            store(R, to + i, sub(load(R, a + i, WIDER), same))
    elif op == FROM_S:
        for i in range(0, count, W):
            store(R, to + i, sub(same, load(R, a + i, WIDER)))
    elif op == MUL_S:
        for i in range(0, count, W):
            store(R, to + i, mul(load(R, a + i, WIDER), same))
    elif op == OVER_S:
        for i in range(0, count, W):
            store(R, to + i, div(same, load(R, a + i, WIDER)))
    else:
        for i in range(0, count, W):
            store(R, to + i, madd(load(R, a + i, WIDER), same, load(R, c + i, WIDER)))


@kernel
def _choice(op, count, to, a, b, c):
    apart()
    if op == MAXIMUM:
        for i in range(count):
            to[i] = a[i] if a[i] > b[i] or a[i] != a[i] else b[i]
    elif op == MINIMUM:
        for i in range(count):
            to[i] = a[i] if a[i] < b[i] or a[i] != a[i] else b[i]
    elif op == LESS:
        for i in range(count):
            to[i] = 1.0 if a[i] < b[i] else 0.0
    elif op == AT_MOST:
        for i in range(count):
            to[i] = 1.0 if a[i] <= b[i] else 0.0
    elif op == EQUAL:
        for i in range(count):
            to[i] = 1.0 if a[i] == b[i] else 0.0
    elif op == WHERE:
        for i in range(count):
            to[i] = b[i] if a[i] != 0.0 else c[i]
    elif op == NEG:
        for i in range(count):
            to[i] = -a[i]
    elif op == ABS:
        for i in range(count):
            to[i] = abs(a[i])
    else:
        for i in range(count):
            to[i] = math.sqrt(a[i])


@kernel
def _exp(count, R, to, a):
    apart()
    for i in range(0, count, width(R, WIDER)):
        store(R, to + i, exp(load(R, a + i, WIDER)))


@kernel
def _log(count, R, to, a):
    apart()
    for i in range(0, count, width(R, WIDER)):
        store(R, to + i, log(load(R, a + i, WIDER)))


@kernel
def _sine(count, R, to, a):
    apart()
    for i in range(0, count, width(R, WIDER)):
        store(R, to + i, sine(load(R, a + i, WIDER)))


@kernel
def _cosine(count, R, to, a):
    apart()
    for i in range(0, count, width(R, WIDER)):
        store(R, to + i, cosine(load(R, a + i, WIDER)))


@kernel
def _sigmoid(count, R, to, a):
    apart()
    for i in range(0, count, width(R, WIDER)):
        store(R, to + i, sigmoid(load(R, a + i, WIDER)))


@kernel
def _tanh(count, to, a):
    """(1 − e) / (1 + e) with e = exp(−2 x) in ``to``; near 0 a continued fraction."""
    apart()
    for i in range(count):
        x, e = a[i], to[i]
        q = x * x
        odd = x * (135135.0 + q * (17325.0 + q * (378.0 + q)))
        small = odd / (135135.0 + q * (62370.0 + q * (3150.0 + q * 28.0)))
        large = math.copysign((1.0 - e) / (1.0 + e), x)
        to[i] = small if abs(x) < SMALL else large


@kernel
def _rare(op, count, to, a, b):
    """Functions of the C library, one number at a time."""
    apart()
    for i in range(count):
        x = a[i]
        if op == POW:
            to[i] = x ** b[i]
        elif op == EXPM1:
            to[i] = math.expm1(x)
        elif op == LOG1P:
            to[i] = math.log1p(x)
        elif op == TAN:
            to[i] = math.tan(x)
        elif op == ATAN:
            to[i] = math.atan(x)
        elif op == SINH:
            to[i] = math.sinh(x)
        elif op == COSH:
            to[i] = math.cosh(x)
        elif op == ERF:
            to[i] = math.erf(x)
        else:
            to[i] = math.lgamma(x)


@kernel
def _loaded(to, x, n, count):
    apart()
    # Indices without a sign are not looked at twice, and a stride that is known makes packs.
    if n == 1:
        for i in range(count):
            to[i] = x[i]
    elif n == 2:
        for i in range(count):
            to[i] = x[np.uint64(2 * i)]
    elif n == 3:
        for i in range(count):
            to[i] = x[np.uint64(3 * i)]
    elif n == 4:
        for i in range(count):
            to[i] = x[np.uint64(4 * i)]
    else:
        for i in range(count):
            to[i] = x[np.uint64(n * i)]


@kernel
def _stored(a, out, n, count):
    apart()
    if n == 1:
        for i in range(count):
            out[i] = a[i]
    elif n == 2:
        for i in range(count):
            out[np.uint64(2 * i)] = a[i]
    else:
        for i in range(count):
            out[np.uint64(n * i)] = a[i]


@kernel
def _added(a, out, count):
    apart()
    for i in range(count):
        out[i] += a[i]


@kernel
def execute(code, R, o, count, x, z, n, c, y, u, seen, out, q):
    """Instructions for the particles [o, o + count).

    States x and numbers z are (N n); what is stored goes to ``out`` (N q), or, where there is
    ``seen``, what is seen of it is added to ``out`` (N).
    """
    full = (count + ROUND - 1) // ROUND * ROUND
    for k in range(len(code)):
        op, to, a, b, d = code[k, 0], code[k, 1], code[k, 2], code[k, 3], code[k, 4]
        if op <= MADD:
            _arithmetic(op, full, R, to, a, b, d)
        elif op == DIV_S:
            _scaled(MUL_S, full, R, to, a, 1.0 / R[b], d)
        elif op <= MADD_S:
            _scaled(op, full, R, to, a, R[b], d)
        elif op == LOAD_X:
            _loaded(R[to : to + count], x[o * n + a :], n, count)
        elif op == LOAD_Z:
            _loaded(R[to : to + count], z[o * n + a :], n, count)
        elif op == STORE:
            if len(seen) == 0:
                _stored(R[a : a + count], out[o * q + to :], q, count)
            elif seen[to]:
                _added(R[a : a + count], out[o : o + count], count)
        elif op == LOAD_C:
            R[to] = c[a]
        elif op == LOAD_Y:
            R[to] = y[a]
        elif op == LOAD_U:
            R[to] = u[a]
        elif op == SPREAD:
            for i in range(full):
                R[to + i] = R[a]
        elif op <= SQRT:
            _choice(op, full, R[to : to + full], R[a:], R[b:], R[d:])
        elif op == EXP:
            _exp(full, R, to, a)
        elif op == LOG:
            _log(full, R, to, a)
        elif op == SIN:
            _sine(full, R, to, a)
        elif op == COS:
            _cosine(full, R, to, a)
        elif op == SIGMOID:
            _sigmoid(full, R, to, a)
        elif op == TANH:
            _choice(ABS, full, R[to : to + full], R[a:], R[b:], R[d:])
            _scaled(MUL_S, full, R, to, to, -2.0, to)
            _exp(full, R, to, to)
            _tanh(full, R[to : to + full], R[a:])
        else:
            _rare(op, count, R[to : to + count], R[a:], R[b:])


@kernel
def formula(uniform, varying, R, N, x, z, n, c, y, u, seen, out, q):
    """Outputs of all particles of one series; see :func:`execute`."""
    execute(uniform, R, 0, 1, x, z, n, c, y, u, seen, out, q)
    for o in range(0, N, CHUNK):
        execute(varying, R, o, min(CHUNK, N - o), x, z, n, c, y, u, seen, out, q)


@kernel
def registers(room):
    """All registers."""
    return np.zeros(room)
