"""The feed-forward map of a block, as a layer without memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import (
    Layer,
    State,
    check_sample,
    check_sequence,
    mask_input,
    valid_steps,
)
from statewise.nn.static import linear

_ACTIVATIONS = {"gelu": nn.functional.gelu, "relu": nn.functional.relu, "silu": nn.functional.silu}


class FeedForward(Layer):
    """y_t = W₂ φ(W₁ u_t + b₁) + b₂, or W₂ (φ(W_g u_t) ⊙ (W₁ u_t)) + b₂ when gated.

    It has no memory: its state is the empty tuple. In a block of its own behind a sequence layer
    it makes the two-part blocks of transformers, S5 and H3.

    Source: Shazeer, GLU variants improve Transformer (2002.05202), for the gated form.

    Args:
        d_model: inputs and outputs.
        expand: hidden units for each channel.
        activation: "gelu", "relu" or "silu".
        gated: whether a second projection gates the hidden units.
        bias: whether the maps have biases.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: an unknown activation, or no hidden unit.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expand: float = 4.0,
        activation: str = "gelu",
        gated: bool = False,
        bias: bool = True,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"the activation of FeedForward is one of {', '.join(_ACTIVATIONS)}; "
                f"given {activation!r}"
            )
        hidden = round(expand * d_model)
        if d_model < 1 or hidden < 1:
            raise ValueError(
                f"FeedForward needs d_model and expand * d_model of at least 1; given "
                f"d_model = {d_model}, expand = {expand}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.activation, self.gated = activation, gated
        self.enter = linear(d_model, hidden * (2 if gated else 1), rng, bias=bias)
        self.leave = linear(hidden, d_model, rng, bias=bias)

    def init_state(self, batch: int) -> State:
        """The empty tuple."""
        return ()

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
        """See :meth:`Layer.forward`; steps and resets change nothing."""
        check_sequence(self, u, dt, mask, reset, lengths)
        valid = None if lengths is None else valid_steps(lengths, u.shape[1])
        return mask_input(self._map(mask_input(mask_input(u, mask), valid)), valid), ()

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.step`."""
        check_sample(self, u, dt, mask)
        return self._map(mask_input(u, mask)), ()

    def _map(self, u: Tensor) -> Tensor:
        hidden = self.enter(u.to(self.enter.weight.dtype))
        activation = _ACTIVATIONS[self.activation]
        if self.gated:
            gate, value = torch.chunk(hidden, 2, dim=-1)
            return self.leave(activation(gate) * value)
        return self.leave(activation(hidden))
