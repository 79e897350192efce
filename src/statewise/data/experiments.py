"""A set of records with common channels: the one container that every model takes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from statewise.data import channels, splits
from statewise.data.record import Record

if TYPE_CHECKING:
    import polars

Names = str | int | Sequence[str | int] | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Experiments(Sequence[Record]):
    """An immutable sequence of records, of any lengths, with the same channels.

    ``experiments[i]`` is a :class:`Record`, ``experiments[i:j]`` again ``Experiments``.

    Attributes:
        records: the records; one record may be given as it is.
        input_names: names of the n_u inputs; "u" or "u1", "u2", … when not given.
        output_names: names of the n_y outputs; "y" or "y1", "y2", … when not given.
        input_units: units of the inputs; "" where unknown.
        output_units: units of the outputs; "" where unknown.
        time_unit: unit of the records' time ("s", "min", "h", "d", "samples", …); when not
            given, that of the records, else "s" where a time is known and "samples" where not.

    Raises:
        DataError: no record, records that differ in channels or time unit, names that repeat or
            do not match the number of channels.
    """

    records: tuple[Record, ...]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    input_units: tuple[str, ...] = ()
    output_units: tuple[str, ...] = ()
    time_unit: str = ""

    def __init__(
        self,
        records: Record | Iterable[Record],
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        input_units: Sequence[str] | None = None,
        output_units: Sequence[str] | None = None,
        time_unit: str | None = None,
    ) -> None:
        fields = channels.checked_fields(
            records, input_names, output_names, input_units, output_units, time_unit
        )
        for key, value in fields.items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_arrays(
        cls,
        u: Any,
        y: Any,
        *,
        t: Any = None,
        dt: float | Sequence[float] | None = None,
        u_mask: Any = None,
        y_mask: Any = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        input_units: Sequence[str] | None = None,
        output_units: Sequence[str] | None = None,
        time_unit: str | None = None,
        names: Sequence[str] | None = None,
        skip: int = 0,
    ) -> Experiments:
        """Experiments from arrays, torch tensors, or lists of either.

        Args:
            u: inputs, or None. 1-D = one channel; 2-D (L, n_u); 3-D (R, L, n_u) = R records; a
                list of arrays = one record each. NaN = missing.
            y: outputs, in the same forms.
            t: time stamps, numbers or datetime64: (L,) for all records or a list of such.
            dt: sampling interval, one for all records or one each.
            u_mask: True where u is observed, in the form of u.
            y_mask: True where y is observed, in the form of y.
            input_names: names of the inputs.
            output_names: names of the outputs.
            input_units: units of the inputs.
            output_units: units of the outputs.
            time_unit: unit of ``t`` and ``dt``; calendar stamps choose s, min, h or d themselves.
            names: names of the records.
            skip: leading samples of each record that are not scored.

        Returns:
            The experiments.

        Raises:
            DataError: values, shapes or time stamps that cannot be understood.
        """
        from statewise.data.build import from_arrays

        records, unit = from_arrays(
            u, y, t=t, dt=dt, u_mask=u_mask, y_mask=y_mask, time_unit=time_unit, names=names,
            skip=skip,
        )  # fmt: skip
        return cls(
            records,
            input_names=input_names,
            output_names=output_names,
            input_units=input_units,
            output_units=output_units,
            time_unit=unit,
        )

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        inputs: Names = None,
        outputs: Names = None,
        *,
        time: str | int | bool | None = None,
        record: str | int | None = None,
        dt: float | None = None,
        time_unit: str | None = None,
        day_first: bool | None = None,
    ) -> Experiments:
        """Experiments from any data frame that narwhals knows (pandas, polars, pyarrow, …).

        Args:
            frame: the frame; a lazy one is collected.
            inputs: columns of the inputs, by name or position; [] = none; None = those named u,
                u1, u_…, input….
            outputs: columns of the outputs; None = those named y, y1, y_…, output….
            time: column of the time stamps; None = find it by its name; False = there is none.
            record: column that tells the records of a long frame apart.
            dt: sampling interval, when there is no time column.
            time_unit: unit of ``dt`` or of a numeric time column, or the wanted unit of calendar
                time.
            day_first: how to read dates such as 03/04/2020 when the column itself does not tell.

        Returns:
            The experiments.

        Raises:
            DataError: columns that are missing or hold something else, time that does not
                increase; the message names column and row.
        """
        from statewise.data.frames import frame_table
        from statewise.data.table import Choice

        choice = Choice(inputs, outputs, time, record, dt, time_unit, day_first)
        return cls(**frame_table(frame, time).parts(choice))

    @classmethod
    def from_long(
        cls,
        frame: Any,
        inputs: Names = None,
        outputs: Names = "y",
        *,
        time: str = "ds",
        record: str = "unique_id",
        time_unit: str | None = None,
        day_first: bool | None = None,
    ) -> Experiments:
        """Experiments from a long frame in the ``unique_id, ds, y`` convention of forecasters.

        Args:
            frame: any data frame that narwhals knows.
            inputs: columns of the inputs; None = all other numeric columns; [] = none.
            outputs: columns of the outputs.
            time: column of the time stamps, dates or numbers.
            record: column that names the series.
            time_unit: see :meth:`from_frame`.
            day_first: see :meth:`from_frame`.

        Returns:
            One record for each series, in order of first appearance.

        Raises:
            DataError: as :meth:`from_frame`.
        """
        from statewise.data.frames import frame_table
        from statewise.data.table import Choice

        choice = Choice(inputs, outputs, time, record, None, time_unit, day_first, others=True)
        return cls(**frame_table(frame, time).parts(choice))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        inputs: Names = None,
        outputs: Names = None,
        *,
        time: str | int | bool | None = None,
        record: str | int | None = None,
        dt: float | None = None,
        time_unit: str | None = None,
        day_first: bool | None = None,
        separator: str | None = None,
        decimal: str | None = None,
    ) -> Experiments:
        """Experiments from a CSV, TSV, text, Parquet, NPZ or MAT (v5) file, gzipped or not.

        Text files: separator (comma, semicolon, tab, bar, blanks), decimal comma, header, a row
        of units under it, comment lines (#, %) and encoding are found out. Empty cells, NaN, NA,
        null, None, "-" and "?" are missing values. A file with columns ``unique_id``, ``ds`` and
        ``y`` is read as :meth:`from_long` when nothing else is asked.

        Args:
            path: the file.
            inputs: see :meth:`from_frame`; for NPZ and MAT names of arrays (all channels) or of
                array and channel ("u2").
            outputs: likewise.
            time: see :meth:`from_frame`. Found by name: date, time, t, timestamp, ds, datetime,
                zeit, datum, or ``t_``/``time_`` with a unit, when it parses and increases.
            record: see :meth:`from_frame`.
            dt: see :meth:`from_frame`.
            time_unit: see :meth:`from_frame`.
            day_first: see :meth:`from_frame`.
            separator: the separator of a text file, when it is not found right.
            decimal: "." or ",", when it is not found right.

        Returns:
            The experiments.

        Raises:
            DataError: a file that cannot be read; the message names file, column, row and what
                was expected.
        """
        from statewise.data.files import load_parts
        from statewise.data.table import Choice

        choice = Choice(inputs, outputs, time, record, dt, time_unit, day_first)
        return cls(**load_parts(path, choice, separator=separator, decimal=decimal))

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str]) -> Experiments:
        """Read back what :meth:`to_npz` wrote, exactly.

        Raises:
            DataError: no such file, or another kind of file.
        """
        from statewise.data.archive import read_archive

        return cls(**read_archive(path))

    @classmethod
    def concat(cls, parts: Sequence[Experiments]) -> Experiments:
        """All records of ``parts`` in one set.

        Raises:
            DataError: no parts, or parts with other names, units or time unit.
        """
        channels.check_same_meta(parts)
        return parts[0]._with([record for part in parts for record in part])

    @property
    def n_u(self) -> int:
        """Number of inputs."""
        return self.records[0].n_u

    @property
    def n_y(self) -> int:
        """Number of outputs."""
        return self.records[0].n_y

    @property
    def n_samples(self) -> int:
        """Samples of all records together."""
        return sum(len(record) for record in self.records)

    @property
    def dt(self) -> float | None:
        """The sampling interval when all records are evenly sampled with the same one."""
        return channels.common_dt(self.records)

    @property
    def nominal_dt(self) -> float | None:
        """The interval that counts as 1 in ``Record.steps``; None when no time is known."""
        return self.records[0].nominal_dt

    def with_nominal_dt(self, nominal_dt: float) -> Experiments:
        """The same records with steps counted in ``nominal_dt``, such as that of training data."""
        if not (np.isfinite(nominal_dt) and nominal_dt > 0):
            raise ValueError(f"nominal_dt is {nominal_dt}; expected a positive number")
        return self._with([r.with_fields(nominal_dt=float(nominal_dt)) for r in self.records])

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Experiments: ...
    def __getitem__(self, index: int | slice) -> Record | Experiments:
        if isinstance(index, slice):
            return self._with(self.records[index])
        return self.records[index]

    def split_time(
        self, fractions: Sequence[float], *, context: int = 0
    ) -> tuple[Experiments, ...]:
        """Cut each record into contiguous parts.

        Args:
            fractions: share of the scored samples of each record for each part; at most 1 in
                sum, and what is left over at the end is dropped.
            context: samples before the start of each later part that it carries for its initial
                state; they become its ``skip``.

        Returns:
            One ``Experiments`` for each fraction, each with a part of every record.

        Raises:
            ValueError: fractions that are not positive or exceed 1 in sum, negative context.
            DataError: a record too short for one of its parts.
        """
        return tuple(self._with(p) for p in splits.split_time(self.records, fractions, context))

    def split_records(
        self, sizes: Sequence[float], *, seed: int | None = None
    ) -> tuple[Experiments, ...]:
        """Deal out whole records.

        Args:
            sizes: numbers of records (int) or shares of them (float) for each part.
            seed: shuffle the records first; None keeps their order.

        Returns:
            One ``Experiments`` for each size.

        Raises:
            ValueError: sizes that are not positive or ask for more than there is.
            DataError: too few records for one of the parts.
        """
        return tuple(self._with(p) for p in splits.split_records(self.records, sizes, seed))

    def windows(
        self, length: int, stride: int | None = None, *, drop_last: bool = True
    ) -> Experiments:
        """Cut each record into windows, leading context included; each has ``skip`` 0.

        Args:
            length: samples in a window.
            stride: samples between the starts of windows; ``length`` when None.
            drop_last: leave out the shorter window at the end of a record (and records shorter
                than ``length``); otherwise keep it where it holds samples no other window has.

        Returns:
            The windows as records, in order.

        Raises:
            ValueError: a length or stride below 1.
            DataError: no record is as long as a window.
        """
        return self._with(splits.windows(self.records, length, stride, drop_last))

    def map(self, fn: Callable[[Record], Record]) -> Experiments:
        """Apply ``fn`` to each record; names and units stay where the channels keep their number.

        When ``fn`` changes the common sampling interval, the nominal interval changes with it.

        Raises:
            TypeError: ``fn`` returns something other than a Record.
        """
        items = [fn(record) for record in self.records]
        kept: dict[str, Any] = {}
        if items and isinstance(items[0], Record):
            if items[0].n_u == self.n_u:
                kept |= {"input_names": self.input_names, "input_units": self.input_units}
            if items[0].n_y == self.n_y:
                kept |= {"output_names": self.output_names, "output_units": self.output_units}
        result = Experiments(items, **kept)
        if self.dt and result.dt and self.nominal_dt and result.dt != self.dt:
            return result.with_nominal_dt(self.nominal_dt * result.dt / self.dt)
        return result

    def select(self, inputs: Names = None, outputs: Names = None) -> Experiments:
        """Keep some channels, in the order given.

        Args:
            inputs: names or positions of the inputs to keep; None = all; [] = none.
            outputs: likewise for the outputs.

        Raises:
            DataError: an unknown or repeated name.
        """
        return Experiments(**channels.select(self, inputs, outputs))

    def to_frame(self) -> polars.DataFrame:
        """A long polars frame: record, time (dates where known), inputs, outputs."""
        from statewise.data.frames import to_frame

        return to_frame(self)

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write an NPZ file without pickles that :meth:`from_npz` reads back exactly."""
        from statewise.data.archive import write_archive

        write_archive(self, path)

    def _with(self, records: Sequence[Record]) -> Experiments:
        return dataclasses.replace(self, records=tuple(records))

    def __repr__(self) -> str:
        return channels.summary(self)
