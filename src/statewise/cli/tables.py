"""Tables of scores for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

_LABELS = {
    "nse": "NSE",
    "r2": "R²",
    "fit": "FIT",
    "fit_percent": "FIT",
    "nrmse": "NRMSE",
    "rmse": "RMSE",
    "mae": "MAE",
    "vaf": "VAF",
}
_SHOWN = ("nse", "fit", "nrmse", "rmse")


def print_scores(
    console: Console,
    rows: Iterable[Mapping[str, Any]],
    *,
    best: str | None = None,
    references: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print one table for each part of the data and mode.

    Args:
        console: where to.
        rows: scores with ``method``, ``metric``, ``value``, ``channel``, ``unit``, ``split``,
            ``window`` and ``mode``.
        best: the method to set in bold.
        references: published figures with ``method``, ``split``, ``metric``, ``value``, ``unit``.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["split"], row["mode"], row["window"]), []).append(row)
    for index, ((split, mode, window), group) in enumerate(groups.items()):
        if index:
            console.print()
        published = [one for one in references if one["split"] == split and mode == "simulation"]
        console.print(f"{split}: {mode}", style="bold", markup=False)
        console.print(_table(group, best))
        console.print(window, style="italic", markup=False)
        for metric in dict.fromkeys(one["metric"] for one in published):
            figures = [
                f"{one['method']} {number(one['value'])}"
                for one in published
                if one["metric"] == metric
            ]
            unit = next(one["unit"] for one in published if one["metric"] == metric)
            label = (
                f"{_LABELS.get(metric, metric)} [{unit}]" if unit else _LABELS.get(metric, metric)
            )
            console.print(f"published {label}: {'; '.join(figures)}", markup=False)


def _table(rows: Sequence[Mapping[str, Any]], best: str | None) -> Table:
    there = {row["metric"] for row in rows}
    metrics = [name for name in _SHOWN if name in there] or sorted(there)
    units = {row["metric"]: row["unit"] for row in rows if row["metric"] in metrics}
    mixed = len({row["unit"] for row in rows if row["metric"] == "rmse"}) > 1
    channels = list(dict.fromkeys(row["channel"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = Table()
    if len(methods) > 1 or methods[0]:
        table.add_column("method")
    if len(channels) > 1:
        table.add_column("output")
    for name in metrics:
        unit = "" if mixed and name in ("rmse", "mae") else units[name]
        label = _LABELS.get(name, name)
        table.add_column(Text(f"{label} [{unit}]" if unit else label), justify="right")
    values = {(r["method"], r["channel"], r["metric"]): (r["value"], r["unit"]) for r in rows}
    for method in methods:
        for index, channel in enumerate(channels):
            cells = [method if index == 0 else ""] if len(methods) > 1 or method else []
            cells += [channel] if len(channels) > 1 else []
            for name in metrics:
                value, unit = values.get((method, channel, name), (None, ""))
                tail = f" {unit}" if mixed and name in ("rmse", "mae") else ""
                cells.append(f"{_shown_value(name, value)}{tail}")
            table.add_row(*map(Text, cells), style="bold" if method == best else None)
    return table


def _shown_value(metric: str, value: float | None) -> str:
    """A score; near zero, those that may be negative keep four decimals."""
    signed = metric in ("nse", "r2", "fit", "fit_percent", "vaf")
    return f"{value:.4f}" if signed and value is not None and abs(value) < 1 else number(value)


def number(value: float | None) -> str:
    """A number with four digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3e}"
    digits = 4 if abs(value) < 1 else max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
