"""Triton kernels of the ParaGRU scan; :mod:`._triton` says how they are laid out."""

# Triton compiles no `and` between a constant and a tensor.
# ruff: noqa: SIM102
# Triton's own types are not those that its compiler gives to these names.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.newton_scan._triton import (
    bounded_slope,
    combine_scalar,
    combine_scalar_breaking,
    earlier,
    finite,
    later,
    mismatch,
    place,
    sigmoid,
    tanh,
    times,
)


@triton.jit
def _slope(s, z, r, n, az, ar, an):
    """∂h'/∂h; the closed form of ``cells.gru_jacobian``."""
    inner = r + s * ar * r * (1.0 - r)
    return (1.0 - z) + (n - s) * az * z * (1.0 - z) + z * (1.0 - n * n) * an * inner


@triton.jit
def forward(
    pre, a, h0, reset, h, h_last, passes, residual, L, D, T, tolerance,
    C: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr, HAS_H0: tl.constexpr,
    HAS_RESET: tl.constexpr, REVERSE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Every state of some channels of one sequence.

    ``passes`` counts the walks over time and ``residual`` has the mismatch that is left between
    stretches, for every program.
    """
    width = tl.cdiv(D, BD)
    one = tl.program_id(0) % width * BD + tl.arange(0, BD)
    i = (tl.program_id(0) // width).to(tl.int64)
    d = one[None, :]
    c = tl.arange(0, C)[:, None]
    inside = d < D
    az = tl.load(a + d, mask=inside, other=0).to(ACC)
    ar = tl.load(a + D + d, mask=inside, other=0).to(ACC)
    an = tl.load(a + 2 * D + d, mask=inside, other=0).to(ACC)
    start = tl.zeros((C, BD), ACC)
    if HAS_H0:
        start = tl.load(h0 + i * D + d, mask=inside & (c == 0), other=0).to(ACC) + start
    first = c.to(tl.int64) * T
    state = start
    m = start
    off = tolerance + 1.0
    walks = 0
    while (off > tolerance) & (walks < C):
        if C > 1:
            if walks > 0:
                # ``state`` and ``m`` are those of the walk before: correct the starts by them.
                after = later(start, C, BD)
                gap = tl.where(c < C - 1, finite(state - after), 0.0)
                m = bounded_slope(m)
                _, moved = tl.associative_scan((m, gap), 0, combine_scalar)
                moved = tl.where(c > 0, earlier(moved, C, BD), 0.0)
                start = tl.where(c > 0, earlier(state + times(m, moved), C, BD), start)
        state = start
        m = tl.full((C, BD), 1.0, ACC)
        for n in tl.range(0, T, num_stages=STAGES):
            valid, row = place(first, n, i, L, D, REVERSE)
            mask = valid & inside
            at = pre + row * (3 * D) + d
            pz = tl.load(at, mask=mask, other=0).to(ACC)
            pr = tl.load(at + D, mask=mask, other=0).to(ACC)
            pn = tl.load(at + 2 * D, mask=mask, other=0).to(ACC)
            if HAS_RESET:
                fresh = tl.load(reset + row, mask=valid, other=0) != 0
                state = tl.where(fresh, 0.0, state)
                m = tl.where(fresh, 0.0, m)
            z = sigmoid(az * state + pz)
            r = sigmoid(ar * state + pr)
            g = tanh(an * (state * r) + pn)
            if C > 1:
                m = tl.where(valid & (m != 0.0), m * _slope(state, z, r, g, az, ar, an), m)
            state = tl.where(valid, state + z * (g - state), state)
            tl.store(h + row * D + d, state, mask=mask)
        off = tolerance * 0.0
        if C > 1:
            apart = mismatch(state, later(start, C, BD))
            off = tl.max(tl.where((c < C - 1) & inside, apart, 0.0)).to(tl.float32)
        walks += 1
    tl.store(h_last + i * D + d + c * 0, state, mask=inside & (c == (L - 1) // T))
    tl.store(passes + tl.program_id(0), walks)
    tl.store(residual + tl.program_id(0), off)


@triton.jit
def backward(
    grad_h, grad_last, pre, a, h, h0, reset, dpre, da, dh0, L, D, T,
    C: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr, HAS_GRAD_H: tl.constexpr,
    HAS_GRAD_LAST: tl.constexpr, HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr,
    REVERSE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The adjoint for some channels of one sequence; ``da`` is (B, 3, D).

    The recurrence of the carried gradient is linear, so two walks do: the first finds the map of
    each stretch, the second starts from the right gradients.
    """
    width = tl.cdiv(D, BD)
    one = tl.program_id(0) % width * BD + tl.arange(0, BD)
    i = (tl.program_id(0) // width).to(tl.int64)
    d = one[None, :]
    c = tl.arange(0, C)[:, None]
    inside = d < D
    az = tl.load(a + d, mask=inside, other=0).to(ACC)
    ar = tl.load(a + D + d, mask=inside, other=0).to(ACC)
    an = tl.load(a + 2 * D + d, mask=inside, other=0).to(ACC)
    first = c.to(tl.int64) * T
    carry = tl.zeros((C, BD), ACC)
    if HAS_GRAD_LAST:
        carry += tl.load(grad_last + i * D + d, mask=inside, other=0).to(ACC)
    if C > 1:
        q = tl.zeros((C, BD), ACC)
        m = tl.full((C, BD), 1.0, ACC)
        broken = tl.zeros((C, BD), tl.int32)
        for back in tl.range(0, T, num_stages=STAGES):
            valid, row = place(first, T - 1 - back, i, L, D, REVERSE)
            precedes, row_before = place(first, T - 2 - back, i, L, D, REVERSE)
            mask = valid & inside
            at = pre + row * (3 * D) + d
            pz = tl.load(at, mask=mask, other=0).to(ACC)
            pr = tl.load(at + D, mask=mask, other=0).to(ACC)
            pn = tl.load(at + 2 * D, mask=mask, other=0).to(ACC)
            s = tl.load(h + row_before * D + d, mask=mask & precedes, other=0).to(ACC)
            if HAS_H0:
                s += tl.load(h0 + i * D + d, mask=mask & (precedes == 0), other=0).to(ACC)
            g = q
            if HAS_GRAD_H:
                g += tl.load(grad_h + row * D + d, mask=mask, other=0).to(ACC)
            z = sigmoid(az * s + pz)
            r = sigmoid(ar * s + pr)
            n = tanh(an * (s * r) + pn)
            slope = _slope(s, z, r, n, az, ar, an)
            q = tl.where(valid, slope * g, q)
            m = tl.where(valid, slope * m, m)
            if HAS_RESET:
                fresh = tl.load(reset + row, mask=valid, other=0) != 0
                q = tl.where(fresh, 0.0, q)
                m = tl.where(fresh, 0.0, m)
                broken = tl.where(fresh, 1, broken)
        m, q, broken = tl.associative_scan((m, q, broken), 0, combine_scalar_breaking, reverse=True)
        m, q, broken = later(m, C, BD), later(q, C, BD), later(broken, C, BD)
        moved = tl.where(broken != 0, q, m * carry + q)
        carry = tl.where(c < C - 1, moved, carry)
    daz = tl.zeros((C, BD), ACC)
    dar = tl.zeros((C, BD), ACC)
    dan = tl.zeros((C, BD), ACC)
    for back in tl.range(0, T, num_stages=STAGES):
        valid, row = place(first, T - 1 - back, i, L, D, REVERSE)
        precedes, row_before = place(first, T - 2 - back, i, L, D, REVERSE)
        mask = valid & inside
        at = pre + row * (3 * D) + d
        pz = tl.load(at, mask=mask, other=0).to(ACC)
        pr = tl.load(at + D, mask=mask, other=0).to(ACC)
        pn = tl.load(at + 2 * D, mask=mask, other=0).to(ACC)
        s = tl.load(h + row_before * D + d, mask=mask & precedes, other=0).to(ACC)
        if HAS_H0:
            s += tl.load(h0 + i * D + d, mask=mask & (precedes == 0), other=0).to(ACC)
        if HAS_RESET:
            fresh = tl.load(reset + row, mask=valid, other=0) != 0
            s = tl.where(fresh, 0.0, s)
        g = carry
        if HAS_GRAD_H:
            g += tl.load(grad_h + row * D + d, mask=mask, other=0).to(ACC)
        z = sigmoid(az * s + pz)
        r = sigmoid(ar * s + pr)
        n = tanh(an * (s * r) + pn)
        dz = g * (n - s) * z * (1.0 - z)
        dn = g * z * (1.0 - n * n)
        dr = dn * an * s * r * (1.0 - r)
        to = dpre + row * (3 * D) + d
        tl.store(to, dz, mask=mask)
        tl.store(to + D, dr, mask=mask)
        tl.store(to + 2 * D, dn, mask=mask)
        daz = tl.where(valid, daz + dz * s, daz)
        dar = tl.where(valid, dar + dr * s, dar)
        dan = tl.where(valid, dan + dn * s * r, dan)
        before = g * (1.0 - z) + dz * az + dr * ar + dn * an * r
        if HAS_RESET:
            before = tl.where(fresh, 0.0, before)
        carry = tl.where(valid, before, carry)
    to = da + i * (3 * D) + one
    tl.store(to, tl.sum(daz, 0), mask=one < D)
    tl.store(to + D, tl.sum(dar, 0), mask=one < D)
    tl.store(to + 2 * D, tl.sum(dan, 0), mask=one < D)
    if HAS_H0:
        tl.store(dh0 + i * D + d + c * 0, carry, mask=inside & (c == 0))
