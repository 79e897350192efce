"""Cross-validation of river recipes over the training years of the bundled river record.

Each of the last five years of the training part (the first 70 %) is left out in turn: the model is
trained on the others and simulated through all of them from inputs alone. What counts is the
Nash-Sutcliffe efficiency pooled over the years left out. The test years are never touched.

``python benchmarks/river_cross_validation.py`` prints it for the shipped recipe. With ``--choose``
it chooses a recipe by a rule that was written before it first ran:

1. the candidates are the 24 settings of :func:`candidates`, a full grid;
2. each is cross-validated with seed 0;
3. the six best of these are cross-validated with seeds 1 and 2 too;
4. the one with the highest mean over the three seeds is chosen; nothing else is looked at.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import statistics

import numpy as np
import torch
import tyro

from statewise.data import Experiments, load_fulda
from statewise.estimators.recipes import RECIPES, Recipe

YEAR = 365
FOLDS = 5
FINALISTS = 6

Setting = tuple[tuple[int, int, int], float, float, tuple[float, float]]


@dataclasses.dataclass
class Options:
    """What to run."""

    choose: bool = False
    """Run the whole choice, 180 trainings; else the shipped recipe alone."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the shipped recipe."""
    processes: int = 1


def candidates() -> list[Setting]:
    """(layers, channels, states), dropout, weight decay, (learning rate, factor on dynamics)."""
    sizes = ((4, 12, 24), (4, 16, 16), (6, 12, 12))
    return list(itertools.product(sizes, (0.3, 0.5), (0.03, 0.3), ((0.02, 1.0), (0.04, 0.5))))


def changed(recipe: Recipe, setting: Setting) -> Recipe:
    """The recipe with these settings in place of its own."""
    (layers, channels, states), dropout, decay, (rate, factor) = setting
    model = dataclasses.replace(
        recipe.model, n_layers=layers, d_model=channels, d_state=states, dropout=dropout
    )
    training = dataclasses.replace(
        recipe.training, weight_decay=decay, lr=rate, dynamics_factor=factor
    )
    return dataclasses.replace(recipe, model=model, training=training)


def left_out(setting: Setting | None, fold: int, seed: int) -> tuple[float, float]:
    """Squared error and squared deviation from the mean over the year left out."""
    torch.set_num_threads(1)
    # Nothing may choose by the years that are left out, so there is no other validation part.
    recipe = dataclasses.replace(RECIPES["river"], valid_fraction=0.0)
    if setting is not None:
        recipe = changed(recipe, setting)
    known: Experiments = load_fulda().split_time((0.7, 0.3))[0]
    record = known[0]
    year = slice(len(record) - YEAR * (fold + 1), len(record) - YEAR * fold)
    y = np.array(record.y)
    y[year] = np.nan
    train = known.map(lambda r: dataclasses.replace(r, y=y, y_mask=None))
    model = recipe.identifier(seed=seed).fit(train)
    error = (record.y - model.simulate_experiments(known)[0])[year]
    return float(np.sum(error**2)), float(np.sum((record.y[year] - record.y[year].mean()) ** 2))


def pooled(
    settings: list, seeds: tuple[int, ...], processes: int
) -> dict[Setting | None, list[float]]:
    """The pooled efficiency of each setting, one number a seed."""
    jobs = list(itertools.product(settings, seeds, range(FOLDS)))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        parts = list(
            pool.map(left_out, *([job[k] for job in jobs] for k in (0, 2, 1)), chunksize=1)
        )
    found: dict[Setting | None, list[float]] = {setting: [] for setting in settings}
    for setting, seed in itertools.product(settings, seeds):
        sums = [part for job, part in zip(jobs, parts, strict=True) if job[:2] == (setting, seed)]
        error, spread = (sum(column) for column in zip(*sums, strict=True))
        found[setting].append(1 - error / spread)
    return found


def show(found: dict[Setting | None, list[float]]) -> None:
    """Print the settings, the best mean first."""
    for setting, scores in sorted(found.items(), key=lambda item: -statistics.fmean(item[1])):
        each = " ".join(f"{score:.4f}" for score in scores)
        print(f"{setting or 'shipped'}: mean {statistics.fmean(scores):.4f}, seeds {each}")


def main(options: Options) -> None:
    """Print the pooled efficiencies, and with ``choose`` the choice."""
    if not options.choose:
        show(pooled([None], options.seeds, options.processes))
        return
    first = pooled(candidates(), (0,), options.processes)
    print("first round")
    show(first)
    best = sorted(first, key=lambda setting: -first[setting][0])[:FINALISTS]
    second = pooled(best, (1, 2), options.processes)
    final = {setting: first[setting] + second[setting] for setting in best}
    print("second round")
    show(final)
    print(f"chosen: {max(final, key=lambda setting: statistics.fmean(final[setting]))}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
