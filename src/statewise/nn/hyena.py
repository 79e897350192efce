"""Hyena: long convolutions with implicit filters between multiplicative gates."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State
from statewise.nn.recurrence import Recurrence
from statewise.nn.static import linear
from statewise.nn.windows import convolve, convolve_sample, convolve_short, working_dtype

FAST, SLOW, TARGET = 0.3, 1.5, 0.01
"""Windows fall to 1 % after 0.3 (first channel) to 1.5 (last channel) of the longest filter."""


class HyenaState(NamedTuple):
    """State of a Hyena layer: windows of past samples, oldest first.

    Attributes:
        short: the last projections, (B, d_conv − 1, (order + 1) · d_model).
        long: for each long filter the last values that it met, (B, max_length − 1, d_model).
    """

    short: Tensor
    long: tuple[Tensor, ...]


class Hyena(Recurrence):
    """y = W_o z^{N+1} with z^1 = v, z^{n+1} = x^n ⊙ (h^n * z^n + d^n ⊙ z^n), n = 1 … N.

    v, x^1 … x^N are the channels of conv(W_i u + b_i), conv a short causal convolution with a bias.
    The long filters are values of a small network of time, see :class:`ImplicitFilters`.

    A filter has no state of finite size but its history. The layer carries the last K − 1 values of
    each z^n, K = ``max_length``, forgets what is older, and is then exact: a sequence may be cut
    anywhere. A sequence of L samples costs O(N max(L, K) log K) a channel, however short it is. A
    step costs O(N K); the state holds N K d_model numbers, as much as attention over K samples
    keeps. In evaluation mode and without gradients, steps keep the taps until a parameter of their
    network is written to (through ``.data``, which hides it: until :meth:`train` is called).

    ``dt`` is refused: filters are functions of the count of samples. Order 2 with other filters
    is H3. The published code leaves out h^1 and calls that order N, which ``first_filter=False``
    does.

    Source: Poli et al., Hyena hierarchy: towards larger convolutional language models (2302.10866),
    definition 3.1.

    Args:
        d_model: D, inputs and outputs.
        order: N, gates.
        max_length: K, taps of the filters.
        d_conv: taps of the short convolution.
        features: positional features of the filter network, odd and at least 3.
        filter_width: width of the filter network.
        filter_depth: its hidden layers.
        sine: initial frequency of its sines.
        window_shift: what the exponential windows tend to.
        first_filter: whether h^1 is there; without it z^2 = x^1 ⊙ v.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, or an even number of features.
    """

    roles: ClassVar[dict[str, str]] = {"taps": "weight", "tap_bias": "bias", "D": "D"}

    def __init__(
        self,
        d_model: int,
        *,
        order: int = 2,
        max_length: int = 1024,
        d_conv: int = 3,
        features: int = 5,
        filter_width: int = 64,
        filter_depth: int = 3,
        sine: float = 10.0,
        window_shift: float = 0.0,
        first_filter: bool = True,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for name, size in (
            ("d_model", d_model),
            ("order", order),
            ("max_length", max_length),
            ("d_conv", d_conv),
            ("filter_width", filter_width),
            ("filter_depth", filter_depth),
        ):
            if size < 1:
                raise ValueError(f"Hyena needs {name} of at least 1; given {size}")
        if order == 1 and not first_filter:
            raise ValueError("Hyena of order 1 without its first filter has no filter at all")
        if features < 3 or features % 2 == 0:
            raise ValueError(f"features is odd and at least 3; given {features}")
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.order, self.max_length, self.first_filter = order, max_length, first_filter
        width = (order + 1) * d_model
        self.enter = linear(d_model, width, rng)
        dtype, bound = torch.get_default_dtype(), d_conv**-0.5
        taps = rng.uniform(-bound, bound, (width, d_conv))
        self.taps = nn.Parameter(torch.tensor(taps, dtype=dtype))
        bias = rng.uniform(-bound, bound, width)
        self.tap_bias = nn.Parameter(torch.tensor(bias, dtype=dtype))
        filters = order if first_filter else order - 1
        d = rng.standard_normal((filters, d_model))
        self.D = nn.Parameter(torch.tensor(d, dtype=dtype))
        self.filters = ImplicitFilters(
            filters, d_model, features, filter_width, filter_depth, sine, window_shift, rng
        )
        self.leave = linear(d_model, d_model, rng)
        self._kept: _Kept | None = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and forget the taps that steps have kept."""
        self._kept = None
        return super().train(mode)

    def init_state(self, batch: int) -> State:
        """The state of rest: windows of zeros, see :class:`HyenaState`."""
        short = self.rest(batch, self.taps.shape[1] - 1, self.taps.shape[0])
        count, window = self.D.shape[0], (self.max_length - 1, self.d_input)
        return HyenaState(short, tuple(self.rest(batch, *window) for _ in range(count)))

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        taps, bias = self.taps.to(self.state_dtype), self.tap_bias
        projected, short = convolve_short(
            self.enter(u), taps, state.short, bias, reset=reset, lengths=lengths
        )
        z, *gates = projected.chunk(self.order + 1, -1)
        if not self.first_filter:
            z = gates.pop(0) * z
        long = []
        filters = self.filters(self.max_length)
        for h, d, window, gate in zip(filters, self.D, state.long, gates, strict=True):
            y, window = convolve(z, h, window, d, reset=reset, lengths=lengths)
            long.append(window)
            z = gate * y
        return self.leave(z), HyenaState(short, tuple(long))

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        taps = self.taps.to(self.state_dtype)
        entered = self.enter(u)
        projected, short = convolve_sample(entered, taps, state.short)
        z, *gates = (projected + self.tap_bias).to(entered.dtype).chunk(self.order + 1, -1)
        if not self.first_filter:
            z = gates.pop(0) * z
        long = []
        filters = self._taps_of_a_step()
        for h, d, window, gate in zip(filters, self.D, state.long, gates, strict=True):
            y, window = convolve_sample(z, h, window)
            long.append(window)
            z = gate * (y + d * z).to(z.dtype)
        return self.leave(z), HyenaState(short, tuple(long))

    def _taps_of_a_step(self) -> Tensor:
        """The filters, made again only where something may have changed."""
        sources = list(self.filters.parameters())
        if self.training or torch.is_grad_enabled() or not _Kept.can(sources):
            return self.filters(self.max_length)
        if self._kept is None or not self._kept.still(sources):
            self._kept = _Kept(self.filters(self.max_length), sources)
        return self._kept.value


class _Kept:
    """A tensor, and the parameters that it was made of as they were then."""

    def __init__(self, value: Tensor, sources: list[nn.Parameter]) -> None:
        self.value = value
        # Aliases hold the memory, so that no other tensor can have its address.
        self._aliases = [source.detach() for source in sources]
        self._versions = [source._version for source in sources]

    @staticmethod
    def can(sources: list[nn.Parameter]) -> bool:
        """Whether writes to these parameters would be noticed."""
        if torch.compiler.is_compiling():
            return False
        # A captured graph is not asked again; it makes the taps at every replay.
        if sources[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return False
        return all(type(one) is nn.Parameter and not one.is_inference() for one in sources)

    def still(self, sources: list[nn.Parameter]) -> bool:
        """Whether these are the same parameters, not written to since."""
        return all(
            alias.data_ptr() == one.data_ptr()
            and alias.dtype == one.dtype
            and alias.device == one.device
            and version == one._version
            for alias, one, version in zip(self._aliases, sources, self._versions, strict=True)
        )


class ImplicitFilters(nn.Module):
    """h_c(t) = (e^{−δ_c τ} + s) · net_c(φ(τ)), τ = t/(K − 1), t = 0 … K − 1.

    φ = (τ, cos 2πf_j t/K, −sin 2πf_j t/K) with frequencies f_j equally spaced from 10⁻⁴ to one less
    than their number; net has hidden layers sin(ω ⊙ (W x + b)) with trained ω and a linear output.
    δ_c are equally spaced over the channels, so that windows fall to 1 % after 0.3 to 1.5 of K.

    Source: Poli et al. (2302.10866), section 3.3 and appendix D.3.

    Args:
        count: filters for each channel.
        channels: D.
        features: length of φ, odd.
        width: hidden units.
        depth: hidden layers.
        sine: initial ω.
        shift: s.
        rng: source of the initial draw.
    """

    roles: ClassVar[dict[str, str]] = {"omega": "scale"}

    def __init__(
        self,
        count: int,
        channels: int,
        features: int,
        width: int,
        depth: int,
        sine: float,
        shift: float,
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        self.count, self.channels, self.features, self.shift = count, channels, features, shift
        sizes = [features, *[width] * depth]
        self.hidden = nn.ModuleList(linear(a, b, rng) for a, b in pairwise(sizes))
        self.last = linear(width, count * channels, rng, bias=False)
        omega = torch.full((depth, width), sine, dtype=torch.get_default_dtype())
        self.omega = nn.Parameter(omega)

    def forward(self, length: int) -> Tensor:
        """The taps (count, D, ``length``), in float32 at least.

        Args:
            length: K; the filters are stretched over it.
        """
        dtype = working_dtype(self.omega)
        t = torch.arange(length, device=self.omega.device, dtype=torch.float64)
        tau = t / max(length - 1, 1)
        bands = (self.features - 1) // 2
        f = torch.linspace(1e-4, max(bands - 1, 1e-4), bands, device=t.device, dtype=t.dtype)
        angles = 2 * math.pi / length * t.unsqueeze(-1) * f
        x = torch.cat([tau.unsqueeze(-1), torch.cos(angles), -torch.sin(angles)], -1).to(dtype)
        # Half precision would show in every tap. Devices such as "meta" have no autocast to leave.
        kind = t.device.type if torch.amp.is_autocast_available(t.device.type) else "cpu"
        with torch.autocast(kind, enabled=False):
            for layer, omega in zip(self.hidden, self.omega, strict=True):
                layer = cast(nn.Linear, layer)
                x = nn.functional.linear(x, layer.weight.to(dtype), layer.bias.to(dtype))
                x = torch.sin(omega.to(dtype) * x)
            h = nn.functional.linear(x, self.last.weight.to(dtype))
        low, high = -math.log(TARGET) / SLOW, -math.log(TARGET) / FAST
        delta = torch.linspace(high, low, self.channels, device=t.device, dtype=t.dtype)
        window = torch.exp(-delta.unsqueeze(-1) * tau) + self.shift
        return h.mT.reshape(self.count, self.channels, length) * window.to(dtype)
