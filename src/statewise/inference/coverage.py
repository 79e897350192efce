"""Do predictive laws hold what they promise? The probability integral transform, and coverage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution

from statewise.inference.engine import FilterResult
from statewise.inference.particle import ParticleResult, inputs_at, seeded
from statewise.inference.smoother import SmootherResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Do intervals hold what they promise, and are the values of a PIT uniform?

    Attributes:
        values: those that count, (n,).
        levels: nominal probabilities of central intervals, (K,).
        covered: share of the values in each, (K,).
        standard_errors: of the shares if they were right and values independent, (K,).
        ks: largest distance of the distribution function from the uniform one.
        ks_p: probability of one at least as large (Kolmogorov and Smirnov).
    """

    values: Array
    levels: Array
    covered: Array
    standard_errors: Array
    ks: float
    ks_p: float

    @property
    def sentence(self) -> str:
        """The result in words."""
        parts = ", ".join(
            f"{100 * c:.1f} % for {100 * level:g} %"
            for c, level in zip(self.covered, self.levels, strict=True)
        )
        return f"Central intervals hold {parts}; uniform with p = {self.ks_p:.3g}."

    def plot(self) -> Figure:
        """Histogram of the values, and shares covered beside the nominal ones."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 3.2), layout="constrained")
        first, second = figure.subplots(1, 2)
        bins = int(np.clip(len(self.values) // 50, 5, 20))
        first.hist(
            self.values, bins, range=(0, 1), density=True, color="#0f7fd0", edgecolor="white"
        )
        first.axhline(1, color="0.4", lw=0.8)
        first.set_title("probability integral transform")
        second.errorbar(self.levels, self.covered, 2 * self.standard_errors, fmt="o", ms=4)
        second.axline((0, 0), slope=1, color="0.4", lw=0.8)
        second.set_title("coverage, with two standard errors")
        second.set_xlabel("nominal")
        second.set_ylabel("covered")
        return figure


def calibration(pit: Any, *, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> Calibration:
    """Coverage of central intervals and a test of uniformity, from a PIT.

    The central interval of probability c holds what has its PIT in [(1 − c)/2, (1 + c)/2].

    Args:
        pit: values in [0, 1] of any shape; NaN is left out. See :func:`predictive_pit` and
            :func:`state_pit`.
        levels: nominal probabilities.

    Raises:
        ValueError: no values, or values or levels out of range.

    Source: Dawid (1984); Diebold, Gunther and Tay, Evaluating density forecasts (1998).
    """
    values = torch.as_tensor(pit).detach().cpu().double().numpy().ravel()
    values = values[~np.isnan(values)]
    nominal = np.asarray(levels, dtype=np.float64)
    if not len(values) or values.min() < 0 or values.max() > 1:
        raise ValueError("a probability integral transform has values between 0 and 1, and some")
    if nominal.ndim != 1 or not ((nominal > 0) & (nominal < 1)).all():
        raise ValueError(f"levels are {levels}; they must be between 0 and 1")
    covered = (np.abs(values[:, None] - 0.5) <= nominal / 2).mean(0)
    errors = np.sqrt(nominal * (1 - nominal) / len(values))
    test = stats.kstest(values, "uniform")
    return Calibration(values, nominal, covered, errors, float(test.statistic), float(test.pvalue))


def predictive_pit(
    result: FilterResult | ParticleResult, y: Any = None, *, seed: int | np.random.Generator = 0
) -> Tensor:
    """P(Y_t ≤ y_t | y_1 … y_{t−1}) of each output by itself, (B, T, p); NaN where not observed.

    Uniform, and independent over time, if the model is right. For particles the predictive law is
    Σ_i W_{t−1}^i p(y_t | x_t^i) with x_t^i drawn anew from the transition, whatever the filter drew
    them from; counts and other outputs with jumps are made uniform by a random number,
    P(Y < y) + V P(Y = y).

    Args:
        result: what a Gaussian or a particle filter found.
        y: the observations (B, T, p) that a particle filter was given; a Gaussian one keeps them.
        seed: of the random numbers, for particles.

    Raises:
        ValueError: a particle filter's result without y, or y of another shape.

    Source: Dawid (1984); Smith, Diagnostic checks of non-standard time series models (1985);
    Czado, Gneiting and Held (2009) for counts.
    """
    if isinstance(result, FilterResult):
        sd = result.innovation_cov.diagonal(dim1=-2, dim2=-1).sqrt()
        return torch.special.ndtr((result.innovations / sd).detach())
    if y is None:
        raise ValueError("a particle filter does not keep its observations; give y (B, T, p)")
    y = torch.as_tensor(y).to(result.particles.device)
    y = y if y.is_floating_point() else y.double()
    if y.dim() != 3 or y.shape[:2] != result.valid.shape:
        raise ValueError(
            f"y has shape {tuple(y.shape)}; (B, T) of the filter is {tuple(result.valid.shape)}"
        )
    found = []
    with torch.no_grad(), seeded(seed, y.device):
        for t in range(y.shape[1]):
            given = inputs_at(result.u, t)
            if t == 0:
                x = _first(result)
                w = torch.full_like(result.log_weights[:, 0], 1 / x.shape[1])
            else:
                x = result.model.transition(result.particles[:, t - 1], t, *given).sample()
                w = result.log_weights[:, t - 1].exp()
            law = result.model.observation(x, t, *given)
            found.append(_below(law, y[:, t : t + 1], w, x))
    values = torch.stack(found, 1).clamp(0, 1)
    return torch.where(y.isnan() | ~result.valid.unsqueeze(-1), torch.nan, values.to(y))


def _first(result: ParticleResult) -> Tensor:
    """States (B, N, n) from the first law."""
    law = result.model.initial()
    batch, _, N, _ = result.particles.shape
    shape = (*law.batch_shape, *law.event_shape)
    return law.sample(torch.Size((batch, N))) if len(shape) == 1 else law.sample()


def _below(law: Distribution, y: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """Weighted P(Y ≤ y), (B, p), with jumps filled by a random number."""
    shape = (*x.shape[:2], y.shape[-1])
    w = w.unsqueeze(-1)
    discrete = getattr(law.support, "is_discrete", False) if law.support is not None else False
    if not discrete and not law.event_shape:
        try:
            cdf = law.cdf(torch.nan_to_num(y))
        except NotImplementedError:
            pass
        else:
            return (w * cdf.expand(shape)).sum(1)
    # Without a distribution function: one draw for each particle.
    drawn = law.sample().expand(shape)
    jump = torch.rand(y.shape[0], 1, y.shape[-1], dtype=w.dtype, device=y.device)
    return (w * ((drawn < y).to(w) + jump * (drawn == y).to(w))).sum(1)


def state_pit(result: FilterResult | SmootherResult | ParticleResult, x: Any) -> Tensor:
    """P(X_t ≤ x_t) of true states under the filter's or smoother's law, (B, T, n).

    For simulations, where the truth is known; particles at the truth count half.

    Args:
        result: what was found.
        x: the true states (B, T, n).

    Raises:
        ValueError: x of another shape.
    """
    mean = result.mean.detach()
    x = torch.as_tensor(x).to(mean)
    if x.shape != mean.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}; the states found are {tuple(mean.shape)}")
    if isinstance(result, ParticleResult):
        x = x.unsqueeze(2)
        below = (result.particles < x).double() + 0.5 * (result.particles == x).double()
        found = (result.log_weights.exp().unsqueeze(-1) * below).sum(2).clamp(0, 1)
        return torch.where(result.valid.unsqueeze(-1), found, torch.nan)
    sd = result.cov.detach().diagonal(dim1=-2, dim2=-1).sqrt()
    # Behind the end of a series nothing is known, and the variance is 0.
    return torch.where(sd > 0, torch.special.ndtr((x - mean) / sd), torch.nan)
