"""Products of 2×2, 3×3 and 4×4 matrices with groups of vectors, in packs.

A *group* is the fewest packs of W lanes (:mod:`statewise.ops.simd`) that hold whole vectors of
size k: one pack for k = 2 and 4, three for k = 3. Its matrices are k times as many packs of
memory, row by row; lane f of those is entry (f mod k² div k, f mod k) of matrix f div k². A
product multiplies each lane by the entry of the vector that it meets and sums lanes of one row,
or of one column for the transpose, by shuffles. Operands are flat offsets into arrays.

The size k is read from a *type*: the argument ``size`` is a tuple of k numbers.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from statewise.ops.simd_pack import address, alignment, fused, operation, pack_of, shuffle

SIZES = {2: (0, 0), 3: (0, 0, 0), 4: (0, 0, 0, 0)}
"""What to give as ``size``, by k."""


def group_lanes(k: int, lanes: int) -> int:
    """Lanes of a group, for packs of ``lanes`` lanes."""
    return lanes if lanes % k == 0 else k * lanes


def _load(context, builder, array_type, array, offset, count):
    pack = pack_of(array_type, types.boolean)
    loaded = []
    for q in range(count):
        place = builder.add(offset, context.get_constant(types.intp, q * pack.count))
        value = builder.load(address(context, builder, array_type, array, place, pack))
        value.align = alignment(pack)
        loaded.append(value)
    return loaded


def _store(context, builder, array_type, array, offset, packs):
    pack = pack_of(array_type, types.boolean)
    for q, value in enumerate(packs):
        place = builder.add(offset, context.get_constant(types.intp, q * pack.count))
        pointer = address(context, builder, array_type, array, place, pack)
        builder.store(value, pointer).align = alignment(pack)


def _pick(builder, packs, order):
    """One pack whose lanes are the given lanes of the packs, counted through."""
    lanes = packs[0].type.count
    used = sorted({f // lanes for f in order})
    if len(used) == 1:
        return shuffle(builder, packs[used[0]], [f % lanes for f in order])
    picked = None
    for first in range(0, len(used), 2):
        pair = (used[first], used[min(first + 1, len(used) - 1)])
        lane = [f % lanes + (lanes if f // lanes == pair[1] else 0) for f in order]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), lane)
        part = builder.shuffle_vector(packs[pair[0]], packs[pair[1]], mask)
        if picked is None:
            picked = part
        else:
            source = [lanes + n if f // lanes in pair else n for n, f in enumerate(order)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), source)
            picked = builder.shuffle_vector(picked, part, mask)
    return picked


def _spread(builder, vector, k, by_row):
    """For every entry of the matrices, the lane of the vectors in its row or column."""
    lanes = vector[0].type.count
    spread = []
    for q in range(k * len(vector)):
        entries = [divmod(f, k * k) for f in range(q * lanes, (q + 1) * lanes)]
        order = [block * k + (e // k if by_row else e % k) for block, e in entries]
        spread.append(_pick(builder, vector, order))
    return spread


def _sums(builder, packs, k, transposed):
    """Sums over each row, or over each column when ``transposed``."""
    lanes = packs[0].type.count
    if k == 3:
        columns = []
        for term in range(k):
            order = []
            for out in range(len(packs) // k * lanes):
                block, e = divmod(out, k)
                order.append(block * k * k + (term * k + e if transposed else e * k + term))
            rows = [order[at : at + lanes] for at in range(0, len(order), lanes)]
            columns.append([_pick(builder, packs, row) for row in rows])
        pairs = [builder.fadd(x, y) for x, y in zip(columns[0], columns[1], strict=True)]
        return [builder.fadd(x, y) for x, y in zip(pairs, columns[2], strict=True)]
    # Halving: lanes whose row (or column) index is even meet their odd neighbours.
    stride = k if transposed else 1
    while len(packs) > 1:
        sides = [[f for f in range(2 * lanes) if (f // stride) % 2 == odd] for odd in (0, 1)]
        packs = [
            builder.fadd(*(_pick(builder, [x, y], side) for side in sides))
            for x, y in zip(packs[::2], packs[1::2], strict=True)
        ]
    return packs


def _groups(array, k):
    """Packs in a group of vectors."""
    lanes = pack_of(array, types.boolean).count
    return group_lanes(k, lanes) // lanes


def _product(context, builder, types_, values, k, transposed):
    (matrices, o_matrices), (x, ox) = values
    vector = _load(context, builder, types_[1], x, ox, _groups(types_[1], k))
    entries = _load(context, builder, types_[0], matrices, o_matrices, k * len(vector))
    met = _spread(builder, vector, k, transposed)
    terms = [builder.fmul(a, v) for a, v in zip(entries, met, strict=True)]
    return _sums(builder, terms, k, transposed)


@operation
def copy(typingctx, x, ox, z, oz, size):
    """Write x to z, for one group of vectors."""
    k = size.count

    def codegen(context, builder, signature, args):
        packs = _load(context, builder, x, args[0], args[1], _groups(x, k))
        _store(context, builder, z, args[2], args[3], packs)
        return context.get_dummy_value()

    at = types.intp
    return types.void(x, at, z, at, size), codegen


@operation
def plus(typingctx, x, ox, y, oy, z, oz, size):
    """Write x + y to z, for one group of vectors."""
    k = size.count

    def codegen(context, builder, signature, args):
        count = _groups(x, k)
        left = _load(context, builder, x, args[0], args[1], count)
        right = _load(context, builder, y, args[2], args[3], count)
        total = [builder.fadd(p, q) for p, q in zip(left, right, strict=True)]
        _store(context, builder, z, args[4], args[5], total)
        return context.get_dummy_value()

    at = types.intp
    return types.void(x, at, y, at, z, at, size), codegen


@operation
def clear(typingctx, z, oz, matrices, size):
    """Write 0 to z, for one group of vectors, or of ``matrices`` when that is True and not None."""
    k = size.count
    times = 1 if isinstance(matrices, types.NoneType) else k

    def codegen(context, builder, signature, args):
        pack = pack_of(z, types.boolean)
        nil = ir.Constant(pack.ir_type, [0.0] * pack.ir_type.count)
        _store(context, builder, z, args[0], args[1], [nil] * (times * _groups(z, k)))
        return context.get_dummy_value()

    return types.void(z, types.intp, matrices, size), codegen


@operation
def matvec_add(typingctx, A, oA, x, ox, y, oy, z, oz, size):
    """Write A x + y to z, for one group."""
    k = size.count

    def codegen(context, builder, signature, args):
        product = _product(
            context, builder, (A, x), ((args[0], args[1]), (args[2], args[3])), k, False
        )
        added = _load(context, builder, y, args[4], args[5], len(product))
        total = [builder.fadd(p, q) for p, q in zip(product, added, strict=True)]
        _store(context, builder, z, args[6], args[7], total)
        return context.get_dummy_value()

    at = types.intp
    return types.void(A, at, x, at, y, at, z, at, size), codegen


@operation
def matvec_transposed(typingctx, A, oA, x, ox, z, oz, size):
    """Write Aᵀ x to z, for one group."""
    k = size.count

    def codegen(context, builder, signature, args):
        product = _product(
            context, builder, (A, x), ((args[0], args[1]), (args[2], args[3])), k, True
        )
        _store(context, builder, z, args[4], args[5], product)
        return context.get_dummy_value()

    at = types.intp
    return types.void(A, at, x, at, z, at, size), codegen


@operation
def outer(typingctx, x, ox, y, oy, z, oz, accumulate, size):
    """Write x yᵀ to z, for one group, or add it: ``accumulate`` is True then, and None else."""
    k = size.count
    adds = not isinstance(accumulate, types.NoneType)

    def codegen(context, builder, signature, args):
        count = _groups(x, k)
        left = _spread(builder, _load(context, builder, x, args[0], args[1], count), k, True)
        right = _spread(builder, _load(context, builder, y, args[2], args[3], count), k, False)
        if adds:
            before = _load(context, builder, z, args[4], args[5], k * count)
            rows = [fused(builder, *each) for each in zip(left, right, before, strict=True)]
        else:
            rows = [builder.fmul(*each) for each in zip(left, right, strict=True)]
        _store(context, builder, z, args[4], args[5], rows)
        return context.get_dummy_value()

    at = types.intp
    return types.void(x, at, y, at, z, at, accumulate, size), codegen
