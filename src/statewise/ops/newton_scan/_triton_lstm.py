"""Triton kernels of the ParaLSTM scan; :mod:`._triton` says how they are laid out."""

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
    combine_pair,
    combine_pair_breaking,
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
def _blocks(sc, f, g, u, y, af, ag, ao, wf, wo):
    """∂(c', h')/∂(c, h) as cc, ch, hc, hh; the closed form of ``cells.lstm_jacobian``."""
    gap = (sc - g) * f * (1.0 - f)
    cc = f + wf * gap
    ch = af * gap + (1.0 - f) * (1.0 - g * g) * ag
    out = u * (1.0 - u) * y
    through = wo * out + u * (1.0 - y * y)
    return cc, ch, cc * through, ao * out + ch * through


@triton.jit
def forward(
    pre, a, w, h0, reset, h, cells, last, passes, residual, L, D, T, tolerance,
    C: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr, HAS_H0: tl.constexpr,
    HAS_RESET: tl.constexpr, REVERSE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Every h and c of some channels of one sequence; ``h0`` and ``last`` hold pairs (c, h).

    ``passes`` counts the walks over time and ``residual`` has the mismatch that is left between
    stretches, for every program.
    """
    width = tl.cdiv(D, BD)
    one = tl.program_id(0) % width * BD + tl.arange(0, BD)
    i = (tl.program_id(0) // width).to(tl.int64)
    d = one[None, :]
    c = tl.arange(0, C)[:, None]
    inside = d < D
    af = tl.load(a + d, mask=inside, other=0).to(ACC)
    ag = tl.load(a + D + d, mask=inside, other=0).to(ACC)
    ao = tl.load(a + 2 * D + d, mask=inside, other=0).to(ACC)
    wf = tl.load(w + d, mask=inside, other=0).to(ACC)
    wo = tl.load(w + D + d, mask=inside, other=0).to(ACC)
    start_c = tl.zeros((C, BD), ACC)
    start_h = tl.zeros((C, BD), ACC)
    if HAS_H0:
        given = h0 + (i * D + d) * 2
        start_c += tl.load(given, mask=inside & (c == 0), other=0).to(ACC)
        start_h += tl.load(given + 1, mask=inside & (c == 0), other=0).to(ACC)
    first = c.to(tl.int64) * T
    sc, sh = start_c, start_h
    mcc, mch, mhc, mhh = start_c, start_c, start_c, start_c
    off = tolerance + 1.0
    walks = 0
    while (off > tolerance) & (walks < C):
        if C > 1:
            if walks > 0:
                # The states and ``m`` are those of the walk before: correct the starts by them.
                gap_c = tl.where(c < C - 1, finite(sc - later(start_c, C, BD)), 0.0)
                gap_h = tl.where(c < C - 1, finite(sh - later(start_h, C, BD)), 0.0)
                mcc, mch = bounded_slope(mcc), bounded_slope(mch)
                mhc, mhh = bounded_slope(mhc), bounded_slope(mhh)
                _, _, _, _, dc, dh = tl.associative_scan(
                    (mcc, mch, mhc, mhh, gap_c, gap_h), 0, combine_pair
                )
                dc = tl.where(c > 0, earlier(finite(dc), C, BD), 0.0)
                dh = tl.where(c > 0, earlier(finite(dh), C, BD), 0.0)
                next_c = sc + times(mcc, dc) + times(mch, dh)
                next_h = sh + times(mhc, dc) + times(mhh, dh)
                start_c = tl.where(c > 0, earlier(next_c, C, BD), start_c)
                start_h = tl.where(c > 0, earlier(next_h, C, BD), start_h)
        sc, sh = start_c, start_h
        mcc = tl.full((C, BD), 1.0, ACC)
        mhh = tl.full((C, BD), 1.0, ACC)
        mch = tl.zeros((C, BD), ACC)
        mhc = tl.zeros((C, BD), ACC)
        for n in tl.range(0, T, num_stages=STAGES):
            valid, row = place(first, n, i, L, D, REVERSE)
            mask = valid & inside
            at = pre + row * (3 * D) + d
            pf = tl.load(at, mask=mask, other=0).to(ACC)
            pg = tl.load(at + D, mask=mask, other=0).to(ACC)
            po = tl.load(at + 2 * D, mask=mask, other=0).to(ACC)
            if HAS_RESET:
                fresh = tl.load(reset + row, mask=valid, other=0) != 0
                sc = tl.where(fresh, 0.0, sc)
                sh = tl.where(fresh, 0.0, sh)
            f = sigmoid(af * sh + wf * sc + pf)
            g = tanh(ag * sh + pg)
            new = g + f * (sc - g)
            u = sigmoid(ao * sh + wo * new + po)
            y = tanh(new)
            if C > 1:
                cc, ch, hc, hh = _blocks(sc, f, g, u, y, af, ag, ao, wf, wo)
                ncc = cc * mcc + ch * mhc
                nch = cc * mch + ch * mhh
                nhc = hc * mcc + hh * mhc
                nhh = hc * mch + hh * mhh
                if HAS_RESET:
                    ncc = tl.where(fresh, 0.0, ncc)
                    nch = tl.where(fresh, 0.0, nch)
                    nhc = tl.where(fresh, 0.0, nhc)
                    nhh = tl.where(fresh, 0.0, nhh)
                mcc = tl.where(valid, ncc, mcc)
                mch = tl.where(valid, nch, mch)
                mhc = tl.where(valid, nhc, mhc)
                mhh = tl.where(valid, nhh, mhh)
            sc = tl.where(valid, new, sc)
            sh = tl.where(valid, u * y, sh)
            tl.store(h + row * D + d, sh, mask=mask)
            tl.store(cells + row * D + d, sc, mask=mask)
        off = tolerance * 0.0
        if C > 1:
            apart_c = mismatch(sc, later(start_c, C, BD))
            apart_h = mismatch(sh, later(start_h, C, BD))
            apart = tl.maximum(apart_c, apart_h)
            off = tl.max(tl.where((c < C - 1) & inside, apart, 0.0)).to(tl.float32)
        walks += 1
    final = inside & (c == (L - 1) // T)
    at = last + (i * D + d + c * 0) * 2
    tl.store(at, sc, mask=final)
    tl.store(at + 1, sh, mask=final)
    tl.store(passes + tl.program_id(0), walks)
    tl.store(residual + tl.program_id(0), off)


@triton.jit
def backward(
    grad_h, grad_c, grad_last, pre, a, w, h, cells, h0, reset, dpre, dweights, dh0, L, D, T,
    C: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr, HAS_GRAD_H: tl.constexpr,
    HAS_GRAD_C: tl.constexpr, HAS_GRAD_LAST: tl.constexpr, HAS_H0: tl.constexpr,
    HAS_RESET: tl.constexpr, REVERSE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The adjoint for some channels of one sequence.

    ``dweights`` is (B, 5, D): rows f, g, o of a, then f, o of w. The recurrence of the carried
    gradient is linear, so two walks do: the first finds the map of each stretch, the second
    starts from the right gradients.
    """
    width = tl.cdiv(D, BD)
    one = tl.program_id(0) % width * BD + tl.arange(0, BD)
    i = (tl.program_id(0) // width).to(tl.int64)
    d = one[None, :]
    c = tl.arange(0, C)[:, None]
    inside = d < D
    af = tl.load(a + d, mask=inside, other=0).to(ACC)
    ag = tl.load(a + D + d, mask=inside, other=0).to(ACC)
    ao = tl.load(a + 2 * D + d, mask=inside, other=0).to(ACC)
    wf = tl.load(w + d, mask=inside, other=0).to(ACC)
    wo = tl.load(w + D + d, mask=inside, other=0).to(ACC)
    first = c.to(tl.int64) * T
    pair = (i * D + d) * 2
    carry_c = tl.zeros((C, BD), ACC)
    carry_h = tl.zeros((C, BD), ACC)
    if HAS_GRAD_LAST:
        carry_c += tl.load(grad_last + pair, mask=inside, other=0).to(ACC)
        carry_h += tl.load(grad_last + pair + 1, mask=inside, other=0).to(ACC)
    da_f = tl.zeros((C, BD), ACC)
    da_g = tl.zeros((C, BD), ACC)
    da_o = tl.zeros((C, BD), ACC)
    dw_f = tl.zeros((C, BD), ACC)
    dw_o = tl.zeros((C, BD), ACC)
    for walk in tl.static_range(1 if C > 1 else 2, 3):
        # The first walk carries the map of the stretch; the second, the gradient itself.
        if walk == 1:
            kept_c, kept_h = carry_c, carry_h
            carry_c = tl.zeros((C, BD), ACC)
            carry_h = tl.zeros((C, BD), ACC)
            mcc = tl.full((C, BD), 1.0, ACC)
            mhh = tl.full((C, BD), 1.0, ACC)
            mch = tl.zeros((C, BD), ACC)
            mhc = tl.zeros((C, BD), ACC)
            broken = tl.zeros((C, BD), tl.int32)
        for back in tl.range(0, T, num_stages=STAGES):
            valid, row = place(first, T - 1 - back, i, L, D, REVERSE)
            precedes, row_before = place(first, T - 2 - back, i, L, D, REVERSE)
            mask = valid & inside
            at = pre + row * (3 * D) + d
            pf = tl.load(at, mask=mask, other=0).to(ACC)
            pg = tl.load(at + D, mask=mask, other=0).to(ACC)
            po = tl.load(at + 2 * D, mask=mask, other=0).to(ACC)
            sc = tl.load(cells + row_before * D + d, mask=mask & precedes, other=0).to(ACC)
            sh = tl.load(h + row_before * D + d, mask=mask & precedes, other=0).to(ACC)
            if HAS_H0:
                opening = mask & (precedes == 0)
                sc += tl.load(h0 + pair + c * 0, mask=opening, other=0).to(ACC)
                sh += tl.load(h0 + pair + 1 + c * 0, mask=opening, other=0).to(ACC)
            if HAS_RESET:
                fresh = tl.load(reset + row, mask=valid, other=0) != 0
                sc = tl.where(fresh, 0.0, sc)
                sh = tl.where(fresh, 0.0, sh)
            gc, gh = carry_c, carry_h
            if HAS_GRAD_H:
                gh += tl.load(grad_h + row * D + d, mask=mask, other=0).to(ACC)
            if HAS_GRAD_C:
                gc += tl.load(grad_c + row * D + d, mask=mask, other=0).to(ACC)
            f = sigmoid(af * sh + wf * sc + pf)
            g = tanh(ag * sh + pg)
            new = g + f * (sc - g)
            u = sigmoid(ao * sh + wo * new + po)
            y = tanh(new)
            if walk == 1:
                cc, ch, hc, hh = _blocks(sc, f, g, u, y, af, ag, ao, wf, wo)
                # The transposed block acts on the gradient and on the map so far.
                back_c = cc * gc + hc * gh
                back_h = ch * gc + hh * gh
                ncc = cc * mcc + hc * mhc
                nch = cc * mch + hc * mhh
                nhc = ch * mcc + hh * mhc
                nhh = ch * mch + hh * mhh
                if HAS_RESET:
                    ncc = tl.where(fresh, 0.0, ncc)
                    nch = tl.where(fresh, 0.0, nch)
                    nhc = tl.where(fresh, 0.0, nhc)
                    nhh = tl.where(fresh, 0.0, nhh)
                    broken = tl.where(fresh, 1, broken)
                mcc = tl.where(valid, ncc, mcc)
                mch = tl.where(valid, nch, mch)
                mhc = tl.where(valid, nhc, mhc)
                mhh = tl.where(valid, nhh, mhh)
            else:
                do = gh * y * u * (1.0 - u)
                dnew = gc + gh * u * (1.0 - y * y) + do * wo
                df = dnew * (sc - g) * f * (1.0 - f)
                dg = dnew * (1.0 - f) * (1.0 - g * g)
                to = dpre + row * (3 * D) + d
                tl.store(to, df, mask=mask)
                tl.store(to + D, dg, mask=mask)
                tl.store(to + 2 * D, do, mask=mask)
                da_f = tl.where(valid, da_f + df * sh, da_f)
                da_g = tl.where(valid, da_g + dg * sh, da_g)
                da_o = tl.where(valid, da_o + do * sh, da_o)
                dw_f = tl.where(valid, dw_f + df * sc, dw_f)
                dw_o = tl.where(valid, dw_o + do * new, dw_o)
                back_c = dnew * f + df * wf
                back_h = df * af + dg * ag + do * ao
            if HAS_RESET:
                back_c = tl.where(fresh, 0.0, back_c)
                back_h = tl.where(fresh, 0.0, back_h)
            carry_c = tl.where(valid, back_c, carry_c)
            carry_h = tl.where(valid, back_h, carry_h)
        if walk == 1:
            mcc, mch, mhc, mhh, qc, qh, broken = tl.associative_scan(
                (mcc, mch, mhc, mhh, carry_c, carry_h, broken),
                0,
                combine_pair_breaking,
                reverse=True,
            )
            moved_c = later(qc, C, BD)
            moved_h = later(qh, C, BD)
            cut = later(broken, C, BD) != 0
            kept_too_c = later(mcc, C, BD) * kept_c + later(mch, C, BD) * kept_h + moved_c
            kept_too_h = later(mhc, C, BD) * kept_c + later(mhh, C, BD) * kept_h + moved_h
            carry_c = tl.where(c < C - 1, tl.where(cut, moved_c, kept_too_c), kept_c)
            carry_h = tl.where(c < C - 1, tl.where(cut, moved_h, kept_too_h), kept_h)
    to = dweights + i * (5 * D) + one
    tl.store(to, tl.sum(da_f, 0), mask=one < D)
    tl.store(to + D, tl.sum(da_g, 0), mask=one < D)
    tl.store(to + 2 * D, tl.sum(da_o, 0), mask=one < D)
    tl.store(to + 3 * D, tl.sum(dw_f, 0), mask=one < D)
    tl.store(to + 4 * D, tl.sum(dw_o, 0), mask=one < D)
    if HAS_H0:
        opening = inside & (c == 0)
        tl.store(dh0 + pair + c * 0, carry_c, mask=opening)
        tl.store(dh0 + pair + 1 + c * 0, carry_h, mask=opening)
