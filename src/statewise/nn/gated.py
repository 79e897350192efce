"""The gated shell of Mamba's block around any layer."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State
from statewise.nn.layer_spec import LayerSpec
from statewise.nn.recurrence import Recurrence
from statewise.nn.short_conv import ShortConv
from statewise.nn.static import linear

_GATES = {"gelu": nn.functional.gelu, "silu": nn.functional.silu}


class GatedState(NamedTuple):
    """State of a gated shell.

    Attributes:
        window: the last inputs of the short convolution, (B, W − 1, expand · d_model).
        inner: the state of the layer inside.
    """

    window: Tensor
    inner: State


class Gated(Recurrence):
    """y = W_out (layer(silu(conv(W_x u))) ⊙ silu(W_z u)): Mamba's block around another layer.

    With S4, Hyena or an LRU inside it gives the mixed architectures of the Mamba paper's ablations,
    with an RGLRU, a GELU at the gate and none of the other silu the recurrent block of Griffin.

    Sources: Gu and Dao, Mamba (2312.00752), section 3.4; De et al., Griffin (2402.19427), section
    2.3.

    Args:
        d_model: inputs and outputs.
        inner: the layer inside, as data, such as ``S4D.spec()``; it gets ``expand · d_model``
            channels.
        expand: width inside for each channel.
        d_conv: taps of the short convolution; 0 leaves it and its silu away.
        gate: what stands at W_z u: "silu" or "gelu".
        conv_silu: whether silu stands behind the convolution.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, an unknown gate, or a layer that does not exist.
    """

    timed: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        inner: LayerSpec | None = None,
        *,
        expand: int = 2,
        d_conv: int = 4,
        gate: str = "silu",
        conv_silu: bool = True,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for name, size, least in (
            ("d_model", d_model, 1),
            ("expand", expand, 1),
            ("d_conv", d_conv, 0),
        ):
            if size < least:
                raise ValueError(f"Gated needs {name} of at least {least}; given {size}")
        if gate not in _GATES:
            raise ValueError(f'the gate of Gated is "silu" or "gelu"; given {gate!r}')
        rng = np.random.default_rng(seed)
        self.gate = gate
        self.d_input = self.d_output = d_model
        self.d_conv, self.width = d_conv, expand * d_model
        self.enter = linear(d_model, 2 * self.width, rng, bias=False)
        self.conv = ShortConv(self.width, d_conv, rng, silu=conv_silu) if d_conv else None
        self.inner = (LayerSpec("S4D") if inner is None else inner).build(self.width, rng)
        self.leave = linear(self.width, d_model, rng, bias=False)

    def init_state(self, batch: int) -> State:
        """The state of rest: an empty window and the rest of the layer inside."""
        window = self.rest(batch, max(self.d_conv - 1, 0), self.width)
        return GatedState(window, self.inner.init_state(batch))

    def _sequence(
        self,
        u: Tensor,
        state: GatedState,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        window, inner = state
        x, z = torch.chunk(self.enter(u), 2, dim=-1)
        if self.conv is not None:
            x, window = self.conv(x, window, reset=reset, lengths=lengths)
        y, inner = self.inner(x, inner, dt=dt, reset=reset, lengths=lengths)
        return self.leave(y * _GATES[self.gate](z)), GatedState(window, inner)

    def _sample(self, u: Tensor, state: GatedState, dt: Tensor | None) -> tuple[Tensor, State]:
        window, inner = state
        x, z = torch.chunk(self.enter(u), 2, dim=-1)
        if self.conv is not None:
            taken, window = self.conv(x.unsqueeze(1), window)
            x = taken.squeeze(1)
        y, inner = self.inner.step(x, inner, dt=dt)
        return self.leave(y * _GATES[self.gate](z)), GatedState(window, inner)
