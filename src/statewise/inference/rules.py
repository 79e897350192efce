"""Rules that match the moments of a function of a Gaussian: by slopes, or by weighted points."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.inference.moments import dot

Function = Callable[[Tensor], Tensor]
"""From points (…, K, n) to values (…, K, p)."""
Slopes = Callable[[Tensor], Tensor]
"""From points (…, n) to matrices of derivatives (…, p, n)."""

SINGULAR = 1e-13
"""A diagonal entry of a factor, beside its row, that counts as zero."""


class Expansion(NamedTuple):
    """g(m + L z) ≈ value + slope z + ε, z ~ N(0, I), ε ~ N(0, rest restᵀ − minus minusᵀ).

    Attributes:
        value: (…, p).
        slope: (…, p, n).
        rest: (…, p, K), K as the rule needs.
        minus: (…, p, K), or None without negative weights.
        matrix: derivatives with respect to x itself, (…, p, n), where the rule has them.
    """

    value: Tensor
    slope: Tensor
    rest: Tensor
    minus: Tensor | None = None
    matrix: Tensor | None = None

    def of_state(self, m: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
        """(A, b) with g(x) ≈ A x + b + ε."""
        A = self.matrix
        if A is None:
            diagonal, scale = L.diagonal(dim1=-2, dim2=-1), L.norm(dim=-1)
            if bool((diagonal > SINGULAR * scale).all()):
                A = torch.linalg.solve_triangular(L, self.slope, upper=False, left=False)
            else:
                A = self.slope @ torch.linalg.pinv(L)
        return A, self.value - dot(A, m)

    def covariance(self) -> Tensor:
        """Covariance of ε, (…, p, p)."""
        found = self.rest @ self.rest.mT
        return found if self.minus is None else found - self.minus @ self.minus.mT


class Rule(ABC):
    """How a function is replaced by an affine one with noise where its argument is Gaussian."""

    @abstractmethod
    def expand(self, function: Function, slopes: Slopes, m: Tensor, L: Tensor) -> Expansion:
        """The expansion of ``function`` at N(m, L Lᵀ), m (…, n)."""


@dataclasses.dataclass(frozen=True)
class FirstOrder(Rule):
    """Taylor: g(x) ≈ g(m) + g'(m) (x − m), without noise; the rule of the extended Kalman filter.

    Example:
        >>> m, L = torch.tensor([[3.0]]), torch.tensor([[[1.0]]])
        >>> found = FirstOrder().expand(lambda x: x * x, lambda x: 2 * x.unsqueeze(-1), m, L)
        >>> found.value.item(), found.slope.item()
        (9.0, 6.0)
    """

    def expand(self, function: Function, slopes: Slopes, m: Tensor, L: Tensor) -> Expansion:
        """See :meth:`Rule.expand`."""
        value, matrix = function(m.unsqueeze(-2)).squeeze(-2), slopes(m)
        return Expansion(value, matrix @ L, value.new_zeros(*value.shape, 0), None, matrix)


class PointRule(Rule):
    """Statistical linear regression on weighted points x_i = m + L ξ_i.

    ȳ = Σ w_i y_i, slope = Σ v_i (y_i − ȳ) ξ_iᵀ, and the noise is what the regression leaves,
    Σ v_i r_i r_iᵀ with r_i = y_i − ȳ − slope ξ_i.

    Source: García-Fernández et al., Posterior linearization filter (2015), for the view.
    """

    @abstractmethod
    def points(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ξ (K, n), weights w of the mean (K,) and v of the covariance (K,), Σ v_i ξ_i ξ_iᵀ = I."""

    def expand(self, function: Function, slopes: Slopes, m: Tensor, L: Tensor) -> Expansion:
        """See :meth:`Rule.expand`; derivatives are not asked for."""
        xi, w, v = self.points(m.shape[-1])
        z = torch.as_tensor(xi).to(m)
        y = function(m.unsqueeze(-2) + z @ L.mT)
        value = torch.as_tensor(w).to(y) @ y
        change = (y - value.unsqueeze(-2)).mT
        slope = change @ (torch.as_tensor(v).to(y).unsqueeze(-1) * z)
        left = change - slope @ z.mT
        scaled = left * torch.as_tensor(np.sqrt(np.abs(v))).to(y)
        negative = torch.as_tensor(v < 0, device=y.device)
        if not bool(negative.any()):
            return Expansion(value, slope, scaled)
        return Expansion(value, slope, scaled[..., ~negative], scaled[..., negative])


@dataclasses.dataclass(frozen=True)
class Unscented(PointRule):
    """2n + 1 points at the mean and at ±√(n + λ) along each direction, λ = α²(n + κ) − n.

    Exact to third order. A small α or κ < 0 gives the mean a negative weight; what comes out may
    then be no covariance, and is refused.

    Args:
        alpha: spread of the points.
        beta: what is known of the kurtosis, 2 for a Gaussian.
        kappa: more spread; 3 − n matches the fourth moments of each direction.

    Source: Julier and Uhlmann (2004).
    """

    alpha: float = 1.0
    beta: float = 2.0
    kappa: float = 0.0

    def points(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`PointRule.points`."""
        spread = self.alpha**2 * (n + self.kappa)
        if not spread > 0:
            raise ValueError(
                f"Unscented(alpha={self.alpha}, kappa={self.kappa}) has no points for {n} states; "
                "alpha must not be 0 and kappa must be above minus the number of states"
            )
        root = np.sqrt(spread) * np.eye(n)
        w = np.full(2 * n + 1, 0.5 / spread)
        w[0] = 1 - n / spread
        v = w.copy()
        v[0] += 1 - self.alpha**2 + self.beta
        return np.concatenate([np.zeros((1, n)), root, -root]), w, v


@dataclasses.dataclass(frozen=True)
class Cubature(PointRule):
    """2n points at ±√n along each direction, of equal weight; exact to third order.

    Source: Arasaratnam and Haykin, Cubature Kalman filters (2009).
    """

    def points(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`PointRule.points`."""
        root = np.sqrt(n) * np.eye(n)
        w = np.full(2 * n, 0.5 / n)
        return np.concatenate([root, -root]), w, w


@dataclasses.dataclass(frozen=True)
class GaussHermite(PointRule):
    """orderⁿ points, the product of Gauss–Hermite rules; exact to degree 2·order − 1 in each state.

    Args:
        order: points along each direction, at least 2.

    Raises:
        ValueError: an order below 2.

    Source: Ito and Xiong, Gaussian filters for nonlinear filtering problems (2000).
    """

    order: int = 3

    def __post_init__(self) -> None:
        if self.order < 2:
            raise ValueError(f"GaussHermite has the order {self.order}; at least 2 is needed")

    def points(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`PointRule.points`."""
        x, w = np.polynomial.hermite_e.hermegauss(self.order)
        grids = np.meshgrid(*[x] * n, indexing="ij")
        weights = np.meshgrid(*[w / w.sum()] * n, indexing="ij")
        product = np.prod(weights, axis=0).reshape(-1)
        return np.stack(grids, -1).reshape(-1, n), product, product
