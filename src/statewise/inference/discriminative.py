"""The discriminative Kalman filter: a regression of the state on the observation, filtered."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from statewise.inference.engine import FilterResult, filter, run
from statewise.inference.gaussian import GaussianFilter
from statewise.inference.linear_gaussian import (
    LinearGaussian,
    as_tensor,
    ends_of,
    observed_of,
)
from statewise.inference.methods import Kalman, Method
from statewise.inference.moments import Moments, dot, spread, symmetric
from statewise.inference.nonlinear_gaussian import NonlinearGaussian

Law = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From observations (B, T, p) to f, the mean of the state given each, (B, T, n), and V, its
covariance, (B, T, n, n) or (n, n)."""


class Repair(ABC):
    """What is done where V is not below S, so that V⁻¹ − S⁻¹ is no precision.

    Attributes:
        margin: an eigenvalue of S⁻¹V above 1 − margin is too large.
    """

    margin: float

    @abstractmethod
    def values(self, values: Tensor) -> Tensor:
        """Eigenvalues of S⁻¹V for those that were found, one by one; below 1."""


@dataclasses.dataclass(frozen=True)
class ClipEigenvalues(Repair):
    """Eigenvalues of S⁻¹V that are too large become 1 − margin: the smallest change.

    Attributes:
        margin: how far below 1; directions of such eigenvalues carry almost no information.
    """

    margin: float = 1e-6

    def values(self, values: Tensor) -> Tensor:
        """The smaller of each and 1 − margin."""
        return values.clamp_max(1 - self.margin)


@dataclasses.dataclass(frozen=True)
class AddMarginal(Repair):
    """V becomes (V⁻¹ + S⁻¹)⁻¹ as a whole where any eigenvalue is too large.

    Attributes:
        margin: when that is so.
    """

    margin: float = 1e-6

    def values(self, values: Tensor) -> Tensor:
        """λ / (1 + λ)."""
        return values / (1 + values)


class _Spectral(torch.autograd.Function):
    """V g(Λ) Vᵀ of symmetric matrices, its gradient by divided differences of g.

    The eigenvectors' own gradient does not exist where eigenvalues meet.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        values, vectors = torch.linalg.eigh(x)
        with torch.enable_grad():
            at = values.detach().requires_grad_()
            after = function(at)
            slopes = torch.autograd.grad(after.sum(), at)[0]
        ctx.save_for_backward(values, vectors, after.detach(), slopes)
        return symmetric((vectors * after.detach().unsqueeze(-2)) @ vectors.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        values, vectors, after, slopes = ctx.saved_tensors
        gap = values.unsqueeze(-1) - values.unsqueeze(-2)
        near = gap.abs() < 1e-9 * values.abs().amax(-1)[..., None, None]
        ratio = (after.unsqueeze(-1) - after.unsqueeze(-2)) / torch.where(near, 1.0, gap)
        ratio = torch.where(near, (slopes.unsqueeze(-1) + slopes.unsqueeze(-2)) / 2, ratio)
        inner = vectors.mT @ symmetric(grads[0]) @ vectors
        return vectors @ (ratio * inner) @ vectors.mT, None


class Measurement(NamedTuple):
    """Observations as if the state itself were measured: value ~ N(z, cov).

    Attributes:
        value: (B, T, n); NaN where nothing is known.
        cov: (B, T, n, n).
        log: log p(y | z) / p(y) less log N(value; z, cov), which is the same for all z, (B, T).
        repaired: where V was not below S, (B, T) bool.
    """

    value: Tensor
    cov: Tensor
    log: Tensor
    repaired: Tensor


class DiscriminativeState(NamedTuple):
    """What an online filter carries.

    Attributes:
        mean: (B, n).
        cov: (B, n, n).
        waiting: observations whose state has not come yet, (B, shift, p).
        steps: steps so far.
    """

    mean: Tensor
    cov: Tensor
    waiting: Tensor
    steps: int


class Discriminative:
    """z_t = F z_{t−1} + w_t, w ~ N(0, Q), with p(z_t | y_t) ≈ N(f(y_t), V(y_t)) from a regression.

    By Bayes' rule p(y | z) ∝ N(z; f, V) / N(z; μ, S), S the covariance of all states: as a function
    of z that is a measurement of z itself with precision J = V⁻¹ − S⁻¹, so that every method of the
    engine filters and smooths it. Means and covariances of the published form are
    P = (V⁻¹ + M⁻¹ − S⁻¹)⁻¹ and P (V⁻¹f + M⁻¹m), with m and M the prediction.

    All is done and given in float64: beside S − V almost singular, nothing less is enough.

    Args:
        F: transition (n, n), of what states differ from μ; or, for nonlinear dynamics, a function
            of (z, None, t), z itself, as :class:`NonlinearGaussian` takes it.
        Q: covariance of the state noise, (n, n).
        S: covariance of all states, (n, n), positive definite.
        law: f and V of observations, any function; see :data:`Law`. A step with an f or V that is
            not finite says nothing.
        mean: μ, (n,); None for zero.
        robust: leave S⁻¹ out, J = V⁻¹. It needs no repair and does not rely on S; where V is not
            small the prior counts twice.
        repair: what to do where V is not below S; None for :class:`ClipEigenvalues`.
        m0: mean of the first state; None for μ.
        P0: its covariance; None for S, with which the first step gives N(f, V) itself.
        prior_at: 1 when they are those at the first observation, 0 when before it.
        shift: z_t is known by y_{t−shift}: the steps by which observations come early.

    Raises:
        ValueError: shapes that do not fit, or an S that is not positive definite.

    Source: Burkhart, A discriminative approach to Bayesian filtering (1807.06173); Burkhart et al.,
    The discriminative Kalman filter (Neural Computation, 2020).

    Example:
        >>> law = lambda y: (0.5 * y, torch.tensor([[0.5]], dtype=torch.float64))
        >>> model = Discriminative([[0.9]], [[0.19]], [[1.0]], law)
        >>> y = torch.tensor([[[1.0], [float("nan")], [2.0]]], dtype=torch.float64)
        >>> [round(x, 4) for x in model.filter(y).mean.flatten().tolist()]
        [0.5, 0.45, 1.046]
    """

    def __init__(
        self,
        F: Any,
        Q: Any,
        S: Any,
        law: Law,
        *,
        mean: Any = None,
        robust: bool = False,
        repair: Repair | None = None,
        m0: Any = None,
        P0: Any = None,
        prior_at: int = 1,
        shift: int = 0,
    ) -> None:
        self.law, self.robust, self.shift, self.prior_at = law, robust, shift, prior_at
        self.repair = ClipEigenvalues() if repair is None else repair
        self.S = as_tensor("S", S).double()
        n = self.S.shape[-1]
        self.mean = self.S.new_zeros(n) if mean is None else as_tensor("mean", mean).double()
        if tuple(self.S.shape) != (n, n) or tuple(self.mean.shape) != (n,):
            raise ValueError(
                f"S has shape {tuple(self.S.shape)} and mean {tuple(self.mean.shape)}; they must "
                "be (n, n) and (n,)"
            )
        L, failed = torch.linalg.cholesky_ex(symmetric(self.S))
        if bool(failed):
            raise ValueError("S is not positive definite; it is the covariance of all states")
        self._root = L
        self.m0 = self.mean if m0 is None else as_tensor("m0", m0).double()
        self.P0 = self.S if P0 is None else as_tensor("P0", P0).double()
        self.Q = as_tensor("Q", Q).double()
        self.F: Any = F if callable(F) else as_tensor("F", F).double()
        shape = None if callable(F) else tuple(self.F.shape)
        if tuple(self.Q.shape) != (n, n) or shape not in (None, (n, n)):
            raise ValueError(
                f"F has shape {shape} and Q {tuple(self.Q.shape)}; an S of shape {(n, n)} needs "
                "the same of both"
            )

    def linear(
        self, R: Tensor, m0: Tensor | None = None, P0: Tensor | None = None
    ) -> LinearGaussian | NonlinearGaussian:
        """The model that measures its state with errors of covariance R, (n, n) or (B, T, n, n)."""
        n = len(self.mean)
        eye = torch.eye(n).to(self.S)
        prior = {
            "m0": self.m0 if m0 is None else m0,
            "P0": self.P0 if P0 is None else P0,
            "prior_at": self.prior_at,
        }
        if not isinstance(self.F, Tensor):
            return NonlinearGaussian(self.F, lambda z, u, t: z, self.Q, R, **prior)
        c = dot(eye - self.F, self.mean)
        return LinearGaussian(self.F, eye, self.Q, R, c=c, **prior)

    def measure(self, y: Any, *, mask: Any = None) -> Measurement:
        """What observations say, step by step, without regard to the shift.

        Args:
            y: (B, T, p); NaN where nothing is observed. A step counts as missing when any of its
                channels is.
            mask: (B, T) or (B, T, p) bool, True where y is observed.

        Raises:
            ValueError: a law that gives other shapes, or covariances with a negative eigenvalue.
        """
        y = as_tensor("y", y)
        if y.dim() != 3:
            raise ValueError(f"y has shape {tuple(y.shape)}; it must be (B, T, p), series first")
        observed = observed_of(y, mask)
        seen = torch.ones(y.shape[:2], dtype=torch.bool, device=y.device)
        if observed is not None:
            seen = observed.all(-1)
        lead, n = tuple(y.shape[:2]), len(self.mean)
        f, V = self.law(torch.where(seen.unsqueeze(-1), y, 0.0))
        if tuple(f.shape) != (*lead, n) or tuple(V.shape) not in ((n, n), (*lead, n, n)):
            raise ValueError(
                f"the law gave the shapes {tuple(f.shape)} and {tuple(V.shape)} for y of shape "
                f"{tuple(y.shape)}; they must be {(*lead, n)} and {(*lead, n, n)}"
            )
        f, V = f.double(), symmetric(V.double()).expand(*lead, n, n)
        seen = seen & f.isfinite().all(-1) & V.isfinite().all(-1).all(-1)
        f = torch.where(seen.unsqueeze(-1), f, self.mean)
        V = spread(seen, V, self.S.expand(V.shape) / 2)
        value, cov, log, repaired = self._as_measured(f, V)
        value = torch.where(seen.unsqueeze(-1), value, torch.nan)
        return Measurement(value, cov, torch.where(seen, log, 0.0), repaired)

    def repaired(self, V: Tensor) -> Tensor:
        """Covariances (…, n, n) so changed that they are below S; untouched where they are."""
        L = self._root
        return L @ self._below_one(self._white(V.double()))[0] @ L.mT

    def _white(self, V: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(self._root, V, upper=False)
        return symmetric(torch.linalg.solve_triangular(self._root, half.mT, upper=False))

    def _below_one(self, W: Tensor) -> tuple[Tensor, Tensor]:
        eye = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
        bad = torch.linalg.cholesky_ex((1 - self.repair.margin) * eye - W.detach()).info > 0
        if not bool(bad.any()):
            return W, bad
        changed = torch.empty_like(W)
        changed[~bad] = W[~bad]
        changed[bad] = _Spectral.apply(W[bad], self.repair.values)
        return changed, bad

    def _as_measured(self, f: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        W, L = self._white(V), self._root
        if bool(torch.linalg.cholesky_ex(W.detach()).info.any()):
            lowest = torch.linalg.eigvalsh(W.detach()).amin().item()
            if lowest < -1e-9:
                raise ValueError(
                    f"the law gave a covariance with the eigenvalue {lowest:.6g} (in units of S); "
                    "none may be negative"
                )
        if self.robust:
            none = torch.zeros(f.shape[:-1], dtype=f.dtype, device=f.device)
            return f, V, none, none.bool()
        W, bad = self._below_one(W)
        eye = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
        phi = torch.linalg.solve_triangular(L, (f - self.mean).unsqueeze(-1), upper=False)
        root = torch.linalg.cholesky(eye - W)
        solved = torch.cholesky_solve(torch.cat([W, phi], -1), root)
        # (W⁻¹ − I)⁻¹ = W + W (I − W)⁻¹ W, which loses nothing where W is small.
        R = symmetric(W + W @ solved[..., :-1])
        value = (L @ solved[..., -1:]).squeeze(-1) + self.mean
        log = (phi * solved[..., -1:]).sum((-2, -1)) / 2 + len(L) * math.log(2 * math.pi) / 2
        log = log - root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + L.diagonal().log().sum()
        return value, L @ R @ L.mT, log, bad

    def filter(
        self,
        y: Any,
        *,
        mask: Any = None,
        lengths: Any = None,
        method: Method | None = None,
        parallel: bool = False,
    ) -> FilterResult:
        """Filter series; :func:`statewise.inference.smooth` goes back through what is found.

        Args:
            y: observations (B, T, p); NaN where nothing is observed.
            mask: (B, T) or (B, T, p) bool, True where y is observed.
            lengths: steps of each series, (B,).
            method: any of the engine's; None for :class:`Kalman`, or for nonlinear dynamics
                :class:`GaussianFilter`, whose rule predicts.
            parallel: combine steps as a tree; needs an associative method.

        Returns:
            Moments of z. The log-likelihoods are log p(y_t | y_1 … y_{t−1}) / p(y_t): what the past
            tells of y_t; of the robust form, log N(f; m, M + V). The problem and its innovations
            are those of the measurement.
        """
        y = as_tensor("y", y)
        y = y if mask is None else torch.where(observed_of_all(y, mask), y, torch.nan)
        if lengths is not None:
            steps = torch.arange(y.shape[1], device=y.device)
            valid = steps < ends_of(lengths, y).unsqueeze(1)
            y = spread(valid, y, torch.full_like(y, torch.nan))
        found = self.measure(shifted(y, self.shift))
        result = filter(
            self.linear(found.cov), found.value, lengths=lengths, method=method, parallel=parallel
        )
        logs = torch.where(found.value.isnan().any(-1), 0.0, result.log_likelihoods + found.log)
        return dataclasses.replace(result, log_likelihoods=logs)

    def update(
        self, y: Any, state: DiscriminativeState | None = None, *, mask: Any = None
    ) -> tuple[Moments, DiscriminativeState]:
        """Take one observation of every series in.

        Args:
            y: (B, p); NaN where nothing is observed.
            state: what the step before gave; None at the first.
            mask: (B,) or (B, p) bool, True where y is observed.

        Returns:
            Moments of z_t, and the state to go on with.

        Raises:
            ValueError: shapes that do not fit, or a model that knows z_t by later observations.
        """
        y = as_tensor("y", y)
        if y.dim() != 2 or (state is not None and len(y) != len(state.mean)):
            batch = "B" if state is None else len(state.mean)
            raise ValueError(f"y has shape {tuple(y.shape)}; it must be ({batch}, p)")
        if self.shift < 0:
            raise ValueError(
                f"shift is {self.shift}: a state is known by observations after it, and cannot be "
                "found online; a shift of 0 or more is needed"
            )
        if mask is not None:
            mask = torch.as_tensor(mask, device=y.device).unsqueeze(1)
            y = torch.where(observed_of_all(y.unsqueeze(1), mask)[:, 0], y, torch.nan)
        if state is None:
            n, batch = len(self.mean), len(y)
            waiting = y.new_full((batch, self.shift, y.shape[1]), torch.nan)
            m0, P0 = self.m0.expand(batch, n), self.P0.expand(batch, n, n)
            state = DiscriminativeState(m0, P0, waiting, 0)
        queue = torch.cat([state.waiting, y.unsqueeze(1)], 1)
        found = self.measure(queue[:, :1])
        model = self.linear(found.cov, state.mean, state.cov)
        method = GaussianFilter() if isinstance(model, NonlinearGaussian) else Kalman()
        moved = run(method, model.problem(found.value, start=state.steps), False, True)
        mean, cov, log = moved.mean[:, 0], moved.cov[:, 0], moved.log_likelihood[:, 0]
        log = torch.where(found.value[:, 0].isnan().any(-1), 0.0, log + found.log[:, 0])
        after = DiscriminativeState(mean, cov, queue[:, 1:], state.steps + 1)
        return Moments(mean, cov, log), after

    def __repr__(self) -> str:
        kinds = f"states={len(self.mean)}, robust={self.robust}, shift={self.shift}"
        return f"Discriminative({kinds}, repair={self.repair})"


def observed_of_all(y: Tensor, mask: Any) -> Tensor:
    """Where y is observed, (B, T, p)."""
    observed = observed_of(y, mask)
    return torch.ones_like(y, dtype=torch.bool) if observed is None else observed


def shifted(y: Tensor, shift: int) -> Tensor:
    """y_{t−shift} at step t, NaN where there is none."""
    if not shift:
        return y
    none = torch.full_like(y[:, :1], torch.nan).expand(-1, min(abs(shift), y.shape[1]), -1)
    parts = [none, y[:, :-shift]] if shift > 0 else [y[:, -shift:], none]
    return torch.cat(parts, 1)[:, : y.shape[1]]
