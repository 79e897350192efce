"""How far free runs are from the measured outputs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from statewise._errors import DataError
from statewise.data.record import Record
from statewise.nn.contract import Layer
from statewise.train.initial import InitialState
from statewise.train.initialisers import Initialiser
from statewise.train.signals import check_channels
from statewise.train.simulate import free_run


class FreeRunError:
    """√mean_c(MSE_c / var(y_c)): error of free runs, pooled over records and outputs.

    The first ``skip`` samples of each record and missing samples do not count; an output that does
    not vary is measured against variance 1.

    Args:
        experiments: normalised records.

    Raises:
        DataError: no records, channels that differ, or no observed output that counts.
    """

    def __init__(self, experiments: Iterable[Record]) -> None:
        self.records = list(experiments)
        check_channels(self.records)
        self.y = np.concatenate([record.y[record.skip :] for record in self.records])
        self.seen = ~np.isnan(self.y)
        counts = self.seen.sum(axis=0)
        if not counts.any():
            raise DataError("the validation records have no observed output behind their skip")
        self.counts = np.maximum(counts, 1)
        self.used = counts > 0
        y = np.where(self.seen, self.y, 0.0)
        mean = y.sum(axis=0) / self.counts
        variance = (np.where(self.seen, y - mean, 0.0) ** 2).sum(axis=0) / self.counts
        self.variance = np.where(variance > 0, variance, 1.0)

    def __call__(
        self, model: Layer, initial_state: InitialState | Initialiser | None = None
    ) -> float:
        """The error of a model; infinite when its output is not finite.

        Args:
            model: the model.
            initial_state: see :func:`free_run`.
        """
        runs = free_run(model, self.records, initial_state=initial_state)
        y_hat = np.concatenate(
            [run[record.skip :] for run, record in zip(runs, self.records, strict=True)]
        )
        if not np.isfinite(y_hat).all():
            return float("inf")
        error = np.where(self.seen, self.y - y_hat, 0.0)
        relative = (error**2).sum(axis=0) / self.counts / self.variance
        return float(np.sqrt(relative[self.used].mean()))
