"""From arrays, or selected columns, to records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from statewise._errors import DataError
from statewise.data.arrays import as_array, as_signal, split_records
from statewise.data.record import Record
from statewise.data.timeaxis import (
    SECONDS,
    Axis,
    calendar_axis,
    calendar_unit,
    canonical_unit,
    check_increasing,
    fine_stamps,
    numeric_axis,
    show_stamp,
)


def from_arrays(
    u: Any,
    y: Any,
    *,
    t: Any,
    dt: float | Sequence[float] | None,
    u_mask: Any = None,
    y_mask: Any = None,
    time_unit: str | None = None,
    names: Sequence[str] | None = None,
    skip: int = 0,
) -> tuple[list[Record], str | None]:
    """Records and time unit from arrays; see ``Experiments.from_arrays``."""
    if y is None and u is None:
        raise DataError("u and y are both None; expected at least the outputs y")
    if t is not None and dt is not None:
        raise ValueError("t and dt are both given; give the time stamps or the interval")
    many_u, many_y = split_records(u, "u"), split_records(y, "y")
    if y is None:
        many_y = None if many_u is None else [None] * len(many_u)
    if u is None:
        many_u = None if many_y is None else [None] * len(many_y)
    if (many_u is None) != (many_y is None) or len(many_u or ()) != len(many_y or ()):
        raise DataError(
            f"u holds {_amount(many_u)} and y holds {_amount(many_y)}; expected equally many"
        )
    single = many_y is None
    list_u, list_y = ([u], [y]) if single else (many_u or [], many_y or [])
    count = len(list_y)
    labels = _each(names, count, "names", single=False, cast=str) if names is not None else None
    pairs = []
    for i, (one_u, one_y) in enumerate(zip(list_u, list_y, strict=True)):
        where = "" if count == 1 else f" of record {i}"
        signal_u = None if one_u is None else as_signal(one_u, f"u{where}")
        if one_y is None:
            signal_y = np.empty((0 if signal_u is None else len(signal_u), 0))
        else:
            signal_y = as_signal(one_y, f"y{where}")
        _check_lengths(signal_u, signal_y, where)
        pairs.append((signal_u, signal_y))
    stamps = _stamps(t, [len(pair[1]) for pair in pairs], single)
    intervals = _each(dt, count, "dt", single=not isinstance(dt, Sequence | np.ndarray), cast=float)
    axes, unit = resolve_axes(stamps, intervals, time_unit)
    masks_u, masks_y = _masks(u_mask, count, "u_mask"), _masks(y_mask, count, "y_mask")
    records = [
        Record(
            y=pairs[i][1],
            u=pairs[i][0],
            t=axes[i].t,
            dt=axes[i].dt,
            y_mask=masks_y[i],
            u_mask=masks_u[i],
            name=labels[i] if labels else "",
            start=axes[i].start,
            skip=skip,
            t0=axes[i].t0,
        )
        for i in range(count)
    ]
    return records, unit


def resolve_axes(
    stamps: Sequence[np.ndarray | None],
    intervals: Sequence[float | None],
    time_unit: str | None,
) -> tuple[list[Axis], str | None]:
    """Time axes of all records, in one unit.

    Args:
        stamps: strictly increasing numbers, datetime64 or timedelta64 of each record, or None.
        intervals: sampling interval of each record without stamps, or None.
        time_unit: the unit asked for; None = chosen for calendar stamps, else left open.

    Returns:
        The axes and their unit (None = left open).

    Raises:
        DataError: a unit that calendar time cannot be counted in.
    """
    unit = canonical_unit(time_unit) if time_unit else None
    stamps = [fine_stamps(s) if s is not None and s.dtype.kind == "M" else s for s in stamps]
    calendar = [s for s in stamps if s is not None and s.dtype.kind == "M"]
    if calendar:
        unit = unit or calendar_unit(calendar)
        if unit not in SECONDS:
            raise DataError(
                f"time_unit is {time_unit!r}; calendar time can be counted in {', '.join(SECONDS)}"
            )
    axes = []
    for one, dt in zip(stamps, intervals, strict=True):
        if one is None:
            axes.append(Axis(dt=dt))
        elif one.dtype.kind == "M":
            axes.append(calendar_axis(one, unit or "s"))
        elif one.dtype.kind == "m":
            seconds = one / np.timedelta64(1, "s")
            axes.append(numeric_axis(seconds / SECONDS.get(unit or "s", 1.0)))
        else:
            exact = one.dtype.kind != "f"
            coarse = 0.0 if exact else float(np.finfo(one.dtype).eps) * float(np.abs(one).max())
            axes.append(numeric_axis(one.astype(np.float64), coarse))
    return axes, unit


def _stamps(t: Any, lengths: list[int], single: bool) -> list[np.ndarray | None]:
    if t is None:
        return [None] * len(lengths)
    many = None if single else split_records(t, "t")
    given = [t] * len(lengths) if many is None else many
    if len(given) != len(lengths):
        raise DataError(f"t holds {len(given)} time axes for {len(lengths)} records")
    found: list[np.ndarray | None] = []
    for i, (one, length) in enumerate(zip(given, lengths, strict=True)):
        what = "t" if single else f"t of record {i}"
        array = as_array(one, what)
        if array.ndim == 2 and 1 in array.shape:
            array = array.reshape(-1)
        if array.shape != (length,):
            raise DataError(f"{what} has shape {array.shape}; expected ({length},) as the samples")
        if array.dtype.kind == "b":
            raise DataError(f"{what} holds booleans; expected numbers or datetime64")
        bad = np.isnat(array) if array.dtype.kind in "Mm" else ~np.isfinite(array)
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"{what} is {array[row]} at sample {row}; expected a time stamp")
        check_increasing(array, what, lambda k: f"sample {k}", lambda k, a=array: show_stamp(a[k]))
        found.append(array)
    return found


def _check_lengths(u: np.ndarray | None, y: np.ndarray, where: str) -> None:
    if u is None or len(u) == len(y):
        return
    turned = u.shape[1] == len(y) or y.shape[1] == len(u)
    hint = "; one of them looks transposed, expected (samples, channels)" if turned else ""
    raise DataError(
        f"u{where} has shape {u.shape} and y{where} has shape {y.shape}; expected equally many "
        f"samples{hint}"
    )


def _masks(mask: Any, count: int, what: str) -> list[Any]:
    many = split_records(mask, what) if mask is not None else None
    if many is None:
        if mask is not None and count > 1:
            raise DataError(f"{what} holds one mask for {count} records; give a list of masks")
        return [mask] * count
    if len(many) != count:
        raise DataError(f"{what} holds {len(many)} masks for {count} records")
    return many


def _each(value: Any, count: int, what: str, *, single: bool, cast: Any) -> list[Any]:
    """One value for each record, from one for all (``single``) or a sequence."""
    if value is None or single:
        return [None if value is None else cast(value)] * count
    values = [value] if isinstance(value, str) else list(value)
    if len(values) != count:
        raise DataError(f"{what} has {len(values)} entries for {count} records")
    return [cast(one) for one in values]


def _amount(many: list[Any] | None) -> str:
    return "one record" if many is None else f"a list of {len(many)} record(s)"
