"""What layers made of one recurrence share: checks, masks, ends of sequences, states."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from statewise.nn.contract import (
    Layer,
    State,
    check_sample,
    check_sequence,
    map_state,
    mask_input,
    state_tensors,
    valid_steps,
)


class Recurrence(Layer):
    """A layer that says what a sequence and a sample do; arguments are seen to here.

    Attributes:
        timed: whether the layer has continuous time; otherwise ``dt`` is refused.
    """

    timed: ClassVar[bool] = False
    _tails: tuple[tuple[int, ...], ...] | None = None
    """Shapes of the parts of a state behind the batch, as they were last found."""

    @property
    def state_dtype(self) -> torch.dtype:
        """States have the precision of the parameters, float32 at least, whatever the input is."""
        wide = next(self.parameters()).dtype == torch.float64
        return torch.float64 if wide else torch.float32

    def rest(self, batch: int, *shape: int) -> Tensor:
        """Zeros (batch, *shape) on the layer's device, in the type of states."""
        device = next(self.parameters()).device
        return torch.zeros(batch, *shape, dtype=self.state_dtype, device=device)

    def forward(
        self,
        u: Tensor,
        state: State = None,
        *,
        dt: Tensor | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.forward`."""
        check_sequence(self, u, dt, mask, reset, lengths)
        self._check_time(dt)
        state = self._check_state(state, u.shape[0])
        valid = None if lengths is None else valid_steps(lengths, u.shape[1])
        u = mask_input(mask_input(u, mask), valid)
        if dt is not None:
            dt = dt.expand(u.shape[:2])
        if valid is not None:
            reset = None if reset is None else reset & valid
            dt = None if dt is None else torch.where(valid, dt, torch.zeros_like(dt))
        y, state = self._sequence(u, state, dt, reset, lengths)
        return mask_input(y.to(u.dtype), valid), state

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.step`."""
        check_sample(self, u, dt, mask)
        self._check_time(dt)
        state = self._check_state(state, u.shape[0])
        y, state = self._sample(mask_input(u, mask), state, dt)
        return y.to(u.dtype), state

    @abc.abstractmethod
    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        """A sequence whose unobserved and invalid inputs are 0.

        Behind the end dt is 0 and reset is False; outputs there may be anything finite.
        """

    @abc.abstractmethod
    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        """One sample whose unobserved inputs are 0."""

    def _check_time(self, dt: Tensor | None) -> None:
        if dt is not None and not self.timed:
            name = type(self).__name__
            raise ValueError(
                f"{name} has no continuous time and takes no dt; given a dt of shape "
                f"{tuple(dt.shape)}"
            )

    def _check_state(self, state: State, batch: int) -> State:
        """The state in the type of states, or rest; its shapes must fit layer and batch."""
        if state is None:
            return self.init_state(batch)
        given = [tuple(part.shape) for part in state_tensors(state)]
        # A whole state of rest at every step would cost more than many steps do.
        tracing = torch.compiler.is_compiling()
        known = None if tracing or self._tails is None else [(batch, *one) for one in self._tails]
        if given != known:
            expected = [tuple(part.shape) for part in state_tensors(self.init_state(batch))]
            if given != expected:
                raise ValueError(
                    f"{type(self).__name__} takes a state of shape "
                    f"{' and '.join(map(str, expected))} for this input; given "
                    f"{' and '.join(map(str, given))}"
                )
            if not tracing:
                self._tails = tuple(shape[1:] for shape in expected)
        dtype = self.state_dtype
        return map_state(lambda part: part.to(dtype), state)
