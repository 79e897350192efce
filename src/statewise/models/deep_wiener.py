"""The deep Wiener model: linear systems and static maps in turn."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti import StateSpace
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
from statewise.nn.layer_spec import LayerSpec
from statewise.nn.lti import LTI
from statewise.nn.one_lipschitz import certified_gain
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
        ValueError: sizes below 1, parts that do not fit together, or a ``gain`` of parts without a
            known bound.
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
        for index, spec in enumerate(config.layers):
            first = width if config.input_map or index else n_inputs
            blocks.append(_block(first, config, spec, rng))
        self.blocks = nn.ModuleList(blocks)
        self.output_map = linear(width, n_outputs, rng)
        self.direct = linear(n_inputs, n_outputs, rng, bias=False) if config.direct else None
        if config.gain is not None and not self._product_of_gains().isfinite():
            raise ValueError(
                f"no bound is known of some part, so the model cannot have the gain {config.gain}; "
                "L2Bounded layers, maps such as OneLipschitz() and norm=None have one"
            )

    @classmethod
    def from_linear(
        cls,
        system: StateSpace,
        config: DeepWienerConfig | None = None,
        *,
        offset: Any = None,
        margin: float = 1e-4,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> DeepWiener:
        """A model that simulates what a linear model simulates, to be trained from there.

        The first block gets the poles λ of A = V Λ V⁻¹, the rows of V⁻¹B and the columns of C V,
        through the pseudo-inverses of input and output map; its other states are drawn as usual
        and not read at first. Every static map gets a linear part, and no weight on its other part
        (:class:`~statewise.nn.LinearPlus`): the first block passes its linear system on, the blocks
        behind it add nothing. From rest, y is that of ``system`` plus ``offset``.

        Args:
            system: a real linear model in discrete time, of normalised signals, such as
                ``lti.identify(u, y).system``.
            config: size and parts, without a norm; the layers are ``LTI``, ``LRU``, ``S5``, ``S4D``
                or relatives. A bank holds several inputs and outputs where ``d_model`` is at least
                their product.
            offset: constant output (n_outputs,); None for 0.
            margin: poles nearer to the unit circle than this are moved there, with a warning.
            dtype: type of the parameters; None for the default.
            seed: seed of the initial draw.

        Returns:
            The model. Its ``config`` is the one given, with the linear part of the static maps.

        Raises:
            ValueError: a system or a config of another kind, or more modes than states.

        Warns:
            UserWarning: poles that had to be moved: on or outside the unit circle, repeated ones
                (a defective A), or pure delays.

        Example:
            >>> system = StateSpace([[0.9]], [[1.0]], [[0.1]], dt=1.0)
            >>> model = DeepWiener.from_linear(system, dtype=torch.float64)
            >>> y, _ = model(torch.ones(1, 3, 1, dtype=torch.float64))
            >>> [round(value, 9) for value in y.flatten().tolist()]
            [0.0, 0.1, 0.19]
        """
        from statewise.models.linear_start import config_for_linear_start, modes_of, start_linear

        config = config_for_linear_start(DeepWienerConfig() if config is None else config)
        model = cls(system.n_inputs, system.n_outputs, config, seed=seed)
        model = model if dtype is None else model.to(dtype)
        weight = model.output_map.weight
        modes = modes_of(system, torch.finfo(weight.dtype).eps, margin, seed)
        constant = None if offset is None else torch.as_tensor(offset, dtype=weight.dtype)
        start_linear(model.input_map, model._chain, model.output_map, model.direct, modes, constant)
        return model

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
        if self.config.gain is None:
            y = self.output_map(signal)
            return y if self.direct is None else y + self.direct(u)
        scale = (self.config.gain / self._product_of_gains()).clamp(max=1.0)
        y = nn.functional.linear(signal, (scale * self.output_map.weight).to(signal.dtype))
        if self.direct is not None:
            y = y + (scale * self.direct(u).to(scale.dtype)).to(y.dtype)
        return y + self.output_map.bias.to(y.dtype)

    def _product_of_gains(self) -> Tensor:
        """A bound of the gain without ``config.gain``, with its gradient."""
        total = certified_gain(self.output_map)
        for block in self._chain:
            total = total * certified_gain(block)
        if self.input_map is not None:
            total = total * certified_gain(self.input_map)
        return total if self.direct is None else total + certified_gain(self.direct)

    def gain_bound(self) -> float:
        """A bound of ‖y − y'‖₂ / ‖u − u'‖₂ over two inputs from one state; infinite if unknown.

        It is the product over the parts (:func:`~statewise.nn.certified_gain`), or ``config.gain``
        where that is less. :func:`statewise.analysis.gain` finds tighter ones, and ones for other
        parts.
        """
        product = float(self._product_of_gains().detach())
        return product if self.config.gain is None else min(product, float(self.config.gain))

    @property
    def n_parameters(self) -> int:
        """Number of real trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def _block(
    d_input: int, config: DeepWienerConfig, spec: LayerSpec | None, rng: np.random.Generator
) -> Block:
    around = {
        "skip": config.skip,
        "norm": config.norm,
        "prenorm": config.prenorm,
        "dropout": config.dropout,
    }
    if spec is not None:
        layer = spec.build(d_input, rng, config.d_model)
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
