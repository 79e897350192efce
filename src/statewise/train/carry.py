"""Windows that follow each other, for truncated back-propagation with the state carried."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from statewise._errors import DataError
from statewise.train.sampling import Plan, nothing_counts
from statewise.train.signals import Signals


@dataclasses.dataclass
class _Lane:
    """One sequence of the batch: where it is in its segment."""

    record: int = 0
    position: int = 0
    stop: int = 0
    fresh: bool = True


class CarrySampler:
    """Segments of the records in parallel lanes, one window of each lane a step.

    Records are cut into about ``batch_size`` segments of whole windows; the cuts move with the
    epoch. A segment starts early enough for its context or washout, so that all of it counts.

    Args:
        signals: the records.
        window: samples a step.
        batch_size: lanes.
        context: samples in front of a segment that serve its initial state.
        washout: first simulated samples of a segment that do not count.
        learned: no washout where a segment starts at the start of a record.
        seed: seed of cuts and order.

    Raises:
        DataError: no segment with an output that counts.
    """

    def __init__(
        self,
        signals: Signals,
        *,
        window: int,
        batch_size: int,
        context: int,
        washout: int,
        learned: bool,
        seed: int,
    ) -> None:
        self._signals, self._context, self._learned, self._seed = signals, context, learned, seed
        self._washout = 0 if context else washout
        self.length = window
        windows = math.ceil(signals.n_samples / (batch_size * window))
        self._segment = windows * window
        self._epoch, self._taken = 0, 0
        self._queue = self._draw(0)
        self.batch_size = min(batch_size, len(self._queue))
        self._lanes = [_Lane() for _ in range(self.batch_size)]

    def _draw(self, epoch: int) -> np.ndarray:
        """Segments of an epoch in order: rows (record, first simulated sample, stop)."""
        rng = np.random.default_rng((self._seed, 3, epoch))
        rows = []
        for record, length in enumerate(self._signals.lengths.tolist()):
            shift = int(rng.integers(self._segment)) if length > self._segment else 0
            for cut in range(-shift, length, self._segment):
                first = max(0, cut)
                stop = min(cut + self._segment, length)
                begin = max(self._context, first - self._washout)
                if begin < stop and self._counts(record, begin, stop):
                    rows.append((record, begin, stop))
        if not rows and epoch == 0:
            raise DataError(nothing_counts(self._signals, self._context or self._washout))
        queue = np.array(rows, dtype=np.int64).reshape(-1, 3)
        return queue[rng.permutation(len(queue))]

    def _dead(self, begin: int) -> int:
        return 0 if self._learned and begin == 0 else self._washout

    def _counts(self, record: int, begin: int, stop: int) -> bool:
        bounds = np.array([begin + self._dead(begin), stop]) + self._signals.offsets[record]
        return bool(self._signals.counts(bounds[:1], bounds[1:]) > 0)

    def next(self) -> Plan:
        """See :meth:`Sampler.next`."""
        for lane in self._lanes:
            if lane.position >= lane.stop:
                while self._taken >= len(self._queue):
                    self._epoch, self._taken = self._epoch + 1, 0
                    self._queue = self._draw(self._epoch)
                lane.record, lane.position, lane.stop = self._queue[self._taken].tolist()
                lane.fresh = True
                self._taken += 1
        record = np.array([lane.record for lane in self._lanes])
        position = np.array([lane.position for lane in self._lanes])
        stop = np.array([lane.stop for lane in self._lanes])
        fresh = np.array([lane.fresh for lane in self._lanes])
        dead = [self._dead(lane.position) if lane.fresh else 0 for lane in self._lanes]
        for lane in self._lanes:
            lane.position += self.length
            lane.fresh = False
        return Plan(
            self._signals.offsets[record] + position,
            np.minimum(stop - position, self.length),
            np.array(dead),
            record,
            fresh & (position == 0),
            fresh,
        )

    def state(self) -> dict[str, Any]:
        """See :meth:`Sampler.state`."""
        lanes = [list(dataclasses.astuple(lane)) for lane in self._lanes]
        return {"epoch": self._epoch, "taken": self._taken, "lanes": lanes}

    def load(self, state: dict[str, Any]) -> None:
        """See :meth:`Sampler.load`."""
        self._epoch, self._taken = state["epoch"], state["taken"]
        self._queue = self._draw(self._epoch)
        self._lanes = [_Lane(*lane) for lane in state["lanes"]]

    def restart(self) -> None:
        """See :meth:`Sampler.restart`."""
        for lane in self._lanes:
            lane.fresh = True
