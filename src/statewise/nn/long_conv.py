"""LongConv: a causal convolution whose taps are the parameters."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State
from statewise.nn.recurrence import Recurrence
from statewise.nn.windows import convolve, convolve_sample


class LongConv(Recurrence):
    """y_t = Σ_{s<K} k̄_s u_{t−s} + d u_t for each channel, with k̄ = dropout(squash(smooth(k))).

    The taps k are free parameters. Three regularisers make them generalise:

    - smooth "time": average of the 2p + 1 taps around each; beyond the ends lie zeros, as in the
      public code, which pull a kernel that starts high down at its start, or nothing
      (``smooth_edges="inside"``): then fewer taps are averaged there.
    - smooth "frequency": k_s · Σ_{|j|≤p} e^{−j²/2} cos(2πjs/K), the circular convolution of the
      spectrum of K points with the weights e^{−j²/2}, not normalised.
    - squash: sign(k) max(|k| − λ, 0); taps within λ are zero and get no gradient.
    - kernel dropout: in training, taps are zeroed with probability p, others scaled by 1/(1 − p),
      the same taps for all sequences and steps of a call.

    The state is the window of the last K − 1 inputs, (B, K − 1, d_model): a sequence costs
    O(max(L, K) log K) a channel, a step O(K), and nothing is remembered beyond K samples. There is
    no step size, so another sampling rate needs other taps. λ is in the unit of the taps; a λ of
    three times their initial spread leaves none to learn. Weight decay pulls against squash: the
    taps have the role "A", which has none.

    Source: Fu et al., Simple hardware-efficient long convolutions for sequence modeling
    (2302.06646), section 3.

    Args:
        d_model: D, inputs and outputs.
        taps: K, the longest memory in samples.
        squash: λ ≥ 0.
        smooth: "none", "time" or "frequency".
        smooth_width: 2p + 1, odd.
        smooth_edges: what averages in time count beyond the ends, "zeros" or "inside" for nothing.
        kernel_dropout: p in [0, 1).
        init: "geometric", k_{h,s} = 0.02 z e^{−(s/K)(D/2)^{h/D}}, decays spread over the channels
            h as time scales are in a state-space model; or "random", k_{h,s} = 0.002 z; z standard
            normal.
        feedthrough: whether d is there (it starts standard normal).
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: an option out of its range.
    """

    roles: ClassVar[dict[str, str]] = {"taps": "A", "D": "D"}

    def __init__(
        self,
        d_model: int,
        *,
        taps: int = 1024,
        squash: float = 0.003,
        smooth: str = "none",
        smooth_width: int = 7,
        smooth_edges: str = "zeros",
        kernel_dropout: float = 0.0,
        init: str = "geometric",
        feedthrough: bool = True,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if d_model < 1 or taps < 1:
            raise ValueError(
                f"LongConv needs d_model and taps of at least 1; given {d_model} and {taps}"
            )
        if squash < 0 or not 0 <= kernel_dropout < 1:
            raise ValueError(
                f"LongConv needs squash >= 0 and kernel_dropout in [0, 1); given squash = "
                f"{squash}, kernel_dropout = {kernel_dropout}"
            )
        if smooth not in ("none", "time", "frequency"):
            raise ValueError(f'smooth is "none", "time" or "frequency"; given {smooth!r}')
        if smooth_edges not in ("zeros", "inside"):
            raise ValueError(f'smooth_edges is "zeros" or "inside"; given {smooth_edges!r}')
        if smooth_width < 1 or smooth_width % 2 == 0:
            raise ValueError(f"smooth_width is odd and at least 1; given {smooth_width}")
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.squash, self.smooth, self.smooth_width = squash, smooth, smooth_width
        self.smooth_edges = smooth_edges
        self.kernel_dropout = nn.Dropout(kernel_dropout)
        dtype = torch.get_default_dtype()
        self.taps = nn.Parameter(torch.tensor(_start(init, d_model, taps, rng), dtype=dtype))
        d = torch.tensor(rng.standard_normal(d_model), dtype=dtype)
        self.D = nn.Parameter(d) if feedthrough else None

    @property
    def n_taps(self) -> int:
        """K, the number of taps of a channel."""
        return self.taps.shape[1]

    def kernel(self) -> Tensor:
        """The taps k̄ that are convolved, (D, K), in float32 at least."""
        k = self.taps.to(self.state_dtype)
        p = self.smooth_width // 2
        if self.smooth == "time":
            zeros = self.smooth_edges == "zeros"
            k = nn.functional.avg_pool1d(k, self.smooth_width, 1, p, count_include_pad=zeros)
        elif self.smooth == "frequency":
            k = k * self._taper(k, p)
        return self.kernel_dropout(nn.functional.softshrink(k, self.squash))

    def _taper(self, k: Tensor, p: int) -> Tensor:
        s = torch.arange(k.shape[1], device=k.device, dtype=torch.float64)
        j = torch.arange(-p, p + 1, device=k.device, dtype=torch.float64).unsqueeze(-1)
        angles = 2 * math.pi / k.shape[1] * j * s
        return (torch.exp(-(j**2) / 2) * torch.cos(angles)).sum(0).to(k.dtype)

    def init_state(self, batch: int) -> State:
        """The state of rest: a window of zeros (batch, K − 1, D)."""
        return self.rest(batch, self.n_taps - 1, self.d_input)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        return convolve(u, self.kernel(), state, self.D, reset=reset, lengths=lengths)

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        y, window = convolve_sample(u, self.kernel(), state)
        return (y if self.D is None else y + self.D * u), window


def _start(init: str, channels: int, taps: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal((channels, taps))
    if init == "random":
        return 0.002 * noise
    if init == "geometric":
        rates = (channels / 2) ** (np.arange(channels) / channels)
        return 0.02 * noise * np.exp(-np.outer(rates, np.arange(taps) / taps))
    raise ValueError(f'init is "geometric" or "random"; given {init!r}')
