"""Text cells: what they look like, and how a column of them becomes numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import polars

#: Cells, in lower case, that stand for a missing value.
MISSING = frozenset(
    ("", "nan", "+nan", "-nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "nat",
     "-", "--", "?")
)  # fmt: skip

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.I | re.A)
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?([T ].*)?"
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}([T ,].*)?"
    r"|\d{1,2}[-/. ][A-Za-z]{3,9}\.?[-/. ]\d{4}([T ,].*)?"
    r"|\d{1,3}:\d{2}(:\d{2}([.,]\d+)?)?",
    re.A,
)
_COMMA_NUMBER = r"^[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?$"
_GROUPED = r"^[+-]?[1-9]\d{0,2},\d{3}$"


def kind_of(cell: str) -> str:
    """What a cell looks like: "missing", "number" (point or comma), "date" or "text"."""
    text = cell.strip()
    if text.lower() in MISSING:
        return "missing"
    if _NUMBER.fullmatch(text) or text.lower() in ("true", "false"):
        return "number"
    if _DATE.fullmatch(text):
        return "date"
    return "text"


class Numbers(NamedTuple):
    """A column of text cast to numbers."""

    values: np.ndarray
    """(L,) float64, NaN where missing or not understood."""
    bad: np.ndarray
    """Rows that hold something other than a number or a missing value."""
    comma: bool
    """Whether the numbers were written with a decimal comma."""
    grouped: bool
    """Whether each comma is followed by three digits, so that it may group thousands."""


def cast_numbers(cells: polars.Series, decimal: str | None) -> Numbers:
    """Cast stripped text cells to numbers.

    Args:
        cells: strings without blanks around them; null counts as missing.
        decimal: "." or ","; None = a comma when some cells need it and none has a point.

    Returns:
        Values, rows that were not understood, and whether a decimal comma was used.
    """
    import polars as pl

    comma = decimal == ","
    source = cells.str.replace(",", ".", literal=True) if comma else cells
    if comma:
        # "1.5" beside a decimal comma would be a thousands group: not a number here.
        source = source.set(cells.str.contains(".", literal=True).fill_null(False), "x")
    cast = source.cast(pl.Float64, strict=False)
    failed = cast.is_null() & cells.is_not_null()
    if not failed.any():
        return Numbers(_to_numpy(cast), np.empty(0, dtype=np.intp), comma, False)
    lowered = cells.str.to_lowercase()
    failed &= ~lowered.is_in(list(MISSING)).fill_null(True)
    if not failed.any():
        return Numbers(_to_numpy(cast), np.empty(0, dtype=np.intp), comma, False)
    if decimal is None:
        commas = cells.str.contains(_COMMA_NUMBER).fill_null(False)
        points = cells.str.contains(".", literal=True).fill_null(False) & cast.is_not_null()
        if commas.any() and not points.any():
            grouped = bool(cells.filter(commas).str.contains(_GROUPED).all())
            return cast_numbers(cells, ",")._replace(grouped=grouped)
    truth = lowered.is_in(["true", "false"]).fill_null(False)
    if not (failed & ~truth).any() and (cast.is_null() | cast.is_nan()).all():
        values = np.where(truth.to_numpy(), (lowered == "true").fill_null(False).to_numpy(), np.nan)
        return Numbers(values, np.empty(0, dtype=np.intp), comma, False)
    return Numbers(_to_numpy(cast), np.flatnonzero(failed.to_numpy()), comma, False)


def _to_numpy(series: polars.Series) -> np.ndarray:
    return series.fill_null(float("nan")).to_numpy().astype(np.float64)
