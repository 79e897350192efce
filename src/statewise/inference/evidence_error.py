"""How far is the estimate of a likelihood by particles from the truth?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from statewise.inference.particle import ParticleResult


class Evidence(NamedTuple):
    """A log-evidence with its standard error.

    Attributes:
        value: log Ẑ.
        standard_error: of log Ẑ to first order, √Var(Ẑ) / Z.
    """

    value: Tensor
    standard_error: Tensor


def root_indices(result: ParticleResult) -> Tensor:
    """Index at the first step of the particle that each particle descends from, (B, T, N).

    E_0^i = i and E_t^i = E_{t−1}^{A_t^i}.

    Args:
        result: what the filter found.
    """
    roots = [torch.arange(result.ancestors.shape[2], device=result.ancestors.device)]
    roots[0] = roots[0].expand(result.ancestors[:, 0].shape)
    for t in range(1, result.ancestors.shape[1]):
        roots.append(roots[-1].gather(1, result.ancestors[:, t]))
    return torch.stack(roots, 1)


def relative_variance(roots: Tensor, log_weights: Tensor, resampled: Tensor) -> Tensor:
    """V̂ (B,), with Ẑ² V̂ unbiased for Var(Ẑ) under multinomial resampling.

    V̂ = 1 − (N / (N − 1))^{r + 1} (1 − Σ_e (Σ_{i: E^i = e} W^i)²) after r resamplings. It may be
    negative, and is 1 where all particles have one root: N must be large beside the number of
    resamplings. Resampling with less noise than the multinomial makes it too large.

    Args:
        roots: E^i, (B, N) int64.
        log_weights: normalised, (B, N).
        resampled: r, (B,).

    Source: Lee and Whiteley, Variance estimation in the particle filter (2018), eq. 5; Chan and
    Lai (2013).
    """
    N = roots.shape[1]
    if N < 2:
        return torch.full_like(log_weights[:, 0], torch.nan)
    W = log_weights.double().exp()
    families = torch.zeros_like(W).scatter_add_(1, roots, W)
    # As exp(r log(N / (N − 1))), exact for large N.
    growth = ((resampled.double() + 1) * -math.log1p(-1 / N)).exp()
    return 1 - growth * (1 - families.square().sum(1))


def evidence(result: ParticleResult) -> Evidence:
    """Log-likelihood of each series with its standard error from this one run, (B,) each.

    The error is √V̂ of :func:`relative_variance`, with as many resamplings as each series had; it
    is an estimate itself, good where N is large beside the number of steps.

    Args:
        result: what the filter found; with Multinomial resampling the variance is unbiased.
    """
    N = result.ancestors.shape[2]
    stay = torch.arange(N, device=result.ancestors.device)
    resampled = (result.ancestors != stay).any(-1) & result.valid
    last = result.valid.long().sum(1).clamp_min(1) - 1
    pick = last.reshape(-1, 1, 1).expand(-1, 1, N)
    roots = root_indices(result).gather(1, pick).squeeze(1)
    logs = result.log_weights.gather(1, pick).squeeze(1)
    found = relative_variance(roots, logs, resampled.sum(1))
    return Evidence(result.log_likelihood, found.clamp_min(0).sqrt())


def pooled_evidence(logs: Any, dim: int = 0) -> Evidence:
    """Log of the mean of repeated estimates Ẑ, with the standard error from their spread.

    log (1/R) Σ_r Ẑ_r and √(Var(Ẑ_r) / R) / mean; the mean is unbiased, unlike that of logarithms.

    Args:
        logs: log Ẑ_r of independent runs along ``dim``.
        dim: axis of the runs.

    Raises:
        ValueError: fewer than two runs.
    """
    logs = torch.as_tensor(logs).double()
    runs = logs.shape[dim] if logs.dim() else 1
    if runs < 2:
        raise ValueError(f"{runs} run has no spread; give at least two")
    value = torch.logsumexp(logs, dim) - math.log(runs)
    ratio = (logs - value.unsqueeze(dim)).exp()
    return Evidence(value, ratio.std(dim) / math.sqrt(runs))
