"""Date and time text to calendar stamps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from statewise.data.cells import MISSING

if TYPE_CHECKING:
    import polars

#: What messages say a date may look like.
EXPECTED = "a date such as 2020-01-31, 2020-01-31 14:30:00 or 31.01.2020 14:30"

_CLOCK = (
    r"(?:(?:[Tt]|,? +|, *)(?P<hour>\d{1,2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r" ?(?P<half>[AaPp][Mm])?"
    r" ?(?:(?P<utc>[Zz]|UTC|GMT)|(?P<sign>[+-])(?P<zone_hour>\d{2}):?(?P<zone_minute>\d{2})?)?)?$"
)
_ISO = r"^(?P<year>\d{4})(?P<mark>[-/.])(?P<month>\d{1,2})(?:[-/.](?P<day>\d{1,2}))?" + _CLOCK
_LOCAL = r"^(?P<day>\d{1,2})(?P<mark>[-/.])(?P<month>\d{1,2})[-/.](?P<year>\d{4})" + _CLOCK
_NAMED = r"^(?P<day>\d{1,2})[- /.](?P<name>[A-Za-z]{3})[a-z]*\.?[- /.](?P<year>\d{4})" + _CLOCK
_DAYTIME = (
    r"^(?P<hour>\d{1,3}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?$"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclasses.dataclass(frozen=True)
class Stamps:
    """A column of text read as time."""

    values: np.ndarray
    """(L,) datetime64[us] (NaT where not understood), or float64 seconds for times of day."""
    bad: np.ndarray
    """Rows that hold text which is no such time."""
    missing: np.ndarray
    """Rows without a time."""
    other: np.ndarray | None = None
    """The month-first reading, where the text allows both and ``values`` is day-first."""


def parse_stamps(cells: polars.Series, day_first: bool | None) -> Stamps | None:
    """Read stripped text cells as dates, dates with time, or times of day.

    ISO 8601, day.month.year, day/month/year, month/day/year, 31-Jan-2020; each with an optional
    time, AM or PM, and an offset from UTC (stamps are then UTC). The first cell that is not
    missing tells the form of all.

    Args:
        cells: strings without blanks around them.
        day_first: how to read day/month/year against month/day/year; None = by what is possible.

    Returns:
        The stamps, or None when the first cell is no time at all.
    """
    import polars as pl

    missing = (cells.is_null() | cells.str.to_lowercase().is_in(list(MISSING))).fill_null(True)
    rows = np.flatnonzero(missing.to_numpy())
    present = np.flatnonzero(~missing.to_numpy())
    if not len(present):
        return None
    first = cells.slice(int(present[0]), 1)
    for pattern in (_ISO, _LOCAL, _NAMED, _DAYTIME):
        if first.str.contains(pattern)[0]:
            break
    else:
        return None
    fields = cells.str.extract_groups(pattern).struct.unnest()
    numbers = {
        name: fields[name].cast(pl.Int64, strict=False).fill_null(-1).to_numpy()
        for name in fields.columns
        if name not in ("mark", "half", "utc", "sign", "name", "fraction")
    }
    matched = numbers["hour" if pattern is _DAYTIME else "year"] >= 0
    clock, clock_fits = _clock(fields, numbers, day=pattern is not _DAYTIME)
    matched &= clock_fits
    if pattern is _DAYTIME:
        return _stamps(clock / 1e6, matched, rows, None)
    if pattern is _NAMED:
        low = fields["name"].str.to_lowercase()
        numbers["month"] = 1 + np.array(
            [_MONTHS.index(m) if m in _MONTHS else -1 for m in low.fill_null("").to_list()]
        )
    if pattern is _ISO:
        numbers["day"] = np.where(numbers["day"] < 0, 1, numbers["day"])
    year, month, day = numbers["year"], numbers["month"], numbers["day"]
    usual = _calendar(year, month, day, clock, matched)
    if pattern is not _LOCAL or fields["mark"][int(present[0])] == ".":
        return _stamps(usual, matched, rows, None)
    swapped = _calendar(year, day, month, clock, matched)
    if day_first is not None:
        return _stamps(usual if day_first else swapped, matched, rows, None)
    broken, broken_swapped = np.isnat(usual).sum(), np.isnat(swapped).sum()
    if broken == broken_swapped == len(rows):
        return _stamps(usual, matched, rows, None if (usual == swapped).all() else swapped)
    return _stamps(usual if broken <= broken_swapped else swapped, matched, rows, None)


def _stamps(
    values: np.ndarray, matched: np.ndarray, missing: np.ndarray, other: np.ndarray | None
) -> Stamps:
    failed = ~matched | (np.isnat(values) if values.dtype.kind == "M" else np.isnan(values))
    failed[missing] = False
    return Stamps(values, np.flatnonzero(failed), missing, other)


def _clock(
    fields: polars.DataFrame, numbers: dict[str, np.ndarray], *, day: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds after midnight UTC, and whether they are a time of day."""
    import polars as pl

    hour, minute, second = (np.maximum(numbers[name], 0) for name in ("hour", "minute", "second"))
    digits = fields["fraction"].fill_null("").str.pad_end(9, "0").cast(pl.Int64).to_numpy()
    fits = (minute < 60) & (second < 60)
    if day:
        half = fields["half"].str.to_lowercase().fill_null("").to_numpy()
        twelve = half != ""
        fits &= ~twelve | ((hour >= 1) & (hour <= 12))
        hour = np.where(twelve, hour % 12 + 12 * (half == "pm"), hour)
        fits &= (hour < 24) | ((hour == 24) & (minute == 0) & (second == 0) & (digits == 0))
    micro = ((hour * 60 + minute) * 60 + second) * 1_000_000 + (digits + 500) // 1000
    if day:
        sign = np.where(fields["sign"].fill_null("").to_numpy() == "-", -1, 1)
        zone = sum(
            np.maximum(numbers[name], 0) * size
            for name, size in (("zone_hour", 60), ("zone_minute", 1))
        )
        micro = micro - sign * zone * 60_000_000
    return micro, fits


def _calendar(
    year: np.ndarray, month: np.ndarray, day: np.ndarray, clock: np.ndarray, matched: np.ndarray
) -> np.ndarray:
    """datetime64[us] of the dates, NaT where there is no such day."""
    fits = matched & (month >= 1) & (month <= 12) & (day >= 1) & (year >= 1)
    months = np.where(fits, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    first = months.astype("datetime64[D]")
    length = ((months + 1).astype("datetime64[D]") - first).astype(np.int64)
    fits &= day <= length
    days = first + np.where(fits, day - 1, 0).astype("timedelta64[D]")
    stamps = days.astype("datetime64[us]") + np.where(fits, clock, 0).astype("timedelta64[us]")
    stamps[~fits] = np.datetime64("NaT")
    return stamps
