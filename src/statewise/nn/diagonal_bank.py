"""A bank of diagonal systems inside a layer, whose states are never stored over time."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import valid_steps
from statewise.nn.initialisers import ContinuousLaw
from statewise.nn.poles import draw_log_steps
from statewise.nn.windows import working_dtype
from statewise.ops import diagonal_ssm


class DiagonalBank(nn.Module):
    """x' = λ x + B u, y = 2 Re(C x) + D u by zero-order hold, N complex states for each channel.

    λ = −e^α + iβ, one step Δ a channel. Without trained B, B = 1: only B C matters where a system
    has one input and one output.

    Args:
        channels: H.
        d_state: N.
        law: where λ starts.
        dt_min: smallest initial Δ.
        dt_max: largest initial Δ.
        rng: source of the initial draw; C is complex and D real standard normal.
        shared: whether all channels have the same λ.
        train_b: whether B is there; it starts as 1.
    """

    roles: ClassVar[dict[str, str]] = {
        "log_decay": "A",
        "frequency": "A",
        "log_dt": "dt",
        "B": "B",
        "C": "C",
        "D": "D",
    }

    def __init__(
        self,
        channels: int,
        d_state: int,
        law: ContinuousLaw,
        dt_min: float,
        dt_max: float,
        rng: np.random.Generator,
        *,
        shared: bool = False,
        train_b: bool = False,
    ) -> None:
        super().__init__()
        if channels < 1 or d_state < 1:
            raise ValueError(
                f"a bank needs at least one channel and one state; given {channels} channels of "
                f"{d_state} states"
            )
        if not 0 < dt_min <= dt_max:
            raise ValueError(
                f"time steps need 0 < dt_min <= dt_max; given dt_min = {dt_min}, dt_max = {dt_max}"
            )
        self.channels, self.d_state = channels, d_state
        dtype = torch.get_default_dtype()
        poles = np.stack([law.sample(d_state, rng) for _ in range(1 if shared else channels)])
        self.log_decay = nn.Parameter(torch.tensor(np.log(-np.real(poles)), dtype=dtype))
        self.frequency = nn.Parameter(torch.tensor(np.imag(poles), dtype=dtype))
        log_dt = draw_log_steps(dt_min, dt_max, channels, rng)
        self.log_dt = nn.Parameter(torch.tensor(log_dt, dtype=dtype))
        c = rng.standard_normal((channels, d_state, 2)) / 2**0.5
        self.C = nn.Parameter(torch.tensor(c, dtype=dtype))
        self.D = nn.Parameter(torch.tensor(rng.standard_normal(channels), dtype=dtype))
        one = torch.tensor([1.0, 0.0], dtype=dtype).repeat(channels, d_state, 1)
        self.B = nn.Parameter(one) if train_b else None

    def poles(self) -> Tensor:
        """λ as pairs, (H, N, 2), in float32 at least."""
        dtype = working_dtype(self.log_decay)
        re, im = -torch.exp(self.log_decay.to(dtype)), self.frequency.to(dtype)
        return torch.stack([re, im], -1).expand(self.channels, -1, -1)

    def steps(self) -> Tensor:
        """Δ at the nominal step, (H,)."""
        return torch.exp(self.log_dt.to(working_dtype(self.log_dt)))

    def weights(self) -> tuple[Tensor, Tensor]:
        """B, and C with its factor 2, as pairs (H, N, 2)."""
        dtype = working_dtype(self.C)
        c = 2 * self.C.to(dtype)
        if self.B is None:
            return torch.stack([torch.ones_like(c[..., 0]), torch.zeros_like(c[..., 0])], -1), c
        return self.B.to(dtype), c

    def forward(
        self,
        u: Tensor,
        state: Tensor,
        *,
        dt: Tensor | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
        copies: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Run over a sequence.

        Args:
            u: inputs (B, L, H · copies), finite behind ``lengths``.
            state: states before, (B, H · copies, N, 2).
            dt: relative steps (B, L), finite, or None for 1.
            reset: True where the state is set to 0 before that sample, (B, L).
            lengths: number of valid samples, (B,); the state stays as it is behind them.
            copies: how many channels in a row have the same system.

        Returns:
            Outputs like ``u``, and the state after the last valid sample.
        """
        b, c = self.weights()
        y, last = run_diagonal(
            *(u, self.poles(), b, c, self.D, self.steps(), state, dt, reset, lengths, copies)
        )
        return y, last


def run_diagonal(
    u: Tensor,
    poles: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    steps: Tensor,
    state: Tensor,
    dt: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    copies: int = 1,
) -> tuple[Tensor, Tensor]:
    """A bank with given λ (H, N, 2), B, C, D and Δ (H,); see :meth:`DiagonalBank.forward`."""
    if copies > 1:
        poles, b, c, steps = (x.repeat_interleave(copies, 0) for x in (poles, b, c, steps))
        d = None if d is None else d.repeat_interleave(copies, 0)
    if dt is not None or lengths is not None:
        relative = torch.ones(u.shape[:2], dtype=steps.dtype, device=u.device)
        relative = relative if dt is None else dt.to(steps.dtype)
        if lengths is not None:
            # A step of no width leaves the state as it is.
            valid = valid_steps(lengths, u.shape[1])
            relative = torch.where(valid, relative, torch.zeros_like(relative))
            reset = None if reset is None else reset & valid
        steps = relative.unsqueeze(-1) * steps
    y, last = diagonal_ssm(u, poles, b, c, d, state, dt=steps, rule="zoh", reset=reset)
    return y, last.to(state.dtype)
