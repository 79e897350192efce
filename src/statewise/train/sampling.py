"""Which windows a training step sees."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from statewise._errors import DataError
from statewise.train.signals import Signals


class Plan(NamedTuple):
    """The windows of one step, one entry each.

    Attributes:
        starts: flat index of the first simulated sample.
        lengths: samples of the window that belong to its record.
        dead: leading simulated samples that do not count.
        record: index of the record.
        at_start: whether the window starts at the first sample of its record.
        fresh: whether the window needs a new initial state; None when all do.
    """

    starts: np.ndarray
    lengths: np.ndarray
    dead: np.ndarray
    record: np.ndarray
    at_start: np.ndarray
    fresh: np.ndarray | None


class Sampler(Protocol):
    """Gives one plan after the other; its state is small and JSON-able."""

    length: int
    batch_size: int

    def next(self) -> Plan:
        """The plan of the next step."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the sampler stands."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Go where ``state`` says."""
        ...

    def restart(self) -> None:
        """Ask for new initial states in all windows that follow."""
        ...


class WindowSampler:
    """Shuffled windows that cover every record once an epoch, at an offset drawn for the epoch.

    Starts are multiples of the stride minus the offset, moved inside the record at both ends.

    Args:
        signals: the records.
        window: samples of a window, its context included.
        stride: distance between windows.
        batch_size: windows per step, at most as many as there are different ones.
        context: leading samples of a window that serve its initial state.
        washout: simulated samples that do not count.
        learned: no washout where a window starts at the start of a record.
        seed: seed of offsets and order.

    Raises:
        DataError: no window with an output that counts.
    """

    def __init__(
        self,
        signals: Signals,
        *,
        window: int,
        stride: int,
        batch_size: int,
        context: int,
        washout: int,
        learned: bool,
        seed: int,
    ) -> None:
        self._signals, self._window, self._stride = signals, window, stride
        self._context, self._learned, self._seed = context, learned, seed
        self._washout = 0 if context else washout
        self.length = window - context
        self._room = np.maximum(signals.lengths - window, 0)
        self._whole = np.flatnonzero(self._room == 0)
        self.batch_size = int(min(batch_size, (self._room + 1).sum()))
        self._epoch, self._position = 0, 0
        self._queue = self._draw(0)

    def _draw(self, epoch: int) -> np.ndarray:
        """The windows of an epoch in order: rows (record, first sample in the record)."""
        rng = np.random.default_rng((self._seed, 1, epoch))
        rows = [np.stack([self._whole, np.zeros_like(self._whole)], axis=1)]
        for index in np.flatnonzero(self._room):
            offset, room = int(rng.integers(self._stride)), self._room[index]
            starts = np.arange(-offset, room + self._stride, self._stride)
            starts = np.unique(np.clip(starts, 0, room))
            rows.append(np.stack([np.full_like(starts, index), starts], axis=1))
        queue = np.concatenate(rows)
        plan = self._plan(queue)
        keep = self._counts(plan) > 0
        if not keep.any() and epoch == 0:
            raise DataError(nothing_counts(self._signals, self._context or self._washout))
        return queue[keep][rng.permutation(int(keep.sum()))]

    def _counts(self, plan: Plan) -> np.ndarray:
        return self._signals.counts(plan.starts + plan.dead, plan.starts + plan.lengths)

    def _plan(self, rows: np.ndarray) -> Plan:
        record, first = rows[:, 0], rows[:, 1]
        valid = np.minimum(self._signals.lengths[record] - first, self._window) - self._context
        at_start = first + self._context == 0
        dead = np.full(len(rows), self._washout)
        if self._learned:
            dead[at_start] = 0
        starts = self._signals.offsets[record] + first + self._context
        return Plan(starts, np.maximum(valid, 0), dead, record, at_start, None)

    def next(self) -> Plan:
        """See :meth:`Sampler.next`; a batch may reach into the next epoch."""
        parts, missing = [], self.batch_size
        while missing:
            if self._position == len(self._queue):
                self._epoch, self._position = self._epoch + 1, 0
                self._queue = self._draw(self._epoch)
            part = self._queue[self._position : self._position + missing]
            self._position += len(part)
            missing -= len(part)
            parts.append(part)
        return self._plan(np.concatenate(parts))

    def state(self) -> dict[str, Any]:
        """See :meth:`Sampler.state`."""
        return {"epoch": self._epoch, "position": self._position}

    def load(self, state: dict[str, Any]) -> None:
        """See :meth:`Sampler.load`."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._queue = self._draw(self._epoch)

    def restart(self) -> None:
        """See :meth:`Sampler.restart`; every window has a new initial state anyway."""

    def cover(self, budget: int) -> list[Plan]:
        """Fixed windows in batches, for a full-batch method.

        Windows follow each other so that each scored sample counts about once; of more than
        ``budget`` samples, evenly spread ones are kept.
        """
        stride = max(1, self._window - (self._context or self._washout))
        rows = []
        for index, room in enumerate(self._room):
            starts = np.unique(np.clip(np.arange(0, room + stride, stride), 0, room))
            rows.append(np.stack([np.full_like(starts, index), starts], axis=1))
        queue = np.concatenate(rows)
        queue = queue[self._counts(self._plan(queue)) > 0]
        most = max(1, budget // self._window)
        if len(queue) > most:
            queue = queue[np.linspace(0, len(queue) - 1, most).round().astype(np.int64)]
        size = self.batch_size
        return [self._plan(queue[i : i + size]) for i in range(0, len(queue), size)]


def nothing_counts(signals: Signals, dead: int) -> str:
    """The sentence for records whose outputs all lie in a washout, in a skip, or are missing."""
    return (
        f"no observed output is left to learn from: the longest record has "
        f"{signals.lengths.max()} samples, of which the first {dead} of a window do not count"
    )
