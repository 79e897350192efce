"""A river observed through a deep Wiener model: predictions, bands and gaps on the test years."""

from __future__ import annotations

import copy
import dataclasses
import functools
import statistics

import numpy as np

from statewise.data import Experiments, Record, Task, fulda_task
from statewise.estimators import ARX, LinearSystem, SystemIdentifier
from statewise.estimators.recipes import RECIPES

SEEDS = (0, 1, 2)
SPELL = 10
"""Days of a spell that is removed."""
SHARE = 0.3
PATTERNS = 10
FOLDS = 6
"""Blocks of the training part that are left out in turn: a year each."""
RATE = 0.05
"""Of the adaptation: each measurement outside its band makes the next ones 4.6 % wider."""


@functools.cache
def task() -> Task:
    """The bundled record with its split."""
    return fulda_task()


@functools.cache
def fitted(seed: int) -> SystemIdentifier:
    """The river recipe, with the noise that ``fit`` gives it: one validation year alone."""
    return RECIPES["river"].identifier(seed=seed).fit(task().train, valid=task().valid)


@functools.cache
def observed(seed: int) -> SystemIdentifier:
    """The same model, with noise from training years that were left out in turn as well."""
    return copy.copy(fitted(seed)).fit_noise(task().train, task().valid, folds=FOLDS)


def test_record() -> Record:
    """The test years with the year before them."""
    return task().test["test"][0]


def errors(mean: np.ndarray, where: np.ndarray | None = None) -> float:
    """RMSE on the days of the test that are scored, or on some of them."""
    record = test_record()
    scored = np.arange(len(record)) >= record.skip
    if where is not None:
        scored &= where
    return float(np.sqrt(np.mean((mean[scored] - record.y[scored]) ** 2)))


def linear_predictions() -> dict[str, float]:
    """RMSE one day ahead of linear models that were identified on the training years."""
    data = task()
    test = Experiments((test_record(),))
    found = {
        "N4SID and its Kalman gain": LinearSystem(method="n4sid").fit(data.train),
        "ARX": ARX().fit(data.train),
    }
    rmse = {name: errors(model.predict_experiments(test, 1)[0]) for name, model in found.items()}
    # The network learns square roots of the flow; so may the linear model.
    root = RECIPES["river"].transform
    assert root is not None
    model = LinearSystem(method="n4sid").fit(root.apply(data.train))
    mean = root.inverse(model.predict_experiments(root.apply(test), 1)[0])
    return rmse | {"N4SID on square roots": errors(mean)}


@functools.cache
def one_day_ahead(seed: int) -> tuple[float, float, float]:
    """RMSE of the free run and of the filter one day ahead, and the coverage of its bands in %."""
    model, record = observed(seed), test_record()
    (free,) = model.simulate_experiments(Experiments((record,)))
    (bands,) = model.filter(Experiments((record,)))
    return errors(free), errors(bands.mean), coverage(model)


def coverage(model: SystemIdentifier, *, adapt: float = 0.0) -> float:
    """Coverage in % of the bands of a model one day ahead."""
    record = test_record()
    (bands,) = model.filter(Experiments((record,)), adapt=adapt)
    return 100 * float(bands.coverage(_scored(record))[0])


@functools.cache
def gaps(model: SystemIdentifier, spells: bool) -> tuple[float, float, float]:
    """Days removed at random or in spells, filled: means over patterns of what is found there.

    Args:
        model: a model with noise.
        spells: remove spells of ten days, not single ones.

    Returns:
        RMSE of the smoother and of linear interpolation, and the coverage of its bands in %.
    """
    record = test_record()
    rows = []
    for pattern in range(PATTERNS):
        hidden = removed(len(record), spells, pattern)
        y = np.where(hidden[:, None], np.nan, record.y)
        (bands,) = model.smooth(Experiments((dataclasses.replace(record, y=y, y_mask=None),)))
        days = np.arange(len(record))
        between = np.interp(days, days[~hidden], record.y[~hidden, 0])[:, None]
        truth = np.where(hidden[:, None], _scored(record), np.nan)
        inside = 100 * float(bands.coverage(truth)[0])
        rows.append((errors(bands.mean, hidden), errors(between, hidden), inside))
    smoother, line, inside = (statistics.fmean(column) for column in zip(*rows, strict=True))
    return smoother, line, inside


def removed(length: int, spells: bool, seed: int) -> np.ndarray:
    """Which days are removed, 30 % of them: each by itself, or in spells of ten days."""
    rng = np.random.default_rng(seed)
    if not spells:
        return rng.random(length) < SHARE
    return np.repeat(rng.random(-(-length // SPELL)) < SHARE, SPELL)[:length]


def _scored(record: Record) -> np.ndarray:
    """Outputs with NaN on the days before the scored ones."""
    y = np.array(record.y)
    y[: record.skip] = np.nan
    return y
