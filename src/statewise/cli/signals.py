"""Measured and computed outputs as a table: CSV, Parquet or NPZ."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise._files import atomic_write
from statewise.cli.console import UsageError

if TYPE_CHECKING:
    from statewise.data import Experiments, Record
    from statewise.estimators.bands import Bands

FORMATS = (".csv", ".parquet", ".npz")


def check_path(out: str | None) -> Path | None:
    """The path of an output file.

    Raises:
        UsageError: an ending that names no format, or a folder.
    """
    if out is None:
        return None
    path = Path(out).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {out} must end in one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise UsageError(f"--out {out} is a folder; expected a file")
    return path


def signal_columns(
    parts: Mapping[str, Experiments],
    computed: Mapping[str, Sequence[np.ndarray]],
    *,
    word: str,
    names: Sequence[str],
    units: Sequence[str],
) -> dict[str, np.ndarray]:
    """The columns of the table: record, time, measured outputs, computed outputs.

    Args:
        parts: records by the name of their part.
        computed: outputs (L, n_y) of every record.
        word: what the computed outputs are, such as "simulated".
        names: names of the outputs.
        units: their units.

    Returns:
        Columns by name with their unit in brackets; a record column where there are several.
    """
    columns = _measured_columns(parts, names, units)
    outputs = [one for part in parts for one in computed[part]]
    headers = _headers([f"{name} {word}" for name in names], units)
    columns |= dict(zip(headers, np.concatenate(outputs).T, strict=True))
    return columns


def band_columns(
    parts: Mapping[str, Experiments],
    bands: Mapping[str, Sequence[Bands]],
    *,
    names: Sequence[str],
    units: Sequence[str],
) -> dict[str, np.ndarray]:
    """The columns of bands: record, time, measured outputs, then mean, lower, upper of each.

    Args:
        parts: records by the name of their part.
        bands: of every record.
        names: names of the outputs.
        units: their units.

    Returns:
        Columns by name with their unit in brackets; a record column where there are several.
    """
    columns = _measured_columns(parts, names, units)
    words = ("mean", "lower", "upper")
    found = [one for part in parts for one in bands[part]]
    ends = [np.concatenate([getattr(one, word) for one in found]) for word in words]
    for index, (name, unit) in enumerate(zip(names, units, strict=True)):
        headers = _headers([f"{name} {word}" for word in words], [unit] * len(words))
        columns |= {h: values[:, index] for h, values in zip(headers, ends, strict=True)}
    return columns


def _measured_columns(
    parts: Mapping[str, Experiments], names: Sequence[str], units: Sequence[str]
) -> dict[str, np.ndarray]:
    """Names of the records where there are several, time, and outputs that are measured."""
    records = [(part, index, one) for part, exps in parts.items() for index, one in enumerate(exps)]
    columns: dict[str, np.ndarray] = {}
    if len(records) > 1:
        labels = [
            np.full(len(record), record_label(part, index, record, len(parts)), dtype=object)
            for part, index, record in records
        ]
        columns["record"] = np.concatenate(labels)
    columns |= _time([record for _, _, record in records])
    measured = np.concatenate([record.y for _, _, record in records])
    if measured.shape[1]:
        found = zip(_headers(names, units), measured.T, strict=True)
        columns |= {header: values for header, values in found if np.isfinite(values).any()}
    return columns


def record_columns(experiments: Experiments) -> dict[str, np.ndarray]:
    """The columns of one measured record: time, inputs, outputs, with their units in brackets."""
    (record,) = experiments
    columns = _time([record])
    if record.u is not None:
        headers = _headers(experiments.input_names, experiments.input_units)
        columns |= dict(zip(headers, record.u.T, strict=True))
    headers = _headers(experiments.output_names, experiments.output_units)
    return columns | dict(zip(headers, record.y.T, strict=True))


def write_columns(columns: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the table; the file is the whole one or is not there.

    Args:
        columns: columns of equal length.
        path: ends in one of ``FORMATS``.
    """
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".npz":
            arrays = {
                name: values.astype(str) if values.dtype == object else values
                for name, values in columns.items()
            }
            with temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
        elif path.suffix.lower() == ".parquet":
            _frame(columns).write_parquet(temporary)
        else:
            temporary.write_text(_csv(columns), encoding="utf-8")


def print_columns(columns: Mapping[str, np.ndarray]) -> None:
    """Write the table as CSV on standard output."""
    sys.stdout.write(_csv(columns))
    sys.stdout.flush()


def _csv(columns: Mapping[str, np.ndarray]) -> str:
    return _frame(columns).write_csv()


def _frame(columns: Mapping[str, np.ndarray]) -> Any:
    import polars as pl

    series = []
    for name, values in columns.items():
        if values.dtype == object:
            series.append(pl.Series(name, values.tolist(), dtype=pl.String))
        elif values.dtype.kind == "M":
            stamps = pl.Series(name, values.astype("datetime64[us]"))
            series.append(stamps.dt.date() if _whole_days(values) else stamps)
        else:
            series.append(pl.Series(name, values).fill_nan(None))
    return pl.DataFrame(series)


def _headers(names: Sequence[str], units: Sequence[str]) -> list[str]:
    return [f"{name} [{unit}]" if unit else name for name, unit in zip(names, units, strict=True)]


def _whole_days(values: np.ndarray) -> bool:
    return bool((values.astype("datetime64[D]") == values).all())


def record_label(part: str, index: int, record: Record, n_parts: int) -> str:
    """What a record is called beside others."""
    own = record.name or str(index + 1)
    return own if n_parts == 1 or own == part else f"{part} {own}"


def _time(records: Sequence[Record]) -> dict[str, np.ndarray]:
    dates = [record.dates() for record in records]
    if all(one is not None for one in dates):
        return {"time": np.concatenate(dates)}  # type: ignore[arg-type]
    timed = all(record.t is not None or record.dt is not None for record in records)
    if not timed:
        return {"sample": np.concatenate([record.times() for record in records]).astype(np.int64)}
    unit = records[0].time_unit
    name = f"time [{unit}]" if unit else "time"
    return {name: np.concatenate([record.times() for record in records])}
