"""Sparse modular activation: a router decides which samples a costly layer sees (SeqBoat)."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, pad, silu

from statewise.nn.contract import Layer, State, map_state, mask_input, valid_steps
from statewise.nn.ema import EMA
from statewise.nn.layer_spec import LayerSpec
from statewise.nn.recurrence import Recurrence
from statewise.nn.static import small_linear


class SeqBoatState(NamedTuple):
    """State of a :class:`SeqBoat` layer.

    Attributes:
        memory: state of the moving average.
        inner: state of the layer that sees active samples only.
        gap: samples since the last active one, (B,).
    """

    memory: Tensor
    inner: State
    gap: Tensor


class SeqBoat(Recurrence):
    """y = silu(u + W_x H + c ⊙ layer(H where active)),  H = silu(EMA(norm(u))).

    The moving average always runs. A router reads H: p = softmax(W_r H / τ) over "skip" and "use";
    a sample is active where "use" is likelier, and then c is its probability, else 0. The inner
    layer sees the active samples alone, one behind the other, as a shorter sequence: its cost and
    its memory go by activity, and its window reaches as far back as active samples lie. The
    decision has no noise and no gradient; W_r learns through c.

    Source: Ren et al., Sparse modular activation (2306.11197), section 3.

    Args:
        d_model: input and output channels.
        inner: the costly layer as data; None for ``GAU.spec()``.
        d_state: averages of each channel of the memory.
        temperature: τ starts at ``temperature`` · √d_model.
        positions: "original" passes the distances between active samples on as ``dt``, which a
            GAU takes for positions; "local" counts active samples, for layers without time.
        prenorm: normalise u in front (True), or the output.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a temperature that is not positive, unknown positions, or an inner layer that
            does not exist.
    """

    roles: ClassVar[dict[str, str]] = {"log_temperature": "scale"}

    def __init__(
        self,
        d_model: int,
        *,
        inner: LayerSpec | None = None,
        d_state: int = 16,
        temperature: float = 1.0,
        positions: str = "original",
        prenorm: bool = True,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"SeqBoat needs a positive temperature; given {temperature}")
        if positions not in ("original", "local"):
            raise ValueError(
                f'the positions of SeqBoat are "original" or "local"; given {positions!r}'
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.positions, self.prenorm = positions, prenorm
        self.memory = EMA(d_model, d_state=d_state, seed=rng)
        self.norm = nn.LayerNorm(d_model)
        self.route = small_linear(d_model, 2, rng)
        self.bypass = small_linear(d_model, d_model, rng)
        start = math.log(temperature * math.sqrt(d_model))
        self.log_temperature = nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))
        self.inner: Layer = (LayerSpec("GAU") if inner is None else inner).build(d_model, rng)

    def init_state(self, batch: int) -> SeqBoatState:
        """The state of rest: that of the parts, and no sample since an active one."""
        return SeqBoatState(
            self.memory.init_state(batch), self.inner.init_state(batch), self.rest(batch)
        )

    def active(
        self, u: Tensor, state: State = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Which samples the inner layer would see.

        Args:
            u: input (B, L, d_model), all of it observed.
            state: state before the first sample, or None for rest.
            reset: True where the state is set to rest before that sample, (B, L).

        Returns:
            True where active, (B, L), and the probability of "use", (B, L).
        """
        before = self._check_state(state, u.shape[0])
        return self._route(self._remember(u, before.memory, reset, None)[0])

    def _sequence(
        self,
        u: Tensor,
        state: SeqBoatState,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        length = u.shape[1]
        hidden, memory = self._remember(u, state.memory, reset, lengths)
        active, share = self._route(hidden)
        if lengths is not None:
            active = active & valid_steps(lengths, length)
        count = active.sum(1)
        # The length of the shorter sequence is a number that a traced graph does not know.
        room = length if torch.compiler.is_compiling() else int(count.max())
        origin = _origins(active, reset, state.gap)
        era = torch.zeros_like(active, dtype=torch.long) if reset is None else reset.cumsum(1)
        hidden = hidden.to(u.dtype)
        extra, inner, last_era = torch.zeros_like(hidden), state.inner, torch.zeros_like(count)
        if room:
            rank = (active.cumsum(1) - 1).clamp_min(0)
            places = _places(active, rank, room)
            eras = era.gather(1, places)
            filled = valid_steps(count, room)
            distance = torch.arange(length, device=u.device) - origin[:, :-1]
            given = {"dt": distance.gather(1, places)} if self.positions == "original" else {}
            if reset is not None:
                given["reset"] = (eras != pad(eras[:, :-1], (1, 0))) & filled
            dense = hidden.gather(1, _wide(places, hidden))
            found, inner = self.inner(dense, inner, lengths=count, **given)
            extra = mask_input(found.gather(1, _wide(rank, hidden)), active)
            last_era = mask_input(
                eras.gather(1, (count - 1).clamp_min(0)[:, None])[:, 0], count > 0
            )
        inner = self._rest_where(last_era != era[:, -1], inner)
        end = torch.full_like(count, length) if lengths is None else lengths
        gap = end - 1 - origin.gather(1, end[:, None])[:, 0]
        y = self._finish(u, hidden, share * active, extra)
        return y, SeqBoatState(memory, inner, gap.to(self.state_dtype))

    def _sample(
        self, u: Tensor, state: SeqBoatState, dt: Tensor | None
    ) -> tuple[Tensor, SeqBoatState]:
        hidden, memory = self._remember(u.unsqueeze(1), state.memory, None, None)
        active, share = (part[:, 0] for part in self._route(hidden))
        hidden = hidden[:, 0].to(u.dtype)
        gap, inner, extra = state.gap + 1, state.inner, torch.zeros_like(hidden)
        if torch.compiler.is_compiling() or active.any():
            given = {"dt": gap} if self.positions == "original" else {}
            found, after = self.inner.step(hidden, inner, **given)
            extra = mask_input(found, active)
            inner = map_state(lambda new, old: _where(active, new, old), after, inner)
        y = self._finish(u, hidden, share * active, extra)
        return y, SeqBoatState(memory, inner, mask_input(gap, ~active))

    def _remember(
        self, u: Tensor, memory: Tensor, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """H, in the precision of states: decisions must not depend on rounding in half types."""
        u = u.to(self.state_dtype)
        with torch.autocast(u.device.type, enabled=False):
            hidden, memory = self.memory(
                self._normalise(u) if self.prenorm else u, memory, reset=reset, lengths=lengths
            )
            return silu(hidden), memory

    def _route(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        dtype = hidden.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            logits = linear(hidden, self.route.weight.to(dtype), self.route.bias.to(dtype))
            margin = logits[..., 1] - logits[..., 0]
            return margin > 0, torch.sigmoid(margin * torch.exp(-self.log_temperature.to(dtype)))

    def _normalise(self, x: Tensor) -> Tensor:
        weight, bias = self.norm.weight.to(x.dtype), self.norm.bias.to(x.dtype)
        return layer_norm(x, (self.d_input,), weight, bias, self.norm.eps)

    def _finish(self, u: Tensor, hidden: Tensor, share: Tensor, extra: Tensor) -> Tensor:
        y = silu(u + self.bypass(hidden) + share.to(u.dtype).unsqueeze(-1) * extra)
        return y if self.prenorm else self._normalise(y)

    def _rest_where(self, ended: Tensor, inner: State) -> State:
        """The inner state, set to rest where a reset came behind the last active sample."""
        rest = self.inner.init_state(ended.shape[0])
        return map_state(lambda now, zero: _where(ended, zero, now), inner, rest)


def _origins(active: Tensor, reset: Tensor | None, gap: Tensor) -> Tensor:
    """The place that each sample counts its distance from, (B, L + 1), of the type of ``gap``.

    It is that of the last active sample before it, or the one before the last reset.
    """
    length = active.shape[1]
    time = torch.arange(length, dtype=gap.dtype, device=gap.device)
    start = (-1 - gap).unsqueeze(1)
    # Resets and active samples count from the place before the first one on, at the earliest.
    marks = torch.where(active, time, start)
    if reset is None:
        return torch.cat([start, marks], 1).cummax(1).values
    resets = torch.where(reset, time - 1, start)
    return (
        torch.maximum(torch.cat([start, marks], 1), torch.cat([resets, start], 1)).cummax(1).values
    )


def _places(active: Tensor, rank: Tensor, room: int) -> Tensor:
    """Where the active samples of each row are, (B, room); 0 behind the last one."""
    time = torch.arange(active.shape[1], device=active.device).expand_as(rank)
    # One entry more takes all inactive samples, and is dropped.
    slot = torch.where(active, rank, torch.full_like(rank, room))
    return torch.zeros_like(rank[:, :1]).expand(-1, room + 1).scatter(1, slot, time)[:, :room]


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, like.shape[-1])


def _where(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Rows of ``one`` or of ``other``."""
    return torch.where(rows.view(-1, *[1] * (one.ndim - 1)), one, other.to(one.dtype))
