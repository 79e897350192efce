"""Filtering, smoothing and forecasting with bands around an identified model."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from statewise.data import Experiments, Normaliser, Record
from statewise.estimators._base import BaseIdentifier, NotFittedError, _layout
from statewise.estimators._inputs import as_experiments, one_record
from statewise.estimators.bands import Bands
from statewise.estimators.calibration import (
    Adaptation,
    Calibration,
    check_interval,
    features,
    normal_width,
)
from statewise.estimators.cross_fit import left_out
from statewise.estimators.error_noise import ErrorObserver
from statewise.estimators.noise_model import (
    Coverage,
    NoiseModel,
    fit_noise,
    gap_distance,
    since_measured,
)
from statewise.estimators.online import OnlineObserver
from statewise.estimators.signals import Observer, Signals, Track

if TYPE_CHECKING:
    from statewise.nn.contract import Layer

Array = npt.NDArray[np.float64]


class Observed(BaseIdentifier):
    """An estimator whose model is wrapped in noise.

    ``fit`` fits the noise of the simulation error; :meth:`fit_noise` compares observers.

    Attributes:
        noise_: the :class:`NoiseModel`, or None when there is none.
    """

    noise_: NoiseModel | None
    model_: Layer
    normaliser_: Normaliser

    # ---- what a subclass gives ----

    @abc.abstractmethod
    def _signals(self, record: Record) -> Signals:
        """A record on the scale of the model, with its free run."""

    @abc.abstractmethod
    def _physical(self, z: Array) -> Array:
        """Outputs in units of the data from those on the scale of the model."""

    @abc.abstractmethod
    def _scaled(self, u: Array, y: Array) -> tuple[Array, Array]:
        """One sample of inputs and outputs on the scale of the model."""

    @abc.abstractmethod
    def _forecast_point(self, u: Array, y: Array, u_future: Array) -> Array:
        """Outputs (H, n_y) behind a record."""

    # ---- use ----

    def fit_noise(
        self,
        train: Experiments | None,
        valid: Experiments | None = None,
        *,
        observers: Sequence[Observer] | None = None,
        folds: int = 0,
    ) -> Self:
        """Fit noise levels by maximum likelihood and calibrate the intervals.

        Levels are fitted to the errors on the training records and to those on the validation
        records; what predicts held-out validation data better is kept, and with several
        ``observers`` the best of all. Intervals are widened or narrowed to what validation data
        show (split conformal, with the correction for finite samples), for every horizon.

        A short validation record may be unlike the data to come. With ``folds`` the training
        records tell too how large errors on new data are, and when: they are cut into that many
        blocks, for each a copy of the estimator is identified without it, and its errors there
        join those of the validation records (cross-conformal). That costs as many trainings. The
        copies see fewer data than the model, so bands are rather wide than narrow.

        Args:
            train: the records that the model was trained on, or None.
            valid: records that it was not trained on; without them errors are judged in sample,
                and intervals are too narrow for new data.
            observers: what to compare, None for :class:`ErrorObserver` alone, which is quick. A
                :class:`StateObserver` corrects the state of the network itself.
            folds: 0, or the number of blocks of the training records that are left out in turn,
                such as 5 or one a season, with an :class:`ErrorObserver` alone.

        Returns:
            The estimator, with ``noise_``.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: records of other channels, or with too few measurements; folds without
                training records, or beside an observer of the network's own state.
        """
        self._check_fitted()
        given: list[Observer] = [ErrorObserver()] if observers is None else list(observers)
        seen, unseen = self._all_signals(train), self._all_signals(valid)
        crossed: list[Signals] = []
        if folds:
            if train is None:
                raise ValueError(f"folds={folds} leaves out training records; given none")
            if not all(isinstance(observer, ErrorObserver) for observer in given):
                raise ValueError(
                    "folds gives errors of the free run, which an ErrorObserver works on; given "
                    + ", ".join(type(observer).__name__ for observer in given)
                )
            crossed = left_out(self, train, valid, folds)
        self.noise_ = fit_noise(given, seen, unseen, self.model_, crossed)
        return self

    def filter(self, u: Any, y: Any = None, *, interval: float = 0.9, adapt: float = 0.0) -> Any:
        """One-step-ahead bands along records: p(y_t | y_1 … y_{t−1}, u_1 … u_t).

        Every measured output corrects the observer before the next one. A missing output corrects
        nothing; bands widen until the next measurement.

        Args:
            u: inputs (L,) or (L, n_u), a list of records, or an
                :class:`~statewise.data.Experiments` with the outputs in it.
            y: outputs (L,) or (L, n_y); NaN is missing.
            interval: probability of the band.
            adapt: rate at which bands widen when too many measurements fall outside and narrow
                when too few do, for records that drift away from the validation data, such as 0.05:
                each measurement outside a 90 % band makes the next ones 4.6 % wider, each inside
                0.5 % narrower (:class:`~statewise.estimators.calibration.Adaptation`). 0 leaves
                them as they were calibrated.

        Returns:
            :class:`Bands` for one record, else a list of them.

        Raises:
            NotFittedError: before ``fit``, or without noise levels.
            ValueError: shapes that do not fit, an interval that is no probability, or a rate that
                is not in [0, 1).
        """
        Adaptation(interval, adapt, 1)
        return self._each(u, y, interval, functools.partial(self._filtered, rate=adapt))

    def smooth(self, u: Any, y: Any = None, *, interval: float = 0.9) -> Any:
        """Bands of what would be measured given all measurements: p(y_t | y_1 … y_L, u).

        It fills gaps: at a missing output the band holds the value that was not measured with the
        given probability. At a measured one it is that of a second measurement.

        Args:
            u: inputs as in :meth:`filter`.
            y: outputs; NaN is missing.
            interval: probability of the band.

        Returns:
            :class:`Bands` for one record, else a list of them.

        Raises:
            NotFittedError: before ``fit``, or without noise levels.
            ValueError: shapes that do not fit, or an interval that is no probability.
        """
        return self._each(u, y, interval, self._smoothed)

    def forecast(self, u: Any, y: Any, u_future: Any, *, interval: float | None = None) -> Any:
        """Forecast the outputs that follow a record, given its future inputs.

        Args:
            u: inputs of the record (L,) or (L, n_u).
            y: measured outputs (L,) or (L, n_y); NaN is missing.
            u_future: inputs after the record (H,) or (H, n_u).
            interval: None for the outputs alone, or the probability of a band.

        Returns:
            Outputs (H, n_y), of the free run and the model of its errors; with an ``interval`` the
            :class:`Bands` of the observer.

        Raises:
            NotFittedError: before ``fit``, or with an ``interval`` and no noise levels.
            ValueError: more than one record, or shapes that do not fit.
        """
        self._check_fitted()
        past, future = self._one_input(u, "u"), self._one_input(u_future, "u_future")
        measured = self._one_output(y, len(past))
        if interval is None:
            return self._forecast_point(past, measured, future)
        noise = self._noise(interval)
        unknown = np.full((len(future), measured.shape[1]), np.nan)
        (record,) = as_experiments(
            np.concatenate([past, future]), np.concatenate([measured, unknown])
        )
        signals = self._signals(record)
        track = noise.levels.filter(signals, self.model_)
        last = slice(len(past), None)
        horizon = since_measured(signals.z)
        found = self._bands(signals, track, noise.ahead, horizon, interval, last)
        return Bands(**{**found, "innovations": None, "log_likelihood": None})

    def coverage(self, experiments: Experiments, *, interval: float = 0.9) -> tuple[Coverage, ...]:
        """Share of the measurements inside intervals, for every horizon of the calibration.

        Args:
            experiments: records; their first ``skip`` samples are not counted.
            interval: probability of the intervals.

        Returns:
            One row per output and horizon that something was measured at.

        Raises:
            NotFittedError: before ``fit``, or without noise levels.
            ValueError: records of other channels, or an interval that is no probability.
        """
        self._check_fitted()
        noise = self._noise(interval)
        self._check_experiments(experiments)
        table, normal = noise.ahead, normal_width(interval)
        counts = np.zeros((3, len(table.horizons), len(self.output_names_)), dtype=np.int64)
        for record in experiments:
            signals = self._signals(record)
            found = noise.levels.ahead(signals, table.horizons, self.model_)
            for index, (mean, variance) in enumerate(found):
                error = (np.abs(signals.z - mean) / np.sqrt(variance))[record.skip :]
                at = np.full(signals.z.shape, table.horizons[index])
                rows = features(mean, signals.free, np.asarray(table.change))
                half = (table.scale_at(rows, at) * table.width_at(interval, at))[record.skip :]
                counts[0, index] += np.isfinite(error).sum(0)
                counts[1, index] += (error <= normal).sum(0)
                counts[2, index] += (error <= half).sum(0)
        return tuple(
            Coverage(k, h, float(interval), float(before / n), float(after / n), int(n))
            for h, row in zip(table.horizons, counts.transpose(1, 2, 0), strict=True)
            for k, (n, before, after) in enumerate(row)
            if n
        )

    def observer(self, *, interval: float = 0.9, adapt: float = 0.0) -> OnlineObserver:
        """An observer for a stream of samples, from the state of rest on, with constant memory.

        Args:
            interval: probability of its bands.
            adapt: rate at which they follow the coverage so far, as in :meth:`filter`.

        Raises:
            NotFittedError: before ``fit``, or without noise levels.
            ValueError: an interval that is no probability.
        """
        self._check_fitted()
        noise = self._noise(interval)
        stream = noise.levels.stream(self.model_)
        adaptation = Adaptation(interval, adapt, len(self.output_names_))
        return OnlineObserver(
            stream,
            noise.ahead,
            interval,
            adaptation,
            self._scaled,
            self._physical,
            self.n_features_in_,
        )

    # ---- helpers ----

    def _all_signals(self, experiments: Experiments | None) -> list[Signals]:
        if experiments is None:
            return []
        self._check_experiments(experiments)
        return [self._signals(r) for r in experiments if np.isfinite(r.y).any()]

    def _noise(self, interval: float) -> NoiseModel:
        check_interval(interval)
        noise = getattr(self, "noise_", None)
        if noise is None:
            raise NotFittedError(
                f"this {type(self).__name__} has no noise levels; fit them with "
                "model.fit_noise(train, valid)"
            )
        return noise

    def _each(self, u: Any, y: Any, interval: float, way: Any) -> Any:
        self._check_fitted()
        noise = self._noise(interval)
        layout = _layout(u, y)
        experiments = as_experiments(u, y)
        self._check_experiments(experiments)
        found = [way(self._signals(record), noise, interval) for record in experiments]
        return found[0] if layout == "one" else found

    def _filtered(self, signals: Signals, noise: NoiseModel, interval: float, rate: float) -> Bands:
        track = noise.levels.filter(signals, self.model_)
        horizon = since_measured(signals.z)
        return Bands(**self._bands(signals, track, noise.ahead, horizon, interval, rate=rate))

    def _smoothed(self, signals: Signals, noise: NoiseModel, interval: float) -> Bands:
        track = noise.levels.smooth(signals, self.model_)
        found = self._bands(signals, track, noise.inside, gap_distance(signals.z), interval)
        return Bands(**{**found, "innovations": None, "log_likelihood": None})

    def _bands(
        self,
        signals: Signals,
        track: Track,
        table: Calibration,
        horizon: Array,
        interval: float,
        part: slice = slice(None),
        rate: float = 0.0,
    ) -> dict[str, Any]:
        """Fields of :class:`Bands` for a part of a record."""
        rows = features(track.mean, signals.free, np.asarray(table.change))
        sigma = np.sqrt(track.variance) * table.scale_at(rows, horizon)
        score = (signals.z - track.mean) / sigma
        known = np.isfinite(score)
        half = sigma * table.width_at(interval, horizon)
        if rate:
            half = _adapted(signals.z, track.mean, half, Adaptation(interval, rate, half.shape[1]))
        density = -np.log(sigma) - 0.5 * np.log(2 * np.pi) - 0.5 * score**2
        mean = track.mean
        fields = {
            "mean": self._physical(mean),
            "lower": self._physical(mean - half),
            "upper": self._physical(mean + half),
            "std": (self._physical(mean + sigma) - self._physical(mean - sigma)) / 2,
            "state_mean": track.state_mean,
            "state_std": np.sqrt(np.maximum(track.state_variance, 0.0)),
            "innovations": score,
            "observed": known,
        }
        cut = {name: value[part] for name, value in fields.items()}
        likelihood = float(np.sum(np.where(known, density, 0.0)[part]))
        return {**cut, "interval": float(interval), "log_likelihood": likelihood}

    def _one_input(self, u: Any, what: str) -> Array:
        inputs = one_record(u, what)
        self._check_inputs(inputs.shape[1])
        return inputs

    def _one_output(self, y: Any, length: int) -> Array:
        outputs = one_record(y, "y")
        if outputs.shape != (length, len(self.output_names_)):
            raise ValueError(
                f"u has {length} samples and the model {len(self.output_names_)} output(s); "
                f"given y of shape {outputs.shape}"
            )
        return outputs


def _adapted(z: Array, mean: Array, half: Array, adaptation: Adaptation) -> Array:
    """Half widths (L, n_y) that follow the coverage of the samples before."""
    adapted = half.copy()
    for t in range(len(z)):
        adapted[t] *= adaptation.factor
        adaptation.see(z[t], mean[t], adapted[t])
    return adapted


def fit_quietly(
    estimator: Observed, train: Experiments | None, valid: Experiments | None
) -> NoiseModel | None:
    """The noise that ``fit_noise`` finds, or None where the records do not tell it."""
    try:
        return estimator.fit_noise(train, valid).noise_
    except ValueError:
        return None
