"""One step of a particle filter, for those that take observations as they come."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from statewise.inference.conditional import Series, take
from statewise.inference.particle import Bootstrap, log_density
from statewise.inference.prior_law import widened
from statewise.inference.resampling import Resampling


class Cloud(NamedTuple):
    """Particles after an observation.

    Attributes:
        x: (B, N, n).
        log_weights: normalised, (B, N) float64.
    """

    x: Tensor
    log_weights: Tensor


def advance(
    series: Series,
    cloud: Cloud | None,
    t: int,
    particles: int,
    method: Bootstrap,
    resampling: Resampling,
    threshold: float,
) -> tuple[Cloud, Tensor]:
    """Take the observation at t in: resample where the ESS is low, move, weigh.

    Args:
        series: the model and the data up to t at least.
        cloud: particles after t − 1, None at t = 0.
        t: the step.
        particles: N.
        method: how particles move and are weighed.
        resampling: how.
        threshold: a row is resampled where its effective sample size is below this share of N.

    Returns:
        Particles after t, and log p̂(y_t | y_1 … y_{t−1}), (B,). Random numbers are torch's.
    """
    batch, N = len(series.y), particles
    now, given = series.y[:, t : t + 1], series.given(t)
    gap = series.missing[:, t].any(-1, keepdim=True)
    if cloud is None:
        x, law = None, widened(series.model, batch, N).initial()
        logs = torch.full((batch, N), -math.log(N), dtype=torch.float64, device=now.device)
    else:
        x, logs = _resampled(cloud, now, gap, t, given, method, resampling, threshold)
        law = series.moved(x, t)
    shape = (*law.batch_shape, *law.event_shape)
    drawn = law.sample(torch.Size((batch, N)) if len(shape) == 1 else torch.Size())
    guide = method.propose(series.model, x, now, t, *given)
    if guide is not None:
        shape = (*guide.batch_shape, *guide.event_shape)
        proposed = guide.sample(torch.Size((batch, N)) if len(shape) == 1 else torch.Size())
        drawn = torch.where(gap.unsqueeze(-1), drawn, proposed.expand(drawn.shape))
        ratio = log_density(law, drawn, 2) - log_density(guide, drawn, 2)
        logs = logs + torch.where(gap, 0.0, ratio.double())
    logs = logs + series.observed(drawn, t)
    total = torch.logsumexp(logs, -1, keepdim=True)
    # Where nothing fits the weights are alike, and the likelihood says so.
    logs = torch.where(total > -torch.inf, logs - total, -math.log(N))
    return Cloud(drawn, logs), total.squeeze(-1)


def _resampled(
    cloud: Cloud,
    y: Tensor,
    gap: Tensor,
    t: int,
    given: tuple[Tensor, ...],
    method: Bootstrap,
    resampling: Resampling,
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """States and log-weights to move on from; weights sum to 1 and η is taken off again."""
    x, logs = cloud
    N = logs.shape[1]
    ahead = method.look_ahead(x, y, t, *given)
    ahead = None if ahead is None else torch.where(gap, 0.0, ahead.double())
    chosen = logs if ahead is None else logs + ahead
    total = torch.logsumexp(chosen, -1, keepdim=True)
    usable = total > -torch.inf
    W = torch.where(usable, chosen - total, -math.log(N)).exp()
    poor = (1 / W.square().sum(-1, keepdim=True) < threshold * N) & usable
    if not bool(poor.any()):
        return x, logs
    stay = torch.arange(N, device=x.device).expand(logs.shape)
    ancestors = torch.where(poor, resampling(W), stay)
    even = (total - math.log(N)).expand(logs.shape)
    if ahead is not None:
        even = even - ahead.gather(1, ancestors)
    return take(x, ancestors), torch.where(poor, even, logs)
