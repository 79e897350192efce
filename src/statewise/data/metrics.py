"""Errors of a simulation or prediction, per channel, each with its window, split and unit.

All functions take ``y`` and ``y_hat`` of shape (L,) or (L, n_y) and return an array (n_y,). A
sample counts when ``mask`` is True there and ``y`` is a number; NaN in ``y`` means missing. Two
rules hold everywhere: a channel without any sample to count is a ``ValueError``, and a value that
has no meaning is NaN (a relative metric on a constant ``y``, any metric on a prediction that is not
finite at a counted sample).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from statewise.data import Experiments

Array = npt.NDArray[np.float64]


def rmse(y: npt.ArrayLike, y_hat: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
    """Root mean squared error √mean((y − ŷ)²), in the unit of ``y``.

    Args:
        y: measured outputs, (L,) or (L, n_y); NaN is missing.
        y_hat: simulated or predicted outputs, same shape.
        mask: True where a sample counts, (L,) or (L, n_y); None counts all that are not NaN.

    Returns:
        One value per channel, (n_y,).

    Raises:
        ValueError: shapes that differ, or a channel with no sample to count.
    """
    return _per_channel(lambda y, e: np.sqrt(np.mean(e**2)), y, y_hat, mask)


def mae(y: npt.ArrayLike, y_hat: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
    """Mean absolute error mean(|y − ŷ|), in the unit of ``y``; arguments as for :func:`rmse`."""
    return _per_channel(lambda y, e: np.mean(np.abs(e)), y, y_hat, mask)


def nrmse(y: npt.ArrayLike, y_hat: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
    """RMSE / std(y), NaN for a constant ``y``; arguments as for :func:`rmse`.

    0 is perfect and 1 is as good as the mean of ``y``.
    """
    return _per_channel(lambda y, e: np.sqrt(np.mean(e**2)) / _std(y), y, y_hat, mask)


def fit_percent(y: npt.ArrayLike, y_hat: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
    """FIT = 100 (1 − ‖y − ŷ‖ / ‖y − ȳ‖) percent, NaN for a constant ``y``.

    Arguments as for :func:`rmse`. 100 is perfect, 0 is as good as the mean of ``y``, negative is
    worse. Source: Ljung, System Identification (1999); the "model fit" of the field.
    """
    return 100.0 * (1.0 - nrmse(y, y_hat, mask))


def r2(y: npt.ArrayLike, y_hat: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
    """R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)², NaN for a constant ``y``; arguments as for :func:`rmse`.

    The Nash–Sutcliffe efficiency of hydrology, :func:`nse`, is the same number.
    """
    return _per_channel(lambda y, e: 1.0 - (np.sqrt(np.mean(e**2)) / _std(y)) ** 2, y, y_hat, mask)


nse = r2


def vaf(y: npt.ArrayLike, y_hat: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
    """Variance accounted for, 100 (1 − var(y − ŷ) / var(y)) percent, NaN for a constant ``y``.

    Arguments as for :func:`rmse`. Unlike :func:`fit_percent` it does not see a constant offset.
    It is not clipped, so a bad model is negative.
    """
    return _per_channel(lambda y, e: 100.0 * (1.0 - (np.std(e) / _std(y)) ** 2), y, y_hat, mask)


@dataclasses.dataclass(frozen=True)
class _Metric:
    """How a metric is computed and written; ``unit`` None takes the unit of the channel."""

    label: str
    function: Callable[..., Array]
    unit: str | None


_METRICS = {
    "rmse": _Metric("RMSE", rmse, None),
    "mae": _Metric("MAE", mae, None),
    "nrmse": _Metric("NRMSE", nrmse, ""),
    "fit": _Metric("FIT", fit_percent, "%"),
    "fit_percent": _Metric("FIT", fit_percent, "%"),
    "r2": _Metric("R²", r2, ""),
    "nse": _Metric("NSE", nse, ""),
    "vaf": _Metric("VAF", vaf, "%"),
}


@dataclasses.dataclass(frozen=True)
class Score:
    """One error number with everything needed to read it.

    Attributes:
        metric: ``"rmse"``, ``"mae"``, ``"nrmse"``, ``"fit"`` (or ``"fit_percent"``), ``"r2"``,
            ``"nse"`` or ``"vaf"``.
        value: the number; NaN when the metric is undefined on these samples.
        channel: name of the output.
        unit: unit of ``value``, empty when it has none.
        split: which part of the data, such as ``"test"``.
        window: which samples counted, counted from 1.
        mode: ``"simulation"`` or ``"3-step prediction"``.
    """

    metric: str
    value: float
    channel: str
    unit: str
    split: str
    window: str
    mode: str

    def __str__(self) -> str:
        label = _METRICS[self.metric].label if self.metric in _METRICS else self.metric
        value = f"{label} {self.value:.4g} {self.unit}".rstrip()
        return f"{value} (channel {self.channel}, {self.split}, {self.mode}, {self.window})"

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; a value that is not finite becomes None."""
        fields = dataclasses.asdict(self)
        fields["value"] = self.value if np.isfinite(self.value) else None
        return fields


def score(
    experiments: Experiments,
    predictions: Sequence[npt.ArrayLike],
    *,
    metrics: Sequence[str] = ("rmse", "nrmse", "fit", "nse", "vaf"),
    split: str = "test",
    mode: str | int = "simulation",
    scale: float = 1.0,
    unit: str | None = None,
) -> list[Score]:
    """Score predictions against records: every metric for every output.

    The samples of all records are pooled, so ȳ and std(y) are those of the pooled samples. The
    first ``skip`` samples of each record and the missing samples do not count.

    Args:
        experiments: the measured records.
        predictions: one array (L, n_y) per record, in the units of the records.
        metrics: names out of rmse, mae, nrmse, fit (or fit_percent), r2, nse, vaf.
        split: the name of this part of the data.
        mode: ``"simulation"``, or the number of steps ahead, or other words.
        scale: RMSE and MAE are multiplied by it, such as 1000 from V to mV.
        unit: unit of the scaled RMSE and MAE; None takes the unit of the output.

    Returns:
        The scores, output by output, in the order of ``metrics``.

    Raises:
        ValueError: unknown metric, shapes that do not fit, a scale without its unit, or an output
            of which no sample counts.
    """
    unknown = [name for name in metrics if name not in _METRICS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}; known metrics: {', '.join(_METRICS)}")
    if scale != 1.0 and unit is None:
        raise ValueError(f"scale {scale:g} changes the unit of the error: give unit= as well")
    if len(predictions) != len(experiments):
        raise ValueError(
            f"{len(experiments)} records need as many predictions, got {len(predictions)}"
        )
    pairs = [
        _scored_part(record, prediction, index)
        for index, (record, prediction) in enumerate(zip(experiments, predictions, strict=True))
    ]
    y = np.concatenate([pair[0] for pair in pairs])
    y_hat = np.concatenate([pair[1] for pair in pairs])
    window = describe_window([len(r) for r in experiments], [r.skip for r in experiments])
    scores = []
    for index, channel in enumerate(experiments.output_names):
        observed = ~np.isnan(y[:, index])
        if not observed.any():
            raise ValueError(
                f"channel {channel} has no observed sample to score in {split} ({window})"
            )
        missing = int(observed.size - observed.sum())
        where = f"{window}, {missing} missing" if missing else window
        own_unit = experiments.output_units[index] if unit is None else unit
        for name in metrics:
            metric = _METRICS[name]
            value = float(metric.function(y[:, index], y_hat[:, index])[0])
            if metric.unit is None:
                value *= scale
            shown = (own_unit or "") if metric.unit is None else metric.unit
            scores.append(Score(name, value, channel, shown, split, where, describe_mode(mode)))
    return scores


def describe_mode(mode: str | int) -> str:
    """Say how outputs were computed: an integer k becomes ``"k-step prediction"``.

    Raises:
        ValueError: an integer below 1.
    """
    if isinstance(mode, str):
        return mode
    if mode < 1:
        raise ValueError(f"a prediction looks at least 1 step ahead, got {mode}")
    return f"{mode}-step prediction"


def describe_window(lengths: Sequence[int], skips: Sequence[int]) -> str:
    """Say which samples count, given the length and the skipped start of each record.

    Args:
        lengths: samples of each record.
        skips: leading samples of each record that only set the initial state.

    Returns:
        Such as ``"samples 51–1024: first 50 for the initial state"``.
    """
    same = len(set(lengths)) <= 1 and len(set(skips)) <= 1
    if same:
        text = f"samples {skips[0] + 1}–{lengths[0]}"
        text += f" of each of {len(lengths)} records" if len(lengths) > 1 else ""
        return text + (f": first {skips[0]} for the initial state" if skips[0] else "")
    scored = sum(max(length - skip, 0) for length, skip in zip(lengths, skips, strict=True))
    text = f"{scored} samples of {len(lengths)} records"
    if not any(skips):
        return text
    low, high = min(skips), max(skips)
    span = f"{low}" if low == high else f"{low}–{high}"
    return f"{text}: first {span} of each for the initial state"


def _scored_part(record: Any, prediction: npt.ArrayLike, index: int) -> tuple[Array, Array]:
    """Cut the skipped start off a record and its prediction."""
    y = np.asarray(record.y, dtype=np.float64)
    y_hat = np.asarray(prediction, dtype=np.float64)
    if y_hat.ndim == 1:
        y_hat = y_hat[:, None]
    if y_hat.shape != y.shape:
        raise ValueError(
            f"record {record.name or index} has outputs of shape {y.shape}, "
            f"its prediction has shape {y_hat.shape}"
        )
    return y[record.skip :], y_hat[record.skip :]


def _std(y: Array) -> float:
    """Standard deviation, NaN when constant; tested by value, since the mean rounds."""
    std = float(np.std(y))
    return std if y.min() < y.max() and std > 0.0 else float("nan")


def _per_channel(
    function: Callable[[Array, Array], Any],
    y: npt.ArrayLike,
    y_hat: npt.ArrayLike,
    mask: npt.ArrayLike | None,
) -> Array:
    """Apply ``function(y, y − ŷ)`` to the counted samples of each channel."""
    measured = np.asarray(y, dtype=np.float64)
    computed = np.asarray(y_hat, dtype=np.float64)
    if measured.shape != computed.shape or measured.ndim not in (1, 2):
        raise ValueError(
            "y and y_hat must have one shape, (L,) or (L, n_y), "
            f"got {measured.shape} and {computed.shape}"
        )
    counts = ~np.isnan(measured)
    if mask is not None:
        given = np.asarray(mask)
        if given.dtype != np.bool_:
            raise ValueError(f"mask must be boolean, got {given.dtype}")
        if given.ndim == 1 and measured.ndim == 2:
            given = given[:, None]
        fits = (measured.shape, (len(measured), 1))
        if given.ndim != measured.ndim or given.shape not in fits:
            raise ValueError(
                f"mask of shape {np.shape(mask)} does not fit y of shape {measured.shape}"
            )
        counts = counts & given
    if measured.ndim == 1:
        measured, computed, counts = measured[:, None], computed[:, None], counts[:, None]
    values = np.empty(measured.shape[1])
    for channel in range(measured.shape[1]):
        keep = counts[:, channel]
        if not keep.any():
            raise ValueError(f"channel {channel} has no observed sample to score")
        part, error = measured[keep, channel], (measured - computed)[keep, channel]
        if not np.isfinite(error).all():
            values[channel] = np.nan
            continue
        with np.errstate(over="ignore"):  # an error of 1e200 has the RMSE it has: inf
            values[channel] = function(part, error)
    return values
