"""The time column of a table: found by name, read as calendar stamps or numbers, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from statewise._errors import DataError
from statewise.data.cells import cast_numbers
from statewise.data.dates import EXPECTED, parse_stamps
from statewise.data.roles import DATE_NAMES, is_time, runs_like_time
from statewise.data.timeaxis import check_increasing, show_stamp

if TYPE_CHECKING:
    from statewise.data.table import Choice, Column, Table


def read_time(
    table: Table, choice: Choice, groups: Sequence[np.ndarray], used: set[int | None]
) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Read the time column that is asked for, or look for one.

    Args:
        table: the table.
        choice: its ``time``, ``dt``, ``time_unit`` and ``day_first`` count here.
        groups: rows of each record; time must increase within each.
        used: positions of columns that serve otherwise.

    Returns:
        Positions of the columns that hold time, and numbers or datetime64 of all rows; () and
        None without time.

    Raises:
        DataError: stamps that are missing, cannot be read or do not increase.
    """
    if choice.time is False or choice.dt is not None:
        return (), None
    if choice.time is not None:
        index = table.find(choice.time)
        return (index,), _stamps(table, table.columns[index], choice, groups)
    candidates = [
        i for i, column in enumerate(table.columns) if i not in used and is_time(column.name)
    ]
    try:
        pair = _date_and_clock(table, candidates)
        if pair is not None:
            return pair[0], _stamps(table, pair[1], choice, groups)
        for i in candidates:
            if _looks_like_time(table, table.columns[i], groups):
                return (i,), _stamps(table, table.columns[i], choice, groups)
    except DataError as error:
        raise DataError(
            f"{error}; pass time=False to do without a time column, or time=NAME for another one"
        ) from None
    return (), None


def _looks_like_time(table: Table, column: Column, groups: Sequence[np.ndarray]) -> bool:
    if column.other:
        return False
    if isinstance(column.values, np.ndarray):
        kind = column.values.dtype.kind
        if kind in "Mm":
            return True
        if kind == "b":
            return False
        numbers = column.values.astype(np.float64)
    else:
        stamps = parse_stamps(column.values, None)
        if stamps is not None:
            return 2 * (len(stamps.bad) + len(stamps.missing)) <= table.rows
        cast = cast_numbers(column.values, table.decimal)
        if 2 * len(cast.bad) >= table.rows:
            return False
        numbers = cast.values
    return not np.isnan(numbers).all() and all(
        runs_like_time(column.name, numbers[rows]) for rows in groups
    )


def _date_and_clock(
    table: Table, candidates: Sequence[int]
) -> tuple[tuple[int, int], Column] | None:
    """A date and a time of day in two columns, as one column of text."""
    names = {table.columns[i].name.casefold(): i for i in candidates}
    date = next((names[n] for n in ("date", "datum") if n in names), None)
    clock = next((names[n] for n in ("time", "zeit") if n in names), None)
    if date is None or clock is None:
        return None
    days, hours = table.columns[date].values, table.columns[clock].values
    if isinstance(days, np.ndarray) or isinstance(hours, np.ndarray):
        return None
    read_days, read_hours = parse_stamps(days, None), parse_stamps(hours, None)
    if read_days is None or read_days.values.dtype.kind != "M" or days.str.contains(":").any():
        return None
    if read_hours is None or read_hours.values.dtype.kind == "M":
        return None
    name = f"{table.columns[date].name} {table.columns[clock].name}"
    joined = dataclasses.replace(table.columns[date], name=name, values=days + " " + hours)
    return (date, clock), joined


def _stamps(
    table: Table, column: Column, choice: Choice, groups: Sequence[np.ndarray]
) -> np.ndarray:
    """Stamps of all rows, strictly increasing within each group."""
    what = f"time column {column.name!r} of {table.source}"
    values = _parsed(table, column, choice, groups, what)
    bad = np.isnat(values) if values.dtype.kind in "Mm" else ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        infinite = values.dtype.kind == "f" and np.isinf(values[row])
        raise DataError(
            f"{what} {'is infinite' if infinite else 'is empty'} at {table.where(row)}; expected "
            "a time stamp in each row"
        )
    for rows in groups:
        check_increasing(
            values[rows],
            what,
            lambda i, rows=rows: table.where(int(rows[i])),
            lambda i, rows=rows: show_stamp(values[rows[i]]),
        )
    return values


def _parsed(
    table: Table, column: Column, choice: Choice, groups: Sequence[np.ndarray], what: str
) -> np.ndarray:
    if column.other or (isinstance(column.values, np.ndarray) and column.values.dtype.kind == "b"):
        raise DataError(f"{what} holds {column.other or 'booleans'}; expected time stamps")
    if isinstance(column.values, np.ndarray):
        return _whole_dates(column, column.values)
    stamps = parse_stamps(column.values, choice.day_first)
    if stamps is None:
        cast = cast_numbers(column.values, table.decimal)
        if len(cast.bad):
            row = int(cast.bad[0])
            raise DataError(
                f"{what} has {str(column.values[row])[:40]!r} at {table.where(row)}; expected a "
                f"number or {EXPECTED}"
            )
        return _whole_dates(column, cast.values)
    if len(stamps.bad):
        row = int(stamps.bad[0])
        raise DataError(
            f"{what} has {str(column.values[row])[:40]!r} at {table.where(row)}; expected "
            f"{EXPECTED}, in the form of the rows before"
        )
    if stamps.values.dtype.kind == "f":
        clock = np.full(table.rows, np.timedelta64("NaT", "us"))
        seen = np.isfinite(stamps.values)
        seen[stamps.missing] = False
        clock[seen] = np.round(stamps.values[seen] * 1e6).astype("timedelta64[us]")
        return clock
    if stamps.other is None:
        return stamps.values
    first, second = _runs(stamps.values, groups), _runs(stamps.other, groups)
    if first == second:
        raise DataError(
            f"{what} has {column.values[0]!r} at {table.where(0)}, and its order of rows does not "
            "tell whether the day or the month comes first; pass day_first=True or "
            "day_first=False"
        )
    return stamps.values if first else stamps.other


def _runs(values: np.ndarray, groups: Sequence[np.ndarray]) -> bool:
    return all(bool((np.diff(values[rows]) >= np.timedelta64(0)).all()) for rows in groups)


def _whole_dates(column: Column, values: np.ndarray) -> np.ndarray:
    """Numbers as they are; whole numbers such as 20200131 under a date's name as dates."""
    if column.name.casefold() not in DATE_NAMES or values.dtype.kind not in "iuf":
        return values
    numbers = values.astype(np.float64)
    within = (numbers >= 15000101) & (numbers < 25000000)
    if not within.all() or (numbers % 1 != 0).any():
        return values
    import polars as pl

    stamps = parse_stamps(
        pl.Series(
            [f"{n // 10000:04d}-{n // 100 % 100:02d}-{n % 100:02d}" for n in map(int, values)]
        ),
        None,
    )
    return values if stamps is None or len(stamps.bad) else stamps.values
