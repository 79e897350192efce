"""A model between signals in their own units."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.data.normalise import Normaliser
from statewise.nn.contract import Layer, State, mask_input, valid_steps


class InUnits(Layer):
    """y = ȳ + s_y ⊙ model((u − ū)/s_u): a model and its normalisation as one layer.

    Every question of this package then has its answer in the units of the data. An input that was
    not observed enters as its mean ū.

    Args:
        model: a model that works on normalised signals.
        normaliser: the scaling that the model was trained with.

    Raises:
        ValueError: numbers of channels that differ.
    """

    def __init__(self, model: Layer, normaliser: Normaliser) -> None:
        super().__init__()
        given = normaliser.u_mean.size, normaliser.y_mean.size
        if given != (model.d_input, model.d_output):
            raise ValueError(
                f"the scaling is for {given[0]} inputs and {given[1]} outputs; the model has "
                f"{model.d_input} and {model.d_output}"
            )
        self.model, self.normaliser = model, normaliser
        self.d_input, self.d_output = model.d_input, model.d_output

    def init_state(self, batch: int) -> State:
        """The state of rest of the model."""
        return self.model.init_state(batch)

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
        scaled = self.normaliser.transform_u(u)
        y, state = self.model(scaled, state, dt=dt, mask=mask, reset=reset, lengths=lengths)
        y = self.normaliser.inverse_y(y)
        return (y if lengths is None else mask_input(y, valid_steps(lengths, u.shape[1]))), state

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.step`."""
        y, state = self.model.step(self.normaliser.transform_u(u), state, dt=dt, mask=mask)
        return self.normaliser.inverse_y(y), state

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices diag(1/s_u) and diag(s_y)."""
        into = torch.as_tensor(1 / self.normaliser.u_std).to(like)
        out = torch.as_tensor(self.normaliser.y_std.copy()).to(like)
        return torch.diag(into), torch.diag(out)
