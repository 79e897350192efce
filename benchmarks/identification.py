"""Identification benchmarks: one recipe on every task, simulated in free run on the test data.

Run ``python benchmarks/identification.py --tasks fulda --recipe river --seeds 0 1 2 3 4`` for the
bundled record, or ``--tasks cascaded_tanks silverbox wiener_hammerstein_2009 --recipe nonlinear``
with the files in ``--data-folder`` (or ``STATEWISE_DATA``). For every task it prints the error of
each seed, the linear baselines of the same run and published figures, in the task's unit, and
writes one JSON line per task to ``--out``.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import tyro

import statewise
from statewise.data import Experiments, Task, benchmarks, fulda_task, generators
from statewise.estimators import ARX, FIR
from statewise.estimators.recipes import RECIPES


@dataclasses.dataclass
class Options:
    """What to run."""

    tasks: tuple[str, ...] = ("fulda",)
    """fulda, generated_wiener_hammerstein, generated_silverbox, generated_tanks, or a benchmark."""
    recipe: str = "river"
    """Name of a shipped recipe."""
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    """Steps of Adam; None takes those of the recipe."""
    device: str = "cpu"
    threads: int = 1
    data_folder: Path | None = None
    out: Path | None = None
    """File to which the results are appended, one JSON object per line."""
    baselines: bool = True
    """Also fit FIR and ARX."""


def load_task(name: str, folder: Path | None) -> Task:
    """The task of that name."""
    made = {
        "fulda": fulda_task,
        "generated_wiener_hammerstein": generators.wiener_hammerstein,
        "generated_silverbox": generators.silverbox_like,
        "generated_tanks": generators.two_tanks,
    }
    return made[name]() if name in made else benchmarks.load(name, folder)


def errors(estimator: Any, task: Task) -> dict[str, float]:
    """The task's metric on each test set, channels averaged, in the task's unit."""
    found = {}
    for name, test in task.test.items():
        scores = estimator.evaluate(test, metrics=(task.metric,), scale=task.scale, unit=task.unit)
        found[name] = statistics.fmean(score.value for score in scores)
    return found


def run(name: str, options: Options) -> dict[str, Any]:
    """Everything about one task."""
    task = load_task(name, options.data_folder)
    recipe = RECIPES[options.recipe]
    if options.steps is not None:
        training = dataclasses.replace(recipe.training, steps=options.steps)
        recipe = dataclasses.replace(recipe, training=training)
    rows: dict[str, Any] = {}
    for seed in options.seeds:
        identifier = recipe.identifier(seed=seed, device=options.device)
        started = time.perf_counter()
        identifier.fit(task.train, valid=task.valid)
        seconds = round(time.perf_counter() - started, 1)
        rows[f"seed {seed}"] = {**errors(identifier, task), "seconds": seconds}
        print(f"{name} {options.recipe} seed {seed}: {rows[f'seed {seed}']}", flush=True)
    if options.baselines:
        parts = [task.train] if task.valid is None else [task.train, task.valid]
        whole = Experiments.concat(parts)
        for estimator in (FIR(), ARX()):
            rows[type(estimator).__name__] = errors(estimator.fit(whole), task)
    return {
        "task": name,
        "recipe": options.recipe,
        "steps": recipe.training.steps,
        "metric": task.metric,
        "unit": task.unit,
        "windows": {key: [record.skip for record in test] for key, test in task.test.items()},
        "results": rows,
        "median": {
            key: statistics.median(rows[f"seed {seed}"][key] for seed in options.seeds)
            for key in task.test
        },
        "published": task.references,
        "statewise": statewise.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if "cuda" in options.device else platform.machine(),
    }


def table(result: dict[str, Any]) -> str:
    """One task as a markdown table."""
    tests = list(result["median"])
    unit = f" [{result['unit']}]" if result["unit"] else ""
    lines = [
        f"\n{result['task']}: {result['metric'].upper()}{unit}, free run, recipe "
        f"{result['recipe']} ({result['steps']} steps), first samples for the initial state: "
        + ", ".join(f"{key} {value}" for key, value in result["windows"].items()),
        "",
        "| method | " + " | ".join(tests) + " |",
        "|---" * (len(tests) + 1) + "|",
    ]
    named = {"statewise, median of seeds": result["median"], **result["results"]}
    for method, values in {**named, **result["published"]}.items():
        cells = [f"{values[test]:.4g}" if test in values else "–" for test in tests]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run all tasks."""
    torch.set_num_threads(options.threads)
    for name in options.tasks:
        result = run(name, options)
        print(table(result), flush=True)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(result, allow_nan=False) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
