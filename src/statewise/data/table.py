"""A table at the door: named columns of numbers, text or time, which know where their rows are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from statewise._errors import DataError
from statewise.data.build import resolve_axes
from statewise.data.cells import cast_numbers
from statewise.data.record import Record
from statewise.data.roles import infer_channels, time_unit_of
from statewise.data.suggest import find_name, listing
from statewise.data.timeaxis import SECONDS, canonical_unit

Names = str | int | Sequence[str | int] | None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the caller asks of a table or a file of arrays; see ``Experiments.from_frame``."""

    inputs: Names = None
    outputs: Names = None
    time: str | int | bool | None = None
    record: str | int | None = None
    dt: float | None = None
    time_unit: str | None = None
    day_first: bool | None = None
    #: Inputs that are not named are all other numeric columns.
    others: bool = False

    def __post_init__(self) -> None:
        if self.time is True:
            raise TypeError("time is True; expected the name of a column, None or False")
        if self.dt is not None:
            if self.time not in (None, False):
                raise ValueError("time and dt are both given; give the time column or the interval")
            if not (np.isfinite(self.dt) and self.dt > 0):
                raise ValueError(f"dt is {self.dt}; expected a positive number")


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column; ``values`` is a polars series of strings for text, a NumPy array for all else."""

    name: str
    values: Any
    unit: str = ""
    #: The full header where the name is only a part of it.
    header: str = ""
    #: For values that are neither numbers, text nor time: what they are.
    other: str = ""

    @property
    def is_text(self) -> bool:
        """Whether the cells are text, which may stand for numbers or time."""
        return not isinstance(self.values, np.ndarray)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length."""

    source: str
    columns: tuple[Column, ...]
    rows: int
    where: Callable[[int], str]
    decimal: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [column.name for column in self.columns]

    def find(self, key: str | int) -> int:
        """Position of a column by name, full header or position.

        Raises:
            DataError: no such column.
        """
        headers = [column.header for column in self.columns]
        if isinstance(key, str) and key not in self.names and key in headers:
            return headers.index(key)
        return find_name(key, self.names, "column", self.source)

    def numbers(self, index: int) -> np.ndarray:
        """The column as finite float64 numbers, NaN where missing.

        Raises:
            DataError: text, infinite numbers, time or other values; the message names the row.
        """
        column = self.columns[index]
        what = f"column {column.name!r} of {self.source}"
        if column.other or (not column.is_text and column.values.dtype.kind not in "biuf"):
            kind = column.other or "time stamps"
            raise DataError(f"{what} holds {kind}; expected numbers")
        if isinstance(column.values, np.ndarray):
            with np.errstate(over="ignore"):
                values = column.values.astype(np.float64)
        else:
            cast = cast_numbers(column.values, self.decimal)
            if len(cast.bad):
                raise DataError(self._bad_cell(column, int(cast.bad[0]), what))
            if cast.grouped and self.decimal is None and not self._comma_elsewhere(index):
                row = int(
                    column.values.str.contains(",", literal=True).fill_null(False).arg_max() or 0
                )
                raise DataError(
                    f"{what} has {column.values[row]!r} at {self.where(row)}, which may be a "
                    'decimal comma or a group of thousands; pass decimal="," or decimal="."'
                )
            values = cast.values
        infinite = np.isinf(values)
        if infinite.any():
            row = int(np.argmax(infinite))
            raise DataError(
                f"{what} has {column.values[row]} at {self.where(row)}, which is infinite or too "
                "large; expected finite numbers, or an empty cell where a value is missing"
            )
        return values

    def is_numeric(self, index: int) -> bool:
        """Whether the column holds numbers, and more of them than cells of text."""
        column = self.columns[index]
        if column.other:
            return False
        if not column.is_text:
            return column.values.dtype.kind in "biuf"
        cast = cast_numbers(column.values, self.decimal)
        return bool(np.count_nonzero(~np.isnan(cast.values)) > len(cast.bad))

    def parts(self, choice: Choice) -> dict[str, Any]:
        """Arguments of ``Experiments`` for what ``choice`` asks.

        Raises:
            DataError: anything that cannot be understood.
        """
        from statewise.data.timecolumn import read_time

        choice = self._long_convention(choice)
        if self.rows < 2:
            count = "no rows" if self.rows == 0 else "one row"
            raise DataError(f"{self.source} has {count} of data; expected at least two")
        key = None if choice.record is None else self.find(choice.record)
        groups = self.groups(key)
        inputs, outputs = self._given(choice.inputs), self._given(choice.outputs)
        used = {key, *(inputs or ()), *(outputs or ())}
        index, stamps = read_time(self, choice, [rows for _, rows in groups], used)
        inputs, outputs = self._channels(choice, inputs, outputs, {key, *index})
        matrix = {i: self.numbers(i) for i in (*inputs, *outputs)}
        unit = choice.time_unit
        if unit is None and len(index) == 1 and stamps is not None and stamps.dtype.kind in "iuf":
            column = self.columns[index[0]]
            unit = canonical_unit(column.unit) if column.unit else time_unit_of(column.name)
            unit = unit if unit in SECONDS else None
        axes, unit = resolve_axes(
            [None if stamps is None else stamps[rows] for _, rows in groups],
            [choice.dt] * len(groups),
            unit,
        )
        records = [
            Record(
                y=self._matrix(matrix, outputs, rows),
                u=self._matrix(matrix, inputs, rows) if inputs else None,
                t=axis.t,
                dt=axis.dt,
                name=name,
                start=axis.start,
                t0=axis.t0,
            )
            for (name, rows), axis in zip(groups, axes, strict=True)
        ]
        return {
            "records": records,
            "input_names": [self.columns[i].name for i in inputs],
            "output_names": [self.columns[i].name for i in outputs],
            "input_units": [self.columns[i].unit for i in inputs],
            "output_units": [self.columns[i].unit for i in outputs],
            "time_unit": unit,
        }

    def _long_convention(self, choice: Choice) -> Choice:
        asked = (choice.inputs, choice.outputs, choice.time, choice.record, choice.dt)
        if any(one is not None for one in asked) or not {"unique_id", "ds", "y"} <= {*self.names}:
            return choice
        return dataclasses.replace(choice, outputs="y", time="ds", record="unique_id", others=True)

    def _given(self, wanted: Names) -> list[int] | None:
        if wanted is None:
            return None
        if isinstance(wanted, str | int):
            wanted = [wanted]
        return [self.find(key) for key in wanted]

    def _channels(
        self,
        choice: Choice,
        inputs: list[int] | None,
        outputs: list[int] | None,
        taken: set[int | None],
    ) -> tuple[list[int], list[int]]:
        if inputs is None or outputs is None:
            spare = [i for i in range(len(self.columns)) if i not in taken]
            numeric = [i for i in spare if self.is_numeric(i)]
            if choice.others and inputs is None and outputs is not None:
                inputs = [i for i in numeric if i not in outputs]
            inputs, outputs = infer_channels(
                self.names,
                inputs,
                outputs,
                spare=spare,
                numeric=numeric,
                source=self.source,
                kind="column",
            )
        both = [*inputs, *outputs]
        if not both:
            raise DataError(
                f"neither inputs nor outputs are chosen from {self.source}; its columns are "
                f"{listing(self.names)}"
            )
        for i in both:
            if both.count(i) > 1:
                raise DataError(
                    f"column {self.columns[i].name!r} of {self.source} is chosen more than once "
                    "as input or output"
                )
            if i in taken:
                raise DataError(
                    f"column {self.columns[i].name!r} of {self.source} is chosen as a signal and "
                    "as time or record"
                )
        return inputs, outputs

    def groups(self, key: int | None) -> list[tuple[str, np.ndarray]]:
        """Name and rows of each record, in order of first appearance."""
        if key is None:
            return [("", np.arange(self.rows))]
        import polars as pl

        column = self.columns[key]
        if column.other:
            raise DataError(
                f"column {column.name!r} of {self.source} holds {column.other}; expected names or "
                "numbers that tell the records apart"
            )
        values = column.values
        if not column.is_text and values.dtype.kind == "f":
            values = values.astype(np.float64)
        series: pl.Series = values if column.is_text else pl.Series(values)
        empty = series.is_null()
        if column.is_text:
            empty |= series == ""
        elif series.dtype.is_float():
            empty |= series.is_nan()
        if empty.any():
            row = int(empty.arg_max() or 0)
            raise DataError(
                f"column {column.name!r} of {self.source} is empty at {self.where(row)}; expected "
                "the name of a record"
            )
        frame = pl.DataFrame({"key": series, "row": np.arange(self.rows)})
        grouped = frame.group_by("key", maintain_order=True).agg(pl.col("row"))
        found = []
        for name, rows in zip(grouped["key"], grouped["row"], strict=True):
            label = f"{name:g}" if isinstance(name, float) and name.is_integer() else str(name)
            found.append((label, rows.to_numpy()))
        return found

    def _matrix(
        self, columns: dict[int, np.ndarray], chosen: list[int], rows: np.ndarray
    ) -> np.ndarray:
        if not chosen:
            return np.empty((len(rows), 0))
        return np.column_stack([columns[i][rows] for i in chosen])

    def _comma_elsewhere(self, index: int) -> bool:
        """Whether another column has a decimal comma that cannot be a group of thousands."""
        for i, column in enumerate(self.columns):
            if i != index and not isinstance(column.values, np.ndarray) and not column.other:
                cast = cast_numbers(column.values, None)
                if cast.comma and not cast.grouped and not len(cast.bad):
                    return True
        return False

    def _bad_cell(self, column: Column, row: int, what: str) -> str:
        cell = str(column.values[row])
        shown = cell if len(cell) <= 40 else f"{cell[:37]}…"
        hint = "; a thousands separator is not understood" if cell.count(",") > 1 else ""
        return (
            f"{what} has the text {shown!r} at {self.where(row)}; expected a number, or an empty "
            f"cell where a value is missing{hint}"
        )
