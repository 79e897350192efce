"""``statewise fit``: identify a model from measured inputs and outputs."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise.cli.console import UsageError
from statewise.cli.options import parse
from statewise.cli.settings import flat_settings, recipe_from, recipe_options
from statewise.cli.source import Columns, Split
from statewise.estimators.recipes import RECIPES

SUMMARY = """\
Identify a model from measured inputs and outputs.

It is judged in free run on data it never saw, beside linear baselines.
"""
_RECIPES = f"Settings to start from: {', '.join(RECIPES)}."
_THREADS = "(default: 1 for a small network)"
_FOLDS = (
    "Leave N blocks of the training data out in turn to learn how wide bands must be, not from the "
    "validation data alone; takes N more trainings."
)
_MORE = "All settings of the network and of the training: --help-all"


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Options of ``statewise fit``, but for the settings of the recipe."""

    data: Annotated[str, Positional, arg(metavar="DATA")]
    """A file (CSV, Parquet, NPZ, MAT), "fulda", or the name of a benchmark."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: NAME-out)")] = None
    """Folder for model, report and log."""
    recipe: Annotated[str, arg(metavar="NAME", help=_RECIPES)] = "default"
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the initial weights and of the training."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where to train."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint=_THREADS)] = None
    """CPU threads."""
    ahead: Annotated[tuple[int, ...], arg(metavar="K ...")] = (1,)
    """Also score predictions so many steps ahead."""
    noise_folds: Annotated[int, arg(metavar="N", help=_FOLDS, help_behavior_hint="")] = 0
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on with an interrupted run in the folder."""
    force: Annotated[bool, arg(help_behavior_hint="")] = False
    """Replace a result in the folder."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""
    columns: Annotated[Columns, OmitArgPrefixes] = dataclasses.field(default_factory=Columns)
    split: Annotated[Split, OmitArgPrefixes] = dataclasses.field(default_factory=Split)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    recipe = _recipe_named(arguments)
    words = ["--help" if word == "--help-all" else word for word in arguments]
    brief = "--help-all" not in arguments and any(one in ("-h", "--help") for one in arguments)
    kind = recipe_options(FitOptions, recipe, hidden=brief)
    summary = SUMMARY + (f"\n{_MORE}" if brief else "")
    options: Any = parse(kind, words, "fit", summary)
    if any(steps < 1 for steps in options.ahead):
        raise UsageError(f"--ahead takes numbers of steps, 1 or more; given {min(options.ahead)}")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"--threads is 1 or more; given {options.threads}")
    if options.seed < 0:
        raise UsageError(f"--seed is 0 or more; given {options.seed}")
    if options.noise_folds < 0 or options.noise_folds == 1:
        raise UsageError(f"--noise-folds is 2 or more; given {options.noise_folds}")
    fit(options, recipe_from(options, recipe, options.split.valid_fraction), _command(arguments))


def fit(options: Any, recipe: Any, command: str) -> None:
    """Identify what the options ask for.

    Args:
        options: a :class:`FitOptions`.
        recipe: network and training.
        command: the command, for the report.
    """
    from statewise.cli.folder import RunFolder
    from statewise.cli.identify import Job, identify, show_result
    from statewise.cli.source import is_file, load_task

    settings = run_settings(options, recipe, file=is_file(options.data))
    name = options.data if not settings["file"] else settings["file"].rpartition("/")[2]
    folder = RunFolder(options.out or f"{name.split('.')[0]}-out")
    if not folder.finished(settings, force=options.force, resume=options.resume):
        task = load_task(
            options.data,
            options.columns,
            options.split,
            washout=recipe.training.washout,
            valid=recipe.valid_fraction,
        )
        if task.train.n_u == 0:
            raise UsageError(f"{options.data} has no inputs; name at least one with --inputs")
        if options.noise_folds > task.train.n_samples:
            raise UsageError(
                f"--noise-folds cuts {task.train.n_samples} training samples into blocks; given "
                f"{options.noise_folds}"
            )
        job = Job(
            task=task,
            recipe=recipe,
            seed=options.seed,
            device=options.device,
            folder=folder,
            command=command,
            settings=settings,
            ahead=options.ahead,
            threads=options.threads,
            resume=options.resume,
            noise_folds=options.noise_folds,
        )
        if options.force:
            folder.clear()
        identify(job)
    show_result(folder, as_json=options.json, command="fit")


def run_settings(options: Any, recipe: Any, *, file: bool) -> dict[str, Any]:
    """What ``run.json`` keeps: enough to pose the task again and to refuse another one."""
    from pathlib import Path

    return {
        "data": options.data,
        "file": Path(options.data).expanduser().resolve().as_posix() if file else "",
        "seed": options.seed,
        "ahead": list(options.ahead),
        **({"noise_folds": options.noise_folds} if options.noise_folds else {}),
        **dataclasses.asdict(options.columns),
        **dataclasses.asdict(options.split),
        **flat_settings(recipe),
    }


def _command(arguments: Sequence[str]) -> str:
    kept = [word for word in arguments if word not in ("--resume", "--force", "--json")]
    return shlex.join(["statewise", "fit", *kept])


def _recipe_named(arguments: Sequence[str]) -> Any:
    """The recipe that gives the defaults of all other settings, so it is looked for first."""
    name = "default"
    for index, word in enumerate(arguments):
        if word == "--recipe" and index + 1 < len(arguments):
            name = arguments[index + 1]
        elif word.startswith("--recipe="):
            name = word.partition("=")[2]
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"there is no recipe {name!r}; recipes are {', '.join(RECIPES)}{hint}")
    return RECIPES[name]
