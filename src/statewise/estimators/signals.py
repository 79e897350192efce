"""What observers work on: a record on the scale of the model, and what they say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Fold = npt.NDArray[np.intp]


class Signals(NamedTuple):
    """A record on the scale on which the model was trained.

    Attributes:
        u: inputs (L, n_u), NaN where missing.
        z: outputs (L, n_y), NaN where missing.
        free: the free run of the model, (L, n_y).
        dt: steps in units of the nominal interval, (L,), or None where all are 1.
        settled: first sample that counts when noise is fitted: the start of a run does not.
    """

    u: Array
    z: Array
    free: Array
    dt: Array | None = None
    settled: int = 0


class Track(NamedTuple):
    """Gaussian outputs and states along a record, on the scale of the model.

    Attributes:
        mean: of what is measured, (L, n_y).
        variance: of it, noise of the measurement included, (L, n_y).
        state_mean: (L, n).
        state_variance: (L, n).
    """

    mean: Array
    variance: Array
    state_mean: Array
    state_variance: Array


class Stream(Protocol):
    """One sample at a time: ``advance`` with the input, ``absorb`` the measurement, in turns."""

    def advance(self, u: Array) -> tuple[Array, Array, Array]:
        """Mean, variance and free run of the output at a new sample, (n_y,) each."""
        ...

    def absorb(self, z: Array) -> None:
        """Take its measurement in, NaN where there is none."""
        ...

    def fork(self) -> Stream:
        """A copy that goes its own way."""
        ...


class Levels(Protocol):
    """Fitted noise of an observer: it filters, smooths and predicts on the model's scale."""

    @property
    def process(self) -> tuple[float, ...]:
        """Deviations of the noise that drives the state."""
        ...

    @property
    def measurement(self) -> tuple[float, ...]:
        """Deviation of the white noise of every output."""
        ...

    def filter(self, signals: Signals, model: Any) -> Track:
        """Every output given the earlier ones."""
        ...

    def smooth(self, signals: Signals, model: Any) -> Track:
        """Every output given all."""
        ...

    def ahead(
        self, signals: Signals, horizons: Sequence[int], model: Any
    ) -> list[tuple[Array, Array]]:
        """Means and variances (L, n_y) given the outputs up to h samples before, for each h."""
        ...

    def stream(self, model: Any) -> Stream:
        """One sample at a time."""
        ...


class Candidate(NamedTuple):
    """Noise levels that are to be judged.

    Attributes:
        name: what they are and what they were fitted on.
        halves: levels for the first half of the data and for the second, neither fitted on it.
        levels: those for later use.
    """

    name: str
    halves: tuple[Levels, Levels]
    levels: Levels


class Observer(Protocol):
    """How to observe: an :class:`ErrorObserver` or a :class:`StateObserver`."""

    def candidates(
        self,
        judged: Sequence[Signals],
        folds: Sequence[Fold],
        train: Sequence[Signals],
        model: Any,
    ) -> list[Candidate]:
        """Noise levels by maximum likelihood, in one way or several.

        Args:
            judged: records that levels may be fitted on in halves.
            folds: 0 or 1 for the half of every sample of them, (L, n_y).
            train: records that levels may be fitted on as a whole; may be empty.
            model: the network.
        """
        ...
