"""Regressions that give the mean of a state and its covariance from an observation."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.inference.discriminative import Law
from statewise.inference.moments import symmetric

Function = Callable[[Tensor], Tensor]
CHUNK = 2048
"""Observations whose distances to all pairs are held at once."""


class Pairs(NamedTuple):
    """Observations (N, p) and states less their mean, (N, n), float64."""

    y: Tensor
    z: Tensor


class Regression(ABC):
    """How f and V are learned; f from most pairs, V from the errors on pairs held out of that."""

    @abstractmethod
    def fit(self, train: Pairs, held: Pairs, S: Tensor, rng: np.random.Generator) -> Law:
        """The fitted law of states less their mean; S is their covariance."""


class CovarianceRegression(ABC):
    """How V is learned from errors of f."""

    @abstractmethod
    def fit_covariance(
        self, y: Tensor, errors: Tensor, S: Tensor, rng: np.random.Generator
    ) -> Function:
        """From observations (N, p) and errors z − f(y), (N, n): a function to (…, n, n)."""


@dataclasses.dataclass(frozen=True)
class ConstantCovariance(CovarianceRegression):
    """V is the mean of the errors' outer products, whatever the observation."""

    def fit_covariance(
        self, y: Tensor, errors: Tensor, S: Tensor, rng: np.random.Generator
    ) -> Function:
        """See :meth:`CovarianceRegression.fit_covariance`."""
        V = errors.mT @ errors / len(errors)
        return lambda y: V.expand(*y.shape[:-1], *V.shape)


@dataclasses.dataclass(frozen=True)
class KernelCovariance(CovarianceRegression):
    """V(y) is a kernel average of the errors' outer products; S far from all pairs.

    Attributes:
        bandwidth: of the kernel, in standard deviations of the channels; None to choose it by
            leave-one-out.
    """

    bandwidth: float | None = None

    def fit_covariance(
        self, y: Tensor, errors: Tensor, S: Tensor, rng: np.random.Generator
    ) -> Function:
        """See :meth:`CovarianceRegression.fit_covariance`."""
        n = errors.shape[-1]
        products = (errors.unsqueeze(-1) * errors.unsqueeze(-2)).flatten(1)
        average = kernel_average(y, products, S.flatten(), self.bandwidth, rng)
        return lambda y: symmetric(average(y).unflatten(-1, (n, n)))


class Scale(NamedTuple):
    """Channels less their mean, in their standard deviations; channels that rest stay 0."""

    centre: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, y: Tensor) -> Scale:
        """That of observations (N, p)."""
        deviation = y.std(0, correction=0)
        return cls(y.mean(0), torch.where(deviation > 0, deviation, 1.0))

    def __call__(self, y: Tensor) -> Tensor:
        """Scaled observations, float64."""
        return (y.double() - self.centre) / self.deviation


@dataclasses.dataclass(frozen=True, eq=False)
class KernelAverage:
    """Σ_i w_i target_i with w_i ∝ exp(−‖y − y_i‖² / 2h²), and a fallback far from all y_i.

    Attributes:
        scale: of the channels.
        points: y_i, scaled, (N, p).
        targets: (N, k).
        fallback: what is given far away, (k,).
        bandwidth: h.
        log_weight: of the fallback, log of its kernel.
    """

    scale: Scale
    points: Tensor
    targets: Tensor
    fallback: Tensor
    bandwidth: float
    log_weight: float

    def __call__(self, y: Tensor) -> Tensor:
        """Averages (…, k) at observations (…, p)."""
        flat = self.scale(y).reshape(-1, y.shape[-1])
        found = []
        for part in flat.split(CHUNK):
            logs = -0.5 * (torch.cdist(part, self.points) / self.bandwidth).square()
            least = logs.new_full((len(part), 1), self.log_weight)
            weights = torch.softmax(torch.cat([logs, least], -1), -1)
            found.append(weights[:, :-1] @ self.targets + weights[:, -1:] * self.fallback)
        return torch.cat(found).reshape(*y.shape[:-1], -1)


def leave_one_out(distances: Tensor, targets: Tensor, own: Tensor, bandwidth: float) -> float:
    """Mean squared error of the kernel average at points that are left out of it.

    Args:
        distances: of some points to all, (M, N).
        targets: (N, k).
        own: index of each of the points among all, (M,).
        bandwidth: h.
    """
    logs = -0.5 * (distances / bandwidth).square()
    logs = logs.scatter(1, own.unsqueeze(1), -torch.inf)
    found = torch.softmax(logs, -1) @ targets
    return (found - targets[own]).square().sum(-1).mean().item()


def kernel_average(
    y: Tensor,
    targets: Tensor,
    fallback: Tensor,
    bandwidth: float | None,
    rng: np.random.Generator,
    *,
    judged: int = 1000,
    share: float = 0.01,
) -> KernelAverage:
    """A kernel average whose bandwidth has the least leave-one-out error of 25.

    Args:
        y: (N, p), N at least 3.
        targets: (N, k).
        fallback: (k,); it weighs ``share`` of what all points weigh together at a typical point.
        bandwidth: h, or None to choose it.
        rng: draws the points that are left out, where there are more than ``judged``.
        judged: how many are left out.
        share: of the fallback.
    """
    scale = Scale.of(y)
    points = scale(y)
    own = torch.as_tensor(np.sort(rng.permutation(len(points))[:judged]), device=y.device)
    distances = torch.cdist(points[own], points)
    others = distances.scatter(1, own.unsqueeze(1), torch.inf)
    if bandwidth is None:
        nearest = others.amin(1).median().clamp_min(1e-6).item()
        widest = max(2 * distances.median().item(), 4 * nearest)
        tried = np.geomspace(nearest / 4, widest, 25).tolist()
        bandwidth = min(tried, key=lambda h: leave_one_out(distances, targets, own, h))
    mass = torch.logsumexp(-0.5 * (others / bandwidth).square(), -1).median().item()
    log_weight = mass + math.log(share)
    return KernelAverage(scale, points, targets, fallback, bandwidth, log_weight)


class _Separate(Regression):
    """A regression of the mean, and a covariance of the errors it makes on what is held out."""

    covariance: CovarianceRegression

    @abstractmethod
    def fit_mean(self, train: Pairs, rng: np.random.Generator) -> Function:
        """From pairs: a function of observations (…, p) to means (…, n)."""

    def fit(self, train: Pairs, held: Pairs, S: Tensor, rng: np.random.Generator) -> Law:
        """See :meth:`Regression.fit`."""
        f = self.fit_mean(train, rng)
        with torch.no_grad():
            errors = held.z - f(held.y)
        V = self.covariance.fit_covariance(held.y, errors, S, rng)
        return lambda y: (f(y), V(y))


@dataclasses.dataclass(frozen=True)
class NadarayaWatson(_Separate):
    """A kernel average of the states; their mean far from all pairs.

    Attributes:
        bandwidth: in standard deviations of the channels; None to choose it by leave-one-out.
        covariance: how V is found.

    Source: Nadaraya (1964); Watson (1964).
    """

    bandwidth: float | None = None
    covariance: CovarianceRegression = dataclasses.field(default_factory=KernelCovariance)

    def fit_mean(self, train: Pairs, rng: np.random.Generator) -> Function:
        """See :meth:`_Separate.fit_mean`."""
        fallback = train.z.new_zeros(train.z.shape[-1])
        return kernel_average(train.y, train.z, fallback, self.bandwidth, rng)


@dataclasses.dataclass(frozen=True)
class GaussianProcess(_Separate):
    """Each state is a Gaussian process with the kernel σ² exp(−‖y − y'‖² / 2ℓ²) and noise.

    Attributes:
        limit: pairs that are used; more are thinned by chance, for the cost is cubic.
        steps: of L-BFGS on the marginal likelihood of each state.
        covariance: how V is found.

    Source: Rasmussen and Williams, Gaussian processes for machine learning (2006), chapter 2.
    """

    limit: int = 800
    steps: int = 30
    covariance: CovarianceRegression = dataclasses.field(default_factory=KernelCovariance)

    def fit_mean(self, train: Pairs, rng: np.random.Generator) -> Function:
        """See :meth:`_Separate.fit_mean`."""
        scale = Scale.of(train.y)
        chosen = torch.as_tensor(np.sort(rng.permutation(len(train.y))[: self.limit]))
        points, z = scale(train.y[chosen]), train.z[chosen]
        squares = torch.cdist(points, points).square()
        start = torch.stack([z.var(0).log(), (0.1 * z.var(0)).log()], -1)
        length = squares.median().clamp_min(1e-6).log() / 2
        theta = torch.cat([start, length.expand(len(start), 1)], -1).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [theta], max_iter=self.steps, line_search_fn="strong_wolfe", tolerance_change=1e-9
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = -marginal_likelihood(theta, squares, z).sum()
            value.backward()
            return value

        optimiser.step(loss)
        with torch.no_grad():
            root = torch.linalg.cholesky(process_covariance(theta, squares))
            alpha = torch.cholesky_solve(z.mT.unsqueeze(-1), root)
        return FittedProcess(scale, points, theta.detach(), alpha)


@dataclasses.dataclass(frozen=True, eq=False)
class FittedProcess:
    """Posterior means of Gaussian processes, one a state.

    Attributes:
        scale: of the channels.
        points: (N, p), scaled.
        theta: log σ², log of the noise's variance and log ℓ, (n, 3).
        alpha: (K + noise)⁻¹ z, (n, N, 1).
    """

    scale: Scale
    points: Tensor
    theta: Tensor
    alpha: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        """Means (…, n) at observations (…, p)."""
        flat = self.scale(y).reshape(-1, y.shape[-1])
        found = []
        for part in flat.split(CHUNK):
            squares = torch.cdist(part, self.points).square()
            found.append((_kernel(self.theta, squares) @ self.alpha).squeeze(-1).mT)
        return torch.cat(found).reshape(*y.shape[:-1], -1)


def _kernel(theta: Tensor, squares: Tensor) -> Tensor:
    size, length = theta[:, 0, None, None].exp(), theta[:, 2, None, None].exp()
    return size * torch.exp(-0.5 * squares / length**2)


def process_covariance(theta: Tensor, squares: Tensor) -> Tensor:
    """Covariances of noisy values, (n, N, N), from log σ², log noise and log ℓ, (n, 3)."""
    size, noise = theta[:, 0].exp(), theta[:, 1].exp()
    # A floor under the noise keeps the matrix a covariance to the computer too.
    level = (noise + 1e-8 * size)[:, None, None]
    return _kernel(theta, squares) + level * torch.eye(len(squares)).to(squares)


def marginal_likelihood(theta: Tensor, squares: Tensor, z: Tensor) -> Tensor:
    """Log-density of each column of z (N, n) under its process, (n,)."""
    root = torch.linalg.cholesky(process_covariance(theta, squares))
    white = torch.linalg.solve_triangular(root, z.mT.unsqueeze(-1), upper=False).squeeze(-1)
    determinant = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square().sum(-1) + len(z) * math.log(2 * math.pi)) - determinant
