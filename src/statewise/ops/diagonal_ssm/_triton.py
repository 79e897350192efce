"""Triton kernels of the diagonal bank, parallel over sequences, channels and chunks of time.

A chunk is ``CHUNK`` steps in the order of the scan. :func:`ends_kernel` runs every chunk from rest,
:func:`chain_kernel` walks over the chunks and leaves the state that enters each, and
:func:`outputs_kernel` runs the chunks again from these. The adjoint does the same against the
order; its last kernel gives all gradients.

A tile is (BD, BN) channels × states, states fastest: a thread has all BN states of its channel, so
that the sum over states crosses no threads, and walks over time in registers. The tiles of states
of a chunk take turns, and add to the output.

``a`` and ``b`` are discrete, (D, N, 2) in double precision, or with ``VARYING`` the columns of
``rules.step_columns``, (D, N, 6). Programs are numbered (block of channels, chunk, sequence).
"""

# Triton's conditions on constants and on values are two kinds of statement.
# ruff: noqa: SIM102
# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.diagonal_ssm._triton_math import curvature, growth, times, times_conj


@triton.jit
def coefficients(pointer, d, n, inside, N, COUNT: tl.constexpr, INDEX: tl.constexpr, like):
    """Number ``INDEX`` of the ``COUNT`` numbers of each channel and state of a tile."""
    row = d[:, None].to(tl.int64) * N + n[None, :]
    return tl.load(pointer + row * COUNT + INDEX, mask=inside, other=0.0).to(like.dtype)


@triton.jit
def system(
    a, b, d, n, inside, N, like, VARYING: tl.constexpr
):  # fmt: skip
    """Six tiles that :func:`discrete` makes ā − 1 and b̄ of; for constant poles it uses four."""
    if VARYING:
        return (
            coefficients(a, d, n, inside, N, 6, 0, like),
            coefficients(a, d, n, inside, N, 6, 1, like),
            coefficients(a, d, n, inside, N, 6, 2, like),
            coefficients(a, d, n, inside, N, 6, 3, like),
            coefficients(a, d, n, inside, N, 6, 4, like),
            coefficients(a, d, n, inside, N, 6, 5, like),
        )
    ar = coefficients(a, d, n, inside, N, 2, 0, like)
    ai = coefficients(a, d, n, inside, N, 2, 1, like)
    br = coefficients(b, d, n, inside, N, 2, 0, like)
    bi = coefficients(b, d, n, inside, N, 2, 1, like)
    return ar, ai, br, bi, ar, ai


@triton.jit
def discrete(x0, x1, x2, x3, x4, x5, step, ZOH: tl.constexpr, VARYING: tl.constexpr,
             WIDE: tl.constexpr):  # fmt: skip
    """ā, b̄ and E = ā − 1 at one step."""
    if VARYING:
        er, ei = growth(x0, x1, x2, x3, step[:, None], ZOH, WIDE)
        br, bi = times(er, ei, x4, x5)
        return er + 1.0, ei, br, bi, er, ei
    return x0, x1, x2, x3, x0, x1


@triton.jit
def load_step(dt, batch, t, d, sb, sl, sd, live, like, VARYING: tl.constexpr):
    """Δ of the channels of a block, or what stands for it."""
    if VARYING:
        at = batch.to(tl.int64) * sb + t.to(tl.int64) * sl + d.to(tl.int64) * sd
        return tl.load(dt + at, mask=live, other=0.0).to(like.dtype)
    return like


@triton.jit
def starts(reset, batch, L, t, k, HAS_RESET: tl.constexpr, HAS_START: tl.constexpr):
    """Whether no state enters the step."""
    fresh = k == 0 if not HAS_START else k < 0
    if HAS_RESET:
        fresh = fresh | (tl.load(reset + batch.to(tl.int64) * L + t) != 0)
    return fresh


@triton.jit
def pair_rows(batch, chunk, chunks, d, n, D, N):
    """Offsets of the real parts of a tile in (B, C, N, 2, D); imaginary ones follow D later."""
    row = (batch.to(tl.int64) * chunks + chunk) * N
    return (row + n[None, :]) * (2 * D) + d[:, None]


@triton.jit
def load_pairs(x, batch, d, n, inside, D, N, like):
    """A tile of states (B, D, N, 2)."""
    at = ((batch.to(tl.int64) * D + d[:, None]) * N + n[None, :]) * 2
    re = tl.load(x + at, mask=inside, other=0.0).to(like.dtype)
    return re, tl.load(x + at + 1, mask=inside, other=0.0).to(like.dtype)


@triton.jit
def store_pairs(x, batch, d, n, inside, D, N, re, im):
    """The reverse of :func:`load_pairs`."""
    at = ((batch.to(tl.int64) * D + d[:, None]) * N + n[None, :]) * 2
    tl.store(x + at, re, mask=inside)
    tl.store(x + at + 1, im, mask=inside)


@triton.jit
def ends_kernel(
    u, a, b, c, dt, reset, start, ends, decays, L, D, N, sb, sl, sd,
    HAS_START: tl.constexpr, HAS_RESET: tl.constexpr, DOWN: tl.constexpr, ADJOINT: tl.constexpr,
    ZOH: tl.constexpr, VARYING: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr,
    BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The state that leaves each chunk when none enters but ``start`` the first; and Π ā."""
    ACC: tl.constexpr = tl.float64 if WIDE else tl.float32
    blocks, chunks = tl.cdiv(N, BN), tl.cdiv(L, CHUNK)
    d = tl.program_id(0) // blocks * BD + tl.arange(0, BD)
    n = tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    chunk, batch = tl.program_id(1), tl.program_id(2)
    live = d < D
    inside = live[:, None] & (n < N)[None, :]
    like, flat = tl.zeros((BD, BN), ACC), tl.zeros((BD,), ACC)
    x0, x1, x2, x3, x4, x5 = system(a, b, d, n, inside, N, like, VARYING)
    cr = coefficients(c, d, n, inside, N, 2, 0, like)
    ci = coefficients(c, d, n, inside, N, 2, 1, like)
    k0 = chunk * CHUNK
    size = tl.minimum(CHUNK, L - k0)
    hr, hi = like, like
    pr, pi = like + 1.0, like
    if HAS_START:
        if chunk == (chunks - 1 if ADJOINT else 0):
            hr, hi = load_pairs(start, batch, d, n, inside, D, N, like)
    for j in range(size):
        k = k0 + (size - 1 - j if ADJOINT else j)
        t = L - 1 - k if DOWN else k
        row = (batch.to(tl.int64) * L + t) * D + d
        x = tl.load(u + row, mask=live, other=0.0).to(ACC)[:, None]
        step = load_step(dt, batch, t, d, sb, sl, sd, live, flat, VARYING)
        fresh = starts(reset, batch, L, t, k, HAS_RESET, True)
        ar, ai, br, bi, _, _ = discrete(x0, x1, x2, x3, x4, x5, step, ZOH, VARYING, WIDE)
        if ADJOINT:
            hr, hi = times_conj(ar, ai, hr + cr * x, hi - ci * x)
            hr, hi = tl.where(fresh, 0.0, hr), tl.where(fresh, 0.0, hi)
        else:
            hr, hi = times(ar, ai, hr, hi)
            hr, hi = tl.where(fresh, 0.0, hr) + br * x, tl.where(fresh, 0.0, hi) + bi * x
        if VARYING:
            if ADJOINT:
                pr, pi = times_conj(ar, ai, pr, pi)
            else:
                pr, pi = times(ar, ai, pr, pi)
    at = pair_rows(batch, chunk, chunks, d, n, D, N)
    tl.store(ends + at, hr, mask=inside)
    tl.store(ends + at + D, hi, mask=inside)
    if VARYING:
        tl.store(decays + at, pr, mask=inside)
        tl.store(decays + at + D, pi, mask=inside)


@triton.jit
def chain_kernel(
    ends, decays, blocked, start, bounds, chunks, D, N, HAS_START: tl.constexpr,
    HAS_RESET: tl.constexpr, ADJOINT: tl.constexpr, VARYING: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The state that enters each chunk, from the ends of the chunks.

    ``decays`` is (N, 2, D) of whole chunks, or (B, C, N, 2, D) with ``VARYING``; ``blocked``
    (B, C) says that a reset lies in the chunk.
    """
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    n, batch = tl.program_id(1), tl.program_id(2)
    live = d < D
    hr = tl.zeros((BD,), bounds.dtype.element_ty)
    hi = tl.zeros((BD,), bounds.dtype.element_ty)
    if HAS_START:
        at = ((batch.to(tl.int64) * D + d) * N + n) * 2
        hr = tl.load(start + at, mask=live, other=0.0).to(hr.dtype)
        hi = tl.load(start + at + 1, mask=live, other=0.0).to(hr.dtype)
    for i in range(chunks):
        chunk = chunks - 1 - i if ADJOINT else i
        at = ((batch.to(tl.int64) * chunks + chunk) * N + n) * (2 * D) + d
        tl.store(bounds + at, hr, mask=live)
        tl.store(bounds + at + D, hi, mask=live)
        er = tl.load(ends + at, mask=live, other=0.0)
        ei = tl.load(ends + at + D, mask=live, other=0.0)
        by = at if VARYING else n * (2 * D) + d
        pr = tl.load(decays + by, mask=live, other=0.0)
        pi = tl.load(decays + by + D, mask=live, other=0.0)
        pr, pi = times(pr, pi, hr, hi)
        closed = i == 0
        if HAS_RESET:
            closed = closed | (tl.load(blocked + batch * chunks + chunk) != 0)
        hr, hi = er + tl.where(closed, 0.0, pr), ei + tl.where(closed, 0.0, pi)


@triton.jit
def outputs_kernel(
    u, a, b, c, direct, dt, reset, bounds, y, last, L, D, N, sb, sl, sd,
    HAS_D: tl.constexpr, HAS_START: tl.constexpr, HAS_RESET: tl.constexpr, DOWN: tl.constexpr,
    ZOH: tl.constexpr, VARYING: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr,
    BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """All outputs, and the last state."""
    ACC: tl.constexpr = tl.float64 if WIDE else tl.float32
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    chunk, batch = tl.program_id(1), tl.program_id(2)
    chunks = tl.cdiv(L, CHUNK)
    live = d < D
    like, flat = tl.zeros((BD, BN), ACC), tl.zeros((BD,), ACC)
    through = flat
    if HAS_D:
        through = tl.load(direct + d, mask=live, other=0.0).to(ACC)
    k0 = chunk * CHUNK
    size = tl.minimum(CHUNK, L - k0)
    for n0 in range(0, N, BN):
        n = n0 + tl.arange(0, BN)
        inside = live[:, None] & (n < N)[None, :]
        x0, x1, x2, x3, x4, x5 = system(a, b, d, n, inside, N, like, VARYING)
        cr = coefficients(c, d, n, inside, N, 2, 0, like)
        ci = coefficients(c, d, n, inside, N, 2, 1, like)
        at = pair_rows(batch, chunk, chunks, d, n, D, N)
        hr = tl.load(bounds + at, mask=inside, other=0.0)
        hi = tl.load(bounds + at + D, mask=inside, other=0.0)
        for j in range(size):
            k = k0 + j
            t = L - 1 - k if DOWN else k
            row = (batch.to(tl.int64) * L + t) * D + d
            x = tl.load(u + row, mask=live, other=0.0).to(ACC)
            before = tl.load(y + row, mask=live & (n0 > 0), other=0.0)
            step = load_step(dt, batch, t, d, sb, sl, sd, live, flat, VARYING)
            fresh = starts(reset, batch, L, t, k, HAS_RESET, HAS_START)
            ar, ai, br, bi, _, _ = discrete(x0, x1, x2, x3, x4, x5, step, ZOH, VARYING, WIDE)
            hr, hi = times(ar, ai, hr, hi)
            hr = tl.where(fresh, 0.0, hr) + br * x[:, None]
            hi = tl.where(fresh, 0.0, hi) + bi * x[:, None]
            seen = tl.where(n0 > 0, before, through * x)
            tl.store(y + row, seen + tl.sum(cr * hr - ci * hi, axis=1), mask=live)
        if chunk == chunks - 1:
            store_pairs(last, batch, d, n, inside, D, N, hr, hi)
        # The next states add to what other threads of this program may have stored.
        tl.debug_barrier()


@triton.jit
def gradients_kernel(
    u, grad, a, b, c, inward, direct, dt, reset, bounds, adjoints, room, du, ddt, dh0, partial,
    L, D, N, sb, sl, sd, run, HAS_D: tl.constexpr, HAS_START: tl.constexpr,
    HAS_RESET: tl.constexpr, DOWN: tl.constexpr, ZOH: tl.constexpr, VARYING: tl.constexpr,
    PARAMETERS: tl.constexpr, WIDE: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """Gradients of u, h0 and dt; and for ``PARAMETERS`` parts of those of a, b and c.

    A program has ``run`` chunks, latest first. It keeps the states of a chunk in its part of
    ``room``, where each thread reads what it wrote. ``partial`` is (programs without channels,
    D, N, 6): the sums over its chunks of the gradients of ā, b̄ and c, or with ``VARYING`` of λ,
    Σ conj(E) ∂b̄, and c; ``inward`` (D, N, 2) holds b, which the gradient of λ takes then.
    """
    ACC: tl.constexpr = tl.float64 if WIDE else tl.float32
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    group, batch = tl.program_id(1), tl.program_id(2)
    groups, chunks = tl.num_programs(1), tl.cdiv(L, CHUNK)
    live = d < D
    like, flat = tl.zeros((BD, BN), ACC), tl.zeros((BD,), ACC)
    through = flat
    if HAS_D:
        through = tl.load(direct + d, mask=live, other=0.0).to(ACC)
    lanes = tl.arange(0, BD)[:, None] * BN + tl.arange(0, BN)[None, :]
    program = (batch * groups + group).to(tl.int64)
    keep = room + (program * tl.num_programs(0) + tl.program_id(0)) * (CHUNK * 2 * BD * BN) + lanes
    for n0 in range(0, N, BN):
        n = n0 + tl.arange(0, BN)
        inside = live[:, None] & (n < N)[None, :]
        x0, x1, x2, x3, x4, x5 = system(a, b, d, n, inside, N, like, VARYING)
        cr = coefficients(c, d, n, inside, N, 2, 0, like)
        ci = coefficients(c, d, n, inside, N, 2, 1, like)
        wr = coefficients(inward, d, n, inside, N, 2, 0, like)
        wi = coefficients(inward, d, n, inside, N, 2, 1, like)
        gar, gai, gbr, gbi, gcr, gci = like, like, like, like, like, like
        for i in range(run):
            chunk = tl.minimum((group + 1) * run, chunks) - 1 - i
            k0 = chunk * CHUNK
            # A last group with fewer chunks has nothing left to do.
            size = tl.where(chunk >= group * run, tl.minimum(CHUNK, L - k0), 0)
            bound = tl.where(size > 0, N, 0)
            some = live[:, None] & (n < bound)[None, :]
            at = pair_rows(batch, chunk, chunks, d, n, D, N)
            if PARAMETERS:
                hr = tl.load(bounds + at, mask=some, other=0.0)
                hi = tl.load(bounds + at + D, mask=some, other=0.0)
                for j in range(size):
                    t = L - 1 - k0 - j if DOWN else k0 + j
                    row = (batch.to(tl.int64) * L + t) * D + d
                    x = tl.load(u + row, mask=live, other=0.0).to(ACC)[:, None]
                    step = load_step(dt, batch, t, d, sb, sl, sd, live, flat, VARYING)
                    fresh = starts(reset, batch, L, t, k0 + j, HAS_RESET, HAS_START)
                    ar, ai, br, bi, _, _ = discrete(
                        x0, x1, x2, x3, x4, x5, step, ZOH, VARYING, WIDE
                    )
                    hr, hi = tl.where(fresh, 0.0, hr), tl.where(fresh, 0.0, hi)
                    tl.store(keep + 2 * j * (BD * BN), hr)
                    tl.store(keep + (2 * j + 1) * (BD * BN), hi)
                    hr, hi = times(ar, ai, hr, hi)
                    hr, hi = tl.where(fresh, 0.0, hr) + br * x, tl.where(fresh, 0.0, hi) + bi * x
                tl.debug_barrier()
            mr = tl.load(adjoints + at, mask=some, other=0.0)
            mi = tl.load(adjoints + at + D, mask=some, other=0.0)
            for i_back in range(size):
                j = size - 1 - i_back
                t = L - 1 - k0 - j if DOWN else k0 + j
                row = (batch.to(tl.int64) * L + t) * D + d
                end = tl.load(grad + row, mask=live, other=0.0).to(ACC)
                before = tl.load(du + row, mask=live & (n0 > 0), other=0.0)
                step = load_step(dt, batch, t, d, sb, sl, sd, live, flat, VARYING)
                fresh = starts(reset, batch, L, t, k0 + j, HAS_RESET, HAS_START)
                ar, ai, br, bi, er, ei = discrete(x0, x1, x2, x3, x4, x5, step, ZOH, VARYING, WIDE)
                gr, gi = mr + cr * end[:, None], mi - ci * end[:, None]
                back = tl.where(n0 > 0, before, through * end)
                tl.store(du + row, back + tl.sum(br * gr + bi * gi, axis=1), mask=live)
                if PARAMETERS:
                    x = tl.load(u + row, mask=live, other=0.0).to(ACC)[:, None]
                    hr = tl.load(keep + 2 * j * (BD * BN))
                    hi = tl.load(keep + (2 * j + 1) * (BD * BN))
                    # The state before a fresh step is kept as 0, and so is the gradient of ā.
                    ur, ui = times_conj(hr, hi, gr, gi)
                    vr, vi = gr * x, gi * x
                    hr, hi = times(ar, ai, hr, hi)
                    hr, hi = tl.where(fresh, 0.0, hr) + br * x, tl.where(fresh, 0.0, hi) + bi * x
                    gcr += hr * end[:, None]
                    gci -= hi * end[:, None]
                    if VARYING:
                        s = step[:, None]
                        fr, fi = er + 1.0, ei
                        if not ZOH:
                            fr, fi = times(0.5 * er + 1.0, 0.5 * ei, 0.5 * er + 1.0, 0.5 * ei)
                        kr, ki = curvature(x0 * s, x1 * s, er, ei, fr, fi, ZOH, WIDE)
                        kr, ki = times(kr, ki, wr, wi)
                        kr, ki = times_conj(kr, ki, vr, vi)
                        pr, pi = times_conj(fr, fi, ur, ui)
                        gar += s * (pr + s * kr)
                        gai += s * (pi + s * ki)
                        pr, pi = times_conj(er, ei, vr, vi)
                        gbr += pr
                        gbi += pi
                        pr, pi = times_conj(x0, x1, ur, ui)
                        kr, ki = times_conj(wr, wi, vr, vi)
                        turn = tl.sum(fr * (pr + kr) + fi * (pi + ki), axis=1)
                        turned = tl.load(ddt + row, mask=live & (n0 > 0), other=0.0)
                        tl.store(ddt + row, turned + turn, mask=live)
                    else:
                        gar += ur
                        gai += ui
                        gbr += vr
                        gbi += vi
                mr, mi = times_conj(ar, ai, gr, gi)
                mr, mi = tl.where(fresh, 0.0, mr), tl.where(fresh, 0.0, mi)
            if HAS_START:
                bound = tl.where(chunk == 0, bound, 0)
                some = live[:, None] & (n < bound)[None, :]
                store_pairs(dh0, batch, d, n, some, D, N, mr, mi)
            # The next states add to what other threads of this program may have stored.
            tl.debug_barrier()
        if PARAMETERS:
            at = ((program * D + d[:, None]) * N + n[None, :]) * 6
            tl.store(partial + at, gar, mask=inside)
            tl.store(partial + at + 1, gai, mask=inside)
            tl.store(partial + at + 2, gbr, mask=inside)
            tl.store(partial + at + 3, gbi, mask=inside)
            tl.store(partial + at + 4, gcr, mask=inside)
            tl.store(partial + at + 5, gci, mask=inside)
