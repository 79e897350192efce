"""The gated attention unit over a window of samples."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from statewise.nn.contract import State, mask_input
from statewise.nn.recurrence import Recurrence
from statewise.nn.rotary import rotate
from statewise.nn.static import small_linear, small_normal


class GAUState(NamedTuple):
    """The memory of a gated attention unit.

    Attributes:
        key: the last W keys before rotation, oldest first, (B, W, d_key); zeros where there was
            no sample.
        value: their values, (B, W, expand · d_model).
        age: time from each to the last sample, (B, W).
        seen: how many of them are samples, at most W, (B,), as a float.
    """

    key: Tensor
    value: Tensor
    age: Tensor
    seen: Tensor


class Recent(NamedTuple):
    """Memory and sequence behind one another: W + L entries, newest last."""

    key: Tensor  # (B, W + L, S)
    value: Tensor  # (B, W + L, E)
    position: Tensor  # (B, W + L), float64, 0 at the newest entry of the memory
    era: Tensor  # (B, W + L): the stretch between resets; −1 for entries never filled


class GAU(Recurrence):
    """y_t = W_h (r_t ⊙ Σ_{t−W≤s≤t} f(q_tᵀ k_s) v_s): attention of one head, gated.

    [z, r, v] = silu(W u); q and k are z, scaled and shifted each by its own weights, and turned by
    angles that grow with time (rotary positions), so that their product depends on the distance.
    f is the softmax over s of q·k/√d_key, or max(0, q·k/W)² (``activation="relu2"``). A sample sees
    itself and the W before it. A relative step ``dt`` is the distance between two samples.

    W, W_h and the scales start as N(0, 0.02²), cut at two deviations, without biases: the unit is
    nearly silent at first, so that a router that weighs it does not shut it off as noise.

    Source: Hua et al., FLASH (2202.10447), section 2; the window and the start as in SeqBoat
    (2306.11197) and its public code.

    Args:
        d_model: input and output channels.
        d_key: width of queries and keys, even with ``base``.
        expand: width of values and gate, in units of d_model.
        window: W.
        activation: "softmax" or "relu2".
        base: base of the angles, base^(−2i/d_key) for pair i; 0 leaves positions away.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a size below 1, an odd d_key with rotation, or an unknown activation.
    """

    timed = True
    roles: ClassVar[dict[str, str]] = {"scale": "scale", "shift": "bias"}

    def __init__(
        self,
        d_model: int,
        *,
        d_key: int = 64,
        expand: int = 2,
        window: int = 128,
        activation: str = "softmax",
        base: float = 10_000.0,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        sizes = {"d_model": d_model, "d_key": d_key, "expand": expand, "window": window}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"GAU needs {name} of at least 1; given {size}")
        if base < 0 or (base and d_key % 2):
            raise ValueError(
                f"GAU needs base >= 0, and an even d_key to rotate; given base = {base}, "
                f"d_key = {d_key}"
            )
        if activation not in ("softmax", "relu2"):
            raise ValueError(f'the activation of GAU is "softmax" or "relu2"; given {activation!r}')
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.d_key, self.d_value, self.window = d_key, expand * d_model, window
        self.activation, self.base = activation, base
        self.enter = small_linear(d_model, d_key + 2 * self.d_value, rng)
        scale = small_normal((2, d_key), rng)
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.get_default_dtype()))
        self.shift = nn.Parameter(torch.zeros(2, d_key))
        self.leave = small_linear(self.d_value, d_model, rng)

    def init_state(self, batch: int) -> GAUState:
        """The state of rest: an empty memory."""
        return GAUState(
            self.rest(batch, self.window, self.d_key),
            self.rest(batch, self.window, self.d_value),
            self.rest(batch, self.window),
            self.rest(batch),
        )

    def _sequence(
        self,
        u: Tensor,
        state: GAUState,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        batch, length = u.shape[:2]
        query, gate, recent = self._recent(u, state, dt, reset)
        y = self._by_blocks(query, recent) if length > 1 else self._by_sample(query, recent)
        if lengths is None:
            lengths = torch.full((batch,), length, device=u.device)
        return self._finish(y, gate), self._remember(recent, lengths)

    def _sample(self, u: Tensor, state: GAUState, dt: Tensor | None) -> tuple[Tensor, GAUState]:
        step = None if dt is None else dt.unsqueeze(1)
        query, gate, recent = self._recent(u.unsqueeze(1), state, step, None)
        y = self._finish(self._by_sample(query, recent), gate)
        return y[:, 0], self._remember(recent, torch.ones_like(state.seen, dtype=torch.long))

    def _recent(
        self, u: Tensor, state: GAUState, dt: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor, Recent]:
        dtype = self.state_dtype
        z, gate, value = (
            silu(self.enter(u)).to(dtype).split([self.d_key, self.d_value, self.d_value], -1)
        )
        query, key = (
            z * scale + shift
            for scale, shift in zip(self.scale.to(dtype), self.shift.to(dtype), strict=True)
        )
        steps = torch.ones_like(u[..., 0], dtype=torch.float64) if dt is None else dt.double()
        filled = torch.arange(self.window, 0, -1, device=u.device) <= state.seen.unsqueeze(-1)
        new = torch.zeros_like(steps, dtype=torch.long) if reset is None else reset.long().cumsum(1)
        recent = Recent(
            torch.cat([state.key, key], 1),
            torch.cat([state.value, value], 1),
            torch.cat([-state.age.double(), steps.cumsum(1)], 1),
            torch.cat([filled.long() - 1, new], 1),
        )
        return query, gate, recent

    def _by_blocks(self, query: Tensor, recent: Recent) -> Tensor:
        """Attention of blocks of W samples to themselves and to the block before."""
        length, window = query.shape[1], self.window
        short = -length % window
        query = pad(self._turn(query, recent.position[:, window:]), (0, 0, 0, short))
        key = pad(self._turn(recent.key, recent.position), (0, 0, 0, short))
        value = pad(recent.value, (0, 0, 0, short))
        era = pad(recent.era, (0, short)).unfold(1, 2 * window, window)
        query = query.unflatten(1, (-1, window))
        key, value = (x.unfold(1, 2 * window, window).mT for x in (key, value))
        place = torch.arange(2 * window, device=query.device)
        distance = place[window:, None] - place
        near = (distance >= 0) & (distance <= window)
        seen = near & (era[:, :, window:, None] == era[:, :, None])
        return self._attend(query, key, value, seen).flatten(1, 2)[:, :length]

    def _by_sample(self, query: Tensor, recent: Recent) -> Tensor:
        query = self._turn(query, recent.position[:, -1:])
        key = self._turn(recent.key, recent.position)
        seen = recent.era[:, None] == recent.era[:, -1:, None]
        return self._attend(query, key, recent.value, seen)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        score = query @ key.mT
        if self.activation == "relu2":
            weight = torch.relu(score / self.window).square() * seen
        else:
            score = score / math.sqrt(self.d_key)
            weight = torch.softmax(score.masked_fill(~seen, -math.inf), -1)
        return weight @ value

    def _turn(self, x: Tensor, position: Tensor) -> Tensor:
        if not self.base:
            return x
        count = self.d_key // 2
        exponent = torch.arange(count, device=x.device, dtype=torch.float64) / count
        return rotate(x, position.unsqueeze(-1) * self.base**-exponent, neighbours=True)

    def _finish(self, y: Tensor, gate: Tensor) -> Tensor:
        return self.leave((y * gate).to(self.leave.weight.dtype))

    def _remember(self, recent: Recent, lengths: Tensor) -> GAUState:
        """The last W entries before each end; those of an earlier stretch are forgotten."""
        index = lengths.unsqueeze(-1) + torch.arange(self.window, device=lengths.device)
        era, position = recent.era.gather(1, index), recent.position.gather(1, index)
        kept = (era == era[:, -1:]) & (era >= 0)

        def rows(x: Tensor) -> Tensor:
            return mask_input(x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1])), kept)

        age = mask_input(position[:, -1:] - position, kept)
        dtype = self.state_dtype
        return GAUState(rows(recent.key), rows(recent.value), age.to(dtype), kept.sum(1).to(dtype))
