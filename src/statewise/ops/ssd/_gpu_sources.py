"""Triton kernel of the gradients that steps receive as sources of the state: B, w, log a.

Their gradient of x is the output of the adjoint scan.

One block of time and some heads of a group per program, as in the kernel of the readers.
"""

# Triton's annotations would have flags be constexpr objects.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.ssd._gpu_common import (
    block_decay,
    dot,
    guarded_dot,
    pair_decay,
    rows_of,
)


@triton.jit
def sources_kernel(
    g_ptr,
    x_ptr,
    log_a_ptr,
    w_ptr,
    b_ptr,
    c_ptr,
    z_ptr,
    reset_ptr,
    adjoint_ptr,
    flow_ptr,
    through_ptr,
    dlog_a_ptr,
    dw_ptr,
    db_ptr,
    BATCHES,
    L,
    H,
    GROUPS,
    HEADS_PER_GROUP,
    HEADS,
    SPLITS,
    BLOCKS,
    g_batch,
    g_time,
    x_batch,
    x_time,
    b_batch,
    b_time,
    c_batch,
    c_time,
    z_batch,
    z_time,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    PB: tl.constexpr,
    NB: tl.constexpr,
    HAS_W: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_RESET: tl.constexpr,
    FRESH: tl.constexpr,
    REVERSE: tl.constexpr,
    NEED_B: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    PRECISE: tl.constexpr,
):
    """B̅, w̅ and log a̅, given the adjoint A of the state after the block.

    With E_st = Π_{s<j≤t} a_j for t ≥ s and f_s = Π_{j>s} a_j inside the block, o̅ = y̅ ⊙ silu(z),
    axes (s, t):

        w̅_s = Σ_t M_st + f_s x_s · A B_s,    M = (x o̅ᵀ) ⊙ (B Cᵀ) ⊙ E
        B̅ = Σ_heads diag(w) (((x o̅ᵀ) ⊙ E) C + diag(f) x A)

    log a_j stands in every product that a path from s < j to t ≥ j takes:

        log a̅_j = Σ_{s<j≤t} w_s M_st + Σ_{t≥j} flow_t + Σ_{s<j} w_s f_s x_s · A B_s + through.

    The first sum is Σ_{t≥j} (column sum − row sum) of diag(w) M above its diagonal: the diagonal,
    which would cancel, is left out, for it may be larger than all the rest. Adds over the heads
    [first, first + HEADS) of a group, to part ``split`` of db.
    """
    TILES: tl.constexpr = (P + PB - 1) // PB
    pid = tl.program_id(0)
    split = pid % SPLITS
    group = (pid // SPLITS) % GROUPS
    block = (pid // (SPLITS * GROUPS)) % BLOCKS
    batch = (pid // (SPLITS * GROUPS * BLOCKS)).to(tl.int64)
    i = tl.arange(0, Q)
    n = tl.arange(0, NB)
    n_ok = n < N
    t0, r, ok = rows_of(block, i, L, Q, REVERSE)
    row = batch * L + t0
    wide_ok = ok[:, None] & n_ok[None, :]
    one = tl.where(ok, 1.0, 0.0).to(ACC)

    b_at = b_ptr + batch * b_batch + group * N + t0 * b_time + (r * b_time)[:, None] + n[None, :]
    b = tl.load(b_at, mask=wide_ok, other=0.0).to(OPERAND)
    c_at = c_ptr + batch * c_batch + group * N + t0 * c_time + (r * c_time)[:, None] + n[None, :]
    c = tl.load(c_at, mask=wide_ok, other=0.0).to(OPERAND)
    pairs = dot(b, tl.trans(c), tl.zeros((Q, Q), ACC), PRECISION)

    has_decay = ok
    seg = i
    reset = i
    resets = tl.zeros((), tl.int32)
    allowed = i[:, None] <= i[None, :]
    later = i[:, None] < i[None, :]
    same = i[:, None] == i[None, :]
    if FRESH:
        has_decay = has_decay & (block * Q + i > 0)
    if HAS_RESET:
        reset = (tl.load(reset_ptr + row + r, mask=ok, other=0) != 0).to(tl.int32)
        seg = tl.cumsum(reset, 0)
        resets = tl.sum(reset, 0)
        has_decay = has_decay & (reset == 0)
        allowed = allowed & (seg[:, None] == seg[None, :])
        later = later & allowed
    db = tl.zeros((Q, NB), ACC)

    for k in range(HEADS):
        h = group * HEADS_PER_GROUP + split * HEADS + k
        l = tl.load(log_a_ptr + row * H + h + r * H, mask=has_decay, other=0.0)
        cum, rest, tail, _ = block_decay(l, reset, seg == resets, ACC, PRECISE, HAS_RESET)
        decay = pair_decay(cum, rest, allowed, False, PRECISE)
        leave = tl.exp2(tail)
        gain = leave
        if HAS_W:
            w = tl.load(w_ptr + row * H + h + r * H, mask=ok, other=0.0)
            gain = leave * w
        flow = tl.load(flow_ptr + row * H + h + r * H, mask=ok, other=0.0)
        source = tl.zeros((Q,), ACC)
        dw = tl.zeros((Q,), ACC)
        through = tl.zeros((), ACC)
        for tile in tl.static_range(TILES):
            p = tile * PB + tl.arange(0, PB)
            p_ok = p < P
            tile_ok = ok[:, None] & p_ok[None, :]
            inside = p[:, None] * N + n[None, :]
            state_ok = p_ok[:, None] & n_ok[None, :]
            at = ((batch * BLOCKS + block) * H + h) * (P * N)
            x_at = x_ptr + batch * x_batch + t0 * x_time + h * P
            x = tl.load(x_at + (r * x_time)[:, None] + p[None, :], mask=tile_ok, other=0.0)
            g_at = g_ptr + batch * g_batch + t0 * g_time + h * P
            g = tl.load(g_at + (r * g_time)[:, None] + p[None, :], mask=tile_ok, other=0.0)
            adjoint = tl.load(adjoint_ptr + at + inside, mask=state_ok, other=0.0).to(OPERAND)
            # Times a 1 that the compiler does not know: a load that the matrix units take as it
            # is, and registers too, is not prefetched by Triton's pipeliner.
            xa = x.to(ACC) * one[:, None]
            if HAS_Z:
                z_at = z_ptr + batch * z_batch + t0 * z_time + h * P
                z = tl.load(z_at + (r * z_time)[:, None] + p[None, :], mask=tile_ok, other=0.0)
                z = z.to(ACC)
                g = g.to(ACC) * z / (1.0 + tl.exp(-z))
            g = g.to(OPERAND)

            back = dot(b, tl.trans(adjoint), tl.zeros((Q, PB), ACC), PRECISION)
            if HAS_RESET:
                back = tl.where((seg == resets)[:, None], back, 0.0)
            source += tl.sum(xa * back, 1) * leave

            grams = dot(xa.to(OPERAND), tl.trans(g), tl.zeros((Q, Q), ACC), PRECISION) * decay
            paths = grams * pairs
            if HAS_W:
                dw += tl.sum(tl.where(same, paths, 0.0), 1)
                grams = grams * w[:, None]
            paths = tl.where(later, paths, 0.0)
            ahead = tl.sum(paths, 1)
            if HAS_W:
                dw += ahead
                ahead = ahead * w
                paths = paths * w[:, None]
            if HAS_RESET:
                # 0 · NaN must not cross a reset.
                paths = tl.where(later, paths, 0.0)
                grams = tl.where(allowed, grams, 0.0)
            flow += tl.sum(paths, 0) - ahead
            if NEED_B:
                db = guarded_dot(
                    grams.to(OPERAND), c, allowed, i < 0, db, PRECISION, OPERAND, HAS_RESET
                )
                sent = xa * gain[:, None]
                if HAS_RESET:
                    sent = tl.where((seg == resets)[:, None], sent, 0.0)
                    none = tl.zeros((Q, NB), ACC)
                    part = dot(sent.to(OPERAND), adjoint, none, PRECISION)
                    db += tl.where((seg == resets)[:, None], part, 0.0)
                else:
                    db = dot(sent.to(OPERAND), adjoint, db, PRECISION)
            at = ((batch * BLOCKS + block) * H + h) * TILES + tile
            through += tl.load(through_ptr + at)

        if HAS_W:
            tl.store(dw_ptr + row * H + h + r * H, dw + source, mask=ok)
            source = source * w
        if HAS_RESET:
            source = tl.where(seg == resets, source, 0.0)
            dlog_a = tl.sum(tl.where(allowed, flow[None, :], 0.0), 1)
        else:
            dlog_a = tl.cumsum(flow, 0, reverse=True)
        dlog_a += tl.cumsum(source, 0) - source + through
        dlog_a = tl.where(has_decay, dlog_a, 0.0)
        tl.store(dlog_a_ptr + row * H + h + r * H, dlog_a, mask=ok)

    if NEED_B:
        part_at = (split * tl.cast(BATCHES, tl.int64) * L + row) * (GROUPS * N) + group * N
        out = part_at + (r * (GROUPS * N))[:, None] + n[None, :]
        tl.store(db_ptr + out, db.to(db_ptr.dtype.element_ty), mask=wide_ok)
