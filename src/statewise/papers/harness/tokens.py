"""Depth as time: the tokens of a stack of equal selective layers, as a differential equation.

dx_{l,d}/dt = Σ_{j≤l} P_{dlj}(x) x_{j,d} with M = S_Cᵀ S_B, Δ_d(x) = softplus(S_d · x) and
P_{dlj} = (x_lᵀ M x_j) e^{−a Σ_{k=j+1}^{l} Δ_d(x_k)} Δ_d(x_j).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class TokenFlow:
    """The flow of L tokens in D dimensions.

    Attributes:
        product: M = S_Cᵀ S_B, (D, D).
        steps: S, (D, D); row d gives Δ_d.
        decay: a.
    """

    product: Array
    steps: Array
    decay: float = 1.0

    def widths(self, x: Array) -> Array:
        """Δ of every token and channel, (..., L, D)."""
        return np.logaddexp(0.0, x @ self.steps.T)

    def mixer(self, x: Array) -> Array:
        """P, (..., D, L, L), zero above the diagonal."""
        width = np.moveaxis(self.widths(x), -1, -2)
        passed = self.decay * width.cumsum(-1)
        lower = np.tril(np.ones((x.shape[-2], x.shape[-2]), bool))
        # Masked before the exponential, which would overflow above the diagonal.
        exponent = np.where(lower, passed[..., None, :] - passed[..., :, None], -np.inf)
        score = np.einsum("...ld,de,...je->...lj", x, self.product, x)
        return score[..., None, :, :] * np.exp(exponent) * width[..., None, :]

    def slope(self, x: Array) -> Array:
        """dx/dt for tokens (..., L, D)."""
        return np.einsum("...dlj,...jd->...ld", self.mixer(x), x)

    def run(self, x: Array, until: float, largest: float = 1e3) -> tuple[Array, Array, Array]:
        """Fourth-order Runge–Kutta with steps of a fixed share of the fastest relative change.

        Args:
            x: starts (R, L, D).
            until: end of time.
            largest: a run stops when some |x| is beyond it.

        Returns:
            Tokens (R, L, D) and times (R,) at the end of each run, and whether every token kept
            its signs, (R,).
        """
        x, start = x.copy(), np.sign(x)
        time = np.zeros(len(x))
        kept = np.ones(len(x), bool)
        active = np.arange(len(x))
        while len(active):
            part = x[active]
            one = self.slope(part)
            size = np.abs(part).max((1, 2)) + 1e-300
            rate = np.abs(one).max((1, 2)) / size
            step = np.minimum(0.02 / np.maximum(rate, 1e-300), 0.02 * (1 + time[active]))
            step = np.minimum(step, until - time[active])
            h = step[:, None, None]
            two = self.slope(part + h / 2 * one)
            three = self.slope(part + h / 2 * two)
            four = self.slope(part + h * three)
            x[active] = part + h / 6 * (one + 2 * two + 2 * three + four)
            time[active] += step
            kept[active] &= (np.sign(x[active]) == start[active]).all((1, 2))
            going = (np.abs(x[active]).max((1, 2)) < largest) & (time[active] < until * (1 - 1e-12))
            active = active[going]
        return x, time, kept


def one_dimension(mu: float, slope: float = 1.0, decay: float = 1.0) -> TokenFlow:
    """The flow with D = 1, M = μ and Δ = softplus(s x)."""
    return TokenFlow(np.array([[mu]]), np.array([[slope]]), decay)


def vanishing_constants(tokens: int, mu: float, decay: float = 1.0) -> Array:
    """The limits c_l of |x_l| √t for μ < 0 and D = 1: Σ_{j≤l} 2^{−a(l−j)} c_j² = 1/(2|μ| ln 2)."""
    total = 1 / (2 * abs(mu) * np.log(2))
    square = np.full(tokens, (1 - 2.0**-decay) * total)
    square[0] = total
    return np.sqrt(square)
