"""Short vectors inside numba kernels: load, store and multiply-add on packs of channels.

A *pack* is one LLVM vector of 256 bits (wide), 512 bits (wider) or a single element (narrow), cut
from a contiguous array. Its element type is that of the array; complex elements stay interleaved
as (re, im), and products are done with one lane swap, without taking the array apart. The
compiler lowers a pack to whatever the machine has, so the code is the same on every processor.

Numba's own loops do not vectorise complex arithmetic, nor anything with as many arrays as a
backward pass reads and writes; that is the reason for this module.

In a kernel the last argument of :func:`width`, :func:`load` and :func:`zero` is the kind of
pack: ``True`` (any bool) for wide, ``None`` for narrow, :data:`WIDER` (any int) for wider. It is
read from the *type*, so one kernel compiles to a specialisation for each. Wider packs are for
kernels that compute more than they load: they halve the instructions where the machine has such
registers, and become two of the wide ones where it has not.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

from statewise.ops.simd_pack import (
    WIDE_BYTES,
    WIDER,
    Pack,
    address,
    alignment,
    elements,
    multiply_add,
    operation,
    pack_of,
    shuffle,
)

__all__ = [
    "WIDER",
    "WIDE_BYTES",
    "Pack",
    "add",
    "any_less",
    "apart",
    "broadcast",
    "div",
    "elements",
    "everywhere",
    "less",
    "load",
    "madd",
    "madd_conj",
    "mul",
    "pick",
    "prefetch",
    "root",
    "settle",
    "store",
    "store_streaming",
    "sub",
    "total",
    "totals",
    "width",
    "zero",
]


@operation
def apart(typingctx):
    """Keep the kernel that calls this out of its callers, as a function of its own.

    In a large function the compiler runs out of registers for constants and fetches each one
    whenever it is used. An inner loop that is a function has all registers to itself.
    """

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@operation
def width(typingctx, array, wide):
    """Elements in one pack of ``array``: a constant of the compiled code."""
    pack = pack_of(array, wide)

    def codegen(context, builder, signature, args):
        return context.get_constant(types.intp, pack.count)

    return types.intp(array, wide), codegen


@operation
def load(typingctx, array, offset, wide):
    """The pack at flat offsets [offset, offset + width) of ``array``; nothing checks the bounds."""
    pack = pack_of(array, wide)

    def codegen(context, builder, signature, args):
        loaded = builder.load(address(context, builder, array, args[0], args[1], pack))
        loaded.align = alignment(pack)
        return loaded

    return pack(array, types.intp, wide), codegen


@operation
def store(typingctx, array, offset, pack):
    """Write a pack to flat offsets [offset, offset + width); nothing checks the bounds."""

    def codegen(context, builder, signature, args):
        pointer = address(context, builder, array, args[0], args[1], pack)
        builder.store(args[2], pointer).align = alignment(pack)
        return context.get_dummy_value()

    return types.void(array, types.intp, pack), codegen


@operation
def store_streaming(typingctx, array, offset, pack):
    """:func:`store` past the caches, where the address is a multiple of ``WIDE_BYTES``.

    A plain store reads the cache line first; for outputs that the caches will not keep, that is
    a quarter to a third of the traffic. :func:`settle` must follow before another thread reads.
    """

    def codegen(context, builder, signature, args):
        written = builder.store(args[2], address(context, builder, array, args[0], args[1], pack))
        written.align = WIDE_BYTES
        one = ir.Constant(ir.IntType(32), 1)
        written.set_metadata("nontemporal", builder.module.add_metadata([one]))
        return context.get_dummy_value()

    return types.void(array, types.intp, pack), codegen


@operation
def settle(typingctx):
    """Make streaming stores visible to other threads."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@operation
def zero(typingctx, array, wide):
    """A pack of zeros with the element type of ``array``."""
    pack = pack_of(array, wide)

    def codegen(context, builder, signature, args):
        return ir.Constant(pack.ir_type, [0.0] * pack.ir_type.count)

    return pack(array, wide), codegen


@operation
def add(typingctx, x, y):
    """``x + y``."""

    def codegen(context, builder, signature, args):
        return builder.fadd(args[0], args[1])

    return x(x, y), codegen


@operation
def madd(typingctx, c, x, y):
    """``c*x + y``."""

    def codegen(context, builder, signature, args):
        return multiply_add(builder, c, *args, conjugate=False)

    return c(c, x, y), codegen


@operation
def madd_conj(typingctx, c, x, y):
    """``conj(c)*x + y``."""

    def codegen(context, builder, signature, args):
        return multiply_add(builder, c, *args, conjugate=True)

    return c(c, x, y), codegen


@operation
def sub(typingctx, x, y):
    """``x - y``."""

    def codegen(context, builder, signature, args):
        return builder.fsub(args[0], args[1])

    return x(x, y), codegen


@operation
def mul(typingctx, x, y):
    """``x * y`` of real packs."""

    def codegen(context, builder, signature, args):
        return builder.fmul(args[0], args[1])

    return x(x, y), codegen


@operation
def broadcast(typingctx, array, value, wide):
    """A pack of ``array`` with the real number ``value`` in every element."""
    pack = pack_of(array, wide)

    def codegen(context, builder, signature, args):
        scalar = context.cast(builder, args[1], signature.args[1], pack.dtype)
        empty = ir.Constant(pack.ir_type, ir.Undefined)
        first = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        return shuffle(builder, first, [0] * pack.count)

    return pack(array, value, wide), codegen


@operation
def everywhere(typingctx, array, offset, wide):
    """A pack with the real number at a flat offset of ``array`` in every element."""
    pack = pack_of(array, wide)

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        scalar = builder.load(builder.gep(data, [args[1]]))
        empty = ir.Constant(pack.ir_type, ir.Undefined)
        first = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        return shuffle(builder, first, [0] * pack.count)

    return pack(array, types.intp, wide), codegen


@operation
def div(typingctx, x, y):
    """``x / y`` of real packs."""

    def codegen(context, builder, signature, args):
        return builder.fdiv(args[0], args[1])

    return x(x, y), codegen


@operation
def root(typingctx, x):
    """The square root of a real pack."""

    def codegen(context, builder, signature, args):
        vector = args[0].type
        suffix = "f32" if isinstance(vector.element, ir.FloatType) else "f64"
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [vector]),
            f"llvm.sqrt.v{vector.count}{suffix}",
        )
        return builder.call(function, args)

    return x(x), codegen


@operation
def pick(typingctx, condition, x, y):
    """``x`` if ``condition``, a bool, holds, else ``y``."""

    def codegen(context, builder, signature, args):
        return builder.select(args[0], args[1], args[2])

    return x(types.boolean, x, y), codegen


@operation
def less(typingctx, p, q, x, y):
    """``x`` in the elements where p < q, ``y`` in the others and where p or q is NaN; all real."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return x(p, q, x, y), codegen


@operation
def any_less(typingctx, x, y):
    """Whether x < y in any element of two real packs."""

    def codegen(context, builder, signature, args):
        below = builder.fcmp_ordered("<", args[0], args[1])
        bits = builder.bitcast(below, ir.IntType(below.type.count))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(x, y), codegen


@operation
def totals(typingctx, array, offset, wide):
    """A pack of the sums of as many real packs as it has elements, which lie one after another.

    Two packs of partial sums become one by adding the halves of both, until one is left; the
    order is fixed.
    """
    pack = pack_of(array, wide)
    count = pack.count

    def codegen(context, builder, signature, args):
        packs = []
        for k in range(count):
            at = builder.add(args[1], ir.Constant(args[1].type, k * count))
            loaded = builder.load(address(context, builder, signature.args[0], args[0], at, pack))
            loaded.align = alignment(pack)
            packs.append(loaded)
        parts = count
        while len(packs) > 1:
            # Each pack holds runs of ``parts`` partial sums; the halves of every run are added.
            half = parts // 2
            low = [k for k in range(2 * count) if k % parts < half]
            high = [k + half for k in low]
            merged = []
            for first, second in zip(packs[::2], packs[1::2], strict=True):
                sides = [
                    builder.shuffle_vector(
                        first, second, ir.Constant(ir.VectorType(ir.IntType(32), count), order)
                    )
                    for order in (low, high)
                ]
                merged.append(builder.fadd(*sides))
            packs, parts = merged, half
        return packs[0]

    return pack(array, types.intp, wide), codegen


@operation
def total(typingctx, x):
    """The sum of the elements of a real pack: halves are added until one is left."""

    def codegen(context, builder, signature, args):
        value, count = args[0], x.count
        while count > 1:
            count //= 2
            low = shuffle(builder, value, range(count))
            value = builder.fadd(low, shuffle(builder, value, range(count, 2 * count)))
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return x.dtype(x), codegen


@operation
def prefetch(typingctx, array, offset):
    """Ask for the cache line at a flat offset, which need not exist, to be brought near."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        pointer = builder.bitcast(builder.gep(data, [args[1]]), byte)
        builder.call(function, [pointer, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen
