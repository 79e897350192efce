"""What the Triton kernels of the linear scan are made of.

Numbers are tuples, (x,) or (re, im), and ``C`` is how many parts they have; in memory the parts are
neighbours. A zero carry is skipped, never multiplied: a decay that has overflowed would make it
NaN.
"""

# Triton does not compile a return that follows an ``if`` which returns.
# ruff: noqa: RET505
# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

CHAIN, SUMMARY, APPLY = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


# -- numbers -----------------------------------------------------------------------------------


@triton.jit
def multiply_add(c, x, y, C: tl.constexpr):
    """The product of c and x, plus y."""
    if C == 2:
        re = c[0] * x[0] - c[1] * x[1] + y[0]
        return (re, c[0] * x[1] + c[1] * x[0] + y[1])
    else:
        return (c[0] * x[0] + y[0],)


@triton.jit
def multiply(c, x, C: tl.constexpr):
    if C == 2:
        return (c[0] * x[0] - c[1] * x[1], c[0] * x[1] + c[1] * x[0])
    else:
        return (c[0] * x[0],)


@triton.jit
def add(x, y, C: tl.constexpr):
    if C == 2:
        return (x[0] + y[0], x[1] + y[1])
    else:
        return (x[0] + y[0],)


@triton.jit
def where(condition, x, y, C: tl.constexpr):
    if C == 2:
        return (tl.where(condition, x[0], y[0]), tl.where(condition, x[1], y[1]))
    else:
        return (tl.where(condition, x[0], y[0]),)


@triton.jit
def nonzero(x, C: tl.constexpr):
    if C == 2:
        return (x[0] != 0) | (x[1] != 0)
    else:
        return x[0] != 0


@triton.jit
def constant_number(value, like, C: tl.constexpr):
    """The real number ``value`` in the shape of ``like``."""
    x = tl.full(like[0].shape, value, like[0].dtype)
    if C == 2:
        return (x, tl.zeros_like(x))
    else:
        return (x,)


@triton.jit
def number(x, CONJ: tl.constexpr, C: tl.constexpr):
    """Numbers from their parts side by side (R, C BD)."""
    if C == 2:
        re, im = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
        if CONJ:
            im = -im
        return (re, im)
    else:
        return (x,)


@triton.jit
def pack(x, C: tl.constexpr):
    if C == 2:
        return tl.reshape(tl.join(x[0], x[1]), (x[0].shape[0], 2 * x[0].shape[1]))
    else:
        return x[0]


# -- memory ------------------------------------------------------------------------------------


@triton.jit
def load_row(pointer, keep, EVEN: tl.constexpr, CONJ: tl.constexpr, TYPE, C: tl.constexpr):
    """The numbers at ``pointer`` (R, C BD), 0 where they are not to be kept."""
    x = tl.load(pointer) if EVEN else tl.load(pointer, mask=keep, other=0.0)
    return number(x.to(TYPE), CONJ, C)


@triton.jit
def store_row(pointer, x, keep, EVEN: tl.constexpr, C: tl.constexpr):
    x = pack(x, C).to(pointer.dtype.element_ty)
    if EVEN:
        tl.store(pointer, x)
    else:
        tl.store(pointer, x, mask=keep)


@triton.jit
def publish(words, x, keep, C: tl.constexpr):
    """Leave the numbers for the next tile, an unlucky NaN replaced by another."""
    x = pack(x, C)
    bits = x.to(words.dtype.element_ty, bitcast=True)
    nan = tl.full(x.shape, float("nan"), x.dtype).to(words.dtype.element_ty, bitcast=True)
    tl.atomic_xchg(words, tl.where(bits == -1, nan, bits), mask=keep, sem="relaxed")


@triton.jit
def _wait(words, first, keep):
    """The words (R, C BD), when all of them are there; ``first`` points to one of them."""
    while tl.load(first, volatile=True) == -1:
        pass
    bits = tl.load(words, mask=keep, other=0, volatile=True)
    while tl.min(tl.min((bits != -1).to(tl.int32), 1), 0) == 0:
        bits = tl.load(words, mask=keep, other=0, volatile=True)
    return bits


@triton.jit
def reset_bits(reset, batch, k0, L, DOWN: tl.constexpr, S: tl.constexpr, R: tl.constexpr):
    """(R, 1): bit s is the reset of step r S + s of the tile."""
    s = tl.arange(0, S)[None, :]
    k = k0 + tl.arange(0, R)[:, None] * S + s
    t = L - 1 - k if DOWN else k
    flags = tl.load(reset + batch.to(tl.int64) * L + t, mask=k < L, other=0)
    return tl.sum(flags.to(tl.int32) << s, 1)[:, None]


# -- tiles -------------------------------------------------------------------------------------


@triton.jit
def place(ticket, lane_blocks, MODE: tl.constexpr):
    """(chunk, lane block) of this program; chunks come in the order of the pass."""
    if MODE == CHAIN:
        # The ticket counter is the last of the words and starts from -1 as they do.
        tile = (tl.atomic_add(ticket, 1, sem="relaxed") + 1).to(tl.int32)
    else:
        tile = tl.program_id(0)
    return tile // lane_blocks, tile % lane_blocks


@triton.jit
def enter(alive, decay, state, carry, C: tl.constexpr):
    """The state of a run of steps after ``carry`` has entered it; a dead run lets none through."""
    through = alive & nonzero(carry, C)
    return where(through, multiply_add(decay, carry, state, C), state, C)


# Summaries of two runs, one after the other: of decay p and state h, and of decay q and state k;
# n and m tell whether the runs have no reset.


@triton.jit
def _combine(p, h, q, k):
    (state,) = enter(True, (q,), (k,), (h,), 1)
    return p * q, state


@triton.jit
def _combine_pairs(p0, p1, h0, h1, q0, q1, k0, k1):
    p0, p1 = multiply((p0, p1), (q0, q1), 2)
    h0, h1 = enter(True, (q0, q1), (k0, k1), (h0, h1), 2)
    return p0, p1, h0, h1


@triton.jit
def _combine_reset(n, p, h, m, q, k):
    (state,) = enter(m != 0, (q,), (k,), (h,), 1)
    return n & m, p * q, state


@triton.jit
def _combine_reset_pairs(n, p0, p1, h0, h1, m, q0, q1, k0, k1):
    p0, p1 = multiply((p0, p1), (q0, q1), 2)
    h0, h1 = enter(m != 0, (q0, q1), (k0, k1), (h0, h1), 2)
    return n & m, p0, p1, h0, h1


@triton.jit
def summaries(alive, decay, state, HAS_RESET: tl.constexpr, C: tl.constexpr):
    """Summaries of groups 0 … r; ``alive`` is an integer, and left alone without resets."""
    if HAS_RESET and C == 2:
        alive, p0, p1, h0, h1 = tl.associative_scan(
            (alive, decay[0], decay[1], state[0], state[1]), 0, _combine_reset_pairs
        )
        return alive, (p0, p1), (h0, h1)
    elif HAS_RESET:
        alive, p, h = tl.associative_scan((alive, decay[0], state[0]), 0, _combine_reset)
        return alive, (p,), (h,)
    elif C == 2:
        p0, p1, h0, h1 = tl.associative_scan(
            (decay[0], decay[1], state[0], state[1]), 0, _combine_pairs
        )
        return alive, (p0, p1), (h0, h1)
    else:
        p, h = tl.associative_scan((decay[0], state[0]), 0, _combine)
        return alive, (p,), (h,)


@triton.jit
def previous(x, C: tl.constexpr):
    """The numbers of group r − 1; those of group 0 mean nothing."""
    r = tl.arange(0, x[0].shape[0])[:, None]
    before = tl.broadcast_to(tl.maximum(r - 1, 0), x[0].shape)
    if C == 2:
        return (tl.gather(x[0], before, 0), tl.gather(x[1], before, 0))
    else:
        return (tl.gather(x[0], before, 0),)


@triton.jit
def carry_in(
    words, start, chunk, lanes, first, inside, stride,
    HAS_START: tl.constexpr, MODE: tl.constexpr, TYPE, C: tl.constexpr,
):  # fmt: skip
    """What enters a tile: ``start`` (or 0) the first one, else what the one before it left."""
    if chunk > 0:
        row = words + (chunk - 1).to(tl.int64) * stride
        if MODE == CHAIN:
            bits = _wait(row + lanes, row + first, inside)
        else:
            bits = tl.load(row + lanes, mask=inside, other=0)
        carry = bits.to(TYPE, bitcast=True)
    elif HAS_START:
        carry = tl.load(start + lanes, mask=inside, other=0.0).to(TYPE)
    else:
        carry = tl.zeros(lanes.shape, TYPE)
    return number(carry, False, C)
