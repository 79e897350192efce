"""What the states of a HiPPO operator remember, as objects: measure, basis, kernels, factor.

The states of x' = A x + B u are x_n(t) = ∫ K_n(s) u(t − s) ds with kernels K(s) = e^{sA} B. A
measure with the weight ω(s) of the age s and an orthonormal basis p_n, ∫ p_n p_m ω ds = δ_nm, has
K_n = p_n ω, and the past is rebuilt as u(t − s) ≈ Σ_n x_n(t) p_n(s).

Source: Gu et al., How to train your HiPPO (2206.12037).
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import numpy as np

from statewise._config import register
from statewise.lti.hippo import fourier_ends, fout, lagt, laguerre_norms, legs, legt


@dataclasses.dataclass(frozen=True)
class HiPPO(abc.ABC):
    """A measure on the past of the input with its orthonormal basis and its operator."""

    exact: ClassVar[bool] = True
    """Whether K = p ω holds for a finite number of states, or in the limit only."""

    @abc.abstractmethod
    def operator(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """A (n, n) and B (n,) of x' = A x + B u."""

    @abc.abstractmethod
    def factor(self, n: int) -> np.ndarray:
        """P (n, r), real, for which A + P Pᵀ is normal: a multiple of I plus a skew matrix.

        Args:
            n: number of states.

        Raises:
            ValueError: the operator has no such form.
        """

    @abc.abstractmethod
    def basis(self, n: int, age: np.ndarray) -> np.ndarray:
        """The basis p_n(s).

        Args:
            n: number of states.
            age: s ≥ 0, shape (T,), in time.

        Returns:
            Shape (n, T).
        """

    @abc.abstractmethod
    def weight(self, age: np.ndarray) -> np.ndarray:
        """The weight ω(s) of the ages s ≥ 0, shape (T,)."""

    def kernels(self, n: int, age: np.ndarray) -> np.ndarray:
        """The kernels K_n(s) = p_n(s) ω(s) in closed form, (n, T), for ages s ≥ 0 (T,)."""
        return self.basis(n, age) * self.weight(age)


@register
@dataclasses.dataclass(frozen=True)
class LegS(HiPPO):
    """Exponential memory ω(s) = e^{−s}: p_n(s) = √(2n+1) P_n(2e^{−s} − 1), exact for finite n."""

    def operator(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`~statewise.lti.legs`."""
        return legs(n)

    def factor(self, n: int) -> np.ndarray:
        """P_i = √(i + ½), with A + P Pᵀ = −½ I + skew."""
        return np.sqrt(np.arange(n) + 0.5)[:, None]

    def basis(self, n: int, age: np.ndarray) -> np.ndarray:
        """Legendre polynomials of e^{−s}."""
        return scaled_legendre(n, 2 * np.exp(-np.asarray(age, float)) - 1)

    def weight(self, age: np.ndarray) -> np.ndarray:
        """ω(s) = e^{−s}."""
        return np.exp(-np.asarray(age, float))


@register
@dataclasses.dataclass(frozen=True)
class LegT(HiPPO):
    """A window with Legendre polynomials: p_n(s) = √(2n+1) P_n(1 − 2s/θ), ω(s) = 1/θ on [0, θ].

    Attributes:
        window: θ, in time.
    """

    exact: ClassVar[bool] = False
    window: float = 1.0

    def __post_init__(self) -> None:
        _check_window(self)

    def operator(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`~statewise.lti.legt`."""
        return legt(n, self.window)

    def factor(self, n: int) -> np.ndarray:
        """√((2i+1)/θ) at even i in the first column and at odd i in the second; A + P Pᵀ is skew.

        One state has one column.
        """
        index = np.arange(n)
        columns = index[:, None] % 2 == np.arange(min(n, 2))
        return columns * np.sqrt((2 * index + 1.0) / self.window)[:, None]

    def basis(self, n: int, age: np.ndarray) -> np.ndarray:
        """Legendre polynomials on the window."""
        return scaled_legendre(n, 1 - 2 * np.asarray(age, float) / self.window)

    def weight(self, age: np.ndarray) -> np.ndarray:
        """ω(s) = 1/θ on [0, θ], 0 behind it."""
        return _uniform(age, self.window)


@register
@dataclasses.dataclass(frozen=True)
class LagT(HiPPO):
    """Laguerre memory ω(s) = s^{−α} e^{−βs}, exact for finite n.

    p_n(s) = s^α e^{(β−1)s/2} L_n^{(α)}(s)/g_n with g_n² = Γ(n+α+1)/n!, and so
    K_n(s) = e^{−(1+β)s/2} L_n^{(α)}(s)/g_n.

    Attributes:
        alpha: α, above −1.
        beta: β, at least 0.
    """

    alpha: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        lagt(1, self.alpha, self.beta)

    def operator(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`~statewise.lti.lagt`."""
        return lagt(n, self.alpha, self.beta)

    def factor(self, n: int) -> np.ndarray:
        """P_i = √½, with A + P Pᵀ = −β/2 I + skew; for α = 0 only."""
        if self.alpha:
            raise ValueError(
                f"LagT is normal plus low rank for alpha = 0 only; given alpha = {self.alpha}"
            )
        return np.full((n, 1), math.sqrt(0.5))

    def basis(self, n: int, age: np.ndarray) -> np.ndarray:
        """Laguerre functions."""
        s = np.asarray(age, float)
        return self._laguerre(n, s) * s**self.alpha * np.exp(0.5 * (self.beta - 1) * s)

    def weight(self, age: np.ndarray) -> np.ndarray:
        """ω(s) = s^{−α} e^{−βs}; infinite at s = 0 for α > 0."""
        s = np.asarray(age, float)
        with np.errstate(divide="ignore"):
            return s**-self.alpha * np.exp(-self.beta * s)

    def kernels(self, n: int, age: np.ndarray) -> np.ndarray:
        """See :meth:`HiPPO.kernels`; finite also at s = 0."""
        s = np.asarray(age, float)
        return self._laguerre(n, s) * np.exp(-0.5 * (1 + self.beta) * s)

    def _laguerre(self, n: int, s: np.ndarray) -> np.ndarray:
        """L_n^{(α)}(s)/g_n, (n, T)."""
        from scipy.special import eval_genlaguerre

        index = np.arange(n)[:, None]
        return eval_genlaguerre(index, self.alpha, s) / laguerre_norms(n, self.alpha)[:, None]


@register
@dataclasses.dataclass(frozen=True)
class FouT(HiPPO):
    """A window with Fourier functions: 1, 0, √2 cos 2πks/θ, √2 sin 2πks/θ, …; ω(s) = 1/θ on it.

    Attributes:
        window: θ, in time.
    """

    exact: ClassVar[bool] = False
    window: float = 1.0

    def __post_init__(self) -> None:
        _check_window(self)

    def operator(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`~statewise.lti.fout`."""
        return fout(n, self.window)

    def factor(self, n: int) -> np.ndarray:
        """P = √(2/θ) (1, 0, √2, 0, …), with A + P Pᵀ skew."""
        return math.sqrt(2 / self.window) * fourier_ends(n)[:, None]

    def basis(self, n: int, age: np.ndarray) -> np.ndarray:
        """Fourier functions on the window."""
        phase = 2 * np.pi / self.window * np.outer(np.arange((n + 1) // 2), np.asarray(age, float))
        rows = math.sqrt(2) * np.stack([np.cos(phase), np.sin(phase)], 1).reshape(-1, len(age))
        rows[0] = 1
        return rows[:n]

    def weight(self, age: np.ndarray) -> np.ndarray:
        """ω(s) = 1/θ on [0, θ], 0 behind it."""
        return _uniform(age, self.window)


def _check_window(measure: LegT | FouT) -> None:
    if not 0 < measure.window < math.inf:
        raise ValueError(
            f"{type(measure).__name__} needs a window above 0; given window = {measure.window}"
        )


def _uniform(age: np.ndarray, window: float) -> np.ndarray:
    s = np.asarray(age, float)
    return np.where((s >= 0) & (s <= window), 1 / window, 0.0)


def scaled_legendre(n: int, z: np.ndarray) -> np.ndarray:
    """√(2i+1) P_i(z) for i < n, shape (n, T)."""
    from scipy.special import eval_legendre

    index = np.arange(n)[:, None]
    return np.sqrt(2 * index + 1.0) * eval_legendre(index, z)
