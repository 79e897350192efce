"""Ancestors drawn backwards: given where a particle is, where it may have come from."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from statewise.inference import chance
from statewise.inference.conditional import Series, Step, take
from statewise.inference.particle import log_density


class BackwardDraws(ABC):
    """A way to draw ancestors J ~ β_t(i, ·) ∝ W_t^j f(x_{t+1}^i | x_t^j)."""

    @abstractmethod
    def __call__(self, series: Series, t: int, step: Step, ahead: Step, draws: int) -> Tensor:
        """Ancestors (draws, B, N) int64 at t of the particles of the step after."""


def backward_logs(series: Series, t: int, step: Step, x: Tensor) -> Tensor:
    """Log W_t^j f(x^i | x_t^j) of states x (B, K, n) at t + 1, (K, B, N) in float64."""
    law = series.moved(step.x, t + 1)
    return step.log_weights + log_density(law, x.transpose(0, 1).unsqueeze(2), 3).double()


def pair_logs(series: Series, t: int, before: Tensor, after: Tensor) -> Tensor:
    """Log f(x_{t+1} | x_t) of pairs of states (A, B, K, n), (A, B, K); axes of 1 broadcast."""
    before, after = torch.broadcast_tensors(before, after)
    found = log_density(series.moved(flatten(before), t + 1), flatten(after), 2)
    return unflatten(found, len(before))


def flatten(x: Tensor) -> Tensor:
    """States (A, B, K, n) as (B, A K, n), which functions of a model take."""
    return x.transpose(0, 1).flatten(1, 2)


def unflatten(values: Tensor, lanes: int) -> Tensor:
    """Values (B, A K) as (A, B, K)."""
    return values.unflatten(1, (lanes, -1)).transpose(0, 1)


@dataclasses.dataclass(frozen=True)
class ExactBackward(BackwardDraws):
    """Independent draws by all N weights of a particle, O(N²) a step.

    Where no particle can have led to one, its ancestor in the filter stays.
    """

    def __call__(self, series: Series, t: int, step: Step, ahead: Step, draws: int) -> Tensor:
        """Ancestors (draws, B, N)."""
        return draw_exactly(series, t, step, ahead.x, ahead.ancestors, draws)


def draw_exactly(
    series: Series, t: int, step: Step, x: Tensor, ancestors: Tensor, draws: int
) -> Tensor:
    """Ancestors (draws, B, K) of states (B, K, n) at t + 1, by all N weights."""
    logs = backward_logs(series, t, step, x)
    top = logs.max(-1, keepdim=True).values
    found = chance.pick((logs - top).exp(), draws).permute(2, 1, 0)
    # Neither −∞ nor NaN, as of a transition without noise, is above −∞.
    reached = (top > -torch.inf).squeeze(-1).transpose(0, 1)
    return torch.where(reached, found, ancestors)


@dataclasses.dataclass(frozen=True)
class RejectionBackward(BackwardDraws):
    """Proposals by the weights W, accepted with probability f / m̄: O(N) a step on average.

    What ``trials`` proposals did not settle is drawn by all weights. The number of rounds depends
    on the draws, so a GPU waits for each; :class:`MetropolisBackward` does not.

    Attributes:
        bound: log m̄, the largest log-density of the transition; a number, or a function of the
            index t + 1 of the later state.
        trials: proposals at most.

    Raises:
        ValueError: when used, a log-density above the bound.

    Source: Douc, Garivier, Moulines and Olsson, Sequential Monte Carlo smoothing for general state
    space hidden Markov models (1202.2945).
    """

    bound: float | Callable[[int], float]
    trials: int = 20

    def __call__(self, series: Series, t: int, step: Step, ahead: Step, draws: int) -> Tensor:
        """Ancestors (draws, B, N)."""
        bound = self.bound(t + 1) if callable(self.bound) else self.bound
        batch, N = ahead.ancestors.shape
        lanes = draws * N
        targets = torch.arange(N, device=step.x.device).repeat(draws).expand(batch, lanes)
        found = torch.zeros_like(targets)
        open_, places, weights = (
            torch.ones_like(targets, dtype=torch.bool),
            torch.arange(lanes, device=step.x.device).expand(batch, lanes),
            step.log_weights.exp(),
        )
        for _ in range(self.trials):
            goals = take(ahead.x, targets.gather(1, places))
            tried = chance.pick(weights, places.shape[1])
            logs = pair_logs(series, t, take(step.x, tried)[None], goals[None])[0].double() - bound
            if bool((logs > 1e-9).any()):
                raise ValueError(
                    f"bound is {bound:g} at t = {t + 1}, but a log-density of the transition is "
                    f"{(logs.max() + bound).item():g}; give the largest that it can have"
                )
            taken = chance.accept(logs) & open_.gather(1, places)
            found = found.scatter(1, places, torch.where(taken, tried, found.gather(1, places)))
            open_ = open_.scatter(1, places, open_.gather(1, places) & ~taken)
            left = int(open_.sum(1).max())
            if left == 0:
                break
            # Series side by side: as many places each as the one with the most left needs.
            places = open_.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :left]
        else:
            own = targets.gather(1, places)
            exact = draw_exactly(
                series, t, step, take(ahead.x, own), ahead.ancestors.gather(1, own), 1
            )[0]
            settled = torch.where(open_.gather(1, places), exact, found.gather(1, places))
            found = found.scatter(1, places, settled)
        return found.reshape(batch, draws, N).transpose(0, 1)


@dataclasses.dataclass(frozen=True)
class MetropolisBackward(BackwardDraws):
    """A Markov chain of independent proposals by W, started at the filter's ancestor: O(N) a step.

    The ancestor is the first draw and each further one ``steps`` proposals later, or ``steps``
    later than the ancestor where one draw is asked for; an ancestor is itself a draw from β_t, so
    that all of them are, though not independent. All shapes are fixed: no step waits for a device.

    Attributes:
        steps: proposals between draws.

    Source: Dau and Chopin, On backward smoothing algorithms (2207.00976).
    """

    steps: int = 1

    def __call__(self, series: Series, t: int, step: Step, ahead: Step, draws: int) -> Tensor:
        """Ancestors (draws, B, N)."""
        N, moves = ahead.ancestors.shape[1], self.steps * max(draws - 1, 1)
        tried = chance.pick(step.log_weights.exp(), moves * N).unflatten(1, (moves, N))
        tried = torch.cat([ahead.ancestors.unsqueeze(0), tried.transpose(0, 1)])
        logs = pair_logs(series, t, take(step.x, tried), ahead.x.unsqueeze(0)).double()
        place, here = tried[0], logs[0]
        found = [place] if draws > 1 else []
        for move in range(1, moves + 1):
            # Where both densities are 0 the difference is NaN, and the chain stays.
            taken = chance.accept(logs[move] - here)
            place, here = (
                torch.where(taken, tried[move], place),
                torch.where(taken, logs[move], here),
            )
            if move % self.steps == 0:
                found.append(place)
        return torch.stack(found)
