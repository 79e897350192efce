"""Channels and time shared by all records of a set: names, units, nominal interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise._errors import DataError
from statewise.data.record import Record
from statewise.data.suggest import find_name
from statewise.data.timeaxis import EVEN_TOLERANCE, canonical_unit

if TYPE_CHECKING:
    from statewise.data.experiments import Experiments


_META = ("input_names", "output_names", "input_units", "output_units", "time_unit")


def checked_fields(
    records: Record | Iterable[Record],
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    input_units: Sequence[str] | None,
    output_units: Sequence[str] | None,
    time_unit: str | None,
) -> dict[str, Any]:
    """The fields of ``Experiments`` from what its caller gave, all checked and filled in.

    Raises:
        DataError: what does not go together.
    """
    items = checked_records(records)
    names_u = labels(input_names, items[0].n_u, "u", "input_names")
    names_y = labels(output_names, items[0].n_y, "y", "output_names")
    both = sorted(set(names_u) & set(names_y))
    if both:
        raise DataError(f"the name {both[0]!r} is given to an input and to an output")
    unit, nominal = common_time_unit(items, time_unit), common_nominal(items)
    return {
        "records": tuple(r.with_fields(time_unit=unit, nominal_dt=nominal) for r in items),
        "input_names": names_u,
        "output_names": names_y,
        "input_units": labels(input_units, items[0].n_u, None, "input_units"),
        "output_units": labels(output_units, items[0].n_y, None, "output_units"),
        "time_unit": unit,
    }


def check_same_meta(parts: Sequence[Experiments]) -> None:
    """Refuse parts that differ in names, units or time unit.

    Raises:
        DataError: no parts, or the first that differs, and in what.
    """
    if not parts:
        raise DataError("concat needs at least one part, and none was given")
    for index, part in enumerate(parts):
        for key in _META:
            if getattr(part, key) != getattr(parts[0], key):
                raise DataError(
                    f"part {index} has {key.replace('_', ' ')} {getattr(part, key)} and part 0 "
                    f"has {getattr(parts[0], key)}; expected the same"
                )


def summary(experiments: Experiments) -> str:
    """One line: how many records and samples, channels, sampling."""
    count = len(experiments)
    samples = f"{experiments.n_samples:,}".replace(",", " ")
    inputs = f"inputs: {_some(experiments.input_names)}" if experiments.n_u else "no inputs"
    parts = [
        f"{count} record{'' if count == 1 else 's'}, {samples} samples, {inputs}",
        f"outputs: {_some(experiments.output_names)}",
    ]
    if experiments.dt is not None:
        parts.append(f"dt {experiments.dt:g} {experiments.time_unit}")
    elif any(r.t is not None or r.dt is not None for r in experiments):
        parts.append(f"uneven time in {experiments.time_unit}")
    return f"Experiments({'; '.join(parts)})"


def checked_records(records: Record | Iterable[Record]) -> tuple[Record, ...]:
    """The records as a tuple, with the same channels in all.

    Raises:
        DataError: no record, or records that differ; the message names the record and how.
        TypeError: something other than records.
    """
    items = (records,) if isinstance(records, Record) else tuple(records)
    if not items:
        raise DataError("experiments need at least one record, and none was given")
    for index, item in enumerate(items):
        if not isinstance(item, Record):
            raise TypeError(f"expected Record objects, got {type(item).__name__}")
        for what in ("n_u", "n_y"):
            ours, first = getattr(item, what), getattr(items[0], what)
            if ours != first:
                kind = "inputs" if what == "n_u" else "outputs"
                name = f" ({item.name!r})" if item.name else ""
                raise DataError(
                    f"record {index}{name} has {ours} {kind} and record 0 has {first}; all "
                    "records must have the same channels"
                )
    return items


def labels(
    given: Sequence[str] | None, count: int, default: str | None, what: str
) -> tuple[str, ...]:
    """Names or units of ``count`` channels.

    Args:
        given: what the caller gave, one for each channel; None or empty = default.
        count: number of channels.
        default: stem of default names, which must be distinct; None for units.
        what: how messages call them.

    Raises:
        DataError: another number of them, or repeated or empty names.
    """
    if isinstance(given, str):
        given = (given,)
    if not given:
        if default is None:
            return ("",) * count
        return (default,) if count == 1 else tuple(f"{default}{i + 1}" for i in range(count))
    result = tuple(str(name) for name in given)
    if len(result) != count:
        raise DataError(f"{what} has {len(result)} entries for {count} channels: {list(result)}")
    if default is not None:
        if len(set(result)) < count:
            twice = next(name for name in result if result.count(name) > 1)
            raise DataError(f"{what} has {twice!r} more than once; expected distinct names")
        if "" in result:
            raise DataError(f"{what} has an empty name: {list(result)}")
    return result


def common_time_unit(records: Sequence[Record], given: str | None) -> str:
    """The time unit of all records.

    Raises:
        DataError: records with different units, or another unit than the one given.
    """
    known = any(r.t is not None or r.dt is not None for r in records)
    units = {r.time_unit for r in records} - {""}
    unit = canonical_unit(given) if given else ""
    if unit:
        units.add(unit)
    if len(units) > 1:
        raise DataError(
            f"the records have different time units ({', '.join(sorted(units))}); convert them to "
            "one unit first"
        )
    return next(iter(units), "s" if known else "samples")


def common_nominal(records: Sequence[Record]) -> float | None:
    """The interval that counts as one step in all records: theirs, or the median step."""
    given = {r.nominal_dt for r in records} - {None}
    if len(given) == 1:
        return given.pop()
    intervals = {r.dt for r in records if r.dt is not None}
    if len(intervals) == 1 and all(r.t is None for r in records):
        return intervals.pop()
    steps = [
        np.diff(r.t) if r.t is not None else np.full(max(len(r) - 1, 1), r.dt)
        for r in records
        if r.t is not None or r.dt is not None
    ]
    return float(np.median(np.concatenate(steps))) if steps else None


def common_dt(records: Sequence[Record]) -> float | None:
    """The sampling interval when all records have the same one, else None."""
    first = records[0].dt
    if first is None:
        return None
    same = all(r.dt is not None and abs(r.dt - first) <= EVEN_TOLERANCE * first for r in records)
    return first if same else None


def select(
    experiments: Experiments,
    inputs: str | int | Sequence[str | int] | None,
    outputs: str | int | Sequence[str | int] | None,
) -> dict[str, Any]:
    """Arguments of the ``Experiments`` with some of the channels of ``experiments``."""
    keep_u = _positions(inputs, experiments.input_names, "input")
    keep_y = _positions(outputs, experiments.output_names, "output")
    if not keep_u and not keep_y:
        raise DataError("select keeps neither inputs nor outputs; expected at least one channel")
    records = [_pick(record, keep_u, keep_y) for record in experiments]
    return {
        "records": records,
        "input_names": [experiments.input_names[i] for i in keep_u],
        "output_names": [experiments.output_names[i] for i in keep_y],
        "input_units": [experiments.input_units[i] for i in keep_u],
        "output_units": [experiments.output_units[i] for i in keep_y],
        "time_unit": experiments.time_unit,
    }


def _some(names: Sequence[str], limit: int = 6) -> str:
    """Names in a row, the tail of a long list as its count."""
    if len(names) <= limit:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:limit])}, … ({len(names)})"


def _positions(
    wanted: str | int | Sequence[str | int] | None, names: Sequence[str], kind: str
) -> list[int]:
    if wanted is None:
        return list(range(len(names)))
    if isinstance(wanted, str | int):
        wanted = [wanted]
    found = [find_name(key, names, kind, "the experiments") for key in wanted]
    for index in found:
        if found.count(index) > 1:
            raise DataError(f"the {kind} {names[index]!r} is selected more than once")
    return found


def _pick(record: Record, keep_u: list[int], keep_y: list[int]) -> Record:
    def columns(array: np.ndarray | None, keep: list[int]) -> np.ndarray | None:
        return None if array is None else array[:, keep]

    return Record(
        y=record.y[:, keep_y],
        u=columns(record.u, keep_u) if keep_u else None,
        t=record.t,
        dt=record.dt,
        name=record.name,
        start=record.start,
        skip=record.skip,
        time_unit=record.time_unit,
        t0=record.t0,
        nominal_dt=record.nominal_dt,
    )
