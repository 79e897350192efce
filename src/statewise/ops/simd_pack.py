"""What a pack is to numba and to LLVM, and what operations on packs are made of.

:mod:`simd` says what packs are for. Here are the type, and the instructions that its operations,
and those of kernels with operations of their own, put together.
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
WIDER = 2
"""The kind of a wider pack: this many wide ones."""

SCALARS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.complex64: ir.FloatType(),
    types.complex128: ir.DoubleType(),
}


def operation(function: Callable[..., Any]) -> Callable[..., Any]:
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
        return ir.VectorType(SCALARS[self.dtype], self.count * (2 if self.is_complex else 1))


@register_default(Pack)
class _PackModel(PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, fe_type.ir_type)


def pack_of(array: types.Array, wide: types.Type) -> Pack:
    """The pack that a kernel cuts from an array, by the type of its last argument."""
    if isinstance(wide, types.NoneType):
        return Pack(array.dtype, 1)
    wides = WIDER if isinstance(wide, types.Integer) else 1
    return Pack(array.dtype, wides * WIDE_BYTES * 8 // array.dtype.bitwidth)  # pyright: ignore[reportAttributeAccessIssue]


def address(context, builder, array_type, array, offset, pack):
    """A pointer to the pack at a flat offset."""
    data = context.make_array(array_type)(context, builder, array).data
    pointer = builder.gep(data, [offset])
    return builder.bitcast(pointer, pack.ir_type.as_pointer())


def alignment(pack: Pack) -> int:
    """Bytes that the address of a pack is a multiple of: those of one real number."""
    return 4 if isinstance(pack.ir_type.element, ir.FloatType) else 8


def shuffle(builder, x, order):
    """The elements of a vector in another order, or some of them."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order))
    return builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), mask)


def fused(builder, x, y, z):
    """``x*y + z``, in one instruction where the machine has it."""
    vector = x.type
    suffix = "f32" if isinstance(vector.element, ir.FloatType) else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector, vector, vector]),
        f"llvm.fmuladd.v{vector.count}{suffix}",
    )
    return builder.call(function, [x, y, z])


def multiply_add(builder, pack, c, x, y, conjugate):
    """``c*x + y``, or ``conj(c)*x + y``, with c, x, y packs of one type."""
    if not pack.is_complex:
        return fused(builder, c, x, y)
    lanes = range(pack.ir_type.count)
    real = shuffle(builder, c, [k & ~1 for k in lanes])
    imag = shuffle(builder, c, [k | 1 for k in lanes])
    signs = [1.0, -1.0] if conjugate else [-1.0, 1.0]
    sign = ir.Constant(pack.ir_type, [signs[k & 1] for k in lanes])
    swapped = shuffle(builder, x, [k ^ 1 for k in lanes])
    return fused(builder, builder.fmul(imag, sign), swapped, fused(builder, real, x, y))
