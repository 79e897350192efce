"""What a report says, as plain data: filled by the front door, drawn by the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from statewise.report.certainty import Certainty

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Channel:
    """An input or output signal.

    Attributes:
        name: name of the signal.
        unit: its unit, empty when it has none.
        low: smallest value in the training data, NaN when unknown.
        mean: mean over the training data, NaN when unknown.
        high: largest value in the training data, NaN when unknown.
    """

    name: str
    unit: str = ""
    low: float = float("nan")
    mean: float = float("nan")
    high: float = float("nan")

    @property
    def label(self) -> str:
        """Name with the unit in brackets."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclasses.dataclass(frozen=True)
class Part:
    """One record of one part of the data.

    Attributes:
        split: "train", "valid" or the name of a test set.
        record: name of the record, may be empty.
        samples: number of samples.
        skip: leading samples that only set the initial state.
        begin: first time stamp in words, such as a date.
        end: last time stamp in words.
        missing_inputs: number of missing input values.
        missing_outputs: number of missing output values.
    """

    split: str
    record: str
    samples: int
    skip: int = 0
    begin: str = ""
    end: str = ""
    missing_inputs: int = 0
    missing_outputs: int = 0

    @property
    def scored(self) -> int:
        """Samples that count in an error."""
        return self.samples - self.skip


@dataclasses.dataclass(frozen=True)
class DataSummary:
    """The data of an identification.

    Attributes:
        name: name of the data or task.
        inputs: the input signals.
        outputs: the output signals.
        dt: sampling interval in ``time_unit``, None when unknown or uneven.
        time_unit: unit of time, empty when unknown.
        parts: the records of all splits.
        description: what the system is.
        source: where the data come from.
        licence: terms of the data.
    """

    name: str
    inputs: Sequence[Channel]
    outputs: Sequence[Channel]
    dt: float | None = None
    time_unit: str = ""
    parts: Sequence[Part] = ()
    description: str = ""
    source: str = ""
    licence: str = ""


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """The identified model.

    Attributes:
        name: name under which it stands in the tables.
        description: one line.
        n_parameters: number of trained real parameters.
        config: settings, nested dictionaries and lists of plain values.
    """

    name: str
    description: str = ""
    n_parameters: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ScoreTableRow:
    """One number of the error table; the fields after ``method`` are those of ``Score``.

    Attributes:
        method: name of the model or baseline.
        metric: such as "rmse".
        value: the number, NaN when undefined.
        channel: output.
        unit: unit of the value.
        split: part of the data.
        window: which samples counted.
        mode: such as "simulation".
    """

    method: str
    metric: str
    value: float
    channel: str
    unit: str
    split: str
    window: str
    mode: str


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Measured and computed values of one output over one record.

    Attributes:
        record: name of the record.
        channel: name of the output.
        split: part of the data.
        time: (L,) numbers, or datetime64.
        measured: (L,), NaN where missing.
        simulated: method → (L,).
        skip: leading samples that are not scored.
        unit: unit of the output.
        time_unit: unit of ``time`` when it holds numbers.

    Raises:
        ValueError: lengths that differ.
    """

    record: str
    channel: str
    split: str
    time: np.ndarray
    measured: Array
    simulated: Mapping[str, Array]
    skip: int = 0
    unit: str = ""
    time_unit: str = ""

    def __post_init__(self) -> None:
        lengths = {"time": len(self.time), "measured": len(self.measured)}
        lengths |= {method: len(values) for method, values in self.simulated.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the trace of {self.channel!r} has arrays of lengths {lengths}")

    @property
    def label(self) -> str:
        """Channel with its unit in brackets."""
        return f"{self.channel} [{self.unit}]" if self.unit else self.channel

    def errors(self, method: str) -> Array:
        """Measured minus simulated where scored, NaN elsewhere, (L,)."""
        difference = np.asarray(self.measured, np.float64) - self.simulated[method]
        difference[: self.skip] = np.nan
        return difference


@dataclasses.dataclass(frozen=True, eq=False)
class LayerSummary:
    """The linear system and static map of one block.

    Attributes:
        name: such as "block 1".
        n_inputs: channels into the linear system.
        n_outputs: channels out of it.
        eigenvalues: discrete eigenvalues at the nominal step, complex (S,).
        paired: whether each complex eigenvalue stands for itself and its conjugate.
        dt: sampling interval in ``time_unit``; 1 when unknown.
        time_unit: unit of time.
        omega: angular frequencies in radians per sample (F,).
        singular_values: of the frequency response, largest first, (F, K).
        static: name of the static map.
        static_grid: inputs of the static map (G,), in the model's normalised units, or None.
        static_values: outputs per curve (G, C), or None when it cannot be drawn.
        static_note: a sentence about the static map.
        visited: lowest and highest input of the static map on data, per channel (C, 2), or None.
        skip: what runs around the block: "identity", "linear" or "none".
        norm: name of the normalisation, or empty.
        hankel: Hankel singular values of the linear system, descending (n,); the largest of the
            channels of a bank; empty when unknown.
    """

    name: str
    n_inputs: int
    n_outputs: int
    eigenvalues: npt.NDArray[np.complex128]
    paired: bool
    dt: float
    time_unit: str
    omega: Array
    singular_values: Array
    static: str
    static_grid: Array | None = None
    static_values: Array | None = None
    static_note: str = ""
    visited: Array | None = None
    skip: str = "identity"
    norm: str = ""
    hankel: Array = dataclasses.field(default_factory=lambda: np.empty(0))

    @property
    def _log_eigenvalues(self) -> npt.NDArray[np.complex128]:
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(self.eigenvalues, np.complex128))

    @property
    def time_constants(self) -> Array:
        """τ = −dt / ln|λ| (S,), infinite on the unit circle."""
        with np.errstate(divide="ignore"):
            tau = -self.dt / self._log_eigenvalues.real
        return np.where(np.abs(self.eigenvalues) >= 1, np.inf, np.abs(tau))

    @property
    def periods(self) -> Array:
        """Period of the oscillation 2π dt / |arg λ| (S,), infinite for a positive real λ."""
        with np.errstate(divide="ignore"):
            return 2 * np.pi * self.dt / np.abs(np.angle(self.eigenvalues))

    @property
    def damping(self) -> Array:
        """Damping ratio ζ = −Re ln λ / |ln λ| (S,); 1 is no oscillation, NaN for λ = 1."""
        log = self._log_eigenvalues
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = -log.real / np.hypot(log.real, log.imag)
        return np.where(np.isinf(log.real), 1.0, ratio)


@dataclasses.dataclass(frozen=True, eq=False)
class PathSummary:
    """The whole model between its physical inputs and outputs.

    Attributes:
        inputs: the input signals.
        outputs: the output signals.
        omega: angular frequencies in radians per sample (F,).
        gain: magnitude of the response linearised at the mean input, output unit per input unit,
            (F, n_y, n_u).
        levels: held values of each input, in its unit, (n_u, G).
        steady: output that the model settles at while one input is held at ``levels`` and the
            others at their mean, in the output's unit, (n_u, G, n_y).
    """

    inputs: Sequence[Channel]
    outputs: Sequence[Channel]
    omega: Array
    gain: Array
    levels: Array
    steady: Array


@dataclasses.dataclass(frozen=True, eq=False)
class ResponseComparison:
    """The frequency response of the data beside that of the model, in physical units.

    An input that others explain almost fully is left out: responses to it cannot be told apart from
    theirs, and count as theirs.

    Attributes:
        inputs: the k inputs that are kept.
        outputs: the output signals.
        left_out: names of the inputs that are not.
        omega: angular frequencies in radians per sample (F,).
        data: best linear approximation of the measured outputs, complex (F, n_y, k).
        radius: of the disc around ``data`` that holds the true response with 95 %, (F, n_y, k).
        model: the same approximation of the simulated outputs, complex (F, n_y, k).
        linearised: response of the model linearised at the mean input, complex (F, n_y, k).
    """

    inputs: Sequence[Channel]
    outputs: Sequence[Channel]
    left_out: Sequence[str]
    omega: Array
    data: npt.NDArray[np.complex128]
    radius: Array
    model: npt.NDArray[np.complex128]
    linearised: npt.NDArray[np.complex128]

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Where ``model`` is within ``radius`` of ``data``, (F, n_y, k)."""
        return np.abs(self.model - self.data) <= self.radius


@dataclasses.dataclass(frozen=True, eq=False)
class ReductionCurve:
    """How well smaller copies of the model do, their blocks reduced by balanced truncation.

    Attributes:
        orders: real states kept in each block, (K, blocks); the first row is the full model.
        fit: 100 (1 − NRMSE) % of the free run, mean over the outputs, (K,).
        split: the part of the data, "valid" or "train".
        tolerance: loss of fit, in points, that counts as none.
    """

    orders: npt.NDArray[np.int64]
    fit: Array
    split: str
    tolerance: float = 1.0

    @property
    def states(self) -> npt.NDArray[np.int64]:
        """Real states kept in all blocks together, (K,)."""
        return self.orders.sum(1)

    @property
    def enough(self) -> int:
        """The smallest number of states that loses no more than the tolerance."""
        return int(self.states[self.fit >= self.fit[0] - self.tolerance].min())


@dataclasses.dataclass(frozen=True)
class Reference:
    """A published figure for the same task.

    Attributes:
        method: the published method.
        test: name of the test set.
        value: the number.
        unit: its unit.
        metric: such as "rmse".
    """

    method: str
    test: str
    value: float
    unit: str = ""
    metric: str = "rmse"


@dataclasses.dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that a report shows.

    Attributes:
        title: title of the page.
        created: date and time of making, ISO 8601.
        command: the command that makes this report again, or None.
        data: the data and their split.
        model: the identified model.
        scores: the error table, identified model and baselines.
        traces: measured and simulated outputs.
        residuals: "whiteness" and "input": lists of
            :class:`~statewise.analysis.ResidualTest` of the identified model.
        layers: the blocks of the model.
        path: the whole model between its inputs and outputs, or None.
        comparison: frequency responses of data and model, or None.
        reduction: fit of smaller copies of the model, or None.
        certainty: how sure the model is of its outputs, or None.
        memory: time that holds 99 % of the energy of the response to a pulse, linearised at the
            mean input, in the time unit of ``layers``; None when unknown.
        history: rows of the training log with the keys step, loss, valid, lr, seconds.
        environment: versions, seed, threads, duration: name → value.
        references: published figures for the same task.
        notes: further sentences.
    """

    title: str
    created: str
    data: DataSummary
    model: ModelSummary
    command: str | None = None
    scores: Sequence[ScoreTableRow] = ()
    traces: Sequence[Trace] = ()
    residuals: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    layers: Sequence[LayerSummary] = ()
    path: PathSummary | None = None
    comparison: ResponseComparison | None = None
    reduction: ReductionCurve | None = None
    certainty: Certainty | None = None
    memory: float | None = None
    history: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    references: Sequence[Reference] = ()
    notes: Sequence[str] = ()
