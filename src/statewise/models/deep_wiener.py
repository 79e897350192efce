"""The deep Wiener model: linear systems and static maps in turn."""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import Tensor, nn

from statewise.models.config import DeepWienerConfig
from statewise.nn.block import Block
from statewise.nn.contract import (
    Layer,
    State,
    check_sample,
    check_sequence,
    mask_input,
    valid_steps,
)
from statewise.nn.lti import LTI
from statewise.nn.static import linear
from statewise.nn.wiener import WienerBlock


class DeepWiener(Layer):
    """ŷ = W y⁽ᴸ⁾ + b (+ W_d u), with u⁽ˡ⁺¹⁾ = y⁽ˡ⁾ = block_l(u⁽ˡ⁾): a stack of Wiener blocks.

    Works on normalised signals. The state is a tuple with the state of every block.

    Source: Bonassi et al., Structured state-space models are deep Wiener models (2312.06211).

    Args:
        n_inputs: number of inputs.
        n_outputs: number of outputs.
        config: size and parts.
        seed: seed of the initial draw.

    Raises:
        ValueError: sizes below 1, or parts that do not fit together.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        config: DeepWienerConfig | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, size in (("n_inputs", n_inputs), ("n_outputs", n_outputs)):
            if size < 1:
                raise ValueError(f"DeepWiener needs {name} of at least 1; given {size}")
        config = DeepWienerConfig() if config is None else config
        rng = np.random.default_rng(seed)
        self.config, self.d_input, self.d_output = config, n_inputs, n_outputs
        width = config.d_model
        self.input_map = linear(n_inputs, width, rng) if config.input_map else None
        blocks: list[Block] = []
        for index in range(config.n_layers):
            first = width if config.input_map or index else n_inputs
            blocks.append(_block(first, config, rng))
        self.blocks = nn.ModuleList(blocks)
        self.output_map = linear(width, n_outputs, rng)
        self.direct = linear(n_inputs, n_outputs, rng, bias=False) if config.direct else None

    @property
    def _chain(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def init_state(self, batch: int) -> State:
        """The state of rest of every block."""
        return tuple(block.init_state(batch) for block in self._chain)

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
        u = mask_input(u, mask)
        states = self.init_state(u.shape[0]) if state is None else self._states(state)
        valid = None if lengths is None else valid_steps(lengths, u.shape[1])
        u = mask_input(u, valid)
        signal = u if self.input_map is None else self.input_map(u)
        after = []
        for block, before in zip(self._chain, states, strict=True):
            signal, last = block(signal, before, dt=dt, reset=reset, lengths=lengths)
            after.append(last)
        return mask_input(self._read_out(signal, u), valid), tuple(after)

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.step`."""
        check_sample(self, u, dt, mask)
        u = mask_input(u, mask)
        signal = u if self.input_map is None else self.input_map(u)
        after = []
        for block, before in zip(self._chain, self._states(state), strict=True):
            signal, last = block.step(signal, before, dt=dt)
            after.append(last)
        return self._read_out(signal, u), tuple(after)

    def _states(self, state: State) -> tuple[State, ...]:
        if not isinstance(state, tuple | list) or len(state) != len(self.blocks):
            given = f"{len(state)}" if isinstance(state, tuple | list) else type(state).__name__
            raise ValueError(
                f"DeepWiener takes a tuple of {len(self.blocks)} states, one for each block; "
                f"given {given}"
            )
        return tuple(state)

    def _read_out(self, signal: Tensor, u: Tensor) -> Tensor:
        y = self.output_map(signal)
        return y if self.direct is None else y + self.direct(u)

    @property
    def n_parameters(self) -> int:
        """Number of real trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def _block(d_input: int, config: DeepWienerConfig, rng: np.random.Generator) -> Block:
    around = {
        "skip": config.skip,
        "norm": config.norm,
        "prenorm": config.prenorm,
        "dropout": config.dropout,
    }
    if config.layer is not None:
        layer = config.layer.build(d_input, rng, config.d_model)
        if not isinstance(layer, LTI):
            return Block(layer, config.static, rng=rng, **around)
        return WienerBlock(layer, config.static, rng=rng, **around)
    lti = LTI(
        d_input,
        config.d_model,
        config.d_state,
        poles=config.poles,
        coupling=config.coupling,
        simulator=config.simulator,
        bias=config.bias,
        seed=rng,
    )
    return WienerBlock(lti, config.static, rng=rng, **around)
