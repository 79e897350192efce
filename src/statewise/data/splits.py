"""Cutting records: by time, by record, into windows."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from statewise._errors import DataError
from statewise.data.record import Record


def split_time(
    records: Sequence[Record], fractions: Sequence[float], context: int
) -> list[list[Record]]:
    """Cut each record into contiguous parts; see ``Experiments.split_time``."""
    ends = _cumulative(fractions)
    context = _count(context, "context", 0)
    parts: list[list[Record]] = [[] for _ in ends]
    for index, record in enumerate(records):
        scored = len(record) - record.skip
        bounds = [record.skip + round(end * scored) for end in ends]
        starts = [record.skip, *bounds[:-1]]
        for k, (start, stop) in enumerate(zip(starts, bounds, strict=True)):
            if stop <= start:
                name = f" ({record.name!r})" if record.name else ""
                raise DataError(
                    f"record {index}{name} has {scored} samples to split, too few to give part "
                    f"{k} the share {fractions[k]:g}"
                )
            history = record.skip if k == 0 else min(context, start)
            parts[k].append(record.part(start - history, stop, skip=history))
    return parts


def split_records(
    records: Sequence[Record], sizes: Sequence[float], seed: int | None
) -> list[list[Record]]:
    """Deal out whole records; see ``Experiments.split_records``."""
    total = len(records)
    if not sizes:
        raise ValueError("split_records needs at least one size")
    if all(isinstance(size, int | np.integer) for size in sizes):
        if any(size < 1 for size in sizes):
            raise ValueError(f"sizes are {list(sizes)}; expected positive counts")
        bounds = [int(end) for end in np.cumsum(sizes)]
        if bounds[-1] > total:
            raise ValueError(f"sizes {list(sizes)} ask for {bounds[-1]} records of {total}")
    else:
        bounds = [round(end * total) for end in _cumulative(sizes)]
    order = np.arange(total) if seed is None else np.random.default_rng(seed).permutation(total)
    parts = []
    for k, (start, stop) in enumerate(zip([0, *bounds[:-1]], bounds, strict=True)):
        if stop <= start:
            raise DataError(f"{total} records are too few to give part {k} the share {sizes[k]:g}")
        parts.append([records[i] for i in sorted(order[start:stop])])
    return parts


def windows(
    records: Sequence[Record], length: int, stride: int | None, drop_last: bool
) -> list[Record]:
    """Cut records into windows; see ``Experiments.windows``."""
    length = _count(length, "length", 1)
    stride = length if stride is None else _count(stride, "stride", 1)
    found: list[Record] = []
    for record in records:
        total = len(record)
        start = covered = 0
        while start + length <= total:
            covered = start + length
            found.append(record.part(start, covered))
            start += stride
        if not drop_last and covered < total and start < total:
            found.append(record.part(start, total))
    if not found:
        longest = max(len(record) for record in records)
        raise DataError(
            f"no window of {length} samples fits: the longest record has {longest} samples"
        )
    return found


def _cumulative(fractions: Sequence[float]) -> list[float]:
    values = np.asarray(fractions, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (values > 0).all():
        raise ValueError(f"fractions are {fractions}; expected one or more positive numbers")
    ends = np.cumsum(values)
    if not ends[-1] <= 1 + 1e-9:
        raise ValueError(f"fractions {fractions} sum to {ends[-1]:g}; expected at most 1")
    return [min(float(end), 1.0) if abs(end - 1) > 1e-9 else 1.0 for end in ends]


def _count(value: int, what: str, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} is {value!r}; expected a whole number of samples") from None
    if number < least:
        raise ValueError(f"{what} is {number}; expected at least {least}")
    return number
