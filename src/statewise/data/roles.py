"""What a column is for, told by its name: input, output or time."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from statewise._errors import DataError
from statewise.data.suggest import listing
from statewise.data.timeaxis import SECONDS, canonical_unit

_INPUT = re.compile(r"(u|inputs?)\d*(_.*)?", re.I)
_OUTPUT = re.compile(r"(y|outputs?)\d*(_.*)?", re.I)
_TIME = re.compile(r"(?:t|time)[_ ]([a-zµμ]+)", re.I)
_UNIT = re.compile(r"(?P<name>.*?\S)\s*(?:\[(?P<square>[^\[\]]*)\]|\((?P<round>[^()]*)\))")

#: Names, in lower case, that a time column is recognised by.
TIME_NAMES = ("date", "time", "t", "timestamp", "ds", "datetime", "zeit", "datum")
#: Those of them under which whole numbers such as 20200131 are dates.
DATE_NAMES = ("date", "ds", "datum")


def is_input(name: str) -> bool:
    """Whether ``name`` is one of an input: u, u1, u_…, input, and so on."""
    return _INPUT.fullmatch(name) is not None


def is_output(name: str) -> bool:
    """Whether ``name`` is one of an output: y, y1, y_…, output, and so on."""
    return _OUTPUT.fullmatch(name) is not None


def is_time(name: str) -> bool:
    """Whether ``name`` is one of :data:`TIME_NAMES`, or ``t_``/``time_`` and a time unit."""
    return name.casefold() in TIME_NAMES or time_unit_of(name) is not None


def runs_like_time(name: str, values: np.ndarray) -> bool:
    """Whether numbers under the name of a time axis are meant as one.

    Under "t", which may be a temperature, at least 90 % of the steps must go up; under the other
    names anything is time, rightly or wrongly sorted.
    """
    if name.casefold() != "t" or len(values) < 2:
        return True
    return float(np.mean(values[1:] > values[:-1])) >= 0.9


def time_unit_of(name: str) -> str | None:
    """The unit in a name such as ``t_min``, or None."""
    match = _TIME.fullmatch(name)
    unit = canonical_unit(match[1]) if match else ""
    return unit if unit in SECONDS else None


def split_unit(header: str) -> tuple[str, str]:
    """Name and unit of a header such as "flow [l/s]" or "T (°C)"; "T(1)" has no unit."""
    match = _UNIT.fullmatch(header.strip())
    if not match:
        return header.strip(), ""
    unit = (match["square"] if match["square"] is not None else match["round"]).strip()
    if unit[:1].isdigit() and not unit.startswith("1/"):
        return header.strip(), ""
    return match["name"], clean_unit(unit)


def clean_unit(unit: str) -> str:
    """A unit without brackets; marks that only fill the place ("#", "-") become empty."""
    text = unit.strip()
    if len(text) > 2 and text[0] + text[-1] in ("[]", "()"):
        text = text[1:-1].strip()
    return "" if text in ("#", "-", "--", "[-]", "[]", "()", "?", "1") else text


def infer_channels(
    names: Sequence[str],
    inputs: list[int] | None,
    outputs: list[int] | None,
    *,
    spare: Sequence[int],
    numeric: Sequence[int],
    source: str,
    kind: str,
) -> tuple[list[int], list[int]]:
    """Positions of inputs and outputs where the caller left them open.

    Args:
        names: names of all columns.
        inputs: positions given, or None.
        outputs: positions given, or None.
        spare: positions of columns that are neither time nor record.
        numeric: those of them that may be signals whatever their name.
        source: where the columns are, for messages.
        kind: what messages call them, such as "column".

    Returns:
        Positions of inputs and of outputs.

    Raises:
        DataError: the names do not tell.
    """
    free = [i for i in spare if i not in {*(inputs or ()), *(outputs or ())}]
    if outputs is None:
        outputs = [i for i in free if is_output(names[i])]
        if not outputs:
            raise DataError(
                f"{source} has no {kind} named as an output (y, y1, y_…); pass inputs and outputs "
                f"from its {kind}s: {listing(names)}"
            )
    if inputs is None:
        inputs = [i for i in free if is_input(names[i])]
        others = [names[i] for i in numeric if i in free and i not in outputs]
        if not inputs and others:
            raise DataError(
                f"{source} has no {kind} named as an input (u, u1, u_…); pass inputs (or [] for "
                f"none) from its {kind}s: {listing(others)}"
            )
    return inputs, outputs
