"""What ``filter``, ``smooth`` and ``forecast`` share: options, checks, shares and delivery."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from statewise.cli.console import UsageError
from statewise.cli.using import OutputOptions, hand_over, open_model

if TYPE_CHECKING:
    from rich.console import Console

    from statewise.cli.source import Records
    from statewise.data import Experiments
    from statewise.estimators.bands import Bands
    from statewise.estimators.noise_model import Coverage, NoiseModel
    from statewise.estimators.observed import Observed

FIGURES = (".png", ".svg", ".pdf")
#: Lags of the test whether innovations are white.
LAGS = 25


@dataclasses.dataclass(frozen=True)
class BandOptions(OutputOptions):
    """Options of the commands that give bands."""

    interval: Annotated[float, arg(metavar="P")] = 0.9
    """Probability that a band holds a measurement."""
    plot: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Draw the bands to this .png, .svg or .pdf file."""


def check_files(options: BandOptions) -> None:
    """Refuse files that cannot be written and probabilities that are none.

    Raises:
        UsageError: what is wrong.
    """
    from statewise.cli.signals import check_path

    check_path(options.out)
    if not 0 < options.interval < 1:
        raise UsageError(
            f"--interval is a probability between 0 and 1, such as 0.9; given {options.interval:g}"
        )
    if options.plot is None:
        return
    path = Path(options.plot).expanduser()
    if path.suffix.lower() not in FIGURES:
        raise UsageError(f"--plot {options.plot} must end in one of {', '.join(FIGURES)}")
    if path.is_dir():
        raise UsageError(f"--plot {options.plot} is a folder; expected a file")


def open_observed(options: BandOptions) -> tuple[Observed, NoiseModel, Records]:
    """Load a model with noise levels, and measured records.

    Raises:
        UsageError: a model that gives no bands; the message says what to do.
        DataError: data that do not fit it.
    """
    from statewise.cli.folder import find_model
    from statewise.estimators.observed import Observed

    model, records = open_model(options, measured=True)
    kind = type(model).__name__
    if not isinstance(model, Observed):
        raise UsageError(
            f"{options.model} holds a {kind}, which gives no bands; models of statewise fit and "
            "statewise identify linear do"
        )
    if model.noise_ is None:
        raise UsageError(
            f"{options.model} has no noise levels, which bands need: fit the model again, or in "
            f"Python model = {kind}.load({find_model(options.model).as_posix()!r}), "
            "model.fit_noise(train, valid), and save it"
        )
    return model, model.noise_, records


def deliver_bands(
    options: BandOptions,
    command: str,
    model: Observed,
    parts: Mapping[str, Experiments],
    bands: Mapping[str, Sequence[Bands]],
    about: dict[str, Any],
) -> bool:
    """Write bands where they were asked for.

    Returns:
        Whether a table should follow: not with ``--json``.
    """
    from statewise.cli.signals import band_columns

    columns = band_columns(parts, bands, names=model.output_names_, units=model.output_units_)
    more = {"interval": options.interval, **about}
    if options.plot is not None:
        more["plot"] = Path(options.plot).expanduser()
    hand_over(options, command, columns, more)
    return not options.json


def table_console(options: BandOptions) -> Console:
    """Standard output; standard error where standard output holds the bands themselves."""
    from rich.console import Console

    return Console(stderr=options.out is None, highlight=False, soft_wrap=False)


def about_noise(noise: NoiseModel) -> dict[str, Any]:
    """What the calibration of a model says, for a JSON object."""
    return {
        "observer": type(noise.levels).__name__,
        "judged_on": noise.judged_on,
        "validation": {
            "ahead": [dataclasses.asdict(row) for row in noise.coverage],
            "inside": [dataclasses.asdict(row) for row in noise.coverage_inside],
        },
    }


def held_out(rows: Sequence[Coverage], output: int, interval: float, reach: int) -> float | None:
    """Share of held-out measurements inside calibrated bands, up to ``reach`` samples away."""
    fitting = [
        row
        for row in rows
        if row.output == output and row.interval == interval and row.horizon <= max(reach, 1)
    ]
    count = sum(row.count for row in fitting)
    return sum(row.after * row.count for row in fitting) / count if count else None


def tell_calibration(console: Console, noise: NoiseModel, rows: Sequence[dict[str, Any]]) -> None:
    """Say what "held out" is in a table that has it."""
    if any(row["held_out"] is not None for row in rows):
        console.print(_calibrated(noise), style="italic", markup=False, soft_wrap=True)


def _calibrated(noise: NoiseModel) -> str:
    if noise.judged_on == "validation" or "left-out" in noise.judged_on:
        return (
            f"held out: the share on {noise.judged_on} data, each half judged by what the other "
            "gave"
        )
    return (
        f"held out: the share on {noise.judged_on} data, for want of enough validation data; new "
        "data may fall outside more often"
    )


def stamp(time: Any) -> str:
    """A date, a date with its time, or a number."""
    if isinstance(time, np.datetime64):
        day = time.astype("datetime64[D]")
        return str(day if day == time else time.astype("datetime64[s]"))
    return f"{float(time):.6g}"


def percent(share: float | None) -> str:
    """A share in percent, or a dash."""
    return "–" if share is None or not np.isfinite(share) else f"{100 * share:.1f}"


def shares(
    model: Observed,
    noise: NoiseModel,
    parts: Mapping[str, Experiments],
    bands: Mapping[str, Sequence[Bands]],
    interval: float,
) -> list[dict[str, Any]]:
    """One row per part and output: share inside, width, and whether the errors are white."""
    rows = []
    for name, part in parts.items():
        white = _whiteness(part, bands[name])
        for k, channel in enumerate(model.output_names_):
            y = np.concatenate([record.y[record.skip :, k] for record in part])
            low, high = (
                np.concatenate(
                    [
                        getattr(b, end)[record.skip :, k]
                        for b, record in zip(bands[name], part, strict=True)
                    ]
                )
                for end in ("lower", "upper")
            )
            known = np.isfinite(y)
            inside = (y >= low) & (y <= high) & known
            rows.append(
                {
                    "part": name,
                    "output": channel,
                    "unit": model.output_units_[k],
                    "measured": int(known.sum()),
                    "inside": float(inside.sum() / known.sum()) if known.any() else None,
                    "held_out": held_out(noise.coverage, k, interval, 1),
                    "width": float(np.median(high - low)),
                    "white_p": white[k],
                }
            )
    return rows


def _whiteness(part: Experiments, bands: Sequence[Bands]) -> list[float | None]:
    """P of the Ljung-Box test of every output; None where there are too few samples."""
    from statewise.analysis import whiteness

    errors = [
        one.innovations[record.skip :]
        for one, record in zip(bands, part, strict=True)
        if one.innovations is not None
    ]
    pooled = np.concatenate(errors)
    fewest = int(np.isfinite(pooled).sum(0).min())
    lags = min(LAGS, fewest // 4, max(map(len, errors)) - 1)
    if lags < 2:
        return [None] * pooled.shape[1]
    return [float(test.p_value) for test in whiteness(errors, lags)]
