"""The one number that matters, in a sentence, and the verdict beside the best baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from statewise.report.content import ReportData, ScoreTableRow
from statewise.report.words import (
    HIGHER_IS_BETTER,
    duration,
    metric_name,
    number,
    percent_explained,
    split_name,
)

#: Parts of the data that the model has seen.
SEEN = frozenset({"train", "training", "valid", "validation"})
#: Metrics for the headline, the first that is there and a number.
_PREFERRED = ("nse", "r2", "fit", "nrmse", "rmse", "mae", "vaf")


@dataclasses.dataclass(frozen=True)
class Headline:
    """What the head of the page says.

    Attributes:
        claim: the finding in one sentence.
        detail: method, mode, split and window behind the number.
        verdict: comparison with the best baseline, or a sentence that there is none.
        metric: name of the metric behind the claim, empty without scores.
        value: its mean over the outputs.
        split: the part of the data.
        baseline: name of the best baseline, or None.
        baseline_value: its value of the metric.
        error_ratio: RMSE of the model over RMSE of the baseline, root mean square over the
            outputs, or None.
    """

    claim: str
    detail: str = ""
    verdict: str = ""
    metric: str = ""
    value: float = float("nan")
    split: str = ""
    baseline: str | None = None
    baseline_value: float = float("nan")
    error_ratio: float | None = None


def headline(data: ReportData) -> Headline:
    """Find the headline: the identified model in free run on the first test set."""
    split = main_split(data)
    own = main_rows(data, data.model.name, split)
    metric = next(
        (
            name
            for name in _PREFERRED
            if (values := _values(own, name)) and np.isfinite(values).all()
        ),
        None,
    )
    if metric is None:
        return Headline(f"{data.model.name}, identified from {data.data.name}")
    value = float(np.mean(_values(own, metric)))
    row = next(row for row in own if row.metric == metric)
    baseline, baseline_value = _best_baseline(data, split, metric)
    ratio = None if baseline is None else _error_ratio(own, main_rows(data, baseline, split))
    return Headline(
        claim=_claim(data, own, metric, value, split),
        detail=f"{data.model.name} · {row.mode} · {split_name(split)} · {row.window}",
        verdict=_verdict(data, metric, value, baseline, baseline_value, ratio),
        metric=metric,
        value=value,
        split=split,
        baseline=baseline,
        baseline_value=baseline_value,
        error_ratio=ratio,
    )


def unseen_splits(data: ReportData) -> list[str]:
    """Names of the parts of the data that are neither for training nor for validation."""
    seen = [row.split for row in data.scores] + [part.split for part in data.data.parts]
    return [name for name in dict.fromkeys(seen) if name not in SEEN]


def main_split(data: ReportData) -> str:
    """The first test set, or the last split that is there."""
    tests = unseen_splits(data)
    if tests:
        return tests[0]
    return data.scores[-1].split if data.scores else ""


def main_mode(data: ReportData) -> str:
    """Free-run simulation when it was scored, else the first mode of the table."""
    modes = [row.mode for row in data.scores]
    return "simulation" if "simulation" in modes or not modes else modes[0]


def main_rows(data: ReportData, method: str, split: str) -> list[ScoreTableRow]:
    """Scores of one method on one split in the main mode."""
    mode = main_mode(data)
    return [
        row
        for row in data.scores
        if row.method == method and row.split == split and row.mode == mode
    ]


def baselines(data: ReportData) -> list[str]:
    """Methods of the error table other than the identified model."""
    names = dict.fromkeys(row.method for row in data.scores)
    return [name for name in names if name != data.model.name]


def best_baseline(data: ReportData) -> str | None:
    """The baseline with the best headline metric."""
    return headline(data).baseline


def _values(rows: Sequence[ScoreTableRow], metric: str) -> list[float]:
    return [row.value for row in rows if row.metric == metric]


def _best_baseline(data: ReportData, split: str, metric: str) -> tuple[str | None, float]:
    best, best_value = None, float("nan")
    for name in baselines(data):
        values = _values(main_rows(data, name, split), metric)
        if not values or not np.isfinite(values).all():
            continue
        value = float(np.mean(values))
        better = value > best_value if metric in HIGHER_IS_BETTER else value < best_value
        if best is None or better:
            best, best_value = name, value
    return best, best_value


def _error_ratio(own: Sequence[ScoreTableRow], other: Sequence[ScoreTableRow]) -> float | None:
    """RMS over the outputs of each error, relative to the baseline's error of that output."""
    reference = {row.channel: row.value for row in other if row.metric == "rmse"}
    ratios = [
        row.value / reference[row.channel]
        for row in own
        if row.metric == "rmse" and reference.get(row.channel, 0) > 0
    ]
    return float(np.sqrt(np.mean(np.square(ratios)))) if ratios else None


def _claim(
    data: ReportData, own: Sequence[ScoreTableRow], metric: str, value: float, split: str
) -> str:
    scored = sum(part.scored for part in data.data.parts if part.split == split)
    seen = split in SEEN
    much = (
        duration(scored, data.data.dt, data.data.time_unit)
        if scored
        else f"the {split_name(split)} data"
    )
    where = f"on {much} it never saw"
    if seen:
        where = f"on {much} of the {split_name(split)} data" if scored else f"on {much}"
    channels = [row.channel for row in own if row.metric == metric]
    what = channels[0] if len(channels) == 1 else f"{len(channels)} outputs"
    if metric in ("nse", "r2"):
        if value < 0:
            return f"Does not explain {what} {where}: worse than its mean"
        average = " on average" if len(channels) > 1 else ""
        return f"Explains {percent_explained(value)} of the variance of {what}{average} {where}"
    row = next(row for row in own if row.metric == metric)
    figure = f"{metric_name(metric)} {number(value, 3)} {row.unit}".rstrip()
    return f"{figure} for {what} {where}"


def _verdict(
    data: ReportData,
    metric: str,
    value: float,
    baseline: str | None,
    baseline_value: float,
    ratio: float | None,
) -> str:
    if baseline is None:
        return "No baseline stands beside it, so the number cannot be judged by itself."
    if metric in ("nse", "r2"):
        said = f"explains {percent_explained(baseline_value)}"
        if baseline_value < 0:
            said = "does worse than the mean"
    else:
        said = f"reaches {metric_name(metric)} {number(baseline_value, 3)}"
    opening = f"The best baseline, {baseline}, {said}"
    if ratio is None:
        better = value > baseline_value if metric in HIGHER_IS_BETTER else value < baseline_value
        return f"{opening}; the model is {'better' if better else 'not better'}."
    if ratio < 0.5:
        return f"{opening}; its error (RMSE) is {number(1 / ratio, 2)} times that of the model."
    if ratio < 0.995:
        return f"{opening}; the model's error (RMSE) is {100 * (1 - ratio):.0f} % lower."
    if ratio <= 1.005:
        return f"{opening}; the model's error is the same, so the simpler baseline is enough."
    return (
        f"{opening}; the model's error (RMSE) is {100 * (ratio - 1):.0f} % higher, "
        "so the baseline is the better model here."
    )
