"""Liquid-S4: a diagonal system that also filters products of successive inputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.lti.functions import phi1
from statewise.nn.contract import State
from statewise.nn.diagonal_bank import DiagonalBank, run_diagonal
from statewise.nn.initialisers import ContinuousLaw, S4DLegS
from statewise.nn.recurrence import Recurrence
from statewise.nn.windows import final_window
from statewise.ops.pairs import from_pairs


class LiquidState(NamedTuple):
    """State of a Liquid-S4 layer.

    Attributes:
        x: states (B, d_model, d_state, 2).
        window: the last inputs, (B, degree − 1, d_model), oldest first.
    """

    x: Tensor
    window: Tensor


class LiquidS4(Recurrence):
    """y_t = 2 Re Σ_{s≤t} C Ā^{t−s} B̄ u_s + D u_t + products of inputs, one system a channel.

    The liquid system x' = (A + B u) x + B u has, one sample at a time and with diagonal A,
    x_t = (ā + b̄ u_t) x_{t−1} + b̄ u_t. Its expansion contains the products of inputs
    π_{p,t} = u_t u_{t−1} ⋯ u_{t−p+1}, of which the layer keeps those of p successive inputs up to
    p = P (``degree``), in one of two ways; b̄^p is taken state by state:

    - "kb": y_t += 2 Re Σ_p Σ_s C Ā^{t−s} b̄^p π_{p,s}. They are filtered as the input is, by
      x_t = ā x_{t−1} + Σ_p b̄^p π_{p,t}.
    - "pb": y_t += 2 Re Σ_p C b̄^p π_{p,t}. Ā = I is left out of the memory, as in the published
      code: products of the present act at once and are forgotten.

    p = 2 … P. So the layer is a stable linear system with a static polynomial in front (kb) or
    beside it (pb), not the liquid system itself, which large inputs make unstable. A is
    diagonal here (zero-order hold); the paper has that of S4. Outputs grow as the P-th power of
    inputs: put a norm in front.

    ``dt`` is refused: products are of successive samples.

    Source: Hasani et al., Liquid structural state-space models (2209.12951), section 3.

    Args:
        d_model: inputs and outputs.
        d_state: complex states a channel.
        degree: P, at least 1; 1 is S4D.
        mode: "pb" or "kb".
        law: where λ starts, ``S4DLegS()`` for None.
        dt_min: smallest initial time step; one a channel is trained.
        dt_max: largest initial time step.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, or another mode.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 32,
        degree: int = 2,
        mode: str = "pb",
        law: ContinuousLaw | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if degree < 1:
            raise ValueError(f"LiquidS4 needs a degree of at least 1; given {degree}")
        if mode not in ("pb", "kb"):
            raise ValueError(f'mode is "pb" or "kb"; given {mode!r}')
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.degree, self.mode = degree, mode
        law = S4DLegS() if law is None else law
        self.bank = DiagonalBank(d_model, d_state, law, dt_min, dt_max, rng, train_b=True)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros, see :class:`LiquidState`."""
        x = self.rest(batch, self.d_input, self.bank.d_state, 2)
        return LiquidState(x, self.rest(batch, self.degree - 1, self.d_input))

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        wide = u.to(torch.promote_types(u.dtype, self.state_dtype))
        products = _products(wide, state.window, self.degree, reset)
        run = self._filtered if self.mode == "kb" else self._beside
        y, x = run(products, state.x, reset, lengths)
        return y, LiquidState(x, final_window(u, state.window, reset, lengths))

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        y, state = self._sequence(u.unsqueeze(1), state, None, None, None)
        return y.squeeze(1), state

    def _beside(
        self, products: list[Tensor], x: Tensor, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        y, x = self.bank(products[0], x, reset=reset, lengths=lengths)
        weights, gain = self._complex()
        c = from_pairs(self.bank.weights()[1])
        drive = power = weights * gain
        for product in products[1:]:
            power = power * drive
            y = y + (c * power).sum(-1).real * product
        return y, x

    def _filtered(
        self, products: list[Tensor], x: Tensor, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """All degrees drive systems with the same poles, so their states are summed."""
        degree = self.degree
        weights, gain = self._complex()
        power, inward = weights, [weights]
        for _ in range(degree - 1):
            # The rule multiplies by one more gain.
            power = power * weights * gain
            inward.append(power)
        c = self.bank.weights()[1].repeat(degree, 1, 1)
        d = self.bank.D.to(c.dtype)
        start = torch.cat([x, x.new_zeros(x.shape).repeat(1, degree - 1, 1, 1)], 1)
        y, last = run_diagonal(
            torch.cat(products, -1),
            self.bank.poles().repeat(degree, 1, 1),
            torch.view_as_real(torch.cat(inward)),
            c,
            torch.cat([d, torch.zeros_like(d).repeat(degree - 1)]),
            self.bank.steps().repeat(degree),
            start,
            reset=reset,
            lengths=lengths,
        )
        sizes = (degree, self.d_input)
        return y.unflatten(-1, sizes).sum(-2), last.unflatten(1, sizes).sum(1)

    def _complex(self) -> tuple[Tensor, Tensor]:
        """B and the gain (e^{λΔ} − 1)/λ, complex (D, N)."""
        poles = from_pairs(self.bank.poles())
        b = from_pairs(self.bank.weights()[0])
        steps = self.bank.steps().unsqueeze(-1)
        return b, steps * phi1(poles * steps)


def _products(u: Tensor, window: Tensor, degree: int, reset: Tensor | None) -> list[Tensor]:
    """π_1 … π_P, (B, L, D) each; inputs before a reset or the beginning count as 0."""
    earlier, found = u, [u]
    for i in range(1, degree):
        oldest = window[:, -i : window.shape[1] - i + 1].to(u.dtype)
        earlier = torch.cat([oldest, earlier[:, :-1]], 1)
        if reset is not None:
            earlier = torch.where(reset.unsqueeze(-1), torch.zeros_like(earlier), earlier)
        found.append(found[-1] * earlier)
    return found
