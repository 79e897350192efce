"""The page: one self-contained HTML file, without scripts, and its JSON twin."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import numpy as np

from statewise._files import write_text
from statewise._version import __version__
from statewise.report.content import ReportData
from statewise.report.headline import headline, main_rows
from statewise.report.markup import Html, el, join
from statewise.report.sections import (
    certainty_section,
    data_section,
    layers_section,
    learned_section,
    model_section,
    path_section,
    reproduce_section,
    residual_section,
    score_section,
    simulation_section,
    states_section,
    training_section,
)
from statewise.report.twin import to_json
from statewise.report.words import count, metric_name, number

_NAVIGATION = {
    "model": "Model",
    "data": "Data",
    "errors": "Errors",
    "simulation": "Simulation",
    "residuals": "Residuals",
    "certainty": "Certainty",
    "learned": "Findings",
    "behaviour": "Behaviour",
    "blocks": "Blocks",
    "states": "States",
    "training": "Training",
    "reproduce": "Reproduce",
}


def render_html(data: ReportData) -> str:
    """Give the report as one HTML document.

    The page needs no network and no script; figures are SVG inside it, in two sizes of which the
    style sheet shows the one that fits. The same data give the same text.

    Args:
        data: what to report.

    Returns:
        The document.
    """
    sections = {
        "model": model_section(data),
        "data": data_section(data),
        "errors": score_section(data),
        "simulation": simulation_section(data),
        "residuals": residual_section(data),
        "certainty": certainty_section(data),
        "learned": learned_section(data),
        "behaviour": path_section(data),
        "blocks": layers_section(data),
        "states": states_section(data),
        "training": training_section(data),
        "reproduce": reproduce_section(data),
    }
    shown = {key: part for key, part in sections.items() if part is not None}
    links = [el("a", _NAVIGATION[key], href=f"#{key}") for key in shown]
    style = resources.files("statewise.report").joinpath("style.css").read_text(encoding="utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name_="color-scheme", content="light dark"),
        el("title", f"{data.title}: identification report"),
        el("style", Html(style)),
    )
    twin = "All numbers, and those behind the figures, are in the JSON file beside this page."
    body = el(
        "body",
        _header(data, links),
        el("main", *shown.values()),
        el("footer", el("p", f"Made by statewise {__version__}. {twin}")),
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def write_report(data: ReportData, folder_or_path: str | os.PathLike[str]) -> Path:
    """Write the page and its JSON twin.

    Each file appears whole or not at all; files that are there already are replaced.

    Args:
        data: what to report.
        folder_or_path: a folder, which then holds ``report.html`` and ``report.json``, or the path
            of the page, ending in ``.html``; the twin stands beside it.

    Returns:
        The path of the page.
    """
    target = Path(folder_or_path)
    page = target if target.suffix.lower() in (".html", ".htm") else target / "report.html"
    twin = json.dumps(to_json(data), ensure_ascii=False, allow_nan=False, indent=1)
    document = render_html(data)
    write_text(page.with_suffix(".json"), f"{twin}\n")
    write_text(page, document)
    return page


def _header(data: ReportData, links: list[Html]) -> Html:
    found = headline(data)
    return el(
        "header",
        el("p", join([data.title, data.created[:10]], " · "), cls="kicker"),
        el("h1", found.claim),
        el("p", found.verdict, cls="verdict") if found.verdict else None,
        el("p", found.detail, cls="detail") if found.detail else None,
        _tiles(data),
        el("nav", *links, aria_label="Sections"),
    )


def _tiles(data: ReportData) -> Html | None:
    """The main figures side by side, each beside the best baseline's."""
    found = headline(data)
    if not found.metric:
        return None
    own = main_rows(data, data.model.name, found.split)
    other = main_rows(data, found.baseline, found.split) if found.baseline else []
    channels = list(dict.fromkeys(row.channel for row in own))
    tiles = []
    if len(channels) == 1:
        reference = {row.metric: row.value for row in other}
        first = sorted(own, key=lambda row: row.metric != found.metric)
        for row in first[:4]:
            below = None
            if row.metric in reference:
                below = f"{found.baseline}: {number(reference[row.metric])}"
            tiles.append(_tile(metric_name(row.metric), row.value, row.unit, below))
    else:
        reference = {row.channel: row.value for row in other if row.metric == found.metric}
        for row in own:
            if row.metric == found.metric and len(tiles) < 8:
                below = None
                if row.channel in reference:
                    below = f"{found.baseline}: {number(reference[row.channel])}"
                label = f"{metric_name(row.metric)} of {row.channel}"
                tiles.append(_tile(label, row.value, row.unit, below))
    if data.model.n_parameters:
        blocks = f"{len(data.layers)} blocks" if data.layers else None
        tiles.append(_tile("parameters", data.model.n_parameters, "", blocks))
    return el("dl", *tiles, cls="tiles")


def _tile(label: str, value: float, unit: str, below: str | None) -> Html:
    text = count(int(value)) if isinstance(value, int | np.integer) else number(value)
    return el(
        "div",
        el("dt", label),
        el("dd", text, el("small", f" {unit}") if unit else None),
        el("dd", below, cls="below") if below else None,
    )
