"""Training that starts at a linear model, identified by a subspace method."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from statewise._config import register
from statewise._errors import DataError
from statewise.data import Experiments
from statewise.estimators._inputs import gapless
from statewise.lti.weightings import WEIGHTINGS
from statewise.models.config import DeepWienerConfig

if TYPE_CHECKING:
    from statewise.lti import StateSpace
    from statewise.models import DeepWiener

Array = npt.NDArray[np.float64]

LARGEST = 10
NEAR = 0.1
"""A larger order must lower the error by more than this part of it."""
SETTLED = 100
"""Samples of a training record at most whose error belongs to its unknown first state."""
SHORTEST = 50
"""Shorter stretches between missing samples are left out where there is a longer one."""


@register
@dataclasses.dataclass(frozen=True)
class LinearStart:
    """Start the training at a linear model that a subspace method finds in the training records.

    Where ``order`` is None, each order up to ``largest_order`` that the first block can hold is
    identified and simulated from rest. The smallest order is taken whose error is within a tenth of
    the least: the root of the mean square on the training records plus that on the validation
    records. The first samples count, so that a model which is wild where the inputs did not excite
    it is seen when they set in.

    Attributes:
        order: states of the linear model, or None.
        largest_order: last order to try.
        weighting: name of the subspace method: "cva", "n4sid", "moesp" or "ssarx".
        radius: poles beyond it are reflected into the circle of this radius.
    """

    order: int | None = None
    largest_order: int = LARGEST
    weighting: str = "cva"
    radius: float = 0.999

    def __post_init__(self) -> None:
        for name in ("order", "largest_order"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"LinearStart needs {name} >= 1; given {value}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"the weighting of LinearStart is one of {', '.join(WEIGHTINGS)}; given "
                f"{self.weighting!r}"
            )
        if not 0 < self.radius < 1:
            raise ValueError(f"LinearStart needs a radius in (0, 1); given {self.radius}")

    def model(
        self,
        train: Experiments,
        valid: Experiments | None,
        config: DeepWienerConfig | None = None,
        *,
        seed: int = 0,
    ) -> DeepWiener:
        """A model that simulates as the linear one does.

        Args:
            train: normalised training records.
            valid: normalised validation records, or None.
            config: size and parts of the model.
            seed: seed of what is drawn.

        Raises:
            DataError: no stretch of samples without gaps, at even steps, that is long enough.
            ValueError: a config that cannot hold a linear model.
        """
        from statewise.models import DeepWiener

        first = DeepWiener(train.n_u, train.n_y, config, seed=seed).blocks[0].layer
        room = getattr(first, "d_state", self.largest_order)
        system, offset = self.system(train, valid, room if isinstance(room, int) else LARGEST)
        return DeepWiener.from_linear(system, config, offset=offset, seed=seed)

    def system(
        self, train: Experiments, valid: Experiments | None, modes: int = LARGEST
    ) -> tuple[StateSpace, Array]:
        """The linear model and the constant output beside it.

        Args:
            train: normalised training records.
            valid: normalised validation records, or None.
            modes: largest number of poles, a conjugate pair counted as one.
        """
        stretches = _stretches(train)
        judged = [records for records in (train, valid) if records is not None]

        def found_with(order: int, constant: Array) -> tuple[float, StateSpace, Array]:
            system = self._identify(stretches, order, constant)
            offset = _offset(system, stretches)
            error = sum(_error(system, offset, records) for records in judged)
            return (error if math.isfinite(error) else math.inf), system, offset

        none = np.zeros(train.n_y)
        orders = range(1, self.largest_order + 1) if self.order is None else [self.order]
        found: list[tuple[float, StateSpace, Array]] = []
        complaint: ValueError | None = None
        for order in orders:
            try:
                one = found_with(order, none)
            except ValueError as error:
                complaint = error
                break
            if self.order is not None or _modes(one[1]) <= modes:
                found.append(one)
        if not found:
            raise DataError(
                f"the training records do not give a linear model to start from: {complaint}"
            )
        enough = (1 + NEAR) ** 2 * min(error for error, _, _ in found)
        chosen = next(one for one in found if one[0] <= enough)
        # The first round took the constant for a part of the outputs to explain.
        again = found_with(chosen[1].n_states, chosen[2])
        fits = self.order is not None or _modes(again[1]) <= modes
        _, system, offset = again if fits and again[0] < chosen[0] else chosen
        return system, offset

    def _identify(
        self, stretches: list[tuple[Array, Array]], order: int, constant: Array
    ) -> StateSpace:
        from statewise.lti import identify

        return identify(
            [u for u, _ in stretches],
            [y - constant for _, y in stretches],
            order,
            weighting=WEIGHTINGS[self.weighting],
            stability=self.radius,
        ).system


def as_start(start: Any) -> LinearStart | None:
    """What a user may give: None, "linear" or a :class:`LinearStart`."""
    if isinstance(start, str) and start == "linear":
        return LinearStart()
    if start is not None and not isinstance(start, LinearStart):
        raise TypeError(f'start is None, "linear" or a LinearStart; given {start!r}')
    return start


def _stretches(experiments: Experiments) -> list[tuple[Array, Array]]:
    """Inputs and outputs without gaps."""
    even = [
        record
        for record in experiments
        for steps in [record.steps()]
        if steps is None or np.allclose(steps, 1.0, rtol=1e-3)
    ]
    try:
        return gapless(even, SHORTEST)
    except DataError:
        raise DataError(
            "a linear start needs evenly sampled records at the nominal interval, with stretches "
            "without missing samples; the training records have none"
        ) from None


def _modes(system: StateSpace) -> int:
    poles = np.linalg.eigvals(system.A.numpy())
    return int((poles.imag >= 0).sum())


def _simulated(system: StateSpace, u: Array) -> Array:
    from statewise.lti import simulate

    return simulate(system, np.nan_to_num(u))[0].numpy()


def _offset(system: StateSpace, stretches: list[tuple[Array, Array]]) -> Array:
    """The mean error of simulations from rest, behind what is owed to the state before them."""
    errors = []
    for u, y in stretches:
        rest = y - _simulated(system, u)
        errors.append(rest[min(len(rest) // 4, SETTLED) :])
    return np.concatenate(errors).mean(0)


def _error(system: StateSpace, offset: Array, records: Experiments) -> float:
    """Mean square of the errors of simulations from rest."""
    errors = []
    for record in records:
        assert record.u is not None
        errors.append(record.y - _simulated(system, record.u) - offset)
    square = np.concatenate(errors) ** 2
    return float(np.nanmean(square)) if np.isfinite(square).any() else 0.0
