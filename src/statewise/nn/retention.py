"""Multi-scale retention, the layer of RetNet."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import group_norm, silu

from statewise.nn.contract import State, valid_steps
from statewise.nn.recurrence import Recurrence
from statewise.nn.rotary import rotate
from statewise.nn.static import linear
from statewise.ops import linear_attention


class Retention(Recurrence):
    """S_t = γ R(θ) S_{t−1} + k_t v_tᵀ,  y_t = W_o (norm(S_tᵀ q_t) ⊙ silu(W_g u_t)), in heads.

    q, k and v are linear in u, q and k with N = d_model / n_heads channels a head, v with
    P = expand · N. γ = 1 − 2^{−5−h} is fixed for head h = 0, 1, …: a memory of 2^{5+h} samples. R
    turns pairs of channels by fixed angles, so that a product of key and query depends on their
    distance. The norm takes mean and variance over the P channels of a head and has no weights;
    the factors that the paper puts in front of it do not pass it, and are left out but for 1/√N.

    The state is S as seen from the last sample, (B, n_heads, P, N): no position is counted, and
    memory does not grow. A relative step ``dt`` is the power of γ and the multiple of the angles.

    Source: Sun et al., Retentive network (2307.08621), section 2.

    Args:
        d_model: inputs and outputs.
        n_heads: heads; their number divides ``d_model`` into even parts.
        expand: P / N.
        base: base of the angles, base^(−2i/N) for pair i; 0 leaves rotation away.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes that do not fit.
    """

    timed: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int = 4,
        expand: int = 2,
        base: float = 10_000.0,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if n_heads < 1 or d_model < 1 or d_model % n_heads or (base and d_model // n_heads % 2):
            even = " of even width" if base else ""
            raise ValueError(
                f"Retention cuts d_model into n_heads equal parts{even}; given "
                f"d_model = {d_model}, n_heads = {n_heads}"
            )
        if expand < 1 or base < 0:
            raise ValueError(
                f"Retention needs expand >= 1 and base >= 0; given expand = {expand}, base = {base}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.n_heads, self.d_key, self.base = n_heads, d_model // n_heads, base
        self.d_value = expand * self.d_key
        self._widths = [d_model, d_model, expand * d_model, expand * d_model]
        self.enter = linear(d_model, sum(self._widths), rng, bias=False)
        self.leave = linear(expand * d_model, d_model, rng, bias=False)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, n_heads, P, N)."""
        return self.rest(batch, self.n_heads, self.d_value, self.d_key)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        steps = torch.ones_like(u[..., 0], dtype=torch.float64) if dt is None else dt.double()
        if lengths is not None and dt is None:
            # No step, no decay: inputs behind the end are 0 and write nothing.
            steps = valid_steps(lengths, u.shape[1]).double()
        dtype = self.state_dtype
        query, key, value, gate = self.enter(u).split(self._widths, -1)
        query, key = (x.unflatten(-1, (self.n_heads, -1)).to(dtype) for x in (query, key))
        value = value.unflatten(-1, (self.n_heads, -1)).to(dtype)
        place = steps.cumsum(1)
        query, key = (self._turn(x, place[..., None, None]) for x in (query, key))
        heads = torch.arange(self.n_heads, device=u.device, dtype=torch.float64)
        decay = steps.unsqueeze(-1) * torch.log1p(-torch.exp2(-5 - heads))
        y, last = linear_attention(
            query, key, value, decay.to(dtype), state, scale=self.d_key**-0.5, reset=reset
        )
        last = self._turn(last, -place[:, -1, None, None, None])
        normal = group_norm(y.flatten(0, 1).flatten(1), self.n_heads).view(*u.shape[:2], -1)
        gated = normal * silu(gate.to(dtype))
        return self.leave(gated.to(self.leave.weight.dtype)), last.to(dtype)

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        steps = None if dt is None else dt.unsqueeze(1)
        y, state = self._sequence(u.unsqueeze(1), state, steps, None, None)
        return y.squeeze(1), state

    def _turn(self, x: Tensor, place: Tensor) -> Tensor:
        """Turn the pairs of the last axis by their angles times ``place`` (..., 1)."""
        if not self.base:
            return x
        count = self.d_key // 2
        exponent = torch.arange(count, device=x.device, dtype=torch.float64) / count
        return rotate(x, place * self.base**-exponent, neighbours=True)
