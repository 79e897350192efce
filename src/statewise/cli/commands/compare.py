"""``statewise compare``: models side by side on the same records."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise.cli.console import UsageError, output, print_json, say
from statewise.cli.options import parse
from statewise.cli.source import Columns

if TYPE_CHECKING:
    from statewise.data import Experiments

SUMMARY = """\
Set models side by side on the same records: fit, size and speed.

They run on the inputs alone (free run), and one step ahead.
"""
OWN = ("comparison.json", "comparison.png")
REPEATS = 3


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Options of ``statewise compare``."""

    models: Annotated[tuple[str, ...], Positional, arg(metavar="MODEL", help_behavior_hint="")]
    """Folders that fit, identify or reduce wrote, or saved models."""
    data: Annotated[str, arg(metavar="DATA")]
    """A file (CSV, Parquet, NPZ, MAT), "fulda", or the name of a benchmark."""
    window: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: that of a benchmark, else 64)")
    ] = None
    """First samples of each record whose measured outputs set the initial state."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder for comparison.json and the figure."""
    force: Annotated[bool, arg(help_behavior_hint="")] = False
    """Replace a result in the folder."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""
    columns: Annotated[Columns, OmitArgPrefixes] = dataclasses.field(default_factory=Columns)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(CompareOptions, arguments, "compare", SUMMARY)
    if not options.models:
        raise UsageError("name the models to compare")
    from statewise.cli.folder import load_estimator
    from statewise.cli.results import check_folder, plain, result_folder, save_figure, write_json

    if options.out is not None:
        check_folder(options.out, force=options.force, own=OWN)
    models = {name: load_estimator(name) for name in dict.fromkeys(options.models)}
    first = next(iter(models.values()))
    rows, runs, measured = [], {}, None
    for name, model in models.items():
        if model.output_names_ != first.output_names_:
            raise UsageError(
                f"{name} has the outputs {', '.join(model.output_names_)}, {options.models[0]} has "
                f"{', '.join(first.output_names_)}; the same outputs are needed"
            )
        say(f"running {name}")
        parts, about = _records(options, model)
        computed, seconds = _timed(model, parts)
        measured = measured or parts
        runs[name] = computed
        scores = [
            item.to_dict()
            for part, records in parts.items()
            for mode in ("simulation", 1)
            for item in model.evaluate(records, mode, split=part, **about)
        ]
        sizes = {"parameters": parameters(model), "states": states(model)}
        rows.append(
            {"model": name, "kind": type(model).__name__, **sizes, "seconds": seconds}
            | {"scores": scores}
        )
    found = plain({"data": options.data, "models": rows})
    if options.out is not None:
        from statewise.cli.comparison_figure import draw

        assert measured is not None
        part = next(iter(measured))
        figure = draw({name: run[part] for name, run in runs.items()}, measured[part], first)
        with result_folder(options.out, force=options.force, own=OWN) as folder:
            write_json(found, folder / "comparison.json")
            save_figure(figure, folder / "comparison.png")
    if options.json:
        print_json({"command": "compare", "out": options.out, **found})
        return
    _show(rows)
    if options.out is not None:
        output().print(
            f"figure  {Path(options.out) / 'comparison.png'}", markup=False, soft_wrap=True
        )


def parameters(model: Any) -> int:
    """Numbers that were fitted."""
    if hasattr(model, "equation_"):
        orders = model.equation_.orders
        n_y, n_u = len(model.output_names_), len(model.input_names_)
        return n_y * (orders.na * n_y + orders.nb * n_u + bool(model.bias))
    network = model if not hasattr(model, "normaliser_") or hasattr(model, "order_") else None
    return int((network or model.model_).n_parameters)


def states(model: Any) -> int:
    """Real numbers that a model carries from sample to sample."""
    if hasattr(model, "equation_"):
        orders = model.equation_.orders
        past = max(orders.nb + orders.nk - 1, 0) if orders.nb else 0
        return orders.na * len(model.output_names_) + past * len(model.input_names_)
    from statewise.nn.contract import state_tensors

    return sum(part[0].numel() for part in state_tensors(model.model_.init_state(1)))


def _records(options: CompareOptions, model: Any) -> tuple[dict[str, Experiments], dict[str, Any]]:
    from statewise.cli.results import with_context
    from statewise.cli.source import is_file, load_records

    records = load_records(
        options.data,
        options.columns,
        window=options.window,
        inputs=model.input_names_,
        outputs=model.output_names_,
        measured=True,
    )
    parts = records.parts
    if options.window is None and is_file(options.data):
        parts = {name: with_context(part, 64) for name, part in parts.items()}
    return parts, records.about


def _timed(model: Any, parts: dict[str, Experiments]) -> tuple[dict[str, Any], float]:
    """Free runs of all parts, and the least time for a sample in seconds."""
    samples, best = sum(part.n_samples for part in parts.values()), float("inf")
    computed: dict[str, Any] = {}
    for _ in range(REPEATS):
        started = time.perf_counter()
        computed = {name: model.simulate_experiments(part) for name, part in parts.items()}
        best = min(best, (time.perf_counter() - started) / samples)
    return computed, best


def _show(rows: list[dict[str, Any]]) -> None:
    from statewise.cli.linear_tables import table_of
    from statewise.cli.tables import number

    first = [one for one in rows[0]["scores"] if one["metric"] == "fit"]
    groups = dict.fromkeys((one["split"], one["channel"]) for one in first)
    parts, channels = ({pair[k] for pair in groups} for k in (0, 1))
    console = output()
    for split, channel in groups:
        cells = []
        unit = ""
        for row in rows:
            values = {
                (one["mode"], one["metric"]): one
                for one in row["scores"]
                if (one["split"], one["channel"]) == (split, channel)
            }
            rmse = values["simulation", "rmse"]
            unit = rmse["unit"]
            cells.append(
                [
                    row["model"],
                    number(values["simulation", "fit"]["value"]),
                    number(rmse["value"]),
                    number(values["1-step prediction", "fit"]["value"]),
                    str(row["parameters"]),
                    str(row["states"]),
                    number(1e6 * row["seconds"]),
                ]
            )
        words = [split] * (len(parts) > 1) + [channel] * (len(channels) > 1)
        names = ["model", "FIT [%]", f"RMSE [{unit}]" if unit else "RMSE", "1 step"]
        names += ["weights", "states", "µs"]
        console.print(table_of(": ".join(words) or channel, names, cells))
    console.print(
        "FIT and RMSE in free run, FIT 1 step ahead, time of a simulated sample",
        style="italic",
        markup=False,
    )
