"""What the commands share that use a model which is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise.cli.source import BUNDLED, Columns, Records, Split

if TYPE_CHECKING:
    from statewise.data import Experiments, Task

#: Relative difference of sampling intervals that is not worth a word.
_SAME_STEP = 0.01
_WINDOW = arg(metavar="N", help_behavior_hint="(default: that of a benchmark, else 0)")


@dataclasses.dataclass(frozen=True)
class UseOptions:
    """Options of the commands that run a model on data."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """The folder that fit wrote, or a saved model."""
    data: Annotated[str, Positional, arg(metavar="DATA")]
    """A file (CSV, Parquet, NPZ, MAT), "fulda", or the name of a benchmark."""
    window: Annotated[int | None, _WINDOW] = None
    """First samples of each record whose measured outputs set the initial state."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""
    columns: Annotated[Columns, OmitArgPrefixes] = dataclasses.field(default_factory=Columns)


@dataclasses.dataclass(frozen=True)
class OutputOptions(UseOptions):
    """Options of the commands that write signals."""

    out: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write to this .csv, .parquet or .npz file instead of standard output."""


def open_model(options: UseOptions, *, measured: bool) -> tuple[Any, Records]:
    """Load model and records.

    Args:
        options: what the command line asks for.
        measured: whether the records must hold measured outputs.

    Returns:
        The estimator and the records.

    Raises:
        UsageError: no model, or DATA that is nothing.
        DataError: data that do not fit the model.
    """
    from statewise._errors import DataError
    from statewise.cli.folder import load_estimator
    from statewise.cli.source import load_records

    model = load_estimator(options.model)
    records = load_records(
        options.data,
        options.columns,
        window=options.window,
        inputs=model.input_names_,
        outputs=model.output_names_,
        measured=measured,
    )
    for part in records.parts.values():
        for what, known, given in (
            ("input", model.input_names_, part.input_names if part.n_u else ()),
            ("output", model.output_names_, part.output_names if part.n_y else ()),
        ):
            if len(known) != len(given) and (what == "input" or part.n_y):
                raise DataError(
                    f"{options.data} gives {len(given)} {what}s ({', '.join(given) or 'none'}); "
                    f"the model has {len(known)} ({', '.join(known)})"
                )
        _tell_interval(part, model)
    return model, records


def _tell_interval(part: Experiments, model: Any) -> None:
    """Say when the data are sampled otherwise than the training data, which the model heeds."""
    from statewise.cli.console import say
    from statewise.data.timeaxis import SECONDS

    ours, theirs = model.time_unit_, part.time_unit
    if model.dt_ is None or part.nominal_dt is None or not {ours, theirs} <= set(SECONDS):
        return
    if abs(part.nominal_dt * SECONDS[theirs] / (model.dt_ * SECONDS[ours]) - 1) > _SAME_STEP:
        say(
            f"the data are sampled every {part.nominal_dt:.4g} {theirs}, the model was trained at "
            f"{model.dt_:.4g} {ours}"
        )


def task_of(
    path: str, kept: dict[str, Any], model: Any, data: str | None, columns: Columns, split: Split
) -> Task:
    """The data and split that a model was made of, with what the options say instead.

    Args:
        path: the model as the user named it.
        kept: settings in its ``run.json``; empty without one.
        model: the estimator.
        data: DATA that the user gave, or None.
        columns: what the user said of its columns.
        split: what the user said of its split.

    Raises:
        UsageError: a model that does not say which data it was made of.
        DataError: data that are gone.
    """
    from statewise._errors import DataError
    from statewise.cli.console import UsageError
    from statewise.cli.source import load_task

    name = data or kept.get("file") or kept.get("data")
    if not name:
        raise UsageError(f"{path} does not say which data it was made of; give DATA as well")
    if data is None and kept.get("file") and not Path(name).is_file():
        raise DataError(f"the data of the fit, {name}, are gone; give DATA as well")
    # The bundled record brings its own columns and split; a recipe's must not stand against them.
    asked = {} if name == BUNDLED and not Path(name).is_file() else kept
    parts = []
    for part in (columns, split):
        given = dataclasses.asdict(part)
        fallen_back = {
            key: value if value is not None else _tuple(asked.get(key))
            for key, value in given.items()
        }
        parts.append(type(part)(**fallen_back))
    columns, split = parts
    if Path(name).is_file():
        columns = dataclasses.replace(
            columns,
            inputs=columns.inputs or model.input_names_,
            outputs=columns.outputs or model.output_names_,
        )
    washout = kept.get("training.washout", 0)
    return load_task(
        name, columns, split, washout=washout, valid=getattr(model, "valid_fraction", 0.2)
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def unmeasured(part: Experiments, n_y: int) -> Experiments:
    """Records with ``n_y`` outputs that are missing throughout where there are none."""
    import numpy as np

    if part.n_y:
        return part
    return part.map(
        lambda record: dataclasses.replace(record, y=np.full((len(record), n_y), np.nan))
    )


def deliver(
    options: OutputOptions,
    command: str,
    model: Any,
    parts: dict[str, Experiments],
    computed: dict[str, list[Any]],
    word: str,
) -> None:
    """Write computed outputs to the file, as CSV to standard output, or as JSON."""
    from statewise.cli.signals import signal_columns

    columns = signal_columns(
        parts, computed, word=word, names=model.output_names_, units=model.output_units_
    )
    hand_over(options, command, columns, {})


def hand_over(
    options: OutputOptions, command: str, columns: dict[str, Any], more: dict[str, Any]
) -> None:
    """Write columns to the file, as CSV to standard output, or as JSON with ``more`` in it."""
    from statewise.cli.console import print_json, say
    from statewise.cli.signals import check_path, print_columns, write_columns

    path = check_path(options.out)
    samples = len(next(iter(columns.values())))
    if path is not None:
        write_columns(columns, path)
    if options.json:
        found: dict[str, Any] = {"command": command, "model": options.model, "data": options.data}
        found |= {"samples": samples, "columns": list(columns), **more}
        found |= {"out": path} if path is not None else {"values": columns}
        print_json(found)
    elif path is not None:
        say(f"{samples} samples written to {path}")
    else:
        print_columns(columns)
