"""The chunks that time is cut into, the same for every back end."""

from __future__ import annotations

CHUNK = 128
"""Steps between two kept states. Counted in scan order, from the first step of the scan."""


def chunks(length: int) -> int:
    """Number of chunks, the last one perhaps short."""
    return -(-length // CHUNK)
