"""The noise of an identified model: levels by maximum likelihood, intervals that are calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from statewise._config import from_dict, register
from statewise.estimators.calibration import HORIZONS, Calibration, Scores, features
from statewise.estimators.noise import ENOUGH
from statewise.estimators.signals import Candidate, Fold, Levels, Observer, Signals

Array = npt.NDArray[np.float64]

REPORTED = 0.9
"""Probability of the intervals whose coverage is reported."""
GAPS = (1, 8, 64)
"""Mean lengths of the gaps that smoothed bands are calibrated on."""


@register
@dataclasses.dataclass(frozen=True)
class Coverage:
    """Share of validation measurements inside intervals of one output and horizon.

    Attributes:
        output: index of the output.
        horizon: samples since the last measurement, or in a gap :func:`gap_distance`, at least.
        interval: the probability that was asked for.
        before: share inside the intervals of the fitted noise levels alone.
        after: share inside the calibrated ones; each half of every record is judged with what the
            other half gave.
        count: measurements behind it.
    """

    output: int
    horizon: int
    interval: float
    before: float
    after: float
    count: int


@register
@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """What is known of the errors of an identified model.

    Attributes:
        levels: noise levels of the observer, an :class:`ErrorNoise` or a :class:`StateNoise`.
        ahead: how wide intervals are that many samples after the last measurement.
        inside: how wide they are inside a gap, by :func:`gap_distance`.
        coverage: coverage of 90 % intervals ahead, one row per output and horizon.
        coverage_inside: the same inside gaps.
        judged_on: what data the intervals were calibrated on: "validation", "training",
            "validation and training", "validation and left-out training" or "left-out training".
        candidates: observers that were compared, with Σ log p of those data one step ahead, each
            half judged with what the other half gave; the best one was taken.
    """

    levels: Any
    ahead: Calibration
    inside: Calibration
    coverage: tuple[Coverage, ...]
    coverage_inside: tuple[Coverage, ...]
    judged_on: str
    candidates: tuple[tuple[str, float], ...]

    @property
    def process(self) -> tuple[float, ...]:
        """Deviations of the noise that drives the observer's state; see its class."""
        return self.levels.process

    @property
    def measurement(self) -> tuple[float, ...]:
        """Deviation of the white noise of every output, on the scale of the model."""
        return self.levels.measurement

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"observer: {type(self.levels).__name__}, calibrated on {self.judged_on} data"]
        lines += [f"  {name}: log-likelihood {value:.1f}" for name, value in self.candidates]
        for title, rows in (("ahead", self.coverage), ("inside a gap", self.coverage_inside)):
            for row in rows:
                lines.append(
                    f"output {row.output}, {row.horizon} {title}: {100 * row.before:.1f} % inside "
                    f"{100 * row.interval:g} % intervals before calibration, "
                    f"{100 * row.after:.1f} % after ({row.count} measurements)"
                )
        return "\n".join(lines)


def fit_noise(
    observers: Sequence[Observer],
    train: Sequence[Signals],
    valid: Sequence[Signals],
    model: Any,
    unseen: Sequence[Signals] = (),
) -> NoiseModel:
    """Fit observers, take the one that predicts best, and calibrate its intervals.

    A network fits its training data more closely than new data, so levels are fitted to training
    errors and to validation errors, and what predicts validation data better is kept. Validation
    data are used in halves: what is fitted on one is judged on the other.

    Args:
        observers: what to compare.
        train: training records on the scale of the model.
        valid: validation records; training records come in where these are few.
        model: the network.
        unseen: training records whose free run is that of models which were trained without it,
            in place of ``train``.

    Returns:
        The noise model.

    Raises:
        ValueError: no observers, or too few measured outputs.
    """
    if not observers:
        raise ValueError("there is no observer to fit; give at least one, such as ErrorObserver()")
    if unseen:
        judged, judged_on = [*valid, *unseen], "left-out training"
        judged_on = f"validation and {judged_on}" if valid else judged_on
    else:
        judged, judged_on = _telling(train, valid)
    folds = [_fold_of(r) for r in judged]
    if np.isfinite(_joined(judged).z).sum(0).min() < 20:
        raise ValueError(
            "an output has fewer than 20 measurements behind the start of the records; noise "
            "levels need more"
        )
    change = _change(judged)
    tried: list[tuple[float, Candidate]] = []
    for observer in observers:
        seen = train if judged_on == "validation" else ()
        for candidate in observer.candidates(judged, folds, seen, model):
            scores = Scores(change)
            for record, fold in zip(judged, folds, strict=True):
                _add_ahead(scores, record, fold, candidate.halves, (1,), model)
            tried.append((scores.log_likelihood(), candidate))
    _, best = max(tried, key=lambda item: item[0])
    ahead, inside = Scores(change), Scores(change)
    for index, (record, fold) in enumerate(zip(judged, folds, strict=True)):
        _add_ahead(ahead, record, fold, best.halves, HORIZONS, model)
        _add_inside(inside, record, fold, best.halves, index, model)
    return NoiseModel(
        levels=best.levels,
        ahead=ahead.calibrate(),
        inside=inside.calibrate(),
        coverage=_coverage(ahead),
        coverage_inside=_coverage(inside),
        judged_on=judged_on,
        candidates=tuple((item.name, value) for value, item in tried),
    )


def noise_from_dict(kept: Any) -> NoiseModel | None:
    """Read back what :func:`statewise._config.to_dict` made of a noise model, or of None.

    Raises:
        TypeError: something else.
    """
    noise = from_dict(kept)
    if noise is not None and not isinstance(noise, NoiseModel):
        raise TypeError(f"expected a NoiseModel, found {type(noise).__name__}")
    return noise


def gap_distance(z: Array) -> Array:
    """Harmonic mean of the samples to the measurements on either side of a sample, (L, n_y).

    2ab/(a + b) ≥ 1: the variance of a random walk between two known ends goes with it. It is the
    distance to the nearest measurement in the middle of a gap, and twice that beside one end of a
    long one.
    """
    before, behind = since_measured(z), since_measured(z[::-1])[::-1]
    return 2 * before * behind / (before + behind)


def since_measured(z: Array) -> Array:
    """Samples since the last earlier measurement of an output, (L, n_y); many where none was."""
    index = np.arange(len(z))[:, None]
    last = np.where(np.isfinite(z), index, -HORIZONS[-1] - 1)
    before = np.maximum.accumulate(last, axis=0)
    before = np.concatenate([np.full((1, z.shape[1]), -HORIZONS[-1] - 1), before[:-1]])
    return (index - before).astype(np.float64)


def _telling(train: Sequence[Signals], valid: Sequence[Signals]) -> tuple[list[Signals], str]:
    """Records that say most about errors to come, and their name."""
    if valid and np.isfinite(_joined(valid).z).sum(0).min() >= ENOUGH:
        return list(valid), "validation"
    both = [*valid, *train]
    if not both:
        raise ValueError("there are no records to fit noise levels on")
    return both, "validation and training" if valid else "training"


def _joined(records: Sequence[Signals]) -> Signals:
    """The settled outputs of all records in a row."""
    z = np.concatenate([r.z[r.settled :] for r in records])
    return Signals(z[:, :0], z, z)


def _fold_of(record: Signals) -> Fold:
    """0 in the first half of the measured part of a record, 1 in the second, (L, n_y)."""
    middle = (record.settled + len(record.z)) // 2
    second = (np.arange(len(record.z)) >= middle).astype(np.intp)
    return np.broadcast_to(second[:, None], record.z.shape)


def _change(records: Sequence[Signals]) -> Array:
    moved = np.concatenate([np.diff(r.free[r.settled :], axis=0) for r in records])
    return np.maximum(np.sqrt(np.mean(moved**2, axis=0)), 1e-9)


def _add_ahead(
    scores: Scores,
    record: Signals,
    fold: Fold,
    pair: tuple[Levels, Levels],
    horizons: Sequence[int],
    model: Any,
) -> None:
    """Scores of predictions, each half by the levels that come first in ``pair`` for it."""
    found = [levels.ahead(record, horizons, model) for levels in pair[: 1 + (pair[0] != pair[1])]]
    for index, h in enumerate(horizons):
        mean, variance = (
            np.where(fold == 0, found[0][index][k], found[-1][index][k]) for k in (0, 1)
        )
        error = record.z - mean
        error[: record.settled] = np.nan
        scores.add(h, error, variance, features(mean, record.free, scores.change), fold)


def _add_inside(
    scores: Scores,
    record: Signals,
    fold: Fold,
    pair: tuple[Levels, Levels],
    seed: int,
    model: Any,
) -> None:
    """Scores of smoothed outputs that were hidden in gaps of all lengths, half of the samples."""
    for hidden in _gappy(len(record.z), seed):
        shown = record._replace(z=np.where(hidden[:, None], np.nan, record.z))
        found = [levels.smooth(shown, model) for levels in pair[: 1 + (pair[0] != pair[1])]]
        mean, variance = (np.where(fold == 0, found[0][k], found[-1][k]) for k in (0, 1))
        error = np.where(hidden[:, None], record.z - mean, np.nan)
        error[: record.settled] = np.nan
        rows = features(mean, record.free, scores.change)
        distance = gap_distance(shown.z)
        for low, high in zip(HORIZONS, [*HORIZONS[1:], np.inf], strict=True):
            within = (distance >= low) & (distance < high)
            if within.any():
                scores.add(low, np.where(within, error, np.nan), variance, rows, fold)


def _gappy(length: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    """Which samples are hidden: gaps between measured stretches of random lengths; each once."""
    rng = np.random.default_rng(seed)
    single = rng.random(length) < 0.5
    found = [single, ~single]
    for mean in GAPS[1:]:
        ends = np.cumsum(rng.geometric(1 / mean, length))
        odd = np.searchsorted(ends, np.arange(length), side="right") % 2 == 1
        found += [odd, ~odd]
    return found


def _coverage(scores: Scores) -> tuple[Coverage, ...]:
    return tuple(
        Coverage(k, h, REPORTED, before, after, count)
        for k, h, before, after, count in scores.coverage(REPORTED)
    )
