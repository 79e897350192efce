"""The backward kernel: chunk by chunk against the scan's order, tile by tile within.

From the state kept before a chunk the states h (P, N) before its tiles are computed again. Then,
with G (P, N) the gradient of the state at a tile's end, ε, φ, Λ and u as in the forward kernel,
o̅ the gradient of h_t C_t + D ⊙ x_t, S_ts = C_t · B_s and R_ts = o̅_t · u_s:

    ∂C_t = ε_t o̅_tᵀ h + Σ_{s ≤ t} Λ_ts R_ts B_s        e_s = φ_s G B_s + Σ_{t ≥ s} Λ_ts S_ts o̅_t
    ∂B_s = φ_s u_sᵀ G + Σ_{t ≥ s} Λ_ts R_ts C_t        ∂x_s = w_s e_s + D ⊙ o̅_s,  ∂w_s = x_s · e_s
    G ← ε_end G + Σ_t ε_t o̅_t C_tᵀ.

∂log_a_t = ⟨g_t, a_t h_{t−1}⟩ collects every path from an input s < t to an output t' ≥ t, where the
state before the tile is an input and the state after it an output:

    ∂log_a_t = ε_end ⟨G, h⟩ + Σ_{t' ≥ t} ε_t' C_t' · (o̅_t'ᵀ h) + Σ_{s < t} φ_s B_s · (u_sᵀ G)
               + Σ_{t' ≥ t > s} Λ_t's S_t's R_t's.

It is a sum of these terms only, not a difference of running totals of all paths, so that it keeps
its digits where decays are strong and it is tiny.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import add, broadcast, less, load, store, total, width, zero
from statewise.ops.ssd._panels import WIDE
from statewise.ops.ssd._tiles import (
    HEADS,
    TILE,
    add_lower,
    add_upper,
    cut,
    decays,
    dots,
    gather,
    hadamard,
    inner,
    ladder,
    multiply,
    rescale,
    scatter,
    similarities,
    turn,
)


@kernel
def _accumulate(out, first, step, x, so, rows, columns, more):
    """Rows of ``out`` at first + t · step ← row t of x, added to what is there with ``more``."""
    W = width(out, WIDE)
    whole = columns - columns % W
    for t in range(rows):
        i = first + t * step
        for n in range(0, whole, W):
            value = load(x, t * so + n, WIDE)
            store(out, i + n, add(value, load(out, i + n, WIDE)) if more else value)
        for n in range(whole, columns):
            out[i + n] = x[t * so + n] + (out[i + n] if more else 0)


@kernel
def _skip(dD, d, x, first, step, gradient, so, rows, columns):
    """Add Σ_t o̅_t ⊙ x_t over a tile to the double-precision sums at ``d``."""
    for p in range(columns):
        value = x[first + p] * gradient[p]
        for t in range(1, rows):
            value += x[first + t * step + p] * gradient[t * so + p]
        dD[d + p] += value


@kernel
def _crossings(out, first, step, paths, outputs, inputs, through, rows, lanes, columns):
    """Fill ∂log_a of one tile.

    ``paths`` are Λ ⊙ S ⊙ R below the diagonal, ``outputs`` and ``inputs`` the second and third
    term of the sum for each step, ``through`` the first.
    """
    W = width(columns, WIDE)
    columns[:] = 0
    tail = through
    for t in range(rows - 1, -1, -1):
        tail += outputs[t]
        here, none = broadcast(columns, t, WIDE), zero(columns, WIDE)
        value = none
        for s in range(0, TILE, W):
            before = load(lanes, s, WIDE)
            passed = less(before, here, load(paths, t * TILE + s, WIDE), none)
            passed = add(load(columns, s, WIDE), passed)
            store(columns, s, passed)
            value = add(value, less(before, here, add(passed, load(inputs, s, WIDE)), none))
        out[first + t * step] = tail + total(value)


@kernel
def backward(
    grad_y, grad_last, has_grad_last, x, log_a, w, has_w, B, C, D, has_D, has_h0, reset, has_reset,
    states, gated, o, dx, dlog_a, dw, dB, dC, dD, need_D, dh0, need_x, need_bc, sizes, chunk,
    reverse, items0, items1,
):  # fmt: skip
    """Fill the gradients for the items [items0, items1); see ``forward`` for what they are.

    ``grad_y`` is that of h_t C_t + D ⊙ x_t; with ``gated`` this value is written to ``o``. ``dB``
    and ``dC`` are (B, L, G, parts, N), the sum over the heads of each item; ``dD`` (B, H, P) is in
    double precision. ``need_x`` asks for dx and dw, ``need_bc`` for dB, dC and dlog_a.
    """
    L, H, P, G, N = sizes
    W = width(x, WIDE)
    rows_p, rows_n = (P + W - 1) // W * W, (N + W - 1) // W * W
    square = rows_p * rows_n
    per_group = H // G
    parts = (per_group + HEADS - 1) // HEADS
    count = (L + chunk - 1) // chunk
    way = -1 if reverse else 1
    ones = np.ones(max(chunk, P, N), x.dtype)
    eye = np.eye(TILE, dtype=x.dtype).ravel()
    # A state is needed only before a tile that is no restart: the first, or one after a full one.
    h = np.zeros((chunk // TILE + 2) * square, x.dtype)
    g = np.zeros(HEADS * square, x.dtype)
    turned = np.zeros(square, x.dtype)
    turned_b = np.zeros(rows_n * TILE, x.dtype)
    turned_u = np.zeros(rows_p * TILE, x.dtype)
    chunk_b = np.zeros((chunk + TILE) * rows_n, x.dtype)
    chunk_c = np.zeros((chunk + TILE) * rows_n, x.dtype)
    similar = np.zeros((chunk + TILE) * TILE, x.dtype)
    between = np.zeros(TILE * TILE, x.dtype)
    mixed = np.zeros(TILE * TILE, x.dtype)
    crossed = np.zeros(TILE * TILE, x.dtype)
    paths = np.zeros(TILE * TILE, x.dtype)
    outputs = np.zeros(TILE, x.dtype)
    inputs = np.zeros(TILE, x.dtype)
    columns = np.zeros(TILE, x.dtype)
    lanes = np.arange(TILE).astype(x.dtype)
    sums = np.zeros(TILE * TILE, x.dtype)
    steps = np.zeros(TILE, x.dtype)
    before = np.zeros(TILE, x.dtype)
    after = np.zeros(TILE, x.dtype)
    weights = np.ones(TILE, x.dtype)
    u = np.zeros(TILE * rows_p, x.dtype)
    v = np.zeros(TILE * rows_p, x.dtype)
    q = np.zeros(TILE * rows_p, x.dtype)
    q_decayed = np.zeros(TILE * rows_p, x.dtype)
    e = np.zeros(TILE * rows_p, x.dtype)
    d = np.zeros(TILE * rows_n, x.dtype)
    starts = np.empty(chunk + 1, np.intp)
    ahead = P if need_x else 0
    slots = np.empty(chunk, np.intp)
    step_x, step_b, step_d = way * H * P, way * G * N, way * G * parts * N
    for item in range(items0, items1):
        part = item % parts
        group = item // parts % G
        i = item // (parts * G)
        j0 = group * per_group + part * HEADS
        j1 = min(j0 + HEADS, (group + 1) * per_group)
        origin = i * L + (L - 1 if reverse else 0)
        if has_grad_last:
            for j in range(j0, j1):
                c = (j - j0) * square
                gather(g[c:], rows_n, ones, grad_last, (i * H + j) * P * N, N, P, N)
        # Whether any gradient arrives at the end of a chunk, the same for all heads.
        alive_last = has_grad_last
        for index in range(count - 1, -1, -1):
            k0 = index * chunk
            k1 = min(k0 + chunk, L)
            tiles = cut(starts, k0, k1, reset, has_reset, i, L, reverse)
            c = ((origin + way * k0) * G + group) * N
            gather(chunk_b, rows_n, ones, B, c, step_b, k1 - k0, N)
            gather(chunk_c, rows_n, ones, C, c, step_b, k1 - k0, N)
            similarities(similar, chunk_c, chunk_b, rows_n, turned_b, starts, tiles, N)
            slot = -1
            for m in range(tiles):
                k = starts[m]
                fresh = k == 0 and not has_h0
                if has_reset:
                    fresh = fresh or reset[i, origin + way * k - i * L]
                if not fresh:
                    slot += 1
                slots[m] = -1 if fresh else slot
            alive = alive_last
            for j in range(j0, j1):
                s = (j - j0) * square
                alive = alive_last
                if slots[0] == 0:
                    c = ((i * count + index) * H + j) * P * N
                    gather(h, rows_n, ones, states, c, N, P, N)
                for m in range(tiles - 1):
                    if slots[m + 1] < 0:
                        continue
                    k = starts[m]
                    rows = starts[m + 1] - k
                    t = origin + way * k
                    whole = decays(log_a, t * H + j, way * H, rows, steps, before, after)
                    for r in range(rows):
                        if has_w:
                            after[r] *= w[(t + way * r) * H + j]
                    c = (t * H + j) * P
                    gather(v, rows_p, after, x, c, step_x, rows, P)
                    multiply(
                        h, slots[m + 1] * square, rows_n, slots[m] < 0, whole,
                        h, slots[m] * square, v, 0, 1, rows_p,
                        chunk_b, (k - k0) * rows_n, rows_n, rows, P, rows_n,
                        x, c + TILE * step_x, step_x, P,
                    )  # fmt: skip
                for m in range(tiles - 1, -1, -1):
                    k = starts[m]
                    rows = starts[m + 1] - k
                    t = origin + way * k
                    b = (k - k0) * rows_n
                    fresh = slots[m] < 0
                    before_tile = slots[m] * square
                    whole = decays(log_a, t * H + j, way * H, rows, steps, before, after)
                    if has_w:
                        for r in range(rows):
                            weights[r] = w[(t + way * r) * H + j]
                    c = (t * H + j) * P
                    gather(u, rows_p, weights, x, c, step_x, rows, P)
                    gather(q, rows_p, ones, grad_y, c, step_x, rows, P)
                    rescale(v, after, u, rows_p, rows)
                    rescale(q_decayed, before, q, rows_p, rows)
                    ladder(between, steps, eye, rows)
                    hadamard(mixed, between, similar, (k - k0) * TILE, rows * TILE)
                    if gated:
                        if not fresh:
                            turn(turned, 0, rows_p, h, before_tile, rows_n, rows_p, rows_n)
                            multiply(
                                e, 0, rows_p, True, whole, e, 0, chunk_c, b, rows_n, 1,
                                turned, 0, rows_p, N, rows, rows_p, o, 0, 0, 0,
                            )  # fmt: skip
                        add_lower(e, rows_p, fresh, before, mixed, u, 0, rows, rows_p)
                        scatter(
                            o, c, step_x, ones, e, rows_p, has_D, D, j * P, x, c, step_x, rows, P
                        )
                    if need_bc:
                        turn(turned_u, 0, TILE, u, 0, rows_p, TILE, rows_p)
                        multiply(
                            crossed, 0, TILE, True, whole, crossed, 0, q, 0, rows_p, 1,
                            turned_u, 0, TILE, P, rows, TILE, dx, c - step_x, -step_x, ahead,
                        )  # fmt: skip
                        hadamard(paths, mixed, crossed, 0, rows * TILE)
                        hadamard(crossed, between, crossed, 0, rows * TILE)
                        if not fresh:
                            multiply(
                                d, 0, rows_n, True, whole, d, 0, q_decayed, 0, rows_p, 1,
                                h, before_tile, rows_n, P, rows, rows_n,
                                dx, c - 5 * step_x, -step_x, ahead,
                            )  # fmt: skip
                        outputs[:] = 0
                        if not fresh:
                            dots(outputs, sums, chunk_c, b, rows_n, d, 0, rows_n, rows, N)
                        add_lower(d, rows_n, fresh, ones, crossed, chunk_b, b, rows, rows_n)
                        c_out = ((t * G + group) * parts + part) * N
                        _accumulate(dC, c_out, step_d, d, rows_n, rows, N, j > j0)
                        if alive:
                            multiply(
                                d, 0, rows_n, True, whole, d, 0, v, 0, rows_p, 1,
                                g, s, rows_n, P, rows, rows_n,
                                dx, c - 9 * step_x, -step_x, ahead,
                            )  # fmt: skip
                        inputs[:] = 0
                        if alive:
                            dots(inputs, sums, chunk_b, b, rows_n, d, 0, rows_n, rows, N)
                        add_upper(d, rows_n, not alive, ones, crossed, chunk_c, b, rows, rows_n)
                        _accumulate(dB, c_out, step_d, d, rows_n, rows, N, j > j0)
                        through = whole * 0
                        if alive and not fresh:
                            through = whole * inner(g, s, h, before_tile, rows_n, P, N)
                        _crossings(
                            dlog_a, t * H + j, way * H, paths, outputs, inputs, through, rows,
                            lanes, columns,
                        )  # fmt: skip
                    if need_x:
                        if alive:
                            turn(turned, 0, rows_p, g, s, rows_n, rows_p, rows_n)
                            multiply(
                                e, 0, rows_p, True, whole, e, 0, chunk_b, b, rows_n, 1,
                                turned, 0, rows_p, N, rows, rows_p,
                                dx, c - 13 * step_x, -step_x, ahead,
                            )  # fmt: skip
                        add_upper(e, rows_p, not alive, after, mixed, q, 0, rows, rows_p)
                        if has_w:
                            dots(outputs, sums, x, c, step_x, e, 0, rows_p, rows, P)
                            for r in range(rows):
                                dw[(t + way * r) * H + j] = outputs[r]
                        scatter(
                            dx, c, step_x, weights, e, rows_p, has_D, D, j * P, grad_y, c, step_x,
                            rows, P,
                        )  # fmt: skip
                    if need_D:
                        _skip(dD, (i * H + j) * P, x, c, step_x, q, rows_p, rows, P)
                    if not fresh:
                        multiply(
                            g, s, rows_n, not alive, whole, g, s, q_decayed, 0, 1, rows_p,
                            chunk_c, b, rows_n, rows, P, rows_n, grad_y, c - step_x, -step_x, P,
                        )  # fmt: skip
                    alive = not fresh
            alive_last = alive
        if has_h0:
            for j in range(j0, j1):
                c = (i * H + j) * P * N
                for p in range(P):
                    for n in range(N):
                        value = g[(j - j0) * square + p * rows_n + n]
                        dh0[c + p * N + n] = value if alive_last else 0
