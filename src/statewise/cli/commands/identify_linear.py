"""``statewise identify linear``: a linear state-space model from measured inputs and outputs."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise.cli.console import UsageError, output, print_json, say
from statewise.cli.options import parse
from statewise.cli.source import Columns, Split

if TYPE_CHECKING:
    from statewise.data import Experiments, Task
    from statewise.data.metrics import Score
    from statewise.estimators import LinearSystem, LinearUncertainty

SUMMARY = """\
Identify a linear state-space model, in seconds.

Method and order, unless given, are those that best simulate held-out samples.
"""
OWN = ("model", "identification.json", "identification.png", "run.json")
WASHOUT = 64
Method = Literal["auto", "cva", "n4sid", "moesp", "ssarx", "refine", "arx", "armax", "oe", "bj"]
_METHODS = (
    "auto: the subspace method that best simulates samples held out, refined where that helps. Or "
    "one of those (cva, n4sid, moesp, ssarx), refine (prediction error from a subspace model on), "
    "or polynomials of one output: arx, armax, output error, Box-Jenkins."
)
_RADIUS = "Keep poles within this radius, such as 0.999; without it they are as estimated."


@dataclasses.dataclass(frozen=True)
class LinearSplit(Split):
    """What is kept to judge the model. A benchmark brings its own split."""

    valid_fraction: Annotated[
        float | None, arg(metavar="X", help_behavior_hint="(default: 0.2)")
    ] = None
    """Last part of the rest, scored apart; 0 leaves it to the training."""
    context: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 64)")] = None
    """Samples of history before each part, for the initial state."""


@dataclasses.dataclass(frozen=True)
class LinearOptions:
    """Options of ``statewise identify linear``."""

    data: Annotated[str, Positional, arg(metavar="DATA")]
    """A file (CSV, Parquet, NPZ, MAT), "fulda", or the name of a benchmark."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: NAME-linear)")] = (
        None
    )
    """Folder for the model, its numbers and a figure."""
    order: Annotated[str, arg(metavar="auto|N")] = "auto"
    """Number of states; of polynomials, their degree."""
    method: Annotated[Method, arg(help=_METHODS)] = "auto"
    criterion: Annotated[
        Literal["bic", "aic", "mdl", "gap"] | None, arg(help_behavior_hint="(default: bic)")
    ] = None
    """What chooses the order, not with auto; gap is that of singular values."""
    largest_order: Annotated[int, arg(metavar="N")] = 10
    """Last order to try."""
    delay: Annotated[int, arg(metavar="N")] = 0
    """Samples from an input to the output; 0 allows a direct term."""
    radius: Annotated[float | None, arg(metavar="X", help=_RADIUS, help_behavior_hint="")] = None
    force: Annotated[bool, arg(help_behavior_hint="")] = False
    """Replace a result in the folder."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""
    columns: Annotated[Columns, OmitArgPrefixes] = dataclasses.field(default_factory=Columns)
    split: Annotated[LinearSplit, OmitArgPrefixes] = dataclasses.field(default_factory=LinearSplit)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(LinearOptions, arguments, "identify linear", SUMMARY)
    order = _order(options.order)
    from statewise.cli.results import check_folder, result_folder, save_figure, write_json
    from statewise.cli.source import is_file, load_task

    named = not is_file(options.data)
    name = options.data if named else Path(options.data).name
    out = options.out or f"{name.split('.')[0]}-linear"
    check_folder(out, force=options.force, own=OWN)
    task = load_task(options.data, options.columns, options.split, washout=WASHOUT, valid=0.2)
    model, parts = identified(options, order, task)
    bands = uncertainty(model)
    found = numbers(model, options.data, bands)
    settings = {
        "data": options.data,
        "file": "" if named else Path(options.data).expanduser().resolve().as_posix(),
        **dataclasses.asdict(options.columns),
        **dataclasses.asdict(options.split),
        "training.washout": WASHOUT,
    }
    kept = [word for word in arguments if word not in ("--force", "--json")]
    note = {"format": 1, "finished": True, "settings": settings}
    note["command"] = shlex.join(["statewise", "identify", "linear", *kept])
    from statewise.cli.linear_figure import draw

    with result_folder(out, force=options.force, own=OWN) as folder:
        model.save(folder / "model")
        write_json({**found, "response": responses(bands)}, folder / "identification.json")
        write_json(note, folder / "run.json")
        save_figure(draw(model, parts, bands), folder / "identification.png")
    where = {"out": out, "model_folder": Path(out) / "model"}
    if options.json:
        print_json({"command": "identify linear", **where, **found})
        return
    from statewise.cli.linear_tables import show

    show(output(), found)
    output().print(f"model   {Path(out) / 'model'}", markup=False, soft_wrap=True)
    output().print(f"figure  {Path(out) / 'identification.png'}", markup=False, soft_wrap=True)


def identified(
    options: LinearOptions, order: int | None, task: Task
) -> tuple[LinearSystem, dict[str, Experiments]]:
    """The model with its scores on all parts of the data, and the parts.

    Raises:
        UsageError: settings that do not suit the data.
    """
    import warnings

    from statewise.cli.results import with_context
    from statewise.estimators import LinearSystem, StillInputWarning
    from statewise.estimators.linear_uncertainty import said_of_still
    from statewise.estimators.observed import fit_quietly

    model = LinearSystem(
        order,
        options.method,
        criterion=options.criterion,
        largest_order=options.largest_order,
        delay=options.delay,
        radius=options.radius,
    )
    say(f"identifying on {task.train.n_samples} samples by {options.method}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StillInputWarning)
            model.fit(task.train)
        if model.still_inputs_:
            say(f"warning: {said_of_still(model.still_inputs_)}")
        model.noise_ = fit_quietly(model, task.train, task.valid)
    except ValueError as error:
        said = str(error).replace("largest_order", "--largest-order").replace("radius", "--radius")
        raise UsageError(said) from error
    context = WASHOUT if options.split.context is None else options.split.context
    parts = {"train": with_context(task.train, context)}
    if task.valid is not None:
        parts["validation"] = task.valid
    parts |= task.test
    about: dict[str, Any] = {"scale": task.scale, "unit": task.unit} if task.unit else {}
    scores: list[Score] = []
    for name, part in parts.items():
        for mode in ("simulation", 1):
            scores += model.evaluate(part, mode, split=name, **about)
    model.scores_ = scores
    return model, parts


def uncertainty(model: LinearSystem) -> LinearUncertainty | None:
    """The bands of the model, or None and a word on why there are none."""
    try:
        return model.uncertainty()
    except ValueError as error:
        say(f"no standard errors: {str(error).replace('stability=', '--radius ')}")
        return None


def responses(bands: LinearUncertainty | None) -> dict[str, Any] | None:
    """Gain and phase with their bands, axes (frequency, output, input), JSON-ready."""
    if bands is None:
        return None
    names = ("omega", "gain", "gain_band", "phase", "phase_band", "response_deviation", "excited")
    return {"how": bands.how, "width": bands.width} | {name: getattr(bands, name) for name in names}


def numbers(model: LinearSystem, data: str, bands: LinearUncertainty | None) -> dict[str, Any]:
    """Every number that identification found, JSON-ready but for complex ones."""
    from statewise.cli.results import plain

    return plain(
        {
            "data": data,
            "method": model.method,
            "order": model.order_,
            "states": len(model.poles_),
            "how": model.how_,
            "criterion": model.criterion_,
            "order_scores": [list(pair) for pair in model.order_scores_.items()],
            "singular_values": model.singular_values_,
            "stable": model.stable_,
            "largest_modulus": float(abs(model.poles_).max(initial=0.0)),
            "converged": model.converged_,
            "reason": model.reason_,
            "dt": model.dt_,
            "time_unit": model.time_unit_ if model.dt_ is not None else "samples",
            "poles": model.poles_,
            "uncertainty": None if bands is None else bands.how,
            "pole_deviation": model.pole_deviation_ if bands is None else bands.pole_deviation,
            "time_constants": model.time_constants_,
            "time_constant_band": [] if bands is None else bands.time_constant_band,
            "natural_frequencies": abs(_logarithm(model.poles_)) / (model.dt_ or 1.0),
            "damping": model.damping_,
            "coefficients": [
                {"name": name, "value": value, "standard_error": error}
                for name, value, error in model.coefficients_
            ],
            "innovation_covariance": model.innovation_covariance_,
            "parameters": model.n_parameters,
            "scores": [item.to_dict() for item in model.scores_],
        }
    )


def _logarithm(poles: Any) -> Any:
    import numpy as np

    with np.errstate(divide="ignore"):
        return np.log(poles)


def _order(word: str) -> int | None:
    if word == "auto":
        return None
    if word.isdecimal() and int(word) >= 1:
        return int(word)
    raise UsageError(f"--order is auto or a number of states, 1 or more; given {word!r}")
