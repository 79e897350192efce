"""Free-run simulation of whole records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from statewise.data.record import Record
from statewise.nn.contract import Layer, State
from statewise.train.initial import InitialState, ZeroState
from statewise.train.initialisers import Initialiser, build_initialiser
from statewise.train.modes import evaluating
from statewise.train.signals import Slices, check_channels, inputs_of

SAMPLES_AT_ONCE = 65_536
"""Records × samples in one call of the model: bounds the memory whatever the lengths."""


def free_run(
    model: Layer,
    experiments: Iterable[Record],
    *,
    initial_state: InitialState | Initialiser | None = None,
    batch_size: int = 64,
) -> list[np.ndarray]:
    """Simulate records from their inputs, ŷ_k = model(u_0 … u_k), in normalised signals.

    The state is at rest before the first sample. With a strategy that needs outputs
    (``EncoderState``, ``LeastSquaresState``) the state after the first ``skip`` samples of a record
    is found from the last of those samples and the run goes on from there; a record that skips too
    few samples for it starts at rest. Long records run in pieces with the state carried, so memory
    does not grow with their length.

    Args:
        model: a model in the layer contract.
        experiments: normalised records, NaN where missing.
        initial_state: strategy, or one that was trained, ``FitResult.initialiser``; None is the
            state of rest.
        batch_size: records simulated side by side.

    Returns:
        Simulated outputs (L, n_y) of each record, float64.

    Raises:
        DataError: no records, or records whose channels differ.
        ValueError: an ``EncoderState`` that was not trained.
    """
    records = list(experiments)
    check_channels(records)
    initialiser = working_strategy(initial_state, model)
    groups: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        skip = record.skip if initialiser.usable(record.skip) else 0
        groups.setdefault(skip, []).append(index)
    outputs: list[np.ndarray] = [np.empty(0)] * len(records)
    with torch.no_grad(), evaluating(model):
        for skip, indices in groups.items():
            indices.sort(key=lambda i: len(records[i]))
            for first in range(0, len(indices), batch_size):
                part = indices[first : first + batch_size]
                run = _Run(model, [records[i] for i in part])
                for index, y in zip(part, run.simulate(skip, initialiser), strict=True):
                    outputs[index] = y
    return outputs


def working_strategy(given: InitialState | Initialiser | None, model: Layer) -> Initialiser:
    """A strategy at work for records that were not trained on."""
    if isinstance(given, Initialiser):
        return given
    return build_initialiser(ZeroState() if given is None else given, model)


class _Run:
    """Records side by side, padded to the longest."""

    def __init__(self, model: Layer, records: Sequence[Record]) -> None:
        self.model, self.records = model, records
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.length = max(len(record) for record in records)
        self.u = self._stack([inputs_of(record) for record in records], np.nan)
        steps = [record.steps() for record in records]
        self.dt = None
        if any(step is not None for step in steps):
            pairs = zip(records, steps, strict=True)
            self.dt = self._stack([np.ones(len(r)) if s is None else s for r, s in pairs], 1.0)
        self.masked = any(np.isnan(inputs_of(record)).any() for record in records)

    def _stack(self, arrays: list[np.ndarray], fill: float) -> np.ndarray:
        stacked = np.full((len(arrays), self.length, *arrays[0].shape[1:]), fill)
        for row, array in zip(stacked, arrays, strict=True):
            row[: len(array)] = array
        return stacked

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self.dtype)

    def _slices(self, first: int, stop: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        u = self.u[:, first:stop]
        seen = ~np.isnan(u)
        mask = torch.from_numpy(seen).to(self.device) if self.masked else None
        dt = None if self.dt is None else self._tensor(self.dt[:, first:stop])
        return self._tensor(np.where(seen, u, 0.0)), mask, dt

    def _context(self, first: int, stop: int) -> Slices:
        u, mask, dt = self._slices(first, stop)
        y = np.stack([record.y[first:stop] for record in self.records])
        seen = ~np.isnan(y)
        weight = None if seen.all() else self._tensor(seen)
        return Slices(u, self._tensor(np.where(seen, y, 0.0)), mask, dt, weight)

    def _advance(self, state: State, first: int, stop: int, out: np.ndarray) -> State:
        step = max(1, SAMPLES_AT_ONCE // len(self.records))
        for begin in range(first, stop, step):
            end = min(begin + step, stop)
            u, mask, dt = self._slices(begin, end)
            y, state = self.model(u, state, dt=dt, mask=mask)
            out[:, begin:end] = y.double().cpu().numpy()
        return state

    def simulate(self, skip: int, initialiser: Initialiser) -> list[np.ndarray]:
        """Run all records; the state is found anew at sample ``skip`` when that is not 0."""
        out = np.empty((len(self.records), self.length, self.records[0].n_y))
        state = self.model.init_state(len(self.records))
        begin = 0
        if skip:
            begin = skip - min(skip, initialiser.samples)
            state = self._advance(state, 0, begin, out)
            self._advance(state, begin, skip, out)
            state = initialiser.estimate(self.model, self._context(begin, skip), state)
            begin = skip
        self._advance(state, begin, self.length, out)
        return [y[: len(record)].copy() for y, record in zip(out, self.records, strict=True)]
