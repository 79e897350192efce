"""The ensemble Kalman filter, with inflation and localisation."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from statewise.inference.gaussian import GaussianFilter
from statewise.inference.linear_gaussian import Problem, as_tensor
from statewise.inference.methods import Method
from statewise.inference.moments import (
    Moments,
    chol_innovation,
    chol_start,
    log_normal,
    psd_root,
    symmetric,
)
from statewise.inference.nonlinear_gaussian import NonlinearProblem, evaluate


def taper(distance: Tensor) -> Tensor:
    """The fifth-order function of compact support, 1 at 0 and 0 from 2 on.

    Source: Gaspari and Cohn (1999), equation 4.10.
    """
    z = distance.abs()
    near = 1 + z**2 * (-5 / 3 + z * (5 / 8 + z * (1 / 2 - z / 4)))
    w = z.clamp(1.0, 2.0)
    far = 4 + w * (-5 + w * (5 / 3 + w * (5 / 8 + w * (-1 / 2 + w / 12)))) - 2 / (3 * w)
    return torch.where(z <= 1, near, torch.where(z < 2, far, 0.0))


@dataclasses.dataclass(frozen=True)
class Localisation:
    """Where states and outputs lie, so that what is far apart is taken as uncorrelated.

    Attributes:
        states: position of each state, (n,).
        outputs: position of each output, (p,).
        radius: half the distance at which correlations end.
        period: length of a circle that the positions lie on, or None for a line.
    """

    states: Any
    outputs: Any
    radius: float
    period: float | None = None

    def tapers(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of covariances between states and outputs, (n, p), and among outputs, (p, p)."""
        x, y = (as_tensor("positions", z).to(like) for z in (self.states, self.outputs))
        return self._between(x, y), self._between(y, y)

    def _between(self, x: Tensor, y: Tensor) -> Tensor:
        distance = (x.unsqueeze(-1) - y).abs()
        if self.period is not None:
            distance = torch.minimum(distance, self.period - distance)
        return taper(distance / self.radius)


class _Ensemble(NamedTuple):
    members: Tensor
    log_likelihood: Tensor


class EnsembleKalman(Method):
    """A Kalman filter whose covariances are those of N members, each moved by the model itself.

    K = C_xy (C_yy + R)⁻¹, x_i += K (y + ε_i − g(x_i)) with ε_i ~ N(0, R), centred. No matrix of
    n × n is formed but for the answer. Predictions of a nonlinear model are expansions around the
    moments found, by :class:`Cubature`. A smoother must not go back through the moments, whose
    errors it would add up.

    Args:
        members: N, at least 2.
        inflation: factor of the members' deviations before each update, 1 for none.
        localisation: which covariances to damp, or None.
        seed: of the random numbers; a run from the start repeats them.

    Raises:
        ValueError: too few members, or a factor that is not positive.

    Source: Evensen (1994); Burgers, van Leeuwen and Evensen (1998); Houtekamer and Mitchell (2001).
    """

    nonlinear: ClassVar[bool] = True
    smoothable: ClassVar[bool] = False

    def __init__(
        self,
        members: int = 100,
        *,
        inflation: float = 1.0,
        localisation: Localisation | None = None,
        seed: int = 0,
    ) -> None:
        if members < 2 or not inflation > 0:
            raise ValueError(
                f"members is {members} and inflation {inflation}; at least 2 members and a "
                "positive factor are needed"
            )
        self.members, self.inflation = members, inflation
        self.localisation, self.seed = localisation, seed
        self._generator: torch.Generator | None = None

    def init(self, problem: Problem | NonlinearProblem) -> _Ensemble:
        """Draws from the prior."""
        m = problem.m0
        self._generator = torch.Generator(device=m.device).manual_seed(self.seed)
        drawn = m.unsqueeze(1) + self._noise(problem.P0, len(m), m)
        return _Ensemble(drawn, m.new_zeros(len(m)))

    def prepare(
        self, problem: Problem | NonlinearProblem, t: int | None
    ) -> Problem | NonlinearProblem:
        """The step alone."""
        assert t is not None
        return problem.steps(t, t + 1)

    def combine(self, state: _Ensemble, element: Problem | NonlinearProblem) -> _Ensemble:
        """One step."""
        x = state.members
        batch = len(x)
        if element.moves_first:
            x = evaluate(element, True, x.unsqueeze(1)).squeeze(1)
            x = x + self._noise(symmetric(element.Q)[:, 0], batch, x)
        mean = x.mean(1, keepdim=True)
        x = mean + self.inflation * (x - mean)
        seen = element.seen()[:, 0]
        both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
        R = torch.where(both, symmetric(element.R)[:, 0], 0.0)
        y = evaluate(element, False, x.unsqueeze(1)).squeeze(1)
        y = torch.where(seen.unsqueeze(1), y, 0.0)
        centre = y.mean(1)
        dx, dy = x - x.mean(1, keepdim=True), y - centre.unsqueeze(1)
        cross, own = (z.mT @ dy / (self.members - 1) for z in (dx, dy))
        if self.localisation is not None:
            far, near = self.localisation.tapers(x)
            cross, own = cross * far, own * near
        L = chol_innovation(own + R + torch.diag_embed((~seen).to(x)))
        gain = torch.cholesky_solve(cross.mT, L).mT
        noise = self._noise(R, batch, x)
        target = torch.where(seen, element.y[:, 0], 0.0).unsqueeze(1)
        x = x + (target + noise - noise.mean(1, keepdim=True) - y) @ gain.mT
        e = torch.where(seen, element.y[:, 0] - centre, 0.0)
        return _Ensemble(x, log_normal(e, L, seen.sum(-1).to(x)))

    def read(self, state: _Ensemble) -> Moments:
        """Mean and covariance of the members."""
        mean = state.members.mean(1)
        d = state.members - mean.unsqueeze(1)
        return Moments(mean, d.mT @ d / (self.members - 1), state.log_likelihood)

    def linear_problem(self, problem: Problem | NonlinearProblem, found: Moments) -> Problem:
        """The model expanded around the moments found."""
        if isinstance(problem, Problem):
            return problem
        return GaussianFilter().linear_problem(
            problem, found._replace(chol_cov=chol_start(found.cov))
        )

    def _noise(self, covariance: Tensor, batch: int, like: Tensor) -> Tensor:
        """Draws (B, N, k) of N(0, covariance), covariance (b, k, k)."""
        assert self._generator is not None
        k = covariance.shape[-1]
        z = torch.randn(
            batch, self.members, k, generator=self._generator, dtype=like.dtype, device=like.device
        )
        return z @ psd_root(covariance).mT
