"""GSS: a diagonal system of reduced width inside a gated unit."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State
from statewise.nn.diagonal_bank import DiagonalBank
from statewise.nn.initialisers import ContinuousLaw
from statewise.nn.recurrence import Recurrence
from statewise.nn.static import linear
from statewise.ops.pairs import from_pairs


@dataclasses.dataclass(frozen=True)
class _LogNormal(ContinuousLaw):
    """λ = −e^x + i e^y with x and y standard normal."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return -np.exp(rng.standard_normal(n)) + 1j * np.exp(rng.standard_normal(n))


class GSS(Recurrence):
    """y = W_o ((W_c S(GELU(W_u u))) ⊙ GELU(W_v u)), S a bank of diagonal systems of width H.

    Each map W has a bias. S has H channels of N complex states, which share their poles λ:
    x' = λ x + s, 2 Re(C x) + D s by zero-order hold (the DSS of the paper in its form
    without softmax). The gate has ``expand`` · D channels, so that the recurrence, which does not
    use matrix products, is the narrow part. There is one trained step a channel, which starts
    at 1 sample and which the paper leaves out; ``dt`` multiplies it. The state is (B, H, N, 2).

    Source: Mehta et al., Long range language modeling via gated state spaces (2206.13947),
    section 3.2. Norm and skip of the paper's block are those of ``Block``.

    Args:
        d_model: D, inputs and outputs.
        width: H, None for a quarter of D.
        d_state: N; the paper has 512.
        expand: channels of the gate for each input.
        law: where λ starts; None for the paper's, −e^x + i e^y with x and y standard normal.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1.
    """

    timed = True

    def __init__(
        self,
        d_model: int,
        *,
        width: int | None = None,
        d_state: int = 64,
        expand: int = 4,
        law: ContinuousLaw | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        width = max(1, d_model // 4) if width is None else width
        for name, size in (("d_model", d_model), ("width", width), ("expand", expand)):
            if size < 1:
                raise ValueError(f"GSS needs {name} of at least 1; given {size}")
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        gate = expand * d_model
        self.narrow = linear(d_model, width, rng)
        self.gate = linear(d_model, gate, rng)
        law = _LogNormal() if law is None else law
        self.bank = DiagonalBank(width, d_state, law, 1.0, 1.0, rng, shared=True)
        self.widen = linear(width, gate, rng)
        self.leave = linear(gate, d_model, rng)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, H, N, 2)."""
        return self.rest(batch, self.bank.channels, self.bank.d_state, 2)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        inside = nn.functional.gelu(self.narrow(u))
        y, state = self.bank(inside, state, dt=dt, reset=reset, lengths=lengths)
        return self.leave(self.widen(y) * nn.functional.gelu(self.gate(u))), state

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        width = None if dt is None else dt.unsqueeze(-1)
        y, state = self._sequence(u.unsqueeze(1), state, width, None, None)
        return y.squeeze(1), state

    def eigenvalues(self) -> Tensor:
        """Discrete eigenvalues at the nominal step, complex, shape (H, N)."""
        return torch.exp(from_pairs(self.bank.poles()) * self.bank.steps().unsqueeze(-1))
