"""The description of a benchmark: which rows of which columns of which files, and how to score."""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from statewise._errors import DataError
from statewise.data.experiments import Experiments
from statewise.data.record import Record
from statewise.data.task import Task

ENVIRONMENT = "STATEWISE_DATA"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A run of rows of a file: one record.

    Args:
        rows: first row and the row after the last one, counted from 0 without the header; None for
            either end means the end of the file.
        file: path below the data folder; the benchmark's own when empty.
        inputs: columns of the inputs; the benchmark's input names when None.
        outputs: columns of the outputs; the benchmark's output names when None.
        name: name of the record; the part it belongs to when empty.
    """

    rows: tuple[int | None, int | None] = (None, None)
    file: str = ""
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        rows = tuple(self.rows)
        given = [end for end in rows if end is not None]
        counts = all(type(end) is int and end >= 0 for end in given)
        if len(rows) != 2 or not counts or (len(given) == 2 and given[0] >= given[1]):
            raise DataError(f"rows must be two increasing row numbers, got {list(rows)}")
        object.__setattr__(self, "rows", rows)
        for field in ("inputs", "outputs"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, _names(field, value))


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark as a declaration; :meth:`load` turns it and the files into a :class:`Task`.

    Args:
        name: short name.
        train: records to learn from; validation data are cut from their ends.
        tests: the test sets by name, each a sequence of records.
        inputs: names of the inputs, and their columns where a segment names none; empty for an
            autonomous system.
        outputs: names of the outputs, in the same way.
        file: the file of all segments that name none, as a path below the data folder.
        window: prescribed initialisation window: leading samples of each test record that are
            given and not scored.
        dt: sampling interval in ``time_unit``, None when unknown.
        time_unit: unit of time, such as ``"s"``.
        input_units: unit of each input, empty when unknown.
        output_units: unit of each output, empty when unknown.
        metric: see :class:`Task`.
        unit: unit of the reported error.
        scale: reported error = ``scale`` times the error in the unit of the data.
        valid_fraction: part at the end of each training record for validation.
        valid_context: samples before each validation part for its initial state; ``window`` when
            None.
        references: figures in ``unit``: method → {test name: figure}; figures that were measured
            by the authors of the library carry "(measured)" in the name of the method.
        official: function of the package ``nonlinear_benchmarks`` that has these data; its test
            sets are in the order of ``tests``.
        description: what the system is.
        source: where the data come from.
        licence: the terms of the data.
        folder: data folder, used when :meth:`load` is given none; a description that was read from
            a file has the folder of that file.

    Raises:
        DataError: a field that does not make sense; the message names the benchmark and the field.
    """

    name: str
    train: tuple[Segment, ...]
    tests: dict[str, tuple[Segment, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    file: str = ""
    window: int = 0
    dt: float | None = None
    time_unit: str = "samples"
    input_units: tuple[str, ...] = ()
    output_units: tuple[str, ...] = ()
    metric: str = "rmse"
    unit: str = ""
    scale: float = 1.0
    valid_fraction: float = 0.2
    valid_context: int | None = None
    references: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    official: str = ""
    description: str = ""
    source: str = ""
    licence: str = ""
    folder: str = ""

    def __post_init__(self) -> None:
        try:
            self._normalise()
        except (TypeError, ValueError) as error:
            raise DataError(f"benchmark {self.name!r}: {error}") from error

    def _normalise(self) -> None:
        def put(field: str, value: Any) -> None:
            object.__setattr__(self, field, value)

        for field in ("inputs", "outputs", "input_units", "output_units"):
            put(field, _names(field, getattr(self, field)))
        put("train", _segments(self.train))
        put("tests", {name: _segments(test) for name, test in self.tests.items()})
        if not self.outputs:
            raise ValueError("outputs names no column")
        if not self.train or not self.tests or not all(self.tests.values()):
            raise ValueError("expected at least one record in train and in each of tests")
        for part in (self.train, *self.tests.values()):
            for segment in part:
                self._check_segment(segment)
        for names, units in (("inputs", "input_units"), ("outputs", "output_units")):
            if getattr(self, units) and len(getattr(self, units)) != len(getattr(self, names)):
                raise ValueError(
                    f"{units} has {len(getattr(self, units))} entries for "
                    f"{len(getattr(self, names))} {names}"
                )

    def _check_segment(self, segment: Segment) -> None:
        if not (segment.file or self.file):
            raise ValueError("a segment names no file and neither does the benchmark")
        for field in ("inputs", "outputs"):
            columns = getattr(segment, field)
            if columns is not None and len(columns) != len(getattr(self, field)):
                raise ValueError(
                    f"a segment takes {len(columns)} columns as {field}, "
                    f"the benchmark has {len(getattr(self, field))}"
                )

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Benchmark:
        """Read a description from a JSON object with the fields of this class.

        Files are looked for beside the description unless :meth:`load` is given a folder.

        Raises:
            DataError: the file is missing, is no JSON, or has unknown or missing fields.
        """
        return _only(path, _read(path, json.loads))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Benchmark:
        """Read a description from a TOML table, in the same way as :meth:`from_json`.

        Raises:
            DataError: the file is missing, is no TOML, or has unknown or missing fields.
        """
        return _only(path, _read(path, tomllib.loads))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Benchmark:
        """Build a description from plain dictionaries and lists.

        Args:
            fields: the fields of this class; ``train`` and each entry of ``tests`` is a dictionary
                with the fields of :class:`Segment`, or a list of such dictionaries.

        Raises:
            DataError: unknown or missing fields.
        """
        name = fields.get("name", "without a name")
        return _build(cls, fields, f"benchmark {name!r}")

    def files(self) -> tuple[str, ...]:
        """Return the files that the benchmark reads, as paths below the data folder."""
        segments = [*self.train, *(s for test in self.tests.values() for s in test)]
        return tuple(dict.fromkeys(segment.file or self.file for segment in segments))

    def load(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        valid_fraction: float | None = None,
        valid_context: int | None = None,
    ) -> Task:
        """Read the files and build the task.

        Args:
            folder: data folder; without it the description's own, then the one that the
                environment variable ``STATEWISE_DATA`` names.
            valid_fraction: replaces that of the description.
            valid_context: replaces that of the description.

        Raises:
            DataError: no folder, a missing file, column or row.
        """
        root = self.root(folder)
        missing = [file for file in self.files() if not (root / file).is_file()]
        if missing:
            raise DataError(
                f"benchmark {self.name!r}: expected the file {missing[0]} in the folder {root}; "
                f"give its folder as an argument or in the environment variable {ENVIRONMENT}"
            )
        table: dict[Any, Record] = {}
        return self.task(
            self._part(root, self.train, "train", table),
            {name: self._part(root, test, name, table) for name, test in self.tests.items()},
            valid_fraction=valid_fraction,
            valid_context=valid_context,
        )

    def root(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Return the data folder: the argument, the description's own, or ``STATEWISE_DATA``.

        Raises:
            DataError: there is none.
        """
        chosen = folder or self.folder or os.environ.get(ENVIRONMENT)
        if not chosen:
            raise DataError(
                f"benchmark {self.name!r} needs the file {self.files()[0]}: give the folder that "
                f"has it as an argument or in the environment variable {ENVIRONMENT}"
            )
        return Path(chosen).expanduser()

    def task(
        self,
        train: Experiments,
        tests: Mapping[str, Experiments],
        *,
        window: int | None = None,
        valid_fraction: float | None = None,
        valid_context: int | None = None,
    ) -> Task:
        """Build the task from records that are already cut; None takes the description's value."""
        window = self.window if window is None else window
        fraction = self.valid_fraction if valid_fraction is None else valid_fraction
        context = self.valid_context if valid_context is None else valid_context
        return Task.from_train_test(
            self.name,
            train,
            tests,
            window=window,
            valid_fraction=fraction,
            valid_context=context,
            metric=self.metric,
            unit=self.unit,
            scale=self.scale,
            references=self.references,
            description=self.description,
            source=self.source,
            licence=self.licence,
        )

    def experiments(self, records: Sequence[Record]) -> Experiments:
        """Gather records under the names and units of the benchmark."""
        return Experiments(
            tuple(records),
            input_names=self.inputs,
            output_names=self.outputs,
            input_units=self.input_units or ("",) * len(self.inputs),
            output_units=self.output_units or ("",) * len(self.outputs),
            time_unit=self.time_unit,
        )

    def _part(
        self, root: Path, segments: Sequence[Segment], part: str, table: dict[Any, Record]
    ) -> Experiments:
        """Read the segments of a part; ``table`` keeps the columns that were read before."""
        records = []
        for segment in segments:
            file = segment.file or self.file
            inputs = self.inputs if segment.inputs is None else segment.inputs
            outputs = self.outputs if segment.outputs is None else segment.outputs
            key = (file, inputs, outputs)
            if key not in table:
                table[key] = Experiments.from_file(root / file, inputs, outputs, time=False)[0]
            whole = table[key]
            first, stop = segment.rows
            first, stop = first or 0, len(whole) if stop is None else stop
            if stop > len(whole) or first >= stop:
                raise DataError(
                    f"benchmark {self.name!r} expects the rows {first} to {stop} of "
                    f"{root / file}, which has {len(whole)}"
                )
            name = segment.name or (part if len(segments) == 1 else f"{part} {len(records) + 1}")
            piece = whole.part(first, stop)
            records.append(
                Record(y=piece.y, u=piece.u, dt=self.dt, name=name, time_unit=self.time_unit)
            )
        return self.experiments(records)


def read_descriptions(text: str, where: str) -> list[Benchmark]:
    """Read TOML with one table ``[[benchmark]]`` each; other top-level fields are shared by all."""
    document = tomllib.loads(text)
    tables = document.pop("benchmark", None)
    if tables is None:
        return [_build(Benchmark, document, where)]
    return [_build(Benchmark, {**document, **table}, where) for table in tables]


def _read(path: str | os.PathLike[str], parse: Any) -> dict[str, Any]:
    try:
        fields = parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the description {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"cannot understand the description {path}: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"the description {path} holds {type(fields).__name__}, expected an object")
    return fields


def _only(path: str | os.PathLike[str], fields: dict[str, Any]) -> Benchmark:
    fields.setdefault("folder", os.fspath(Path(path).resolve().parent))
    return _build(Benchmark, fields, f"the description {path}")


def _build(cls: type[Any], fields: Mapping[str, Any], where: str) -> Any:
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise DataError(f"{where} has the unknown field {unknown[0]!r}; known are {known}")
    needed = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in fields]
    if missing:
        raise DataError(f"{where} lacks the field {missing[0]!r}; needed are {needed}")
    return cls(**fields)


def _segments(value: Any) -> tuple[Segment, ...]:
    many = value if isinstance(value, list | tuple) else (value,)
    return tuple(
        _build(Segment, item, "a segment") if isinstance(item, Mapping) else _segment(item)
        for item in many
    )


def _segment(item: Any) -> Segment:
    if not isinstance(item, Segment):
        raise TypeError(f"expected a segment, got {item!r}")
    return item


def _names(field: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{field} must hold column names, got {list(names)}")
    return names
