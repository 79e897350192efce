"""Register panels of small matrix products, for numba kernels.

A *panel* is ``ROWS`` rows by a few packs (:mod:`statewise.ops.simd`) of a row-major matrix. Its
sums stay in registers while the depth of a product passes: at each step of the depth the packs of
one row of the right factor are loaded, and ``ROWS`` numbers of the left one, and all are
multiplied with all. Factors and results are flat buffers, given with an offset and the distance
between rows; they are padded to whole packs and panels, so that there are no tails.

A triangular product has its diagonal unrolled: an entry beyond the diagonal is never multiplied,
not even by zero, because 0 · NaN would carry a NaN against the order of time.

The last argument of each operation is the number of packs, an integer literal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from statewise.ops.simd_pack import WIDER, address, alignment, fused, pack_of, shuffle

ROWS = 4
"""Rows of a panel: with two packs, eight independent sums keep two multiply-add units busy."""

MANY = bool(llvm.get_host_cpu_features().get("avx512vl"))
"""Whether there are 32 registers of 512 bits rather than 16 of 256."""

WIDE = WIDER if MANY else True
"""The kind of pack that fills a register."""

_KIND = types.intp if MANY else types.boolean
_INDEX = ir.IntType(64)


def _operation(function: Callable[..., Any]) -> Callable[..., Any]:
    """An intrinsic: inside kernels it is called without its first argument, the typing context."""
    return intrinsic(prefer_literal=True)(function)


class _Panel:
    """The sums of one panel while its code is written."""

    def __init__(self, context, builder, array_type, packs: int, kind=_KIND) -> None:
        self.context, self.builder, self.array_type = context, builder, array_type
        self.pack = pack_of(array_type, kind)
        self.packs = packs
        self.sums = [
            [cgutils.alloca_once(builder, self.pack.ir_type) for _ in range(packs)]
            for _ in range(ROWS)
        ]

    def at(self, offset, row, step):
        """Offset + row · step, the row a number or a value."""
        row = ir.Constant(_INDEX, row) if isinstance(row, int) else row
        return self.builder.add(offset, self.builder.mul(row, step))

    def place(self, array, offset, pack: int):
        """Address of a pack in a row."""
        offset = self.builder.add(offset, ir.Constant(_INDEX, pack * self.pack.count))
        return address(self.context, self.builder, self.array_type, array, offset, self.pack)

    def load(self, array, offset, pack: int):
        loaded = self.builder.load(self.place(array, offset, pack))
        loaded.align = alignment(self.pack)
        return loaded

    def splat(self, value):
        empty = ir.Constant(self.pack.ir_type, ir.Undefined)
        first = self.builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
        return shuffle(self.builder, first, [0] * self.pack.count)

    def number(self, array, offset):
        """One element, in every lane."""
        data = self.context.make_array(self.array_type)(self.context, self.builder, array).data
        return self.splat(self.builder.load(self.builder.gep(data, [offset])))

    def clear(self) -> None:
        for place in (place for row in self.sums for place in row):
            zero = ir.Constant(self.pack.ir_type, [0.0] * self.pack.count)
            self.builder.store(zero, place)

    def scale(self, factor: Callable[[int], Any]) -> None:
        for r, row in enumerate(self.sums):
            scale = factor(r)
            for place in row:
                self.builder.store(self.builder.fmul(self.builder.load(place), scale), place)

    def start(self, fresh, out, offset, step, factor: Callable[[int], Any]) -> None:
        """The sums begin at zero where ``fresh``, else at row r of ``out`` times factor(r)."""
        b = self.builder
        with b.if_else(fresh) as (yes, no):
            with yes:
                for place in (place for row in self.sums for place in row):
                    b.store(ir.Constant(self.pack.ir_type, [0.0] * self.pack.count), place)
            with no:
                for r, row in enumerate(self.sums):
                    scale = factor(r)
                    for v, place in enumerate(row):
                        x = self.load(out, self.at(offset, r, step), v)
                        b.store(b.fmul(x, scale), place)

    def add(self, rows: range, left: Callable[[int], Any], right, offset) -> None:
        """Add left(r) times the packs at ``offset`` of ``right`` to each row r."""
        b = self.builder
        packs = [self.load(right, offset, v) for v in range(self.packs)]
        for r in rows:
            factor = left(r)
            for place, x in zip(self.sums[r], packs, strict=True):
                b.store(fused(b, factor, x, b.load(place)), place)

    def write(self, out, offset, step) -> None:
        b = self.builder
        for r, row in enumerate(self.sums):
            for v, place in enumerate(row):
                pointer = self.place(out, self.at(offset, r, step), v)
                b.store(b.load(place), pointer).align = alignment(self.pack)


@_operation
def product(
    typingctx, out, o, so, fresh, scale, base, b, left, l, sl, sk, right, r, sr, depth, packs
):  # fmt: skip
    """Set out ← scale · base + left · right on a panel, or left · right where ``fresh``.

    Row i of ``out`` is at o + i·so, that of ``base`` at b + i·so; row i, column k of ``left`` is
    at l + i·sl + k·sk; row k of ``right`` at r + k·sr.
    """
    index = types.intp
    signature = types.void(
        *(out, index, index, types.boolean, out.dtype, out, index, out, index, index, index),
        *(out, index, index, index, packs),
    )

    def codegen(context, builder, signature, args):
        out_, o_, so_, fresh_, scale_, base_, b_, left_, l_, sl_, sk_, *rest = args
        right_, r_, sr_, depth_, _ = rest
        panel = _Panel(context, builder, out, packs.literal_value)
        panel.start(fresh_, base_, b_, so_, lambda _: panel.splat(scale_))
        with cgutils.for_range(builder, depth_) as loop:
            column = panel.at(l_, loop.index, sk_)
            panel.add(
                range(ROWS),
                lambda i: panel.number(left_, panel.at(column, i, sl_)),
                right_,
                panel.at(r_, loop.index, sr_),
            )
        panel.write(out_, o_, so_)
        return context.get_dummy_value()

    return signature, codegen


@_operation
def lower(typingctx, out, o, so, fresh, scale, e, left, l, sl, right, r, sr, first, packs):
    """Set rows first … first + ROWS of out ← diag(scale) · out + tril(left) · right.

    Where ``fresh``, the first term is left out. ``o`` and ``e`` are the places of the first of
    these rows in ``out`` and of its factor in ``scale``; ``l`` and ``r`` those of row 0.
    """
    index = types.intp
    signature = types.void(
        *(out, index, index, types.boolean, out, index, out, index, index),
        *(out, index, index, index, packs),
    )

    def codegen(context, builder, signature, args):
        out_, o_, so_, fresh_, scale_, e_, left_, l_, sl_, right_, r_, sr_, first_, _ = args
        panel = _Panel(context, builder, out, packs.literal_value)
        one = ir.Constant(_INDEX, 1)
        panel.start(fresh_, out_, o_, so_, lambda i: panel.number(scale_, panel.at(e_, i, one)))
        corner = panel.at(l_, first_, sl_)

        def entries(column):
            return lambda i: panel.number(left_, panel.at(builder.add(corner, column), i, sl_))

        with cgutils.for_range(builder, first_) as loop:
            row = panel.at(r_, loop.index, sr_)
            panel.add(range(ROWS), entries(loop.index), right_, row)
        for k in range(ROWS):
            column = builder.add(first_, ir.Constant(_INDEX, k))
            panel.add(range(k, ROWS), entries(column), right_, panel.at(r_, column, sr_))
        panel.write(out_, o_, so_)
        return context.get_dummy_value()

    return signature, codegen


@_operation
def output(
    typingctx, out, o, so, fresh, scale, e, left, l, sl, right, r, sr, depth,
    within, m, sm, inputs, u, su, first, packs,
):  # fmt: skip
    """Set rows of out ← diag(scale) · left · right + tril(within) · inputs.

    Where ``fresh``, the first term is left out. The rows are first … first + ROWS of the second
    product; ``o``, ``e`` and ``l`` are the places of the first of them in ``out``, of its factor
    in ``scale`` and of its row in ``left``; ``m`` and ``u`` are those of row 0.
    """
    index = types.intp
    signature = types.void(
        *(out, index, index, types.boolean, out, index, out, index, index, out, index, index),
        *(index, out, index, index, out, index, index, index, packs),
    )

    def codegen(context, builder, signature, args):
        out_, o_, so_, fresh_, scale_, e_, left_, l_, sl_, right_, r_, sr_, depth_, *rest = args
        within_, m_, sm_, inputs_, u_, su_, first_, _ = rest
        panel = _Panel(context, builder, out, packs.literal_value)
        one = ir.Constant(_INDEX, 1)
        panel.clear()
        with builder.if_then(builder.not_(fresh_)):
            with cgutils.for_range(builder, depth_) as loop:
                column = builder.add(l_, loop.index)
                panel.add(
                    range(ROWS),
                    lambda i: panel.number(left_, panel.at(column, i, sl_)),
                    right_,
                    panel.at(r_, loop.index, sr_),
                )
            panel.scale(lambda i: panel.number(scale_, panel.at(e_, i, one)))
        corner = panel.at(m_, first_, sm_)

        def entries(column):
            return lambda i: panel.number(within_, panel.at(builder.add(corner, column), i, sm_))

        with cgutils.for_range(builder, first_) as loop:
            panel.add(range(ROWS), entries(loop.index), inputs_, panel.at(u_, loop.index, su_))
        for k in range(ROWS):
            column = builder.add(first_, ir.Constant(_INDEX, k))
            panel.add(range(k, ROWS), entries(column), inputs_, panel.at(u_, column, su_))
        panel.write(out_, o_, so_)
        return context.get_dummy_value()

    return signature, codegen


@_operation
def upper(typingctx, out, o, so, fresh, scale, e, left, l, sl, right, r, sr, first, depth, packs):
    """Set rows first … first + ROWS of out ← diag(scale) · out + tril(left)ᵀ · right.

    As :func:`lower`; rows of ``left`` and ``right`` from ``depth`` on are not read.
    """
    index = types.intp
    signature = types.void(
        *(out, index, index, types.boolean, out, index, out, index, index),
        *(out, index, index, index, index, packs),
    )

    def codegen(context, builder, signature, args):
        out_, o_, so_, fresh_, scale_, e_, left_, l_, sl_, right_, r_, sr_, first_, depth_, _ = args
        panel = _Panel(context, builder, out, packs.literal_value)
        one = ir.Constant(_INDEX, 1)
        panel.start(fresh_, out_, o_, so_, lambda i: panel.number(scale_, panel.at(e_, i, one)))
        corner = builder.add(l_, first_)

        def entries(row):
            start = panel.at(corner, row, sl_)
            return lambda i: panel.number(left_, builder.add(start, ir.Constant(_INDEX, i)))

        for k in range(ROWS):
            row = builder.add(first_, ir.Constant(_INDEX, k))
            with builder.if_then(builder.icmp_signed("<", row, depth_)):
                panel.add(range(k + 1), entries(row), right_, panel.at(r_, row, sr_))
        rest = builder.add(first_, ir.Constant(_INDEX, ROWS))
        with cgutils.for_range_slice(builder, rest, depth_, one) as (row, _):
            panel.add(range(ROWS), entries(row), right_, panel.at(r_, row, sr_))
        panel.write(out_, o_, so_)
        return context.get_dummy_value()

    return signature, codegen


@_operation
def transpose(typingctx, out, o, so, x, i, si):
    """A square of one pack a side, at i with rows si apart in ``x``, transposed into ``out``."""
    index = types.intp
    signature = types.void(out, index, index, out, index, index)

    def codegen(context, builder, signature, args):
        out_, o_, so_, x_, i_, si_ = args
        panel = _Panel(context, builder, out, 0, types.boolean)
        side = panel.pack.count
        rows = [panel.load(x_, panel.at(i_, k, si_), 0) for k in range(side)]
        step = 1
        while step < side:
            # Rows k and k + step exchange their off-diagonal squares of ``step`` a side.
            for k in (k for k in range(side) if not k & step):
                upper_, lower_ = rows[k], rows[k + step]
                lanes = range(side)
                for place, order in (
                    (k, [j - step + side if j & step else j for j in lanes]),
                    (k + step, [j + side if j & step else j + step for j in lanes]),
                ):
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), side), order)
                    rows[place] = builder.shuffle_vector(upper_, lower_, mask)
            step *= 2
        for k, row in enumerate(rows):
            place = panel.place(out_, panel.at(o_, k, so_), 0)
            builder.store(row, place).align = alignment(panel.pack)
        return context.get_dummy_value()

    return signature, codegen
