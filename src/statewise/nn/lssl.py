"""LSSL: a bank of single-input systems with one dense matrix, the reference of its family."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti.measures import HiPPO, LegS
from statewise.nn.dense_bank import CHUNK, krylov, repeated_squares, run_bank, taps_of
from statewise.nn.poles import draw_log_steps
from statewise.nn.recurrence import Recurrence


class LSSL(Recurrence):
    """x' = A x + B u, y = C x + D u for each channel, by the generalised bilinear rule.

    Ā = (I − αΔA)⁻¹ (I + (1 − α)ΔA), B̄ = (I − αΔA)⁻¹ Δ B. A and B are dense and shared by all
    channels; Δ, C and D belong to a channel, and each channel may have several outputs. Sequences
    are convolved with C Ā^l B̄, whose powers come by doubling in O(N³ log L) for each channel; a
    step solves a system of N equations for each channel.

    A fixed A of a HiPPO measure is stable for α ≥ ½. A trained one is not constrained: look at
    its eigenvalues.

    Source: Gu et al., Combining recurrent, convolutional, and continuous-time models with linear
    state-space layers (2110.13985).

    Args:
        d_model: channels, H.
        d_state: states per channel, N.
        outputs: M, outputs of a channel; the layer has H·M, those of a channel side by side.
        measure: where A and B start: ``LegS()``, ``LegT()``, ``LagT()`` or ``FouT()``.
        alpha: α of the rule: 0 is forward Euler, ½ bilinear, 1 backward Euler.
        train_dynamics: train A, B and Δ (LSSL), or C and D alone (LSSL-f).
        dt_min: smallest initial time step, one step per channel.
        dt_max: largest initial time step.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, steps out of order, or α outside [0, 1].
    """

    timed: ClassVar[bool] = True
    roles: ClassVar[dict[str, str]] = {
        "A": "A",
        "B": "B",
        "C": "C",
        "D": "D",
        "log_dt": "dt",
    }
    A: Tensor
    B: Tensor
    log_dt: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        outputs: int = 1,
        measure: HiPPO | None = None,
        alpha: float = 0.5,
        train_dynamics: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("d_state", d_state), ("outputs", outputs)):
            if size < 1:
                raise ValueError(f"LSSL needs {name} of at least 1; given {size}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(
                f"time steps need 0 < dt_min <= dt_max; given dt_min = {dt_min}, dt_max = {dt_max}"
            )
        if not 0 <= alpha <= 1:
            raise ValueError(f"LSSL needs alpha from 0 to 1; given {alpha}")
        rng = np.random.default_rng(seed)
        self.d_input, self.d_output = d_model, d_model * outputs
        self.d_state, self.outputs, self.alpha = d_state, outputs, alpha
        a, b = (LegS() if measure is None else measure).operator(d_state)
        log_dt = draw_log_steps(dt_min, dt_max, d_model, rng)
        dtype = torch.get_default_dtype()
        for name, start in (("A", a), ("B", b), ("log_dt", log_dt)):
            value = torch.tensor(start, dtype=dtype)
            if train_dynamics:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        c = rng.standard_normal((d_model, outputs, d_state))
        self.C = nn.Parameter(torch.tensor(c, dtype=dtype))
        self.D = nn.Parameter(torch.tensor(rng.standard_normal((d_model, outputs)), dtype=dtype))

    def init_state(self, batch: int) -> Tensor:
        """The state of rest: zeros (batch, d_model, d_state)."""
        return self.rest(batch, self.d_input, self.d_state)

    def kernel(self, length: int) -> Tensor:
        """The impulse response without D, K_l = C Ā^l B̄, in float64.

        Args:
            length: number of taps, at least 1.

        Returns:
            Shape (d_model, outputs, length).
        """
        if length < 1:
            raise ValueError(f"LSSL makes a kernel of at least one tap; given length = {length}")
        a, b = self.discretise()
        squares = repeated_squares(a, length)
        columns = krylov(squares, b, min(CHUNK, length))
        return taps_of(squares, columns, self.C.double(), length)

    def discretise(self) -> tuple[Tensor, Tensor]:
        """Ā (d_model, d_state, d_state) and B̄ (d_model, d_state) at the nominal step, float64."""
        a = torch.exp(self.log_dt.double())[:, None, None] * self.A.double()
        unit = torch.eye(self.d_state, dtype=a.dtype, device=a.device)
        right = torch.cat(
            [
                unit + (1 - self.alpha) * a,
                torch.exp(self.log_dt.double())[:, None, None] * self.B.double().unsqueeze(-1),
            ],
            -1,
        )
        solved = torch.linalg.solve(unit - self.alpha * a, right)
        return solved[..., :-1], solved[..., -1]

    def _sequence(
        self,
        u: Tensor,
        state: Tensor,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(u.device.type, enabled=False):
            wide = u.to(state.dtype)
            if dt is None:
                a, b = self.discretise()
                c = self.C.double()
                x, last = run_bank(a, b, c, wide, state, reset=reset, lengths=lengths)
            else:
                x, last = self._recur(wide, state, dt, reset)
            return (x + self.D.to(x.dtype) * wide.unsqueeze(-1)).flatten(-2), last

    def _sample(self, u: Tensor, state: Tensor, dt: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(u.device.type, enabled=False):
            wide = u.to(state.dtype)
            state = self._advance(state, wide, dt)
            return (self._read(state) + self.D.to(wide.dtype) * wide.unsqueeze(-1)).flatten(
                -2
            ), state

    def _recur(
        self, u: Tensor, state: Tensor, dt: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        outputs = []
        for k in range(u.shape[1]):
            if reset is not None:
                state = torch.where(reset[:, k, None, None], 0, state)
            state = self._advance(state, u[:, k], dt[:, k])
            outputs.append(self._read(state))
        return torch.stack(outputs, 1), state

    def _advance(self, x: Tensor, u: Tensor, dt: Tensor | None) -> Tensor:
        """Ā x + B̄ u for states (B, H, N) and inputs (B, H)."""
        step = torch.exp(self.log_dt.to(x.dtype))
        if dt is not None:
            step = step * dt.to(x.dtype).unsqueeze(-1)
        step = step.unsqueeze(-1)
        a = self.A.to(x.dtype)
        right = x + step * ((1 - self.alpha) * (x @ a.mT) + u.unsqueeze(-1) * self.B.to(x.dtype))
        unit = torch.eye(self.d_state, dtype=x.dtype, device=x.device)
        return torch.linalg.solve(unit - self.alpha * step.unsqueeze(-1) * a, right.unsqueeze(-1))[
            ..., 0
        ]

    def _read(self, x: Tensor) -> Tensor:
        """C x, (B, H, M)."""
        return (self.C.to(x.dtype) @ x.unsqueeze(-1)).squeeze(-1)
