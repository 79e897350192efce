"""Triton kernels of the block scan for small k, whose vectors and matrices live in registers.

Time is cut into C chunks of T steps in scan order. ``summarise`` finds, for each chunk, the map
h ↦ P h + q that it applies to the state before it; ``chain`` walks the C maps of each channel and
keeps the state before every chunk; ``walk`` starts there and writes what is asked for. With one
chunk, ``walk`` alone runs. The adjoint has the same three parts, with the maps
c ↦ A_tᵀ (c + ∂h_t) in the opposite order.

A map that holds a reset ignores the state before it; ``broken`` says so, because a zero matrix
would not stop a NaN. Programs own channels: entries of one channel are k² apart in memory, and
the loads of neighbouring entries share their cache lines.
"""

# Triton compiles neither starred expressions nor `and` between a constant and a tensor.
# ruff: noqa: RUF005, SIM102
# Triton's own types are not those that its compiler gives to these names.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _vector(pointer, offset, mask, K: tl.constexpr, ACC: tl.constexpr):
    found = ()
    for i in tl.static_range(K):
        found = found + (tl.load(pointer + offset + i, mask=mask, other=0).to(ACC),)
    return found


@triton.jit
def _keep(pointer, offset, values, mask, K: tl.constexpr):
    for i in tl.static_range(K):
        tl.store(pointer + offset + i, values[i], mask=mask)


@triton.jit
def _zeros(BD: tl.constexpr, COUNT: tl.constexpr, ACC: tl.constexpr):
    found = ()
    for _ in tl.static_range(COUNT):
        found = found + (tl.zeros((BD,), ACC),)
    return found


@triton.jit
def _times(A, x, K: tl.constexpr, TURNED: tl.constexpr):
    """A x, or Aᵀ x."""
    found = ()
    for i in tl.static_range(K):
        total = A[i if TURNED else i * K] * x[0]
        for j in tl.static_range(1, K):
            total += A[j * K + i if TURNED else i * K + j] * x[j]
        found = found + (total,)
    return found


@triton.jit
def _compose(A, P, K: tl.constexpr, TURNED: tl.constexpr):
    """A P, or Aᵀ P."""
    found = ()
    for i in tl.static_range(K):
        for j in tl.static_range(K):
            total = A[i if TURNED else i * K] * P[j]
            for m in tl.static_range(1, K):
                total += A[m * K + i if TURNED else i * K + m] * P[m * K + j]
            found = found + (total,)
    return found


@triton.jit
def _plus(x, y, K: tl.constexpr):
    found = ()
    for i in tl.static_range(K):
        found = found + (x[i] + y[i],)
    return found


@triton.jit
def _choose(fresh, x, y, COUNT: tl.constexpr):
    found = ()
    for i in tl.static_range(COUNT):
        found = found + (tl.where(fresh, x[i], y[i]),)
    return found


@triton.jit
def _is_fresh(reset, i, t, step, L, HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr):
    fresh = (step == 0) & (not HAS_H0)
    if HAS_RESET:
        fresh = fresh | (tl.load(reset + i * L + t) != 0)
    return fresh


@triton.jit
def summarise(
    A, x, reset, P, q, broken, L, D, C, T, A_row, A_step,
    K: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr, HAS_X: tl.constexpr,
    HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """The map of one chunk: of the scan with inputs ``x``, or of its adjoint."""
    width = tl.cdiv(D, BD)
    d = tl.program_id(0) % width * BD + tl.arange(0, BD)
    chunk = tl.program_id(1)
    i = (tl.program_id(0) // width).to(tl.int64)
    mask = d < D
    first, last = chunk * T, tl.minimum(chunk * T + T, L)
    nil = _zeros(BD, K * K, ACC)
    total = ()
    for m in tl.static_range(K * K):
        total = total + (tl.full((BD,), 1.0 if m % (K + 1) == 0 else 0.0, ACC),)
    offset = _zeros(BD, K, ACC)
    seen = first < 0
    for n in range(first, last):
        step = last - 1 - (n - first) if ADJOINT else n
        t = L - 1 - step if REVERSE else step
        row = (i * L + t) * D * K
        fresh = _is_fresh(reset, i, t, step, L, HAS_H0, HAS_RESET)
        matrix = _vector(A, i * A_row + t.to(tl.int64) * A_step + d * (K * K), mask, K * K, ACC)
        if ADJOINT:
            if HAS_X:
                offset = _plus(offset, _vector(x, row + d * K, mask, K, ACC), K)
            offset = _choose(fresh, nil, _times(matrix, offset, K, True), K)
            total = _choose(fresh, nil, _compose(matrix, total, K, True), K * K)
        else:
            value = _vector(x, row + d * K, mask, K, ACC)
            carried = _plus(_times(matrix, offset, K, False), value, K)
            offset = _choose(fresh, value, carried, K)
            total = _choose(fresh, nil, _compose(matrix, total, K, False), K * K)
        seen = seen | fresh
    at = (i * C + chunk) * D + d
    _keep(P, at * (K * K), total, mask, K * K)
    _keep(q, at * K, offset, mask, K)
    if tl.program_id(0) % width == 0:
        tl.store(broken + i * C + chunk, seen.to(tl.int8))


@triton.jit
def chain(
    P, q, broken, start, states, D, C,
    K: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
    HAS_START: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """The state before every chunk, from the maps of the chunks."""
    width = tl.cdiv(D, BD)
    d = tl.program_id(0) % width * BD + tl.arange(0, BD)
    i = (tl.program_id(0) // width).to(tl.int64)
    mask = d < D
    state = _zeros(BD, K, ACC)
    if HAS_START:
        state = _vector(start, (i * D + d) * K, mask, K, ACC)
    for n in range(C):
        chunk = C - 1 - n if ADJOINT else n
        at = (i * C + chunk) * D + d
        _keep(states, at * K, state, mask, K)
        offset = _vector(q, at * K, mask, K, ACC)
        matrix = _vector(P, at * (K * K), mask, K * K, ACC)
        moved = _plus(_times(matrix, state, K, False), offset, K)
        state = _choose(tl.load(broken + i * C + chunk) != 0, offset, moved, K)


@triton.jit
def walk(
    A, b, states, reset, h, h_last, L, D, C, T, A_row, A_step,
    K: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr, HAS_STATES: tl.constexpr,
    HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """One chunk of the scan."""
    width = tl.cdiv(D, BD)
    d = tl.program_id(0) % width * BD + tl.arange(0, BD)
    chunk = tl.program_id(1)
    i = (tl.program_id(0) // width).to(tl.int64)
    mask = d < D
    state = _zeros(BD, K, ACC)
    if HAS_STATES:
        state = _vector(states, ((i * C + chunk) * D + d) * K, mask, K, ACC)
    for step in range(chunk * T, tl.minimum(chunk * T + T, L)):
        t = L - 1 - step if REVERSE else step
        row = (i * L + t) * D * K
        fresh = _is_fresh(reset, i, t, step, L, HAS_H0, HAS_RESET)
        matrix = _vector(A, i * A_row + t.to(tl.int64) * A_step + d * (K * K), mask, K * K, ACC)
        value = _vector(b, row + d * K, mask, K, ACC)
        state = _choose(fresh, value, _plus(_times(matrix, state, K, False), value, K), K)
        _keep(h, row + d * K, state, mask, K)
    if chunk == C - 1:
        _keep(h_last, (i * D + d) * K, state, mask, K)


@triton.jit
def walk_back(
    grad_h, A, h, h0, states, reset, dA, db, dh0, L, D, C, T, A_row, A_step,
    K: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr, HAS_GRAD_H: tl.constexpr,
    HAS_STATES: tl.constexpr, HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr,
    EACH_A: tl.constexpr, SUM_A: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """One chunk of the adjoint.

    ``EACH_A``: write the gradient of every A_t to ``dA`` (B, L, D, K, K); ``SUM_A``: only their
    sum over the chunk, to ``dA`` (B, C, D, K, K).
    """
    width = tl.cdiv(D, BD)
    d = tl.program_id(0) % width * BD + tl.arange(0, BD)
    chunk = tl.program_id(1)
    i = (tl.program_id(0) // width).to(tl.int64)
    mask = d < D
    nil = _zeros(BD, K, ACC)
    carry = nil
    if HAS_STATES:
        carry = _vector(states, ((i * C + chunk) * D + d) * K, mask, K, ACC)
    total = _zeros(BD, K * K, ACC)
    first, last = chunk * T, tl.minimum(chunk * T + T, L)
    for n in range(first, last):
        step = last - 1 - (n - first)
        t = L - 1 - step if REVERSE else step
        row = (i * L + t) * D * K
        fresh = _is_fresh(reset, i, t, step, L, HAS_H0, HAS_RESET)
        g = carry
        if HAS_GRAD_H:
            g = _plus(carry, _vector(grad_h, row + d * K, mask, K, ACC), K)
        _keep(db, row + d * K, g, mask, K)
        matrix = _vector(A, i * A_row + t.to(tl.int64) * A_step + d * (K * K), mask, K * K, ACC)
        if EACH_A or SUM_A:
            before_row = row + D * K if REVERSE else row - D * K
            before = _vector(h, before_row + d * K, d < tl.where(step > 0, D, 0), K, ACC)
            if HAS_H0:
                start = _vector(h0, (i * D + d) * K, d < tl.where(step > 0, 0, D), K, ACC)
                before = _plus(before, start, K)
            for p in tl.static_range(K):
                for m in tl.static_range(K):
                    each = tl.where(fresh, 0.0, g[p] * before[m])
                    if EACH_A:
                        tl.store(dA + (row + d * K + p) * K + m, each, mask=mask)
            if SUM_A:
                added = ()
                for p in tl.static_range(K):
                    for m in tl.static_range(K):
                        each = tl.where(fresh, 0.0, g[p] * before[m])
                        added = added + (total[p * K + m] + each,)
                total = added
        carry = _choose(fresh, nil, _times(matrix, g, K, True), K)
    if SUM_A:
        _keep(dA, ((i * C + chunk) * D + d) * (K * K), total, mask, K * K)
    if HAS_H0:
        if chunk == 0:
            _keep(dh0, (i * D + d) * K, carry, mask, K)
