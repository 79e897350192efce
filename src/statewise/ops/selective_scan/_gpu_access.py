"""Memory access of the Triton kernels: where things lie, and loads of rows, vectors and tiles.

Steps are counted in scan order; step s lies at time s, or L − 1 − s in a reverse scan. A row is
one step's values of a block of channels, a vector one step's states, a tile states by channels.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false
# Kernels are typed by Triton when it compiles them, not by annotations.

from __future__ import annotations

import triton.language as tl

from statewise.ops.selective_scan._gpu_math import device


@device
def place(per_group, groups, BLOCK: tl.constexpr):
    """This program: its number beyond blocks; its group, block in the group, channels and mask.

    Blocks do not cross groups. The channel offsets deny their alignment: with it the compiler
    gives each lane four neighbouring channels, spreads the states over lanes, and shuffles.
    """
    slots = tl.cdiv(per_group, BLOCK)
    blocks = slots * groups
    block = tl.program_id(0) % blocks
    group = block // slots
    slot = block % slots
    inner = slot * BLOCK + tl.arange(0, BLOCK)
    channel = tl.multiple_of(group * per_group + inner, 1)
    return tl.program_id(0) // blocks, group, slot, channel, inner < per_group


@device
def time_of(s, length, REVERSE: tl.constexpr):
    """Where step s lies in time, as a 64-bit number."""
    if REVERSE:
        s = length - 1 - s
    return tl.cast(s, tl.int64)


@device
def until(mask, s, stop):
    """``mask`` where s < stop, with scalars s and stop."""
    # Spelled out, because Triton's interpreter spreads a scalar truth value as an integer.
    return mask & (tl.full(mask.shape, s, tl.int32) < stop)


@device
def rows(pointer, width, s, stop, mask, STEPS: tl.constexpr, EVEN: tl.constexpr,
         REVERSE: tl.constexpr):  # fmt: skip
    """Rows of the steps s, s + 1, ... from ``pointer``, which is at step s; zero from ``stop``."""
    step = -width if REVERSE else width
    found = ()
    inside = until(mask, s, stop)
    left = stop - s
    for i in tl.static_range(STEPS):
        if not EVEN:
            inside = until(mask, i, left)
        found += (tl.load(pointer + i * step, mask=inside, other=0.0),)
    return found


@device
def vector(pointer, n, mask, PARTS: tl.constexpr):
    """One step's B or C, shaped to combine with tiles."""
    return (
        (tl.load(pointer + n, mask=mask, other=0.0)[:, None],)
        if PARTS == 1
        else (
            tl.load(pointer + 2 * n, mask=mask, other=0.0)[:, None],
            tl.load(pointer + 2 * n + 1, mask=mask, other=0.0)[:, None],
        )
    )


@device
def load_tile(pointer, offsets, mask, PARTS: tl.constexpr):
    """A number of tiles; ``offsets`` count numbers, whose parts are neighbours in memory."""
    return (
        (tl.load(pointer + offsets, mask=mask, other=0.0),)
        if PARTS == 1
        else (
            tl.load(pointer + 2 * offsets, mask=mask, other=0.0),
            tl.load(pointer + 2 * offsets + 1, mask=mask, other=0.0),
        )
    )


@device
def store_tile(pointer, offsets, x, mask, PARTS: tl.constexpr):
    """Store what :func:`load_tile` loads."""
    if PARTS == 1:
        tl.store(pointer + offsets, x[0], mask=mask)
    else:
        tl.store(pointer + 2 * offsets, x[0], mask=mask)
        tl.store(pointer + 2 * offsets + 1, x[1], mask=mask)


@device
def is_fresh(reset, row, s, stop, HAS_RESET: tl.constexpr):
    """Whether the state is zeroed before step s; ``row`` is where its flag lies."""
    return tl.load(reset + row, mask=s < stop, other=0) != 0 if HAS_RESET else False
