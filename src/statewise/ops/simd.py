"""Short vectors inside numba kernels: load, store and multiply-add on packs of channels.

A *pack* is one LLVM vector of 256 bits (wide) or a single element (narrow), cut from a
contiguous array. Its element type is that of the array; complex elements stay interleaved
as (re, im), and products are done with one lane swap, without taking the array apart. The
compiler lowers a pack to whatever the machine has, so the code is the same on every processor.

Numba's own loops do not vectorise complex arithmetic, nor anything with as many arrays as a
backward pass reads and writes; that is the reason for this module.

In a kernel the last argument of :func:`width`, :func:`load` and :func:`zero` is the kind of
pack: ``True`` (any bool) for wide, ``None`` for narrow. It is read from the *type*, so one
kernel compiles to two specialisations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic

WIDE_BYTES = 32

_SCALARS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.complex64: ir.FloatType(),
    types.complex128: ir.DoubleType(),
}


def _operation(function: Callable[..., Any]) -> Callable[..., Any]:
    """An intrinsic: inside kernels it is called without its first argument, the typing context."""
    return intrinsic(function)


def elements(itemsize: int) -> int:
    """Number of array elements, of ``itemsize`` bytes each, in one wide pack."""
    return WIDE_BYTES // itemsize


class Pack(types.Type):
    """Numba type of a pack: element type and number of elements."""

    def __init__(self, dtype: types.Type, count: int) -> None:
        self.dtype = dtype
        self.count = count
        super().__init__(name=f"Pack({dtype}, {count})")

    @property
    def is_complex(self) -> bool:
        """Whether elements are complex, and so take two lanes each."""
        return isinstance(self.dtype, types.Complex)

    @property
    def ir_type(self) -> ir.VectorType:
        """The LLVM vector that holds the pack."""
        return ir.VectorType(_SCALARS[self.dtype], self.count * (2 if self.is_complex else 1))


@register_default(Pack)
class _PackModel(PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, fe_type.ir_type)


def _pack_of(array: types.Array, wide: types.Type) -> Pack:
    if isinstance(wide, types.NoneType):
        return Pack(array.dtype, 1)
    return Pack(array.dtype, WIDE_BYTES * 8 // array.dtype.bitwidth)  # pyright: ignore[reportAttributeAccessIssue]


def _address(context, builder, array_type, array, offset, pack):
    data = context.make_array(array_type)(context, builder, array).data
    pointer = builder.gep(data, [offset])
    return builder.bitcast(pointer, pack.ir_type.as_pointer())


def _alignment(pack: Pack) -> int:
    return 4 if isinstance(pack.ir_type.element, ir.FloatType) else 8


def _shuffle(builder, x, order):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order))
    return builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), mask)


def _fused(builder, x, y, z):
    """``x*y + z``, in one instruction where the machine has it."""
    vector = x.type
    suffix = "f32" if isinstance(vector.element, ir.FloatType) else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector, vector, vector]),
        f"llvm.fmuladd.v{vector.count}{suffix}",
    )
    return builder.call(function, [x, y, z])


def _multiply_add(builder, pack, c, x, y, conjugate):
    """``c*x + y``, or ``conj(c)*x + y``, with c, x, y packs of one type."""
    if not pack.is_complex:
        return _fused(builder, c, x, y)
    lanes = range(pack.ir_type.count)
    real = _shuffle(builder, c, [k & ~1 for k in lanes])
    imag = _shuffle(builder, c, [k | 1 for k in lanes])
    signs = [1.0, -1.0] if conjugate else [-1.0, 1.0]
    sign = ir.Constant(pack.ir_type, [signs[k & 1] for k in lanes])
    swapped = _shuffle(builder, x, [k ^ 1 for k in lanes])
    return _fused(builder, builder.fmul(imag, sign), swapped, _fused(builder, real, x, y))


@_operation
def width(typingctx, array, wide):
    """Elements in one pack of ``array``: a constant of the compiled code."""
    pack = _pack_of(array, wide)

    def codegen(context, builder, signature, args):
        return context.get_constant(types.intp, pack.count)

    return types.intp(array, wide), codegen


@_operation
def load(typingctx, array, offset, wide):
    """The pack at flat offsets [offset, offset + width) of ``array``; nothing checks the bounds."""
    pack = _pack_of(array, wide)

    def codegen(context, builder, signature, args):
        loaded = builder.load(_address(context, builder, array, args[0], args[1], pack))
        loaded.align = _alignment(pack)
        return loaded

    return pack(array, types.intp, wide), codegen


@_operation
def store(typingctx, array, offset, pack):
    """Write a pack to flat offsets [offset, offset + width); nothing checks the bounds."""

    def codegen(context, builder, signature, args):
        pointer = _address(context, builder, array, args[0], args[1], pack)
        builder.store(args[2], pointer).align = _alignment(pack)
        return context.get_dummy_value()

    return types.void(array, types.intp, pack), codegen


@_operation
def zero(typingctx, array, wide):
    """A pack of zeros with the element type of ``array``."""
    pack = _pack_of(array, wide)

    def codegen(context, builder, signature, args):
        return ir.Constant(pack.ir_type, [0.0] * pack.ir_type.count)

    return pack(array, wide), codegen


@_operation
def add(typingctx, x, y):
    """``x + y``."""

    def codegen(context, builder, signature, args):
        return builder.fadd(args[0], args[1])

    return x(x, y), codegen


@_operation
def madd(typingctx, c, x, y):
    """``c*x + y``."""

    def codegen(context, builder, signature, args):
        return _multiply_add(builder, c, *args, conjugate=False)

    return c(c, x, y), codegen


@_operation
def madd_conj(typingctx, c, x, y):
    """``conj(c)*x + y``."""

    def codegen(context, builder, signature, args):
        return _multiply_add(builder, c, *args, conjugate=True)

    return c(c, x, y), codegen
