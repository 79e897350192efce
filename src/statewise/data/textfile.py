"""Text files (CSV, TSV, columns between blanks) to tables of text cells."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from statewise._errors import DataError
from statewise.data.rawfile import decode
from statewise.data.roles import clean_unit, split_unit
from statewise.data.sniff import Layout, find_layout, split_line
from statewise.data.table import Column, Table

if TYPE_CHECKING:
    import polars

#: A quote where a cell begins; one inside a cell, as in 5", is a plain character.
_OPEN_QUOTE = re.compile(r'(^|[,;\t| ])\s*"[^"]*$')


def text_table(
    data: bytes, source: str, *, separator: str | None = None, decimal: str | None = None
) -> Table:
    """Read a text file into a table.

    Args:
        data: its bytes, unpacked.
        source: the file, for messages.
        separator: one character, or " " for blanks; None = found out.
        decimal: "." or ","; None = found out for each column.

    Returns:
        The table; its cells are text and become numbers or time when they are asked for.

    Raises:
        DataError: no text, no rows, rows of unequal length, repeated column names.
        ValueError: another separator or decimal mark.
    """
    if decimal not in (None, ".", ","):
        raise ValueError(f'decimal is {decimal!r}; expected "." or ","')
    if separator is not None and (len(separator) != 1 or separator in '\n\r"'):
        raise ValueError(f"separator is {separator!r}; expected one character such as , or ;")
    lines = decode(data, source).split("\n")
    try:
        # csv limits cells to 131072 characters, which only damaged files exceed.
        quoted = _joined_quotes(lines)
        layout = find_layout(lines, separator, source)
        cells, layout = _cells(lines, layout, source)
    except csv.Error as error:
        raise DataError(f"{source} cannot be split into cells ({error})") from error
    numbers = np.asarray(layout.lines) + 1
    if quoted is not None:
        numbers = quoted[numbers - 1]
    columns = _columns(cells, layout, source)
    return Table(source, columns, len(numbers), lambda i: f"line {numbers[i]}", decimal)


def _joined_quotes(lines: list[str]) -> np.ndarray | None:
    """Join, in place, lines that a quoted cell spans; return the old number of each line."""
    if not any(_opens_quote(line) for line in lines):
        return None
    joined: list[str] = []
    numbers: list[int] = []
    pending: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        if pending is None:
            numbers.append(number)
            if _opens_quote(line):
                pending = [line]
            else:
                joined.append(line)
        else:
            pending.append(line)
            if line.count('"') % 2:
                joined.append(" ".join(pending))
                pending = None
    if pending is not None:
        joined.append(" ".join(pending))
    lines[:] = joined
    return np.asarray(numbers)


def _opens_quote(line: str) -> bool:
    if '"' not in line or line.count('"') % 2 == 0 or line.lstrip().startswith(("#", "%")):
        return False
    return _OPEN_QUOTE.search(line) is not None


def _cells(lines: Sequence[str], layout: Layout, source: str) -> tuple[list[polars.Series], Layout]:
    """Columns of stripped text, and the layout without empty cells and rows at the ends."""
    import polars as pl

    body = [lines[i] for i in layout.lines]
    frame = _fast_frame(body, layout)
    if frame is None:
        rows = [split_line(line, layout.separator) or [""] for line in body]
        _check_widths(rows, layout, source)
        columns = zip(*(row[: layout.width] for row in rows), strict=True)
        frame = pl.DataFrame(
            [pl.Series(f"c{i}", list(cells), dtype=pl.String) for i, cells in enumerate(columns)]
        )
    frame = frame.select(pl.all().str.strip_chars().fill_null(""))
    header, width = layout.header, frame.width
    while width > 1 and (header is None or not header[width - 1].strip()):
        if not (frame.to_series(width - 1) == "").all():
            break
        width -= 1
    rows_left = frame.height
    while width > 1 and rows_left and not any(frame.row(rows_left - 1)):
        rows_left -= 1
    if not rows_left:
        raise DataError(f"{source} holds no rows of data")
    cut = dataclasses.replace(
        layout,
        header=None if header is None else header[:width],
        units=None if layout.units is None else layout.units[:width],
        lines=layout.lines[:rows_left],
        width=width,
    )
    return frame.head(rows_left).get_columns()[:width], cut


def _fast_frame(body: list[str], layout: Layout) -> polars.DataFrame | None:
    """All cells through polars' parser where every row surely has the right width, else None."""
    import polars as pl

    separator, width = layout.separator, layout.width
    if width < 2 or separator == " " or not separator.isascii():
        return None
    text = "\n".join(body)
    if '"' in text or text.count(separator) != (width - 1) * len(body):
        return None
    try:
        frame = pl.read_csv(
            text.encode("utf-8"),
            has_header=False,
            separator=separator,
            quote_char=None,
            schema={f"c{i}": pl.String for i in range(width)},
        )
    except (pl.exceptions.PolarsError, UnicodeEncodeError):
        return None
    # Longer rows raise above, so with the right number of separators no row is shorter either.
    return frame if frame.shape == (len(body), width) else None


def _check_widths(rows: list[list[str]], layout: Layout, source: str) -> None:
    widths = np.fromiter((len(row) for row in rows), dtype=np.intp, count=len(rows))
    wrong = widths != layout.width
    # A separator at the end of each row, though not of the header, adds an empty cell.
    longer = widths == layout.width + 1
    if not wrong.any() or (longer.all() and all(not row[-1].strip() for row in rows)):
        return
    row = int(np.argmax(wrong))
    kind = "header" if layout.header is not None else "first row"
    first = layout.header_line + 1 if layout.header is not None else layout.lines[0] + 1
    mark = {"\t": "a tab", " ": "blanks"}.get(layout.separator, repr(layout.separator))
    raise DataError(
        f"{source} has {widths[row]} {'cell' if widths[row] == 1 else 'cells'} at line "
        f"{layout.lines[row] + 1}; expected {layout.width} as in the {kind} (line {first}), "
        f"separated by {mark}"
    )


def _columns(cells: list[polars.Series], layout: Layout, source: str) -> tuple[Column, ...]:
    headers = [h.strip() for h in layout.header] if layout.header else [""] * len(cells)
    columns = []
    for i, series in enumerate(cells):
        name, unit = split_unit(headers[i])
        if layout.units is not None:
            unit = clean_unit(layout.units[i]) or unit
        columns.append(Column(name or f"column_{i + 1}", series, unit, headers[i]))
    names = [column.name for column in columns]
    if len(set(names)) < len(names) and len(set(headers)) == len(headers):
        columns = [Column(c.header or c.name, c.values, c.unit, c.header) for c in columns]
        names = [column.name for column in columns]
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise DataError(
                f"{source} has the column name {name!r} twice (columns {names.index(name) + 1} and "
                f"{i + 1} of line {layout.header_line + 1}); expected distinct names"
            )
        seen.add(name)
    return tuple(columns)
