"""A stack of blocks with an encoder and a head, for signals and tokens."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from statewise.models.sequence_config import Pooled, SequenceModelConfig, Tokens
from statewise.nn.block import Block
from statewise.nn.contract import (
    Layer,
    State,
    at_last,
    check_sample,
    check_sequence,
    mask_input,
    valid_steps,
)
from statewise.nn.stacked import Stepper
from statewise.nn.static import linear


class PooledState(NamedTuple):
    """State of a model with a pooled head.

    Attributes:
        blocks: the state of every block.
        total: sum of the features since the last reset, or the last ones, (B, d_model).
        count: how many samples that sum holds, (B,).
    """

    blocks: tuple[State, ...]
    total: Tensor
    count: Tensor


class SequenceModel(Layer):
    """Encoder → blocks → norm → head, under the layer contract.

    Inputs are signals (B, L, n_inputs) or tokens (B, L). The output is (B, L, n_outputs), or
    (B, n_outputs) with a pooled head: then ``step`` gives the output of the sequence so far. The
    state is a tuple with the state of every block, inside a :class:`PooledState` for such a head.

    Args:
        n_inputs: input signals, or the size of the vocabulary.
        n_outputs: outputs, or classes.
        config: size and parts.
        seed: seed of the initial draw.

    Raises:
        ValueError: sizes below 1, or parts that do not fit together.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        config: SequenceModelConfig,
        *,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for name, size in (("n_inputs", n_inputs), ("n_outputs", n_outputs)):
            if size < 1:
                raise ValueError(f"SequenceModel needs {name} of at least 1; given {size}")
        rng = np.random.default_rng(seed)
        self.config, self.d_input, self.d_output = config, n_inputs, n_outputs
        width = config.d_model
        self.tokens = isinstance(config.encoder, Tokens)
        self.encoder: nn.Module
        if isinstance(config.encoder, Tokens):
            draw = config.encoder.std * rng.standard_normal((n_inputs, width))
            weight = torch.tensor(draw, dtype=torch.get_default_dtype())
            self.encoder = nn.Embedding(n_inputs, width, _weight=weight)
        else:
            self.encoder = linear(n_inputs, width, rng)
        self.blocks = nn.ModuleList(
            [block.build(width, rng) for _ in range(config.repeat) for block in config.blocks]
        )
        self.norm: nn.Module = nn.Identity()
        if config.norm is not None:
            self.norm = config.norm.build(width)
        self._steps = Stepper()
        self.pool = config.head.pool if isinstance(config.head, Pooled) else None
        self.head: nn.Linear | None = None
        if not getattr(config.head, "tied", False):
            self.head = linear(width, n_outputs, rng)
        elif n_outputs != n_inputs:
            raise ValueError(
                f"a tied head has as many outputs as tokens; given n_inputs = {n_inputs}, "
                f"n_outputs = {n_outputs}"
            )

    @property
    def _chain(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def init_state(self, batch: int) -> State:
        """The state of rest of every block, and an empty pool where there is one."""
        states = tuple(block.init_state(batch) for block in self._chain)
        if self.pool is None:
            return states
        weight = cast(Tensor, self.encoder.weight)
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        total = torch.zeros(batch, self.config.d_model, dtype=dtype, device=weight.device)
        return PooledState(states, total, total.new_zeros(batch))

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
        """See :meth:`Layer.forward`; an input that was not observed enters with features 0."""
        features = self._encode(u, mask, dt, reset, lengths)
        batch, length = features.shape[:2]
        states, total, count = self._split(state, batch)
        valid = None if lengths is None else valid_steps(lengths, length)
        after = []
        for block, before in zip(self._chain, states, strict=True):
            features, last = block(features, before, dt=dt, reset=reset, lengths=lengths)
            after.append(last)
        if total is None or count is None:
            return mask_input(self._read(self.norm(features)), valid), tuple(after)
        features = mask_input(self.norm(features), valid).to(total.dtype)
        total, count = self._pool(features, total, count, valid, reset)
        return self._read_pool(total, count), PooledState(tuple(after), total, count)

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.step`; tokens are (B,)."""
        features = self._encode_sample(u, mask, dt)
        states, total, count = self._split(state, features.shape[0])
        features, after = self._steps("SequenceModel", self._chain, features, states, dt)
        if total is None or count is None:
            return self._read(self.norm(features)), after
        features = self.norm(features).unsqueeze(1).to(total.dtype)
        total, count = self._pool(features, total, count, None, None)
        return self._read_pool(total, count), PooledState(after, total, count)

    def _encode(
        self,
        u: Tensor,
        mask: Tensor | None,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> Tensor:
        if not self.tokens:
            check_sequence(self, u, dt, mask, reset, lengths)
            valid = None if lengths is None else valid_steps(lengths, u.shape[1])
            return self.encoder(mask_input(mask_input(u, mask), valid))
        self._check_tokens(u, 2)
        shape = (*u.shape, self.d_input)
        check_sequence(self, u.unsqueeze(-1).expand(shape), dt, mask, reset, lengths)
        return mask_input(self.encoder(u), mask)

    def _encode_sample(self, u: Tensor, mask: Tensor | None, dt: Tensor | None) -> Tensor:
        if not self.tokens:
            check_sample(self, u, dt, mask)
            return self.encoder(mask_input(u, mask))
        self._check_tokens(u, 1)
        check_sample(self, u.unsqueeze(-1).expand(*u.shape, self.d_input), dt, mask)
        return mask_input(self.encoder(u), mask)

    def _check_tokens(self, u: Tensor, axes: int) -> None:
        if u.ndim != axes or u.dtype.is_floating_point or u.dtype == torch.bool:
            shape = "(batch, length)" if axes == 2 else "(batch,)"
            raise ValueError(
                f"SequenceModel takes tokens as whole numbers of shape {shape}; given "
                f"{tuple(u.shape)} of {u.dtype}"
            )
        if u.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in u.aminmax())
            if low < 0 or high >= self.d_input:
                raise ValueError(
                    f"SequenceModel takes tokens from 0 to {self.d_input - 1}; given tokens from "
                    f"{low} to {high}"
                )

    def _read(self, features: Tensor) -> Tensor:
        weight = cast(Tensor, self.encoder.weight)
        if self.head is None:
            return features.to(weight.dtype) @ weight.mT
        return self.head(features.to(weight.dtype))

    def _read_pool(self, total: Tensor, count: Tensor) -> Tensor:
        return self._read(total / count.clamp_min(1).unsqueeze(-1))

    def _pool(
        self,
        features: Tensor,
        total: Tensor,
        count: Tensor,
        valid: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        batch, length = features.shape[:2]
        if valid is None:
            valid = torch.ones(batch, length, dtype=torch.bool, device=features.device)
        ends = valid.sum(1)
        if self.pool == "last":
            return at_last(features, total, ends), torch.where(
                ends > 0, torch.ones_like(count), count
            )
        if reset is not None:
            # Samples before the last reset among the valid ones leave the sum.
            era = torch.cumsum(reset & valid, dim=1)
            last = era[:, -1:]
            total = mask_input(total, (last.squeeze(1) == 0).unsqueeze(-1))
            count = mask_input(count, last.squeeze(1) == 0)
            valid = valid & (era == last)
        return total + mask_input(features, valid).sum(1), count + valid.sum(1)

    def _split(
        self, state: State, batch: int
    ) -> tuple[tuple[State, ...], Tensor | None, Tensor | None]:
        if state is None:
            state = self.init_state(batch)
        total = count = None
        if isinstance(state, PooledState) == (self.pool is None):
            kind = "a tuple with the state of every block" if self.pool is None else "a PooledState"
            raise ValueError(
                f"SequenceModel takes {kind} as its state here; given {type(state).__name__}"
            )
        if isinstance(state, PooledState):
            state, total, count = state
            if tuple(total.shape) != (batch, self.config.d_model) or tuple(count.shape) != (batch,):
                raise ValueError(
                    f"SequenceModel takes a pool of shapes {(batch, self.config.d_model)} and "
                    f"{(batch,)} in its state for this input; given {tuple(total.shape)} and "
                    f"{tuple(count.shape)}"
                )
        if not isinstance(state, tuple | list) or len(state) != len(self.blocks):
            given = f"{len(state)}" if isinstance(state, tuple | list) else type(state).__name__
            raise ValueError(
                f"SequenceModel takes a tuple of {len(self.blocks)} states, one for each block; "
                f"given {given}"
            )
        return tuple(state), total, count

    @property
    def n_parameters(self) -> int:
        """Number of real trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
