"""The random numbers of particle Gibbs samplers: three functions, which a test can replace."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from statewise.inference.resampling import inverse


def draw(law: Distribution, shape: tuple[int, ...] = ()) -> Tensor:
    """A value of the law; through ``rsample`` where it has one, which waits for no device."""
    return law.rsample(torch.Size(shape)) if law.has_rsample else law.sample(torch.Size(shape))


def pick(weights: Tensor, count: int) -> Tensor:
    """Independent indices (…, count) int64 by weights (…, N) that need not sum to 1."""
    u = torch.rand(*weights.shape[:-1], count, dtype=torch.float64, device=weights.device)
    return inverse(weights, u)


def accept(log_probability: Tensor) -> Tensor:
    """True with the probability min(1, exp(·)), bool of the same shape."""
    u = torch.rand_like(log_probability, dtype=torch.float64)
    return u.log() < log_probability
