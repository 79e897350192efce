"""Finding a name among those there are, with help for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from statewise._errors import DataError


def find_name(key: str | int, names: Sequence[str], kind: str, source: str) -> int:
    """The position of ``key`` in ``names``.

    Args:
        key: a name, or a position counted from 0 (negative from the end).
        names: the names there are.
        kind: how messages call one of them, such as "column".
        source: where they are, such as "the file x.csv".

    Returns:
        The position.

    Raises:
        DataError: no such name or position; the message lists what there is.
        TypeError: neither a string nor an integer.
    """
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"a {kind} is named by a string or a position, got {key!r}")
    if isinstance(key, int):
        if -len(names) <= key < len(names):
            return key % len(names)
        raise DataError(
            f"{source} has no {kind} at position {key}; it has {len(names)}: {listing(names)}"
        )
    if key in names:
        return list(names).index(key)
    folded = {name.casefold(): name for name in reversed(names)}
    near = difflib.get_close_matches(key.casefold(), list(folded), n=1, cutoff=0.6)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    raise DataError(f"{source} has no {kind} {key!r}; it has {listing(names)}{hint}")


def listing(names: Sequence[str], limit: int = 20) -> str:
    """Names as a comma-separated list, cut where it grows long."""
    if not names:
        return "none"
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in all)"
