"""Causal softmax attention over a window, as a layer with a state."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.nn.contract import (
    Layer,
    State,
    check_sample,
    check_sequence,
    mask_input,
    valid_steps,
)
from statewise.nn.static import linear


class AttentionState(NamedTuple):
    """The memory of attention.

    Attributes:
        key: the last W keys, oldest first, (B, W, d_model); zeros where there was no sample.
        value: their values, (B, W, d_model).
        seen: how many of them are samples, at most W, (B,), as a float.
    """

    key: Tensor
    value: Tensor
    seen: Tensor


class Attention(Layer):
    """y_t = W_o Σ_{t−W<s≤t} softmax_s(q_tᵀ R(s − t) k_s / √P) v_s, in heads of P channels.

    Each sample attends to itself and to the W − 1 samples before it. R rotates pairs of channels by
    angles that grow with the distance (rotary positions). The state is the last W keys and values,
    so memory does not grow with time. Sums run over all keys of two neighbouring windows: a NaN in
    the future of a sample reaches it, a finite value does not.

    Sources: Vaswani et al. (1706.03762); Su et al., RoFormer (2104.09864); sliding windows as in
    Beltagy et al., Longformer (2004.05150).

    Args:
        d_model: inputs and outputs.
        n_heads: heads; their number divides ``d_model`` into even parts.
        window: W, samples that a sample sees, itself among them.
        base: base of the angles, base^(−2i/P) for pair i; 0 leaves positions away.
        bias: whether the maps have biases.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes that do not fit.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int = 4,
        window: int = 256,
        base: float = 10_000.0,
        bias: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads or (base and (d_model // n_heads) % 2):
            even = " of even width" if base else ""
            raise ValueError(
                f"Attention cuts d_model into n_heads equal parts{even}; given "
                f"d_model = {d_model}, n_heads = {n_heads}"
            )
        if window < 1 or base < 0:
            raise ValueError(
                f"Attention needs window >= 1 and base >= 0; given window = {window}, base = {base}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.n_heads, self.window, self.base = n_heads, window, base
        self.enter = linear(d_model, 3 * d_model, rng, bias=bias)
        self.leave = linear(d_model, d_model, rng, bias=bias)

    def init_state(self, batch: int) -> State:
        """The state of rest: an empty memory."""
        weight = self.enter.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        memory = torch.zeros(batch, self.window, self.d_input, dtype=dtype, device=weight.device)
        return AttentionState(memory, memory.clone(), memory.new_zeros(batch))

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
        """See :meth:`Layer.forward`; ``dt`` is refused, because positions count samples."""
        check_sequence(self, u, dt, mask, reset, lengths)
        self._refuse_steps(dt)
        batch, length = u.shape[:2]
        memory = self._split(state, batch)
        valid = None if lengths is None else valid_steps(lengths, length)
        query, key, value = self._project(mask_input(mask_input(u, mask), valid))
        key = torch.cat([memory.key.to(key.dtype), key], dim=1)
        value = torch.cat([memory.value.to(value.dtype), value], dim=1)
        era = self._eras(memory.seen, reset, batch, length)
        y = self.leave(self._attend(query, key, value, era))
        end = torch.full((batch,), length, device=u.device) if lengths is None else lengths
        return mask_input(y, valid), self._remember(key, value, era, end, memory.key.dtype)

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.step`."""
        check_sample(self, u, dt, mask)
        self._refuse_steps(dt)
        y, state = self(mask_input(u, mask).unsqueeze(1), state)
        return y.squeeze(1), state

    def _refuse_steps(self, dt: Tensor | None) -> None:
        if dt is not None:
            raise ValueError(
                "Attention cannot honour dt: its positions count samples, not time; leave dt away"
            )

    def _project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = torch.chunk(self.enter(u), 3, dim=-1)
        return query, key, value

    def _eras(self, seen: Tensor, reset: Tensor | None, batch: int, length: int) -> Tensor:
        """The stretch between resets of every entry (B, W + L); −1 for entries never filled."""
        place = torch.arange(self.window, 0, -1, device=seen.device)
        memory = torch.where(place <= seen.unsqueeze(-1), 0, -1)
        if reset is None:
            new = torch.zeros(batch, length, dtype=memory.dtype, device=seen.device)
        else:
            new = torch.cumsum(reset, dim=1).to(memory.dtype)
        return torch.cat([memory, new], dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, era: Tensor) -> Tensor:
        """Attention of blocks of W samples to themselves and to the block before."""
        batch, length, width = query.shape
        window, heads = self.window, self.n_heads
        count = -(-length // window)
        pad = count * window - length
        query = _pad(query, pad).view(batch, count, window, heads, -1).transpose(2, 3)
        pair = [
            _pad(x, pad).unfold(1, 2 * window, window).unflatten(2, (heads, -1)).transpose(-1, -2)
            for x in (key, value)
        ]
        era = _pad(era.unsqueeze(-1), pad).squeeze(-1).unfold(1, 2 * window, window)
        position = torch.arange(2 * window, device=query.device)
        distance = position[window:, None] - position
        near = (distance >= 0) & (distance < window)
        same = era[:, :, window:, None] == era[:, :, None]
        if self.base:
            query = self._rotate(query, position[window:])
            pair[0] = self._rotate(pair[0], position)
        seen = (near & same).unsqueeze(2)
        y = torch.nn.functional.scaled_dot_product_attention(query, pair[0], pair[1], seen)
        return y.transpose(2, 3).reshape(batch, count * window, width)[:, :length]

    def _rotate(self, x: Tensor, position: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        exponent = torch.arange(half, device=x.device, dtype=torch.float64) / half
        angle = position.to(torch.float64).unsqueeze(-1) * self.base**-exponent
        cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)

    def _remember(
        self, key: Tensor, value: Tensor, era: Tensor, end: Tensor, dtype: torch.dtype
    ) -> AttentionState:
        """The last W entries before each end; those of an earlier stretch are forgotten."""
        index = end.unsqueeze(-1) + torch.arange(self.window, device=end.device)
        eras = era.gather(1, index)
        kept = (eras == eras[:, -1:]) & (eras >= 0)
        wide = index.unsqueeze(-1).expand(-1, -1, key.shape[-1])
        return AttentionState(
            mask_input(key.gather(1, wide), kept).to(dtype),
            mask_input(value.gather(1, wide), kept).to(dtype),
            kept.sum(1).to(dtype),
        )

    def _split(self, state: State, batch: int) -> AttentionState:
        if state is None:
            return self.init_state(batch)
        memory = (batch, self.window, self.d_input)
        expected = [memory, memory, (batch,)]
        given = [tuple(part.shape) for part in state] if isinstance(state, tuple) else state
        if given != expected:
            raise ValueError(
                f"Attention takes a state of shapes {expected} for this input; given {given}"
            )
        return AttentionState(*state)


def _pad(x: Tensor, count: int) -> Tensor:
    """Append ``count`` entries of zeros along time, (B, L, D)."""
    return torch.nn.functional.pad(x, (0, 0, 0, count))
