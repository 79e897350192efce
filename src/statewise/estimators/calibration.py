"""Intervals that hold: a scale that follows the output, and quantiles of scores on unseen data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import erfinv

from statewise._config import register

Array = npt.NDArray[np.float64]

INTERVALS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Probabilities for which widths are kept; between them they are interpolated."""
HORIZONS = (1, 2, 4, 8, 16, 32, 64)
"""Samples since the last measurement for which widths are kept."""
NORMAL = np.sqrt(2) * erfinv(np.asarray(INTERVALS))
"""Half widths of these intervals of a standard normal distribution."""
FEWEST = 40
"""Scores of a horizon that can be calibrated on."""
CALM = 0.1
"""Change of the free run, relative to its root mean square, below which it counts as calm."""

Row = tuple[float, ...]


def features(level: Array, free: Array, change: Array) -> Array:
    """What the deviation of an error may depend on: 1, the level, and the change of the free run.

    Args:
        level: outputs that the observer expects, on the scale of the model, (L, n_y); training
            values have mean 0 and standard deviation 1.
        free: free run of the model, (L, n_y).
        change: root mean square of its change from sample to sample, (n_y,).

    Returns:
        1, tanh(level), since errors do not grow with the level without end, and
        log(|change|/rms + 0.1), (L, n_y, 3).
    """
    moved = np.abs(np.diff(free, axis=0, prepend=free[:1]))
    return features_of(level, moved, change)


def features_of(level: Array, moved: Array, change: Array) -> Array:
    """The same of levels and changes (…, n_y) that are known."""
    log_change = np.log(moved / change + CALM)
    return np.stack([np.ones_like(level), np.tanh(level), log_change], axis=-1)


@register
@dataclasses.dataclass(frozen=True)
class Calibration:
    """How wide an interval is, by output, horizon and probability.

    The half width is s_t · σ_t · ŵ: σ_t is what the observer says, log s_t = c · features is fitted
    by maximum likelihood, and ŵ is the split-conformal quantile of |error|/(s_t σ_t) on data that
    the model was not trained on.

    Attributes:
        horizons: samples since the last measurement, ascending.
        scale: c by output and horizon.
        widths: ŵ by output, horizon and probability in :data:`INTERVALS`.
        counts: scores behind them, by output and horizon.
        change: root mean square of the change of the free run, by output.
    """

    horizons: tuple[int, ...]
    scale: tuple[tuple[Row, ...], ...]
    widths: tuple[tuple[Row, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    change: tuple[float, ...]

    def scale_at(self, features: Array, horizon: Array) -> Array:
        """s_t of samples with features (…, n_y, 3) and horizons (…, n_y)."""
        weight, low = self._between(horizon)
        rows = np.asarray(self.scale)
        output = np.arange(len(rows))
        c = (1 - weight)[..., None] * rows[output, low]
        c = c + weight[..., None] * rows[output, np.minimum(low + 1, len(self.horizons) - 1)]
        return np.exp(np.sum(c * features, axis=-1))

    def width_at(self, interval: float, horizon: Array) -> Array:
        """ŵ of a probability at horizons (…, n_y)."""
        check_interval(interval)
        wanted = normal_width(interval)
        # Where scores are normal the ratio to a normal width is flat, so that is interpolated.
        ratio = np.asarray(self.widths) / NORMAL
        each = np.apply_along_axis(lambda row: np.interp(wanted, NORMAL, row), -1, ratio) * wanted
        weight, low = self._between(horizon)
        output, high = np.arange(len(each)), np.minimum(low + 1, len(self.horizons) - 1)
        return (1 - weight) * each[output, low] + weight * each[output, high]

    def _between(self, horizon: Array) -> tuple[Array, npt.NDArray[np.intp]]:
        """Where horizons lie between those of the table, by their logarithms."""
        knots = np.log(np.asarray(self.horizons, dtype=np.float64))
        at = np.clip(np.log(np.maximum(horizon, 1)), knots[0], knots[-1])
        low = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, max(len(knots) - 2, 0))
        if len(knots) == 1:
            return np.zeros(at.shape), low
        return (at - knots[low]) / (knots[low + 1] - knots[low]), low


class Adaptation:
    """Widths that follow the coverage so far: log f_{t+1} = log f_t + γ ([y_t outside] − α).

    The band of sample t is f_t times as wide as calibrated, α the share that may be outside. After
    T measurements the share outside differs from α by |log f_T|/(γ T), however the data drift.

    Source: quantile tracking of Angelopoulos et al., Conformal PID control for time series
    prediction (2307.16895), here of the logarithm of the score.

    Args:
        interval: the probability that is asked for, 1 − α.
        rate: γ; 0 changes nothing.
        outputs: number of outputs.

    Attributes:
        factor: f of the next sample, (n_y,).

    Raises:
        ValueError: a rate that is not in [0, 1).
    """

    def __init__(self, interval: float, rate: float, outputs: int) -> None:
        check_interval(interval)
        if not 0 <= rate < 1:
            raise ValueError(f"adapt is a rate in [0, 1); given {rate}")
        self.outside, self.rate = 1 - interval, rate
        self.factor = np.ones(outputs)

    def see(self, z: Array, mean: Array, half: Array) -> None:
        """Take measurements (n_y,) in, NaN where there is none, with the bands they had."""
        missed = (np.abs(z - mean) > half).astype(np.float64)
        moved = self.factor * np.exp(self.rate * (missed - self.outside))
        self.factor = np.where(np.isfinite(z), moved, self.factor)


class Scores:
    """Errors on unseen data by horizon, from which a calibration is made.

    Args:
        change: root mean square of the change of the free run, (n_y,).
    """

    def __init__(self, change: Array) -> None:
        self.change = change
        self.parts: dict[int, list[tuple[Array, Array, npt.NDArray[np.intp]]]] = {}
        self.log_deviation = 0.0

    def add(
        self,
        horizon: int,
        error: Array,
        variance: Array,
        features: Array,
        fold: npt.NDArray[np.intp],
    ) -> None:
        """Add errors (N, n_y) with variances, features (N, n_y, 3) and folds 0 or 1, (N, n_y).

        Errors that are NaN do not count.
        """
        deviation = np.sqrt(variance)
        self.parts.setdefault(horizon, []).append((error / deviation, features, fold))
        if horizon == 1:
            self.log_deviation += float(np.sum(np.log(deviation[np.isfinite(error)])))

    def _of(self, horizon: int, output: int, fold: int | None) -> tuple[Array, Array]:
        errors, rows = [], []
        for e, f, folds in self.parts[horizon]:
            keep = np.isfinite(e[:, output])
            if fold is not None:
                keep &= folds[:, output] == fold
            errors.append(e[keep, output])
            rows.append(f[keep, output])
        return np.concatenate(errors), np.concatenate(rows)

    def calibrate(self, fold: int | None = None) -> Calibration:
        """The table, from the scores of one fold or of all.

        Horizons with too few scores are left out; the first is always kept.
        """
        outputs = range(len(self.change))
        slopes = [np.zeros(2) for _ in outputs]
        rows: dict[int, list[tuple[Row, Row, int]]] = {}
        for horizon in sorted(self.parts):
            found = [self._of(horizon, k, fold) for k in outputs]
            if rows and min(len(e) for e, _ in found) < FEWEST:
                continue
            rows[horizon] = [_one(*found[k], horizon, slopes[k]) for k in outputs]
            slopes = [np.asarray(row[0][1:]) for row in rows[horizon]]
        return Calibration(
            horizons=tuple(rows),
            scale=tuple(tuple(row[k][0] for row in rows.values()) for k in outputs),
            widths=tuple(tuple(row[k][1] for row in rows.values()) for k in outputs),
            counts=tuple(tuple(row[k][2] for row in rows.values()) for k in outputs),
            change=tuple(self.change.tolist()),
        )

    def coverage(self, interval: float) -> list[tuple[int, int, float, float, int]]:
        """Rows (output, horizon, before, after, count) of the share inside.

        Before calibration the half width is the normal quantile of the observer's deviation. After
        it, each fold is judged by what the other gave.
        """
        table = {fold: self.calibrate(1 - fold) for fold in (0, 1)}
        normal, rows = normal_width(interval), []
        for horizon in self.calibrate().horizons:
            for k in range(len(self.change)):
                before, after, count = 0, 0, 0
                for fold, given in table.items():
                    e, f = self._of(horizon, k, fold)
                    at = np.full((len(e), len(self.change)), horizon)
                    wide = np.repeat(f[:, None], len(self.change), 1)
                    scale = given.scale_at(wide, at)[:, k]
                    width = given.width_at(interval, at)[:, k]
                    before += int(np.sum(np.abs(e) <= normal))
                    after += int(np.sum(np.abs(e) <= scale * width))
                    count += len(e)
                if count:
                    rows.append((k, horizon, before / count, after / count, count))
        return rows

    def log_likelihood(self) -> float:
        """Σ log p one step ahead but for a constant; each fold by the scale of the other."""
        total = -self.log_deviation
        for fold in (0, 1):
            given = self.calibrate(1 - fold)
            for k in range(len(self.change)):
                e, f = self._of(1, k, fold)
                log_s = f @ np.asarray(given.scale[k][0])
                total += float(np.sum(-log_s - 0.5 * (e * np.exp(-log_s)) ** 2))
        return total


def _one(error: Array, features: Array, horizon: int, slopes: Array) -> tuple[Row, Row, int]:
    """Coefficients of the scale, and conformal widths behind it."""
    if len(error) == 0:
        return (0.0, *slopes.tolist()), tuple(NORMAL.tolist()), 0
    c = _fit_scale(error, features, horizon, slopes)
    score = np.sort(np.abs(error) * np.exp(-features @ c))
    count = len(score)
    # The finite-sample correction; where it asks for more than there is, the largest score serves.
    ranks = np.ceil((count + 1) * np.asarray(INTERVALS)).astype(int)
    widths = score[np.minimum(ranks, count) - 1]
    return tuple(c.tolist()), tuple(widths.tolist()), count


def normal_width(interval: Any) -> Any:
    """Half width of an interval of a standard normal distribution."""
    return np.sqrt(2) * erfinv(interval)


def _fit_scale(error: Array, features: Array, horizon: int, slopes: Array) -> Array:
    """The c with least Σ c·f + e² exp(−2 c·f)/2; the slopes given unless BIC prefers others.

    Errors h samples ahead share all but one of their h disturbances with their neighbours: each
    counts 1/h. Slopes have a prior of deviation 1 about those given, the ones of the horizon
    before: it decides where the data have one level only.
    """
    from scipy.optimize import minimize

    square, weight = error**2 + 1e-12, 1 / horizon
    kept = np.concatenate([[0.0], slopes])
    kept[0] = 0.5 * np.log(np.mean(square * np.exp(-2 * features @ kept)))
    if weight * len(error) < FEWEST:
        return kept

    def loss(c: Array) -> tuple[float, Array]:
        log_s = np.clip(features @ c, -30.0, 30.0)
        part = square * np.exp(-2 * log_s)
        pull = np.concatenate([[0.0], c[1:] - slopes])
        value = weight * float(np.sum(log_s + part / 2)) + float(np.sum(pull**2)) / 2
        return value, weight * (features.T @ (1 - part)) + pull

    found = minimize(loss, kept, jac=True, method="L-BFGS-B", bounds=[(-20, 20), (-2, 2), (-2, 2)])
    gain = loss(kept)[0] - float(found.fun)
    return np.asarray(found.x) if 2 * gain > len(slopes) * np.log(weight * len(error)) else kept


def check_interval(interval: float) -> None:
    """Refuse what is no probability between 0 and 1."""
    if isinstance(interval, bool) or not isinstance(interval, int | float | np.floating):
        raise TypeError(f"interval is a probability such as 0.9; given {interval!r}")
    if not 0 < interval < 1:
        raise ValueError(f"interval is a probability between 0 and 1; given {interval}")
