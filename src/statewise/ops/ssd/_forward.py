"""The forward kernel: the recurrence, tile by tile.

Within a tile that starts from the state h (N, P), with the decays ε_t from its start through step
t, φ_t from step t to its end and Λ_ts = a_{s+1} … a_t between two steps, and u_t = w_t x_t:

    y_t = ε_t h C_t + Σ_{s ≤ t} Λ_ts (C_t · B_s) u_s,      h ← ε_end h + Σ_s B_s (φ_s u_s)ᵀ,

two multiply-adds for each number of the state and step; the rest is smaller by TILE / N.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import width
from statewise.ops.ssd._panels import WIDE
from statewise.ops.ssd._tiles import (
    HEADS,
    TILE,
    cut,
    decays,
    deliver,
    gather,
    hadamard,
    ladder,
    multiply,
    rescale,
    scatter,
    similarities,
    turn,
)


@kernel
def forward(
    x, log_a, w, has_w, B, C, D, has_D, h0, has_h0, reset, has_reset, y, last, states, keep,
    sizes, chunk, reverse, items0, items1,
):  # fmt: skip
    """Fill y, ``last`` and with ``keep`` ``states`` for the items [items0, items1).

    An item is a sequence, a group and up to HEADS heads of it. Arrays are flat but ``reset``;
    ``sizes`` is (L, H, P, G, N).
    """
    L, H, P, G, N = sizes
    W = width(x, WIDE)
    rows_p, rows_n = (P + W - 1) // W * W, (N + W - 1) // W * W
    square = rows_p * rows_n
    per_group = H // G
    parts = (per_group + HEADS - 1) // HEADS
    way = -1 if reverse else 1
    ones = np.ones(max(chunk, P, N), x.dtype)
    eye = np.eye(TILE, dtype=x.dtype).ravel()
    h = np.empty(HEADS * square, x.dtype)
    turned = np.zeros(max(square, rows_n * TILE), x.dtype)
    chunk_b = np.zeros((chunk + TILE) * rows_n, x.dtype)
    chunk_c = np.zeros((chunk + TILE) * rows_n, x.dtype)
    similar = np.zeros((chunk + TILE) * TILE, x.dtype)
    between = np.zeros(TILE * TILE, x.dtype)
    mixed = np.zeros(TILE * TILE, x.dtype)
    steps = np.zeros(TILE, x.dtype)
    before = np.zeros(TILE, x.dtype)
    after = np.zeros(TILE, x.dtype)
    weights = np.ones(TILE, x.dtype)
    u = np.zeros(TILE * rows_p, x.dtype)
    v = np.zeros(TILE * rows_p, x.dtype)
    out = np.zeros(TILE * rows_p, x.dtype)
    starts = np.empty(chunk + 1, np.intp)
    for item in range(items0, items1):
        g = item // parts % G
        i = item // (parts * G)
        j0 = g * per_group + item % parts * HEADS
        j1 = min(j0 + HEADS, (g + 1) * per_group)
        origin = i * L + (L - 1 if reverse else 0)
        h[:] = 0
        if has_h0:
            for j in range(j0, j1):
                for p in range(P):
                    for n in range(N):
                        h[(j - j0) * square + n * rows_p + p] = h0[((i * H + j) * P + p) * N + n]
        for k0 in range(0, L, chunk):
            k1 = min(k0 + chunk, L)
            tiles = cut(starts, k0, k1, reset, has_reset, i, L, reverse)
            o = ((origin + way * k0) * G + g) * N
            gather(chunk_b, rows_n, ones, B, o, way * G * N, k1 - k0, N)
            gather(chunk_c, rows_n, ones, C, o, way * G * N, k1 - k0, N)
            similarities(similar, chunk_c, chunk_b, rows_n, turned, starts, tiles, N)
            for j in range(j0, j1):
                s = (j - j0) * square
                if keep:
                    o = (((i * ((L + chunk - 1) // chunk) + k0 // chunk) * H + j) * P) * N
                    turn(turned, 0, rows_n, h, s, rows_p, rows_n, rows_p)
                    scatter(states, o, N, ones, turned, rows_n, False, D, 0, x, 0, 0, P, N)
                for m in range(tiles):
                    k = starts[m]
                    rows = starts[m + 1] - k
                    t = origin + way * k
                    fresh = k == 0 and not has_h0
                    if has_reset:
                        fresh = fresh or reset[i, t - i * L]
                    whole = decays(log_a, t * H + j, way * H, rows, steps, before, after)
                    if has_w:
                        for r in range(rows):
                            weights[r] = w[(t + way * r) * H + j]
                    o = (t * H + j) * P
                    gather(u, rows_p, weights, x, o, way * H * P, rows, P)
                    ladder(between, steps, eye, rows)
                    hadamard(mixed, between, similar, (k - k0) * TILE, rows * TILE)
                    q = (k - k0) * rows_n
                    direct = P % W == 0 and rows % 4 == 0 and not has_D
                    hop = way * H * P
                    deliver(
                        y if direct else out,
                        o if direct else 0,
                        hop if direct else rows_p,
                        fresh,
                        before,
                        chunk_c,
                        q,
                        rows_n,
                        h,
                        rows_p,
                        s,
                        N,
                        mixed,
                        u,
                        rows_p,
                        rows,
                        rows_p,
                        x,
                        o + TILE * hop,
                        hop,
                    )
                    if not direct:
                        scatter(
                            y, o, hop, ones, out, rows_p, has_D, D, j * P, x, o, way * H * P,
                            rows, P,
                        )  # fmt: skip
                    rescale(v, after, u, rows_p, rows)
                    multiply(
                        h, s, rows_p, fresh, whole, h, s, chunk_b, q, 1, rows_n,
                        v, 0, rows_p, rows, N, rows_p, y, o + TILE * hop, hop, P,
                    )  # fmt: skip
        for j in range(j0, j1):
            turn(turned, 0, rows_n, h, (j - j0) * square, rows_p, rows_n, rows_p)
            o = (i * H + j) * P * N
            scatter(last, o, N, ones, turned, rows_n, False, D, 0, x, 0, 0, P, N)
