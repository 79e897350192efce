"""What the commands share that use a model which is there."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise.cli.source import Columns, Records

if TYPE_CHECKING:
    from statewise.data import Experiments

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
    from statewise.cli.console import print_json, say
    from statewise.cli.signals import check_path, print_columns, signal_columns, write_columns

    path = check_path(options.out)
    columns = signal_columns(
        parts, computed, word=word, names=model.output_names_, units=model.output_units_
    )
    samples = sum(part.n_samples for part in parts.values())
    if path is not None:
        write_columns(columns, path)
    if options.json:
        found: dict[str, Any] = {"command": command, "model": options.model, "data": options.data}
        found |= {"samples": samples, "columns": list(columns)}
        found |= {"out": path} if path is not None else {"values": columns}
        print_json(found)
    elif path is not None:
        say(f"{samples} samples written to {path}")
    else:
        print_columns(columns)
