"""The damped moving average of Mega: a bank of real, first-order systems."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti.diagonal_form import DiagonalForm
from statewise.nn.contract import State, valid_steps
from statewise.nn.recurrence import Recurrence
from statewise.ops import diagonal_ssm


class EMA(Recurrence):
    """h_t = q ⊙ h_{t−1} + p β u_t,  y_t = Σ_n γ_n h_{t,n} / √N + ω ⊙ u_t, for every channel.

    p = σ(δ) and q = 1 − σ(δ) σ(α), so that 0 < q < 1 whatever the parameters. N averages of
    different lengths for each channel are mixed by γ. The state is h, (B, d_model, N).

    Source: Ma et al., Mega (2209.10655), section 3.1.

    Args:
        d_model: input and output channels.
        d_state: N, averages of each channel.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a size below 1.
    """

    roles: ClassVar[dict[str, str]] = {
        "delta": "A",
        "alpha": "A",
        "beta": "B",
        "gamma": "C",
        "omega": "D",
    }

    def __init__(
        self, d_model: int, *, d_state: int = 16, seed: int | np.random.Generator = 0
    ) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("d_state", d_state)):
            if size < 1:
                raise ValueError(f"EMA needs {name} of at least 1; given {size}")
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.d_state = d_state
        shape = (d_model, d_state)
        signs = np.resize([1.0, -1.0], d_state)

        def parameter(start: np.ndarray) -> nn.Parameter:
            return nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))

        self.delta = parameter(0.2 * rng.standard_normal(shape))
        self.alpha = parameter(0.2 * rng.standard_normal(shape))
        self.beta = parameter(signs + 0.02 * rng.standard_normal(shape))
        self.gamma = parameter(rng.standard_normal(shape))
        self.omega = parameter(rng.standard_normal(d_model))

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, d_model, d_state)."""
        return self.rest(batch, self.d_input, self.d_state)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        a, b, c, d = self._coefficients()
        if lengths is None:
            return diagonal_ssm(u, a, b, c, d, state, reset=reset)
        # Steps of length 0 behind the end hold the state; those of length 1 give a and b.
        rate = torch.log(a)
        steps = valid_steps(lengths, u.shape[1]).to(a.dtype)
        scaled = b * rate / (a - 1)
        return diagonal_ssm(u, rate, scaled, c, d, state, dt=steps, rule="zoh", reset=reset)

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        a, b, c, d = self._coefficients()
        u = u.to(a.dtype)
        state = a * state + b * u.unsqueeze(-1)
        return (c * state).sum(-1) + d * u, state

    def modes(self) -> DiagonalForm:
        """The channels as modes of the textbook form, (d_model, N), in the type of the states."""
        q, push, c, d = self._coefficients()
        direct = (c * push).sum(-1) + d
        parts = (q, (q * push).unsqueeze(-1), c.unsqueeze(-2))
        poles, later, read = (torch.complex(part, torch.zeros_like(part)) for part in parts)
        return DiagonalForm(poles, later, read, direct[:, None, None], dt=1.0, half=True)

    def _coefficients(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, p β, γ/√N and ω."""
        dtype = self.state_dtype
        p = torch.sigmoid(self.delta.to(dtype))
        q = 1 - p * torch.sigmoid(self.alpha.to(dtype))
        c = self.gamma.to(dtype) / math.sqrt(self.d_state)
        return q, p * self.beta.to(dtype), c, self.omega.to(dtype)
