"""Start at a linear model or at random: errors after some seconds of training.

Run ``python benchmarks/linear_start.py --budgets 5 20 60 --seeds 0 1 2 3 4 --out
benchmarks/results/linear_start.md`` (about an hour), with the files of the benchmarks in
``--data-folder`` or ``STATEWISE_DATA``; tasks without their files are left out. Each budget is a
training of its own whose schedule ends with it: short runs measure the seconds of a step, for
each start, and the budget is spent on steps of Adam alone. Seconds are those of the processor, in
which other programs do not count; those of the subspace method are in the budget. Budget 0 is the
start itself. The network is that of a recipe without dropout; the weights kept are those with the
least validation error.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import tyro

from statewise import DataError
from statewise.data import Task, benchmarks, fulda_task, generators
from statewise.estimators import RECIPES, LinearStart, SystemIdentifier

STARTS: dict[str, LinearStart | None] = {"random": None, "linear": LinearStart()}
RECIPE_OF = {
    "fulda": "river",
    "cascaded_tanks": "nonlinear",
    "wiener_hammerstein_2009": "compact",
    "generated_wiener_hammerstein": "compact",
}
TRIAL = 60
"""Steps of the runs that measure the time of a step."""


@dataclasses.dataclass
class Options:
    """What to run."""

    tasks: tuple[str, ...] = tuple(RECIPE_OF)
    budgets: tuple[float, ...] = (5, 20, 60)
    """Seconds of training."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    threads: int = 1
    """Threads of torch; with more than one, seconds are summed over them."""
    data_folder: Path | None = None
    out: Path | None = None
    """File for the table."""


def load_task(name: str, folder: Path | None) -> Task | None:
    """The task of that name, or None where its files are missing."""
    made = {
        "fulda": fulda_task,
        "generated_wiener_hammerstein": generators.wiener_hammerstein,
    }
    if name in made:
        return made[name]()
    try:
        return benchmarks.load(name, folder)
    except (DataError, FileNotFoundError) as error:
        print(f"{name} is left out: {error}", flush=True)
        return None


def identifier(name: str, start: LinearStart | None, steps: int, seed: int) -> SystemIdentifier:
    """The estimator of a task."""
    recipe = RECIPES[RECIPE_OF[name]]
    training = dataclasses.replace(
        recipe.training,
        steps=steps,
        eval_every=max(1, steps // 20),
        keep="best",
        polish_steps=0,
    )
    model = dataclasses.replace(recipe.model, dropout=0.0)
    recipe = dataclasses.replace(recipe, model=model, training=training, start=start)
    return recipe.identifier(seed=seed)


def one_run(
    name: str, task: Task, start: LinearStart | None, steps: int, seed: int, threads: int
) -> tuple[float, float, float]:
    """Validation NRMSE, test error in the unit of the task, seconds."""
    estimator = identifier(name, start, steps, seed)
    began = time.process_time()
    estimator.fit(task.train, valid=task.valid, threads=threads, progress=False)
    seconds = time.process_time() - began
    known = [row["valid"] for row in estimator.history_ if row["valid"] is not None]
    tests = []
    for records in task.test.values():
        scores = estimator.evaluate(
            records, metrics=(task.metric,), scale=task.scale, unit=task.unit
        )
        tests.append(statistics.fmean(score.value for score in scores))
    return min(known, default=float("nan")), tests[0], seconds


def measure(name: str, task: Task, options: Options) -> dict[tuple[str, float], list[Any]]:
    """Runs by start and budget."""
    found: dict[tuple[str, float], list[Any]] = {}
    for label, start in STARTS.items():
        still, moving = (
            min(one_run(name, task, start, steps, 0, options.threads)[2] for _ in range(3))
            for steps in (0, TRIAL)
        )
        step = max(moving - still, 1e-4) / TRIAL
        for budget in (0.0, *options.budgets):
            steps = max(1, round((budget - still) / step)) if budget else 0
            for seed in options.seeds:
                run = one_run(name, task, start, steps, seed, options.threads)
                found.setdefault((label, budget), []).append((*run, steps))
                shown = ", ".join(f"{value:.4g}" for value in run)
                print(f"{name} {label} {budget:g} s, seed {seed}: {shown}", flush=True)
    return found


def table(name: str, task: Task, found: dict[tuple[str, float], list[Any]]) -> str:
    """One task as a markdown table of medians, least and largest errors."""
    metric = task.metric.upper() + (f" [{task.unit}]" if task.unit else "")
    lines = [
        f"## {name}, recipe {RECIPE_OF[name]}",
        "",
        f"| start | budget [s] | seconds | steps | validation NRMSE | test {metric} | range |",
        "|---|---|---|---|---|---|---|",
    ]
    for (label, budget), runs in found.items():
        valid = [run[0] for run in runs]
        tests = [run[1] for run in runs]
        judged = "–" if any(math.isnan(v) for v in valid) else ""
        judged = judged or f"{statistics.median(valid):.4f}"
        lines.append(
            f"| {label} | {budget:g} | {statistics.median(run[2] for run in runs):.1f} | "
            f"{runs[0][3]} | {judged} | "
            f"{statistics.median(tests):.4g} | {min(tests):.4g} to {max(tests):.4g} |"
        )
    return "\n".join(lines)


def main(options: Options) -> None:
    """Print the tables, and write them."""
    torch.set_num_threads(options.threads)
    parts = [
        "# A linear start against a random one",
        "",
        f"Medians over {len(options.seeds)} seeds of free-run errors, after some seconds of "
        f"training on {options.threads} thread(s); `benchmarks/linear_start.py` says how.",
    ]
    for name in options.tasks:
        task = load_task(name, options.data_folder)
        if task is None:
            continue
        parts += ["", table(name, task, measure(name, task, options))]
        print("\n".join(parts[-2:]), flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
