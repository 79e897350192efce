"""``statewise analyze``: what a model has learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise.cli.console import UsageError, output, print_json, say
from statewise.cli.options import parse
from statewise.cli.source import Columns

if TYPE_CHECKING:
    from statewise.analysis import InUnits
    from statewise.data import Experiments

SUMMARY = """\
Say what a model has learnt: poles, time constants, gains and memory.

With --data also which inputs its outputs depend on, and how long ago.
"""
OWN = ("analysis.json", "*.png")
_AT = "Constant inputs to linearise at, one for each input; those of the training on average."


@dataclasses.dataclass(frozen=True)
class AnalyzeOptions:
    """Options of ``statewise analyze``."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """The folder that fit or identify wrote, or a saved model."""
    data: Annotated[str | None, arg(metavar="DATA", help_behavior_hint="")] = None
    """A file (CSV, Parquet, NPZ, MAT), "fulda", or the name of a benchmark."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder for analysis.json and the figures."""
    at: Annotated[
        tuple[float, ...] | None, arg(metavar="X ...", help=_AT, help_behavior_hint="")
    ] = None
    force: Annotated[bool, arg(help_behavior_hint="")] = False
    """Replace a result in the folder."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""
    columns: Annotated[Columns, OmitArgPrefixes] = dataclasses.field(default_factory=Columns)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(AnalyzeOptions, arguments, "analyze", SUMMARY)
    from statewise.cli.answers import ask, figures
    from statewise.cli.folder import load_estimator
    from statewise.cli.results import check_folder, plain, result_folder, save_figure, write_json

    if options.out is not None:
        check_folder(options.out, force=options.force, own=OWN)
    model = load_estimator(options.model)
    layer = in_units(model, options.model)
    at = options.at
    if at is not None and len(at) != layer.d_input:
        names = ", ".join(model.input_names_)
        raise UsageError(f"--at takes {layer.d_input} numbers ({names}); given {len(at)}")
    records = None if options.data is None else _records(options, model)
    say(f"asking {options.model}")
    answers = ask(model, layer, records, at)
    found = plain({"model": options.model, **answers.numbers})
    if options.out is not None:
        with result_folder(options.out, force=options.force, own=OWN) as folder:
            write_json(found, folder / "analysis.json")
            for name, figure in figures(answers).items():
                save_figure(figure, folder / f"{name}.png")
    if options.json:
        print_json({"command": "analyze", "out": options.out, **found})
        return
    from statewise.cli.analysis_tables import show

    show(output(), found)
    if options.out is not None:
        output().print(
            f"numbers {Path(options.out) / 'analysis.json'}", markup=False, soft_wrap=True
        )


def in_units(model: Any, path: str) -> InUnits:
    """The network or system of an estimator between signals in their units.

    Raises:
        UsageError: an estimator without one.
    """
    from statewise.analysis import InUnits

    if not hasattr(model, "model_"):
        raise UsageError(
            f"{path} holds a {type(model).__name__}; what fit and identify linear wrote can be "
            f"analyzed"
        )
    return InUnits(model.model_, model.normaliser_)


def _records(options: AnalyzeOptions, model: Any) -> Experiments:
    """The first part of the data, of which the inputs are used."""
    from statewise.cli.source import load_records

    records = load_records(
        options.data or "",
        options.columns,
        window=None,
        inputs=model.input_names_,
        outputs=model.output_names_,
        measured=False,
    )
    part = next(iter(records.parts.values()))
    if part.n_u != len(model.input_names_):
        raise UsageError(
            f"{options.data} gives {part.n_u} inputs; the model has {len(model.input_names_)} "
            f"({', '.join(model.input_names_)})"
        )
    return part
