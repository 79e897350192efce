"""ParaLSTM: a cell with coupled gates, peepholes and diagonal recurrent matrices."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State, at_last, valid_steps
from statewise.nn.para_gru import CLOSED, GateInput, check_limit, draw_diagonals, limited
from statewise.nn.recurrence import Recurrence
from statewise.ops import lstm_cell, para_lstm


class ParaLSTM(Recurrence):
    """c_t = f_t ⊙ c_{t−1} + (1 − f_t) ⊙ g_t,  y_t = h_t = o_t ⊙ tanh(c_t), channel by channel.

    With h = h_{t−1} and p = B u_t + b: f = σ(a_f ⊙ h + p_f + w_f ⊙ c_{t−1}),
    g = tanh(a_g ⊙ h + p_g), o = σ(a_o ⊙ h + p_o + w_o ⊙ c_t). The input gate is 1 − f, the output
    gate sees the new cell, and the recurrent weights a and peepholes w are diagonal, so that the
    Jacobian consists of 2×2 blocks. The state holds pairs (c, h), (B, D, 2).

    Source: Danieli et al., ParaRNN (2510.21450), ParaLSTM.

    Args:
        d_model: channels of the input.
        d_output: channels D of the state and of the output; None for d_model.
        heads: blocks of the input map, each from its part of the input to its part of the state.
        limit: bound on |a| and |w|, by clamping; the paper takes 0.5 in training. None for no
            bound.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: heads that do not divide the widths, or a limit that is not positive.
    """

    roles: ClassVar[dict[str, str]] = {"recurrent": "A", "peephole": "A"}

    def __init__(
        self,
        d_model: int,
        *,
        d_output: int | None = None,
        heads: int = 2,
        limit: float | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        check_limit("ParaLSTM", limit)
        rng = np.random.default_rng(seed)
        self.d_input = d_model
        self.d_output = d_model if d_output is None else d_output
        self.limit = limit
        self.gates = GateInput(d_model, self.d_output, heads, rng)
        self.recurrent = draw_diagonals(self.d_output, rng)
        self.peephole = nn.Parameter(draw_diagonals(self.d_output, rng).detach()[:2].clone())

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, d_output, 2)."""
        return self.rest(batch, self.d_output, 2)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        pre = self.gates(u)
        if lengths is None:
            return para_lstm(pre, *self._weights(), state, reset=reset)
        # With f = 1 the cell stands still behind the end; with o = 0, h and then g vanish there,
        # so that rounding happens once. h itself is read at the end, in the state's precision.
        pre = pre.to(state.dtype)
        frozen = pre.new_tensor([CLOSED, 0.0, -CLOSED]).unsqueeze(-1)
        valid = valid_steps(lengths, u.shape[1])[..., None, None]
        h, last = para_lstm(torch.where(valid, pre, frozen), *self._weights(), state, reset=reset)
        final = at_last(h, state[..., 1], lengths)
        return h, torch.stack([last[..., 0], final], -1)

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        weights = [weight.to(state.dtype) for weight in self._weights()]
        state = lstm_cell(state, self.gates(u).to(state.dtype), *weights)
        return state[..., 1], state

    def _weights(self) -> tuple[Tensor, Tensor]:
        return limited(self.recurrent, self.limit), limited(self.peephole, self.limit)
