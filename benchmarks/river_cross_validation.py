"""Cross-validation of a recipe over the training years of the bundled river record.

Run ``python benchmarks/river_cross_validation.py --recipe river --seeds 0 1 2``. Each of the last
five years of the training part (the first 70 %) is left out in turn: the model is trained on the
others and simulated through all of them from inputs alone. Printed is the Nash-Sutcliffe
efficiency pooled over the years left out. The test years are never touched.
"""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
import torch
import tyro

from statewise.data import Experiments, load_fulda
from statewise.estimators.recipes import RECIPES, Recipe

YEAR = 365


@dataclasses.dataclass
class Options:
    """What to run."""

    recipe: str = "river"
    """Name of a shipped recipe."""
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: int = 5
    steps: int | None = None
    """Steps of Adam; None takes those of the recipe."""


def left_out(recipe: Recipe, known: Experiments, fold: int, seed: int) -> tuple[float, float]:
    """Squared error and squared deviation from the mean over the year left out."""
    record = known[0]
    year = slice(len(record) - YEAR * (fold + 1), len(record) - YEAR * fold)
    y = np.array(record.y)
    y[year] = np.nan
    train = known.map(lambda r: dataclasses.replace(r, y=y, y_mask=None))
    model = recipe.identifier(seed=seed).fit(train)
    error = (record.y - model.simulate_experiments(known)[0])[year]
    return float(np.sum(error**2)), float(np.sum((record.y[year] - record.y[year].mean()) ** 2))


def main(options: Options) -> None:
    """Print the pooled efficiency of every seed and their mean."""
    torch.set_num_threads(1)
    # Nothing may choose by the years that are left out, so there is no other validation part.
    recipe = dataclasses.replace(RECIPES[options.recipe], valid_fraction=0.0)
    if options.steps is not None:
        training = dataclasses.replace(recipe.training, steps=options.steps)
        recipe = dataclasses.replace(recipe, training=training)
    known, _ = load_fulda().split_time((0.7, 0.3))
    pooled = []
    for seed in options.seeds:
        sums = [left_out(recipe, known, fold, seed) for fold in range(options.folds)]
        error, spread = (sum(column) for column in zip(*sums, strict=True))
        pooled.append(1 - error / spread)
        print(f"{options.recipe} seed {seed}: pooled NSE {pooled[-1]:.3f}", flush=True)
    print(f"mean over seeds: {statistics.fmean(pooled):.3f}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
