"""What every estimator shares: scikit-learn's conventions, inputs at the door, scores, folders."""

from __future__ import annotations

import abc
import dataclasses
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from statewise._config import from_dict, to_dict
from statewise._errors import DataError, StatewiseError
from statewise._files import atomic_folder, write_text
from statewise._version import __version__
from statewise.data import Experiments, Record
from statewise.data.metrics import Score, score
from statewise.estimators._inputs import as_arrays, as_experiments, check_steps, in_layout

Array = npt.NDArray[np.float64]
__all__ = ["BaseIdentifier", "NotFittedError", "as_arrays", "as_experiments"]

# What reading raises on values that no saved estimator has.
_UNUSABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SIGNALS = ("input_names", "output_names", "input_units", "output_units", "time_unit", "dt")


class NotFittedError(StatewiseError, ValueError, AttributeError):
    """An estimator was used before ``fit``; the bases are those of scikit-learn's error."""


class BaseIdentifier(abc.ABC):
    """Base of the estimators.

    A subclass stores the arguments of ``__init__`` unchanged under their names, sets attributes
    that end in an underscore in :meth:`fit`, and gives :meth:`_simulate_array`,
    :meth:`_simulate_record`, :meth:`_predict_record`, :meth:`_write` and :meth:`_read`.

    Attributes set by ``fit``:
        input_names_, output_names_, input_units_, output_units_: the channels.
        time_unit_, dt_: the sampling interval of the training records, None when unknown.
        n_features_in_: number of inputs.
        scores_: list of :class:`~statewise.data.metrics.Score` on the data given to ``fit``.
    """

    _estimator_type = "regressor"

    input_names_: tuple[str, ...]
    output_names_: tuple[str, ...]
    input_units_: tuple[str, ...]
    output_units_: tuple[str, ...]
    time_unit_: str
    dt_: float | None
    n_features_in_: int
    scores_: list[Score]

    # ---- what a subclass gives ----

    @abc.abstractmethod
    def fit(self, u: Any, y: Any = None, *, valid: Experiments | None = None) -> Self:
        """Identify the model; see the subclass."""

    @abc.abstractmethod
    def _simulate_array(self, u: Array, x0: Any) -> Array:
        """Simulate (L, n_u) inputs, NaN where missing, from ``x0``; give (L, n_y)."""

    @abc.abstractmethod
    def _simulate_record(self, record: Record) -> Array:
        """Simulate one record; its first ``skip`` outputs may set the initial state."""

    @abc.abstractmethod
    def _predict_record(self, record: Record, steps: int) -> Array:
        """Predict ``steps`` ahead along one record; give (L, n_y)."""

    @abc.abstractmethod
    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the fitted arrays into ``folder`` and give JSON-ready values to keep with them."""

    @abc.abstractmethod
    def _read(self, folder: Path, kept: dict[str, Any]) -> None:
        """Read back what :meth:`_write` wrote."""

    # ---- scikit-learn's conventions, without scikit-learn ----

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give the parameters of ``__init__``; with ``deep`` also those of nested estimators."""
        params = {name: getattr(self, name) for name in self._parameter_names()}
        if deep:
            for name, value in list(params.items()):
                if hasattr(value, "get_params") and not isinstance(value, type):
                    inner = value.get_params()
                    params.update({f"{name}__{key}": item for key, item in inner.items()})
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters of ``__init__`` by name; ``a__b`` is the setting ``b`` in ``a``.

        Raises:
            ValueError: a name that ``__init__`` does not have.
        """
        known = self._parameter_names()
        for name, value in params.items():
            own, _, rest = name.partition("__")
            if own not in known:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {own!r}; "
                    f"its parameters are {', '.join(known)}"
                )
            setattr(self, own, _changed(getattr(self, own), own, rest, value) if rest else value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        shown = [
            f"{name}={value!r}"
            for name, value in self.get_params(deep=False).items()
            if repr(value) != repr(defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, multi_output=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=True, allow_nan=True),
        )

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")

    # ---- use ----

    def simulate(self, u: Any, x0: Any = None) -> Any:
        """Run the model on inputs alone (free run): no measured output enters.

        Args:
            u: inputs (L,), (L, n_u) or (R, L, n_u), or a list of records of unequal length; NaN
                is missing. An :class:`~statewise.data.Experiments` goes to
                :meth:`simulate_experiments`.
            x0: initial state, in the form that the estimator documents; a list of them when there
                are several records.

        Returns:
            Outputs (L, n_y) in the units of the training data; a list, or (R, L, n_y), as ``u``.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: another number of inputs than in ``fit``.
        """
        self._check_fitted()
        if isinstance(u, Experiments):
            if x0 is not None:
                raise ValueError("records carry their own initial state in skip; leave x0 out")
            return self.simulate_experiments(u)
        records, layout = as_arrays(u, "u")
        starts = [x0] if layout == "one" else ([None] * len(records) if x0 is None else list(x0))
        if len(starts) != len(records):
            raise ValueError(f"{len(records)} records need as many x0, got {len(starts)}")
        outputs = []
        for record, start in zip(records, starts, strict=True):
            self._check_inputs(record.shape[1])
            outputs.append(self._simulate_array(record, start))
        return in_layout(outputs, layout)

    def simulate_experiments(self, experiments: Experiments) -> list[Array]:
        """Run the model on the inputs of every record (free run).

        Only the first ``skip`` outputs of a record may be used, to set the initial state.

        Args:
            experiments: records with the channels of the training data; they may lack outputs.

        Returns:
            One array (L, n_y) per record.
        """
        self._check_experiments(experiments, outputs=experiments.n_y > 0)
        return [self._simulate_record(record) for record in experiments]

    def predict(self, u: Any, y: Any = None, steps: int = 1) -> Any:
        """Predict ``steps`` samples ahead: ŷ(t | t − steps).

        ŷ(t | t − k) uses measured outputs up to t − k and inputs up to t. For t < k, where there
        is no such output, it is the free run from the initial state.

        Args:
            u: inputs as in :meth:`simulate`, or an :class:`~statewise.data.Experiments`.
            y: measured outputs with the same lengths, NaN where missing. Without it no output is
                known and the answer is the free run, as :meth:`simulate`.
            steps: how far ahead, at least 1.

        Returns:
            Outputs as from :meth:`simulate`; a list for an ``Experiments``.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: ``steps`` below 1, or shapes that do not fit.
        """
        if y is None and not isinstance(u, Experiments):
            check_steps(steps)
            return self.simulate(u)
        layout = _layout(u, y)
        outputs = self.predict_experiments(self._as_experiments(u, y), steps)
        return in_layout(outputs, layout)

    def predict_experiments(self, experiments: Experiments, steps: int = 1) -> list[Array]:
        """Predict ``steps`` ahead along every record, one array (L, n_y) each."""
        check_steps(steps)
        self._check_experiments(experiments)
        return [self._predict_record(record, int(steps)) for record in experiments]

    def residuals(self, u: Any, y: Any = None, *, steps: int | None = None) -> Any:
        """Give measured minus computed outputs, NaN where the measurement is missing.

        Args:
            u: inputs as in :meth:`simulate`, or an :class:`~statewise.data.Experiments`.
            y: measured outputs, unless ``u`` is an ``Experiments``.
            steps: None for the free run, or how many steps ahead.

        Returns:
            In the layout of :meth:`predict`.
        """
        experiments = self._as_experiments(u, y)
        if steps is None:
            computed = self.simulate_experiments(experiments)
        else:
            computed = self.predict_experiments(experiments, steps)
        errors = [record.y - y_hat for record, y_hat in zip(experiments, computed, strict=True)]
        layout = _layout(u, y)
        return in_layout(errors, layout)

    def score(self, u: Any, y: Any = None) -> float:
        """Mean over the outputs of R² (Nash–Sutcliffe) of the free run, pooled over records.

        Args:
            u: inputs as in :meth:`simulate`, or an :class:`~statewise.data.Experiments`.
            y: measured outputs, unless ``u`` is an ``Experiments``.

        Returns:
            At most 1; NaN when an output is constant.
        """
        scores = self.evaluate(self._as_experiments(u, y), metrics=("r2",))
        return float(np.mean([item.value for item in scores]))

    def evaluate(
        self,
        experiments: Experiments,
        mode: str | int = "simulation",
        *,
        metrics: Sequence[str] = ("rmse", "nrmse", "fit", "nse", "vaf"),
        split: str = "test",
        scale: float = 1.0,
        unit: str | None = None,
    ) -> list[Score]:
        """Score the model on records; see :func:`statewise.data.metrics.score`.

        Args:
            experiments: measured records.
            mode: ``"simulation"`` for the free run, or how many steps ahead.
            metrics: names of the metrics.
            split: the name of this part of the data.
            scale: RMSE and MAE are multiplied by it.
            unit: unit of the scaled RMSE and MAE; None takes that of the output.

        Returns:
            The scores, output by output.
        """
        if isinstance(mode, str):
            if mode != "simulation":
                raise ValueError(f'mode must be "simulation" or a number of steps, got {mode!r}')
            computed = self.simulate_experiments(experiments)
        else:
            computed = self.predict_experiments(experiments, mode)
        return score(
            experiments, computed, metrics=metrics, split=split, mode=mode, scale=scale, unit=unit
        )

    # ---- a folder on disk ----

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to a folder: config.json, model.safetensors, metrics.json.

        The folder appears whole or not at all; one that is there already is replaced.
        """
        self._check_fitted()
        with atomic_folder(folder) as temporary:
            kept = self._write(temporary)
            config = {
                "kind": type(self).__name__,
                "statewise": __version__,
                "params": to_dict(self.get_params(deep=False)),
                "signals": {name: getattr(self, f"{name}_") for name in _SIGNALS},
                "fitted": kept,
            }
            metrics = {"scores": [item.to_dict() for item in self.scores_]}
            write_text(temporary / "config.json", json.dumps(config, indent=2, ensure_ascii=False))
            write_text(
                temporary / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False)
            )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read an estimator that :meth:`save` wrote; no code in the folder is run.

        Raises:
            DataError: the folder or one of its files is missing, damaged, or of another kind.
        """
        path = Path(folder)
        config = _read_json(path / "config.json")
        if config.get("kind") != cls.__name__:
            kind = config.get("kind", "model of unknown kind")
            raise DataError(f"{path} holds a {kind}, not a {cls.__name__}")
        try:
            estimator = cls(**from_dict(config["params"]))
            for name in _SIGNALS:
                value = config["signals"][name]
                setattr(estimator, f"{name}_", tuple(value) if isinstance(value, list) else value)
            estimator._read(path, config["fitted"])
            scores = _read_json(path / "metrics.json")["scores"]
            estimator.scores_ = [
                Score(**{**item, "value": float("nan") if item["value"] is None else item["value"]})
                for item in scores
            ]
        except _UNUSABLE as error:
            if isinstance(error, DataError):
                raise
            reason = " ".join(str(error).split())
            raise DataError(f"the files of {path} do not fit together: {reason}") from error
        except FileNotFoundError as error:
            raise DataError(f"{path} lacks a file of the model ({error})") from error
        estimator.n_features_in_ = len(estimator.input_names_)
        return estimator

    # ---- helpers of the subclasses ----

    def _as_experiments(self, u: Any, y: Any) -> Experiments:
        self._check_fitted()
        return as_experiments(u, y)

    def _remember(self, experiments: Experiments) -> None:
        """Keep the names and units of the training records; marks the estimator as fitted."""
        for name in _SIGNALS:
            value = getattr(experiments, name)
            setattr(self, f"{name}_", tuple(value) if isinstance(value, list) else value)
        self.n_features_in_ = experiments.n_u

    def _check_inputs(self, n_u: int) -> None:
        if n_u != self.n_features_in_:
            named = f" ({', '.join(self.input_names_)})" if self.input_names_ else ""
            raise ValueError(
                f"this {type(self).__name__} was fitted with {self.n_features_in_} input(s)"
                f"{named}, got {n_u}"
            )

    def _check_experiments(self, experiments: Experiments, *, outputs: bool = True) -> None:
        self._check_fitted()
        self._check_inputs(experiments.n_u)
        if outputs and experiments.n_y != len(self.output_names_):
            raise ValueError(
                f"this {type(self).__name__} was fitted with {len(self.output_names_)} output(s) "
                f"({', '.join(self.output_names_)}), the records have {experiments.n_y}"
            )


def _changed(part: Any, own: str, path: str, value: Any) -> Any:
    """``part`` with one setting in it changed: an estimator in place, a dataclass as a copy."""
    if hasattr(part, "set_params"):
        return part.set_params(**{path: value})
    name, _, rest = path.partition("__")
    if not dataclasses.is_dataclass(part) or not hasattr(part, name):
        raise ValueError(f"{own} is {part!r}, which has no setting {name!r}")
    value = _changed(getattr(part, name), f"{own}__{name}", rest, value) if rest else value
    return dataclasses.replace(part, **{name: value})  # type: ignore[type-var]


def _layout(u: Any, y: Any) -> str:
    if isinstance(u, Experiments):
        return "list"
    return as_arrays(y, "y")[1] if u is None else as_arrays(u, "u")[1]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path.parent} is no saved model: it lacks {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} should hold a JSON object, got {type(content).__name__}")
    return content
