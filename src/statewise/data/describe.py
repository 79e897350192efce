"""What a data file holds, before anyone decides what to do with it."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from typing import Any

import numpy as np

from statewise._errors import DataError
from statewise.data.archive import HEADER, archive_parts
from statewise.data.arrayfile import Arrays, channel_arrays, interval_of
from statewise.data.arrays import safe_scale
from statewise.data.build import resolve_axes
from statewise.data.cells import MISSING, cast_numbers
from statewise.data.dates import parse_stamps
from statewise.data.files import open_file
from statewise.data.rawfile import named
from statewise.data.roles import is_input, is_output, time_unit_of
from statewise.data.table import Choice, Column, Table
from statewise.data.timeaxis import SECONDS, canonical_unit, show_stamp


@dataclasses.dataclass(frozen=True)
class ColumnDescription:
    """One column: what it holds, and its range.

    Attributes:
        name: name of the column or channel.
        kind: "number", "date", "text" or "other".
        unit: its unit, "" where unknown.
        missing: number of missing values.
        minimum: smallest value; a date as text; None where there is none.
        maximum: largest value.
        mean: mean of the observed numbers.
        problem: what keeps the column from being used as a signal, "" when nothing does.
    """

    name: str
    kind: str
    unit: str = ""
    missing: int = 0
    minimum: float | str | None = None
    maximum: float | str | None = None
    mean: float | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class FileDescription:
    """What :func:`describe_file` found.

    Attributes:
        path: the file.
        format: "text", "parquet", "npz", "mat" or "statewise" (written by ``to_npz``).
        rows: rows of data (samples of all records in an NPZ or MAT file).
        columns: the columns in the order of the file.
        time: name of the time column that was recognised, or None.
        dt: sampling interval in ``time_unit`` when even, or None.
        time_unit: unit of time, or "".
        start: calendar time of the first row as text, or None.
        sampling: one sentence about the time axis.
        inputs: suggested input columns.
        outputs: suggested output columns.
        notes: sentences about what is unclear or wrong.
    """

    path: str
    format: str
    rows: int
    columns: tuple[ColumnDescription, ...]
    time: str | None = None
    dt: float | None = None
    time_unit: str = ""
    start: str | None = None
    sampling: str = "no time axis found; pass dt or time"
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The description as values for JSON."""
        return dataclasses.asdict(self)


def describe_file(
    path: str | os.PathLike[str], *, separator: str | None = None, decimal: str | None = None
) -> FileDescription:
    """Describe the columns, time axis and likely roles in a data file.

    Args:
        path: any file that ``Experiments.from_file`` reads.
        separator: separator of a text file, when it is not found right.
        decimal: decimal mark of a text file, when it is not found right.

    Returns:
        The description. Columns that cannot be used are described, too, with their problem.

    Raises:
        DataError: a file that cannot be read at all.
    """
    kind, content = open_file(path, separator=separator, decimal=decimal)
    if isinstance(content, Table):
        return _describe_table(os.fspath(path), kind, content)
    if HEADER in content:
        return _describe_archive(os.fspath(path), content)
    return _describe_arrays(os.fspath(path), kind, content)


def _describe_table(path: str, kind: str, table: Table) -> FileDescription:
    from statewise.data.timecolumn import read_time

    notes: list[str] = []
    rows = [np.arange(table.rows)]
    record = None
    if {"unique_id", "ds", "y"} <= {*table.names}:
        record = table.find("unique_id")
        rows = [group for _, group in table.groups(record)]
        notes.append("long frame (unique_id, ds, y): one record for each unique_id")
    index: tuple[int, ...] = ()
    found: dict[str, Any] = {}
    try:
        index, stamps = read_time(table, Choice(), rows, {record})
        if stamps is not None:
            column = table.columns[index[0]]
            found = _sampling(stamps, rows, canonical_unit(column.unit), column.name)
            found["time"] = " ".join(table.columns[i].name for i in index)
    except DataError as error:
        notes.append(str(error))
    columns = tuple(_column(table, i, i in index) for i in range(len(table.columns)))
    usable = [
        c.name
        for i, c in enumerate(columns)
        if c.kind == "number" and not c.problem and i not in index and i != record
    ]
    inputs, outputs, guess = _suggest(usable)
    return FileDescription(
        path=path,
        format=kind,
        rows=table.rows,
        columns=columns,
        inputs=inputs,
        outputs=outputs,
        notes=(*notes, *guess),
        **found,
    )


def _describe_arrays(path: str, kind: str, arrays: Arrays) -> FileDescription:
    channels = channel_arrays(arrays)
    columns = []
    for name, values in channels.items():
        if values.dtype.kind == "M":
            columns.append(_dates(name, "", values, np.isnat(values)))
        else:
            columns.append(_numbers(name, "", values))
    lengths = Counter(len(values) for values in channels.values())
    dt = interval_of(arrays)
    found: dict[str, Any] = {}
    if dt is not None:
        found = {"dt": dt, "time_unit": "s", "sampling": f"even, dt {dt:g} s"}
    inputs, outputs, notes = _suggest([c.name for c in columns if c.kind == "number"])
    skipped = [name for name in arrays if not any(c.startswith(name) for c in channels)]
    if skipped:
        notes = (*notes, f"no signals: {', '.join(skipped[:10])}")
    return FileDescription(
        path=path,
        format=kind,
        rows=lengths.most_common(1)[0][0] if lengths else 0,
        columns=tuple(columns),
        inputs=inputs,
        outputs=outputs,
        notes=notes,
        **found,
    )


def _describe_archive(path: str, arrays: Arrays) -> FileDescription:
    from statewise.data.experiments import Experiments

    data = Experiments(**archive_parts(arrays, named(path)))
    columns = []
    for names, units, key in (
        (data.input_names, data.input_units, "u"),
        (data.output_names, data.output_units, "y"),
    ):
        for i, (name, unit) in enumerate(zip(names, units, strict=True)):
            whole = np.concatenate([getattr(record, key)[:, i] for record in data])
            columns.append(_numbers(name, unit, whole))
    even = data.dt is not None
    return FileDescription(
        path=path,
        format="statewise",
        rows=data.n_samples,
        columns=tuple(columns),
        dt=data.dt,
        time_unit=data.time_unit,
        sampling=f"even, dt {data.dt:g} {data.time_unit}" if even else "uneven or unknown",
        inputs=data.input_names,
        outputs=data.output_names,
        notes=(f"{len(data)} record(s)",),
    )


def _sampling(stamps: np.ndarray, groups: list[np.ndarray], unit: str, name: str) -> dict[str, Any]:
    known = unit if unit in SECONDS else time_unit_of(name)
    axes, chosen = resolve_axes(
        [stamps[rows] for rows in groups],
        [None] * len(groups),
        None if stamps.dtype.kind in "Mm" else known,
    )
    chosen = chosen or "s"
    first = axes[0]
    start = None if first.start is None else show_stamp(first.start)
    found: dict[str, Any] = {"time_unit": chosen, "start": start}
    intervals = {axis.dt for axis in axes}
    if len(intervals) == 1 and first.dt is not None:
        return found | {"dt": first.dt, "sampling": f"even, dt {first.dt:g} {chosen}"}
    steps = np.concatenate(
        [np.diff(axis.t) if axis.t is not None else [axis.dt or np.nan] for axis in axes]
    )
    steps = steps[~np.isnan(steps)]
    if not len(steps):
        return found | {"sampling": "one stamp in each record"}
    low, middle, high = (float(f(steps)) for f in (np.min, np.median, np.max))
    share = float(np.mean(np.abs(steps - middle) <= 1e-6 * middle))
    return found | {
        "sampling": (
            f"uneven, steps {low:g} to {high:g} {chosen}, median {middle:g} {chosen} "
            f"({100 * share:.1f} % of the steps)"
        )
    }


def _column(table: Table, index: int, is_time: bool) -> ColumnDescription:
    column = table.columns[index]
    name, unit = column.name, column.unit
    if column.other:
        return ColumnDescription(name, "other", unit, problem=f"holds {column.other}")
    if not column.is_text and column.values.dtype.kind in "Mm":
        return _dates(name, unit, np.asarray(column.values), np.isnat(column.values))
    if column.is_text:
        stamps = parse_stamps(column.values, None)
        if stamps is not None and 2 * len(stamps.bad) <= table.rows:
            if stamps.values.dtype.kind == "f":
                return _numbers(name, "s", stamps.values, "time of day" * (not is_time))
            absent = np.isnat(stamps.values)
            if is_time and stamps.other is not None:
                # The reading that was chosen is told by the start; the range needs it, too.
                increasing = bool((np.diff(stamps.values) > np.timedelta64(0)).all())
                return _dates(name, unit, stamps.values if increasing else stamps.other, absent)
            return _dates(name, unit, stamps.values, absent)
        return _text(table, column, name, unit)
    return _numbers(name, unit, np.asarray(column.values, dtype=np.float64))


def _text(table: Table, column: Column, name: str, unit: str) -> ColumnDescription:
    cast = cast_numbers(column.values, table.decimal)  # type: ignore[arg-type]
    numbers = np.isfinite(cast.values).sum()
    if len(cast.bad) > numbers or not numbers:
        cells = column.values.fill_null("").str.to_lowercase()  # type: ignore[union-attr]
        missing = int(cells.is_in(list(MISSING)).sum())
        kind = "number" if missing == table.rows else "text"
        return ColumnDescription(
            name, kind, unit, missing, problem="" if kind == "text" else "holds no value"
        )
    problem = ""
    if len(cast.bad):
        row = int(cast.bad[0])
        problem = f"has the text {str(column.values[row])[:40]!r} at {table.where(row)}"
    description = _numbers(name, unit, cast.values, problem)
    return dataclasses.replace(description, missing=description.missing - len(cast.bad))


def _numbers(name: str, unit: str, values: np.ndarray, problem: str = "") -> ColumnDescription:
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    if np.isinf(values).any():
        problem = problem or "holds numbers that are infinite or too large"
    missing = int(np.isnan(values).sum())
    if not len(finite):
        return ColumnDescription(name, "number", unit, missing, problem=problem or "holds no value")
    scale = safe_scale(finite)
    return ColumnDescription(
        name,
        "number",
        unit,
        missing,
        float(np.min(finite)),
        float(np.max(finite)),
        float(np.mean(finite / scale)) * scale,
        problem,
    )


def _dates(name: str, unit: str, values: np.ndarray, absent: np.ndarray) -> ColumnDescription:
    seen = values[~absent]
    ends = (show_stamp(seen.min()), show_stamp(seen.max())) if len(seen) else (None, None)
    return ColumnDescription(name, "date", unit, int(absent.sum()), *ends)


def _suggest(names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Likely inputs and outputs, and a note when it is a guess."""
    outputs = tuple(name for name in names if is_output(name))
    inputs = tuple(name for name in names if is_input(name))
    if outputs:
        return inputs or tuple(n for n in names if n not in outputs), outputs, ()
    if not names:
        return (), (), ("no column of numbers can serve as input or output",)
    return (
        tuple(names[:-1]),
        (names[-1],),
        ("inputs and outputs are a guess: the last numeric column as output",),
    )
