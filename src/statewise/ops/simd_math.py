"""Elementary functions on packs, by polynomial: exp2, exp, log, sigmoid, softplus, sine, cosine.

Numba calls the C library for these, one element at a time, which costs fifteen times more. Here
an argument is reduced to a small interval, a polynomial is evaluated on it, and the exponent is
put in place by integer arithmetic, so that everything is done on whole packs (:mod:`simd`).

Errors are at most 1 unit in the last place for the exponentials, 2 for the logarithm, 3 for the
sigmoid and 4 for softplus, in float32 and in float64. NaN gives NaN. Packs are real.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from statewise.ops.simd_pack import Pack, fused, operation

EXP2 = (
    0.6931472028407878, 0.24022647906130548, 0.055503324827645244,
    0.009618438122430838, 0.001339887231038748, 0.00015353177763561163,
)  # fmt: skip
"""2^f = 1 + f (c_1 + c_2 f + …) on |f| ≤ 1/2, minimax for the relative error: 2.0e-9."""

EXP = (
    1.0000000321007119, 0.49999994235657624, 0.1666643146107595,
    0.04166800088387499, 0.008374144459709815, 0.0013843577085759229,
)  # fmt: skip
"""e^f = 1 + f (c_1 + c_2 f + …) on |f| ≤ ln(2)/2, likewise: 2.0e-9."""

FINE = (0.6931471826666513, 0.240234288019672, 0.055502136476227225)
"""2^f = 1 + f (c_1 + c_2 f + c_3 f²) on |f| ≤ 1/32, likewise: 1.6e-9."""

ATANH = (0.3333320817996916, 0.20010761266170093, 0.14000942744769135, 0.14005797209842027)
"""artanh(r)/r = 1 + r² (c_1 + c_2 r² + …) on r ≤ 1/3, likewise: 4.5e-9."""

LN2_HIGH = {ir.FloatType: 0.693145751953125, ir.DoubleType: 0.6931471803691238}
"""ln 2 with trailing zero bits: its product with any exponent is exact."""

LN2_LOW = {ir.FloatType: 1.4286068203094172e-06, ir.DoubleType: 1.9082149292705877e-10}

HALF_PI = {
    ir.FloatType: (1.5703125, 4.837512969970703e-04, 7.549789948768648e-08),
    ir.DoubleType: (1.570796251296997, 7.549789415861596e-08, 5.390302858158119e-15),
}
"""π/2 in three parts, the first two with trailing zero bits."""

FAR = {ir.FloatType: 2.0**20, ir.DoubleType: 2.0**49}
"""Above this the quarter turns in an angle are too many to be taken off with :data:`HALF_PI`."""

PASS = 20.0
"""Above this, softplus passes its argument through, as torch does."""


class _Lanes:
    """Vector instructions on one real LLVM vector type."""

    def __init__(self, context, builder: ir.IRBuilder, vector: ir.VectorType) -> None:
        self.features = context.codegen().magic_tuple()[2].split(",")
        self.builder = builder
        self.type = vector
        self.double = isinstance(vector.element, ir.DoubleType)
        self.mantissa = 52 if self.double else 23
        self.bias = 1023 if self.double else 127
        self.kind = type(vector.element)
        self.integers = ir.VectorType(ir.IntType(64 if self.double else 32), vector.count)

    def number(self, value: float) -> ir.Constant:
        return ir.Constant(self.type, [value] * self.type.count)

    def integer(self, value: int) -> ir.Constant:
        return ir.Constant(self.integers, [value] * self.type.count)

    def madd(self, x, y, z):
        return fused(self.builder, x, y, z)

    def horner(self, x, coefficients: Sequence[float]):
        """The polynomial c_0 + c_1 x + c_2 x² and so on."""
        value = self.number(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            value = self.madd(value, x, self.number(c))
        return value

    def choose(self, relation: str, x, y, yes, no):
        """``yes`` where the ordered comparison holds, ``no`` elsewhere and where x or y is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(relation, x, y), yes, no)

    def clamp(self, x, low: float, high: float):
        """Into [low, high]; NaN stays NaN."""
        x = self.choose(">", x, self.number(high), self.number(high), x)
        return self.choose("<", x, self.number(low), self.number(low), x)

    def magnitude(self, x):
        clear = self.integer((1 << (self.mantissa + 8 + 3 * self.double)) - 1)
        bits = self.builder.and_(self.builder.bitcast(x, self.integers), clear)
        return self.builder.bitcast(bits, self.type)

    @property
    def has_tables(self) -> bool:
        """Whether single instructions look up, round and scale these float32 numbers."""
        wanted = ("+avx512f", "+avx512dq")
        fits = not self.double and self.type.count == 16
        return fits and all(name in self.features for name in wanted)

    def instruction(self, name: str, *arguments):
        """One AVX-512 instruction on every lane."""
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.type, [x.type for x in arguments]),
            f"llvm.x86.avx512.{name}.512",
        )
        return self.builder.call(function, arguments)


def _power_from_table(lanes: _Lanes, x):
    """2^x in float32 with 2^(k/16) from a table: two thirds of the polynomial's multiply-adds.

    The argument is n + k/16 + rest. A lookup sees the low four bits of an index, those of k; the
    scaling takes the whole part of n + k/16, and so decides about overflow.
    """
    builder = lanes.builder
    every, current = ir.Constant(ir.IntType(16), -1), ir.Constant(ir.IntType(32), 4)
    to_sixteenths = ir.Constant(ir.IntType(32), 0x48)
    rest = lanes.instruction("mask.reduce.ps", x, to_sixteenths, x, every, current)
    rounded = builder.fsub(x, rest)
    index = builder.bitcast(builder.fadd(rounded, lanes.number(1.5 * 2.0**19)), lanes.integers)
    table = ir.Constant(lanes.type, [float(np.float32(2 ** (k / 16))) for k in range(16)])
    power = lanes.instruction("permvar.sf", table, index)
    series = builder.fmul(rest, lanes.horner(rest, FINE))
    power = lanes.madd(power, series, power)
    return lanes.instruction("mask.scalef.ps", power, rounded, power, every, current)


def _power(lanes: _Lanes, x, natural: bool):
    """e^x or 2^x: 0 below 2^(2.5 − bias), infinity on overflow.

    Adding 1.5·2^mantissa rounds to an integer, n, and leaves it in the low bits; there it becomes
    the exponent of 2^(n−1). The polynomial is doubled to make up for that, so that n may be one
    larger than the largest exponent and the product decides about overflow.
    """
    if lanes.has_tables and not natural:
        return _power_from_table(lanes, x)
    builder, bias = lanes.builder, lanes.bias
    log = math.log(2) if natural else 1.0
    x = lanes.clamp(x, (1 - bias) * log, (bias + 2) * log)
    magic = lanes.number(1.5 * 2.0**lanes.mantissa + bias - 1)
    if natural:
        shifted = lanes.madd(x, lanes.number(1 / math.log(2)), magic)
        n = builder.fsub(shifted, magic)
        rest = lanes.madd(n, lanes.number(-LN2_HIGH[lanes.kind]), x)
        rest = lanes.madd(n, lanes.number(-LN2_LOW[lanes.kind]), rest)
    else:
        shifted = builder.fadd(x, magic)
        rest = builder.fsub(x, builder.fsub(shifted, magic))
    if lanes.double:
        terms = [(1 if natural else math.log(2) ** k) / math.factorial(k) for k in range(14)]
    else:
        terms = [1.0, *(EXP if natural else EXP2)]
    bits = builder.shl(builder.bitcast(shifted, lanes.integers), lanes.integer(lanes.mantissa))
    scale = builder.bitcast(bits, lanes.type)
    return builder.fmul(lanes.horner(rest, [2 * c for c in terms]), scale)


def _decay(lanes: _Lanes, x):
    """e^(−|x|)."""
    return _power(lanes, lanes.builder.fneg(lanes.magnitude(x)), natural=True)


def _sigmoid(lanes: _Lanes, x):
    builder, one = lanes.builder, lanes.number(1.0)
    small = _decay(lanes, x)
    upper = lanes.choose("<", x, lanes.number(0.0), small, one)
    return builder.fdiv(upper, builder.fadd(one, small))


def _softplus(lanes: _Lanes, x):
    """max(x, 0) + log1p(s) with s = e^(−|x|); log1p(s) = 2 artanh(s/(2 + s))."""
    builder = lanes.builder
    small = _decay(lanes, x)
    ratio = builder.fdiv(small, builder.fadd(small, lanes.number(2.0)))
    odd = [1 / (2 * k + 1) for k in range(17)] if lanes.double else [1.0, *ATANH]
    series = lanes.horner(builder.fmul(ratio, ratio), [2 * c for c in odd])
    positive = lanes.choose("<", x, lanes.number(0.0), lanes.number(0.0), x)
    value = lanes.madd(ratio, series, positive)
    return lanes.choose(">", x, lanes.number(PASS), x, value)


def _log(lanes: _Lanes, x):
    """Logarithm k ln 2 + log m with x = 2^k m and m between √½ and √2.

    log m = 2 artanh((m − 1)/(m + 1)). Taking the bits of √½ away leaves k in those of the
    exponent. Numbers without a full exponent are first scaled up.
    """
    builder, one = lanes.builder, lanes.number(1.0)
    info = np.finfo(np.float64 if lanes.double else np.float32)
    tiny = lanes.number(float(info.tiny))
    lift = lanes.mantissa + 2
    raised = builder.fmul(x, lanes.number(2.0**lift))
    bits = builder.bitcast(lanes.choose("<", x, tiny, raised, x), lanes.integers)
    root = np.array(math.sqrt(0.5), info.dtype).view(np.int64 if lanes.double else np.int32)
    excess = builder.sub(bits, lanes.integer(int(root)))
    k = builder.ashr(excess, lanes.integer(lanes.mantissa))
    m = builder.sub(bits, builder.shl(k, lanes.integer(lanes.mantissa)))
    m = builder.bitcast(m, lanes.type)
    magic = np.array(1.5 * 2.0**lanes.mantissa, info.dtype)
    offset = lanes.integer(int(magic.view(root.dtype)))
    whole = builder.bitcast(builder.add(k, offset), lanes.type)
    whole = builder.fsub(whole, lanes.number(float(magic)))
    lower = builder.fsub(whole, lanes.number(float(lift)))
    whole = lanes.choose("<", x, tiny, lower, whole)
    f = builder.fsub(m, one)
    ratio = builder.fdiv(f, builder.fadd(f, lanes.number(2.0)))
    square = builder.fmul(ratio, ratio)
    terms = [2 / (2 * n + 1) for n in range(1, 12 if lanes.double else 5)]
    rest = builder.fmul(square, lanes.horner(square, terms))
    # log m = f − f²/2 + ratio (f²/2 + rest): the leading term is exact.
    half = builder.fmul(builder.fmul(f, f), lanes.number(0.5))
    small = builder.fmul(ratio, builder.fadd(half, rest))
    small = lanes.madd(whole, lanes.number(LN2_LOW[lanes.kind]), builder.fsub(small, half))
    value = lanes.madd(whole, lanes.number(LN2_HIGH[lanes.kind]), builder.fadd(small, f))
    value = lanes.choose("==", x, lanes.number(math.inf), x, value)
    value = lanes.choose("==", x, lanes.number(0.0), lanes.number(-math.inf), value)
    nan = lanes.number(math.nan)
    value = lanes.choose("<", x, lanes.number(0.0), nan, value)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, value)


def _turn(lanes: _Lanes, x, quarter: int):
    """sin(x + quarter · π/2): the remainder of x by π/2, then sine or cosine of it."""
    builder = lanes.builder
    magic = lanes.number(1.5 * 2.0**lanes.mantissa)
    shifted = lanes.madd(x, lanes.number(2 / math.pi), magic)
    n = builder.fsub(shifted, magic)
    rest = x
    for part in HALF_PI[lanes.kind]:
        rest = lanes.madd(n, lanes.number(-part), rest)
    rest = lanes.clamp(rest, -1.0, 1.0)
    square = builder.fmul(rest, rest)
    last = 9 if lanes.double else 5
    odd = [(-1.0) ** k / math.factorial(2 * k + 1) for k in range(1, last)]
    even = [(-1.0) ** k / math.factorial(2 * k) for k in range(last + 1)]
    cube = builder.fmul(builder.fmul(square, rest), lanes.horner(square, odd))
    sine, cosine = builder.fadd(rest, cube), lanes.horner(square, even)
    turns = builder.add(builder.bitcast(shifted, lanes.integers), lanes.integer(quarter))
    crossed = builder.trunc(turns, ir.VectorType(ir.IntType(1), lanes.type.count))
    value = builder.select(crossed, cosine, sine)
    top = lanes.integer(lanes.mantissa + 8 + 3 * lanes.double - 1)
    sign = builder.and_(builder.shl(turns, top), lanes.integer(_sign_bit(lanes)))
    flipped = builder.xor(builder.bitcast(value, lanes.integers), sign)
    return builder.bitcast(flipped, lanes.type)


def _turn_any(lanes: _Lanes, x, quarter: int):
    """The same; where an element is beyond :data:`FAR`, which is rare, by the C library."""
    builder = lanes.builder
    value = _turn(lanes, x, quarter)
    far = builder.fcmp_ordered(">", lanes.magnitude(x), lanes.number(FAR[lanes.kind]))
    bits = ir.IntType(lanes.type.count)
    any_far = builder.icmp_unsigned("!=", builder.bitcast(far, bits), ir.Constant(bits, 0))
    usual = builder.block
    with builder.if_then(any_far, likely=False):
        found = builder.call(_library_turn(lanes, quarter), [x])
        found = builder.select(far, found, value)
        rare = builder.block
    result = builder.phi(lanes.type)
    result.add_incoming(value, usual)
    result.add_incoming(found, rare)
    return result


def _library_turn(lanes: _Lanes, quarter: int) -> ir.Function:
    """A function of its own, out of the way of callers, for sine or cosine by the C library."""
    suffix, count = "f64" if lanes.double else "f32", lanes.type.count
    which = "cos" if quarter else "sin"
    module, kind = lanes.builder.module, ir.FunctionType(lanes.type, [lanes.type])
    function = cgutils.get_or_insert_function(module, kind, f"statewise.{which}.v{count}{suffix}")
    if not function.is_declaration:
        return function
    function.linkage = "internal"
    for attribute in ("noinline", "cold"):
        function.attributes.add(attribute)
    builder = ir.IRBuilder(function.append_basic_block())
    element = lanes.type.element
    scalar = cgutils.get_or_insert_function(
        module, ir.FunctionType(element, [element]), f"llvm.{which}.{suffix}"
    )
    result = ir.Constant(lanes.type, ir.Undefined)
    for k in range(count):
        place = ir.Constant(ir.IntType(32), k)
        one = builder.call(scalar, [builder.extract_element(function.args[0], place)])
        result = builder.insert_element(result, one, place)
    builder.ret(result)
    return function


def _sign_bit(lanes: _Lanes) -> int:
    return -(1 << (63 if lanes.double else 31))


def _function(typingctx, x, compute: Callable[..., Any]):
    if not isinstance(x, Pack) or x.is_complex:
        return None

    def codegen(context, builder, signature, args):
        return compute(_Lanes(context, builder, signature.return_type.ir_type), args[0])

    return x(x), codegen


@operation
def exp2(typingctx, x: types.Type):
    """2^x; 0 where that is below 2^-124.5 (float32) or 2^-1020.5 (float64).

    A float32 that comes from a table is 0 below 2^-150 only.
    """
    return _function(typingctx, x, lambda lanes, v: _power(lanes, v, natural=False))


@operation
def exp(typingctx, x: types.Type):
    """e^x; 0 where that is below 2^-124.5 (float32) or 2^-1020.5 (float64)."""
    return _function(typingctx, x, lambda lanes, v: _power(lanes, v, natural=True))


@operation
def log(typingctx, x: types.Type):
    """Logarithm of x: −∞ at 0, NaN below."""
    return _function(typingctx, x, _log)


@operation
def sigmoid(typingctx, x: types.Type):
    """1 / (1 + e^−x)."""
    return _function(typingctx, x, _sigmoid)


@operation
def softplus(typingctx, x: types.Type):
    """log(1 + e^x); x itself above 20."""
    return _function(typingctx, x, _softplus)


@operation
def sine(typingctx, x: types.Type):
    """Sine of x, to 1 unit in the last place of 1 for any x; NaN where x is infinite."""
    return _function(typingctx, x, lambda lanes, v: _turn_any(lanes, v, quarter=0))


@operation
def cosine(typingctx, x: types.Type):
    """Cosine of x; see :func:`sine`."""
    return _function(typingctx, x, lambda lanes, v: _turn_any(lanes, v, quarter=1))


@operation
def sine_near(typingctx, x: types.Type):
    """:func:`sine` for |x| up to 1e6 (float32) or 5e14 (float64); beyond, in −1 … 1 and no more.

    There the numbers lie a sixteenth apart, so that a product which was rounded has no phase left.
    A call of the C library, even one that never happens, costs a loop of many packs a tenth: no
    register outlives it.
    """
    return _function(typingctx, x, lambda lanes, v: _turn(lanes, v, quarter=0))


@operation
def cosine_near(typingctx, x: types.Type):
    """Cosine of x; see :func:`sine_near`."""
    return _function(typingctx, x, lambda lanes, v: _turn(lanes, v, quarter=1))
