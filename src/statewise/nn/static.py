"""Static maps: what stands between the linear systems of a deep Wiener model.

All act on the last axis alone, so they are the same for a sequence and for a sample. The
dataclasses that name them are in :mod:`statewise.nn.static_specs`.
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from statewise.nn.static_specs import Polynomial


def linear(d_input: int, d_output: int, rng: np.random.Generator, bias: bool = True) -> nn.Linear:
    """A linear map with uniform start in ±1/√d_input, drawn from ``rng``."""
    device = torch.get_default_device()
    # skip_init leaves torch's global generator alone.
    start = nn.utils.skip_init(nn.Linear, d_input, d_output, bias=bias, device=device)
    layer = cast(nn.Linear, start)
    if device.type == "meta":
        return layer
    bound = 1 / math.sqrt(d_input)
    with torch.no_grad():
        for parameter in layer.parameters():
            drawn = rng.uniform(-bound, bound, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
    return layer


def small_linear(d_input: int, d_output: int, rng: np.random.Generator) -> nn.Linear:
    """A linear map from N(0, 0.02²), cut at two deviations, without a bias at the start."""
    device = torch.get_default_device()
    module = cast(nn.Linear, nn.utils.skip_init(nn.Linear, d_input, d_output, device=device))
    if device.type == "meta":
        return module
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(small_normal((d_output, d_input), rng)))
        module.bias.zero_()
    return module


def small_normal(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Numbers from N(0, 0.02²), cut at two deviations."""
    draw = rng.standard_normal(shape)
    while (far := np.abs(draw) > 2).any():
        draw[far] = rng.standard_normal(int(far.sum()))
    return 0.02 * draw


class GatedUnit(nn.Module):
    """The module of :class:`~statewise.nn.GLU`."""

    def __init__(self, channels: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.mix = linear(channels, 2 * channels, rng)

    def forward(self, eta: Tensor) -> Tensor:
        """σ(η) on the last axis."""
        value, gate = self.mix(nn.functional.gelu(eta)).chunk(2, dim=-1)
        return value * torch.sigmoid(gate)


class ChebyshevSeries(nn.Module):
    """The module of :class:`~statewise.nn.Polynomial`."""

    def __init__(self, config: Polynomial, channels: int) -> None:
        super().__init__()
        self.support = config.support
        coefficients = torch.zeros(config.degree + 1, channels)
        coefficients[1] = config.support
        self.coefficients = nn.Parameter(coefficients)

    def forward(self, eta: Tensor) -> Tensor:
        """σ(η), channel by channel."""
        z = eta / self.support
        inside = z.clamp(-1.0, 1.0)
        value, slope = self._value_and_slope(inside)
        return value + slope * (z - inside)

    def _value_and_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Σ c_p T_p(z) and its derivative, by the three-term recurrences."""
        c = self.coefficients
        before, now = torch.ones_like(z), z
        slope_before, slope_now = torch.zeros_like(z), torch.ones_like(z)
        value, slope = c[0] + c[1] * z, c[1] * slope_now
        for p in range(2, c.shape[0]):
            before, now, slope_before, slope_now = (
                now,
                2 * z * now - before,
                slope_now,
                2 * now + 2 * z * slope_now - slope_before,
            )
            value = value + c[p] * now
            slope = slope + c[p] * slope_now
        return value, slope


class LinearAndMap(nn.Module):
    """The module of :class:`~statewise.nn.LinearPlus`."""

    roles: ClassVar[dict[str, str]] = {"linear": "scale", "weight": "scale"}

    def __init__(self, map: nn.Module, channels: int) -> None:
        super().__init__()
        self.map = map
        self.linear = nn.Parameter(torch.zeros(channels))
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, eta: Tensor) -> Tensor:
        """σ(η), channel by channel beside what the other map does."""
        value = self.weight.to(eta.dtype) * self.map(eta)
        return self.linear.to(eta.dtype) * eta + value


class RootMeanSquareNorm(nn.RMSNorm):
    """The module of :class:`~statewise.nn.RMSNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        """η / rms(η) over the last axis, scaled."""
        # Autocast brings half-precision signals here, and leaves the weight in float32.
        return super().forward(x.to(self.weight.dtype))
