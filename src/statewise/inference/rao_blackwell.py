"""Rao-Blackwellised particle filter: particles for what is not linear, Kalman for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from statewise.inference.linear_gaussian import as_tensor, ends_of
from statewise.inference.moments import Observed, dot, spread, symmetric, update
from statewise.inference.particle import _draw, inputs_at, seeded
from statewise.inference.particle_laws import Stream
from statewise.inference.resampling import Resampling, Systematic
from statewise.ops import particle_steps


class Linear(NamedTuple):
    """z_t = F z_{t−1} + c + w, y_t = H z_t + d + v, w ~ N(0, Q), v ~ N(0, R), given r_t.

    Attributes:
        F: (n, n), or one for each particle, (B, N, n, n).
        Q: likewise.
        H: (p, n) or (B, N, p, n).
        R: (p, p) or (B, N, p, p).
        c: (n,) or (B, N, n); None for 0.
        d: (p,) or (B, N, p); None for 0.
    """

    F: Tensor
    Q: Tensor
    H: Tensor
    R: Tensor
    c: Tensor | None = None
    d: Tensor | None = None


class ConditionallyLinear:
    """States (r, z): r moves by any law of its own, and given r, z and y are linear Gaussian.

    r_0 ~ initial(), r_t ~ transition(r_{t−1}, t), z_0 ~ N(start(r_0)). With inputs ``transition``
    and ``linear`` take u_t (B, 1, m) as a third argument.

    Args:
        initial: of no arguments, the law of r (k,) at the first observation.
        transition: of r_{t−1} (B, N, k) and t, the law of r_t.
        linear: of r_t and t, the :class:`Linear` equations, in float64; F, Q and c are not used at
            t = 0.
        start: of r_0, mean and covariance of z_0: (n,) and (n, n), or (B, N, n) and (B, N, n, n).
        regimes: K where r is one whole number from 0 to K − 1, else None.
    """

    def __init__(
        self,
        initial: Callable[[], Distribution],
        transition: Callable[..., Distribution],
        linear: Callable[..., Linear],
        start: Callable[[Tensor], tuple[Tensor, Tensor]],
        regimes: int | None = None,
    ) -> None:
        self.initial, self.transition = initial, transition
        self.linear, self.start, self.regimes = linear, start, regimes


class SwitchingLinear(ConditionallyLinear):
    """A switching linear dynamical system: K linear Gaussian models, a Markov chain between them.

    r_t ~ P[r_{t−1}], z_t = F[r_t] z_{t−1} + c[r_t] + w, y_t = H[r_t] z_t + d[r_t] + v.

    Args:
        start: probabilities of the first regime, (K,).
        P: probabilities of the next regime, (K, K), rows that sum to 1.
        F: (K, n, n); as all that follow without the axis K where it is the same for all regimes.
        H: (K, p, n).
        Q: (K, n, n).
        R: (K, p, p).
        m0: mean of z at the first observation, (K, n); None for 0.
        P0: its covariance, (K, n, n); None for the identity.
        c: (K, n); None for 0.
        d: (K, p); None for 0.

    Raises:
        ValueError: shapes that do not fit.

    Source: Doucet, Gordon and Krishnamurthy, Particle filters for state estimation of jump Markov
    linear systems (2001).

    Example:
        >>> model = SwitchingLinear(
        ...     [0.5, 0.5],
        ...     [[0.95, 0.05], [0.1, 0.9]],
        ...     F=[[[0.9]], [[0.2]]],
        ...     H=[[1.0]],
        ...     Q=[[[0.1]], [[1.0]]],
        ...     R=[[0.2]],
        ... )
        >>> found = rao_blackwell_filter(model, torch.randn(3, 20, 1), particles=100)
        >>> tuple(found.mean.shape), tuple(found.probabilities.shape)
        ((3, 20, 1), (3, 20, 2))
    """

    def __init__(
        self,
        start: Any,
        P: Any,
        F: Any,
        H: Any,
        Q: Any,
        R: Any,
        *,
        m0: Any = None,
        P0: Any = None,
        c: Any = None,
        d: Any = None,
    ) -> None:
        first, chain = as_tensor("start", start).double(), as_tensor("P", P).double()
        K = len(first) if first.dim() == 1 else 0
        if not K or tuple(chain.shape) != (K, K):
            raise ValueError(
                f"start has shape {tuple(first.shape)} and P {tuple(chain.shape)}; they must be "
                "(K,) and (K, K)"
            )
        n, p = as_tensor("F", F).shape[-1], as_tensor("H", H).shape[-2]
        m0 = torch.zeros(n) if m0 is None else m0
        P0 = torch.eye(n) if P0 is None else P0
        shapes = {"F": (F, n, n), "Q": (Q, n, n), "H": (H, p, n), "R": (R, p, p)}
        offsets = {"c": (c, n), "d": (d, p)}
        table = {
            name: None if x is None else _by_regime(name, x, (K, *shape))
            for name, (x, *shape) in {**shapes, **offsets}.items()
        }
        mean, cov = _by_regime("m0", m0, (K, n)), _by_regime("P0", P0, (K, n, n))

        def chosen(x: Tensor | None, r: Tensor) -> Tensor | None:
            return None if x is None else x.to(r.device)[r[..., 0]]

        def linear(r: Tensor, t: int, *u: Tensor) -> Linear:
            return Linear(**{name: chosen(x, r) for name, x in table.items()})  # pyright: ignore[reportArgumentType]

        super().__init__(
            lambda: Categorical(first.unsqueeze(0)),
            lambda r, t, *u: Categorical(chain.to(r.device)[r]),
            linear,
            lambda r: (mean.to(r.device)[r[..., 0]], cov.to(r.device)[r[..., 0]]),
            K,
        )


def _by_regime(name: str, x: Any, shape: tuple[int, ...]) -> Tensor:
    found = as_tensor(name, x).double()
    found = found.expand(shape) if tuple(found.shape) == shape[1:] else found
    if tuple(found.shape) != shape:
        raise ValueError(
            f"{name} has shape {tuple(found.shape)}; it must be {shape}, or {shape[1:]} for all"
        )
    return found


@dataclasses.dataclass(frozen=True)
class RaoBlackwellResult:
    """What the filter found, series first.

    Attributes:
        mean: filtered means of z, (B, T, n); zeros behind the end, as are the covariances.
        cov: their covariances, (B, T, n, n), those of the mixture over the particles.
        r: what the particles are, (B, T, N, k).
        log_weights: normalised, (B, T, N).
        ancestors: index at the step before, (B, T, N) int64.
        log_likelihoods: log of the estimate of p(y_t | y_1 … y_{t−1}), (B, T); the estimate of p(y)
            is unbiased, its logarithm is not.
        ess: effective sample size 1 / Σ W², (B, T).
        means: of z for each particle at step T, (B, N, n).
        covs: likewise, (B, N, n, n).
        model: the model.
        valid: which steps are before the end of their series, (B, T) bool.
    """

    mean: Tensor
    cov: Tensor
    r: Tensor
    log_weights: Tensor
    ancestors: Tensor
    log_likelihoods: Tensor
    ess: Tensor
    means: Tensor
    covs: Tensor
    model: ConditionallyLinear
    valid: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """Log of the unbiased estimate of p(y) of each series, (B,)."""
        return self.log_likelihoods.sum(1)

    @property
    def probabilities(self) -> Tensor:
        """Filtered probabilities of the regimes, (B, T, K); zeros behind the end.

        Raises:
            ValueError: r is no regime.
        """
        K = self.model.regimes
        if K is None:
            raise ValueError("the model has no regimes; give it regimes=K where r is one of K")
        found = torch.zeros(*self.valid.shape, K, dtype=torch.float64, device=self.r.device)
        found.scatter_add_(2, self.r[..., 0].long(), self.log_weights.exp())
        return spread(self.valid, found, torch.zeros_like(found))


def rao_blackwell_filter(
    model: ConditionallyLinear,
    y: Any,
    u: Any = None,
    *,
    particles: int = 1000,
    resampling: Resampling | None = None,
    threshold: float = 0.5,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> RaoBlackwellResult:
    """Filter series: each particle is an r with the Kalman mean and covariance of z given its past.

    A particle is weighed by N(y_t; H m + d, H P Hᵀ + R), the density of y_t given its past, so less
    is left to chance than with particles of (r, z). Kalman steps are in float64, by Joseph's form.

    Args:
        model: a :class:`SwitchingLinear` or another :class:`ConditionallyLinear` model.
        y: observations (B, T, p); NaN where nothing is observed, each output for itself.
        u: inputs (B, T, m), or None.
        particles: N.
        resampling: how; None for :class:`Systematic`.
        threshold: a series is resampled where its effective sample size is below this share of N;
            above 1 for always.
        lengths: steps of each series, (B,).
        seed: of the random numbers.

    Raises:
        ValueError: shapes that do not fit, fewer than one particle, or an innovation without
            variance.

    Source: Doucet, Godsill and Andrieu (2000), section IV; Chen and Liu, Mixture Kalman filters
    (2000).
    """
    y = torch.as_tensor(y).double()
    if y.dim() != 3 or 0 in y.shape:
        raise ValueError(f"y has shape {tuple(y.shape)}; it must be (B, T, p), series first")
    if particles < 1:
        raise ValueError(f"particles is {particles}; at least 1 is needed")
    u = None if u is None else torch.as_tensor(u).to(y)
    if u is not None and (u.dim() != 3 or u.shape[:2] != y.shape[:2]):
        raise ValueError(f"u has shape {tuple(u.shape)}; y of shape {tuple(y.shape)} needs (B, T)")
    batch, length, _ = y.shape
    valid = torch.ones(batch, length, dtype=torch.bool, device=y.device)
    if lengths is not None:
        ends = ends_of(lengths, y).unsqueeze(1)
        valid = torch.arange(length, device=y.device) < ends
    y = spread(valid, y, torch.full_like(y, torch.nan))
    scheme = (resampling or Systematic()).scheme()
    with torch.no_grad(), seeded(seed, y.device):
        return _run(model, y, u, particles, scheme, threshold, valid)


def _run(
    model: ConditionallyLinear,
    y: Tensor,
    u: Tensor | None,
    N: int,
    scheme: str | Callable[[Tensor], Tensor],
    threshold: float,
    valid: Tensor,
) -> RaoBlackwellResult:
    batch, length, _ = y.shape
    steps = particle_steps(length, batch, N, threshold=threshold, scheme=scheme, device=y.device)
    stream = Stream(int(torch.randint(2**62, ())), y.device)
    drawn, moments = [], []
    r: Tensor | None = None
    m = P = torch.empty(0)
    for t in range(length):
        given = inputs_at(u, t)
        if r is None:
            r = _draw(model.initial(), (batch, N), None, stream).to(y.device)
            m, P = (x.double() for x in model.start(r))
            m, P = m.expand(batch, N, -1), P.expand(batch, N, *P.shape[-2:])
            parts = model.linear(r, t, *given)
        else:
            r = _draw(model.transition(r, t, *given), (batch, N), r, stream)
            parts = model.linear(r, t, *given)
            m = dot(parts.F, m)
            m = m if parts.c is None else m + parts.c
            P = symmetric(parts.F @ P @ parts.F.mT + parts.Q)
        m, P, gain = _updated(parts, y[:, t], m, P)
        steps.weigh(t, gain)
        drawn.append(r)
        moments.append(_mixture(steps.last(t).exp(), m, P))
        if t + 1 < length:
            # One row for a particle, so that all of it is moved at once.
            n, k = m.shape[-1], r.shape[-1]
            rows = torch.cat([r.to(m), m, P.flatten(2)], -1)
            count = steps.uniforms()
            chance = stream.uniform((batch, count)) if count else None
            moved = steps.choose(t + 1, rows, chance)
            if moved is not rows:
                r, m = moved[..., :k].to(r.dtype), moved[..., k : k + n]
                P = moved[..., k + n :].unflatten(-1, (n, n))
    mean, cov = (torch.stack(x, 1) for x in zip(*moments, strict=True))
    mean, cov = (spread(valid, x, torch.zeros_like(x)) for x in (mean, cov))
    ll = torch.where(valid, steps.log_likelihoods.mT, 0.0)
    logs, ancestors = steps.log_weights.transpose(0, 1), steps.ancestors.transpose(0, 1)
    r = torch.stack(drawn, 1)
    return RaoBlackwellResult(mean, cov, r, logs, ancestors, ll, steps.ess.mT, m, P, model, valid)


def _updated(parts: Linear, y: Tensor, m: Tensor, P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments after an observation (B, p), and its log-density (B, N) given the past."""
    y = y.unsqueeze(1)
    seen = ~y.isnan()
    y = y if parts.d is None else y - parts.d
    both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
    R = torch.where(both, symmetric(parts.R), 0.0) + torch.diag_embed((~seen).to(y))
    H = torch.where(seen.unsqueeze(-1), parts.H, 0.0)
    observed = Observed(H, R, torch.where(seen, y, 0.0), seen, seen.sum(-1).to(y))
    m, P, gain, _ = update(observed, m, P)
    return m, P, gain.expand(m.shape[:2])


def _mixture(W: Tensor, m: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, n) and covariance (B, n, n) of Gaussians with weights (B, N)."""
    mean = (W.unsqueeze(-1) * m).sum(1)
    change = m - mean.unsqueeze(1)
    inner = (W[..., None, None] * P).sum(1)
    return mean, symmetric(inner + torch.einsum("bi,bij,bik->bjk", W, change, change))
