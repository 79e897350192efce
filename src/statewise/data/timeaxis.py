"""Time axes: units, even or uneven sampling, calendar stamps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from statewise._errors import DataError

#: Seconds in one of each time unit that can be tied to a calendar.
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

_SPELLINGS = {
    "µs": "us", "μs": "us", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "msec": "ms", "millisecond": "ms", "milliseconds": "ms", "microseconds": "us",
    "mins": "min", "minute": "min", "minutes": "min", "hr": "h", "hrs": "h", "hour": "h",
    "hours": "h", "day": "d", "days": "d",
}  # fmt: skip

#: A step may differ from the nominal one by this share and still count as equal.
EVEN_TOLERANCE = 1e-6
#: Stamps rounded to a resolution of at most this share of the step still count as even.
ROUNDING_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class Axis:
    """The time axis of one record, as the fields of a record hold it."""

    t: np.ndarray | None = None
    dt: float | None = None
    t0: float = 0.0
    start: np.datetime64 | None = None


def canonical_unit(unit: str) -> str:
    """The short name of a time unit ("seconds" -> "s"); unknown units come back unchanged."""
    text = unit.strip()
    low = text.lower()
    return low if low in SECONDS else _SPELLINGS.get(low, text)


def even_step(t: np.ndarray, resolution: float = 0.0) -> float | None:
    """The sampling interval of ``t`` when it is evenly sampled.

    Even means max_k |t_k − (t_0 + k dt)| ≤ 1e-6 dt + rounding error of the stamps. The rounding
    error is that of float64, or ``resolution``, or that of the decimals to which all stamps are
    rounded, the last two only when at most 1 % of the step.

    Args:
        t: (L,) strictly increasing.
        resolution: known rounding of the stamps, such as that of float32 storage.

    Returns:
        The interval, or None when uneven or L < 2.
    """
    if len(t) < 2:
        return None
    dt = (float(t[-1]) - float(t[0])) / (len(t) - 1)
    if not 1e-290 < dt < 1e290:
        return None
    k = np.arange(len(t))
    deviation = float(np.max(np.abs(t - (t[0] + dt * k))))
    ulp = 8 * np.finfo(np.float64).eps * max(abs(float(t[0])), abs(float(t[-1])))
    tolerance = EVEN_TOLERANCE * dt + ulp
    if resolution <= ROUNDING_SHARE * dt:
        tolerance += resolution
    if deviation > tolerance:
        rounding = _decimal_resolution(t, ROUNDING_SHARE * dt, ulp)
        if rounding is None or deviation > rounding + ulp:
            return None
    for digits in range(1, 16):
        short = float(f"{dt:.{digits}g}")
        if abs(short - dt) * (len(t) - 1) <= 1e-9 * dt + ulp:
            return short
    return dt


def _decimal_resolution(t: np.ndarray, largest: float, ulp: float) -> float | None:
    """The coarsest power of ten ≤ ``largest`` of which all of ``t`` are multiples."""
    first = -math.floor(math.log10(largest))
    for power in range(first, first + 8):
        unit = 10.0**-power
        scaled = t / unit
        if float(np.max(np.abs(scaled - np.round(scaled)))) * unit <= ulp + 1e-9 * unit:
            return unit
    return None


def check_increasing(
    values: np.ndarray, what: str, where: Callable[[int], str], show: Callable[[int], str]
) -> None:
    """Refuse a time axis that repeats, goes backwards or runs in reverse.

    Args:
        values: (L,) numbers or datetime64 without missing ones.
        what: how the message calls the axis.
        where: row index -> place, such as "line 7".
        show: row index -> the stamp as text.

    Raises:
        DataError: the first offending row.
    """
    if len(values) < 2:
        return
    later = values[1:] > values[:-1]
    if later.all():
        return
    if len(values) > 2 and (values[1:] < values[:-1]).all():
        raise DataError(
            f"{what} runs backwards from {where(0)} ({show(0)}) to {where(len(values) - 1)} "
            f"({show(len(values) - 1)}); sort the rows so that time increases"
        )
    row = int(np.argmin(later)) + 1
    if values[row] == values[row - 1]:
        raise DataError(
            f"{what} repeats the time stamp {show(row)} at {where(row)} (also at "
            f"{where(row - 1)}); expected strictly increasing time stamps"
        )
    raise DataError(
        f"{what} goes backwards at {where(row)}: {show(row)} after {show(row - 1)}; expected "
        "strictly increasing time stamps"
    )


def calendar_unit(stamps: Sequence[np.ndarray]) -> str:
    """The unit, of s, min, h and d, that suits the median step of all ``stamps``."""
    steps = [np.diff(s) / np.timedelta64(1, "s") for s in stamps if len(s) > 1]
    if not steps:
        return "s"
    median = float(np.median(np.concatenate(steps))) * (1 + EVEN_TOLERANCE)
    return next((unit for unit in ("d", "h", "min") if median >= SECONDS[unit]), "s")


def fine_stamps(stamps: np.ndarray) -> np.ndarray:
    """``stamps`` as datetime64[us], or [ns] and finer where they came so."""
    unit = np.datetime_data(stamps.dtype)[0]
    return stamps if unit in ("us", "ns", "ps", "fs", "as") else stamps.astype("datetime64[us]")


def numeric_axis(t: np.ndarray, resolution: float = 0.0) -> Axis:
    """The axis of increasing numbers ``t`` (L,)."""
    dt = even_step(t, resolution)
    if dt is not None or len(t) == 1:
        return Axis(dt=dt, t0=float(t[0]))
    return Axis(t=t, t0=float(t[0]))


def calendar_axis(stamps: np.ndarray, unit: str) -> Axis:
    """The axis of increasing datetime64 ``stamps`` (L,), as time since the first in ``unit``."""
    seconds = (stamps - stamps[0]) / np.timedelta64(1, "s")
    # Dividing by the unit in whole microseconds keeps days and hours exact.
    t = seconds if unit == "s" else seconds / SECONDS[unit]
    axis = numeric_axis(t)
    return dataclasses.replace(axis, start=stamps[0])


def show_stamp(value: Any) -> str:
    """A time stamp as short text, for messages."""
    if isinstance(value, np.datetime64):
        text = np.datetime_as_string(value, unit="us").replace("T", " ")
        return text.removesuffix(".000000").removesuffix(" 00:00:00")
    if isinstance(value, np.timedelta64):
        return f"{value / np.timedelta64(1, 's'):.15g} s"
    return f"{float(value):.15g}"
