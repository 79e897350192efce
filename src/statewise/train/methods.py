"""How training walks along the records, as data."""

from __future__ import annotations

import dataclasses

from statewise._config import register


@register
@dataclasses.dataclass(frozen=True)
class Windows:
    """Independent windows: every epoch covers all records, at an offset drawn for the epoch."""


@register
@dataclasses.dataclass(frozen=True)
class Carry:
    """Truncated back-propagation: segments run in parallel, window after window, state carried.

    The state after a window, cut from the gradient, starts the next window of the same segment, so
    that memory longer than a window is simulated though not back-propagated through. The washout
    counts at the start of a segment only.
    """


Method = Windows | Carry
