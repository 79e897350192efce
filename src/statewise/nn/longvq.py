"""LongVQ: attention to everything before, through keys from a codebook of fixed size."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear as affine
from torch.nn.functional import one_hot, pad, silu

from statewise.nn.contract import State, mask_input, valid_steps
from statewise.nn.ema import EMA
from statewise.nn.recurrence import Recurrence
from statewise.nn.static import linear
from statewise.ops import linear_scan


class LongVQState(NamedTuple):
    """State of a :class:`LongVQ` layer.

    Attributes:
        memory: state of the moving average.
        key: the last W keys before quantisation, oldest first, (B, W, d_key).
        value: their values, (B, W, 2 d_model).
        seen: how many of them are samples, at most W, (B,), as a float.
        total: sum of the values of all older samples by code, (B, S, 2 d_model).
        count: number of older samples by code, (B, S), as a float.
    """

    memory: Tensor
    key: Tensor
    value: Tensor
    seen: Tensor
    total: Tensor
    count: Tensor


class Quantised(NamedTuple):
    """Keys of a sequence and their codes.

    Attributes:
        key: keys before quantisation (B, L, d_key).
        code: index of the nearest code word (B, L).
        commitment: mean of ‖key − code word‖², to be added to the loss with a weight near 1e-4.
        perplexity: e^H of the frequencies of codes: how many are in use.
    """

    key: Tensor
    code: Tensor
    commitment: Tensor
    perplexity: Tensor


class LongVQ(Recurrence):
    """O_t = Σ_{s≤t} softmax_s(q_t·k̂_s/√d_key + b_{t−s}) v_s with k̂_s the code word nearest to k_s.

    With x = EMA(u): z = silu(W_z x), k and q are z scaled and shifted, k divided by its root mean
    square; v = silu(W_v u). As k̂ takes S values, samples that are W or more behind enter as S sums
    of values and S counts, so that cost and memory of a sample do not grow with time; b is there
    for the last W. Output: y = φ ⊙ silu(W_h x + U (γ ⊙ O)) + (1 − φ) ⊙ u, with φ = σ(W_φ x) and
    γ = silu(W_γ x).

    Gradients pass quantisation straight through, from k̂ to k, for the last W samples of every
    query; older keys are constants, their values are not. The codebook is no parameter: call
    :meth:`start_codes` with the keys of the first batch, as keys fill a small part of the sphere on
    which the words lie at first, then :meth:`learn_codes` once for a training step, and add
    ``commitment`` of :meth:`quantise` to the loss. The running layer never changes it.

    No public code exists; gates and the local window follow Mega and Transformer-VQ.

    Sources: LongVQ (2404.11163); Lingle, Transformer-VQ (2309.16354); Ma et al., Mega (2209.10655).

    Args:
        d_model: input and output channels.
        n_codes: S, code words.
        d_key: width of keys and queries.
        window: W.
        d_state: averages of each channel of the memory.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a size below 1.
    """

    roles: ClassVar[dict[str, str]] = {"scale": "scale", "shift": "bias", "near": "bias"}
    codes: Tensor
    weights: Tensor
    sums: Tensor

    def __init__(
        self,
        d_model: int,
        *,
        n_codes: int = 256,
        d_key: int = 128,
        window: int = 256,
        d_state: int = 16,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        sizes = {"d_model": d_model, "n_codes": n_codes, "d_key": d_key, "window": window}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"LongVQ needs {name} of at least 1; given {size}")
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.n_codes, self.d_key, self.window = n_codes, d_key, window
        self.d_value = 2 * d_model
        self.memory = EMA(d_model, d_state=d_state, seed=rng)
        self.shared = linear(d_model, d_key, rng)
        self.scale = nn.Parameter(torch.ones(2, d_key))
        self.shift = nn.Parameter(torch.zeros(2, d_key))
        self.enter = linear(d_model, self.d_value, rng)
        self.near = nn.Parameter(torch.zeros(window))
        self.gates = linear(d_model, self.d_value + 2 * d_model, rng)
        self.leave = linear(self.d_value, d_model, rng, bias=False)
        words = rng.standard_normal((n_codes, d_key))
        words = words / np.sqrt(np.square(words).mean(1, keepdims=True))
        start = torch.tensor(words, dtype=torch.get_default_dtype())
        self.register_buffer("codes", start)
        self.register_buffer("weights", torch.ones(n_codes))
        self.register_buffer("sums", start.clone())

    def init_state(self, batch: int) -> LongVQState:
        """The state of rest: nothing seen."""
        return LongVQState(
            self.memory.init_state(batch),
            self.rest(batch, self.window, self.d_key),
            self.rest(batch, self.window, self.d_value),
            self.rest(batch),
            self.rest(batch, self.n_codes, self.d_value),
            self.rest(batch, self.n_codes),
        )

    def quantise(self, u: Tensor, state: State = None) -> Quantised:
        """Keys and codes of a sequence, and how well they fit.

        Args:
            u: input (B, L, d_model), all of it observed.
            state: state before the first sample, or None for rest.
        """
        before = self._check_state(state, u.shape[0])
        mixed, _ = self._remember(u, before.memory, None, None)
        key, _ = self._key_and_query(mixed)
        code = self._nearest(key)
        error = key - self._word(code)
        share = one_hot(code.flatten(), self.n_codes).to(key.dtype).mean(0)
        perplexity = torch.exp(-torch.special.xlogy(share, share).sum())
        return Quantised(key, code, error.square().sum(-1).mean(), perplexity)

    @torch.no_grad()
    def start_codes(self, key: Tensor, *, seed: int | np.random.Generator = 0) -> None:
        """Make every code word a key, drawn without repetition where there are enough.

        Args:
            key: keys (..., d_key), such as those of :meth:`quantise`.
            seed: seed of the draw, or a NumPy generator.

        Raises:
            ValueError: there are no keys.
        """
        key = key.detach().reshape(-1, self.d_key)
        if not len(key):
            raise ValueError("start_codes needs keys; given none")
        few = len(key) < self.n_codes
        drawn = np.random.default_rng(seed).choice(len(key), self.n_codes, replace=few)
        self.codes.copy_(key[torch.from_numpy(drawn).to(key.device)])
        self.sums.copy_(self.codes)
        self.weights.fill_(1)

    @torch.no_grad()
    def learn_codes(
        self, key: Tensor, *, decay: float = 0.99, seed: int | np.random.Generator | None = None
    ) -> None:
        """Move every code word to the running mean of the keys that are nearest to it.

        w_s ← decay w_s + (1 − decay) n_s for the count n_s of its keys, likewise for their sum m_s;
        C_s = m_s / w_s. A word whose w_s falls below a hundredth of the mean becomes a key drawn
        from ``key``, when a seed is given.

        Args:
            key: keys (..., d_key), such as those of :meth:`quantise`.
            decay: weight of the past, in [0, 1).
            seed: seed of the draw of new words, or a NumPy generator; None keeps unused words.

        Raises:
            ValueError: a decay outside of [0, 1).
        """
        if not 0 <= decay < 1:
            raise ValueError(f"learn_codes takes a decay in [0, 1); given {decay}")
        dtype = self.state_dtype
        key = key.detach().reshape(-1, self.d_key).to(dtype)
        chosen = one_hot(self._nearest(key), self.n_codes).to(dtype)
        weights = decay * self.weights.to(dtype) + (1 - decay) * chosen.sum(0)
        sums = decay * self.sums.to(dtype) + (1 - decay) * (chosen.mT @ key)
        if seed is not None:
            usual = weights.mean()
            unused = torch.nonzero(weights < 0.01 * usual)[:, 0]
            drawn = np.random.default_rng(seed).integers(0, len(key), len(unused))
            weights[unused] = usual
            sums[unused] = usual * key[torch.from_numpy(drawn).to(key.device)]
        self.weights.copy_(weights)
        self.sums.copy_(sums)
        tiny = torch.finfo(dtype).tiny
        self.codes.copy_(torch.where(weights[:, None] > tiny, sums / weights[:, None], self.codes))

    def _sequence(
        self,
        u: Tensor,
        state: LongVQState,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        batch, length = u.shape[:2]
        mixed, memory = self._remember(u, state.memory, reset, lengths)
        key, query = self._key_and_query(mixed)
        value = silu(self.enter(u)).to(key.dtype)
        filled = torch.arange(self.window, 0, -1, device=u.device) <= state.seen.unsqueeze(-1)
        new = torch.zeros(batch, length, dtype=torch.long, device=u.device)
        era = torch.cat([filled.long() - 1, new if reset is None else reset.cumsum(1)], 1)
        key, value = torch.cat([state.key, key], 1), torch.cat([state.value, value], 1)
        code = self._nearest(key)
        attended = self._by_blocks(query, key, value, code, era, state)
        if lengths is None:
            lengths = torch.full((batch,), length, device=u.device)
        after = self._store(key, value, code, era, lengths, state)
        return self._finish(u, mixed, attended), LongVQState(memory, *after)

    def _sample(
        self, u: Tensor, state: LongVQState, dt: Tensor | None
    ) -> tuple[Tensor, LongVQState]:
        y, state = self._sequence(u.unsqueeze(1), state, None, None, None)
        return y[:, 0], state

    def _remember(
        self, u: Tensor, memory: Tensor, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """EMA(u), in the precision of states: codes must not depend on rounding in half types."""
        u = u.to(self.state_dtype)
        with torch.autocast(u.device.type, enabled=False):
            return self.memory(u, memory, reset=reset, lengths=lengths)

    def _key_and_query(self, mixed: Tensor) -> tuple[Tensor, Tensor]:
        dtype = mixed.dtype
        with torch.autocast(mixed.device.type, enabled=False):
            z = silu(affine(mixed, self.shared.weight.to(dtype), self.shared.bias.to(dtype)))
            key, query = (
                z * scale + shift
                for scale, shift in zip(self.scale.to(dtype), self.shift.to(dtype), strict=True)
            )
            return key * torch.rsqrt(key.square().mean(-1, keepdim=True) + 1e-5), query

    def _nearest(self, key: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(key.device.type, enabled=False):
            words = self.codes.to(key.dtype)
            return (words.square().sum(-1) - 2 * key @ words.mT).argmin(-1)

    def _word(self, code: Tensor) -> Tensor:
        return self.codes.to(self.state_dtype)[code]

    def _by_blocks(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        code: Tensor,
        era: Tensor,
        state: LongVQState,
    ) -> Tensor:
        """Blocks of at most W queries see W samples before the block, the block, and the codes."""
        length, window = query.shape[1], self.window
        size = min(window, length)
        blocks = -(-length // size)
        short = blocks * size - length
        total, count, same = self._older(value, code, era, state, blocks, size)
        word = self._word(code)
        through = word + (key - key.detach())
        reach = window + size

        def cut(x: Tensor) -> Tensor:
            return pad(x, (0, 0, 0, short)).unfold(1, reach, size).mT

        query = pad(query, (0, 0, 0, short)).unflatten(1, (blocks, size)) / math.sqrt(self.d_key)
        eras = pad(era, (0, short)).unfold(1, reach, size)
        place = torch.arange(reach, device=query.device)
        distance = place[window:, None] - place
        local = (distance >= 0) & (distance < window)
        bias = self.near.to(query.dtype)[distance.clamp(0, window - 1)]
        score = torch.where(local, query @ cut(through).mT + bias, query @ cut(word).mT)
        seen = (distance >= 0) & (eras[:, :, window:, None] == eras[:, :, None])
        score = score.masked_fill(~seen, -math.inf)
        # A code seen n times has weight n, and the mean of its values.
        known = (count > 0)[:, :, None] & pad(same, (0, short)).view(*eras.shape[:2], size, 1)
        counts = count.clamp_min(1)
        coarse = query @ self.codes.to(query.dtype).mT + torch.log(counts)[:, :, None]
        coarse = coarse.masked_fill(~known, -math.inf)
        weight = torch.softmax(torch.cat([coarse, score], -1), -1)
        far, close = weight.split([self.n_codes, reach], -1)
        out = far @ (total / counts.unsqueeze(-1)) + close @ cut(value)
        return out.flatten(1, 2)[:, :length]

    def _older(
        self,
        value: Tensor,
        code: Tensor,
        era: Tensor,
        state: LongVQState,
        blocks: int,
        size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums and counts before what each block sees one by one, and which queries they concern.

        Block i sees entries from i · size on; before them lie those of the state and the first
        i · size entries of the row.

        Returns:
            Sums (B, blocks, S, E), counts (B, blocks, S), and for every query whether no reset lies
            between, (B, L).
        """
        past = (blocks - 1) * size
        # The newest entry before the block decides; without any, that of the state does.
        newest = torch.cat([torch.zeros_like(era[:, :1]), era[:, :past]], 1)[:, ::size]
        newest = newest.clamp_min(0)
        era_of_query = era[:, self.window :]
        same = newest.repeat_interleave(size, 1)[:, : era_of_query.shape[1]] == era_of_query
        if not past:
            return state.total.unsqueeze(1), state.count.unsqueeze(1), same
        own = era[:, :past] == newest[:, 1:].repeat_interleave(size, 1)
        chosen = one_hot(code[:, :past], self.n_codes).to(value.dtype)
        chosen = mask_input(chosen, own).unflatten(1, (-1, size))
        values = value[:, :past].unflatten(1, (-1, size))
        gained = torch.cat([(chosen.mT @ values), chosen.sum(2).unsqueeze(-1)], -1)
        start = torch.cat([state.total, state.count.unsqueeze(-1)], -1)
        kept = (newest[:, 1:] == newest[:, :-1]).to(value.dtype).unsqueeze(-1)
        later, _ = linear_scan(kept, gained.flatten(2), start.flatten(1))
        joined = torch.cat([start.unsqueeze(1), later.unflatten(2, gained.shape[2:])], 1)
        return joined[..., :-1], joined[..., -1], same

    def _store(
        self,
        key: Tensor,
        value: Tensor,
        code: Tensor,
        era: Tensor,
        lengths: Tensor,
        state: LongVQState,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Keys, values and number of the last W entries before each end; older ones by code."""
        index = lengths.unsqueeze(-1) + torch.arange(self.window, device=lengths.device)
        eras = era.gather(1, index)
        last = eras[:, -1:]
        recent = (eras == last) & (eras >= 0)

        def rows(x: Tensor) -> Tensor:
            return mask_input(x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1])), recent)

        # As many entries leave the window as there are samples.
        length = era.shape[1] - self.window
        era, code, older = era[:, :length], code[:, :length], value[:, :length]
        leaving = valid_steps(lengths, length) & (era == last) & (era >= 0)
        chosen = mask_input(one_hot(code, self.n_codes).to(value.dtype), leaving)
        going_on = last <= 0
        total = mask_input(state.total, going_on.unsqueeze(-1)) + chosen.mT @ older
        count = mask_input(state.count, going_on) + chosen.sum(1)
        return rows(key), rows(value), recent.sum(1).to(key.dtype), total, count

    def _finish(self, u: Tensor, mixed: Tensor, attended: Tensor) -> Tensor:
        widths = [self.d_input, self.d_value, self.d_input]
        update, reset, fresh = self.gates(mixed.to(u.dtype)).split(widths, -1)
        update = torch.sigmoid(update)
        inside = self.leave((silu(reset) * attended).to(u.dtype))
        return update * silu(fresh + inside) + (1 - update) * u
