"""Triton kernel of the gradients that steps receive as readers of the state: C, D, the gate.

One block of time and some heads of a group per program. The heads of a group share B and C, so a
program walks over its heads with B and C at hand and sums the gradient of C in registers; no
gradient is summed through memory by more programs than the split of a group needs, and none by
atomics. Readers and sources are two kernels because the accumulators of both would not fit in
registers.
"""

# Triton's annotations would have flags be constexpr objects.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.ssd._gpu_common import (
    block_decay,
    broken,
    dot,
    guarded_dot,
    pair_decay,
    rows_of,
)


@triton.jit
def readers_kernel(
    g_ptr,
    x_ptr,
    log_a_ptr,
    w_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    z_ptr,
    reset_ptr,
    states_ptr,
    flow_ptr,
    dc_ptr,
    dd_ptr,
    dz_ptr,
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
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_RESET: tl.constexpr,
    FRESH: tl.constexpr,
    REVERSE: tl.constexpr,
    NEED_C: tl.constexpr,
    NEED_D: tl.constexpr,
    NEED_Z: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    PRECISE: tl.constexpr,
):
    """C̅, D̅, z̅ and what flows from readers into the decays, given the state S before the block.

    With E_ts = Π_{s<j≤t} a_j for t ≥ s and e_t = Π_{j≤t} a_j inside the block, o̅ = y̅ ⊙ silu(z):

        C̅ = Σ_heads ((o̅ xᵀ) ⊙ E diag(w)) B + diag(e) o̅ S,    flow_t = e_t o̅_t · S C_t
        z̅ = y̅ ⊙ o ⊙ silu'(z), with o = y before the gate, computed again.

    Adds over the heads [first, first + HEADS) of a group, to part ``split`` of dc.
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
    if NEED_Z:
        pairs = dot(c, tl.trans(b), tl.zeros((Q, Q), ACC), PRECISION)

    has_decay = ok
    seg = i
    reset = i
    resets = tl.zeros((), tl.int32)
    allowed = i[:, None] >= i[None, :]
    if FRESH:
        has_decay = has_decay & (block * Q + i > 0)
    if HAS_RESET:
        reset = (tl.load(reset_ptr + row + r, mask=ok, other=0) != 0).to(tl.int32)
        seg = tl.cumsum(reset, 0)
        resets = tl.sum(reset, 0)
        has_decay = has_decay & (reset == 0)
        allowed = allowed & (seg[:, None] == seg[None, :])
    dc = tl.zeros((Q, NB), ACC)

    for k in range(HEADS):
        h = group * HEADS_PER_GROUP + split * HEADS + k
        l = tl.load(log_a_ptr + row * H + h + r * H, mask=has_decay, other=0.0)
        sick = broken(l)
        cum, rest, _, _ = block_decay(l, reset, seg == resets, ACC, PRECISE, HAS_RESET)
        decay = pair_decay(cum, rest, allowed, True, PRECISE)
        enter = tl.exp2(cum)
        if HAS_W:
            w = tl.load(w_ptr + row * H + h + r * H, mask=ok, other=0.0)
            decay = decay * w[None, :]
        flow = tl.zeros((Q,), ACC)
        for tile in tl.static_range(TILES):
            p = tile * PB + tl.arange(0, PB)
            p_ok = p < P
            tile_ok = ok[:, None] & p_ok[None, :]
            inside = p[:, None] * N + n[None, :]
            at = ((batch * BLOCKS + block) * H + h) * (P * N)
            g_at = g_ptr + batch * g_batch + t0 * g_time + h * P
            g = tl.load(g_at + (r * g_time)[:, None] + p[None, :], mask=tile_ok, other=0.0)
            x_at = x_ptr + batch * x_batch + t0 * x_time + h * P
            x = tl.load(x_at + (r * x_time)[:, None] + p[None, :], mask=tile_ok, other=0.0)
            state_ok = p_ok[:, None] & n_ok[None, :]
            state = tl.load(states_ptr + at + inside, mask=state_ok, other=0.0).to(OPERAND)
            # Times a 1 that the compiler does not know: a load that the matrix units take as it
            # is, and registers too, is not prefetched by Triton's pipeliner.
            raw = g.to(ACC) * one[:, None]
            ga = raw
            if HAS_Z:
                z_at = z_ptr + batch * z_batch + t0 * z_time + h * P
                z = tl.load(z_at + (r * z_time)[:, None] + p[None, :], mask=tile_ok, other=0.0)
                z = z.to(ACC)
                gate = 1.0 / (1.0 + tl.exp(-z))
                ga = raw * z * gate
            read = dot(c, tl.trans(state), tl.zeros((Q, PB), ACC), PRECISION) * enter[:, None]
            if HAS_RESET:
                read = tl.where((seg == 0)[:, None], read, 0.0)
            flow += tl.sum(ga * read, 1)
            if NEED_Z or NEED_D:
                xa = x.to(ACC) * one[:, None]
                x = xa.to(OPERAND)
            if NEED_D:
                dd_at = dd_ptr + ((batch * BLOCKS + block) * H + h) * P + p
                tl.store(dd_at, tl.sum(xa * ga, 0), mask=p_ok)
            if NEED_Z:
                kernel = pairs * decay
                if HAS_RESET:
                    kernel = tl.where(allowed, kernel, 0.0)
                kernel = kernel.to(OPERAND)
                y = guarded_dot(kernel, x, allowed, sick, read, PRECISION, OPERAND, HAS_RESET)
                if HAS_D:
                    skip = tl.load(d_ptr + h * P + p, mask=p_ok, other=0.0).to(ACC)
                    y += skip[None, :] * xa
                dz = raw * y * gate * (1.0 + z * (1.0 - gate))
                out = row * (H * P) + h * P + (r * (H * P))[:, None] + p[None, :]
                tl.store(dz_ptr + out, dz.to(dz_ptr.dtype.element_ty), mask=tile_ok)
            if NEED_C:
                none = tl.zeros((Q, Q), ACC)
                grams = dot(ga.to(OPERAND), tl.trans(x.to(OPERAND)), none, PRECISION) * decay
                taken = ga * enter[:, None]
                if HAS_RESET:
                    # 0 · NaN must not cross a reset.
                    grams = tl.where(allowed, grams, 0.0)
                    taken = tl.where((seg == 0)[:, None], taken, 0.0)
                    none = tl.zeros((Q, NB), ACC)
                    part = dot(taken.to(OPERAND), state, none, PRECISION)
                    dc += tl.where((seg == 0)[:, None], part, 0.0)
                else:
                    dc = dot(taken.to(OPERAND), state, dc, PRECISION)
                dc = guarded_dot(
                    grams.to(OPERAND), b, allowed, i < 0, dc, PRECISION, OPERAND, HAS_RESET
                )
        tl.store(flow_ptr + row * H + h + r * H, flow, mask=ok)

    if NEED_C:
        part_at = (split * tl.cast(BATCHES, tl.int64) * L + row) * (GROUPS * N) + group * N
        out = part_at + (r * (GROUPS * N))[:, None] + n[None, :]
        tl.store(dc_ptr + out, dc.to(dc_ptr.dtype.element_ty), mask=wide_ok)
