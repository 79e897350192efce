"""ParaGRU: a gated recurrence with diagonal recurrent matrices."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State, valid_steps
from statewise.nn.recurrence import Recurrence
from statewise.ops import gru_cell, para_gru

CLOSED = 60.0
"""A pre-activation whose sigmoid is 1 to the last digit of float64, and that of −60 below it."""


class GateInput(nn.Module):
    """p = B u + b for three gates, B block-diagonal over heads.

    Starts: B Xavier-uniform for each head and gate, b zero but for the first gate, where it is
    −linspace(0, 1) over the channels.

    Args:
        d_input: channels of u.
        d_state: channels of every gate.
        heads: number of blocks of B; divides both widths.
        rng: source of the initial draw.

    Raises:
        ValueError: a number of heads that does not divide the widths.
    """

    roles: ClassVar[dict[str, str]] = {"weight": "B", "bias": "bias"}

    def __init__(self, d_input: int, d_state: int, heads: int, rng: np.random.Generator) -> None:
        super().__init__()
        if heads < 1 or d_input % heads or d_state % heads:
            raise ValueError(
                f"the number of heads must divide the widths of input and state; given "
                f"heads = {heads}, d_input = {d_input}, d_state = {d_state}"
            )
        rows, columns = d_input // heads, d_state // heads
        bound = math.sqrt(6 / (rows + columns))
        weight = rng.uniform(-bound, bound, (heads, rows, 3, columns))
        bias = np.zeros((3, d_state))
        bias[0] = -np.linspace(0, 1, d_state)
        dtype = torch.get_default_dtype()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=dtype))

    def forward(self, u: Tensor) -> Tensor:
        """Pre-activations (..., 3, d_state) of inputs (..., d_input)."""
        parts = u.unflatten(-1, (self.weight.shape[0], -1))
        pre = torch.einsum("...hi,higj->...ghj", parts, self.weight).flatten(-2)
        return pre + self.bias.to(pre.dtype)


def draw_diagonals(d_state: int, rng: np.random.Generator) -> nn.Parameter:
    """Diagonals of three recurrent matrices, (3, d_state), of variance 4/(5 d_state)."""
    start = math.sqrt(0.8 / d_state) * rng.standard_normal((3, d_state))
    return nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))


def limited(x: Tensor, limit: float | None) -> Tensor:
    """The weights within ±limit."""
    return x if limit is None else x.clamp(-limit, limit)


def check_limit(name: str, limit: float | None) -> None:
    """Refuse a limit that is not positive."""
    if limit is not None and not limit > 0:
        raise ValueError(f"{name} needs a positive limit, or None; given {limit}")


class ParaGRU(Recurrence):
    """h_t = (1 − z_t) ⊙ h_{t−1} + z_t ⊙ n_t,  y_t = h_t: a GRU diagonal in its state.

    With h = h_{t−1} and p = B u_t + b: z = σ(a_z ⊙ h + p_z), r = σ(a_r ⊙ h + p_r),
    n = tanh(a_n ⊙ (h ⊙ r) + p_n). The recurrent weights a are diagonal, so that the Jacobian is
    too, which lets the sequence be cut in stretches that run in parallel. The state is h,
    (B, D). |h| ≤ 1 from rest.

    Source: Danieli et al., ParaRNN (2510.21450), ParaGRU.

    Args:
        d_model: channels of the input.
        d_output: channels D of the state and of the output; None for d_model.
        heads: blocks of the input map, each from its part of the input to its part of the state.
        limit: bound on |a|, by clamping; the paper takes 0.5 in training. None for no bound.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: heads that do not divide the widths, or a limit that is not positive.
    """

    roles: ClassVar[dict[str, str]] = {"recurrent": "A"}

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
        check_limit("ParaGRU", limit)
        rng = np.random.default_rng(seed)
        self.d_input = d_model
        self.d_output = d_model if d_output is None else d_output
        self.limit = limit
        self.gates = GateInput(d_model, self.d_output, heads, rng)
        self.recurrent = draw_diagonals(self.d_output, rng)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, d_output)."""
        return self.rest(batch, self.d_output)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        pre = self.gates(u)
        if lengths is not None:
            # With z = 0 the state stands still behind the end, to the last digit.
            frozen = pre.new_tensor([-CLOSED, 0.0, 0.0]).unsqueeze(-1)
            valid = valid_steps(lengths, u.shape[1])[..., None, None]
            pre = torch.where(valid, pre, frozen)
        return para_gru(pre, limited(self.recurrent, self.limit), state, reset=reset)

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        weights = limited(self.recurrent, self.limit).to(state.dtype)
        h = gru_cell(state, self.gates(u).to(state.dtype), weights)
        return h, h
