"""Bundles: packs of channels of several sequences side by side, as one LLVM vector.

All sequences of a bundle meet the same coefficients, so a pack of coefficients is read once and
*spread* over them. The compiler cuts the vector into registers of the machine; its parts are
independent, which hides the latency of multiply-adds.

In a kernel the last argument of :func:`load`, :func:`spread`, :func:`fill` and :func:`count` is a
*kind*: a tuple of Nones, whose length is the number of elements. It is read from the type, so each
length compiles to a specialisation. Bundles are packs (:mod:`statewise.ops.simd`), and the
arithmetic of that module applies to them.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from statewise.ops.simd_pack import WIDE_BYTES, Pack

Kind = tuple[None, ...]

GROUP = 4
"""Sequences in a bundle, where there are as many."""


def kind(itemsize: int, sequences: int) -> Kind:
    """The kind of a bundle of ``sequences`` packs of 256 bits."""
    return (None,) * (WIDE_BYTES // itemsize * sequences)


def _pointer(context, builder, array_type, array, offset, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


def _vector(array: types.Array, elements: types.BaseTuple) -> tuple[Pack, ir.VectorType]:
    pack = Pack(array.dtype, len(elements))
    return pack, pack.ir_type


def _read(context, builder, array_type, array, offset, vector):
    loaded = builder.load(_pointer(context, builder, array_type, array, offset, vector))
    loaded.align = 4 if isinstance(vector.element, ir.FloatType) else 8
    return loaded


def _repeat(builder, x, total):
    order = [k % x.type.count for k in range(total)]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), total), order)
    return builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), mask)


@intrinsic
def count(typingctx, elements):
    """Number of elements of a kind: a constant of the compiled code."""

    def codegen(context, builder, signature, args):
        return context.get_constant(types.intp, len(elements))

    return types.intp(elements), codegen


@intrinsic
def load(typingctx, array, offset, elements):
    """The elements at flat offsets [offset, offset + count); nothing checks the bounds."""
    pack, vector = _vector(array, elements)

    def codegen(context, builder, signature, args):
        return _read(context, builder, array, args[0], args[1], vector)

    return pack(array, types.intp, elements), codegen


@intrinsic
def spread(typingctx, array, offset, one, elements):
    """The pack of kind ``one`` at ``offset``, repeated for every sequence of the bundle."""
    pack, vector = _vector(array, elements)
    _, narrow = _vector(array, one)

    def codegen(context, builder, signature, args):
        loaded = _read(context, builder, array, args[0], args[1], narrow)
        return loaded if narrow.count == vector.count else _repeat(builder, loaded, vector.count)

    return pack(array, types.intp, one, elements), codegen


@intrinsic
def fill(typingctx, array, value, elements):
    """A bundle with the element type of ``array`` whose elements all are ``value``."""
    pack, vector = _vector(array, elements)

    def codegen(context, builder, signature, args):
        number = context.cast(builder, args[1], value, array.dtype)
        single = ir.Constant(ir.VectorType(vector.element, 1), ir.Undefined)
        single = builder.insert_element(single, number, ir.Constant(ir.IntType(32), 0))
        return _repeat(builder, single, vector.count)

    return pack(array, value, elements), codegen


def _unary(name: str):
    @intrinsic
    def operation(typingctx, x):
        def codegen(context, builder, signature, args):
            vector = args[0].type
            suffix = "f32" if isinstance(vector.element, ir.FloatType) else "f64"
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector]),
                f"llvm.{name}.v{vector.count}{suffix}",
            )
            return builder.call(function, [args[0]])

        return x(x), codegen

    return operation


nearest = _unary("rint")
"""The nearest whole number."""


@intrinsic
def power_of_two(typingctx, k):
    """2^k for whole numbers k; 0 below the smallest normal number, infinity above the largest."""

    def codegen(context, builder, signature, args):
        vector = args[0].type
        single = isinstance(vector.element, ir.FloatType)
        bits, mantissa, bias = (32, 23, 127) if single else (64, 52, 1023)
        whole = ir.VectorType(ir.IntType(bits), vector.count)

        def constant(value, kind):
            return ir.Constant(kind, [value] * vector.count)

        low, high = constant(float(-bias), vector), constant(float(bias + 1), vector)
        bounded = builder.select(builder.fcmp_ordered("<", args[0], low), low, args[0])
        bounded = builder.select(builder.fcmp_ordered(">", bounded, high), high, bounded)
        # NaN has no whole number: it becomes 0 here, and the caller's product keeps the NaN.
        bounded = builder.select(
            builder.fcmp_unordered("uno", bounded, bounded), constant(0.0, vector), bounded
        )
        exponent = builder.add(builder.fptosi(bounded, whole), constant(bias, whole))
        return builder.bitcast(builder.shl(exponent, constant(mantissa, whole)), vector)

    return k(k), codegen


@intrinsic
def accumulate(typingctx, out, offset, x, one):
    """Add a bundle, summed over its sequences, to W numbers of ``out`` in double precision."""
    double = ir.DoubleType()

    def codegen(context, builder, signature, args):
        _, at, value, _ = args
        width = len(one)
        wide = ir.VectorType(double, width)
        while value.type.count > width:
            half = value.type.count // 2
            parts = []
            for start in (0, half):
                order = ir.Constant(
                    ir.VectorType(ir.IntType(32), half), list(range(start, start + half))
                )
                parts.append(
                    builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), order)
                )
            value = builder.fadd(*parts)
        if value.type.element != double:
            value = builder.fpext(value, wide)
        pointer = _pointer(context, builder, out, args[0], at, wide)
        before = builder.load(pointer)
        before.align = 8
        builder.store(builder.fadd(before, value), pointer).align = 8
        return context.get_dummy_value()

    return types.void(out, types.intp, x, one), codegen
