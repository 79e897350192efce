"""From a fitted estimator and its task to the data of a report."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from statewise._config import to_dict
from statewise._version import __version__
from statewise.analysis import input_residual_correlation, whiteness
from statewise.data import Experiments, Normaliser, Record
from statewise.data.metrics import Score
from statewise.data.task import Task
from statewise.models import DeepWiener
from statewise.nn import WienerBlock
from statewise.ops import status
from statewise.ops.dispatch import choice
from statewise.report.certainty import certainty
from statewise.report.comparison import response_comparison
from statewise.report.content import (
    Channel,
    DataSummary,
    ModelSummary,
    Part,
    Reference,
    ReportData,
    ScoreTableRow,
    Trace,
)
from statewise.report.layers import layer_summaries, pulse_memory
from statewise.report.path import path_summary
from statewise.report.shrinking import reduction_curve
from statewise.report.words import stamp

Array = npt.NDArray[np.float64]

MAX_LAG = 25
#: Samples that the model runs on to find which range of its static maps is used.
RANGE_SAMPLES = 20_000
_REPORTED = {"fit_percent": "fit", "r2": "nse"}


class Simulator(Protocol):
    """What a report asks of a baseline."""

    def evaluate(
        self,
        experiments: Experiments,
        mode: str | int = "simulation",
        *,
        split: str = "test",
        scale: float = 1.0,
        unit: str | None = None,
    ) -> list[Score]:
        """Score the model on records."""
        ...

    def simulate_experiments(self, experiments: Experiments) -> list[Array]:
        """Run the model freely, one array (L, n_y) in physical units per record."""
        ...


class Identifier(Simulator, Protocol):
    """What a report asks of the identified model; ``SystemIdentifier`` has all of it."""

    model_: DeepWiener
    normaliser_: Normaliser
    history_: list[dict[str, Any]]
    fit_seconds_: float

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings."""
        ...


def collect(
    identifier: Identifier,
    task: Task,
    baselines: Mapping[str, Simulator] | None = None,
    *,
    command: str | None = None,
    name: str = "deep Wiener",
    steps: Sequence[int] = (),
    created: str | None = None,
    notes: Sequence[str] = (),
) -> ReportData:
    """Evaluate an identified model and its baselines on a task, for a report.

    Args:
        identifier: the fitted estimator.
        task: the data with their split; the errors are those on its test sets, and on its
            validation data.
        baselines: fitted baselines by name.
        command: the command that makes the report again.
        name: name of the identified model in tables and figures; no baseline may have it.
        steps: also score predictions so many steps ahead on the test sets.
        created: date and time to print, ISO 8601; now when None.
        notes: sentences for the end of the page.

    Returns:
        The data of the report.

    Raises:
        ValueError: a baseline with the name of the identified model.
    """
    baselines = dict(baselines or {})
    if name in baselines:
        raise ValueError(f"a baseline has the name of the identified model, {name!r}")
    methods: dict[str, Simulator] = {name: identifier, **baselines}
    parts = dict(task.test)
    if task.valid is not None:
        parts["valid"] = task.valid
    simulated = {
        split: {method: one.simulate_experiments(part) for method, one in methods.items()}
        for split, part in parts.items()
    }
    inputs, outputs = _channels(task.train)
    dt, unit = nominal_dt(task.train), task.train.time_unit
    main = next(iter(task.test))
    config = {key: _setting(value) for key, value in identifier.get_params(deep=False).items()}
    config["model"] = to_dict(identifier.model_.config)
    normaliser, transform = identifier.normaliser_, getattr(identifier, "transform", None)

    traces = [
        trace
        for split, part in parts.items()
        for index, record in enumerate(part)
        for trace in _traces(split, part, index, record, simulated[split])
    ]

    def to_physical(z: Array) -> Array:
        y = normaliser.inverse_y(z)
        return y if transform is None else transform.inverse(y)

    scores = _scores(methods, task, steps)
    metric = _REPORTED.get(task.metric, task.metric)
    units = {row.unit for row in scores if row.metric == metric}
    reference_unit = units.pop() if len(units) == 1 else task.unit
    return ReportData(
        title=task.name,
        created=created or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        data=DataSummary(
            name=task.name,
            inputs=inputs,
            outputs=outputs,
            dt=dt,
            time_unit=unit,
            parts=_parts(task),
            description=task.description,
            source=task.source,
            licence=task.licence,
        ),
        model=ModelSummary(
            name=name,
            description=_description(identifier.model_, transform),
            n_parameters=identifier.model_.n_parameters,
            config=config,
        ),
        scores=scores,
        traces=traces,
        residuals=_residuals(task.test[main], simulated[main][name]),
        certainty=certainty(identifier, main, task.test[main], traces, name),
        **_dynamics(identifier, task, inputs, outputs, dt, unit, to_physical),
        history=list(identifier.history_),
        environment=_environment(identifier),
        references=[
            Reference(method, test, value, reference_unit, metric)
            for method, values in task.references.items()
            for test, value in values.items()
        ],
        notes=tuple(notes),
    )


def nominal_dt(experiments: Experiments) -> float | None:
    """Sampling interval, the median one for uneven time stamps, None when time is unknown."""
    if experiments.dt is not None:
        return float(experiments.dt)
    for record in experiments:
        if record.nominal_dt is not None:
            return float(record.nominal_dt)
        if record.t is not None and len(record) > 1:
            return float(np.median(np.diff(record.t)))
    return None


def _channels(train: Experiments) -> tuple[list[Channel], list[Channel]]:
    return (
        [
            _channel(name, unit, [r.u[:, index] for r in train if r.u is not None])
            for index, (name, unit) in enumerate(
                zip(train.input_names, train.input_units, strict=True)
            )
        ],
        [
            _channel(name, unit, [record.y[:, index] for record in train])
            for index, (name, unit) in enumerate(
                zip(train.output_names, train.output_units, strict=True)
            )
        ],
    )


def _channel(name: str, unit: str, columns: list[Array]) -> Channel:
    values = np.concatenate(columns)
    values = values[np.isfinite(values)]
    if not len(values):
        return Channel(name, unit or "")
    return Channel(name, unit or "", float(values.min()), float(values.mean()), float(values.max()))


def _parts(task: Task) -> list[Part]:
    splits = {"train": task.train}
    if task.valid is not None:
        splits["valid"] = task.valid
    return [
        _part(split, record)
        for split, experiments in {**splits, **task.test}.items()
        for record in experiments
    ]


def _part(split: str, record: Record) -> Part:
    time = _time(record)
    known = time.dtype.kind == "M" or record.t is not None or record.dt is not None
    return Part(
        split=split,
        record=record.name,
        samples=len(record),
        skip=record.skip,
        begin=stamp(time[0], record.time_unit) if known else "",
        end=stamp(time[-1], record.time_unit) if known else "",
        missing_inputs=0 if record.u is None else int(np.isnan(record.u).sum()),
        missing_outputs=int(np.isnan(record.y).sum()),
    )


def _time(record: Record) -> np.ndarray:
    dates = record.dates()
    return record.times() if dates is None else dates


def _scores(
    methods: Mapping[str, Simulator], task: Task, steps: Sequence[int]
) -> list[ScoreTableRow]:
    """Free run on every part, and predictions on the test sets."""
    about = {"scale": task.scale, "unit": task.unit} if task.unit else {}
    runs: list[tuple[str, Experiments, str | int]] = []
    for split, part in task.test.items():
        runs += [(split, part, mode) for mode in ("simulation", *steps)]
    if task.valid is not None:
        runs.append(("valid", task.valid, "simulation"))
    rows = []
    for split, part, mode in runs:
        for method, model in methods.items():
            for item in model.evaluate(part, mode, split=split, **about):
                rows.append(ScoreTableRow(method=method, **dataclasses.asdict(item)))
    return rows


def _traces(
    split: str,
    part: Experiments,
    index: int,
    record: Record,
    simulated: Mapping[str, list[Array]],
) -> list[Trace]:
    return [
        Trace(
            record=record.name or (f"{index + 1}" if len(part) > 1 else ""),
            channel=channel,
            split=split,
            time=_time(record),
            measured=record.y[:, output],
            simulated={method: runs[index][:, output] for method, runs in simulated.items()},
            skip=record.skip,
            unit=part.output_units[output] or "",
            time_unit=record.time_unit,
        )
        for output, channel in enumerate(part.output_names)
    ]


def _residuals(test: Experiments, simulated: Sequence[Array]) -> dict[str, list[Any]]:
    """Both tests on the scored samples, with fewer lags for short records."""
    errors, inputs = [], []
    for record, y_hat in zip(test, simulated, strict=True):
        error = (record.y - y_hat)[record.skip :]
        errors.append(np.where(np.isfinite(error), error, np.nan))
        inputs.append(None if record.u is None else record.u[record.skip :])
    pooled = [np.concatenate(errors)]
    if test.n_u:
        pooled.append(np.concatenate(inputs))
    fewest = min(int(np.isfinite(values).sum(axis=0).min()) for values in pooled)
    longest = max(len(error) for error in errors)
    max_lag = min(MAX_LAG, fewest // 4, longest - 1)
    if max_lag < 2:
        return {}
    names = list(test.output_names)
    tests: dict[str, list[Any]] = {"whiteness": whiteness(errors, max_lag, names=names)}
    if test.n_u:
        tests["input"] = input_residual_correlation(
            inputs, errors, max_lag, input_names=list(test.input_names), names=names
        )
    return tests


def _dynamics(
    identifier: Identifier,
    task: Task,
    inputs: Sequence[Channel],
    outputs: Sequence[Channel],
    dt: float | None,
    unit: str,
    to_physical: Callable[[Array], Array],
) -> dict[str, Any]:
    """What poles and frequency responses say, for models whose blocks have them."""
    model, normaliser = identifier.model_, identifier.normaliser_
    if not all(isinstance(block, WienerBlock) for block in model.blocks):
        return {}
    layers = layer_summaries(model, dt, unit, u=_normalised_inputs(task, normaliser))
    about: dict[str, Any] = {"u_std": normaliser.u_std, "to_physical": to_physical}
    split = "train" if task.valid is None else "valid"
    simulated = identifier.simulate_experiments(task.train)
    return {
        "layers": layers,
        "path": path_summary(model, inputs, outputs, u_mean=normaliser.u_mean, **about),
        "comparison": response_comparison(model, task.train, simulated, inputs, outputs, **about),
        "reduction": reduction_curve(
            identifier, task.valid or task.train, split, [layer.hankel for layer in layers]
        ),
        "memory": pulse_memory(model, layers[0].dt),
    }


def _normalised_inputs(task: Task, normaliser: Normaliser) -> Array:
    record = max(task.train, key=len)
    return normaliser.transform_u(record.u)[:RANGE_SAMPLES]


def _description(model: DeepWiener, transform: Any) -> str:
    config = model.config
    blocks = f"{config.n_layers} block{'s' if config.n_layers > 1 else ''}"
    if all(isinstance(block, WienerBlock) for block in model.blocks):
        system = "stable linear system"
    else:
        names = dict.fromkeys("LTI" if one is None else one.layer for one in config.layers)
        system = f"layer of the kind {' or '.join(names)}"
    text = (
        f"A deep Wiener model of {blocks}: each a {system} followed by the static map "
        f"{type(config.static).__name__}, with {config.d_model} channels between them."
    )
    if transform is not None:
        text += f" Outputs are mapped by {transform!r} for training and back for every result."
    return text


def _setting(value: Any) -> Any:
    return to_dict(value) if dataclasses.is_dataclass(value) else value


def _environment(identifier: Identifier) -> dict[str, Any]:
    chosen = choice()
    if chosen is None:
        compiled = any(line.available and line.backend == "cpu" for line in status())
        chosen = "cpu (compiled)" if compiled else "reference"
    return {
        "seed": getattr(identifier, "seed", None),
        "training time": f"{identifier.fit_seconds_:.1f} s",
        "statewise": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "back end": chosen,
        "threads": torch.get_num_threads(),
        "device": getattr(identifier, "device", "cpu"),
    }
