"""``statewise demo``: the whole way on the bundled record."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from statewise.cli.console import UsageError, output, say
from statewise.cli.options import parse

SUMMARY = """\
Identify ten years of discharge of the river Fulda from the weather.

Writes the record as CSV, the model and its report. Takes a few minutes.
"""
RECIPE = "river"


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """Options of ``statewise demo``."""

    out: Annotated[str, arg(metavar="DIR")] = "demo-out"
    """Folder for the record, the model and the report; an earlier demo in it is replaced."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the initial weights and of the training."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Training steps, to see it run in seconds; fewer than the recipe's give a worse model."""
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on with an interrupted demo in the folder."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(DemoOptions, arguments, "demo", SUMMARY)
    from statewise.cli.commands.fit import FitOptions, run_settings
    from statewise.cli.folder import RunFolder
    from statewise.cli.identify import Job, identify, show_result
    from statewise.cli.signals import record_columns, write_columns
    from statewise.data import fulda_task, load_fulda
    from statewise.estimators.recipes import RECIPES

    if options.seed < 0:
        raise UsageError(f"--seed is 0 or more; given {options.seed}")
    recipe = RECIPES[RECIPE]
    if options.steps is not None:
        training = dataclasses.replace(recipe.training, steps=options.steps)
        recipe = dataclasses.replace(recipe, training=training)
    asked = FitOptions("fulda", out=options.out, recipe=RECIPE, seed=options.seed)
    settings = {"demo": True, **run_settings(asked, recipe, file=False)}
    folder = RunFolder(options.out)
    found = folder.read()
    ours = found is not None and bool(found["settings"].get("demo"))
    done = folder.finished(settings, force=ours and not options.resume, resume=options.resume)
    record = folder.path / "fulda.csv"
    if not done:
        if not options.resume:
            folder.clear()
        write_columns(record_columns(load_fulda()), record)
        say(f"record: {record}")
        kept = [word for word in arguments if word not in ("--resume", "--json")]
        identify(
            Job(
                task=fulda_task(),
                recipe=recipe,
                seed=options.seed,
                device="cpu",
                folder=folder,
                command=shlex.join(["statewise", "demo", *kept]),
                settings=settings,
                ahead=(1,),
                resume=options.resume,
            )
        )
    show_result(folder, as_json=options.json, command="demo")
    if not options.json:
        _next_steps(record, folder.path)


def _next_steps(record: Path, folder: Path) -> None:
    inputs = "Prec tmean tmax tmin"
    file, model = shlex.quote(str(record)), shlex.quote(str(folder))
    lines = [
        "",
        "next, on the record as a file, and with the model:",
        f"  statewise data describe {file}",
        f"  statewise fit {file} --inputs {inputs} --outputs Q --recipe {RECIPE}",
        f"  statewise simulate {model} {file} --out simulated.csv",
    ]
    console = output()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
