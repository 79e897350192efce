"""The strategies for the initial state at work."""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import Layer, State
from statewise.nn.static import linear
from statewise.train.initial import (
    EncoderState,
    InitialState,
    LearnedState,
    LeastSquaresState,
    ZeroState,
)
from statewise.train.least_squares import least_squares_state
from statewise.train.modes import evaluating
from statewise.train.signals import Slices
from statewise.train.state_vector import state_size, unflatten_state


class Initialiser(nn.Module, abc.ABC):
    """Finds the state after ``samples`` samples of context; may have trained parameters."""

    samples: int = 0

    def usable(self, available: int) -> bool:
        """Whether ``available`` samples of context are enough."""
        return False

    def estimate(self, model: Layer, context: Slices, start: State = None) -> State:
        """The state after the context.

        Args:
            model: the model.
            context: samples of u and y.
            start: a first guess of the state before the context; None is the state of rest.
        """
        raise TypeError(f"{type(self).__name__} needs no context")

    def at_record(self, model: Layer, record: Tensor, at_start: Tensor) -> State:
        """The state of windows of training records, without context; None is the state of rest.

        Args:
            model: the model.
            record: index of the record of each window (B,).
            at_start: whether the window starts at the start of its record (B,).
        """
        return None


class RestInitialiser(Initialiser):
    """The state of rest."""


class LearnedInitialiser(Initialiser):
    """One trained state per training record."""

    roles: ClassVar[dict[str, str]] = {"x0": "bias"}

    def __init__(self, model: Layer, n_records: int) -> None:
        super().__init__()
        parameter = next(model.parameters())
        size = state_size(model)
        self.x0 = nn.Parameter(
            torch.zeros(n_records, size, dtype=parameter.dtype, device=parameter.device)
        )

    def at_record(self, model: Layer, record: Tensor, at_start: Tensor) -> State:
        """See :meth:`Initialiser.at_record`."""
        vector = self.x0[record] * at_start.to(self.x0.dtype).unsqueeze(-1)
        return unflatten_state(vector, model.init_state(1))


class EncoderInitialiser(Initialiser):
    """A network from the samples of u and y to the state after them."""

    def __init__(self, spec: EncoderState, model: Layer, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng((seed, 2))
        parameter = next(model.parameters())
        self.samples = spec.samples
        self.first = linear(spec.samples * (model.d_input + model.d_output), spec.hidden, rng)
        self.second = linear(spec.hidden, state_size(model), rng)
        with torch.no_grad():  # close to the state of rest at first
            self.second.weight.mul_(0.1)
            self.second.bias.zero_()
        self.to(parameter.device, parameter.dtype)

    def usable(self, available: int) -> bool:
        """See :meth:`Initialiser.usable`: all samples are needed."""
        return available >= self.samples

    def estimate(self, model: Layer, context: Slices, start: State = None) -> State:
        """See :meth:`Initialiser.estimate`."""
        seen = torch.cat([context.u.flatten(1), context.y.flatten(1)], dim=1)
        vector = self.second(torch.tanh(self.first(seen)))
        return unflatten_state(vector, model.init_state(1))


class LeastSquaresInitialiser(Initialiser):
    """Gauss–Newton on the state before the context, then a run through it."""

    def __init__(self, spec: LeastSquaresState) -> None:
        super().__init__()
        self.spec, self.samples = spec, spec.samples

    def usable(self, available: int) -> bool:
        """See :meth:`Initialiser.usable`: any sample helps."""
        return available > 0

    def estimate(self, model: Layer, context: Slices, start: State = None) -> State:
        """See :meth:`Initialiser.estimate`; without dropout, in full precision."""
        with torch.autocast(context.u.device.type, enabled=False), evaluating(model):
            before = least_squares_state(
                model, context, start, iterations=self.spec.iterations, ridge=self.spec.ridge
            )
            _, after = model(context.u, before, dt=context.dt, mask=context.mask)
        return after


def build_initialiser(
    spec: InitialState,
    model: Layer,
    *,
    n_records: int | None = None,
    seed: int | None = None,
) -> Initialiser:
    """Make the working part of a strategy.

    Args:
        spec: the strategy.
        model: the model whose state is meant.
        n_records: number of training records; without it ``LearnedState`` is the state of rest.
        seed: seed of the start of an encoder; without it an encoder is refused.

    Raises:
        ValueError: an encoder without seed: an untrained one would give wrong states.
    """
    if isinstance(spec, EncoderState):
        if seed is None:
            raise ValueError(
                "EncoderState needs its trained network: give FitResult.initialiser instead"
            )
        return EncoderInitialiser(spec, model, seed)
    if isinstance(spec, LeastSquaresState):
        return LeastSquaresInitialiser(spec)
    if isinstance(spec, LearnedState) and n_records is not None:
        return LearnedInitialiser(model, n_records)
    if isinstance(spec, ZeroState | LearnedState):
        return RestInitialiser()
    raise TypeError(f"an initial state strategy was expected; given {spec!r}")
