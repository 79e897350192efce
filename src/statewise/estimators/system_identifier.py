"""From inputs and outputs to a deep Wiener model that simulates."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from statewise._config import from_dict, to_dict
from statewise._errors import DataError
from statewise.data import Experiments, Normaliser, Record
from statewise.data.timeaxis import SECONDS
from statewise.estimators._inputs import as_experiments, as_tensor
from statewise.estimators.linear_start import LinearStart, as_start
from statewise.estimators.noise import ErrorModel, telling_errors
from statewise.estimators.noise_model import noise_from_dict
from statewise.estimators.observed import Observed, fit_quietly
from statewise.estimators.signals import Signals
from statewise.estimators.transform import OutputTransform, undo
from statewise.models.config import DeepWienerConfig
from statewise.train.config import FitConfig
from statewise.train.initial import EncoderState, InitialState, context_samples

if TYPE_CHECKING:
    from statewise.models import DeepWiener
    from statewise.train import Initialiser

Array = npt.NDArray[np.float64]


class SystemIdentifier(Observed):
    """Identify a deep Wiener model from measured inputs and outputs.

    A stack of stable linear systems and static maps is trained in parallel over time on
    normalised signals, then simulates in free run, sample by sample if need be. Prediction adds
    the forecast of an autoregressive model of the simulation error; ``filter``, ``smooth`` and
    ``forecast(interval=)`` give bands.

    Args:
        model: size and parts of the network; None is the default
            :class:`~statewise.models.DeepWienerConfig`.
        training: settings of the training; None is the default
            :class:`~statewise.train.FitConfig`.
        transform: map of the outputs undone after simulation, or None.
        start: None draws the first weights; "linear" or a
            :class:`~statewise.estimators.LinearStart` starts at a linear model. Where validation
            records choose the weights, they are then never worse than that model.
        valid_fraction: last part of each training record kept for validation when ``fit`` gets no
            validation data; 0 trains on everything without early stopping.
        seed: seed of the initial weights and of the training.
        device: "cpu", "cuda" or "auto".

    Attributes:
        model_: the trained :class:`~statewise.models.DeepWiener`.
        normaliser_: means and standard deviations of the training records.
        nominal_dt_: the interval that the model takes as one step; None when no time was known.
        initial_state_: how a simulated record finds its state from its first ``skip`` outputs.
        initialiser_: the same at work, trained where it has something to train.
        history_: one dictionary for every evaluation during training.
        error_model_: the autoregressive model of the simulation errors on the validation records;
            the training records come in when those are too few.
        noise_: noise levels and intervals of an :class:`ErrorObserver`; None if there were too few
            measurements. :meth:`fit_noise` compares it with others.
        fit_seconds_: wall time of ``fit``.
    """

    model_: DeepWiener
    normaliser_: Normaliser
    nominal_dt_: float | None
    initial_state_: InitialState
    initialiser_: Initialiser
    error_model_: ErrorModel
    history_: list[dict[str, Any]]
    fit_seconds_: float

    def __init__(
        self,
        model: DeepWienerConfig | None = None,
        training: FitConfig | None = None,
        *,
        transform: OutputTransform | None = None,
        start: LinearStart | str | None = None,
        valid_fraction: float = 0.2,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.training = training
        self.transform = transform
        self.start = start
        self.valid_fraction = valid_fraction
        self.seed = seed
        self.device = device

    def fit(
        self,
        u: Any,
        y: Any = None,
        *,
        valid: Experiments | None = None,
        dt: float | None = None,
        folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress: bool | None = None,
        threads: int | None = None,
    ) -> Self:
        """Identify the model.

        Args:
            u: inputs (L,), (L, n_u) or (R, L, n_u), a frame, a list of records, or an
                :class:`~statewise.data.Experiments` with the outputs in it.
            y: outputs in the same form; NaN is missing.
            valid: records to choose the best moment of the training with.
            dt: sampling interval of arrays.
            folder: where checkpoints and the log go while training.
            resume: go on from the checkpoint in ``folder``.
            progress: show a progress bar; None shows it on a terminal.
            threads: CPU threads while training; None is 1 for a small model.

        Returns:
            The fitted estimator.

        Raises:
            TypeError: settings or validation data of another type, or ``dt`` beside an
                :class:`~statewise.data.Experiments`.
            ValueError: no inputs, or settings that do not fit the data.
            DataError: data that cannot be understood.
        """
        from statewise.models import DeepWiener
        from statewise.train import fit

        started = time.perf_counter()
        self._check_settings()
        if dt is not None and isinstance(u, Experiments):
            raise TypeError(f"an Experiments holds its sampling interval: leave out dt={dt}")
        if valid is not None and not isinstance(valid, Experiments):
            raise TypeError(f"valid is an Experiments or None; given {type(valid).__name__}")
        train = as_experiments(u, y, dt=dt)
        if train.n_u == 0:
            raise ValueError(
                "SystemIdentifier needs at least one input, the records have none; "
                "ARX(nb=0) identifies a model of outputs alone"
            )
        config = FitConfig() if self.training is None else self.training
        state = config.initial_state if config.valid_state is None else config.valid_state
        whole = train
        if valid is None and self.valid_fraction > 0:
            head, context = 1 - self.valid_fraction, max(config.washout, context_samples(state))
            train, valid = train.split_time((head, self.valid_fraction), context=context)
        # Not fitted any more: a fit that fails must leave no mixture of two models behind.
        vars(self).pop("n_features_in_", None)
        self.nominal_dt_, self.time_unit_ = whole.nominal_dt, whole.time_unit
        self.normaliser_ = Normaliser.fit(self._transformed(train))
        scaled = self._normalised(train)
        judged = None if valid is None else self._normalised(valid)
        start = as_start(self.start)
        if start is None:
            model = DeepWiener(train.n_u, train.n_y, self.model, seed=self.seed)
        else:
            model = start.model(scaled, judged, self.model, seed=self.seed)
        result = fit(
            model,
            scaled,
            judged,
            config,
            seed=self.seed,
            folder=folder,
            resume=resume,
            device=self.device,
            progress=progress,
            threads=threads,
            judge_start=start is not None,
        )
        self.model_ = model.to("cpu").eval()
        self.initial_state_, self.initialiser_ = state, result.initialiser.to("cpu")
        self.history_ = list(result.history)
        self._remember(whole)
        unseen = [] if valid is None else self._settled_errors(valid)
        self.error_model_ = ErrorModel.fit(telling_errors(unseen, self._settled_errors(train)))
        self.noise_ = fit_quietly(self, train, valid)
        self.scores_ = self.evaluate(train, split="train")
        if valid is not None:
            self.scores_ += self.evaluate(valid, split="validation")
        self.fit_seconds_ = time.perf_counter() - started
        return self

    # ---- states ----

    def simulate_with_state(self, u: Any, x0: Any = None) -> tuple[Array, Any]:
        """Simulate one record and give the state after it.

        Args:
            u: inputs (L,) or (L, n_u); NaN is missing.
            x0: state before the first sample, from this method or :meth:`estimate_state`; None is
                the state of rest.

        Returns:
            Outputs (L, n_y) in physical units and the state after the last sample, which
            continues the simulation when it is given as the next ``x0``.
        """
        self._check_fitted()
        return self._run(self._one_input(u, "u"), x0)

    def estimate_state(self, u: Any, y: Any) -> Any:
        """Find the state after a stretch of inputs and outputs by least squares.

        Args:
            u: inputs (L,) or (L, n_u).
            y: outputs (L,) or (L, n_y); NaN is missing.

        Returns:
            The state after the last sample, to be given as ``x0``.
        """
        from statewise.train import estimate_state

        self._check_fitted()
        inputs = self._one_input(u, "u")
        record = self._normalised(as_experiments(inputs, self._one_output(y, len(inputs))))[0]
        assert record.u is not None
        start = estimate_state(self.model_, record.u, record.y)
        return self._advance(record.u, start)[1]

    # ---- what the base asks for ----

    def _simulate_array(self, u: Array, x0: Any) -> Array:
        return self._run(u, x0)[0]

    def _simulate_record(self, record: Record) -> Array:
        from statewise.train import free_run

        (z,) = free_run(
            self.model_, self._normalised(Experiments((record,))), initial_state=self.initialiser_
        )
        return self._physical(z)

    def _predict_record(self, record: Record, steps: int) -> Array:
        simulated = self._simulate_record(record)
        errors = record.y - simulated
        if self.initialiser_.usable(record.skip):
            # The state is found anew after these samples: their errors belong to another run.
            errors[: record.skip] = np.nan
        return self._limited(simulated + self.error_model_.predict(errors, steps))

    def _forecast_point(self, u: Array, y: Array, u_future: Array) -> Array:
        simulated, _ = self._run(np.concatenate([u, u_future]), None)
        ahead = self.error_model_.forecast(y - simulated[: len(u)], len(u_future))
        return self._limited(simulated[len(u) :] + ahead)

    def _signals(self, record: Record) -> Signals:
        from statewise.train import free_run

        (scaled,) = self._normalised(Experiments((record,)))
        assert scaled.u is not None
        (free,) = free_run(self.model_, (scaled,), initial_state=self.initialiser_)
        return Signals(scaled.u, scaled.y, free, scaled.steps(), _settling(record))

    def _scaled(self, u: Array, y: Array) -> tuple[Array, Array]:
        z = y if self.transform is None else self.transform.forward(y)
        return self.normaliser_.transform_u(u), self.normaliser_.transform_y(z)

    def _write(self, folder: Path) -> dict[str, Any]:
        from statewise.models.storage import model_config, write_weights

        write_weights(self.model_, folder / "model.safetensors")
        if isinstance(self.initial_state_, EncoderState):
            write_weights(self.initialiser_, folder / "initial_state.safetensors")
        return {
            "format": 2,
            "nominal_dt": self.nominal_dt_,
            "initial_state": to_dict(self.initial_state_),
            "network": model_config(self.model_),
            "normaliser": self.normaliser_.to_dict(),
            "error_model": {
                "coefficients": self.error_model_.coefficients.tolist(),
                "variance": self.error_model_.variance.tolist(),
            },
            "noise": to_dict(self.noise_),
            "history": self.history_,
            "fit_seconds": self.fit_seconds_,
        }

    def _read(self, folder: Path, kept: dict[str, Any]) -> None:
        from statewise.models import DeepWiener
        from statewise.models.storage import build_model, read_weights
        from statewise.train import build_initialiser

        if kept.get("format") != 2:
            raise DataError(f"{folder}: expected format 2, found {kept.get('format')!r}")
        network = build_model(kept["network"])
        if not isinstance(network, DeepWiener):
            raise DataError(
                f"{folder}: expected the network of a DeepWiener, found {type(network).__name__}"
            )
        self.model_ = network
        read_weights(self.model_, folder / "model.safetensors")
        self.model_.eval()
        self.nominal_dt_ = None if kept["nominal_dt"] is None else float(kept["nominal_dt"])
        self.initial_state_ = from_dict(kept["initial_state"])
        self.initialiser_ = build_initialiser(self.initial_state_, self.model_, seed=0)
        if isinstance(self.initial_state_, EncoderState):
            read_weights(self.initialiser_, folder / "initial_state.safetensors")
        self.normaliser_ = Normaliser.from_dict(kept["normaliser"])
        variance = np.asarray(kept["error_model"]["variance"], dtype=np.float64)
        coefficients = np.asarray(kept["error_model"]["coefficients"], dtype=np.float64)
        self.error_model_ = ErrorModel(coefficients.reshape(len(variance), -1), variance)
        # A folder of an earlier version holds no noise.
        self.noise_ = noise_from_dict(kept.get("noise"))
        self.history_ = kept["history"]
        self.fit_seconds_ = kept["fit_seconds"]
        self._check_sizes(folder)

    # ---- helpers ----

    def _check_settings(self) -> None:
        kinds = {"model": DeepWienerConfig, "training": FitConfig, "transform": OutputTransform}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} is None or of type {kind.__name__}; given {value!r}")
        as_start(self.start)
        if self.seed < 0:
            raise ValueError(f"a seed is 0 or more; given {self.seed}")
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(f"valid_fraction is in [0, 1); given {self.valid_fraction}")

    def _check_sizes(self, folder: Path) -> None:
        """Refuse files of different models in one folder."""
        n_u, n_y = len(self.input_names_), len(self.output_names_)
        found = {
            "the network": (self.model_.d_input, self.model_.d_output),
            "the scaling": (self.normaliser_.u_mean.size, self.normaliser_.y_mean.size),
            "the error model": (n_u, len(self.error_model_.coefficients)),
        }
        for what, sizes in found.items():
            if sizes != (n_u, n_y):
                raise DataError(
                    f"{folder / 'config.json'} names {n_u} inputs and {n_y} outputs; {what} has "
                    f"{sizes[0]} and {sizes[1]}"
                )

    def _transformed(self, experiments: Experiments) -> Experiments:
        return experiments if self.transform is None else self.transform.apply(experiments)

    def _normalised(self, experiments: Experiments) -> Experiments:
        """Records as the model sees them: scaled, in its steps, with unknown outputs as NaN."""
        if experiments.n_y == 0:
            n_y = self.normaliser_.y_mean.size
            experiments = experiments.map(
                lambda r: dataclasses.replace(r, y=np.full((len(r), n_y), np.nan))
            )
        experiments = self.normaliser_.transform(self._transformed(experiments))
        here, there = experiments.time_unit, self.time_unit_
        if self.nominal_dt_ is None or experiments.nominal_dt is None:
            return experiments
        if here == there:
            return experiments.with_nominal_dt(self.nominal_dt_)
        if here in SECONDS and there in SECONDS:
            return experiments.with_nominal_dt(self.nominal_dt_ * SECONDS[there] / SECONDS[here])
        return experiments

    def _physical(self, z: Array) -> Array:
        return undo(self.transform, self.normaliser_.inverse_y(z))

    def _limited(self, y: Array) -> Array:
        return y if self.transform is None else self.transform.limit(y)

    def _run(self, u: Array, x0: Any) -> tuple[Array, Any]:
        if len(u) == 0:
            raise ValueError("there is nothing to simulate: u has no samples")
        if np.isinf(u).any():
            row = int(np.argmax(np.isinf(u).any(axis=1)))
            raise ValueError(f"u is infinite in sample {row}; expected numbers, or NaN for missing")
        z, state = self._advance(self.normaliser_.transform_u(u), x0)
        return self._physical(z), state

    def _advance(self, u: Any, state: Any) -> tuple[Array, Any]:
        """Run the network over normalised inputs in pieces, so that memory stays bounded."""
        import torch

        from statewise.train.simulate import SAMPLES_AT_ONCE

        dtype = next(self.model_.parameters()).dtype
        outputs = []
        with torch.no_grad():
            for first in range(0, len(u), SAMPLES_AT_ONCE):
                piece, mask = as_tensor(u[first : first + SAMPLES_AT_ONCE], dtype)
                z, state = self.model_(piece, state, mask=mask)
                outputs.append(z[0].double().numpy())
        return np.concatenate(outputs), state

    def _settled_errors(self, experiments: Experiments) -> list[Array]:
        """Simulation errors behind the initial transient of each record."""
        found = []
        for record in experiments:
            error = record.y - self._simulate_record(record)
            found.append(error[_settling(record) :])
        return found


def _settling(record: Record) -> int:
    """Samples at the start of a record that the initial state may spoil."""
    return max(record.skip, min(len(record) // 4, 64))
