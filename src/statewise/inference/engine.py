"""The engine that runs a filtering method: step by step, in parallel over time, or online."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from statewise.inference.diffuse import DiffuseStart, collapse
from statewise.inference.gaussian import GaussianFilter
from statewise.inference.linear_gaussian import LinearGaussian, Problem
from statewise.inference.methods import Kalman, Method, prediction
from statewise.inference.moments import Moments, chol_innovation, dot, observe, spread, symmetric
from statewise.inference.nonlinear_gaussian import Model, NonlinearGaussian, NonlinearProblem
from statewise.inference.parallel import associative_scan


@dataclasses.dataclass(frozen=True)
class FilterResult:
    """What a filter found, series first; zeros behind the end of a series.

    Attributes:
        mean: filtered means (B, T, n).
        cov: filtered covariances (B, T, n, n). Series that share their model, its prior's
            covariance and what is observed may have one tensor expanded over the batch: clone it
            before writing into it.
        log_likelihoods: log p(y_t | y_1 … y_{t−1}), (B, T).
        problem: the model beside the data.
        factor: Cholesky factors (B, T, n, n) where the method carries them, else None.
        start: what an exact diffuse start did, or None. While it lasts nothing finite is known of
            some states: means are NaN and covariances infinite.
        smoothable: whether a smoother may go back through these moments.
    """

    mean: Tensor
    cov: Tensor
    log_likelihoods: Tensor
    problem: Problem
    factor: Tensor | None = None
    start: DiffuseStart | None = None
    smoothable: bool = True

    @property
    def log_likelihood(self) -> Tensor:
        """Log p(y) of each series, (B,)."""
        return self.log_likelihoods.sum(1)

    @property
    def chol_cov(self) -> Tensor:
        """L with L Lᵀ = cov, (B, T, n, n); needs covariances of full rank unless carried."""
        if self.factor is not None:
            return self.factor
        valid = self.problem.valid()
        eye = torch.eye(self.cov.shape[-1], dtype=self.cov.dtype, device=self.cov.device)
        L = torch.linalg.cholesky(spread(valid, self.cov, eye))
        return spread(valid, L, torch.zeros_like(L))

    @cached_property
    def _prediction(self) -> tuple[Tensor, Tensor]:
        mean, cov = self.mean, self.cov
        if self.start is not None:
            mean, cov = (torch.where(x.isfinite(), x, 0.0) for x in (mean, cov))
        m, P = prediction(self.problem, mean, cov)
        if self.problem.lengths is not None:
            valid = self.problem.valid()
            m, P = (spread(valid, x, torch.zeros_like(x)) for x in (m, P))
        if self.start is not None:
            # Nothing is predicted before the start is over.
            k = self.start.steps
            m = torch.cat([torch.full_like(m[:, :k], torch.nan), m[:, k:]], 1)
            P = torch.cat([torch.full_like(P[:, :k], torch.inf), P[:, k:]], 1)
        return m, P

    @property
    def predicted_mean(self) -> Tensor:
        """Means before the observation of each step, (B, T, n)."""
        return self._prediction[0]

    @property
    def predicted_cov(self) -> Tensor:
        """Covariances before the observation of each step, (B, T, n, n)."""
        return self._prediction[1]

    @property
    def innovations(self) -> Tensor:
        """Y − d − H m⁻, (B, T, p); NaN where nothing is observed, or predicted yet."""
        e = self._innovations()[0]
        return torch.where(self.problem.seen() & self._begun().unsqueeze(-1), e, torch.nan)

    @property
    def innovation_cov(self) -> Tensor:
        """H P⁻ Hᵀ + R, (B, T, p, p), of all outputs, observed or not; infinite where P⁻ is."""
        P, H, begun = self._prediction[1], self.problem.H, self._begun()
        S = H @ spread(begun, P, torch.zeros_like(P)) @ H.mT + symmetric(self.problem.R)
        return spread(begun, symmetric(S), torch.full_like(S, torch.inf))

    @property
    def standardised_innovations(self) -> Tensor:
        """L⁻¹e with L Lᵀ the covariance of the observed innovations, (B, T, p); NaN elsewhere.

        Independent standard normal numbers if the model is right.
        """
        e, S = self._innovations()
        begun = self._begun()
        S = spread(begun, S, torch.eye(S.shape[-1], dtype=S.dtype, device=S.device))
        white = torch.linalg.solve_triangular(chol_innovation(S), e.unsqueeze(-1), upper=False)
        return torch.where(self.problem.seen() & begun.unsqueeze(-1), white.squeeze(-1), torch.nan)

    def _begun(self) -> Tensor:
        """Which steps are behind an exact diffuse start, (B, T)."""
        first = 0 if self.start is None else self.start.steps
        steps = torch.arange(self.mean.shape[1], device=self.mean.device)
        return (steps >= first).expand(self.mean.shape[:2])

    def _innovations(self) -> tuple[Tensor, Tensor]:
        o = observe(self.problem)
        m, P = self._prediction
        if self.start is not None:
            m, P = (spread(self._begun(), x, torch.zeros_like(x)) for x in (m, P))
        return o.y - dot(o.H, m), o.H @ P @ o.H.mT + o.R

    @property
    def output_mean(self) -> Tensor:
        """H m + d of every step after its observation, (B, T, p)."""
        y = dot(self.problem.H, self.mean)
        return y if self.problem.d is None else y + self.problem.d


def filter(
    model: Model,
    y: Any,
    u: Any = None,
    *,
    mask: Any = None,
    lengths: Any = None,
    method: Method | None = None,
    parallel: bool = False,
    fused: bool = True,
) -> FilterResult:
    """Filter series through a model.

    Args:
        model: the model, with a start.
        y: observations (B, T, p); NaN where nothing is observed.
        u: inputs (B, T, m), or None.
        mask: (B, T) or (B, T, p) bool, True where y is observed.
        lengths: steps of each series, (B,).
        method: how to filter; None for :class:`Kalman`, or :class:`GaussianFilter` for a nonlinear
            model.
        parallel: combine steps as a tree, in O(log T) rounds; needs an associative method.
        fused: take a method's compiled way where it has one, rather than step after step.

    Returns:
        Filtered moments and likelihoods; everything is differentiable.

    Raises:
        ValueError: shapes that do not fit, an innovation without variance, or a method that is
            asked to run in parallel and is not associative.

    Example:
        >>> import torch
        >>> from statewise.inference import LinearGaussian
        >>> model = LinearGaussian([[1.0]], [[1.0]], [[1.0]], [[1.0]], P0=[[1.0]])
        >>> y = torch.tensor([[[1.0], [float("nan")], [2.0]]], dtype=torch.float64)
        >>> filter(model, y).cov.flatten().tolist()
        [0.5, 1.5, 0.7142857142857143]
    """
    method = _method_for(model, method)
    if parallel and not method.associative:
        raise ValueError(
            f"{type(method).__name__} cannot run in parallel over time; take ParallelKalman"
        )
    problem = model.problem(y, u, mask=mask, lengths=lengths)
    if model.unknown is None:
        found = run(method, problem, parallel, fused)
        linear = method.linear_problem(problem, found)
        return FilterResult(*found[:3], linear, found.chol_cov, smoothable=method.smoothable)
    assert isinstance(problem, Problem)
    start = collapse(problem, model.unknown)
    k, length = start.steps, problem.y.shape[1]
    none = torch.full_like(start.mean, torch.nan).unsqueeze(1).expand(-1, k - 1, -1)
    vast = torch.full_like(start.cov, torch.inf).unsqueeze(1).expand(-1, k - 1, -1, -1)
    means, covs = [none, start.mean.unsqueeze(1)], [vast, start.cov.unsqueeze(1)]
    terms = [start.log_likelihoods]
    if k < length:
        rest = problem.steps(k, length)._replace(m0=start.mean, P0=start.cov, begins=True)
        found = run(method, rest, parallel, fused)
        means.append(found.mean)
        covs.append(found.cov)
        terms.append(found.log_likelihood)
    mean, cov, logs = (torch.cat(x, 1) for x in (means, covs, terms))
    return FilterResult(mean, cov, logs, problem, None, start, method.smoothable)


def _method_for(model: Model, method: Method | None) -> Method:
    nonlinear = isinstance(model, NonlinearGaussian)
    if method is None and not isinstance(model, LinearGaussian | NonlinearGaussian):
        raise TypeError(
            f"model is a {type(model).__name__}; without a method it must be a LinearGaussian or a "
            "NonlinearGaussian. A HiddenMarkov has a filter, a smooth and a stream of its own, and "
            "a likelihood by method=Forward(); a StateSpaceModel goes to particle_filter"
        )
    if method is None:
        return GaussianFilter() if nonlinear else Kalman()
    if nonlinear and not method.nonlinear:
        raise ValueError(
            f"{type(method).__name__} needs a linear model; a nonlinear one is filtered by "
            "GaussianFilter(rule) or EnsembleKalman()"
        )
    return method


def log_likelihood(
    model: Model,
    y: Any,
    u: Any = None,
    *,
    mask: Any = None,
    lengths: Any = None,
    method: Method | None = None,
) -> Tensor:
    """Log p(y) of each series, (B,), differentiable; nothing else is stored where that can be.

    Args:
        model: the model, with a start.
        y: observations (B, T, p); NaN where nothing is observed.
        u: inputs (B, T, m), or None.
        mask: (B, T) or (B, T, p) bool, True where y is observed.
        lengths: steps of each series, (B,).
        method: how to filter; None for :class:`Kalman`, or :class:`GaussianFilter` for a nonlinear
            model.

    Raises:
        ValueError: what :func:`filter` raises.

    Example:
        >>> from statewise.inference import LinearGaussian
        >>> model = LinearGaussian([[1.0]], [[1.0]], [[1.0]], [[1.0]], P0=[[1.0]])
        >>> round(log_likelihood(model, [[[0.0]]]).item(), 6)
        -1.265512
    """
    method = _method_for(model, method)
    problem = model.problem(y, u, mask=mask, lengths=lengths)
    found = torch.zeros(len(problem.y), dtype=torch.float64, device=problem.y.device)
    if model.unknown is not None:
        assert isinstance(problem, Problem)
        start = collapse(problem, model.unknown)
        found = found + start.log_likelihoods.sum(1)
        if start.steps == problem.y.shape[1]:
            return found
        rest = problem.steps(start.steps, problem.y.shape[1])
        problem = rest._replace(m0=start.mean, P0=start.cov, begins=True)
    terms = method.fused_likelihoods(problem)
    terms = run(method, problem, False, True).log_likelihood if terms is None else terms
    return found + terms.sum(1, dtype=torch.float64)


def run(
    method: Method, problem: Problem | NonlinearProblem, parallel: bool, fused: bool
) -> Moments:
    """Moments of every step, (B, T, …), by a method on a problem with a proper prior."""
    if parallel:
        found = _parallel(method, problem)
    else:
        found = method.fused(problem) if fused else None
        if found is not None:
            return found
        found = _sequential(method, problem)
    valid = problem.valid()
    mean, cov, logs = (spread(valid, x, torch.zeros_like(x)) for x in found[:3])
    factor = found.chol_cov
    if factor is not None:
        factor = spread(valid, factor, torch.zeros_like(factor))
    return Moments(mean, cov, logs, factor)


def _parallel(method: Method, problem: Problem | NonlinearProblem) -> Moments:
    prefixes = associative_scan(method.combine, method.prepare(problem, None))
    found = method.read(prefixes)
    return found._replace(log_likelihood=_steps_of(found.log_likelihood))


def _steps_of(total: Tensor) -> Tensor:
    return torch.diff(total, dim=1, prepend=torch.zeros_like(total[:, :1]))


def _sequential(method: Method, problem: Problem | NonlinearProblem) -> Moments:
    state = method.init(problem)
    valid = problem.valid()
    found = []
    for t in range(problem.y.shape[1]):
        moved = method.combine(state, method.prepare(problem, t))
        state = type(state)(
            *(
                None if x is None else spread(valid[:, t], x, z)
                for x, z in zip(moved, state, strict=True)
            )
        )
        found.append(method.read(state))
    mean, cov, ll, factor = zip(*found, strict=True)
    ll = torch.stack(ll, 1)
    return Moments(
        torch.stack(mean, 1),
        torch.stack(cov, 1),
        _steps_of(ll) if method.associative else ll,
        None if factor[0] is None else torch.stack(factor, 1),
    )


class Filter:
    """A filter for streams: one observation at a time, with constant memory.

    Args:
        model: the model, with a start that is not exactly diffuse.
        method: how to filter; None for :class:`Kalman`, or :class:`GaussianFilter` for a nonlinear
            model.
        batch: number of series that run side by side.

    Attributes:
        steps: observations so far.
        log_likelihood: log p of them, (B,), in float64.

    Raises:
        ValueError: an exactly diffuse start, which needs several observations at once.

    Example:
        >>> from statewise.inference import LinearGaussian
        >>> model = LinearGaussian([[1.0]], [[1.0]], [[1.0]], [[1.0]], P0=[[1.0]])
        >>> stream = Filter(model)
        >>> for value in (1.0, 2.0):
        ...     now = stream.update(torch.tensor([[value]], dtype=torch.float64))
        >>> now.mean.item()
        1.4
    """

    def __init__(self, model: Model, method: Method | None = None, *, batch: int = 1) -> None:
        self.method = _method_for(model, method)
        if model.unknown is not None:
            raise ValueError(
                "an online filter needs a start that one observation can follow; take "
                "model.diffuse(scale=...) with a large variance in place of an exact one"
            )
        self.model = model
        self.batch = batch
        self.steps = 0
        self.log_likelihood = torch.zeros(batch, dtype=torch.float64)
        self._state: Any = None
        self._last: Tensor | None = None

    @torch.no_grad()
    def update(self, y: Any, u: Any = None, *, mask: Any = None) -> Moments:
        """Take one observation of every series in; without gradients, whose graph would grow.

        Args:
            y: (B, p); NaN where nothing is observed.
            u: inputs (B, m), or None.
            mask: (B,) or (B, p) bool, True where y is observed.

        Returns:
            Moments of the state now, and the log-likelihood of this observation.
        """
        y = torch.as_tensor(y)
        if y.dim() != 2 or len(y) != self.batch:
            raise ValueError(
                f"y has shape {tuple(y.shape)}; it must be ({self.batch}, {self.model.outputs})"
            )
        u = None if u is None else torch.as_tensor(u).unsqueeze(1)
        mask = None if mask is None else torch.as_tensor(mask).unsqueeze(1)
        more = {"u_before": self._last} if isinstance(self.model, NonlinearGaussian) else {}
        problem = self.model.problem(y.unsqueeze(1), u, mask=mask, start=self.steps, **more)
        if isinstance(problem, NonlinearProblem) and problem.u is not None:
            self._last = problem.u[:, 0]
        if self._state is None:
            self._state = self.method.init(problem)
        state = self.method.combine(self._state, self.method.prepare(problem, 0))
        found = self.method.read(state)
        self._state = state
        self.steps += 1
        gained = found.log_likelihood.double()
        total = self.log_likelihood.to(gained.device)
        self.log_likelihood = gained if self.method.associative else total + gained
        if self.method.associative:
            found = found._replace(log_likelihood=self.log_likelihood - total)
        return found
