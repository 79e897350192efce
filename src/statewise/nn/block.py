"""The residual block: a norm, a layer, a static map and a skip."""

from __future__ import annotations

from typing import ClassVar

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
from statewise.nn.specs import Norm
from statewise.nn.static_specs import Identity, StaticMap


class Block(Layer):
    """y = F u + dropout(σ(layer(norm(u)))), or with the norm behind the sum (``prenorm`` off).

    F is the identity for equal widths; otherwise a trained matrix when ``skip`` is "linear", and
    absent when it is "identity". The sum has the type of u, so a signal that comes in float32
    stays in float32 while the layer runs in a half type.

    Args:
        layer: any layer.
        static: the static map σ; None for the identity.
        skip: "identity", "linear" or "none".
        norm: normalisation, or None.
        prenorm: normalise the input of the block (True) or its output.
        dropout: probability with which an output of σ is zeroed in training.
        rng: source of the initial draw.
    """

    roles: ClassVar[dict[str, str]] = {"F": "D"}

    def __init__(
        self,
        layer: Layer,
        static: StaticMap | None = None,
        *,
        skip: str = "identity",
        norm: Norm | None = None,
        prenorm: bool = True,
        dropout: float = 0.0,
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        if skip not in ("identity", "linear", "none"):
            raise ValueError(f'skip is "identity", "linear" or "none"; given {skip!r}')
        self.layer, self.d_input, self.d_output = layer, layer.d_input, layer.d_output
        self.static = (Identity() if static is None else static).build(self.d_output, rng)
        self.dropout = nn.Dropout(dropout)
        self.prenorm = prenorm
        self.norm: nn.Module = nn.Identity()
        if norm is not None:
            self.norm = norm.build(self.d_input if prenorm else self.d_output)
        self.adds_input = skip != "none" and self.d_input == self.d_output
        self.F = None
        if skip == "linear" and self.d_input != self.d_output:
            start = rng.standard_normal((self.d_output, self.d_input)) / self.d_input**0.5
            self.F = nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))

    def init_state(self, batch: int) -> State:
        """The state of rest of the layer."""
        return self.layer.init_state(batch)

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
        valid = None if lengths is None else valid_steps(lengths, u.shape[1])
        u = mask_input(mask_input(u, mask), valid)
        inside = self.norm(u) if self.prenorm else u
        eta, state = self.layer(inside, state, dt=dt, reset=reset, lengths=lengths)
        return mask_input(self._finish(u, eta), valid), state

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.step`."""
        check_sample(self, u, dt, mask)
        u = mask_input(u, mask)
        eta, state = self.layer.step(self.norm(u) if self.prenorm else u, state, dt=dt)
        return self._finish(u, eta), state

    def _finish(self, u: Tensor, eta: Tensor) -> Tensor:
        y = self.dropout(self.static(eta))
        if self.adds_input:
            y = y + u
        elif self.F is not None:
            y = y + u @ self.F.to(u.dtype).mT
        return y if self.prenorm else self.norm(y)
