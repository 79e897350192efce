"""Does a Gaussian filter believe what it should? Tests of its innovations."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from statewise.inference.engine import FilterResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class InnovationTests:
    """What the normalised innovations of a filter say about its model; p outputs, series pooled.

    Each p-value is that of a test of one property that independent standard normal numbers have.

    Attributes:
        values: normalised innovations L⁻¹e, (B, T, p); NaN where nothing is observed.
        nis: normalised innovation squared eᵀ S⁻¹ e of each step, (B, T); NaN likewise.
        observed: outputs seen at each step, its degrees of freedom, (B, T).
        mean: (p,).
        variance: around 0, (p,).
        correlation: autocorrelation at the lags 0, 1, …, (K + 1, p).
        pairs: pairs of samples at each lag, (K + 1, p).
        ljung_box: the statistic Q over all lags, (p,).
        mean_p: of mean · √n against the standard normal law, (p,).
        variance_p: of the sum of squares against χ² with n degrees of freedom, (p,).
        white_p: of Q against χ², (p,).
        normal_p: of skewness and kurtosis by the K² test; NaN below 20 samples, (p,).
        nis_p: of the sum of NIS against χ² with as many degrees of freedom as outputs were seen.
        nis_mean: mean of NIS per output seen; 1 is expected.
        nis_bounds: interval that holds ``nis_mean`` with the probability ``confidence``.
        nis_inside: share of the steps whose own NIS is in its two-sided interval.
        confidence: of bounds and verdict.
    """

    values: Array
    nis: Array
    observed: npt.NDArray[np.int64]
    mean: Array
    variance: Array
    correlation: Array
    pairs: npt.NDArray[np.int64]
    ljung_box: Array
    mean_p: Array
    variance_p: Array
    white_p: Array
    normal_p: Array
    nis_p: float
    nis_mean: float
    nis_bounds: tuple[float, float]
    nis_inside: float
    confidence: float

    @property
    def passed(self) -> bool:
        """Whether no test refutes the model, at the confidence for all of them together."""
        return self._smallest()[0] >= 1 - self.confidence

    @property
    def sentence(self) -> str:
        """The result in words."""
        level, name = self._smallest()
        verdict = (
            "look like those of the right model" if self.passed else f"contradict the model: {name}"
        )
        low, high = self.nis_bounds
        return (
            f"The innovations {verdict}; the smallest of the p-values, corrected for their number, "
            f"is {level:.3g}. NIS is {self.nis_mean:.3f} for each output seen, {low:.3f} to "
            f"{high:.3f} is expected."
        )

    def _smallest(self) -> tuple[float, str]:
        tests = {
            "NIS does not fit": np.array([self.nis_p]),
            "the mean is not 0": self.mean_p,
            "the variance is not 1": self.variance_p,
            "they are correlated in time": self.white_p,
            "they are not normal": self.normal_p,
        }
        level = {name: float(np.nanmin(p)) for name, p in tests.items() if np.isfinite(p).any()}
        count = sum(int(np.isfinite(p).sum()) for p in tests.values())
        name = min(level, key=lambda key: level[key])
        return min(1.0, count * level[name]), name

    def plot(self) -> Figure:
        """NIS over time with its interval, the autocorrelation, and normal quantiles."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 3.2), layout="constrained")
        first, second, third = figure.subplots(1, 3)
        seen = np.where(self.observed[0] > 0, self.observed[0], np.nan)
        first.plot(self.nis[0], ".", ms=3)
        for q in ((1 - self.confidence) / 2, (1 + self.confidence) / 2):
            first.plot(stats.chi2.ppf(q, seen), color="0.4", lw=0.8)
        first.set_title("NIS and its interval")
        first.set_xlabel("step")
        z = stats.norm.ppf(0.5 + self.confidence / 2)
        lags = np.arange(1, len(self.correlation))
        for i in range(self.correlation.shape[1]):
            second.plot(lags, self.correlation[1:, i], ".-", lw=0.8, label=f"y{i + 1}")
        bound = z / np.sqrt(np.maximum(self.pairs[1:, 0], 1))
        second.plot(lags, bound, color="0.4", lw=0.8)
        second.plot(lags, -bound, color="0.4", lw=0.8)
        second.set_title("autocorrelation")
        second.set_xlabel("lag")
        for i in range(self.values.shape[-1]):
            e = self.values[..., i]
            e = np.sort(e[np.isfinite(e)])
            at = stats.norm.ppf((np.arange(len(e)) + 0.5) / len(e))
            third.plot(at, e, ".", ms=3, label=f"y{i + 1}")
        third.axline((0, 0), slope=1, color="0.4", lw=0.8)
        third.set_title("quantiles beside normal ones")
        third.set_xlabel("standard normal")
        third.set_ylabel("normalised innovations")
        third.legend()
        return figure


def innovation_tests(
    result: FilterResult,
    *,
    lags: int = 20,
    skip: int = 0,
    fitted: int = 0,
    confidence: float = 0.99,
) -> InnovationTests:
    """Test the normalised innovations of a Gaussian filter: mean, variance, whiteness, normality.

    If the model is right, L⁻¹e with L Lᵀ = S are independent standard normal numbers and
    ε = eᵀ S⁻¹ e is χ² with as many degrees of freedom as outputs are seen. A mean of ε above 1 for
    each output means that the filter trusts itself too much.

    Args:
        result: what the filter found.
        lags: of the Ljung–Box test Q = n(n + 2) Σ_k r_k² / (n − k), pairs counted where both are
            seen.
        skip: steps left out at the beginning of each series.
        fitted: parameters fitted to these data, taken off the degrees of freedom of Q.
        confidence: of bounds and verdict.

    Raises:
        ValueError: arguments out of range, or fewer samples of an output than ``lags`` + 2.

    Example:
        >>> from statewise import inference
        >>> model = inference.LinearGaussian([[0.0]], [[1.0]], [[1.0]], [[1.0]], P0=[[1.0]])
        >>> y = np.random.default_rng(0).normal(0, 2**0.5, (2, 300, 1))
        >>> innovation_tests(inference.filter(model, y)).passed
        True

    Source: Mehra, On the identification of variances and adaptive Kalman filtering (1970);
    Bar-Shalom, Li and Kirubarajan, Estimation with applications to tracking (2001), section 5.4;
    Ljung and Box (1978); D'Agostino and Pearson (1973) for normality.
    """
    if lags < 1 or not 0 <= fitted < lags:
        raise ValueError(f"lags is {lags} and fitted {fitted}; lags must be above fitted, and both")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
    e = result.standardised_innovations.detach().cpu().double().numpy()[:, skip:]
    there = np.isfinite(e)
    n = there.sum((0, 1))
    if e.shape[1] <= lags or n.min() < lags + 2:
        raise ValueError(
            f"{n.min()} innovations of an output, in series of {e.shape[1]} steps, are too few for "
            f"{lags} lags"
        )
    filled = np.where(there, e, 0.0)
    mean, power = filled.sum((0, 1)) / n, np.square(filled).sum((0, 1))
    centred = np.where(there, filled - mean, 0.0)
    products, pairs = (np.stack(x) for x in zip(*_lagged(centred, there, lags), strict=True))
    correlation = products / np.maximum(pairs, 1) / (products[0] / n)
    ljung_box = (n + 2) / n * (pairs[1:] * correlation[1:] ** 2).sum(0)
    observed = there.sum(-1)
    nis = np.where(observed > 0, np.square(filled).sum(-1), np.nan)
    total, degrees = float(np.nansum(nis)), int(observed.sum())
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    bounds = tuple(float(stats.chi2.ppf(q, degrees)) / degrees for q in tails)
    count = np.maximum(observed, 1)
    inside = (nis >= stats.chi2.ppf(tails[0], count)) & (nis <= stats.chi2.ppf(tails[1], count))
    return InnovationTests(
        values=e,
        nis=nis,
        observed=observed,
        mean=mean,
        variance=power / n,
        correlation=correlation,
        pairs=pairs,
        ljung_box=ljung_box,
        mean_p=2 * stats.norm.sf(np.abs(mean) * np.sqrt(n)),
        variance_p=_two_sided(power, n),
        white_p=stats.chi2.sf(ljung_box, lags - fitted),
        normal_p=np.array([_normality(e[..., i]) for i in range(e.shape[-1])]),
        nis_p=float(_two_sided(total, degrees)),
        nis_mean=total / degrees,
        nis_bounds=(bounds[0], bounds[1]),
        nis_inside=float(inside[observed > 0].mean()),
        confidence=confidence,
    )


def _lagged(e: Array, there: npt.NDArray[np.bool_], lags: int) -> list[tuple[Array, Array]]:
    """Sums of products and numbers of pairs at every lag, pooled over series."""
    length = e.shape[1]
    return [
        (
            (e[:, : length - k] * e[:, k:]).sum((0, 1)),
            (there[:, : length - k] & there[:, k:]).sum((0, 1)),
        )
        for k in range(lags + 1)
    ]


def _two_sided(value: Any, degrees: Any) -> Any:
    low, high = stats.chi2.cdf(value, degrees), stats.chi2.sf(value, degrees)
    return np.minimum(1.0, 2 * np.minimum(low, high))


def _normality(e: Array) -> float:
    e = e[np.isfinite(e)]
    return float(stats.normaltest(e).pvalue) if len(e) >= 20 else math.nan
