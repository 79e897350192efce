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
from statewise.nn.short_conv import ShortConv
from statewise.nn.static import linear


class AttentionState(NamedTuple):
    """The memory of attention.

    Attributes:
        key: the last W keys, oldest first, (B, W, n_heads_kv · d_head); zeros where there was no
            sample. All keys where there is no window.
        value: their values, likewise.
        seen: how many of them are samples, at most W, (B,), as a float.
        conv: the last inputs of the short convolution, (B, d_conv − 1, channels), oldest first;
            empty where there is none.
    """

    key: Tensor
    value: Tensor
    seen: Tensor
    conv: Tensor


class Attention(Layer):
    """y_t = W_o Σ_{t−W<s≤t} softmax_s(q_tᵀ R(s − t) k_s / √P) v_s, in heads of P channels.

    Each sample attends to itself and to the W − 1 samples before it. R rotates pairs of channels by
    angles that grow with the distance (rotary positions). The state is the last W keys and values,
    so memory does not grow with time, unless ``window`` is None: then it holds them all. A short
    causal convolution may run over the channels of q, k and v. Sums run over all keys of two
    neighbouring windows: a NaN in the future of a sample reaches it, a finite value does not.

    Sources: Vaswani et al. (1706.03762); Su et al., RoFormer (2104.09864); sliding windows as in
    Beltagy et al., Longformer (2004.05150); shared keys as in Ainslie et al., GQA (2305.13245).

    Args:
        d_model: inputs and outputs.
        n_heads: heads.
        n_heads_kv: heads of keys and values, each shared by neighbouring heads of queries; None
            for ``n_heads``.
        d_head: P; None for d_model / n_heads, which must be whole.
        window: W, samples that a sample sees, itself among them; None for all before it.
        base: base of the angles, base^(−2i/rotary) for pair i; 0 leaves positions away.
        rotary: channels of a head that R turns, the first ones; None for all.
        d_conv: taps of the convolution; 0 for none.
        bias: whether the maps have biases; the convolution has one.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes that do not fit.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int = 4,
        n_heads_kv: int | None = None,
        d_head: int | None = None,
        window: int | None = 256,
        base: float = 10_000.0,
        rotary: int | None = None,
        d_conv: int = 0,
        bias: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if n_heads < 1 or (d_head is None and d_model % n_heads) or (d_head or 1) < 1:
            raise ValueError(
                f"Attention cuts d_model into n_heads equal parts, or takes their width d_head; "
                f"given d_model = {d_model}, n_heads = {n_heads}, d_head = {d_head}"
            )
        shared = n_heads if n_heads_kv is None else n_heads_kv
        if shared < 1 or n_heads % shared:
            raise ValueError(
                f"Attention needs n_heads_kv that divides n_heads = {n_heads}; given {n_heads_kv}"
            )
        width = d_model // n_heads if d_head is None else d_head
        turned = width if rotary is None else rotary
        if base and (turned % 2 or not 0 < turned <= width):
            raise ValueError(
                f"Attention turns an even number of the {width} channels of a head, at least 2; "
                f"given rotary = {rotary}"
            )
        if (window is not None and window < 1) or base < 0 or d_conv < 0:
            raise ValueError(
                f"Attention needs window >= 1, base >= 0 and d_conv >= 0; given "
                f"window = {window}, base = {base}, d_conv = {d_conv}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.n_heads, self.n_heads_kv, self.d_head = n_heads, shared, width
        self.window, self.base, self.rotary = window, base, turned
        self._widths = [n_heads * width, shared * width, shared * width]
        self.enter = linear(d_model, sum(self._widths), rng, bias=bias)
        self.conv1d = None
        if d_conv:
            self.conv1d = ShortConv(sum(self._widths), d_conv, rng, silu=False)
        self.leave = linear(n_heads * width, d_model, rng, bias=bias)

    def init_state(self, batch: int) -> State:
        """The state of rest: an empty memory."""
        weight = self.enter.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        device = weight.device
        shape = (batch, self.window or 0, self._widths[1])
        memory = torch.zeros(shape, dtype=dtype, device=device)
        taps = 0 if self.conv1d is None else self.conv1d.width - 1
        conv = torch.zeros(batch, taps, sum(self._widths), dtype=dtype, device=device)
        return AttentionState(memory, memory.clone(), memory.new_zeros(batch), conv)

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
        entered, conv = self.enter(mask_input(mask_input(u, mask), valid)), memory.conv
        if self.conv1d is not None:
            entered, conv = self.conv1d(entered, conv, reset=reset, lengths=lengths)
        query, key, value = entered.split(self._widths, dim=-1)
        key = torch.cat([memory.key.to(key.dtype), key], dim=1)
        value = torch.cat([memory.value.to(value.dtype), value], dim=1)
        era = self._eras(memory.seen, memory.key.shape[1], reset, length)
        # Blocks of whole windows would be nearly empty around a short input.
        dense = self.window is None or length < self.window
        attend = self._attend_at_once if dense else self._attend_in_blocks
        y = self.leave(attend(query, key, value, era))
        end = torch.full((batch,), length, device=u.device) if lengths is None else lengths
        last = self._remember(key, value, era, end, length, memory.key.dtype)
        return mask_input(y, valid), AttentionState(*last, conv)

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

    def _eras(self, seen: Tensor, filled: int, reset: Tensor | None, length: int) -> Tensor:
        """The stretch between resets of every entry (B, M + L); −1 for entries never filled."""
        place = torch.arange(filled, 0, -1, device=seen.device)
        memory = torch.where(place <= seen.unsqueeze(-1), 0, -1)
        if reset is None:
            new = torch.zeros(seen.shape[0], length, dtype=memory.dtype, device=seen.device)
        else:
            new = torch.cumsum(reset, dim=1).to(memory.dtype)
        return torch.cat([memory, new], dim=1)

    def _attend_at_once(self, query: Tensor, key: Tensor, value: Tensor, era: Tensor) -> Tensor:
        """Attention of L samples to all M + L entries."""
        length, filled = query.shape[1], key.shape[1] - query.shape[1]
        query, key, value = (
            x.unflatten(-1, (-1, self.d_head)).transpose(1, 2) for x in (query, key, value)
        )
        position = torch.arange(filled + length, device=query.device)
        seen = self._near(position[filled:], position)
        seen = seen & (era[:, filled:, None] == era[:, None])
        return self._mix(query, key, value, position[filled:], position, seen.unsqueeze(1))

    def _attend_in_blocks(self, query: Tensor, key: Tensor, value: Tensor, era: Tensor) -> Tensor:
        """Attention of blocks of W samples to themselves and to the block before."""
        length, window = query.shape[1], self.window
        assert window is not None
        count = -(-length // window)
        pad = count * window - length
        query = _pad(query, pad).unflatten(1, (count, window))
        query = query.unflatten(-1, (-1, self.d_head)).transpose(2, 3)
        key, value = (
            _pad(x, pad)
            .unfold(1, 2 * window, window)
            .unflatten(2, (-1, self.d_head))
            .transpose(-1, -2)
            for x in (key, value)
        )
        era = _pad(era.unsqueeze(-1), pad).squeeze(-1).unfold(1, 2 * window, window)
        position = torch.arange(2 * window, device=query.device)
        seen = self._near(position[window:], position)
        seen = seen & (era[:, :, window:, None] == era[:, :, None])
        y = self._mix(query, key, value, position[window:], position, seen.unsqueeze(2))
        return y.flatten(1, 2)[:, :length]

    def _near(self, to: Tensor, position: Tensor) -> Tensor:
        distance = to[:, None] - position
        near = distance >= 0
        return near if self.window is None else near & (distance < self.window)

    def _mix(
        self, query: Tensor, key: Tensor, value: Tensor, to: Tensor, position: Tensor, seen: Tensor
    ) -> Tensor:
        """Softmax attention of (…, heads, L, P) to (…, heads, S, P), as (…, L, heads · P)."""
        if self.base:
            query, key = self._turn(query, to), self._turn(key, position)
        copies = self.n_heads // self.n_heads_kv
        if copies > 1:
            key, value = (x.repeat_interleave(copies, dim=-3) for x in (key, value))
        y = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen)
        return y.transpose(-3, -2).flatten(-2)

    def _turn(self, x: Tensor, position: Tensor) -> Tensor:
        half = self.rotary // 2
        exponent = torch.arange(half, device=x.device, dtype=torch.float64) / half
        angle = position.to(torch.float64).unsqueeze(-1) * self.base**-exponent
        cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second, rest = x.split([half, half, self.d_head - 2 * half], dim=-1)
        turned = [first * cosine - second * sine, first * sine + second * cosine]
        return torch.cat([*turned, rest], dim=-1)

    def _remember(
        self,
        key: Tensor,
        value: Tensor,
        era: Tensor,
        end: Tensor,
        length: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The last entries before each end; those of an earlier stretch are forgotten."""
        size = key.shape[1] if self.window is None else self.window
        place = end.unsqueeze(-1) + torch.arange(size, device=end.device)
        place = place + (key.shape[1] - length - size)
        index = place.clamp_min(0)
        eras = era.gather(1, index)
        kept = (place >= 0) & (eras == eras[:, -1:]) & (eras >= 0)
        wide = index.unsqueeze(-1).expand(-1, -1, key.shape[-1])
        return (
            mask_input(key.gather(1, wide), kept).to(dtype),
            mask_input(value.gather(1, wide), kept).to(dtype),
            kept.sum(1).to(dtype),
        )

    def _split(self, state: State, batch: int) -> AttentionState:
        rest = self.init_state(batch)
        if state is None:
            return rest
        expected = [tuple(part.shape) for part in rest]
        given = [tuple(part.shape) for part in state] if isinstance(state, tuple) else state
        if self.window is None and isinstance(given, list) and len(given) == len(expected):
            filled = given[0][1] if len(given[0]) == 3 else 0
            expected[:2] = [(batch, filled, self._widths[1])] * 2
        if given != expected:
            raise ValueError(
                f"Attention takes a state of shapes {expected} for this input; given {given}"
            )
        return AttentionState(*state)


def _pad(x: Tensor, count: int) -> Tensor:
    """Append ``count`` entries of zeros along time, (B, L, D)."""
    return torch.nn.functional.pad(x, (0, 0, 0, count))
