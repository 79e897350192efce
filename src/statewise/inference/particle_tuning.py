"""How many particles a likelihood needs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from statewise.inference.particle import Bootstrap
from statewise.inference.prior_law import ModelOf
from statewise.inference.resampling import Resampling
from statewise.inference.row_likelihood import MethodOf, RowLikelihood, Rows


class ParticleTuning(NamedTuple):
    """What :func:`tune_particles` found.

    Attributes:
        particles: N.
        sd: standard deviation of log Ẑ with so many.
        tried: every N and its standard deviation, in the order tried.
    """

    particles: int
    sd: float
    tried: tuple[tuple[int, float], ...]


def tune_particles(
    model: ModelOf,
    y: Any,
    theta: Any,
    u: Any = None,
    *,
    target: float = 1.2,
    particles: int = 100,
    runs: int = 100,
    most: int = 100_000,
    method: Bootstrap | MethodOf | None = None,
    resampling: Resampling | None = None,
    threshold: float = 0.5,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> ParticleTuning:
    """The number of particles with which the standard deviation of log Ẑ is about ``target``.

    The variance of log Ẑ falls as 1 / N, so N grows by (sd / target)², at most 8-fold at once,
    until sd is within a quarter of the target. Fewer particles waste chains that stick, more waste
    time.

    Args:
        model: as for :func:`pmmh`.
        y: observations (S, T, p), whose estimates are multiplied.
        theta: the parameters, near the posterior's mode, (k,).
        u: inputs (S, T, m), or None.
        target: standard deviation wanted; 1 to 1.7 is about as good.
        particles: N to begin with.
        runs: filters side by side that the spread is measured on.
        most: N at most.
        method: as for :func:`pmmh`.
        resampling: as for :func:`particle_filter`.
        threshold: as for :func:`particle_filter`.
        lengths: steps of each series, (S,).
        seed: of the random numbers.

    Raises:
        ValueError: θ that is not (k,), fewer than 2 runs, or a spread above the target still with
            ``most`` particles.

    Source: Doucet, Pitt, Deligiannidis and Kohn (1210.1871); Sherlock et al. (1309.7209).
    """
    theta = torch.as_tensor(theta, dtype=torch.float64)
    if theta.dim() != 1 or runs < 2:
        raise ValueError(
            f"theta has shape {tuple(theta.shape)} and runs is {runs}; θ must be (k,), runs 2 or "
            "more"
        )
    rng = np.random.default_rng(seed)
    data = Rows.of(y, u, lengths, runs, False)
    rows = theta.to(data.y.device).expand(runs, -1)
    options = {"resampling": resampling, "threshold": threshold}
    N, tried = particles, []
    for _ in range(12):
        with torch.no_grad():
            logs = RowLikelihood(model, data, N, method, options)(rows, rng)
        sd = float(logs.std()) if bool(logs.isfinite().all()) else math.inf
        tried.append((N, sd))
        wanted = max(2, min(most, math.ceil(N * min(max((sd / target) ** 2, 0.125), 8.0))))
        if 0.75 * target <= sd <= 1.25 * target or wanted == N:
            break
        N = wanted
    N, sd = tried[-1]
    if sd > 1.25 * target:
        raise ValueError(
            f"{N} particles leave log Ẑ a standard deviation of {sd:.3g}, above {target:g}; take a "
            "guided filter, or fewer observations"
        )
    return ParticleTuning(N, sd, tuple(tried))
