"""S4ND: state-space convolutions over several axes, one diagonal system for each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti import ZOH
from statewise.lti.functions import phi1
from statewise.nn.initialisers import ContinuousLaw, S4DLegS
from statewise.nn.poles import ContinuousDiagonalPoles
from statewise.nn.specs import ContinuousDiagonal
from statewise.nn.windows import working_dtype
from statewise.ops import fft_conv, vandermonde_kernel
from statewise.ops.pairs import from_pairs

T = TypeVar("T")


class S4ND(nn.Module):
    """y = K ** u + D u over d axes, K[l_1 … l_d] = (1/R) Σ_r Π_i K_{i,r}[l_i], for each channel.

    K_{i,r} is the kernel of a diagonal system of axis i: a causal one, or a two-sided one with
    k0[l] for l ≥ 0 and k1[−1 − l] for l < 0, where both directions and all ranks share λ and Δ and
    have C of their own. Beyond its edges the input is zero. The outer product is never formed:
    the axes are convolved one after the other, which is the same map, in O(R P log P) for P points
    a channel.

    Kernels are sampled curves: with another ``rate`` the same curve is sampled at spacing ``rate``
    (½ for twice the resolution) and the input is held over that spacing. With ``bandlimit`` α
    the modes with Δ |Im λ| / 2π > α/2, those above α times the Nyquist frequency of the spacing
    of training, are left out: they would alias.

    A rank of 1 cannot turn a pattern away from the axes. This is a map of whole grids, not a layer
    over time; it has no state.

    Source: Nguyen et al., S4ND: modeling images and videos as multidimensional signals using state
    spaces (2210.06583).

    Args:
        d_model: D, inputs and outputs.
        axes: d, number of axes, at least 1.
        d_state: complex states of an axis and channel (half the N of the paper).
        rank: R.
        causal: whether an axis has a one-sided kernel, for all axes or for each.
        bandlimit: α > 0, or None for all modes.
        law: where λ starts, ``S4DLegS()`` for None.
        dt_min: smallest initial Δ in points of the grid, for all axes or for each. 0.1 to 1 means
            kernels of 1 to 10 points.
        dt_max: largest initial Δ, for all axes or for each.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, as many settings as there are no axes, or α that is not positive.
    """

    roles: ClassVar[dict[str, str]] = {"D": "D"}

    def __init__(
        self,
        d_model: int,
        *,
        axes: int = 2,
        d_state: int = 32,
        rank: int = 1,
        causal: bool | tuple[bool, ...] = False,
        bandlimit: float | None = None,
        law: ContinuousLaw | None = None,
        dt_min: float | tuple[float, ...] = 0.1,
        dt_max: float | tuple[float, ...] = 1.0,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for name, size in (
            ("d_model", d_model),
            ("axes", axes),
            ("d_state", d_state),
            ("rank", rank),
        ):
            if size < 1:
                raise ValueError(f"S4ND needs {name} of at least 1; given {size}")
        if bandlimit is not None and bandlimit <= 0:
            raise ValueError(f"bandlimit is positive or None; given {bandlimit}")
        rng = np.random.default_rng(seed)
        self.d_model, self.axes, self.bandlimit = d_model, axes, bandlimit
        law = S4DLegS() if law is None else law
        settings = zip(
            _per_axis("causal", causal, axes),
            _per_axis("dt_min", dt_min, axes),
            _per_axis("dt_max", dt_max, axes),
            strict=True,
        )
        self.systems = nn.ModuleList(
            AxisKernel(d_model, ContinuousDiagonal(law, ZOH(), low, high), d_state, rank, one, rng)
            for one, low, high in settings
        )
        d = torch.tensor(rng.standard_normal(d_model), dtype=torch.get_default_dtype())
        self.D = nn.Parameter(d)

    def axis_kernels(
        self, lengths: Sequence[int], rate: float | Sequence[float] = 1.0
    ) -> list[tuple[Tensor, Tensor | None]]:
        """The kernels of the axes.

        Args:
            lengths: points along each axis.
            rate: spacing relative to that of training, for all axes or for each.

        Returns:
            For each axis k0 and k1 (None when causal), each (rank, D, length).
        """
        if len(lengths) != self.axes:
            raise ValueError(f"S4ND has {self.axes} axes; given lengths {tuple(lengths)}")
        rates = _per_axis("rate", rate, self.axes)
        if min(rates) <= 0:
            raise ValueError(f"rate is positive; given {rate}")
        return [
            system(length, one, self.bandlimit)
            for system, length, one in zip(self.systems, lengths, rates, strict=True)
        ]

    def forward(self, u: Tensor, rate: float | Sequence[float] = 1.0) -> Tensor:
        """Map grids.

        Args:
            u: input (B, L_1, …, L_d, D), of any lengths.
            rate: spacing of this grid relative to that of training, for all axes or for each.

        Returns:
            Output of the same shape and type.

        Raises:
            ValueError: another number of axes or channels, an empty axis, or rates that do not fit.
        """
        if u.ndim != self.axes + 2 or u.shape[-1] != self.d_model or 0 in u.shape[1:]:
            raise ValueError(
                f"S4ND takes an input of shape (batch, {'length, ' * self.axes}{self.d_model}); "
                f"given {tuple(u.shape)}"
            )
        kernels = self.axis_kernels(u.shape[1:-1], rate)
        ranks = kernels[0][0].shape[0]
        # float32 between the axes: half types would round once an axis.
        wide = u.to(torch.promote_types(u.dtype, working_dtype(self.D)))
        total = self.D * wide
        for r in range(ranks):
            z = wide
            for axis, (ahead, behind) in enumerate(kernels, start=1):
                z = _along(z, axis, ahead[r], None if behind is None else behind[r])
            total = total + z / ranks
        return total.to(u.dtype)


class AxisKernel(nn.Module):
    """Kernels k[l] = 2 Re C (e^{λΔ} − 1)/λ e^{λΔl} of the diagonal systems of one axis.

    Args:
        channels: D.
        config: λ with its initial law, and Δ.
        d_state: N.
        rank: R.
        causal: one kernel a rank, or two.
        rng: source of the initial draw; C is complex standard normal, scaled by 1/√N.
    """

    roles: ClassVar[dict[str, str]] = {"C": "C"}

    def __init__(
        self,
        channels: int,
        config: ContinuousDiagonal,
        d_state: int,
        rank: int,
        causal: bool,
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        self.poles = ContinuousDiagonalPoles(config, d_state, channels, rng)
        shape = (1 if causal else 2, rank, channels, d_state, 2)
        c = rng.standard_normal(shape) / math.sqrt(2 * d_state)
        self.C = nn.Parameter(torch.tensor(c, dtype=torch.get_default_dtype()))

    def forward(
        self, length: int, rate: float, bandlimit: float | None
    ) -> tuple[Tensor, Tensor | None]:
        """The kernels k0 and k1 (None when causal), (rank, D, ``length``) each."""
        shape = self.C.shape[2:4]
        poles, step = self.poles.continuous.view(shape), self.poles.dt.view(shape)
        exponent = poles * (step * rate)
        c = from_pairs(self.C.to(step.dtype))
        weights = 2 * c * (step * rate) * phi1(exponent)
        if bandlimit is not None:
            # In cycles a point of the grid of training, whatever the rate is.
            frequency = (step * poles.imag).abs() / (2 * math.pi)
            weights = torch.where(frequency > bandlimit / 2, 0.0, weights)
        exponent = exponent.expand_as(weights)
        k = vandermonde_kernel(exponent.flatten(0, 2), weights.flatten(0, 2), length, log=True)
        k = k.view(*self.C.shape[:3], length)
        return k[0], (k[1] if k.shape[0] == 2 else None)


def _along(u: Tensor, axis: int, ahead: Tensor, behind: Tensor | None) -> Tensor:
    """Convolve one axis with kernels (D, L)."""
    moved = u.movedim(axis, -2)
    flat = moved.reshape(-1, *moved.shape[-2:])
    y, _ = fft_conv(flat, ahead, need_state=False)
    if behind is not None:
        taps = nn.functional.pad(behind[:, :-1], (1, 0))
        y = y + fft_conv(flat, taps, reverse=True, need_state=False)[0]
    return y.view(moved.shape).movedim(-2, axis)


def _per_axis(name: str, value: T | Sequence[T], axes: int) -> tuple[T, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(values) != axes:
        raise ValueError(f"S4ND has {axes} axes; given {name} = {value}")
    return values
