"""Longhorn: a state-space layer whose update is one step of online learning."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from statewise.nn.contract import State, mask_input, valid_steps
from statewise.nn.recurrence import Recurrence
from statewise.nn.short_conv import ShortConv
from statewise.nn.static import linear
from statewise.ops import linear_scan


class LonghornState(NamedTuple):
    """State of a Longhorn layer.

    Attributes:
        window: inputs of the convolution, oldest first, (B, d_conv − 1, D).
        memory: what was learnt, S, (B, D, N).
    """

    window: Tensor
    memory: Tensor


class Longhorn(Recurrence):
    """S_t = (1 − ε_t ⊗ k_t²) ⊙ S_{t−1} + (ε_t ⊙ x_t) ⊗ k_t,  y_t = S_t q_t + D ⊙ x_t.

    Each channel i learns to answer the key k_t with x_{t,i}: its row of S is the minimiser of
    ‖S − S_{t−1}‖² + β_{t,i} (S·k_t − x_{t,i})², in closed form, with ε = β/(1 + β‖k‖²). What is
    forgotten is decided by the key: 0 < 1 − ε k² < 1 for every k, and a sample with k = 0 leaves
    the state as it is. The minimiser is S − ε (S·k − x) k (``update="rank1"``); the model of the
    paper replaces k kᵀ by its diagonal (``update="diag"``), which a parallel scan can run.

    Around it, as in Mamba: [x, z] = W_in u; a short causal convolution and silu on x;
    [δ, k, q] = W_x x; β = σ(W_β δ + b_β); out = W_out (y ⊙ silu(z)). D = expand · d_model.

    Memory of a call is three times B·L·D·N numbers, as the decays of all states, their inputs and
    the states are written out (the diagonal update). With ``chunk`` it is B·chunk·D·N: sequences go
    piece by piece, and pieces are computed again for the gradient. The exact update is a loop over
    time.

    Source: Liu et al., Longhorn (2407.14207), sections 3 and 4, appendix A.

    Args:
        d_model: channels of input and output.
        d_state: N, length of keys and queries.
        expand: D / d_model.
        d_conv: taps of the convolution.
        rank: length of δ; None for d_model/16, rounded up.
        update: "diag", the model of the paper, or "rank1", the exact minimiser.
        chunk: samples of a piece of the diagonal update; None for whole sequences.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a size below 1, or an unknown update.
    """

    roles: ClassVar[dict[str, str]] = {"D": "D"}

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        rank: int | None = None,
        update: str = "diag",
        chunk: int | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        rank = -(-d_model // 16) if rank is None else rank
        for name, size in (
            ("d_model", d_model),
            ("d_state", d_state),
            ("expand", expand),
            ("d_conv", d_conv),
            ("rank", rank),
            ("chunk", 1 if chunk is None else chunk),
        ):
            if size < 1:
                raise ValueError(f"Longhorn needs {name} of at least 1; given {size}")
        if update not in ("diag", "rank1"):
            raise ValueError(f'the update of Longhorn is "diag" or "rank1"; given {update!r}')
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.d_inner, self.d_state, self.rank = expand * d_model, d_state, rank
        self.update, self.chunk = update, chunk
        self.in_proj = linear(d_model, 2 * self.d_inner, rng, bias=False)
        self.conv1d = ShortConv(self.d_inner, d_conv, rng)
        self.x_proj = linear(self.d_inner, rank + 2 * d_state, rng, bias=False)
        self.rate_proj = linear(rank, self.d_inner, rng)
        nn.init.zeros_(self.rate_proj.bias)
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = linear(self.d_inner, d_model, rng, bias=False)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros."""
        return LonghornState(
            self.rest(batch, self.conv1d.width - 1, self.d_inner),
            self.rest(batch, self.d_inner, self.d_state),
        )

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        raw, gate = self.in_proj(u).chunk(2, -1)
        x, window = self.conv1d(raw, state.window, reset=reset, lengths=lengths)
        rate, key, query = self._selection(x)
        if lengths is not None:
            # A rate of zero neither writes nor forgets.
            rate = mask_input(rate, valid_steps(lengths, u.shape[1]))
        inputs = x.to(rate.dtype)
        scan = self._by_scan if self.update == "diag" else self._by_steps
        y, memory = scan(inputs, rate, key, query, state.memory, reset)
        return self._finish(y, inputs, gate), LonghornState(window, memory)

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        raw, gate = self.in_proj(u).chunk(2, -1)
        x, window = self.conv1d(raw.unsqueeze(1), state.window)
        rate, key, query = self._selection(x[:, 0])
        inputs = x[:, 0].to(rate.dtype)
        y, memory = self.learn(inputs, rate, key, query, state.memory)
        return self._finish(y, inputs, gate), LonghornState(window, memory)

    def _selection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """β, k and q, in the type of states: ε would lose its digits for large keys."""
        low, key, query = self.x_proj(x).split([self.rank, self.d_state, self.d_state], -1)
        dtype = self.state_dtype
        return torch.sigmoid(self.rate_proj(low).to(dtype)), key.to(dtype), query.to(dtype)

    def _finish(self, y: Tensor, x: Tensor, gate: Tensor) -> Tensor:
        y = y + self.D.to(y.dtype) * x
        return self.out_proj((y * silu(gate.to(y.dtype))).to(self.out_proj.weight.dtype))

    def _by_scan(
        self,
        x: Tensor,
        rate: Tensor,
        key: Tensor,
        query: Tensor,
        memory: Tensor,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        inputs = (x, rate, key, query)
        if self.chunk is None or x.shape[1] <= self.chunk:
            return self._scan(*inputs, memory, reset)
        outputs = []
        pieces = (part.split(self.chunk, 1) for part in inputs)
        for i, (x_i, rate_i, key_i, query_i) in enumerate(zip(*pieces, strict=True)):
            now = slice(i * self.chunk, (i + 1) * self.chunk)
            anew = None if reset is None else reset[:, now]
            piece = (x_i, rate_i, key_i, query_i, memory, anew)
            if torch.is_grad_enabled():
                y, memory = checkpoint(
                    self._scan, *piece, use_reentrant=False, preserve_rng_state=False
                )
            else:
                y, memory = self._scan(*piece)
            outputs.append(y)
        return torch.cat(outputs, 1), memory

    def _scan(
        self,
        x: Tensor,
        rate: Tensor,
        key: Tensor,
        query: Tensor,
        memory: Tensor,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        decay, write = decay_and_write(x, rate, key)
        start = memory.flatten(1)
        states, last = linear_scan(decay.flatten(2), write.flatten(2), start, reset=reset)
        states = states.unflatten(-1, (self.d_inner, self.d_state))
        return torch.einsum("bldn,bln->bld", states, query), last.view_as(memory)

    def _by_steps(
        self,
        x: Tensor,
        rate: Tensor,
        key: Tensor,
        query: Tensor,
        memory: Tensor,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        outputs = []
        # Unbound once: the gradient of a slice at every step would be as long as the sequence.
        now = (part.unbind(1) for part in (x, rate, key, query))
        for t, (x_t, rate_t, key_t, query_t) in enumerate(zip(*now, strict=True)):
            if reset is not None:
                memory = mask_input(memory, ~reset[:, t, None, None])
            y, memory = self.learn(x_t, rate_t, key_t, query_t, memory)
            outputs.append(y)
        return torch.stack(outputs, 1), memory

    def learn(
        self, x: Tensor, rate: Tensor, key: Tensor, query: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One update of the memory, S ← the minimiser, and what is read behind it, S q.

        Args:
            x: targets (..., D).
            rate: β (..., D).
            key: k (..., N).
            query: q (..., N).
            memory: S before (..., D, N).

        Returns:
            The read-out (..., D) and the new memory.
        """
        if self.update == "diag":
            decay, write = decay_and_write(x, rate, key)
            memory = decay * memory + write
        else:
            wrong = (memory @ key.unsqueeze(-1)).squeeze(-1) - x
            step = rate / (1 + rate * key.square().sum(-1, keepdim=True))
            memory = memory - (step * wrong).unsqueeze(-1) * key.unsqueeze(-2)
        return (memory @ query.unsqueeze(-1)).squeeze(-1), memory


def decay_and_write(x: Tensor, rate: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """1 − ε ⊗ k² and (ε ⊙ x) ⊗ k, (..., D, N), with ε = β/(1 + β‖k‖²).

    Args:
        x: targets (..., D).
        rate: β (..., D).
        key: k (..., N).
    """
    square = key.square()
    norm = square.sum(-1, keepdim=True)
    shrink = 1 / (1 + rate * norm)
    # (1 + β(‖k‖² − k²)) / (1 + β‖k‖²) keeps its digits, and its sign, where 1 − ε k² is small.
    others = (norm - square).clamp_min(0)
    decay = shrink.unsqueeze(-1) * (1 + rate.unsqueeze(-1) * others.unsqueeze(-2))
    return decay, (shrink * rate * x).unsqueeze(-1) * key.unsqueeze(-2)
