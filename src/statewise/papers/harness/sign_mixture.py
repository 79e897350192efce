"""A slow state seen through a mixture of two signs, so that no observation has a mean."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from statewise.inference import Discriminative, StateSpaceModel

STATES = 10
SIGNS, NOISES = (1.0, -1.0), (1.0, 5.0)
"""Signs, each of probability one half, and the variances that come with them."""


@dataclasses.dataclass(frozen=True, eq=False)
class SignMixture:
    """z_t = A z_{t−1} + w, y = ±B z + v: with the sign + noise of variance 1, with − of 5.

    A = 0.95 I − 0.05·11ᵀ, Γ = I − A Aᵀ, so that z ~ N(0, I); B_ij ~ N(0, 1/10).

    Attributes:
        A: (10, 10).
        B: (n, 10).
    """

    A: Tensor
    B: Tensor

    @classmethod
    def drawn(cls, channels: int, seed: int) -> SignMixture:
        """One with a random B."""
        rng = np.random.default_rng(seed)
        B = torch.as_tensor(rng.normal(size=(channels, STATES)) / math.sqrt(STATES))
        eye, one = torch.eye(STATES).double(), torch.ones(STATES, STATES).double()
        return cls(0.95 * eye - 0.05 * one, B)

    @property
    def noise(self) -> Tensor:
        """Γ."""
        return torch.eye(STATES).double() - self.A @ self.A.mT

    def simulate(self, length: int, seed: int) -> tuple[Tensor, Tensor]:
        """States (1, T, 10) and observations (1, T, n)."""
        rng = np.random.default_rng(seed)
        root, A, B = np.linalg.cholesky(self.noise.numpy()), self.A.numpy(), self.B.numpy()
        z = np.zeros((length, STATES))
        now = rng.normal(size=STATES)
        for t in range(length):
            now = A @ now + root @ rng.normal(size=STATES) if t else now
            z[t] = now
        which = rng.integers(2, size=(length, 1))
        sizes = np.sqrt(np.array(NOISES))[which]
        y = np.array(SIGNS)[which] * (z @ B.T) + sizes * rng.normal(size=(length, len(B)))
        return torch.as_tensor(z)[None], torch.as_tensor(y)[None]

    def law(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of z given one y: those of a mixture of two Gaussians."""
        eye = torch.eye(STATES).double()
        logs, means, covs = [], [], []
        for sign, noise in zip(SIGNS, NOISES, strict=True):
            precision = eye + self.B.mT @ self.B / noise
            V = torch.linalg.inv(precision)
            told = sign * (y @ self.B) / noise
            mean = told @ V
            # log N(y; 0, B Bᵀ + v I), by the inverse of a sum.
            size = y.square().sum(-1) / noise - (told * mean).sum(-1)
            level = len(self.B) * math.log(noise) + torch.logdet(precision)
            logs.append(-0.5 * (size + level))
            means.append(mean)
            covs.append(V)
        share = torch.softmax(torch.stack(logs, -1), -1).unsqueeze(-1)
        mean = torch.stack(means, -2)
        f = (share * mean).sum(-2)
        apart = mean - f.unsqueeze(-2)
        V = (share.unsqueeze(-1) * torch.stack(covs)).sum(-3)
        return f, V + torch.einsum("...k,...ki,...kj->...ij", share.squeeze(-1), apart, apart)

    def discriminative(self, *, robust: bool = False) -> Discriminative:
        """The discriminative filter with the exact law."""
        eye = torch.eye(STATES).double()
        return Discriminative(self.A, self.noise, eye, self.law, robust=robust)

    def particles(self) -> StateSpaceModel:
        """The model as particle filters take it, in single precision."""
        eye = torch.eye(STATES)
        A, B = self.A.float(), self.B.float()
        root = torch.linalg.cholesky(self.noise).float()
        return StateSpaceModel(
            lambda: MultivariateNormal(torch.zeros(STATES), eye),
            lambda z, t: MultivariateNormal(z @ A.mT, scale_tril=root),
            lambda z, t: _Signed(z, B),
        )


class _Signed(Distribution):
    """The law of y (n,) given states (B, N, 10)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, z: Tensor, B: Tensor) -> None:
        self.centre, self.power = z @ B.mT, (z @ (B.mT @ B) * z).sum(-1)
        super().__init__(z.shape[:-1], B.shape[:1], validate_args=False)

    def log_prob(self, value: Any) -> Tensor:
        """Log-density (B, N) of y (B, 1, n)."""
        across = (self.centre @ value.mT).squeeze(-1)
        size, n = value.square().sum(-1), value.shape[-1]
        terms = [
            -0.5 * ((size - 2 * sign * across + self.power) / noise + n * math.log(noise))
            for sign, noise in zip(SIGNS, NOISES, strict=True)
        ]
        return torch.logsumexp(torch.stack(terms, -1), -1) - math.log(2)


def with_power(y: Tensor) -> Tensor:
    """Channels (…, n) and the logarithm of their power, (…, n + 1)."""
    return torch.cat([y, y.square().sum(-1, keepdim=True).log()], -1)


def rmse(found: Tensor, z: Tensor) -> float:
    """Root of the mean squared error of a coordinate."""
    return float((found - z).square().mean().sqrt())
