"""The short causal convolution of selective layers, as a module with a window for a state."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.windows import final_window
from statewise.ops import causal_conv1d


class ShortConv(nn.Module):
    """y_t = φ(Σ_{k<W} w_{W−1−k} ⊙ x_{t−k} + b), each channel with a kernel of its own, φ = silu.

    The state is the window of the last W − 1 inputs, oldest first. Public checkpoints hold the
    weight as (D, 1, W).

    Args:
        channels: D.
        width: taps W.
        rng: source of the initial draw, uniform in ±1/√W.
        bias: whether b is there.
        bound: uniform in ±bound for the taps instead.
        silu: whether φ is silu.
        silu: whether φ is there; otherwise the identity is.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        rng: np.random.Generator,
        *,
        bias: bool = True,
        bound: float | None = None,
        silu: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.width, self.silu = channels, width, silu
        dtype, usual = torch.get_default_dtype(), 1 / math.sqrt(width)
        taps = usual if bound is None else bound
        start = rng.uniform(-taps, taps, (channels, width))
        self.weight = nn.Parameter(torch.tensor(start, dtype=dtype))
        self.bias = None
        if bias:
            start = rng.uniform(-usual, usual, channels)
            self.bias = nn.Parameter(torch.tensor(start, dtype=dtype))

    def forward(
        self,
        x: Tensor,
        window: Tensor,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run over a sequence.

        Args:
            x: inputs (B, L, D).
            window: the W − 1 inputs before (B, W − 1, D).
            reset: True where all inputs before that sample are forgotten, (B, L).
            lengths: number of valid samples, (B,); the window returned is the one after them.

        Returns:
            Outputs (B, L, D) and the window after the last sample, in the type of ``window``.
        """
        y, last = causal_conv1d(x, self.weight, self.bias, window, silu=self.silu, reset=reset)
        if lengths is not None and self.width > 1:
            last = final_window(x, window, reset, lengths)
        return y, last.to(window.dtype)
