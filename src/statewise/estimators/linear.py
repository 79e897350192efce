"""Linear difference equations behind the estimators' door: what FIR and ARX share."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from statewise._errors import DataError
from statewise._files import atomic_write
from statewise.data import Experiments, Record
from statewise.estimators._base import BaseIdentifier
from statewise.estimators._equation import DifferenceEquation, inputs_of
from statewise.estimators._inputs import as_experiments
from statewise.estimators._least_squares import Orders
from statewise.estimators._selection import choose, solve

Array = npt.NDArray[np.float64]

RIDGES = (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
KEPT = 20  # candidates of the search that are kept on disk


class LinearIdentifier(BaseIdentifier):
    """Regularised least squares for a linear difference equation; base of FIR and ARX.

    Attributes set by ``fit``, besides those of the base:
        equation_: the :class:`DifferenceEquation`.
        ridge_: the penalty in use.
        intercept_: (n_y,) the constant in physical units.
        search_: one dict per candidate that was tried, with its error on the data left out, the
            mean over outputs of RMSE / std(y of the training data); best first. A folder keeps
            the best 20.
    """

    ridge: float | None
    bias: bool
    folds: int
    equation_: DifferenceEquation
    ridge_: float
    intercept_: Array
    search_: list[dict[str, Any]]

    @abc.abstractmethod
    def _candidates(self, experiments: Experiments) -> list[Orders]:
        """Orders to choose from, smallest first; one when the user fixed them."""

    @abc.abstractmethod
    def _publish(self) -> None:
        """Set the learned attributes of the subclass from ``equation_``."""

    def fit(self, u: Any, y: Any = None, *, valid: Experiments | None = None) -> Self:
        """Solve the regularised least-squares problem in standardised signals.

        minimise mean_t ‖y(t) − ŷ(t | t−1)‖² + ridge ‖coefficients‖², in float64, over all rows of
        all records whose regressors and output are there; the constant is not penalised.

        What was left open (``ridge=None`` and the orders) is chosen by the free-run error on data
        left out: on ``valid``, or without it by cross-validation on ``folds`` contiguous parts of
        every training record. Stable models go before unstable ones. The choice is then solved
        again on training and validation data together.

        Args:
            u: training inputs (L, n_u), a list of records, or an
                :class:`~statewise.data.Experiments` with inputs and outputs.
            y: training outputs, unless ``u`` is an ``Experiments``.
            valid: records to choose on; when nothing is left open they are only scored.

        Returns:
            The estimator.

        Raises:
            ValueError: parameters out of range, unevenly sampled records, or too few complete
                samples.
        """
        train = as_experiments(u, y)
        self._check_parameters()
        self._check_sampling(train)
        if valid is not None:
            self._check_sampling(valid)
        candidates = self._candidates(train)
        ridges = RIDGES if self.ridge is None else (float(self.ridge),)
        if len(candidates) * len(ridges) == 1:
            equation, ridge = solve(train, candidates[0], ridges[0], self.bias), ridges[0]
            search, left_out = [], []
        else:
            equation, ridge, search, left_out = choose(
                train, valid, candidates, ridges, bias=self.bias, folds=self.folds
            )
        self._remember(train)
        self.equation_, self.ridge_, self.search_ = equation, ridge, search
        self._finish()
        self.scores_ = self.evaluate(train, split="train")
        self.scores_ += self.evaluate(train, 1, split="train") + left_out
        if valid is not None and not left_out:
            self.scores_ += self.evaluate(valid, split="validation")
        return self

    # ---- hooks of the base ----

    def _simulate_record(self, record: Record) -> Array:
        return self.equation_.free_run(record)

    def _predict_record(self, record: Record, steps: int) -> Array:
        return self.equation_.outputs(inputs_of(record), record.y, steps)

    def _write(self, folder: Path) -> dict[str, Any]:
        arrays = {
            field.name: np.ascontiguousarray(getattr(self.equation_, field.name))
            for field in dataclasses.fields(self.equation_)
            if field.name != "orders"
        }
        with atomic_write(folder / "model.safetensors") as temporary:
            save_file(arrays, temporary)
        orders = dataclasses.asdict(self.equation_.orders)
        return {"orders": orders, "ridge": self.ridge_, "search": self.search_[:KEPT]}

    def _read(self, folder: Path, kept: dict[str, Any]) -> None:
        try:
            arrays = load_file(folder / "model.safetensors")
        except SafetensorError as error:
            raise DataError(f"{folder / 'model.safetensors'} is damaged: {error}") from error
        orders = Orders(**kept["orders"])
        n_u, n_y = len(self.input_names_), len(self.output_names_)
        shapes = {"a": (orders.na, n_y, n_y), "b": (orders.nb, n_y, n_u), "c": (n_y,)}
        shapes |= {"u_mean": (n_u,), "u_std": (n_u,), "y_mean": (n_y,), "y_std": (n_y,)}
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise DataError(
                    f"{folder / 'model.safetensors'} holds {name} of shape {arrays[name].shape}, "
                    f"expected {shape}"
                )
        self.equation_ = DifferenceEquation(orders, **arrays)
        self.ridge_, self.search_ = kept["ridge"], kept["search"]
        self._finish()

    # ---- checks ----

    def _finish(self) -> None:
        self.intercept_ = self.equation_.physical()[2]
        self._publish()

    def _check_parameters(self) -> None:
        if self.ridge is not None and not (np.isfinite(self.ridge) and self.ridge >= 0):
            raise ValueError(f"ridge must be at least 0, or None to choose it, got {self.ridge}")
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")

    def _check_experiments(self, experiments: Experiments, *, outputs: bool = True) -> None:
        super()._check_experiments(experiments, outputs=outputs)
        self._check_sampling(experiments)
        here, there = self.dt_, experiments.dt
        if here is None or there is None or self.time_unit_ != experiments.time_unit:
            return
        if not np.isclose(here, there, rtol=1e-3):
            raise ValueError(
                f"this {type(self).__name__} was fitted at a sampling interval of {here:g} "
                f"{self.time_unit_}, the records have {there:g}: resample them"
            )

    def _check_sampling(self, experiments: Experiments) -> None:
        for index, record in enumerate(experiments):
            if record.steps() is not None:
                raise ValueError(
                    f"record {record.name or index} is unevenly sampled; "
                    f"{type(self).__name__} works on even sampling: resample it"
                )
