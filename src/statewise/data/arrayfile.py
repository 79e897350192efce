"""Files of named arrays (NPZ, MAT): which of them are inputs, outputs and time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from statewise._errors import DataError
from statewise.data.arrays import as_signal, split_records
from statewise.data.build import from_arrays
from statewise.data.roles import infer_channels, is_time, runs_like_time, time_unit_of
from statewise.data.suggest import find_name, listing
from statewise.data.table import Choice, Names

_INTERVALS = ("dt", "ts", "sampling_interval", "sampling_time", "sample_time")
_RATES = ("fs", "sampling_rate", "sample_rate", "sampling_frequency")

Arrays = Mapping[str, Any]
"""Name -> array, list of arrays (records), number or text."""


def signal_names(arrays: Arrays) -> list[str]:
    """Names of the arrays that can be signals: numbers, more than one of them."""
    return [name for name, value in arrays.items() if _is_signal(value)]


def array_parts(arrays: Arrays, choice: Choice, source: str) -> dict[str, Any]:
    """Arguments of ``Experiments`` for what ``choice`` asks of the arrays of a file.

    An array (L,) is one channel, (L, n) are n channels, (R, L, n) or a list are R records. A
    number named dt or Ts is the sampling interval, one named fs the sampling rate.

    Args:
        arrays: the arrays by name.
        choice: see ``Experiments.from_file``; ``record`` does not apply.
        source: the file, for messages.

    Returns:
        The arguments.

    Raises:
        DataError: unknown names, arrays that do not fit together, one sample.
    """
    if choice.record is not None:
        raise DataError(
            f"{source} holds arrays and has no record column; give 3-D arrays (records, samples, "
            "channels) for several records"
        )
    names = signal_names(arrays)
    if not names:
        raise DataError(f"{source} holds no arrays of numbers; it has {listing(list(arrays))}")
    given_in, given_out = _expanded(choice.inputs), _expanded(choice.outputs)
    taken = {*(given_in or ()), *(given_out or ())}
    time = _time_name(arrays, choice, taken, source)
    if given_in is None or given_out is None:
        positions = [None if g is None else [_name_at(k, names, source) for k in g] for g in
                     (given_in, given_out)]  # fmt: skip
        spare = [i for i, name in enumerate(names) if name != time]
        known = [None if p is None else [names.index(n) for n, _ in p] for p in positions]
        found = infer_channels(
            names, known[0], known[1], spare=spare, numeric=spare, source=source, kind="array"
        )
        given_in = [names[i] for i in found[0]] if given_in is None else given_in
        given_out = [names[i] for i in found[1]] if given_out is None else given_out
    u, input_names = _stacked(arrays, names, given_in, "input", source)
    y, output_names = _stacked(arrays, names, given_out, "output", source)
    both = sorted({*input_names} & {*output_names})
    if both:
        raise DataError(f"array {both[0]!r} of {source} is chosen as input and as output")
    if u is None and y is None:
        raise DataError(f"neither inputs nor outputs are chosen from {source}: {listing(names)}")
    dt = choice.dt if choice.dt is not None or time is not None else interval_of(arrays)
    t = None if time is None else _squeezed(arrays[time])
    unit = choice.time_unit or (time_unit_of(time) if time is not None else None)
    try:
        records, unit = from_arrays(u, y, t=t, dt=dt, time_unit=unit)
    except DataError as error:
        found = time is not None and choice.time is None
        hint = f"; pass time=False to do without the time array {time!r}" if found else ""
        raise DataError(f"{source}: {error}{hint}") from None
    if max(len(record) for record in records) < 2:
        raise DataError(f"{source} has one sample in {listing(names)}; expected at least two")
    return {
        "records": records,
        "input_names": input_names,
        "output_names": output_names,
        "time_unit": unit,
    }


def channel_arrays(arrays: Arrays) -> dict[str, np.ndarray]:
    """Each channel of each signal as one array (L,), records one after another, for a summary."""
    found: dict[str, np.ndarray] = {}
    for name in signal_names(arrays):
        parts = _as_records(arrays[name], name)
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            continue
        whole = np.concatenate(parts)
        for i, channel in enumerate(_channel_names(name, whole.shape[1])):
            found[channel] = whole[:, i]
    return found


def _is_signal(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_signal(item) for item in value)
    return (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "biufM"
        and 1 <= value.ndim <= 3
        and value.size > 1
    )


def _squeezed(value: Any) -> Any:
    """The array with a row or column vector (1, L) or (L, 1) as (L,)."""
    if isinstance(value, list):
        return [_squeezed(item) for item in value]
    return value.reshape(-1) if value.ndim == 2 and 1 in value.shape else value


def _as_records(value: Any, name: str) -> list[np.ndarray]:
    value = _squeezed(value)
    if not isinstance(value, list) and value.dtype.kind == "M":
        return [value.reshape(len(value), -1)]
    many = split_records(value, name)
    return [as_signal(one, name) for one in ([value] if many is None else many)]


def _expanded(wanted: Names) -> list[str] | None:
    if wanted is None:
        return None
    names = [wanted] if isinstance(wanted, str | int) else list(wanted)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"an array is chosen by its name, got {name!r}")
    return [str(name) for name in names]


def _name_at(key: str, names: Sequence[str], source: str) -> tuple[str, int | None]:
    """The array and, for a key such as "u2", the channel of it (counted from 0)."""
    if key in names:
        return key, None
    match = re.fullmatch(r"(.*?)_?([1-9]\d*)", key)
    if match and match[1] in names:
        return match[1], int(match[2]) - 1
    return names[find_name(key, names, "array", source)], None


def _channel_names(name: str, count: int) -> list[str]:
    if count == 1:
        return [name]
    mark = "_" if name[-1:].isdigit() else ""
    return [f"{name}{mark}{i + 1}" for i in range(count)]


def _stacked(
    arrays: Arrays, names: Sequence[str], wanted: Sequence[str], kind: str, source: str
) -> tuple[Any, list[str]]:
    """The chosen channels side by side (a list when several records), and their names."""
    blocks: list[list[np.ndarray]] = []
    labels: list[str] = []
    several = False
    for key in wanted:
        name, channel = _name_at(key, names, source)
        value = _squeezed(arrays[name])
        what = f"array {name!r} of {source}"
        parts = [value] if split_records(value, what) is None else list(value)
        several |= split_records(value, what) is not None
        parts = [as_signal(part, what) for part in parts]
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            raise DataError(f"{what} has records with {sorted(widths)} channels; expected equal")
        every = _channel_names(name, widths.pop())
        if channel is not None:
            if channel >= len(every):
                raise DataError(f"{what} has {len(every)} channel(s), so there is no {key!r}")
            parts, every = [part[:, [channel]] for part in parts], [every[channel]]
        if blocks and [len(p) for p in parts] != [len(p) for p in blocks[0]]:
            raise DataError(
                f"{what} has {_lengths(parts)} samples and {wanted[0]!r} has "
                f"{_lengths(blocks[0])}; expected equally many in all {kind}s"
            )
        blocks.append(parts)
        labels += every
    if not blocks:
        return None, []
    for label in labels:
        if labels.count(label) > 1:
            raise DataError(f"{kind} {label!r} of {source} is chosen more than once")
    joined = [np.hstack(parts) for parts in zip(*blocks, strict=True)]
    return (joined if several else joined[0]), labels


def _lengths(parts: Sequence[np.ndarray]) -> str:
    return ", ".join(str(len(part)) for part in parts[:5]) + ("…" if len(parts) > 5 else "")


def _time_name(arrays: Arrays, choice: Choice, taken: set[str], source: str) -> str | None:
    if choice.time is False or choice.dt is not None:
        return None
    if choice.time is not None:
        names = [name for name in arrays if _is_signal(arrays[name])]
        return names[find_name(choice.time, names, "array", source)]
    for name, value in arrays.items():
        if name in taken or not is_time(name) or not _is_signal(value):
            continue
        axes = [_squeezed(one) for one in (value if isinstance(value, list) else [value])]
        if all(axis.ndim == 1 and runs_like_time(name, axis) for axis in axes):
            return name
    return None


def interval_of(arrays: Arrays) -> float | None:
    """The sampling interval that a number of the file tells."""
    for name, value in arrays.items():
        number = _positive(value)
        if number is None:
            continue
        if name.casefold() in _INTERVALS:
            return number
        if name.casefold() in _RATES:
            return 1.0 / number
    return None


def _positive(value: Any) -> float | None:
    if isinstance(value, str | bytes | list | Mapping) or np.size(value) != 1:
        return None
    array = np.asarray(value).reshape(-1)
    if array.dtype.kind not in "iuf" or not np.isfinite(array[0]) or array[0] <= 0:
        return None
    return float(array[0])
