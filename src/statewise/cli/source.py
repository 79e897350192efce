"""DATA on the command line: a file, the bundled record, or a benchmark by name."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from statewise._errors import DataError
from statewise.cli.console import UsageError

if TYPE_CHECKING:
    from statewise.data import Experiments, Task

BUNDLED = "fulda"
#: What messages of the library say, and what the user of a shell writes.
_SAID = {
    "pass inputs and outputs": "give --inputs and --outputs",
    "pass inputs (or [] for none)": "give --inputs",
    "test_fraction": "--test-fraction",
    "valid_fraction": "--valid-fraction",
    "test_records": "--test-records",
    "time and dt are both given": "--time and --dt are both given",
}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of a data file are what; found by their names where that is possible."""

    inputs: Annotated[tuple[str, ...] | None, arg(metavar="COL ...", help_behavior_hint="")] = None
    """Columns of the inputs."""
    outputs: Annotated[tuple[str, ...] | None, arg(metavar="COL ...", help_behavior_hint="")] = None
    """Columns of the outputs."""
    time: Annotated[str | None, arg(metavar="COL", help_behavior_hint="")] = None
    """Column of the time stamps."""
    record: Annotated[str | None, arg(metavar="COL", help_behavior_hint="")] = None
    """Column that tells the records of a long table apart."""
    dt: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """Sampling interval of a file without time stamps."""
    time_unit: Annotated[str | None, arg(metavar="UNIT", help_behavior_hint="")] = None
    """Unit of time, such as s or d."""
    data_folder: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the benchmark files; STATEWISE_DATA when not given."""


@dataclasses.dataclass(frozen=True)
class Split:
    """What is kept to judge the model. A benchmark brings its own split."""

    test_fraction: Annotated[
        float | None, arg(metavar="X", help_behavior_hint="(default: 0.3)")
    ] = None
    """Last part of every record, never shown to the model, that it is judged on."""
    valid_fraction: Annotated[
        float | None, arg(metavar="X", help_behavior_hint="(default: of the recipe)")
    ] = None
    """Last part of the rest, to stop the training at its best moment."""
    test_records: Annotated[
        tuple[str, ...] | None, arg(metavar="NAME ...", help_behavior_hint="")
    ] = None
    """Whole records to judge on, by name or number, instead of --test-fraction."""
    window: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 0)")] = None
    """First samples of the test that set the initial state and are not scored."""
    context: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: washout)")] = None
    """Samples of history before validation and test, for the initial state."""


@dataclasses.dataclass(frozen=True)
class Records:
    """Records to run a model on.

    Attributes:
        parts: by the name of their part, ``"data"`` for a file.
        about: unit and scale of errors, arguments of ``evaluate``.
    """

    parts: dict[str, Experiments]
    about: dict[str, Any]


def is_file(data: str) -> bool:
    """Whether DATA is a local file, which goes before a name; raises when it is nothing at all.

    Raises:
        UsageError: neither a file nor a name; the message has the nearest names.
    """
    from statewise.data import benchmarks

    path = Path(data).expanduser()
    if path.is_file():
        return True
    if path.is_dir():
        raise UsageError(f"{data} is a folder; expected a data file")
    names = (BUNDLED, *benchmarks.available())
    if data in names:
        return False
    if path.suffix or os.sep in data:
        beside = _neighbours(path)
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
        raise UsageError(f"there is no file {data}{hint}")
    near = difflib.get_close_matches(data.casefold(), names, n=3, cutoff=0.6)
    if near:
        hint = f"; did you mean {' or '.join(near)}?"
    else:
        hint = f"; names are {', '.join(_families(names))}"
    raise UsageError(f"{data!r} is neither a file nor the name of a benchmark{hint}")


def read_file(data: str, columns: Columns, **replaced: Any) -> Experiments:
    """Read a data file.

    Args:
        data: path of the file.
        columns: what the user said of its columns.
        **replaced: arguments of ``Experiments.from_file`` that go before those of the user.
    """
    from statewise.data import Experiments

    asked = {
        "inputs": columns.inputs,
        "outputs": columns.outputs,
        "time": columns.time,
        "record": columns.record,
        "dt": columns.dt,
        "time_unit": columns.time_unit,
    }
    with _in_options():
        return Experiments.from_file(Path(data).expanduser(), **{**asked, **replaced})


def load_task(data: str, columns: Columns, split: Split, *, washout: int, valid: float) -> Task:
    """Pose the identification problem of DATA.

    Args:
        data: file or name.
        columns: what the columns of a file are.
        split: how a file is split; a benchmark brings its own split.
        washout: samples of history that a part gets when the user does not say.
        valid: part for validation when the user does not say.

    Raises:
        UsageError: options that do not go with a benchmark.
        DataError: data that cannot be read or are too short.
        ValueError: fractions out of range.
    """
    from statewise.data import Task

    if not is_file(data):
        return _named_task(data, columns, split)
    experiments = read_file(data, columns)
    _check_samples(data, experiments)
    context = split.context
    if context is None:
        # History must leave something to learn from in short records.
        context = min(washout, min(len(record) for record in experiments) // 4)
    chosen = split.test_records
    keys = None if chosen is None else [_record_key(one, experiments) for one in chosen]
    with _in_options():
        return Task.from_experiments(
            experiments,
            test_fraction=0.3 if split.test_fraction is None else split.test_fraction,
            valid_fraction=valid if split.valid_fraction is None else split.valid_fraction,
            context=context,
            window=split.window or 0,
            test_records=keys,
            name=Path(data).name.split(".")[0],
            source=Path(data).name,
        )


@contextlib.contextmanager
def _in_options() -> Iterator[None]:
    """Let messages of the library speak of options instead of arguments."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for argument, option in _SAID.items():
            text = text.replace(argument, option)
        kind = DataError if isinstance(error, DataError) else UsageError
        raise kind(text) from error


def _named_task(name: str, columns: Columns, split: Split) -> Task:
    from statewise.data import benchmarks, fulda_task

    given = [
        f"--{field.name}".replace("_", "-")
        for part in (columns, split)
        for field in dataclasses.fields(part)
        if getattr(part, field.name) is not None
    ]
    fitting = {"--data-folder", "--valid-fraction", "--context"} if name != BUNDLED else set()
    wrong = [option for option in given if option not in fitting]
    if wrong:
        raise UsageError(f"{wrong[0]} is for data files; {name} brings its own columns and split")
    if name == BUNDLED:
        return fulda_task()
    return benchmarks.load(
        name,
        columns.data_folder,
        valid_fraction=split.valid_fraction,
        valid_context=split.context,
    )


def load_records(
    data: str,
    columns: Columns,
    *,
    window: int | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    measured: bool,
) -> Records:
    """Read records to run a model on.

    Args:
        data: file or name; of a named task these are the test sets.
        columns: what the columns of a file are; the names that the model knows when not given.
        window: leading samples that set the initial state; None takes that of the task, or 0.
        inputs: names of the model's inputs.
        outputs: names of its outputs.
        measured: whether measured outputs must be there; otherwise they are read when they are.

    Returns:
        The records; without measured outputs their ``n_y`` is 0.
    """
    from statewise.data import describe_file

    if not is_file(data):
        task = _named_task(data, columns, Split())
        parts = {name: _windowed(test, window) for name, test in task.test.items()}
        return Records(parts, {"scale": task.scale, "unit": task.unit} if task.unit else {})
    asked: dict[str, Any] = {"inputs": columns.inputs or inputs}
    asked["outputs"] = columns.outputs or outputs
    if columns.outputs is None and not measured:
        held = {column.name for column in describe_file(Path(data).expanduser()).columns}
        if not held.issuperset(outputs):
            asked["outputs"] = []
    return Records({"data": _windowed(read_file(data, columns, **asked), window)}, {})


def _windowed(experiments: Experiments, window: int | None) -> Experiments:
    if window is None:
        return experiments
    if window < 0:
        raise UsageError(f"--window is a number of samples, 0 or more; given {window}")
    return experiments.map(lambda record: dataclasses.replace(record, skip=window))


def _record_key(word: str, experiments: Experiments) -> str | int:
    if word in [record.name for record in experiments] or not word.lstrip("-").isdigit():
        return word
    return int(word)


def _check_samples(data: str, experiments: Experiments) -> None:
    if min(len(record) for record in experiments) < 10:
        raise DataError(
            f"{data} has a record of {min(len(record) for record in experiments)} samples, too few "
            "to identify a model and judge it; expected at least 10"
        )


def _families(names: Sequence[str]) -> list[str]:
    """Names in which a family such as daisy_… stands once."""
    firsts = Counter(name.partition("_")[0] for name in names)
    shown = (
        f"{first}_*" if firsts[first := name.partition("_")[0]] > 5 else name for name in names
    )
    return list(dict.fromkeys(shown))


def _neighbours(path: Path) -> list[str]:
    try:
        return [one.name for one in path.parent.iterdir() if one.is_file()][:1000]
    except OSError:
        return []
