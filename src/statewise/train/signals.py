"""Records as flat tensors from which windows are cut without a Python loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise._errors import DataError
from statewise.data.record import Record


class Slices(NamedTuple):
    """Windows of the records, one per row.

    Attributes:
        u: inputs (B, L, n_u), 0 where missing.
        y: outputs (B, L, n_y), 0 where missing.
        mask: True where the input was observed (B, L, n_u); None when all are.
        dt: relative time steps (B, L); None when all are 1.
        weight: 1 where the output counts, else 0, (B, L, n_y); None when all count.
    """

    u: Tensor
    y: Tensor
    mask: Tensor | None
    dt: Tensor | None
    weight: Tensor | None


class Signals:
    """All records behind each other on one device.

    A window that is longer than its record runs on into what lies behind it; a causal model cannot
    see that, and the weight there is 0.

    Args:
        records: normalised records, NaN where missing.
        longest: length of the longest window that will be cut.
        dtype: floating point type of the tensors.
        device: their device.

    Raises:
        DataError: no records, records with different channels.
    """

    def __init__(
        self,
        records: Iterable[Record],
        longest: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        items = list(records)
        check_channels(items)
        self.lengths = np.array([len(record) for record in items], dtype=np.int64)
        self.offsets = np.concatenate(([0], np.cumsum(self.lengths)[:-1]))
        self.longest = longest
        u = np.concatenate([inputs_of(record) for record in items])
        y = np.concatenate([record.y for record in items])
        observed = ~np.isnan(y)
        scored = observed.copy()
        for offset, record in zip(self.offsets, items, strict=True):
            scored[offset : offset + record.skip] = False
        steps = [record.steps() for record in items]
        uneven = any(step is not None for step in steps)
        dt = [np.ones(len(r)) if s is None else s for r, s in zip(items, steps, strict=True)]
        running = np.concatenate(([0], np.cumsum(scored.sum(axis=1))))
        self._scored_before = np.concatenate((running, np.full(longest, running[-1])))
        self.all_scored = bool(scored.all())
        u_seen = ~np.isnan(u)

        def tensor(array: np.ndarray, kind: torch.dtype) -> Tensor:
            padding = np.zeros((longest, *array.shape[1:]), dtype=array.dtype)
            return torch.from_numpy(np.concatenate([array, padding])).to(device, kind)

        self.u = tensor(np.where(u_seen, u, 0.0), dtype)
        self.y = tensor(np.where(observed, y, 0.0), dtype)
        self.mask = None if u_seen.all() else tensor(u_seen, torch.bool)
        self.dt = tensor(np.concatenate(dt), dtype) if uneven else None
        self.observed = None if observed.all() else tensor(observed, dtype)
        self.scored = None if self.all_scored else tensor(scored, dtype)

    @property
    def n_u(self) -> int:
        """Number of inputs."""
        return self.u.shape[1]

    @property
    def n_y(self) -> int:
        """Number of outputs."""
        return self.y.shape[1]

    @property
    def n_samples(self) -> int:
        """Samples of all records."""
        return int(self.lengths.sum())

    def counts(self, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Number of outputs that count in each of the flat ranges ``first`` … ``stop`` − 1."""
        # A washout may be longer than the last record: such a range is empty.
        end = len(self._scored_before) - 1
        first, stop = np.minimum(first, end), np.clip(stop, first, None).clip(max=end)
        return self._scored_before[stop] - self._scored_before[first]

    def cut(self, starts: np.ndarray, length: int, *, context: bool = False) -> Slices:
        """Cut one window of ``length`` samples at every flat index in ``starts``.

        Args:
            starts: flat indices (B,).
            length: samples of a window, at most ``longest``.
            context: weigh all observed outputs instead of the scored ones.
        """
        index = torch.from_numpy(starts).to(self.u.device)

        def rows(flat: Tensor | None) -> Tensor | None:
            return None if flat is None else _cut(flat, index, length)

        return Slices(
            _cut(self.u, index, length),
            _cut(self.y, index, length),
            rows(self.mask),
            rows(self.dt),
            rows(self.observed if context else self.scored),
        )


def _cut(flat: Tensor, index: Tensor, length: int) -> Tensor:
    """Rows of an overlapping view: whole windows are copied at once."""
    tail = flat.shape[1:]
    row = flat.stride(0)
    count = flat.shape[0] - length + 1
    view = flat.as_strided((count, length, *tail), (row, row, *flat.stride()[1:]))
    return view.index_select(0, index)


def inputs_of(record: Record) -> np.ndarray:
    """Inputs (L, n_u), (L, 0) for an autonomous record."""
    return np.zeros((len(record), 0)) if record.u is None else record.u


def check_channels(records: list[Record]) -> None:
    """Raise a sentence when there are no records or their channels differ."""
    if not records:
        raise DataError("at least one record is needed; given none")
    first = records[0]
    for index, record in enumerate(records):
        if (record.n_u, record.n_y) != (first.n_u, first.n_y):
            raise DataError(
                f"record {record.name or index} has {record.n_u} inputs and {record.n_y} outputs; "
                f"the first record has {first.n_u} and {first.n_y}"
            )
