"""Errors on training data as on new data: every block is simulated by a model without it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from statewise.data import Experiments
from statewise.estimators.signals import Signals

if TYPE_CHECKING:
    from statewise.estimators.observed import Observed

Array = npt.NDArray[np.float64]
Blocks = list[npt.NDArray[np.intp]]


def left_out(
    estimator: Observed, train: Experiments, valid: Experiments | None, folds: int
) -> list[Signals]:
    """Training records whose free run at every sample is that of a model that has not seen it.

    The training samples are cut into blocks in a row, each with the same number of measurements.
    For each of them a copy of the estimator is identified with the outputs of that block hidden,
    and simulates them.

    Args:
        estimator: fitted on the training records.
        train: these records.
        valid: what the copies are given to choose the best moment of their training; without it
            they keep no part of the training records back.
        folds: number of blocks.

    Returns:
        One for each record, on the scale of the model of the estimator.

    Raises:
        ValueError: fewer than two blocks, or fewer measurements than blocks.
    """
    blocks = _blocks(train, folds)
    free: list[Array] = [np.full(r.y.shape, np.nan) for r in train]
    for k in range(folds):
        copy = _unfitted(estimator, keep_all=valid is None)
        copy.fit(_hidden(train, blocks, k), valid=valid)
        for run, block, record in zip(free, blocks, train, strict=True):
            here = block == k
            if here.any():
                y = copy.normaliser_.inverse_y(copy._signals(record).free)
                run[here] = estimator.normaliser_.transform_y(y)[here]
    return [
        estimator._signals(record)._replace(free=run)
        for record, run in zip(train, free, strict=True)
        if np.isfinite(record.y).any()
    ]


def _blocks(train: Experiments, folds: int) -> Blocks:
    """The block of every sample of every record."""
    measured = np.concatenate([np.isfinite(r.y).any(axis=1) for r in train])
    before = np.cumsum(measured) - 1
    count = int(before[-1]) + 1
    if not 2 <= folds <= count:
        raise ValueError(
            f"folds is 0, or from 2 to the {count} measured training samples; given {folds}"
        )
    block = np.maximum(before, 0) * folds // count
    return np.split(block, np.cumsum([len(r) for r in train])[:-1])


def _hidden(train: Experiments, blocks: Blocks, k: int) -> Experiments:
    """The records without the outputs of a block; those with no other outputs are left out."""
    records = [
        dataclasses.replace(r, y=np.where((block == k)[:, None], np.nan, r.y), y_mask=None)
        for r, block in zip(train, blocks, strict=True)
    ]
    return dataclasses.replace(train, records=tuple(r for r in records if np.isfinite(r.y).any()))


def _unfitted(estimator: Observed, *, keep_all: bool) -> Any:
    """The same settings in a new estimator."""
    copy = type(estimator)(**estimator.get_params(deep=False))
    if keep_all and "valid_fraction" in copy.get_params(deep=False):
        copy.set_params(valid_fraction=0.0)
    return copy
