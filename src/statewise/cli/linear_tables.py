"""Tables of linear systems: orders, poles, coefficients and fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from statewise.cli.tables import number

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 24


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print what ``identify linear`` found.

    Args:
        console: where to.
        found: its numbers, as in ``identification.json``.
    """
    how = "" if found["how"] == "given" else f", {found['how']}"
    states = found["states"]
    sizes = (
        f"{found['order']}" if states == found["order"] else f"{found['order']} ({states} states)"
    )
    lines = [f"method  {found['method']}", f"order   {sizes}{how}"]
    size = number(found["largest_modulus"])
    word = "yes" if found["stable"] else "no"
    hint = "" if found["stable"] else "; --radius 0.999 keeps poles within the circle"
    lines.append(f"stable  {word}, largest |pole| {size}{hint}")
    if not found["converged"]:
        lines.append(f"descent not at a minimum: {found['reason']}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print()
    if len(found["singular_values"]) or found["order_scores"]:
        console.print(_orders(found))
    how = "" if found["uncertainty"] is None else f" (standard errors: {found['uncertainty']})"
    console.print(pole_table(found, found["time_unit"], f"poles{how}"))
    if found["coefficients"]:
        console.print(_coefficients(found["coefficients"]))
    console.print(fit_table(found["scores"]))
    window = next((one["window"] for one in found["scores"] if one["split"] == "test"), "")
    if window:
        console.print(f"test: {window}", style="italic", markup=False)


def table_of(
    title: str, names: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1
) -> Table:
    """A table whose first columns stand left and the others right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(names):
        table.add_column(Text(name), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def pole_table(found: Mapping[str, Any], unit: str, title: str = "poles") -> Table:
    """Poles, a conjugate pair in one row, with what they mean in time.

    Args:
        found: ``poles`` as {"re", "im"}, ``time_constants``, ``natural_frequencies``, ``damping``
            and maybe ``pole_deviation`` and ``time_constant_band``.
        unit: unit of time.
        title: stands above the table.
    """
    re, im = found["poles"]["re"], found["poles"]["im"]
    deviation = found.get("pole_deviation", [math.nan] * len(re))
    known = any(value is not None and math.isfinite(value) for value in deviation)
    names = ["pole", *(["std. error"] if known else [])]
    bands = found.get("time_constant_band", [])
    banded = any(value is not None and math.isfinite(value) for pair in bands for value in pair)
    names += [f"time constant [{unit}]", *([f"90 % band\n[{unit}]"] if banded else [])]
    names += [f"frequency [rad/{unit}]", "damping"]
    rows = []
    for k in range(len(re)):
        if im[k] < 0:
            continue
        pair = f" ± {number(float(im[k]))}i" if im[k] > 0 else ""
        row = [f"{number(float(re[k]))}{pair}"]
        row += [number(deviation[k])] if known else []
        row.append(number(found["time_constants"][k]))
        row += [_between(*bands[k])] if banded else []
        rows.append([*row, *(number(found[key][k]) for key in _MEANINGS)])
    table = table_of(title, names, _first(rows))
    # A number must not be broken where headers can.
    table.columns[0].no_wrap = True
    if banded:
        table.columns[-3].no_wrap = True
    return table


def _between(low: float | None, high: float | None) -> str:
    open_ended = high is None or not math.isfinite(high)
    return f"{number(low)}–{'∞' if open_ended else number(high)}"


_MEANINGS = ("natural_frequencies", "damping")


def fit_table(scores: Sequence[Mapping[str, Any]]) -> Table:
    """FIT and RMSE of every part and output, in free run and one step ahead."""
    several = len({one["channel"] for one in scores}) > 1
    values = {(s["split"], s["channel"], s["mode"], s["metric"]): s for s in scores}
    pairs = dict.fromkeys((s["split"], s["channel"]) for s in scores)
    unit = {s["unit"] for s in scores if s["metric"] == "rmse"}
    label = f"RMSE [{unit.copy().pop()}]" if len(unit) == 1 and any(unit) else "RMSE"
    names = ["data", *(["output"] if several else [])]
    names += ["free run FIT [%]", label, "1 step FIT [%]", label]
    rows = []
    for split, channel in pairs:
        row = [split, *([channel] if several else [])]
        for mode in ("simulation", "1-step prediction"):
            for metric in ("fit", "rmse"):
                one = values.get((split, channel, mode, metric))
                row.append(number(None if one is None else one["value"]))
        rows.append(row)
    return table_of("fit", names, rows, left=2 if several else 1)


def _orders(found: Mapping[str, Any]) -> Table:
    values, scores = found["singular_values"], dict(map(tuple, found["order_scores"]))
    judged = bool(scores) and found["criterion"] != "gap"
    names = ["order", *(["singular value"] if len(values) else [])]
    names += [found["criterion"]] if judged else []
    count = max(len(scores), min(len(values), found["order"] + 4, 12))
    rows = []
    for n in range(1, count + 1):
        row = [f"{n}{' ◂' if n == found['order'] else ''}"]
        if len(values):
            row.append(number(float(values[n - 1])) if n <= len(values) else "–")
        if judged:
            row.append(number(scores.get(n)))
        rows.append(row)
    return table_of("orders", names, rows)


def _coefficients(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = [[r["name"], number(r["value"]), number(r["standard_error"])] for r in rows]
    return table_of("coefficients", ["name", "value", "std. error"], _first(shown))


def _first(rows: list[list[str]]) -> list[list[str]]:
    if len(rows) <= _MOST_ROWS:
        return rows
    left = len(rows) - _MOST_ROWS
    return [*rows[:_MOST_ROWS], [f"… {left} more", *[""] * (len(rows[0]) - 1)]]
