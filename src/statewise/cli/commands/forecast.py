"""``statewise forecast``: what follows a measured record, with bands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from statewise._errors import DataError
from statewise.cli.banded import (
    BandOptions,
    about_noise,
    check_files,
    deliver_bands,
    held_out,
    open_observed,
    percent,
    stamp,
    table_console,
    tell_calibration,
)
from statewise.cli.console import UsageError
from statewise.cli.options import parse

if TYPE_CHECKING:
    from rich.console import Console

    from statewise.data import Experiments, Record
    from statewise.estimators.bands import Bands
    from statewise.estimators.noise_model import NoiseModel
    from statewise.estimators.observed import Observed

SUMMARY = """\
Forecast the outputs behind a measured record, with bands.

The inputs must be known there: rows of DATA without outputs, or --future FILE.
"""
#: Records whose forecast is shown on the screen.
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class ForecastOptions(BandOptions):
    """Options of ``statewise forecast``."""

    horizon: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: all future inputs)")
    ] = None
    """How many samples to forecast."""
    future: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """File with the inputs that follow the last row of DATA."""
    after: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: the last measured)")
    ] = None
    """Forecast behind this sample, as if no later output were known."""


@dataclasses.dataclass(frozen=True)
class Future:
    """A record and where its forecast begins.

    Attributes:
        record: past and future, with what was measured in both.
        origin: samples whose outputs the forecast is given.
    """

    record: Record
    origin: int

    @property
    def hidden(self) -> Record:
        """The record as the forecast sees it."""
        y = np.array(self.record.y)
        y[self.origin :] = np.nan
        skip = min(self.record.skip, self.origin - 1)
        return dataclasses.replace(self.record, y=y, y_mask=None, skip=skip)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(ForecastOptions, arguments, "forecast", SUMMARY)
    check_files(options)
    for name, value in (("--horizon", options.horizon), ("--after", options.after)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is a number of samples, 1 or more; given {value}")
    model, noise, records = open_observed(options)
    parts, coming, whole, bands = {}, {}, {}, {}
    for name, part in records.parts.items():
        part = part if options.future is None else _extended(part, options, model)
        coming[name] = [_future(record, options) for record in part]
        whole[name] = dataclasses.replace(part, records=tuple(f.hidden for f in coming[name]))
        found = model.filter(whole[name], interval=options.interval)
        bands[name] = [
            _cut(one, future.origin) for one, future in zip(found, coming[name], strict=True)
        ]
        parts[name] = dataclasses.replace(
            part, records=tuple(f.record.part(f.origin, len(f.record)) for f in coming[name])
        )
        if options.plot is not None and name == next(iter(records.parts)):
            from statewise.cli.bands_figure import draw_forecast

            draw_forecast(
                options.plot, model, part, coming[name][0].record, found[0], coming[name][0].origin
            )
    rows = _rows(model, noise, parts, bands, options.interval)
    more = {"rows": rows, **about_noise(noise)}
    if deliver_bands(options, "forecast", model, parts, bands, more):
        console = table_console(options)
        _show(console, rows, options.interval)
        tell_calibration(console, noise, rows)


def _future(record: Record, options: ForecastOptions) -> Future:
    """Where the forecast of a record begins and ends.

    Raises:
        DataError: nothing measured, or inputs that are missing.
        UsageError: an --after or a --horizon that the record is too short for.
    """
    label = f"record {record.name!r} of {options.data}" if record.name else options.data
    known = np.flatnonzero(np.isfinite(record.y).any(1))
    if not len(known):
        raise DataError(f"{label} holds no measured output to forecast from")
    origin = int(known[-1]) + 1
    if options.after is not None:
        if options.after > len(record):
            raise UsageError(f"--after {options.after}: {label} has {len(record)} samples")
        if options.after <= known[0]:
            raise UsageError(
                f"--after {options.after}: the first measured output of {label} is sample "
                f"{known[0] + 1}"
            )
        origin = options.after
    there = len(record) - origin
    steps = there if options.horizon is None else options.horizon
    if steps > there or not there:
        asked = "" if options.horizon is None else f", --horizon asks for {steps}"
        where = f"sample {origin}" if options.after else "the last measured output"
        raise DataError(
            f"{label} has inputs for {there} samples behind {where}{asked}: add rows with inputs "
            "and empty outputs to it, give the inputs with --future FILE, or look back with "
            "--after N"
        )
    if record.u is not None:
        empty = np.flatnonzero(np.isnan(record.u[origin : origin + steps]).all(1))
        if len(empty):
            raise DataError(
                f"{label} has no inputs in sample {origin + int(empty[0]) + 1}; a forecast needs "
                "the inputs of every sample ahead"
            )
    return Future(record.part(0, origin + steps, skip=min(record.skip, origin - 1)), origin)


def _extended(part: Experiments, options: ForecastOptions, model: Observed) -> Experiments:
    """The record of DATA with the inputs of ``--future`` behind it.

    Raises:
        UsageError: several records, or a file that is none.
        DataError: inputs that do not follow the record.
    """
    from statewise.cli.source import is_file, load_records

    assert options.future is not None
    if not is_file(options.future):
        raise UsageError(f"--future {options.future} is no file")
    read = load_records(
        options.future,
        dataclasses.replace(options.columns, outputs=None),
        window=None,
        inputs=model.input_names_,
        outputs=model.output_names_,
        measured=False,
    )
    (more,) = read.parts.values()
    if len(part) != 1 or len(more) != 1:
        raise UsageError(
            f"--future goes with one record; {options.data} has {len(part)} and {options.future} "
            f"{len(more)}: put rows with inputs and empty outputs into DATA instead"
        )
    past, ahead = part[0], more[0]
    if ahead.n_u != past.n_u:
        raise DataError(f"{options.future} has {ahead.n_u} inputs; the model has {past.n_u}")
    time = _joined_time(past, ahead, options)
    unknown = np.full((len(ahead), past.n_y), np.nan)
    fields = {"y": np.concatenate([past.y, unknown]), "y_mask": None, "u_mask": None, **time}
    if past.u is not None and ahead.u is not None:
        fields["u"] = np.concatenate([past.u, ahead.u])
    return dataclasses.replace(part, records=(dataclasses.replace(past, **fields),))


def _joined_time(past: Record, ahead: Record, options: ForecastOptions) -> dict[str, Any]:
    """Time stamps of both, or none where that of the past goes on.

    Raises:
        DataError: a file that does not begin one step behind the record.
    """
    from statewise.data.timeaxis import SECONDS

    dates = past.dates(), ahead.dates()
    if dates[0] is not None and dates[1] is not None:
        between = (dates[1][0] - dates[0][-1]) / np.timedelta64(1, "s")
        between /= SECONDS.get(past.time_unit, 1.0)
        begins, ended = stamp(dates[1][0]), stamp(dates[0][-1])
    elif dates[0] is None and dates[1] is None and ahead.t0:
        between = ahead.times()[0] - past.times()[-1]
        begins, ended = f"{ahead.times()[0]:g}", f"{past.times()[-1]:g}"
    else:
        between, begins, ended = past.dt, "", ""
    step = past.dt
    if between is None or between <= 0 or (step is not None and abs(between / step - 1) > 0.01):
        rule = "" if step is None else f" with a step of {step:g} {past.time_unit}".rstrip()
        raise DataError(
            f"{options.future} begins at {begins or 'an unknown time'}, {options.data} ends at "
            f"{ended or 'one'}{rule}; its first row must be the sample behind the last one"
        )
    even = ahead.dt is None or (step is not None and abs(ahead.dt / step - 1) < 0.01)
    if step is not None and even and ahead.t is None:
        return {}
    later = past.times()[-1] + between + (ahead.times() - ahead.times()[0])
    return {"t": np.concatenate([past.times(), later]), "dt": None}


def _cut(one: Bands, origin: int) -> Bands:
    """The bands behind a sample."""
    return dataclasses.replace(
        one,
        mean=one.mean[origin:],
        lower=one.lower[origin:],
        upper=one.upper[origin:],
        std=one.std[origin:],
        state_mean=None,
        state_std=None,
        innovations=None,
        log_likelihood=None,
        observed=one.observed[origin:],
    )


def _rows(
    model: Observed,
    noise: NoiseModel,
    parts: dict[str, Experiments],
    bands: dict[str, list[Bands]],
    interval: float,
) -> list[dict[str, Any]]:
    """A few horizons of every forecast: 1, 2, 4, … and the last."""
    from statewise.cli.signals import record_label

    rows = []
    for name, part in parts.items():
        for index, (record, one) in enumerate(zip(part, bands[name], strict=True)):
            dates = record.dates()
            time = record.times() if dates is None else dates
            alone = len(parts) == len(part) == 1
            label = record.name if alone else record_label(name, index, record, len(parts))
            chosen = sorted({*(2 ** np.arange(len(record).bit_length())), len(record)})
            for ahead in chosen:
                if ahead > len(record):
                    continue
                at = ahead - 1
                for k, channel in enumerate(model.output_names_):
                    reach = [row.horizon for row in noise.coverage if row.horizon <= ahead]
                    rows.append(
                        {
                            "record": label,
                            "ahead": int(ahead),
                            "time": time[at],
                            "output": channel,
                            "unit": model.output_units_[k],
                            "mean": float(one.mean[at, k]),
                            "lower": float(one.lower[at, k]),
                            "upper": float(one.upper[at, k]),
                            "measured": float(record.y[at, k]),
                            "held_out": held_out(
                                [row for row in noise.coverage if row.horizon == max(reach)],
                                k,
                                interval,
                                int(ahead),
                            ),
                        }
                    )
    return rows


def _show(console: Console, rows: Sequence[dict[str, Any]], interval: float) -> None:
    from rich.table import Table
    from rich.text import Text

    from statewise.cli.tables import number

    names = list(dict.fromkeys(row["record"] for row in rows))
    for name in names[:SHOWN]:
        own = [row for row in rows if row["record"] == name]
        several = len({row["output"] for row in own}) > 1
        seen = any(np.isfinite(row["measured"]) for row in own)
        title = f"{name or 'data'}: forecast, {100 * interval:g} % bands"
        console.print(title, style="bold", markup=False)
        table = Table()
        table.add_column("ahead", justify="right")
        table.add_column("time", justify="right")
        if several:
            table.add_column("output")
        unit = "" if several or not own[0]["unit"] else f" [{own[0]['unit']}]"
        held = ["held out [%]"] * any(row["held_out"] is not None for row in own)
        for head in (f"mean{unit}", "lower", "upper", *(["measured"] * seen), *held):
            table.add_column(Text(head), justify="right")
        for row in own:
            cells = [f"{row['ahead']}", stamp(row["time"])]
            cells += [row["output"]] if several else []
            cells += [number(row[key]) for key in ("mean", "lower", "upper")]
            cells += [number(row["measured"])] if seen else []
            cells += [percent(row["held_out"])] if held else []
            table.add_row(*map(Text, cells))
        console.print(table)
    if len(names) > SHOWN:
        console.print(f"{len(names) - SHOWN} more forecasts are in the file", style="italic")
