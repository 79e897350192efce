"""How sure a model is: shares inside its intervals, its bands, and what its innovations hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from statewise.analysis import ResidualTest, whiteness
from statewise.data import Experiments, Record
from statewise.estimators.bands import Bands
from statewise.estimators.calibration import normal_width
from statewise.estimators.error_noise import ErrorNoise
from statewise.report.content import Trace
from statewise.report.stretches import Stretch, stretches

Array = npt.NDArray[np.float64]

INTERVAL = 0.9
#: Outputs whose bands are drawn.
DRAWN = 3
MAX_LAG = 25
#: Part of a stretch that a forecast is given.
KNOWN = 0.3


@dataclasses.dataclass(frozen=True)
class Share:
    """Share of the measurements of one output that are inside the intervals.

    Attributes:
        split: "validation" held out by halves, or whatever was judged, or the name of a test set.
        channel: the output.
        way: "ahead" or "inside" a gap.
        horizon: samples since the last measurement, or in a gap the harmonic mean of those to
            the measurements on either side, at least.
        before: percent inside the intervals of the noise levels alone.
        inside: percent inside the calibrated intervals.
        count: measurements.
    """

    split: str
    channel: str
    way: str
    horizon: int
    before: float
    inside: float
    count: int


@dataclasses.dataclass(frozen=True, eq=False)
class BandTrace:
    """Bands of one output over a stretch: one step ahead up to ``origin``, then a forecast.

    Attributes:
        kind: "worst" for the worst stretch of the free run, "typical", or "state" of an observer.
        channel: the output.
        unit: its unit.
        split: part of the data.
        record: name of the record.
        time: (L,) numbers, or datetime64.
        time_unit: unit of ``time`` when it holds numbers.
        measured: (L,), NaN where missing.
        mean: (L,).
        lower: (L,).
        upper: (L,).
        origin: samples that the forecast was given; L where there is none.
    """

    kind: str
    channel: str
    unit: str
    split: str
    record: str
    time: np.ndarray
    time_unit: str
    measured: Array
    mean: Array
    lower: Array
    upper: Array
    origin: int


@dataclasses.dataclass(frozen=True)
class Moments:
    """Innovations of one output beside standard normal numbers.

    Attributes:
        channel: the output.
        count: innovations.
        mean: 0 is expected.
        deviation: standard deviation; 1 is expected.
        skewness: 0 is expected.
        excess: kurtosis less that of the normal law; 0 is expected, more means heavy tails.
        normal_p: probability of skewness and kurtosis at least as far off (K² test).
    """

    channel: str
    count: int
    mean: float
    deviation: float
    skewness: float
    excess: float
    normal_p: float


@dataclasses.dataclass(frozen=True, eq=False)
class Certainty:
    """How sure a model is of its outputs.

    Attributes:
        interval: percent that an interval should hold.
        observer: how measurements correct the model.
        judged_on: data that the intervals were calibrated on.
        split: the test set that they are judged on.
        candidates: observers that were compared, with their log-likelihoods of held-out data.
        shares: how many measurements are inside.
        bands: stretches to draw.
        whiteness: test of the innovations one step ahead, one for each output.
        moments: the same innovations beside standard normal numbers.
        states: normal bands of states of the observer, with the measurements up to ``origin``
            taken in, over the typical stretch of the first output, on the scale of the model;
            ``measured`` is NaN.
    """

    interval: float
    observer: str
    judged_on: str
    split: str
    candidates: Sequence[tuple[str, float]]
    shares: Sequence[Share]
    bands: Sequence[BandTrace]
    whiteness: Sequence[ResidualTest]
    moments: Sequence[Moments]
    states: Sequence[BandTrace] = ()


def certainty(
    identifier: Any, split: str, test: Experiments, traces: Sequence[Trace], name: str
) -> Certainty | None:
    """Judge the intervals of a model on a test set.

    Args:
        identifier: the fitted estimator.
        split: name of the test set.
        test: its records.
        traces: outputs of the free run, to find stretches to draw.
        name: name of the model in ``traces``.

    Returns:
        What is known, or None for a model without noise levels.
    """
    noise = getattr(identifier, "noise_", None)
    if noise is None:
        return None
    names = test.output_names
    shares = [
        Share(noise.judged_on, names[r.output], way, r.horizon, *_percent(r), r.count)
        for way, rows in (("ahead", noise.coverage), ("inside", noise.coverage_inside))
        for r in rows
    ]
    shares += [
        Share(split, names[r.output], "ahead", r.horizon, *_percent(r), r.count)
        for r in identifier.coverage(test, interval=INTERVAL)
    ]
    found = identifier.filter(test, interval=INTERVAL)
    innovations = [one.innovations[r.skip :] for one, r in zip(found, test, strict=True)]
    bands, states = _bands(identifier, split, test, traces, name, found)
    return Certainty(
        interval=100 * INTERVAL,
        observer=type(noise.levels).__name__,
        judged_on=noise.judged_on,
        split=split,
        candidates=noise.candidates,
        shares=shares,
        bands=bands,
        whiteness=_whiteness(innovations, names),
        moments=[_moments(innovations, k, channel) for k, channel in enumerate(names)],
        states=states,
    )


def _percent(row: Any) -> tuple[float, float]:
    return 100 * row.before, 100 * row.after


def _whiteness(innovations: Sequence[Array], names: Sequence[str]) -> list[ResidualTest]:
    pooled = np.concatenate(innovations)
    lags = min(MAX_LAG, int(np.isfinite(pooled).sum(0).min()) // 4, max(map(len, innovations)) - 1)
    if lags < 2:
        return []
    return [
        dataclasses.replace(test, sentence=test.sentence.replace("residuals", "innovations"))
        for test in whiteness(innovations, lags, names=list(names))
    ]


def _moments(innovations: Sequence[Array], k: int, channel: str) -> Moments:
    from scipy import stats

    e = np.concatenate(innovations)[:, k]
    e = e[np.isfinite(e)]
    nan = float("nan")
    if len(e) < 20 or np.ptp(e) == 0:
        return Moments(channel, len(e), nan, nan, nan, nan, nan)
    return Moments(
        channel=channel,
        count=len(e),
        mean=float(e.mean()),
        deviation=float(e.std()),
        skewness=float(stats.skew(e)),
        excess=float(stats.kurtosis(e)),
        normal_p=float(stats.normaltest(e).pvalue),
    )


def _bands(
    identifier: Any,
    split: str,
    test: Experiments,
    traces: Sequence[Trace],
    name: str,
    filtered: Sequence[Any],
) -> tuple[list[BandTrace], list[BandTrace]]:
    """The worst stretch one step ahead, and a forecast in a typical one, of the first record.

    And states in the typical stretch of the first output.
    """
    record, found, states = test[0], [], []
    own = [trace for trace in traces if trace.split == split][: test.n_y]
    for k, trace in enumerate(own[:DRAWN]):
        for stretch in stretches(trace, name):
            part = slice(stretch.first, stretch.stop)
            origin, one = stretch.stop - stretch.first, filtered[0]
            if stretch.kind == "typical":
                origin = int(KNOWN * origin)
                known = stretch.first + origin
                hidden = _hidden(record, known, stretch.stop)
                (one,) = identifier.filter(
                    dataclasses.replace(test, records=(hidden,)), interval=INTERVAL
                )
                if k == 0:
                    levels = identifier.noise_.levels
                    states = _states(levels, test.output_names, trace, stretch, origin, one)
            found.append(
                BandTrace(
                    kind=stretch.kind,
                    channel=trace.channel,
                    unit=trace.unit,
                    split=split,
                    record=trace.record,
                    time=trace.time[part],
                    time_unit=trace.time_unit,
                    measured=np.asarray(trace.measured, np.float64)[part],
                    mean=one.mean[part, k],
                    lower=one.lower[part, k],
                    upper=one.upper[part, k],
                    origin=origin,
                )
            )
    return found, states


def _states(
    levels: Any, names: Sequence[str], trace: Trace, stretch: Stretch, origin: int, found: Bands
) -> list[BandTrace]:
    """The error of the simulation of each output, or the states that are least known."""
    if found.state_mean is None or found.state_std is None:
        return []
    part = slice(stretch.first, stretch.stop)
    mean, deviation = found.state_mean[part], found.state_std[part]
    n = mean.shape[1]
    if isinstance(levels, ErrorNoise):
        # The states are the present error and earlier ones, output by output.
        order = n // len(names)
        shown = {k * order: f"error of {channel}" for k, channel in enumerate(names[:DRAWN])}
    else:
        unsure = deviation.mean(0) / (np.ptp(mean, axis=0) + 1e-12)
        shown = {int(i): f"state {i + 1} of {n}" for i in np.argsort(-unsure)[:DRAWN]}
    half = normal_width(INTERVAL) * deviation
    return [
        BandTrace(
            kind="state",
            channel=channel,
            unit="",
            split=trace.split,
            record=trace.record,
            time=trace.time[part],
            time_unit=trace.time_unit,
            measured=np.full(len(mean), np.nan),
            mean=mean[:, i],
            lower=mean[:, i] - half[:, i],
            upper=mean[:, i] + half[:, i],
            origin=origin,
        )
        for i, channel in shown.items()
    ]


def _hidden(record: Record, known: int, stop: int) -> Record:
    """The first ``stop`` samples, with no outputs behind ``known``."""
    part = record.part(0, stop, skip=record.skip)
    y = np.array(part.y)
    y[known:] = np.nan
    return dataclasses.replace(part, y=y, y_mask=None)
