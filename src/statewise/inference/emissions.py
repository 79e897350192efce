"""What the states of a hidden Markov model emit: log p(y_t | x_t) and how it is fitted."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from statewise.inference.moments import LOG_2PI, dot, symmetric


class Emission(ABC):
    """The density of y_t in each of K states.

    Attributes:
        states: K.
        outputs: size p of y_t.
    """

    states: int
    outputs: int

    @abstractmethod
    def log_prob(self, y: Tensor, u: Tensor | None, seen: Tensor) -> Tensor:
        """Log p(y_t | x_t = k) of the outputs that are observed, (B, T, K).

        Args:
            y: (B, T, p), 0 where nothing is observed.
            u: inputs (B, T, m), or None.
            seen: (B, T, p) bool.
        """

    @abstractmethod
    def maximise(self, y: Tensor, u: Tensor | None, seen: Tensor, weight: Tensor) -> Emission:
        """The emission that maximises Σ_tk weight_tk log p(y_t | k), or gains on it.

        Args:
            y: (B, T, p), 0 where nothing is observed.
            u: inputs (B, T, m), or None.
            seen: (B, T, p) bool.
            weight: posterior probabilities of the states, (B, T, K), 0 behind the end.
        """

    def to(self, device: torch.device) -> Emission:
        """A copy with its own tensors on a device; those of a module stay where they are."""
        made = copy.copy(self)
        for name, x in vars(self).items():
            if isinstance(x, Tensor):
                setattr(made, name, x.to(device))
        return made


def parameter(name: str, x: Any, *axes: int) -> Tensor:
    """A tensor in float64 with so many axes."""
    x = torch.as_tensor(x, dtype=torch.float64)
    if x.dim() not in axes:
        wanted = " or ".join(map(str, axes))
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must have {wanted} axes")
    return x


class GaussianEmission(Emission):
    """y_t | k ~ N(mean_k, cov_k).

    Args:
        mean: (K, p).
        cov: covariances (K, p, p), or variances (K, p) of outputs that are independent given the
            state, which fitting keeps so.
        floor: no variance is fitted below it (no eigenvalue, of covariances).

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(self, mean: Any, cov: Any, *, floor: float = 1e-6) -> None:
        self.mean = parameter("mean", mean, 2)
        self.cov = parameter("cov", cov, 2, 3)
        self.states, self.outputs = self.mean.shape
        expected = tuple(self.mean.shape) + (self.outputs,) * (self.cov.dim() - 2)
        if tuple(self.cov.shape) != expected:
            raise ValueError(
                f"cov has shape {tuple(self.cov.shape)}; mean of shape {tuple(self.mean.shape)} "
                f"needs {tuple(self.mean.shape)} or {(*self.mean.shape, self.outputs)}"
            )
        self.floor = floor

    def log_prob(self, y: Tensor, u: Tensor | None, seen: Tensor) -> Tensor:
        """Densities of the observed outputs, the others integrated out."""
        e = torch.where(seen.unsqueeze(2), y.unsqueeze(2) - self.mean, 0.0)
        if self.cov.dim() == 2:
            each = e.square() / self.cov + self.cov.log() + LOG_2PI
            return -0.5 * torch.where(seen.unsqueeze(2), each, 0.0).sum(-1)
        L = torch.linalg.cholesky(self._among(seen))
        white = torch.linalg.solve_triangular(L, e.unsqueeze(-1), upper=False).squeeze(-1)
        size = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        count = seen.to(e).sum(-1, keepdim=True)
        return -0.5 * (white.square().sum(-1) + size + LOG_2PI * count)

    def _among(self, seen: Tensor) -> Tensor:
        """Covariances with those that are not observed made independent, of variance 1."""
        cov = symmetric(self.cov)
        if bool(seen.all()):
            return cov
        both = (seen.unsqueeze(-1) & seen.unsqueeze(-2)).unsqueeze(2)
        return torch.where(both, cov, 0.0) + torch.diag_embed((~seen).to(cov)).unsqueeze(2)

    def maximise(
        self, y: Tensor, u: Tensor | None, seen: Tensor, weight: Tensor
    ) -> GaussianEmission:
        """Weighted moments; of missing outputs those given the observed ones."""
        if self.cov.dim() == 2:
            w = weight.unsqueeze(-1) * seen.unsqueeze(2)
            total = w.sum((0, 1))
            has = total > 0
            count = torch.where(has, total, 1.0)
            mean = torch.where(has, (w * y.unsqueeze(2)).sum((0, 1)) / count, self.mean)
            squares = (w * (y.unsqueeze(2) - mean).square()).sum((0, 1)) / count
            cov = torch.where(has, squares.clamp_min(self.floor), self.cov)
            return GaussianEmission(mean, cov, floor=self.floor)
        value, spread = self._complete(y, seen)
        total = weight.sum((0, 1))
        count = torch.where(total > 0, total, 1.0)
        mean = torch.einsum("btk,btkp->kp", weight, value) / count.unsqueeze(-1)
        change = value - mean
        cov = torch.einsum("btk,btkp,btkq->kpq", weight, change, change)
        cov = (cov + torch.einsum("btk,btkpq->kpq", weight, spread)) / count[:, None, None]
        values, vectors = torch.linalg.eigh(symmetric(cov))
        cov = symmetric(vectors * values.clamp_min(self.floor).unsqueeze(-2) @ vectors.mT)
        has = total > 0
        return GaussianEmission(
            torch.where(has[:, None], mean, self.mean),
            torch.where(has[:, None, None], cov, self.cov),
            floor=self.floor,
        )

    def _complete(self, y: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of all outputs given those observed and the state."""
        cov = symmetric(self.cov)
        filled = y.unsqueeze(2).expand(*y.shape[:2], self.states, self.outputs)
        if bool(seen.all()):
            return filled, torch.zeros_like(cov).expand(*filled.shape, self.outputs)
        here, there = seen[:, :, None, :, None], seen[:, :, None, None, :]
        across = torch.where(~here & there, cov, 0.0)
        gain = torch.linalg.solve(self._among(seen), across.mT).mT
        e = torch.where(seen.unsqueeze(2), y.unsqueeze(2) - self.mean, 0.0)
        value = torch.where(seen.unsqueeze(2), filled, self.mean + dot(gain, e))
        return value, torch.where(~here & ~there, cov - gain @ across.mT, 0.0)


class CategoricalEmission(Emission):
    """p(y_t = c | k) = probabilities_kc, for symbols 0 … C − 1, each output by itself.

    Args:
        probabilities: (K, C) for one output, or (K, p, C).

    Raises:
        ValueError: numbers that are no distributions.
    """

    def __init__(self, probabilities: Any) -> None:
        x = parameter("probabilities", probabilities, 2, 3)
        self.probabilities = x.unsqueeze(1) if x.dim() == 2 else x
        self.states, self.outputs, self.symbols = self.probabilities.shape
        check_distribution("probabilities", self.probabilities)

    def log_prob(self, y: Tensor, u: Tensor | None, seen: Tensor) -> Tensor:
        """Table look-up.

        Raises:
            ValueError: a symbol that is none.
        """
        index = self._symbols(y, seen)
        table = safe_log(self.probabilities).permute(1, 2, 0)
        each = torch.stack([table[p][index[..., p]] for p in range(self.outputs)], -1)
        return torch.where(seen.unsqueeze(2), each, 0.0).sum(-1)

    def _symbols(self, y: Tensor, seen: Tensor) -> Tensor:
        wrong = seen & ((y != y.round()) | (y < 0) | (y >= self.symbols))
        if bool(wrong.any()):
            raise ValueError(
                f"y holds {y[wrong][0].item():g}; its symbols must be whole numbers from 0 to "
                f"{self.symbols - 1}"
            )
        return torch.where(seen, y, 0.0).long()

    def maximise(
        self, y: Tensor, u: Tensor | None, seen: Tensor, weight: Tensor
    ) -> CategoricalEmission:
        """Weighted frequencies."""
        index = self._symbols(y, seen)
        hot = nn.functional.one_hot(index, self.symbols).to(weight) * seen.unsqueeze(-1)
        counts = torch.einsum("btk,btpc->kpc", weight, hot)
        total = counts.sum(-1, keepdim=True)
        has = total > 0
        return CategoricalEmission(
            torch.where(has, counts / torch.where(has, total, 1.0), self.probabilities)
        )


class PoissonEmission(Emission):
    """y_tp | k ~ Poisson(rate_kp), the outputs independent given the state.

    Args:
        rate: (K, p), above 0.
        floor: no rate is fitted below it.
    """

    def __init__(self, rate: Any, *, floor: float = 1e-10) -> None:
        self.rate = parameter("rate", rate, 2)
        self.states, self.outputs = self.rate.shape
        self.floor = floor

    def log_prob(self, y: Tensor, u: Tensor | None, seen: Tensor) -> Tensor:
        """Y log λ − λ − log y!."""
        y = y.unsqueeze(2)
        each = y * self.rate.log() - self.rate - torch.lgamma(y + 1)
        return torch.where(seen.unsqueeze(2), each, 0.0).sum(-1)

    def maximise(
        self, y: Tensor, u: Tensor | None, seen: Tensor, weight: Tensor
    ) -> PoissonEmission:
        """Weighted means."""
        w = weight.unsqueeze(-1) * seen.unsqueeze(2)
        total = w.sum((0, 1))
        mean = (w * y.unsqueeze(2)).sum((0, 1)) / torch.where(total > 0, total, 1.0)
        rate = torch.where(total > 0, mean.clamp_min(self.floor), self.rate)
        return PoissonEmission(rate, floor=self.floor)


def safe_log(x: Tensor) -> Tensor:
    """Log x with −∞ and no gradient where x is 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).log(), -math.inf)


def check_distribution(name: str, x: Tensor) -> None:
    """Raise ValueError where the last axis holds no probabilities."""
    total = x.detach().sum(-1)
    if bool((x.detach() < 0).any()) or not bool(((total - 1).abs() <= 1e-6).all()):
        raise ValueError(
            f"{name} must be at least 0 and sum to 1 over its last axis; the smallest number is "
            f"{x.min().item():.6g} and the sums reach from {total.min().item():.6g} to "
            f"{total.max().item():.6g}"
        )
