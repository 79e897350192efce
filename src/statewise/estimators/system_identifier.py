"""From inputs and outputs to a deep Wiener model that simulates."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from statewise._errors import DataError
from statewise.data import Experiments, Normaliser, Record
from statewise.estimators._base import BaseIdentifier
from statewise.estimators._inputs import as_arrays, as_experiments
from statewise.estimators.noise import ErrorModel
from statewise.estimators.transform import OutputTransform, undo
from statewise.models.config import DeepWienerConfig
from statewise.train.config import FitConfig

if TYPE_CHECKING:
    from statewise.models import DeepWiener

Array = npt.NDArray[np.float64]


class SystemIdentifier(BaseIdentifier):
    """Identify a deep Wiener model from measured inputs and outputs.

    A stack of stable linear systems and static maps is trained in parallel over time on
    normalised signals, then simulates in free run, sample by sample if need be. Prediction adds
    the forecast of an autoregressive model of the simulation error.

    Args:
        model: size and parts of the network; None is the default
            :class:`~statewise.models.DeepWienerConfig`.
        training: settings of the training; None is the default
            :class:`~statewise.train.FitConfig`.
        transform: map of the outputs undone after simulation, or None.
        valid_fraction: last part of each training record kept for validation when ``fit`` gets no
            validation data; 0 trains on everything without early stopping.
        seed: seed of the initial weights and of the training.
        device: "cpu", "cuda" or "auto".

    Attributes:
        model_: the trained :class:`~statewise.models.DeepWiener`.
        normaliser_: means and standard deviations of the training records.
        history_: one dictionary for every evaluation during training.
        error_model_: the autoregressive model of the simulation errors on the training records.
        fit_seconds_: wall time of ``fit``.
    """

    model_: DeepWiener
    normaliser_: Normaliser
    error_model_: ErrorModel
    history_: list[dict[str, Any]]
    fit_seconds_: float

    def __init__(
        self,
        model: DeepWienerConfig | None = None,
        training: FitConfig | None = None,
        *,
        transform: OutputTransform | None = None,
        valid_fraction: float = 0.2,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.training = training
        self.transform = transform
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

        Returns:
            The fitted estimator.

        Raises:
            ValueError: no inputs, or settings that do not fit the data.
            DataError: data that cannot be understood.
        """
        from statewise.models import DeepWiener
        from statewise.train import fit

        started = time.perf_counter()
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(f"valid_fraction is in [0, 1); given {self.valid_fraction}")
        train = as_experiments(u, y, dt=dt)
        if train.n_u == 0:
            raise ValueError(
                "SystemIdentifier needs at least one input, the records have none; "
                "ARX(nb=0) identifies a model of outputs alone"
            )
        config = FitConfig() if self.training is None else self.training
        whole = train
        if valid is None and self.valid_fraction > 0:
            head = 1 - self.valid_fraction
            train, valid = train.split_time((head, self.valid_fraction), context=config.washout)
        self.normaliser_ = Normaliser.fit(self._transformed(train))
        model = DeepWiener(train.n_u, train.n_y, self.model, seed=self.seed)
        result = fit(
            model,
            self._normalised(train),
            None if valid is None else self._normalised(valid),
            config,
            seed=self.seed,
            folder=folder,
            resume=resume,
            device=self.device,
            progress=progress,
        )
        self.model_ = model.to("cpu").eval()
        self.history_ = list(result.history)
        self._remember(whole)
        self.error_model_ = self._fit_error_model(train)
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
        inputs = as_arrays(u, "u")[0][0]
        self._check_inputs(inputs.shape[1])
        return self._run(inputs, x0)

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
        record = self._normalised(as_experiments(u, y))[0]
        self._check_inputs(record.n_u)
        tensors = _tensors(self.model_, record)
        start = estimate_state(self.model_, tensors["u"], tensors["y"], **tensors["masks"])
        return self._advance(tensors["u"], start, tensors["masks"]["mask"])[1]

    # ---- what the base asks for ----

    def _simulate_array(self, u: Array, x0: Any) -> Array:
        return self._run(u, x0)[0]

    def _simulate_record(self, record: Record) -> Array:
        from statewise.train import free_run

        experiments = Experiments((self._normalised_record(record),))
        state = None if self.training is None else self.training.valid_state
        if state is None and self.training is not None:
            state = self.training.initial_state
        (z,) = free_run(self.model_, experiments, initial_state=state)
        return self._physical(z)

    def _predict_record(self, record: Record, steps: int) -> Array:
        simulated = self._simulate_record(record)
        errors = record.y - simulated
        return simulated + self.error_model_.predict(errors, steps)

    def forecast(self, u: Any, y: Any, u_future: Any) -> Array:
        """Forecast the outputs that follow a record, given its future inputs.

        The model simulates through the record and on over the future inputs; the forecast of the
        error model is added.

        Args:
            u: inputs of the record (L,) or (L, n_u).
            y: measured outputs (L,) or (L, n_y); NaN is missing.
            u_future: inputs after the record (H,) or (H, n_u).

        Returns:
            Outputs (H, n_y).
        """
        self._check_fitted()
        past, future = as_arrays(u, "u")[0][0], as_arrays(u_future, "u_future")[0][0]
        measured = as_arrays(y, "y")[0][0]
        if len(past) != len(measured):
            raise ValueError(f"u has {len(past)} samples and y has {len(measured)}")
        for inputs in (past, future):
            self._check_inputs(inputs.shape[1])
        simulated, _ = self._run(np.concatenate([past, future]), None)
        errors = measured - simulated[: len(past)]
        return simulated[len(past) :] + self.error_model_.forecast(errors, len(future))

    def _write(self, folder: Path) -> dict[str, Any]:
        from statewise.models.storage import model_config, write_weights

        write_weights(self.model_, folder / "model.safetensors")
        return {
            "format": 1,
            "network": model_config(self.model_),
            "normaliser": self.normaliser_.to_dict(),
            "error_model": {
                "coefficients": self.error_model_.coefficients.tolist(),
                "variance": self.error_model_.variance.tolist(),
            },
            "history": self.history_,
            "fit_seconds": self.fit_seconds_,
        }

    def _read(self, folder: Path, kept: dict[str, Any]) -> None:
        from statewise.models.storage import build_model, read_weights

        if kept.get("format") != 1:
            raise DataError(f"{folder}: expected format 1, found {kept.get('format')!r}")
        self.model_ = build_model(kept["network"])
        read_weights(self.model_, folder / "model.safetensors")
        self.model_.eval()
        self.normaliser_ = Normaliser.from_dict(kept["normaliser"])
        variance = np.asarray(kept["error_model"]["variance"], dtype=np.float64)
        coefficients = np.asarray(kept["error_model"]["coefficients"], dtype=np.float64)
        self.error_model_ = ErrorModel(coefficients.reshape(len(variance), -1), variance)
        self.history_ = kept["history"]
        self.fit_seconds_ = kept["fit_seconds"]

    # ---- helpers ----

    def _transformed(self, experiments: Experiments) -> Experiments:
        return experiments if self.transform is None else self.transform.apply(experiments)

    def _normalised(self, experiments: Experiments) -> Experiments:
        return self.normaliser_.transform(self._transformed(experiments))

    def _normalised_record(self, record: Record) -> Record:
        return self._normalised(Experiments((record,)))[0]

    def _physical(self, z: Array) -> Array:
        return undo(self.transform, self.normaliser_.inverse_y(z))

    def _run(self, u: Array, x0: Any) -> tuple[Array, Any]:
        import torch

        normalised = self.normaliser_.transform_u(u)
        mask = torch.from_numpy(np.isfinite(normalised))[None]
        dtype = next(self.model_.parameters()).dtype
        tensor = torch.from_numpy(np.nan_to_num(normalised)).to(dtype)[None]
        z, state = self._advance(tensor, x0, None if bool(mask.all()) else mask)
        return self._physical(z[0].double().numpy()), state

    def _advance(self, u: Any, x0: Any, mask: Any) -> tuple[Any, Any]:
        import torch

        with torch.no_grad():
            return self.model_(u, x0, mask=mask)

    def _fit_error_model(self, experiments: Experiments) -> ErrorModel:
        errors = []
        for record in experiments:
            error = record.y - self._simulate_record(record)
            settle = max(record.skip, min(len(record) // 4, 64))
            errors.append(error[settle:])
        return ErrorModel.fit(errors)


def _tensors(model: DeepWiener, record: Record) -> dict[str, Any]:
    """A normalised record as tensors with a batch axis."""
    import torch

    dtype = next(model.parameters()).dtype

    def bring(values: Array) -> tuple[Any, Any]:
        known = np.isfinite(values)
        tensor = torch.from_numpy(np.nan_to_num(values)).to(dtype)[None]
        return tensor, None if known.all() else torch.from_numpy(known)[None]

    assert record.u is not None
    u, mask = bring(record.u)
    y, y_mask = bring(record.y)
    return {"u": u, "y": y, "masks": {"mask": mask, "y_mask": y_mask}}
