"""The main job, for ``fit`` and ``demo``: from a task to a model, a report and a table."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statewise.cli.baselines import fit_baselines
from statewise.cli.console import Stopped, output, print_json, say
from statewise.cli.folder import RunFolder
from statewise.cli.tables import print_scores

if TYPE_CHECKING:
    from statewise.data import Task
    from statewise.estimators import SystemIdentifier
    from statewise.estimators.recipes import Recipe

#: The name of the identified model in tables.
NAME = "deep Wiener"


@dataclasses.dataclass(frozen=True)
class Job:
    """An identification that is asked for.

    Attributes:
        task: the problem.
        recipe: network and training.
        seed: seed of the initial weights and of the training.
        device: where to train.
        folder: where the result goes.
        command: the command that asked.
        settings: what ``run.json`` keeps.
        ahead: steps of the predictions that are scored on the test.
        threads: CPU threads of torch; None is 1 for a small network, else as many as torch takes.
        resume: go on with an interrupted run.
        noise_folds: blocks of the training data that are left out in turn to calibrate the bands.
    """

    task: Task
    recipe: Recipe
    seed: int
    device: str
    folder: RunFolder
    command: str
    settings: dict[str, Any]
    ahead: tuple[int, ...]
    threads: int | None = None
    resume: bool = False
    noise_folds: int = 0


def identify(job: Job) -> None:
    """Train, judge on the test beside the baselines, and write model and report.

    Raises:
        Stopped: the user stopped it; what was trained is kept.
        DataError, ValueError: data or settings that do not go together.
    """
    started = time.perf_counter()
    folder = job.folder
    identifier = job.recipe.identifier(seed=job.seed, device=job.device)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write(job.command, job.settings, finished=False)
    try:
        _train_and_report(job, identifier)
    except KeyboardInterrupt:
        raise Stopped(f"stopped; go on with: {job.command} --resume") from None
    except Exception:
        if not folder.checkpoint.is_dir():
            folder.clear()
            with contextlib.suppress(OSError):  # other files may be in it
                folder.path.rmdir()
        raise
    folder.finish(job.command, job.settings)
    say(f"done in {time.perf_counter() - started:.0f} s")


def _train_and_report(job: Job, identifier: SystemIdentifier) -> None:
    task, folder = job.task, job.folder
    say(f"training on {_size(task)}; log: {folder.path / 'log.jsonl'}")
    identifier.fit(
        task.train,
        valid=task.valid,
        folder=folder.path,
        resume=job.resume,
        threads=job.threads,
    )
    if job.noise_folds:
        say(f"calibrating the bands with {job.noise_folds} more trainings")
        identifier.fit_noise(task.train, task.valid, folds=job.noise_folds)
    report_on(identifier, task, folder, job.command, job.ahead)


def report_on(
    identifier: SystemIdentifier,
    task: Task,
    folder: RunFolder,
    command: str,
    ahead: tuple[int, ...],
    page: Path | None = None,
) -> Path:
    """Judge a fitted model on its task, keep the scores with it and write the report.

    Args:
        identifier: the fitted model.
        task: its data.
        folder: where model and report go.
        command: the command that makes the report again.
        ahead: steps of the predictions that are scored.
        page: where the report goes instead; the model is then left as it is.

    Returns:
        The path of the page.
    """
    from statewise.data.metrics import Score
    from statewise.report import collect, write_report

    baselines, notes = fit_baselines(task, say)
    say("judging on the test and drawing the report")
    data = collect(
        identifier, task, baselines, command=command, name=NAME, steps=ahead, notes=notes
    )
    if page is not None:
        return write_report(data, page)
    tested = [row for row in data.scores if row.method == NAME and row.split in task.test]
    names = [field.name for field in dataclasses.fields(Score)]
    identifier.scores_ = [item for item in identifier.scores_ if item.split not in task.test]
    identifier.scores_ += [Score(**{name: getattr(row, name) for name in names}) for row in tested]
    identifier.save(folder.model)
    return write_report(data, folder.path)


def show_result(folder: RunFolder, *, as_json: bool, command: str) -> None:
    """Print the table of a finished run and where its files are.

    Args:
        folder: the finished run.
        as_json: one JSON object instead.
        command: name of the command for the JSON object.
    """
    twin = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))
    page = folder.path / "report.html"
    if as_json:
        keys = ("headline", "model", "scores", "references", "environment", "notes")
        paths = {"out": folder.path, "model_folder": folder.model, "report": page}
        kept = {key: twin[key] for key in keys}
        print_json({"command": command, **paths, "data": twin["data"]["parts"], **kept})
        return
    console = output()
    references = [{**one, "split": one.get("split", one.get("test"))} for one in twin["references"]]
    print_scores(console, _tested(twin), best=NAME, references=references)
    console.print()
    for note in twin["notes"]:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"model   {folder.model}", markup=False, soft_wrap=True)
    console.print(f"report  {page}", markup=False, soft_wrap=True)


def _tested(twin: dict[str, Any]) -> list[dict[str, Any]]:
    """Scores on the test sets, the identified model last; validation has its place in the page."""
    rows = [row for row in twin["scores"] if row["split"] not in ("valid", "validation", "train")]
    return sorted(rows, key=lambda row: row["method"] == NAME)


def _size(task: Task) -> str:
    parts = [f"{task.train.n_samples} samples"]
    if len(task.train) > 1:
        parts.append(f"of {len(task.train)} records")
    if task.valid is not None:
        parts.append(f"({sum(len(r) - r.skip for r in task.valid)} more for validation)")
    return " ".join(parts)
