"""A ready identification problem: data to learn from, data to be judged on, and how to judge."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from statewise._errors import DataError
from statewise.data.experiments import Experiments
from statewise.data.record import Record

METRICS = frozenset({"rmse", "mae", "nrmse", "fit", "fit_percent", "r2", "nse", "vaf"})


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """An identification problem with its split, initialisation window, metric and unit.

    A model learns from ``train``, is chosen on ``valid`` and is judged once on each entry of
    ``test``. The first ``skip`` samples of a valid or test record are given (inputs and outputs) to
    find the initial state and are not scored; after them the model sees inputs only.

    Args:
        name: short name of the problem.
        train: records to learn from.
        valid: records to choose a model with, or None.
        test: the test sets by name; ``skip`` of each record is its initialisation window.
        metric: ``"rmse"``, ``"mae"``, ``"nrmse"``, ``"fit"`` (``"fit_percent"``), ``"r2"``
            (``"nse"``) or ``"vaf"``, see :mod:`statewise.data.metrics`.
        unit: unit of the reported number, empty when it has none.
        scale: reported number = ``scale`` times the metric in the data's own unit (1000 turns V
            into mV).
        references: published numbers in ``unit``: method → {test name: number}.
        description: what the system is.
        source: where the data come from.
        licence: the terms of the data.

    Raises:
        ValueError: no test set, an unknown metric or test name, a scale that is not positive.
        DataError: the parts differ in channels.
    """

    name: str
    train: Experiments
    valid: Experiments | None
    test: dict[str, Experiments]
    metric: str = "rmse"
    unit: str = ""
    scale: float = 1.0
    references: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    description: str = ""
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(
                f"metric {self.metric!r} is not known; expected one of {sorted(METRICS)}"
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a positive number, got {self.scale!r}")
        if not self.test:
            raise ValueError(f"task {self.name!r} has no test set")
        for method, values in self.references.items():
            unknown = sorted(set(values) - set(self.test))
            if unknown:
                raise ValueError(
                    f"references of {method!r} name the test sets {unknown}, "
                    f"but task {self.name!r} has {sorted(self.test)}"
                )
        for part, experiments in self._parts().items():
            _check_part(self.name, part, experiments, self.train)

    def _parts(self) -> dict[str, Experiments]:
        parts = {"train": self.train}
        if self.valid is not None:
            parts["valid"] = self.valid
        return parts | {f"test {name}": test for name, test in self.test.items()}

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{part}: {len(exps)} x {max(len(r) for r in exps)}"
            for part, exps in self._parts().items()
        )
        return (
            f"Task({self.name!r}, {self.train.n_u} inputs, {self.train.n_y} outputs, "
            f"{sizes}, {self.metric}{f' [{self.unit}]' if self.unit else ''})"
        )

    @classmethod
    def from_train_test(
        cls,
        name: str,
        train: Experiments,
        test: Mapping[str, Experiments],
        *,
        window: int = 0,
        valid_fraction: float = 0.2,
        valid_context: int | None = None,
        **about: Any,
    ) -> Task:
        """Build a task from a train and test split that is already there.

        Validation data are the last ``valid_fraction`` of each training record.

        Args:
            name: name of the task.
            train: all records that may be learnt from.
            test: the test sets by name.
            window: leading samples of each test record that are given and not scored, added to
                the ``skip`` that the record has.
            valid_fraction: part of each training record kept for validation, 0 for none.
            valid_context: training samples before each validation part that are given for its
                initial state; the window when None. They are history that the training part
                holds too, so none of them is scored.
            **about: the remaining fields of :class:`Task`.

        Raises:
            ValueError: a fraction outside [0, 1) or a negative window.
            DataError: a record too short for the split.
        """
        _check_count("window", window)
        _check_fraction("valid_fraction", valid_fraction, zero=True)
        valid = None
        if valid_fraction > 0:
            context = window if valid_context is None else valid_context
            _check_count("valid_context", context)
            train, valid = _split_tail(train, valid_fraction, context)
        tests = {key: _widen_skip(exps, window) for key, exps in test.items()}
        return cls(name=name, train=train, valid=valid, test=tests, **about)

    @classmethod
    def from_experiments(
        cls,
        experiments: Experiments,
        *,
        test_fraction: float = 0.3,
        valid_fraction: float = 0.2,
        context: int = 0,
        window: int = 0,
        test_records: Sequence[int | str] | None = None,
        valid_records: Sequence[int | str] | None = None,
        name: str = "task",
        test_name: str = "test",
        **about: Any,
    ) -> Task:
        """Split records into training, validation and test data, by time or by record.

        By time (the default): the last ``test_fraction`` of each record is test data, the last
        ``valid_fraction`` of what is left is validation data, the rest is training data. By
        record: ``test_records`` names whole records to test on (and ``valid_records`` those to
        validate on; without it validation data are cut from the training records by time).

        Args:
            experiments: the records.
            test_fraction: part of each record to test on, in (0, 1); unused with
                ``test_records``.
            valid_fraction: part of the training samples to validate on, in [0, 1); unused with
                ``valid_records``.
            context: samples of history before a part that starts inside a record, given for the
                initial state and not scored, so that every sample of the part itself is scored.
            window: samples at the start of each test record (after the context) that are given
                and not scored either.
            test_records: indices or names of the records to test on.
            valid_records: indices or names of the records to validate on.
            name: name of the task.
            test_name: name of the test set.
            **about: the remaining fields of :class:`Task`.

        Raises:
            ValueError: a fraction out of range, a negative context or window, an unknown or doubly
                used record.
            DataError: a record too short for the split.
        """
        _check_count("context", context)
        _check_count("window", window)
        history = max(context, window)
        if test_records is None:
            if valid_records is not None:
                raise ValueError("valid_records needs test_records: split by time or by record")
            _check_fraction("test_fraction", test_fraction)
            rest, test = _split_tail(experiments, test_fraction, context)
        else:
            chosen = _indices(experiments, test_records, "test_records")
            held = (
                []
                if valid_records is None
                else _indices(experiments, valid_records, "valid_records")
            )
            twice = sorted(set(chosen) & set(held))
            if twice:
                raise ValueError(f"records {twice} are in test_records and in valid_records")
            others = [i for i in range(len(experiments)) if i not in {*chosen, *held}]
            if not others:
                raise ValueError(f"no record of {len(experiments)} is left to train on")
            rest, test = _pick(experiments, others), _pick(experiments, chosen)
            if held:
                return cls(
                    name=name,
                    train=rest,
                    valid=_widen_skip(_pick(experiments, held), window),
                    test={test_name: _widen_skip(test, window)},
                    **about,
                )
        return cls.from_train_test(
            name,
            rest,
            {test_name: test},
            window=window,
            valid_fraction=valid_fraction,
            valid_context=history,
            **about,
        )

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        inputs: Sequence[str] | str | None = None,
        outputs: Sequence[str] | str | None = None,
        *,
        time: str | None = None,
        record: str | None = None,
        dt: float | None = None,
        **split: Any,
    ) -> Task:
        """Read a file with :meth:`Experiments.from_file` and split it.

        Args:
            path: CSV, TSV, Parquet, NPZ or MAT file.
            inputs: input columns.
            outputs: output columns.
            time: column of time stamps.
            record: column that tells records apart.
            dt: sampling interval of an evenly sampled file without time stamps.
            **split: arguments of :meth:`from_experiments`; the name defaults to the file's.

        Raises:
            DataError: the file cannot be understood.
            ValueError: see :meth:`from_experiments`.
        """
        experiments = Experiments.from_file(path, inputs, outputs, time=time, record=record, dt=dt)
        split.setdefault("name", os.path.basename(os.fspath(path)).split(".")[0])
        split.setdefault("source", os.path.basename(os.fspath(path)))
        return cls.from_experiments(experiments, **split)


def _split_tail(
    experiments: Experiments, fraction: float, context: int
) -> tuple[Experiments, Experiments]:
    head, tail = experiments.split_time((1.0 - fraction, fraction), context=context)
    return head, tail


def _widen_skip(experiments: Experiments, window: int) -> Experiments:
    if window == 0:
        return experiments
    return experiments.map(lambda record: _shift_skip(record, window))


def _shift_skip(record: Record, window: int) -> Record:
    if record.skip + window >= len(record):
        raise DataError(
            f"record {record.name!r} has {len(record)} samples, of which {record.skip} are context "
            f"and {window} the initialisation window: none is left to score"
        )
    return record.with_fields(skip=record.skip + window)


def _pick(experiments: Experiments, indices: Sequence[int]) -> Experiments:
    return Experiments.concat([experiments[i : i + 1] for i in indices])


def _indices(experiments: Experiments, records: Sequence[int | str], argument: str) -> list[int]:
    names = [record.name for record in experiments]
    found = []
    for key in records:
        if isinstance(key, str):
            if names.count(key) != 1:
                raise ValueError(
                    f"{argument} names {key!r}, expected exactly one of the records {names}"
                )
            found.append(names.index(key))
        elif -len(names) <= key < len(names):
            found.append(key % len(names))
        else:
            raise ValueError(f"{argument} has {key}, but there are {len(names)} records")
    if not found:
        raise ValueError(f"{argument} names no record")
    if len(set(found)) != len(found):
        raise ValueError(f"{argument} has a record twice: {list(records)}")
    return found


def _check_fraction(name: str, value: float, *, zero: bool = False) -> None:
    if not (0 < value < 1 or (zero and value == 0)):
        raise ValueError(f"{name} must be in {'[0' if zero else '(0'}, 1), got {value!r}")


def _check_count(name: str, value: int) -> None:
    if value < 0 or value != int(value):
        raise ValueError(f"{name} must be a whole number of samples, 0 or more, got {value!r}")


def _check_part(task: str, part: str, experiments: Experiments, train: Experiments) -> None:
    if (experiments.n_u, experiments.n_y) != (train.n_u, train.n_y):
        raise DataError(
            f"the {part} part of task {task!r} has {experiments.n_u} inputs and "
            f"{experiments.n_y} outputs, the training part {train.n_u} and {train.n_y}"
        )
