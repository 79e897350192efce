"""Triton kernels of the linear scan: both passes read every number once.

A program computes one *tile*: ``S * R`` consecutive steps of ``BD`` channels. Its rows are ``S``
tensors of shape (R, BD), row s holding the steps r S + s, so that each thread walks S steps of
its channels in registers and only R summaries cross threads. What comes before the tile enters
at the end, multiplied by the decay accumulated up to each step; the tile is not read again.

Steps are counted in the order of the pass, ``DOWN`` in time or up. Steps beyond the end have a = 1
and b = 0 and hand the state on. ``D`` counts channels, ``W = C * D`` the parts in a row of memory,
and ``a_batch`` the parts from one sequence of ``a`` to the next.

``MODE`` says where a tile finds its carry:

* ``CHAIN``: in ``words``, where the tile before it leaves its last state. A word that nobody wrote
  is −1, a NaN that no computation yields: value and flag arrive in one access and need no fence.
  Tiles are numbered by a ticket, in the order in which programs start, so whoever is waited for
  is running.
* ``SUMMARY``: nowhere; it leaves its last state in ``words``, its decay in ``decays`` and whether
  no reset comes between the two in ``opens``, and no output. :func:`join_kernel` then turns last
  states without a carry into last states with one.
* ``APPLY``: in ``words``, complete.
"""

# Triton compiles no starred tuple.
# ruff: noqa: RUF005
# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.linear_scan._tiles import (
    CHAIN,
    SUMMARY,
    add,
    carry_in,
    constant_number,
    enter,
    load_row,
    multiply,
    multiply_add,
    nonzero,
    number,
    pack,
    place,
    previous,
    publish,
    reset_bits,
    store_row,
    summaries,
    where,
)

NONE, EACH, TOTAL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def forward_kernel(
    a, b, h0, reset, h, h_last, words, decays, opens, ticket, B, L, D, a_batch,
    HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr, A_TIMED: tl.constexpr, DOWN: tl.constexpr,
    MODE: tl.constexpr, EVEN: tl.constexpr, TYPE: tl.constexpr, C: tl.constexpr,
    S: tl.constexpr, R: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """All states and the last one; ``D`` counts channels, ``a_batch`` is in numbers' parts."""
    SIGN: tl.constexpr = -1 if DOWN else 1
    W = C * D
    blocks = tl.cdiv(D, BD)
    chunks = tl.cdiv(L, S * R)
    chunk, lane = place(ticket, B * blocks, MODE)
    batch = lane // blocks
    r = tl.arange(0, R)[:, None]
    first = batch.to(tl.int64) * W + lane % blocks * (C * BD)
    columns = lane % blocks * (C * BD) + tl.arange(0, C * BD)[None, :] + 0 * r
    inside = columns < W
    lanes = batch.to(tl.int64) * W + columns
    k0 = chunk * (S * R)
    t0 = L - 1 - k0 if DOWN else k0
    b += (batch.to(tl.int64) * L + t0) * W
    h += (batch.to(tl.int64) * L + t0) * W
    a += batch.to(tl.int64) * a_batch
    if A_TIMED:
        a += t0.to(tl.int64) * W
    at = SIGN * S * W * r + columns

    A = ()
    X = ()
    if not A_TIMED:
        constant = load_row(a + columns, inside, False, False, TYPE, C)
    for s in tl.static_range(S):
        within = k0 + S * r + s < L
        if A_TIMED:
            row = load_row(a + at + SIGN * s * W, within & inside, EVEN, False, TYPE, C)
        else:
            row = constant
        if not EVEN:
            row = where(within, row, constant_number(1.0, row, C), C)
        A = A + (row,)
        X = X + (load_row(b + at + SIGN * s * W, within & inside, EVEN, False, TYPE, C),)

    state = constant_number(0.0, X[0], C)
    decay = constant_number(1.0, X[0], C)
    alive = tl.full(X[0][0].shape, 1, tl.int32)
    if HAS_RESET:
        bits = reset_bits(reset, batch, k0, L, DOWN, S, R)
        alive = tl.where(bits == 0, alive, 0)
    H = ()
    P = ()
    for s in tl.static_range(S):
        state = multiply_add(A[s], state, X[s], C)
        if s == 0 and not HAS_H0:
            state = where(chunk + r == 0, X[s], state, C)
        if HAS_RESET:
            state = where((bits >> s) & 1 != 0, X[s], state, C)
        decay = multiply(decay, A[s], C)
        H = H + (state,)
        P = P + (decay,)
    alive, decay, state = summaries(alive, decay, state, HAS_RESET, C)

    leaver = (r == R - 1) & (chunk + r < chunks + R - 2) & inside
    ending = (chunk + r == chunks + R - 2) & inside
    if MODE == SUMMARY:
        row = chunk.to(tl.int64) * B * W + lanes
        publish(words + row, state, leaver, C)
        store_row(decays + row, decay, leaver, False, C)
        flag = alive.to(TYPE)
        store_row(opens + row, (flag, flag), leaver, False, C)
    else:
        carry = carry_in(words, h0, chunk, lanes, first, inside, B * W, HAS_H0, MODE, TYPE, C)
        end = enter(alive != 0, decay, state, carry, C)
        if MODE == CHAIN:
            row = words + chunk.to(tl.int64) * B * W + lanes
            publish(row, end, leaver, C)
        store_row(h_last + lanes, end, ending, False, C)
        # What enters a group is what the group before it ends with.
        carry = where(r > 0, previous(end, C), carry, C)
        open = nonzero(carry, C)
        for s in tl.static_range(S):
            reached = open
            if HAS_RESET:
                reached &= bits & ((2 << s) - 1) == 0
            out = where(reached, multiply_add(P[s], carry, H[s], C), H[s], C)
            keep = (k0 + S * r + s < L) & inside
            store_row(h + at + SIGN * s * W, out, keep, EVEN, C)


@triton.jit
def backward_kernel(
    grad_h, grad_last, a, h, h0, reset, da, db, dh0, words, decays, opens, ticket,
    B, L, D, a_batch,
    HAS_GRAD: tl.constexpr, HAS_GRAD_LAST: tl.constexpr, HAS_H0: tl.constexpr,
    HAS_RESET: tl.constexpr, A_TIMED: tl.constexpr, DA: tl.constexpr, DOWN: tl.constexpr,
    MODE: tl.constexpr, EVEN: tl.constexpr, TYPE: tl.constexpr, C: tl.constexpr,
    S: tl.constexpr, R: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """db, dh0 and, as ``DA`` says, ``EACH`` ∂a_t or their ``TOTAL`` over the tile.

    The pass is the scan c ← conj(a_t) (∂h_t + c) against the order of the forward pass, ``DOWN``
    its own direction; c is what reaches step t from the steps after it.
    """
    SIGN: tl.constexpr = -1 if DOWN else 1
    W = C * D
    blocks = tl.cdiv(D, BD)
    chunks = tl.cdiv(L, S * R)
    chunk, lane = place(ticket, B * blocks, MODE)
    batch = lane // blocks
    r = tl.arange(0, R)[:, None]
    first = batch.to(tl.int64) * W + lane % blocks * (C * BD)
    columns = lane % blocks * (C * BD) + tl.arange(0, C * BD)[None, :] + 0 * r
    inside = columns < W
    lanes = batch.to(tl.int64) * W + columns
    k0 = chunk * (S * R)
    t0 = L - 1 - k0 if DOWN else k0
    start = (batch.to(tl.int64) * L + t0) * W
    a += batch.to(tl.int64) * a_batch
    if A_TIMED:
        a += t0.to(tl.int64) * W
    at = SIGN * S * W * r + columns

    A = ()
    G = ()
    if not A_TIMED:
        constant = load_row(a + columns, inside, False, True, TYPE, C)
    for s in tl.static_range(S):
        within = k0 + S * r + s < L
        if A_TIMED:
            row = load_row(a + at + SIGN * s * W, within & inside, EVEN, True, TYPE, C)
        else:
            row = constant
        if not EVEN:
            row = where(within, row, constant_number(1.0, row, C), C)
        A = A + (row,)
        if HAS_GRAD:
            row = load_row(
                grad_h + start + at + SIGN * s * W, within & inside, EVEN, False, TYPE, C
            )
        else:
            row = constant_number(0.0, row, C)
        G = G + (row,)

    state = constant_number(0.0, A[0], C)
    decay = constant_number(1.0, A[0], C)
    alive = tl.full(A[0][0].shape, 1, tl.int32)
    if HAS_RESET:
        bits = reset_bits(reset, batch, k0, L, DOWN, S, R)
        alive = tl.where(bits == 0, alive, 0)
    H = ()
    P = ()
    for s in tl.static_range(S):
        state = add(G[s], state, C)
        H = H + (state,)
        P = P + (decay,)
        state = multiply(A[s], state, C)
        if HAS_RESET:
            state = where((bits >> s) & 1 != 0, constant_number(0.0, state, C), state, C)
        decay = multiply(decay, A[s], C)
    alive, decay, state = summaries(alive, decay, state, HAS_RESET, C)

    leaver = (r == R - 1) & (chunk + r < chunks + R - 2) & inside
    ending = (chunk + r == chunks + R - 2) & inside
    if MODE == SUMMARY:
        row = chunk.to(tl.int64) * B * W + lanes
        publish(words + row, state, leaver, C)
        store_row(decays + row, decay, leaver, False, C)
        flag = alive.to(TYPE)
        store_row(opens + row, (flag, flag), leaver, False, C)
    else:
        earlier = ()
        if DA != NONE:
            if HAS_H0:
                before_all = load_row(h0 + lanes, inside, False, True, TYPE, C)
            for s in tl.static_range(S):
                k = k0 + S * r + s
                # All but the tile's last row has an earlier state when no row is beyond the end.
                row = h + start + at + SIGN * (s + 1) * W
                row = load_row(row, (k < L - 1) & inside, EVEN and s < S - 1, True, TYPE, C)
                if HAS_H0 and not (EVEN and s < S - 1):
                    row = where(k == L - 1, before_all, row, C)
                earlier = earlier + (row,)
        carry = carry_in(
            words, grad_last, chunk, lanes, first, inside, B * W, HAS_GRAD_LAST, MODE, TYPE, C
        )
        end = enter(alive != 0, decay, state, carry, C)
        if MODE == CHAIN:
            row = words + chunk.to(tl.int64) * B * W + lanes
            publish(row, end, leaver, C)
        if HAS_H0:
            store_row(dh0 + lanes, end, ending, False, C)
        # What enters a group is what the group before it ends with.
        carry = where(r > 0, previous(end, C), carry, C)
        open = nonzero(carry, C)
        total = constant_number(0.0, A[0], C)
        nil = constant_number(0.0, A[0], C)
        for s in tl.static_range(S):
            k = k0 + S * r + s
            reached = open
            if HAS_RESET:
                reached &= bits & ((1 << s) - 1) == 0
            g = where(reached, multiply_add(P[s], carry, H[s], C), H[s], C)
            keep = (k < L) & inside
            store_row(db + start + at + SIGN * s * W, g, keep, EVEN, C)
            if DA != NONE:
                product = multiply(earlier[s], g, C)
                if not (EVEN and (HAS_H0 or s < S - 1)):
                    product = where(k < L - 1 + HAS_H0, product, nil, C)
                if HAS_RESET:
                    product = where((bits >> s) & 1 != 0, nil, product, C)
                if DA == EACH:
                    store_row(da + start + at + SIGN * s * W, product, keep, EVEN, C)
                else:
                    total = add(total, product, C)
        if DA == TOTAL:
            row = (batch.to(tl.int64) * chunks + chunk) * W + lane % blocks * (C * BD)
            column = tl.arange(0, C * BD)
            keep = lane % blocks * (C * BD) + column < W
            tl.store(da + row + column, tl.sum(pack(total, C), 0), mask=keep)


@triton.jit
def join_kernel(
    words, decays, opens, start, rows, lanes,
    HAS_START: tl.constexpr, TYPE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Last states of tiles without a carry → with one, in place, tile after tile.

    ``lanes`` counts the parts of the numbers in one row of ``words``, ``rows`` the rows.
    """
    AHEAD: tl.constexpr = 8
    columns = tl.program_id(0) * (C * BLOCK) + tl.arange(0, C * BLOCK)[None, :]
    inside = columns < lanes
    if HAS_START:
        carry = tl.load(start + columns, mask=inside, other=0.0).to(TYPE)
    else:
        carry = tl.zeros(columns.shape, TYPE)
    for row in range(0, rows, AHEAD):
        found = ()
        for i in tl.static_range(AHEAD):
            keep = inside & (0 * columns + row + i < rows)
            state = tl.load(words + i * lanes + columns, mask=keep, other=0).to(TYPE, bitcast=True)
            decay = tl.load(decays + i * lanes + columns, mask=keep, other=0.0)
            alive = tl.load(opens + i * lanes + columns, mask=keep, other=0.0)
            found = found + ((state, decay, alive),)
        for i in tl.static_range(AHEAD):
            state, decay, alive = found[i]
            alive = number(alive, False, C)[0]
            into = number(carry, False, C)
            state = enter(alive != 0, number(decay, False, C), number(state, False, C), into, C)
            carry = pack(state, C)
            bits = carry.to(words.dtype.element_ty, bitcast=True)
            tl.store(
                words + i * lanes + columns, bits, mask=inside & (0 * columns + row + i < rows)
            )
        words += AHEAD * lanes
        decays += AHEAD * lanes
        opens += AHEAD * lanes
