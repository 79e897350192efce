"""Smoothing behind a particle filter: by weights (FFBSm) and by drawn paths (FFBSi)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from statewise.inference.moments import spread
from statewise.inference.particle import ParticleResult, inputs_at, log_density, seeded
from statewise.inference.resampling import inverse


def smooth_particles(result: ParticleResult) -> Tensor:
    """Log-weights (B, T, N) of the filter's particles given all observations; O(N²) a step.

    w_t^i ∝ W_t^i Σ_j w_{t+1}^j f(x_{t+1}^j | x_t^i) / Σ_l W_t^l f(x_{t+1}^j | x_t^l).

    Args:
        result: what the filter found; behind the end of a series its weights are given back.

    Source: Doucet, Godsill and Andrieu (2000), forward filtering, backward smoothing.
    """
    length = result.particles.shape[1]
    w = result.log_weights[:, -1]
    found = [w]
    with torch.no_grad():
        for t in range(length - 2, -1, -1):
            ahead = result.particles[:, t + 1].transpose(0, 1).unsqueeze(2)
            back = _backward(result, ahead, t)
            w = torch.logsumexp(w.T.unsqueeze(-1) + back, 0)
            w = torch.where(result.valid[:, t + 1, None], w, result.log_weights[:, t])
            found.append(w)
    return torch.stack(found[::-1], 1)


def sample_paths(
    result: ParticleResult, samples: int, *, seed: int | np.random.Generator = 0
) -> Tensor:
    """Paths (samples, B, T, n) drawn given all observations; O(N) a step and path.

    The last state by the filter's weights, those before by W_t^i f(x_{t+1} | x_t^i). Zeros behind
    the end of a series.

    Args:
        result: what the filter found.
        samples: number of paths.
        seed: of the random numbers.

    Source: Godsill, Doucet and West, Monte Carlo smoothing for nonlinear time series (2004).
    """
    batch, length, N, n = result.particles.shape
    path: list[Tensor] = []
    with torch.no_grad(), seeded(seed, result.particles.device):
        for t in range(length - 1, -1, -1):
            logs = result.log_weights[:, t].expand(samples, batch, N)
            if path:
                logs = _backward(result, path[-1].unsqueeze(2), t)
            u = torch.rand(samples, batch, 1, dtype=torch.float64, device=logs.device)
            index = inverse(logs.exp(), u).unsqueeze(-1).expand(samples, batch, 1, n)
            here = result.particles[:, t].expand(samples, batch, N, n)
            path.append(here.gather(2, index).squeeze(2))
    drawn = torch.stack(path[::-1], 2)
    return spread(result.valid.expand(samples, -1, -1), drawn, torch.zeros_like(drawn))


def _backward(result: ParticleResult, ahead: Tensor, t: int) -> Tensor:
    """Log-probabilities (M, B, N) of the particles at t given states (M, B, 1, n) at t + 1."""
    law = result.model.transition(result.particles[:, t], t + 1, *inputs_at(result.u, t + 1))
    logs = result.log_weights[:, t] + log_density(law, ahead, 3).double()
    total = torch.logsumexp(logs, -1, keepdim=True)
    # Where no particle can have led there, as by a transition without noise, weights alone count.
    return torch.where(total > -torch.inf, logs - total, result.log_weights[:, t])
