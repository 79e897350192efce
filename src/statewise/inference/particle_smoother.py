"""Smoothing behind a particle filter: by weights, with a lag or without, and by drawn paths."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import torch
from torch import Tensor

from statewise.inference import chance
from statewise.inference.backward_draws import (
    BackwardDraws,
    ExactBackward,
    MetropolisBackward,
    backward_logs,
)
from statewise.inference.conditional import Series, Step, take
from statewise.inference.moments import spread
from statewise.inference.particle import ParticleResult, seeded

#: Share of backward draws that only repeat the filter's ancestor from which on a warning is due.
SINGULAR = 0.99


@dataclasses.dataclass(frozen=True)
class GenealogyBackward(BackwardDraws):
    """The ancestors of the filter themselves: O(1) a path and step, no density of the transition.

    Paths go together soon: about N log N steps back all have one ancestor. It is what is left where
    the transition is singular.

    Source: Kitagawa, Monte Carlo filter and smoother (1996); Jacob, Murray and Rubenthaler, Path
    storage in the particle filter (1307.3180).
    """

    def __call__(self, series: Series, t: int, step: Step, ahead: Step, draws: int) -> Tensor:
        """Ancestors (draws, B, N)."""
        return ahead.ancestors.expand(draws, *ahead.ancestors.shape)


@torch.no_grad()
def smooth_particles(result: ParticleResult) -> Tensor:
    """Log-weights (B, T, N) of the filter's particles given all observations; O(N²) a step.

    w_t^i ∝ W_t^i Σ_j w_{t+1}^j f(x_{t+1}^j | x_t^i) / Σ_l W_t^l f(x_{t+1}^j | x_t^l).

    A singular transition, as of a state that holds an earlier one or moves without noise, leads to
    each particle from its ancestor alone; the weights are then those of the ancestors, which
    degenerate far back, and a warning says so.

    Args:
        result: what the filter found; behind the end of a series its weights are given back.

    Source: Doucet, Godsill and Andrieu (2000), forward filtering, backward smoothing.
    """
    series, length = _series(result), result.particles.shape[1]
    w = result.log_weights[:, -1]
    found, own = [w], []
    for t in range(length - 2, -1, -1):
        step, ahead = _step(result, t), _step(result, t + 1)
        logs = backward_logs(series, t, step, ahead.x)
        total = torch.logsumexp(logs, -1, keepdim=True)
        reached = total > -torch.inf
        ancestor = ahead.ancestors.T.unsqueeze(-1)
        alone = torch.full_like(logs, -torch.inf).scatter_(-1, ancestor, 0.0)
        back = torch.where(reached, logs - torch.where(reached, total, 0.0), alone)
        share = (w.T.exp() * back.gather(-1, ancestor).squeeze(-1).exp()).sum(0)
        own.append(torch.where(result.valid[:, t + 1], share, torch.nan))
        w = torch.logsumexp(w.T.unsqueeze(-1) + back, 0)
        w = torch.where(result.valid[:, t + 1, None], w, result.log_weights[:, t])
        found.append(w)
    _warn(own, result.particles.shape[2])
    return torch.stack(found[::-1], 1)


@torch.no_grad()
def smooth_particles_lagged(result: ParticleResult, lag: int) -> Tensor:
    """Log-weights (B, T, N) of the filter's particles given ``lag`` observations more; O(N) a step.

    w_t^i = Σ_j W_{t+L}^j over the particles j of step t + L that descend from i. It needs no
    density of the transition. A lag near the time in which the model forgets is best: a short one
    leaves observations out, a long one has few ancestors left.

    Args:
        result: what the filter found; behind the end of a series its weights are given back.
        lag: L, 0 for the weights of the filter; near the end of a series as many as there are.

    Raises:
        ValueError: a lag below 0.

    Source: Kitagawa and Sato, Monte Carlo smoothing and self-organising state-space model (2001);
    Olsson, Cappé, Douc and Moulines (math/0609514).
    """
    if lag < 0:
        raise ValueError(f"lag is {lag}; it must be 0 or more")
    batch, length, N = result.log_weights.shape
    device = result.log_weights.device
    index = torch.arange(N, device=device).expand(batch, length, N).contiguous()
    for back in range(1, min(lag, length - 1) + 1):
        # One step further for all t at once; those near the end have all their steps already.
        index[:, :-back] = index[:, :-back].gather(2, result.ancestors[:, back:])
    last = (torch.arange(length, device=device) + lag).clamp_max(length - 1)
    later = result.log_weights[:, last].exp()
    found = torch.zeros_like(later).scatter_add_(2, index, later).log()
    return torch.where(result.valid.unsqueeze(-1), found, result.log_weights)


@torch.no_grad()
def sample_paths(
    result: ParticleResult,
    samples: int,
    *,
    backward: BackwardDraws | None = None,
    seed: int | np.random.Generator = 0,
) -> Tensor:
    """Paths (samples, B, T, n) drawn given all observations.

    The last state by the filter's weights, those before by W_t^i f(x_{t+1} | x_t^i). Zeros behind
    the end of a series. ``backward`` says how these are drawn, at a cost for each path and step:

    - :class:`ExactBackward`: from all N weights, O(N); paths are independent given the particles.
    - :class:`RejectionBackward`: O(1) on average where the particles fit the density well, with a
      long tail; needs a bound of the density; the same law as the exact one.
    - :class:`MetropolisBackward`: O(1), a Markov chain that starts at the filter's ancestor; its
      draws are near the exact law, and as consistent.
    - :class:`GenealogyBackward`: O(1), no density at all; few distinct states far back.

    A singular transition, as of a state that holds an earlier one or moves without noise, leads to
    each state from its ancestor alone. All ways then give the genealogy, and a warning says so;
    leave out the states that are certain given the others, or add noise to them.

    Args:
        result: what the filter found.
        samples: number of paths.
        backward: how ancestors are drawn; None for :class:`ExactBackward` on the CPU and
            :class:`MetropolisBackward` elsewhere.
        seed: of the random numbers.

    Raises:
        ValueError: no path asked for, or a bound that a density exceeds.

    Source: Godsill, Doucet and West, Monte Carlo smoothing for nonlinear time series (2004); Dau
    and Chopin, On backward smoothing algorithms (2207.00976).
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; at least 1 is needed")
    device = result.particles.device
    if backward is None:
        backward = ExactBackward() if device.type == "cpu" else MetropolisBackward()
    series, length = _series(result), result.particles.shape[1]
    own: list[Tensor] = []
    with seeded(seed, device):
        index = chance.pick(result.log_weights[:, -1].exp(), samples)
        path = [take(result.particles[:, -1], index)]
        for t in range(length - 2, -1, -1):
            ancestors = result.ancestors[:, t + 1].gather(1, index)
            # The paths' states in place of the particles of the step after.
            ahead = _step(result, t + 1)._replace(x=path[-1], ancestors=ancestors)
            index = backward(series, t, _step(result, t), ahead, 1)[0]
            share = (index == ancestors).double().mean(1)
            own.append(torch.where(result.valid[:, t + 1], share, torch.nan))
            path.append(take(result.particles[:, t], index))
    if not isinstance(backward, GenealogyBackward):
        _warn(own, result.particles.shape[2])
    drawn = torch.stack(path[::-1], 1).permute(2, 0, 1, 3)
    return spread(result.valid.expand(samples, -1, -1), drawn, torch.zeros_like(drawn))


def _series(result: ParticleResult) -> Series:
    """The model and inputs behind a filter; observations are not asked for any more."""
    batch, length = result.valid.shape
    none = result.particles.new_zeros(batch, length, 0)
    gaps = (False,) * length
    return Series(result.model, none, none.bool(), result.valid, result.u, gaps, False)


def _step(result: ParticleResult, t: int) -> Step:
    return Step(
        result.particles[:, t],
        result.log_weights[:, t],
        result.ancestors[:, t],
        result.log_likelihoods[:, t],
    )


def _warn(shares: list[Tensor], N: int) -> None:
    """Say so where backward weights rest on the filter's own ancestors."""
    if not shares or N < 10:
        return
    share = float(torch.stack(shares).nanmean())
    if share > SINGULAR:
        warnings.warn(
            f"{100 * share:.1f} % of the backward weight is on the filter's own ancestors: the "
            "transition is singular, or its noise too small for these particles, and the paths are "
            "those of the genealogy; leave out states that are certain given the others",
            stacklevel=3,
        )
