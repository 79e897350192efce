"""How many steps of training a linear start saves."""

from __future__ import annotations

import dataclasses
import statistics

from statewise.data import Task
from statewise.data.generators import silverbox_like
from statewise.estimators import RECIPES, LinearStart
from statewise.papers.registry import Measured, Setting

STEPS = 1000
SEEDS = 5
EVERY = 20
SAMPLES = (10_000, 2000)
"""Samples to learn from, of which a fifth is for validation, and of each test set."""


@dataclasses.dataclass(frozen=True)
class Race:
    """Two trainings of the same network by the same settings.

    Attributes:
        target: least validation NRMSE of the random start.
        random: steps after which the random start was there.
        linear: steps after which the linear start was there, ``EVERY`` at least.
        first: validation NRMSE of the linear start before training.
        last: its least one.
    """

    target: float
    random: int
    linear: int
    first: float
    last: float

    @property
    def ratio(self) -> float:
        """Steps of the random start over those of the linear one."""
        return self.random / self.linear


def spring() -> Task:
    """10 000 samples of a resonance with a hardening spring."""
    return silverbox_like(n_train=SAMPLES[0], n_test=SAMPLES[1])


def race(task: Task, seed: int) -> Race:
    """Train the compact stack from a random and from a linear start, and compare.

    Args:
        task: with validation records.
        seed: of the starts and of the batches.
    """
    random, linear = (_errors(task, start, seed) for start in (None, LinearStart()))
    target = min(random.values())
    return Race(
        target,
        min(step for step, value in random.items() if value <= target),
        max(EVERY, min((step for step, value in linear.items() if value <= target), default=STEPS)),
        linear[0],
        min(linear.values()),
    )


def fewer_steps(setting: Setting) -> Measured:
    """The median ratio of steps, with what each seed gave."""
    task, details, ratios = spring(), {}, []
    for seed in range(SEEDS):
        setting.say(f"seed {seed}")
        one = race(task, seed)
        ratios.append(one.ratio)
        details |= {
            f"seed {seed}, steps, random start": float(one.random),
            f"seed {seed}, steps, linear start": float(one.linear),
            f"seed {seed}, NRMSE there": one.target,
            f"seed {seed}, least NRMSE, linear start": one.last,
        }
    return Measured(statistics.median(ratios), details, seeds=SEEDS)


def _errors(task: Task, start: LinearStart | None, seed: int) -> dict[int, float]:
    """Validation NRMSE of the free run, by step."""
    recipe = RECIPES["compact"]
    training = dataclasses.replace(
        recipe.training, steps=STEPS, eval_every=EVERY, keep="best", polish_steps=0
    )
    estimator = dataclasses.replace(recipe, training=training, start=start).identifier(seed=seed)
    estimator.fit(task.train, valid=task.valid, progress=False)
    return {row["step"]: row["valid"] for row in estimator.history_ if row["valid"] is not None}
