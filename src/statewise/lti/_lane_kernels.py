"""Sums over the samples of many series, compiled: a pack holds the same number of eight series.

Arrays are flat, with the series of a group as last axis: data (groups, T, channels, 8), matrices
(groups, rows, columns, 8).
"""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.simd import WIDER, add, load, madd, mul, store, sub, zero

LANES = 8
"""Series of a group: the doubles of a wider pack."""

STEPS = 8
"""Rows of a design that are kept before they enter its Gram matrix."""


@kernel
def window_gram(z, g0, g1, length, c, total, where, gram):
    """Σ h hᵀ over all windows h of ``total`` samples; sample s, channel d is at ``where[s, d]``.

    The first block row is sums over samples; the others follow along the block diagonals, where
    one sample enters and one leaves.
    """
    width, count = total * c, length - total + 1
    for g in range(g0, g1):
        base, out = g * length * c * LANES, g * width * width * LANES
        for lag in range(total):
            for a in range(c):
                for b in range(c):
                    if lag == 0 and b < a:
                        continue
                    one, two = zero(z, WIDER), zero(z, WIDER)
                    three, four = zero(z, WIDER), zero(z, WIDER)
                    first = base + a * LANES
                    second = base + (lag * c + b) * LANES
                    step = c * LANES
                    for _ in range(count // 4):
                        one = madd(load(z, first, WIDER), load(z, second, WIDER), one)
                        two = madd(load(z, first + step, WIDER), load(z, second + step, WIDER), two)
                        three = madd(
                            load(z, first + 2 * step, WIDER),
                            load(z, second + 2 * step, WIDER),
                            three,
                        )
                        four = madd(
                            load(z, first + 3 * step, WIDER),
                            load(z, second + 3 * step, WIDER),
                            four,
                        )
                        first += 4 * step
                        second += 4 * step
                    for _ in range(count % 4):
                        one = madd(load(z, first, WIDER), load(z, second, WIDER), one)
                        first += step
                        second += step
                    found = add(add(one, two), add(three, four))
                    for k in range(total - lag):
                        if k > 0:
                            early = base + ((k - 1) * c + a) * LANES
                            late = base + ((count + k - 1) * c + a) * LANES
                            apart = (lag * c + b - a) * LANES
                            found = madd(load(z, late, WIDER), load(z, late + apart, WIDER), found)
                            found = sub(
                                found, mul(load(z, early, WIDER), load(z, early + apart, WIDER))
                            )
                        i, j = where[k, a], where[k + lag, b]
                        store(gram, out + (i * width + j) * LANES, found)
                        store(gram, out + (j * width + i) * LANES, found)


@kernel
def design_gram(z, A, C, g0, g1, length, m, p, n, direct, w, gram):
    """Σ v vᵀ of the rows v = [C_i Aᵗ, Σ_k C_i A^{t−1−k} u_k, u_t, y_t], output by output.

    Args:
        z: inputs and outputs, (groups, T, m + p, 8).
        A: dynamics, (groups, n, n, 8).
        C: output matrix, (groups, p, n, 8).
        g0: first group.
        g1: behind the last group.
        length: samples T.
        m: inputs.
        p: outputs.
        n: states.
        direct: whether u_t stands in the rows.
        w: room for ``STEPS`` rows.
        gram: (groups, p, q, q, 8), zero; its upper triangle is filled.
    """
    c, wide = m + p, n * (1 + m)
    q = wide + m * direct + 1
    for g in range(g0, g1):
        base, dynamics = g * length * c * LANES, g * n * n * LANES
        for i in range(p):
            outputs, out = (g * p + i) * n * LANES, (g * p + i) * q * q * LANES
            for k in range(wide):
                store(w, k * LANES, zero(w, WIDER))
            for k in range(n):
                store(w, k * LANES, load(C, outputs + k * LANES, WIDER))
            for t0 in range(0, length, STEPS):
                steps = min(STEPS, length - t0)
                for s in range(steps):
                    at, now = base + (t0 + s) * c * LANES, s * q * LANES
                    if direct:
                        for j in range(m):
                            store(w, now + (wide + j) * LANES, load(z, at + j * LANES, WIDER))
                    store(w, now + (q - 1) * LANES, load(z, at + (m + i) * LANES, WIDER))
                    # The state behind the last row of the block is the first of the next one.
                    then = now + q * LANES
                    for k in range(n):
                        entry = load(C, outputs + k * LANES, WIDER)
                        for j in range(1 + m):
                            sum = zero(w, WIDER)
                            if j > 0:
                                sum = mul(entry, load(z, at + (j - 1) * LANES, WIDER))
                            for r in range(n):
                                sum = madd(
                                    load(A, dynamics + (r * n + k) * LANES, WIDER),
                                    load(w, now + (j * n + r) * LANES, WIDER),
                                    sum,
                                )
                            store(w, then + (j * n + k) * LANES, sum)
                for a in range(q):
                    for b in range(a, q):
                        place = out + (a * q + b) * LANES
                        sum = load(gram, place, WIDER)
                        for s in range(steps):
                            sum = madd(
                                load(w, (s * q + a) * LANES, WIDER),
                                load(w, (s * q + b) * LANES, WIDER),
                                sum,
                            )
                        store(gram, place, sum)
                for k in range(wide):
                    store(w, k * LANES, load(w, (steps * q + k) * LANES, WIDER))


@kernel
def rest_powers(z, A, B, C, D, K, x0, g0, g1, length, m, p, n, w, simulated, ahead):
    """Σ r_i² of the simulation and Σ e eᵀ of one-step predictions, both from x0.

    Args:
        z: inputs and outputs, (groups, T, m + p, 8).
        A: dynamics, (groups, n, n, 8).
        B: input matrix, (groups, n, m, 8).
        C: output matrix, (groups, p, n, 8).
        D: direct term, (groups, p, m, 8).
        K: gain, (groups, n, p, 8).
        x0: first states, (groups, n, 8).
        g0: first group.
        g1: behind the last group.
        length: samples T.
        m: inputs.
        p: outputs.
        n: states.
        w: room for 3 n + p numbers of each series.
        simulated: (groups, p, 8), zero.
        ahead: (groups, p, p, 8), zero.
    """
    c = m + p
    free, seen, then, error = 0, n * LANES, 2 * n * LANES, 3 * n * LANES
    for g in range(g0, g1):
        base = g * length * c * LANES
        a, b, o = g * n * n * LANES, g * n * m * LANES, g * p * n * LANES
        d, gain = g * p * m * LANES, g * n * p * LANES
        for k in range(n):
            start = load(x0, (g * n + k) * LANES, WIDER)
            store(w, free + k * LANES, start)
            store(w, seen + k * LANES, start)
        for t in range(length):
            at = base + t * c * LANES
            for i in range(p):
                rest = load(z, at + (m + i) * LANES, WIDER)
                for j in range(m):
                    rest = sub(
                        rest,
                        mul(
                            load(D, d + (i * m + j) * LANES, WIDER), load(z, at + j * LANES, WIDER)
                        ),
                    )
                other = rest
                for k in range(n):
                    entry = load(C, o + (i * n + k) * LANES, WIDER)
                    rest = sub(rest, mul(entry, load(w, free + k * LANES, WIDER)))
                    other = sub(other, mul(entry, load(w, seen + k * LANES, WIDER)))
                place = (g * p + i) * LANES
                store(simulated, place, madd(rest, rest, load(simulated, place, WIDER)))
                store(w, error + i * LANES, other)
                for l in range(i + 1):
                    place = ((g * p + i) * p + l) * LANES
                    both = load(w, error + l * LANES, WIDER)
                    store(ahead, place, madd(other, both, load(ahead, place, WIDER)))
            for kind in range(2):
                state = seen if kind else free
                for k in range(n):
                    sum = zero(w, WIDER)
                    for j in range(m):
                        sum = madd(
                            load(B, b + (k * m + j) * LANES, WIDER),
                            load(z, at + j * LANES, WIDER),
                            sum,
                        )
                    for r in range(n):
                        sum = madd(
                            load(A, a + (k * n + r) * LANES, WIDER),
                            load(w, state + r * LANES, WIDER),
                            sum,
                        )
                    if kind:
                        for i in range(p):
                            sum = madd(
                                load(K, gain + (k * p + i) * LANES, WIDER),
                                load(w, error + i * LANES, WIDER),
                                sum,
                            )
                    store(w, then + k * LANES, sum)
                for k in range(n):
                    store(w, state + k * LANES, load(w, then + k * LANES, WIDER))
