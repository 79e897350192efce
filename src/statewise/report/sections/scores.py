"""The error table: the identified model, the baselines, published figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from statewise.report.content import Reference, ReportData, ScoreTableRow
from statewise.report.headline import unseen_splits
from statewise.report.markup import Html, el, join, scroll, section, table
from statewise.report.words import (
    HIGHER_IS_BETTER,
    MEANINGS,
    column,
    metric_name,
    number,
    split_name,
)

Group = tuple[str, str, str, str]


def score_section(data: ReportData) -> Html | None:
    """All errors: groups of split, mode and output; one row per method; best value marked."""
    if not data.scores:
        return None
    metrics = list(dict.fromkeys(row.metric for row in data.scores))
    columns = _columns(data.scores, metrics)
    parts = [
        el(
            "p",
            "Free-run simulation sees the inputs only; a k-step prediction also sees the outputs "
            "up to k samples earlier, and its errors are not comparable with those of a "
            "simulation. The best value of each column is marked.",
        ),
        _table(data, metrics, columns),
        el("dl", *_meanings(metrics), cls="terms"),
        _published(data),
    ]
    return section("errors", "Errors beside the baselines", *parts)


def _columns(rows: Sequence[ScoreTableRow], metrics: Sequence[str]) -> list[str]:
    """Column headers with the unit when all rows of a metric share it."""
    heads = []
    for metric in metrics:
        units = {row.unit for row in rows if row.metric == metric}
        unit = units.pop() if len(units) == 1 else ""
        heads.append(f"{metric_name(metric)} [{unit}]" if unit else metric_name(metric))
    return heads


def _table(data: ReportData, metrics: Sequence[str], columns: Sequence[str]) -> Html:
    head = el(
        "tr",
        el("th", "method", scope="col"),
        *(el("th", name, scope="col", cls="num") for name in columns),
    )
    bodies = []
    for group in _groups(data):
        rows = [row for row in data.scores if _key(row) == group]
        bodies.append(_body(group, rows, metrics, data))
    caption = "Errors of the identified model and of the baselines"
    content = el(
        "table", el("caption", caption, cls="hidden"), el("thead", head), *bodies, cls="scores"
    )
    return scroll(content, caption)


def _key(row: ScoreTableRow) -> Group:
    return row.split, row.mode, row.channel, row.window


def _groups(data: ReportData) -> list[Group]:
    """Test sets first, then validation, then training; simulation before prediction."""
    splits = [*unseen_splits(data), *dict.fromkeys(row.split for row in data.scores)]
    groups = dict.fromkeys(_key(row) for row in data.scores)
    return sorted(groups, key=lambda group: (splits.index(group[0]), group[1] != "simulation"))


def _body(
    group: Group, rows: Sequence[ScoreTableRow], metrics: Sequence[str], data: ReportData
) -> Html:
    split, mode, channel, window = group
    methods = dict.fromkeys(row.method for row in rows)
    values = {(row.method, row.metric): row for row in rows}
    best = {metric: _best(rows, metric) for metric in metrics}
    title = el(
        "tr",
        el(
            "th",
            el("strong", join([channel, mode, split_name(split)], " · ")),
            el("span", window),
            colspan=str(len(metrics) + 1),
            scope="rowgroup",
        ),
        cls="group",
    )
    shared = _columns(data.scores, metrics)
    texts = {}
    for metric in metrics:
        chosen = [row for row in rows if row.metric == metric]
        shown = column([row.value for row in chosen], metric)
        texts |= {(row.method, metric): text for row, text in zip(chosen, shown, strict=True)}
    lines = [title]
    for method in methods:
        cells = []
        for metric, title_of in zip(metrics, shared, strict=True):
            row = values.get((method, metric))
            text = texts.get((method, metric), "–")
            if row is not None and row.unit and "[" not in title_of and np.isfinite(row.value):
                text = join([text, el("small", f" {row.unit}")])
            marked = best[metric] is not None and row is not None and row.value == best[metric]
            cells.append(el("td", el("b", text) if marked else text, cls="num"))
        own = method == data.model.name
        lines.append(el("tr", el("th", method, scope="row"), *cells, cls="own" if own else None))
    return el("tbody", *lines)


def _best(rows: Sequence[ScoreTableRow], metric: str) -> float | None:
    values = [row.value for row in rows if row.metric == metric and np.isfinite(row.value)]
    if len(values) < 2:
        return None
    return max(values) if metric in HIGHER_IS_BETTER else min(values)


def _meanings(metrics: Sequence[str]) -> list[Html]:
    names = dict.fromkeys(metric_name(metric) for metric in metrics)
    return [
        el("div", el("dt", name), el("dd", MEANINGS[name])) for name in names if name in MEANINGS
    ]


def _published(data: ReportData) -> Html | None:
    if not data.references:
        return None
    pieces: list[Html] = [el("h3", "Published figures for the same task")]
    groups = dict.fromkeys((item.test, item.metric, item.unit) for item in data.references)
    for test, metric, unit in groups:
        chosen = [
            item
            for item in data.references
            if (item.test, item.metric, item.unit) == (test, metric, unit)
        ]
        label = f"{metric_name(metric)} [{unit}]" if unit else metric_name(metric)
        rows = _ranked(data, chosen, metric, test, unit)
        pieces.append(
            table(["method", label], rows, caption=f"{test}: {label}", numeric=(1,), cls="slim")
        )
    pieces.append(
        el(
            "p",
            "Published figures stand as their authors gave them and were not measured here.",
            cls="note",
        )
    )
    return join(pieces)


def _ranked(
    data: ReportData, references: Sequence[Reference], metric: str, test: str, unit: str
) -> list[tuple[Html | str, Html]]:
    """Published and measured values in order, the best first."""
    measured = [
        (row.value, row.method)
        for row in data.scores
        if (row.split, row.metric, row.unit, row.mode) == (test, metric, unit, "simulation")
        and np.isfinite(row.value)
    ]
    entries = [(item.value, item.method, True) for item in references]
    entries += [(value, method, False) for value, method in measured]
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    entries.sort(key=lambda entry: (sign * entry[0], entry[1]))
    return [
        (
            join([name, el("small", " published" if published else " here")]),
            el("b", number(value)) if not published else el("span", number(value)),
        )
        for value, name, published in entries
    ]
