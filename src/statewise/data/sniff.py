"""The shape of a text file: separator, header, units, and where the rows of data are."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from statewise._errors import DataError
from statewise.data.cells import kind_of

#: Separators that are tried, the likelier first; a blank stands for any run of blanks.
SEPARATORS = ("\t", ";", ",", "|", " ")
_COMMENT = ("#", "%")
_SAMPLE = 100
_NAME = re.compile(r"[^\W\d]\w*( ?[\[(][^\])]*[\])])?")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where things are in a text file; line numbers count from 0."""

    separator: str
    header: tuple[str, ...] | None
    header_line: int
    units: tuple[str, ...] | None
    lines: list[int]
    """Lines that hold data."""
    width: int
    """Number of cells that a row must have."""


def split_line(line: str, separator: str) -> list[str]:
    """The cells of one line, with quotes taken off; a blank separator stands for any blanks."""
    if '"' in line:
        blank = separator == " "
        text = line.replace("\t", " ").strip() if blank else line
        return next(csv.reader([text], delimiter=separator, skipinitialspace=blank), [])
    return line.split() if separator == " " else line.split(separator)


def find_layout(lines: Sequence[str], separator: str | None, source: str) -> Layout:
    """Find out how a text file is laid out.

    Args:
        lines: the lines of the file.
        separator: the separator, or None to find it.
        source: the file, for messages.

    Returns:
        The layout.

    Raises:
        DataError: no lines with data.
    """
    content = [i for i, line in enumerate(lines) if line.strip() and not _is_comment(line)]
    if not content:
        raise DataError(f"{source} holds no rows of data")
    if separator is None:
        separator = _find_separator([lines[i] for i in content[:_SAMPLE]])
    if separator == "\t":
        # A line of tabs alone is a row of empty cells, not an empty line.
        first = content[0]
        content += [i for i in range(first, len(lines)) if "\t" in lines[i] and lines[i].isspace()]
        content.sort()
    first = content[0]
    rows = [split_line(lines[i], separator) for i in content[:_SAMPLE]]
    header: list[str] | None = None
    header_line, start = first, 0
    # A header may start with a comment mark by chance ("% load,y") or on purpose ("# t u y").
    marked = _marked_header(lines, first, separator, rows[0])
    if _is_header(rows):
        header, start = rows[0], 1
    elif marked is not None:
        header_line, header = marked
    body = content[start:]
    units: list[str] | None = None
    if header is not None and start:
        following = next((i for i in range(first + 1, len(lines)) if lines[i].strip()), None)
        data = rows[1:]
        if following is not None and _is_comment(lines[following]):
            cells = split_line(lines[following], separator)
            if len(cells) == len(header) > 1:
                units = cells
        elif len(data) > 1 and _is_units(data[0], data[1:], len(header)):
            units, body = data[0], body[1:]
    if header is not None and not body:
        raise DataError(f"{source} has a header and no rows of data")
    width = len(header) if header is not None else len(rows[0])
    if width == 1 and body:
        # In a single column an empty line is a missing value, save at the end.
        inside = range(body[0], body[-1] + 1)
        body = [i for i in inside if not _is_comment(lines[i])]
    return Layout(
        separator,
        None if header is None else tuple(header),
        header_line,
        None if units is None else tuple(units),
        body,
        width,
    )


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(_COMMENT)


def _find_separator(sample: Sequence[str]) -> str:
    best, chosen = 0.0, ","
    for separator in SEPARATORS:
        try:
            rows = [split_line(line, separator) for line in sample]
        except csv.Error:
            continue
        counts = Counter(len(row) for row in (rows[1:] or rows))
        width, often = counts.most_common(1)[0]
        if width < 2:
            continue
        cells = [cell for row in (rows[2:] or rows[-1:]) for cell in row]
        known = sum(kind_of(cell) != "text" for cell in cells) / max(len(cells), 1)
        header = 0.5 + 0.5 * (len(rows[0]) == width)
        score = (often / max(len(rows) - 1, 1)) * (0.05 + known) * header
        if score > best * (1 + 1e-9):
            best, chosen = score, separator
    return chosen


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: text above something else, or text only."""
    kinds = [kind_of(cell) for cell in rows[0]]
    if "text" not in kinds:
        return False
    for i, kind in enumerate(kinds):
        below = [kind_of(row[i]) for row in rows[1:] if len(row) > i]
        below = [k for k in below if k != "missing"]
        if kind == "text" and below and sum(k != "text" for k in below) * 2 > len(below):
            return True
    return all(kind in ("text", "missing") for kind in kinds)


def _is_units(row: Sequence[str], following: Sequence[Sequence[str]], width: int) -> bool:
    """Whether the row under the header holds units: text above numbers, and no number itself."""
    kinds = [kind_of(cell) for cell in row]
    if len(row) != width or any(kind in ("number", "date") for kind in kinds):
        return False
    for i, kind in enumerate(kinds):
        below = [kind_of(r[i]) for r in following if len(r) > i]
        below = [k for k in below if k != "missing"]
        if kind == "text" and below and all(k in ("number", "date") for k in below[:1]):
            return True
    return False


def _marked_header(
    lines: Sequence[str], first: int, separator: str, row: Sequence[str]
) -> tuple[int, list[str]] | None:
    """Names in the last comment line before the data, when they fit the columns."""
    for i in range(first - 1, -1, -1):
        if not lines[i].strip():
            continue
        names = split_line(lines[i].strip().lstrip("#%").strip(), separator)
        names = [name.strip() for name in names]
        fits = len(names) == len(row) and all(_NAME.fullmatch(name) for name in names)
        return (i, names) if fits else None
    return None
