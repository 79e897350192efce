"""``statewise reduce``: fewer states at a given order or loss of fit."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise.cli.console import UsageError, output, print_json, say
from statewise.cli.options import parse
from statewise.cli.source import Columns, Split

if TYPE_CHECKING:
    from statewise.data import Experiments

SUMMARY = """\
Make a model smaller: fewer states in its linear systems.

Orders are given (--to) or found from a loss of fit (--tolerance) on DATA.

Without --data it is done on the validation part of the data of the fit.
"""
OWN = ("model", "reduction.json", "reduction.png", "run.json")
Method = Literal[
    "balanced-truncation",
    "singular-perturbation",
    "modal-truncation",
    "modal-singular-perturbation",
    "h2-optimal",
]
_TO = "States to keep in every linear system, or a fraction such as 0.25; one for all or for each."
_OUT = arg(metavar="DIR", help_behavior_hint="(default: MODEL-reduced)")


@dataclasses.dataclass(frozen=True)
class ReduceOptions:
    """Options of ``statewise reduce``."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """The folder that fit or identify wrote, or a saved model."""
    to: Annotated[tuple[str, ...] | None, arg(metavar="N ...", help=_TO, help_behavior_hint="")] = (
        None
    )
    tolerance: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """Largest loss of fit on DATA, in points of FIT."""
    method: Method = "balanced-truncation"
    """How a linear system is reduced; only h2-optimal has no error bound."""
    data: Annotated[str | None, arg(metavar="DATA", help_behavior_hint="")] = None
    """A file, "fulda", or a benchmark; not what the model will be judged on."""
    window: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 64)")] = None
    """First samples of each record of DATA that set the initial state."""
    out: Annotated[str | None, _OUT] = None
    """Folder for the reduced model, its numbers and a figure."""
    force: Annotated[bool, arg(help_behavior_hint="")] = False
    """Replace a result in the folder."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""
    columns: Annotated[Columns, OmitArgPrefixes] = dataclasses.field(default_factory=Columns)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(ReduceOptions, arguments, "reduce", SUMMARY)
    if (options.to is None) == (options.tolerance is None):
        raise UsageError("one of --to and --tolerance is needed, and not both")
    to = None if options.to is None else [_size(word) for word in options.to]
    if options.tolerance is not None and not options.tolerance >= 0:
        raise UsageError(f"--tolerance is 0 or more points of FIT; given {options.tolerance}")
    from statewise.cli.folder import RunFolder, find_model, load_estimator
    from statewise.cli.results import check_folder, plain, result_folder, save_figure, write_json

    out = options.out or f"{options.model.rstrip('/')}-reduced"
    check_folder(out, force=options.force, own=OWN)
    place = find_model(options.model)
    model: Any = load_estimator(options.model)
    note = RunFolder(place.parent if place.name == "model" else place).read()
    parts = _parts(options, {} if note is None else note["settings"], model)
    from statewise.estimators import reduce_states

    first = next(iter(parts.values()))
    say(f"reducing on {first.n_samples} samples by {options.method}")
    one = to[0] if to is not None and len(to) == 1 else to
    try:
        smaller, found = reduce_states(
            model, first, to=one, tolerance=options.tolerance, method=_method(options.method)
        )
    except TypeError as error:
        raise UsageError(str(error)) from error
    numbers = plain(
        {
            "model": options.model,
            "method": options.method,
            "removed": found.removed,
            "parameters_before": found.parameters_before,
            "parameters_after": found.parameters_after,
            "blocks": list(found.blocks),
            "untouched": list(found.untouched),
            "scores_before": _scores(model, parts),
            "scores_after": _scores(smaller, parts),
        }
    )
    kept = [word for word in arguments if word not in ("--force", "--json")]
    run_note = {"format": 1, "finished": True, "settings": {} if note is None else note["settings"]}
    run_note["command"] = shlex.join(["statewise", "reduce", *kept])
    with result_folder(out, force=options.force, own=OWN) as folder:
        smaller.save(folder / "model")
        write_json(numbers, folder / "reduction.json")
        (folder / "run.json").write_text(json.dumps(run_note, indent=2) + "\n", encoding="utf-8")
        save_figure(found.plot(), folder / "reduction.png")
    if options.json:
        print_json({"command": "reduce", "out": out, **numbers})
        return
    _show(numbers)
    output().print(f"model   {Path(out) / 'model'}", markup=False, soft_wrap=True)
    output().print(f"figure  {Path(out) / 'reduction.png'}", markup=False, soft_wrap=True)


def _parts(options: ReduceOptions, kept: dict[str, Any], model: Any) -> dict[str, Experiments]:
    """Records by the name of their part; orders are found on the first."""
    from statewise.cli.results import with_context
    from statewise.cli.source import load_records
    from statewise.cli.using import task_of

    if options.data is None:
        if not (kept.get("file") or kept.get("data")):
            raise UsageError(
                f"{options.model} does not say which data it was made of; give --data as well"
            )
        task = task_of(options.model, kept, model, None, options.columns, Split())
        if task.valid is None:
            return {"train": task.train, **task.test}
        return {"validation": task.valid, **task.test}
    records = load_records(
        options.data,
        options.columns,
        window=options.window,
        inputs=model.input_names_,
        outputs=model.output_names_,
        measured=True,
    )
    if options.window is not None:
        return records.parts
    return {name: with_context(part, 64) for name, part in records.parts.items()}


def _scores(model: Any, parts: dict[str, Experiments]) -> list[dict[str, Any]]:
    return [
        item.to_dict()
        for name, part in parts.items()
        for mode in ("simulation", 1)
        for item in model.evaluate(part, mode, split=name)
    ]


def _method(name: str) -> Any:
    from statewise import compress

    words = "".join(word.capitalize() for word in name.split("-"))
    return getattr(compress, words)()


def _size(word: str) -> int | float:
    try:
        return int(word) if word.lstrip("+-").isdecimal() else float(word)
    except ValueError:
        raise UsageError(f"--to takes numbers of states or fractions; given {word!r}") from None


def _show(numbers: dict[str, Any]) -> None:
    from statewise.cli.linear_tables import table_of
    from statewise.cli.tables import number

    console = output()
    rows = [
        [
            one["name"],
            f"{one['order_before']} > {one['order_after']}",
            f"{one['states_before']} > {one['states_after']}",
            number(one["gain"]),
            number(one["error"]),
            "none" if one["bound"] is None else number(one["bound"]),
        ]
        for one in numbers["blocks"]
    ]
    names = ["system", "order", "states", "gain", "error", "bound"]
    console.print(table_of("linear systems (order: real states)", names, rows))
    console.print(_change(numbers["scores_before"], numbers["scores_after"]))
    before, after = numbers["parameters_before"], numbers["parameters_after"]
    console.print(
        f"{100 * numbers['removed']:.0f} % of the states removed, {before} > {after} parameters",
        markup=False,
    )
    if numbers["untouched"]:
        console.print(f"as they were: {', '.join(numbers['untouched'])}", markup=False)


def _change(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Any:
    """FIT before and after, by part and output."""
    from statewise.cli.linear_tables import table_of
    from statewise.cli.tables import number

    rows: dict[tuple[str, str], list[str]] = {}
    for old, new in zip(before, after, strict=True):
        if old["metric"] == "fit":
            cells = rows.setdefault((old["split"], old["channel"]), [])
            cells += [number(old["value"]), number(new["value"])]
    names = ["data", "output", "free run before", "after", "1 step before", "after"]
    return table_of("FIT [%]", names, [[*key, *cells] for key, cells in rows.items()], left=2)
