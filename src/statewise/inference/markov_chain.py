"""Forward and backward recursions of hidden Markov models as methods of the engine."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.inference.methods import Method
from statewise.inference.moments import Moments, at, spread
from statewise.inference.parallel import associative_scan
from statewise.ops import hidden_markov, hidden_markov_smoother


class Chain(NamedTuple):
    """A hidden Markov model beside the data it is asked about.

    Attributes:
        log_initial: (B, K), of the first step, or before the transition into it.
        log_transition: (b, t, K, K) with b 1 or B and t 1 or T.
        y: log p(y_t | x_t = k), 0 where nothing is observed, (B, T, K).
        lengths: (B,) int64, or None where all series end at T.
        begins: whether the first step is that of the series, which has no transition.
    """

    log_initial: Tensor
    log_transition: Tensor
    y: Tensor
    lengths: Tensor | None
    begins: bool

    def valid(self) -> Tensor:
        """Which steps are before the end of their series, (B, T) bool."""
        batch, length = self.y.shape[:2]
        steps = torch.arange(length, device=self.y.device).expand(batch, length)
        return steps < (length if self.lengths is None else self.lengths.unsqueeze(1))

    def steps(self, start: int, stop: int) -> Chain:
        """The steps [start, stop) alone; the prior stays, and a later part moves first."""
        P, lengths = self.log_transition, self.lengths
        return self._replace(
            log_transition=P if P.shape[1] == 1 else P[:, start:stop],
            y=self.y[:, start:stop],
            lengths=None if lengths is None else (lengths - start).clamp(0, stop - start),
            begins=self.begins and start == 0,
        )


class Filtered(NamedTuple):
    """log p(x_t | y_1 … y_t), (B, K), and the log-likelihood of the step, (B,)."""

    log_probability: Tensor
    log_likelihood: Tensor


def _moments(logs: Tensor, log_likelihood: Tensor) -> Moments:
    """Mean and covariance of the state written as a vector with a single 1."""
    p = logs.exp()
    cov = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    return Moments(p, cov, log_likelihood)


class Forward(Method):
    """The forward recursion, step by step; compiled on the CPU, in logarithms everywhere."""

    def init(self, problem: Any) -> Filtered:
        """The prior."""
        start = problem.log_initial
        return Filtered(start, start.new_zeros(len(start)))

    def prepare(self, problem: Any, t: int | None) -> Chain:
        """The step alone."""
        assert t is not None
        return problem.steps(t, t + 1)

    def combine(self, state: Filtered, element: Chain) -> Filtered:
        """One step."""
        now = state.log_probability
        if not element.begins:
            now = torch.logsumexp(now.unsqueeze(-1) + at(element.log_transition, 0), 1)
        joint = now + element.y[:, 0]
        total = _possible(torch.logsumexp(joint, -1))
        return Filtered(joint - total.unsqueeze(-1), total)

    def read(self, state: Filtered) -> Moments:
        """Probabilities as the mean, and their covariance."""
        return _moments(*state)

    def fused(self, problem: Any) -> Moments:
        """All steps by :func:`statewise.ops.hidden_markov`."""
        logs, each = hidden_markov(*problem[:3], lengths=problem.lengths, begins=problem.begins)
        found = _moments(logs, each)
        valid = problem.valid()
        mean, cov = (spread(valid, x, torch.zeros_like(x)) for x in found[:2])
        return Moments(mean, cov, each)


class Product(NamedTuple):
    """log p(y_{i+1…j}, x_j | x_i), (B, K, K)."""

    log: Tensor


class ParallelForward(Method):
    """The forward recursion as an associative product of matrices in logarithms.

    O(K³ T) work in O(log T) rounds.

    Source: Hassan, Särkkä and García-Fernández, Temporal parallelization of inference in hidden
    Markov models (2102.05743).
    """

    associative: ClassVar[bool] = True

    def init(self, problem: Any) -> Product:
        """The neutral product."""
        K = problem.y.shape[-1]
        eye = torch.eye(K, dtype=problem.y.dtype, device=problem.y.device)
        return Product(eye.log().expand(len(problem.y), K, K))

    def prepare(self, problem: Any, t: int | None) -> Product:
        """The matrix of one step, or of all of them."""
        if t is not None:
            return Product(self._matrices(problem.steps(t, t + 1))[:, 0])
        return Product(self._matrices(problem))

    def _matrices(self, problem: Chain) -> Tensor:
        batch, length, K = problem.y.shape
        e = problem.y.unsqueeze(2)
        found = (problem.log_transition + e).expand(batch, length, K, K)
        if problem.begins:
            first = (problem.log_initial.unsqueeze(1) + e[:, 0]).unsqueeze(1)
            found = torch.cat([first.expand(batch, 1, K, K), found[:, 1:]], 1)
        return spread(problem.valid(), found, self.init(problem).log.unsqueeze(1))

    def combine(self, state: Product, element: Product) -> Product:
        """Sums over the state between."""
        both = state.log.unsqueeze(-1) + element.log.unsqueeze(-3)
        return Product(torch.logsumexp(both, -2))

    def read(self, state: Product) -> Moments:
        """A row of the matrix, whose rows are all alike once the prior is in."""
        row = state.log[..., 0, :]
        total = _possible(torch.logsumexp(row, -1))
        return _moments(row - total.unsqueeze(-1), total)


def _possible(total: Tensor) -> Tensor:
    if bool((total == -torch.inf).any()):
        raise ValueError(
            "a step has probability 0 in every state that can be reached; the model needs an "
            "emission or a transition above 0 there"
        )
    return total


@dataclasses.dataclass(frozen=True)
class MarkovResult:
    """Probabilities of every state, series first; zeros behind the end of a series.

    Attributes:
        mean: p(x_t = k | y_1 … y_t), (B, T, K), the mean of the state as a vector with a single 1.
        cov: its covariance, diag(p) − p pᵀ, (B, T, K, K).
        log_likelihoods: log p(y_t | y_1 … y_{t−1}), (B, T).
        problem: the model beside the data.
    """

    mean: Tensor
    cov: Tensor
    log_likelihoods: Tensor
    problem: Chain

    @property
    def log_likelihood(self) -> Tensor:
        """Log p(y) of each series, (B,)."""
        return self.log_likelihoods.sum(1)

    @property
    def predicted_mean(self) -> Tensor:
        """p(x_t = k | y_1 … y_{t−1}), (B, T, K)."""
        chain = self.problem
        first = chain.log_initial.exp().unsqueeze(1)
        P = chain.log_transition.exp()
        later = P if P.shape[1] == 1 else P[:, 1:]
        moved = (self.mean[:, :-1].unsqueeze(-2) @ later).squeeze(-2)
        found = torch.cat([first, moved], 1)
        return spread(chain.valid(), found, torch.zeros_like(found))


@dataclasses.dataclass(frozen=True)
class MarkovSmoothed:
    """Probabilities given all observations; zeros behind the end of a series.

    Attributes:
        mean: p(x_t = k | y), (B, T, K).
        pairs: p(x_{t−1} = i, x_t = j | y), (B, T, K, K), zero at t = 0; or its sum over the steps,
            (B, 1, K, K), where only that was asked for.
        log_likelihood: log p(y) of each series, (B,).
    """

    mean: Tensor
    pairs: Tensor
    log_likelihood: Tensor


def smooth_chain(
    chain: Chain, log_filtered: Tensor, pairs: bool, parallel: bool
) -> tuple[Tensor, Tensor]:
    """γ (B, T, K) and ξ (B, T, K, K), or its sum over the steps (B, 1, K, K)."""
    if not parallel:
        given = (log_filtered, chain.log_initial, chain.log_transition)
        return hidden_markov_smoother(
            *given, lengths=chain.lengths, begins=chain.begins, pairs=pairs
        )
    method, valid = ParallelForward(), chain.valid()
    neutral = method.init(chain).log.unsqueeze(1)
    batch, length, K = chain.y.shape
    each = (chain.log_transition + chain.y.unsqueeze(2)).expand(batch, length, K, K)
    each = spread(valid, each, neutral)
    behind = Product(torch.cat([each[:, 1:], neutral], 1).flip(1))
    behind = associative_scan(lambda later, earlier: method.combine(earlier, later), behind)
    beta = torch.logsumexp(behind.log.flip(1), -1)
    one = spread(valid, torch.softmax(log_filtered + beta, -1), torch.zeros_like(beta))
    joint = log_filtered[:, :-1].unsqueeze(-1) + each[:, 1:] + beta[:, 1:].unsqueeze(-2)
    both = torch.softmax(joint.flatten(-2), -1).reshape(joint.shape)
    both = spread(valid[:, 1:], both, torch.zeros_like(both))
    both = torch.cat([both.new_zeros(batch, 1, K, K), both], 1)
    return one, both if pairs else both.sum(1, keepdim=True)


class Decoded(NamedTuple):
    """A most probable path.

    Attributes:
        path: states (B, T), −1 behind the end of a series.
        log_probability: log p(path, y), (B,).
    """

    path: Tensor
    log_probability: Tensor


def viterbi(chain: Chain) -> Decoded:
    """The most probable path; of several, the lowest state at the last step where they differ.

    Source: Viterbi (1967); Rabiner (1989), section III.B.
    """
    with torch.no_grad():
        score, valid = chain.log_initial, chain.valid()
        length, found = chain.y.shape[1], []
        stay = torch.arange(score.shape[-1], device=score.device).expand(score.shape)
        for t in range(length):
            came = stay
            moved = score
            if t or not chain.begins:
                both = score.unsqueeze(-1) + at(chain.log_transition, t)
                came = both.argmax(1)
                moved = both.gather(1, came.unsqueeze(1)).squeeze(1)
            going = valid[:, t].unsqueeze(-1)
            score = torch.where(going, moved + chain.y[:, t], score)
            found.append(torch.where(going, came, stay))
        last = score.argmax(-1, keepdim=True)
        total = _possible(score.gather(1, last).squeeze(1))
        path = []
        for came in reversed(found):
            path.append(last)
            last = came.gather(1, last)
        return Decoded(torch.where(valid, torch.cat(path[::-1], 1), -1), total)


def sample_chain(
    chain: Chain, log_filtered: Tensor, samples: int, seed: int | np.random.Generator
) -> Tensor:
    """Draws of the path given all observations, (samples, B, T), −1 behind the end."""
    rng = np.random.default_rng(seed)
    batch, length, K = chain.y.shape
    with torch.no_grad():
        valid, P = chain.valid(), chain.log_transition
        state = torch.zeros(samples, batch, dtype=torch.int64, device=chain.y.device)
        path = []
        for t in reversed(range(length)):
            logs = log_filtered[:, t].expand(samples, batch, K)
            if t < length - 1:
                into = at(P, t + 1).mT.expand(batch, K, K)
                into = into[torch.arange(batch, device=state.device), state]
                logs = torch.where(valid[:, t + 1, None], logs + into, logs)
            drawn = torch.as_tensor(rng.random((samples, batch, 1))).to(logs)
            c = torch.softmax(logs, -1).cumsum(-1)
            # The last state with a probability above 0 takes what rounding leaves.
            state = (drawn * c[..., -1:] >= c).sum(-1)
            path.append(torch.where(valid[:, t], state, -1))
        return torch.stack(path[::-1], -1)
