"""An observer for streams: one sample at a time, with constant memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from statewise.estimators.calibration import HORIZONS, Adaptation, Calibration, features_of
from statewise.estimators.signals import Stream

Array = npt.NDArray[np.float64]


class Band(NamedTuple):
    """Outputs of one sample with their band, (n_y,) each, in units of the data."""

    mean: Array
    lower: Array
    upper: Array


class OnlineObserver:
    """One-step-ahead bands of a stream; ``model.observer()`` makes one.

    Args:
        stream: the filter.
        table: how wide intervals are.
        interval: probability of a band.
        adaptation: how bands follow the coverage.
        scaled: inputs and outputs of one sample on the scale of the model.
        physical: outputs in units of the data.
        n_inputs: number of inputs.

    Attributes:
        steps: samples so far.
    """

    def __init__(
        self,
        stream: Stream,
        table: Calibration,
        interval: float,
        adaptation: Adaptation,
        scaled: Callable[[Array, Array], tuple[Array, Array]],
        physical: Callable[[Array], Array],
        n_inputs: int,
    ) -> None:
        self.steps = 0
        self._stream, self._table = stream, table
        self._interval, self._adaptation = interval, adaptation
        self._scaled, self._physical, self._n_inputs = scaled, physical, n_inputs
        self._change = np.asarray(table.change)
        self._free: Array | None = None
        self._now: tuple[Array, Array]
        self._since = np.full(len(self._change), float(HORIZONS[-1]))

    def update(self, u: Any, y: Any) -> Band:
        """Take one sample in.

        Args:
            u: its inputs (n_u,), or a number; NaN is missing.
            y: its measured outputs (n_y,), or a number; NaN is missing.

        Returns:
            The band of this sample given the earlier ones alone, as :meth:`Observed.filter` has it.

        Raises:
            ValueError: another number of inputs or outputs.
        """
        inputs, outputs = self._sample(u, "u"), self._sample(y, "y")
        v, z = self._scaled(inputs, outputs)
        found = self._advance(v)
        self._stream.absorb(z)
        self._adaptation.see(z, *self._now)
        self._since = np.where(np.isfinite(z), 0.0, self._since)
        return found

    def predict(self, u: Any) -> Band:
        """The band of the coming sample at inputs ``u``; the observer stays where it is."""
        return self.forecast(np.asarray(u, dtype=np.float64).reshape(1, -1))[0]

    def forecast(self, u_future: Any) -> list[Band]:
        """Bands of the coming samples at inputs (H, n_u); the observer stays where it is."""
        rows = np.asarray(u_future, dtype=np.float64)
        ahead = copy.copy(self)
        ahead._stream = self._stream.fork()
        unknown = np.full(len(self._change), np.nan)
        found = []
        for row in rows.reshape(len(rows), -1):
            found.append(ahead._advance(self._scaled(self._sample(row, "u"), unknown)[0]))
        return found

    def _sample(self, value: Any, what: str) -> Array:
        sample = np.asarray(value, dtype=np.float64).reshape(-1)
        count = self._n_inputs if what == "u" else len(self._change)
        if len(sample) != count:
            raise ValueError(f"{what} is one sample of {count} numbers here; given {len(sample)}")
        return sample

    def _advance(self, u: Array) -> Band:
        mean, variance, free = self._stream.advance(u)
        moved = np.zeros_like(free) if self._free is None else np.abs(free - self._free)
        self._free = free
        horizon = self._since = self._since + 1
        self.steps += 1
        row = features_of(mean, moved, self._change)
        half = np.sqrt(variance) * self._table.scale_at(row, horizon)
        half = half * self._table.width_at(self._interval, horizon) * self._adaptation.factor
        self._now = mean, half
        ends = np.stack([mean, mean - half, mean + half])
        return Band(*self._physical(ends))
