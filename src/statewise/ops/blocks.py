"""Cutting the work of one operator call into blocks for the thread pool."""

from __future__ import annotations

from statewise.ops import pool

MIN_ELEMENTS = 100_000
"""Numbers that a thread must have to work on before another one is worth waking."""

ALIGN = 16
"""Channels per block are a multiple of this, so that no two threads share a cache line."""

Block = tuple[int, int, int, int]


def cut(batch: int, channels: int, work: int, align: int = ALIGN) -> list[Block]:
    """Cut batch × channels into (i0, i1, d0, d1), about one block a thread.

    Args:
        batch: number of sequences.
        channels: number of independent channels.
        work: numbers that the whole call works on.
        align: channels per block are a multiple of this.

    Returns:
        The blocks; a single one where the work is small.
    """
    parts = min(pool.threads(), work // MIN_ELEMENTS) if work >= 2 * MIN_ELEMENTS else 1
    if parts == 1:
        return [(0, batch, 0, channels)]
    rows = min(parts, batch)
    columns = min(-(-parts // rows), -(-channels // align))
    step = -(-channels // (columns * align)) * align
    return [
        (row * batch // rows, (row + 1) * batch // rows, d0, min(d0 + step, channels))
        for row in range(rows)
        for d0 in range(0, channels, step)
    ]
