"""The real-gated linear recurrent unit of Hawk and Griffin."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State, at_last
from statewise.nn.recurrence import Recurrence
from statewise.ops import linear_scan


class RGLRU(Recurrence):
    """h_t = a_t ⊙ h_{t−1} + √(1 − a_t²) ⊙ i_t ⊙ u_t,  y_t = h_t, with a_t = σ(Λ)^{c r_t}.

    r_t = σ(W_r u_t + b_r) and i_t = σ(W_i u_t + b_i): the input says how fast each channel forgets
    and what it lets in, the state says nothing. 0 < a_t < 1 for all parameters, and with constant
    gates white input of variance 1 gives states of variance i² whatever a is. The state is h,
    (B, d_model). Both maps are block-diagonal with ``blocks`` blocks.

    A relative step ``dt`` multiplies c, so that forgetting goes by time, not by samples. The
    recurrent block of Hawk and Griffin, which has a short convolution in front and a gate beside
    it, is ``Gated.spec(inner=RGLRU.spec(), gate="gelu", conv_silu=False)``.

    Source: De et al., Griffin (2402.19427), section 2.4.

    Args:
        d_model: inputs and outputs.
        blocks: blocks of both gates; their number divides ``d_model``.
        power: c.
        a_min: smallest initial σ(Λ)^c (uniform up to ``a_max``).
        a_max: largest initial σ(Λ)^c.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, blocks that do not divide ``d_model``, or decays outside (0, 1).
    """

    timed: ClassVar[bool] = True
    roles: ClassVar[dict[str, str]] = {"decay": "A", "gates": "weight", "gate_bias": "bias"}

    def __init__(
        self,
        d_model: int,
        *,
        blocks: int = 1,
        power: float = 8.0,
        a_min: float = 0.9,
        a_max: float = 0.999,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if d_model < 1 or blocks < 1 or d_model % blocks:
            raise ValueError(
                f"RGLRU needs sizes of at least 1 and blocks that divide d_model; given "
                f"d_model = {d_model}, blocks = {blocks}"
            )
        if not (0 < a_min <= a_max < 1 and power > 0):
            raise ValueError(
                f"RGLRU needs 0 < a_min <= a_max < 1 and power > 0; given a_min = {a_min}, "
                f"a_max = {a_max}, power = {power}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.power = power
        width = d_model // blocks
        bound = width**-0.5

        def parameter(start: np.ndarray) -> nn.Parameter:
            return nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))

        base = rng.uniform(a_min, a_max, d_model) ** (1 / power)
        self.decay = parameter(np.log(base / (1 - base)))
        self.gates = parameter(rng.uniform(-bound, bound, (2, blocks, width, width)))
        self.gate_bias = parameter(np.zeros((2, d_model)))

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, d_model)."""
        return self.rest(batch, self.d_input)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        h, last = linear_scan(*self._terms(u, dt), state, reset=reset)
        return h, last if lengths is None else at_last(h, state, lengths)

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        a, b = self._terms(u, dt)
        h = a * state + b
        return h, h

    def _terms(self, u: Tensor, dt: Tensor | None) -> tuple[Tensor, Tensor]:
        """a_t and what is added, in the type of states."""
        dtype = self.state_dtype
        parts = u.unflatten(-1, (self.gates.shape[1], -1)).to(self.gates.dtype)
        mixed = torch.einsum("...bi,gboi->g...bo", parts, self.gates).flatten(-2).to(dtype)
        bias = self.gate_bias.to(dtype)
        recur, admit = (torch.sigmoid(m + b) for m, b in zip(mixed, bias, strict=True))
        rate = self.power * nn.functional.logsigmoid(self.decay.to(dtype))
        exponent = rate * recur if dt is None else rate * recur * dt.to(dtype).unsqueeze(-1)
        # 1 − a² has no digits left for slow channels, and its root no slope at a = 1.
        room = (-torch.expm1(2 * exponent)).clamp_min(torch.finfo(dtype).tiny)
        return torch.exp(exponent), torch.sqrt(room) * admit * u.to(dtype)
