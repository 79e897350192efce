"""A linear state-space model from records, with its noise model and what is known of its errors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from statewise._config import to_dict
from statewise._errors import DataError
from statewise._files import atomic_write
from statewise.data import Experiments, Normaliser, Record
from statewise.estimators._equation import inputs_of
from statewise.estimators._innovation_form import InnovationForm
from statewise.estimators._inputs import as_arrays, as_experiments, check_even, gapless
from statewise.estimators._linear_found import LARGEST, channel_of, checked, matched
from statewise.estimators._linear_methods import constant_outputs, identify
from statewise.estimators.linear_uncertainty import (
    LinearUncertainty,
    Source,
    linear_uncertainty,
    warn_of_still,
)
from statewise.estimators.noise_model import noise_from_dict
from statewise.estimators.observed import Observed
from statewise.estimators.signals import Signals

if TYPE_CHECKING:
    from statewise.estimators.linear_layer import LinearLayer
    from statewise.lti import StateSpace

Array = npt.NDArray[np.float64]

MATRICES = ("A", "B", "K", "C", "D")
SEARCHED = "held-out simulation"


class LinearSystem(Observed):
    """x_{t+1} = A x_t + B u_t + K e_t,  y_t = C x_t + D u_t + e_t, of signals about a point.

    Several inputs and outputs, several records, stretches without missing samples. Means of the
    training records are taken out first, and what the mean of the outputs is not the answer to that
    of the inputs, which the past of a record makes, is estimated with a subspace model. A record
    starts at rest there. With ``skip > 0`` its state is the one that explains the outputs best
    among the last 1000 of those samples, at most. In ``simulate(u, x0)``, ``x0`` is a state
    (n,) of ``system_``. A missing input counts as its mean, a missing output as its prediction.

    Args:
        order: number of states; of polynomials, their degree. None chooses it by ``criterion``.
        method: "auto" (the subspace method, horizon and order whose models best simulate samples
            that were held out, refined where that simulates them better still; see
            :func:`statewise.lti.identify_validated`); "n4sid", "moesp", "cva" or "ssarx" (subspace
            methods), "refine" (prediction error from a subspace model on), "arx", "armax", "oe" or
            "bj" (polynomials of one output).
        criterion: "bic", "aic", "mdl", or "gap" of singular values; None for "bic". With "auto" it
            must be None: the error of the simulations decides. Records without inputs, or too short
            to hold samples out, get "cva" with "bic" then.
        largest_order: last order to try.
        delay: samples from an input to the output, at least; 0 allows a direct term. State-space
            methods take 0 or 1.
        radius: poles beyond it are moved within (subspace) or kept within ("refine"); None leaves
            them as estimated, and is the unit circle with "auto".
        horizon: block rows of past and future of a subspace method; None for 10, or more; with
            "auto" for the best of 3, 5, 10 and 20.

    Attributes:
        order_: the order. how_: how it was found, in words.
        order_scores_: the criterion by order, lower is better but for "gap"; with "auto" the
            least error of simulations, in deviations of the outputs. Empty where the order was
            given.
        singular_values_: of the subspace method, descending, else empty.
        matrices_: A, B, K, C and D between scaled signals.
        normaliser_: the point, in ``u_mean`` and ``y_mean``, and the deviations of the signals.
        innovation_covariance_: of e, (n_y, n_y), in units of the outputs squared.
        coefficients_: rows (name, value, standard error) of polynomials, in units of the data.
        poles_: eigenvalues of A, (n,), largest modulus first. stable_: all inside the circle.
        pole_deviation_: standard deviation of each pole, NaN where the method gives none; for
            subspace models see :meth:`uncertainty`.
        omega_: frequencies of ``response_deviation_`` in radians per sample, (F,).
        response_deviation_: standard deviation of the response, (F, n_y, n_u), in output per input
            unit; empty where the method gives none.
        converged_, reason_: how an iteration ended.
        still_inputs_: names of inputs that ``fit`` saw constant, and warned of.
    """

    order_: int
    how_: str
    order_scores_: dict[int, float]
    singular_values_: Array
    matrices_: dict[str, Array]
    normaliser_: Normaliser
    innovation_covariance_: Array
    coefficients_: list[tuple[str, float, float]]
    poles_: npt.NDArray[np.complex128]
    pole_deviation_: Array
    stable_: bool
    omega_: Array
    response_deviation_: Array
    converged_: bool
    reason_: str
    still_inputs_: tuple[str, ...]
    _source: Source | None
    _uncertainty: dict[tuple[int, int], LinearUncertainty | None]

    def __init__(
        self,
        order: int | None = None,
        method: str = "auto",
        *,
        criterion: str | None = None,
        largest_order: int = LARGEST,
        delay: int = 0,
        radius: float | None = None,
        horizon: int | None = None,
    ) -> None:
        self.order = order
        self.method = method
        self.criterion = criterion
        self.largest_order = largest_order
        self.delay = delay
        self.radius = radius
        self.horizon = horizon

    def fit(self, u: Any, y: Any = None, *, valid: Experiments | None = None) -> Self:
        """Identify the system.

        Args:
            u: training inputs (L, n_u), a list of records, or an
                :class:`~statewise.data.Experiments` with inputs and outputs.
            y: training outputs, unless ``u`` is an ``Experiments``.
            valid: records that are scored.

        Returns:
            The estimator.

        Raises:
            ValueError: parameters out of range, a method that does not suit the data, or records
                that are unevenly sampled or too short.
            DataError: records without a stretch of complete samples.
        """
        train = as_experiments(u, y)
        settings = checked(self, train.n_y)
        check_even(train, type(self).__name__)
        means = Normaliser.fit(train)
        stretches = gapless(means.transform(train))
        inputs = tuple(u for u, _ in stretches)
        self.still_inputs_ = warn_of_still(train.input_names, inputs)
        c = constant_outputs(stretches, settings)
        found = identify([(u, y - c) for u, y in stretches], settings)
        normaliser = dataclasses.replace(means, y_mean=means.y_mean + c * means.y_std)
        self.normaliser_, self.order_ = normaliser, found.order
        self.order_scores_, self.singular_values_ = found.scores, found.singular_values
        self.how_ = "given"
        if self.order is None:
            word = "bic" if self.criterion is None else self.criterion
            word = {"gap": "largest gap of singular values"}.get(word, word)
            if found.how:
                word = SEARCHED
            self.how_ = f"{word} over the orders 1 to {max(found.scores)}"
        if found.how:
            self.how_ += f"; {found.how}"
        self._take(dict(zip(MATRICES, found.matrices, strict=True)))
        out, into = normaliser.y_std, normaliser.u_std
        self.innovation_covariance_ = found.covariance * out[:, None] * out
        self.coefficients_ = [
            (name, value * scale, error * scale)
            for name, value, error in found.coefficients
            for scale in [out[0] / into[channel_of(name)] if name.startswith("b") else 1.0]
        ]
        self.pole_deviation_ = matched(self.poles_, found.poles, found.pole_deviation)
        self.omega_ = found.omega
        self.response_deviation_ = found.response_deviation * out[:, None] / into
        self.converged_, self.reason_ = found.converged, found.reason
        self.noise_ = None
        self._source = Source(inputs, settings, found.subspace)
        self._uncertainty = {}
        self._remember(train)
        self.scores_ = self.evaluate(train, split="train")
        self.scores_ += self.evaluate(train, 1, split="train")
        if valid is not None:
            self.scores_ += self.evaluate(valid, split="validation")
        return self

    def uncertainty(self, replicates: int = 50, seed: int = 0) -> LinearUncertainty | None:
        """How sure poles, time constants, gain and phase are.

        Polynomials and refined models have an information matrix. For a subspace model the method,
        with its horizon and order, identifies records that the model makes from the measured inputs
        (:func:`statewise.lti.bootstrap`), which takes about as long as one identification. Neither
        tells how sure the order is, nor what a linear model leaves out.

        Args:
            replicates: records of a bootstrap, 2 at least.
            seed: of their innovations.

        Returns:
            The bands; None for a subspace model that was loaded or reduced, since the inputs that
            it was identified from are not saved with it. The same arguments give the same object.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: a subspace model that is not stable, or a bootstrap of too few models.
        """
        self._check_fitted()
        if (replicates, seed) not in self._uncertainty:
            found = linear_uncertainty(self, self._source, replicates, seed)
            self._uncertainty[replicates, seed] = found
        return self._uncertainty[replicates, seed]

    # ---- the system ----

    @property
    def system_(self) -> StateSpace:
        """From inputs to outputs in their units, about their point; dt is that of the records."""
        from statewise.lti import StateSpace

        A, B, _, C, D = self._form
        out, into = self.normaliser_.y_std, self.normaliser_.u_std
        dt = 1.0 if self.dt_ is None else self.dt_
        return StateSpace(A, B / into, out[:, None] * C, out[:, None] * D / into, dt)

    @property
    def gain_(self) -> Array:
        """K of the innovations in units of the outputs, (n, n_y)."""
        return self.matrices_["K"] / self.normaliser_.y_std

    @property
    def model_(self) -> LinearLayer:
        """The system between scaled signals, for questions of :mod:`statewise.analysis`."""
        from statewise.estimators.linear_layer import LinearLayer

        A, B, _, C, D = self._form
        return LinearLayer(A, B, C, D)

    @property
    def criterion_(self) -> str:
        """What chose the order, or would have."""
        searched = self.how_.startswith(SEARCHED)
        return "simulation error" if searched else self.criterion or "bic"

    @property
    def n_parameters(self) -> int:
        """Free parameters: coefficients, or n (m + 2 p) + p m of a system with a gain."""
        if self.coefficients_:
            return len(self.coefficients_)
        A, B, K, C, D = self._form
        n, m, p = len(A), B.shape[1], len(C)
        return n * (m + p + p * bool(K.any())) + p * m * bool(D.any())

    @property
    def time_constants_(self) -> Array:
        """τ = −dt/log|λ| of the poles, in units of time; 0 for a pole at 0."""
        with np.errstate(divide="ignore"):
            return (self.dt_ or 1.0) / -np.log(np.abs(self.poles_))

    @property
    def damping_(self) -> Array:
        """ζ = −Re(log λ)/|log λ| of the poles: 1 without oscillation, 0 without decay."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(self.poles_)
            return np.where(np.isfinite(value), -np.real(value) / np.abs(value), 1.0)

    # ---- what the base asks for ----

    def _simulate_array(self, u: Array, x0: Any) -> Array:
        n = len(self.matrices_["A"])
        start = np.zeros(n)
        if x0 is not None:
            start = as_arrays(x0, "x0")[0][0].ravel()
            if start.shape != (n,):
                raise ValueError(f"x0 is a state of {n} numbers here; given {start.size}")
        inputs = self._inputs(u)
        return self._outputs(self._form.states(inputs, None, start), inputs)

    def _simulate_record(self, record: Record) -> Array:
        u = self._inputs(inputs_of(record))
        begin = self._settled(record, u)
        states = self._form.states(u[len(begin) - 1 :], None, begin[-1])
        return self._outputs(np.concatenate([begin[:-1], states]), u)

    def _predict_record(self, record: Record, steps: int) -> Array:
        u = self._inputs(inputs_of(record))
        form, start = self._form, self._settled(record, u)[0]
        states = form.states(u, self.normaliser_.transform_y(record.y), start)
        for _ in range(min(steps, len(u)) - 1):
            states = np.concatenate([start[None], states[:-1] @ form.A.T + u[:-1] @ form.B.T])
        return self._outputs(states, u)

    def _write(self, folder: Path) -> dict[str, Any]:
        arrays = {name: self.matrices_[name] for name in MATRICES}
        for name in ("singular_values", "innovation_covariance", "omega", "response_deviation"):
            arrays[name] = getattr(self, f"{name}_")
        arrays["pole_deviation"] = self.pole_deviation_
        kept = {name: np.ascontiguousarray(array, np.float64) for name, array in arrays.items()}
        with atomic_write(folder / "model.safetensors") as temporary:
            save_file(kept, temporary)
        return {
            "order": self.order_,
            "how": self.how_,
            "order_scores": {
                str(n): value if math.isfinite(value) else None
                for n, value in self.order_scores_.items()
            },
            "normaliser": self.normaliser_.to_dict(),
            "coefficients": [list(row) for row in self.coefficients_],
            "converged": self.converged_,
            "reason": self.reason_,
            "noise": to_dict(self.noise_),
        }

    def _read(self, folder: Path, kept: dict[str, Any]) -> None:
        path = folder / "model.safetensors"
        try:
            arrays = load_file(path)
        except SafetensorError as error:
            raise DataError(f"{path} is damaged: {error}") from error
        n, m, p = len(arrays["A"]), len(self.input_names_), len(self.output_names_)
        shapes = {"A": (n, n), "B": (n, m), "K": (n, p), "C": (p, n), "D": (p, m)}
        for name, shape in {**shapes, "innovation_covariance": (p, p)}.items():
            if arrays[name].shape != shape:
                raise DataError(f"{path} holds {name} of {arrays[name].shape}, expected {shape}")
        self.normaliser_ = Normaliser.from_dict(kept["normaliser"])
        if (self.normaliser_.u_mean.size, self.normaliser_.y_mean.size) != (m, p):
            raise DataError(f"the scaling in {folder / 'config.json'} is of other channels")
        self._take({name: arrays[name] for name in MATRICES})
        for name in ("singular_values", "innovation_covariance", "omega", "response_deviation"):
            setattr(self, f"{name}_", arrays[name])
        self.pole_deviation_ = arrays["pole_deviation"]
        scores = {
            int(k): math.inf if v is None else float(v) for k, v in kept["order_scores"].items()
        }
        self.order_, self.how_, self.order_scores_ = int(kept["order"]), kept["how"], scores
        self.coefficients_ = [(str(k), float(v), float(e)) for k, v, e in kept["coefficients"]]
        self.noise_ = noise_from_dict(kept.get("noise"))
        self._source, self._uncertainty, self.still_inputs_ = None, {}, ()
        self.converged_, self.reason_ = bool(kept["converged"]), str(kept["reason"])

    # ---- around it ----

    def _signals(self, record: Record) -> Signals:
        free = self.normaliser_.transform_y(self._simulate_record(record))
        z = self.normaliser_.transform_y(record.y)
        start = max(record.skip, min(len(record) // 4, 64))
        return Signals(self.normaliser_.transform_u(inputs_of(record)), z, free, None, start)

    def _physical(self, z: Array) -> Array:
        return self.normaliser_.inverse_y(z)

    def _scaled(self, u: Array, y: Array) -> tuple[Array, Array]:
        return self.normaliser_.transform_u(u), self.normaliser_.transform_y(y)

    def _forecast_point(self, u: Array, y: Array, u_future: Array) -> Array:
        unknown = np.full((len(u_future), y.shape[1]), np.nan)
        inputs = self._inputs(np.concatenate([u, u_future]))
        given = self.normaliser_.transform_y(np.concatenate([y, unknown]))
        states = self._form.states(inputs, given, np.zeros(len(self.matrices_["A"])))
        return self._outputs(states, inputs)[len(u) :]

    # ---- helpers ----

    def _take(self, matrices: dict[str, Array]) -> None:
        """Set the matrices and what follows from them."""
        # Layout decides how sums are rounded; a loaded model gives the same numbers to the bit.
        matrices = {name: np.ascontiguousarray(M, np.float64) for name, M in matrices.items()}
        self.matrices_ = matrices
        poles = np.linalg.eigvals(matrices["A"]).astype(np.complex128)
        self.poles_ = poles[np.lexsort((-poles.imag, -np.round(np.abs(poles), 12)))]
        self.stable_ = bool((np.abs(self.poles_) < 1.0).all())

    @property
    def _form(self) -> InnovationForm:
        return InnovationForm(**self.matrices_)

    def _settled(self, record: Record, u: Array) -> Array:
        """States through the start of a record that is not scored, and the one behind it."""
        skip = record.skip if record.n_y else 0
        y = self.normaliser_.transform_y(record.y[:skip]) if skip else np.zeros((0, 0))
        noise = np.sqrt(np.diag(self.innovation_covariance_)) / self.normaliser_.y_std
        return self._form.settled(u[:skip], y, noise)

    def _inputs(self, u: Array) -> Array:
        return np.nan_to_num(self.normaliser_.transform_u(u))

    def _outputs(self, states: Array, u: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            y = states @ self.matrices_["C"].T + u @ self.matrices_["D"].T
        return self.normaliser_.inverse_y(y)

    def _check_experiments(self, experiments: Experiments, *, outputs: bool = True) -> None:
        super()._check_experiments(experiments, outputs=outputs)
        check_even(experiments, type(self).__name__, dt=self.dt_, time_unit=self.time_unit_)
