"""What was identified, and from which data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from statewise.report.content import Channel, DataSummary, LayerSummary, Part, ReportData
from statewise.report.markup import Html, el, join, section, table
from statewise.report.words import count, exact, number, split_name, unit_word, unit_words


def model_section(data: ReportData) -> Html:
    """The model in a sentence, as a chain of blocks, and its settings."""
    model = data.model
    parameters = f"{count(model.n_parameters)} trained parameters." if model.n_parameters else ""
    config = None
    if model.config:
        config = el("details", el("summary", "All settings"), _nested(model.config))
    return section(
        "model",
        "What was identified",
        el("p", join([model.description, parameters], " ")),
        _chain(data) if data.layers else None,
        config,
    )


def data_section(data: ReportData) -> Html:
    """Signals, and which part of the data served which purpose."""
    summary = data.data
    about = [summary.description]
    about += [f"Source: {summary.source}."] if summary.source else []
    about += [f"Licence: {summary.licence}."] if summary.licence else []
    signals = [
        (channel.name, role, channel.unit or "–", *_range(channel))
        for role, channels in (("input", summary.inputs), ("output", summary.outputs))
        for channel in channels
    ]
    ranged = any(cell != "–" for row in signals for cell in row[3:])
    head = ["signal", "role", "unit", *(["lowest", "mean", "highest"] if ranged else [])]
    rows = signals if ranged else [row[:3] for row in signals]
    return section(
        "data",
        "Data and split",
        el("p", join(_sentences(about, summary), " ")),
        el(
            "div",
            table(head, rows, caption="Signals (training data)", numeric=(3, 4, 5), cls="slim"),
            _split_table(summary) if summary.parts else None,
            cls="pair",
        ),
        el("p", _window_sentence(summary.parts), cls="note") if summary.parts else None,
    )


def _sentences(about: Sequence[str], summary: DataSummary) -> list[str]:
    sentences = []
    for text in about:
        if text:
            sentences.append(text if text.rstrip().endswith((".", "!", "?")) else f"{text}.")
    if summary.dt is not None:
        unit = summary.time_unit
        words = unit_word(unit) if summary.dt == 1 else unit_words(unit)
        sentences.append(f"Sampling interval {exact(summary.dt)} {words}.")
    return sentences


def _range(channel: Channel) -> tuple[str, str, str]:
    mean = channel.mean
    if abs(mean) < 1e-9 * (channel.high - channel.low):  # rounding of a mean of zero
        mean = 0.0
    return number(channel.low), number(mean), number(channel.high)


def _split_table(summary: DataSummary) -> Html:
    several = len({part.record for part in summary.parts}) > 1
    dated = any(part.begin for part in summary.parts)
    missing = any(part.missing_inputs or part.missing_outputs for part in summary.parts)
    head = ["part", *(["record"] if several else []), "samples", "scored"]
    head += ["from", "to"] if dated else []
    head += ["missing inputs", "missing outputs"] if missing else []
    rows = []
    for part in summary.parts:
        row = [split_name(part.split), *([part.record or "–"] if several else [])]
        row += [count(part.samples), count(part.scored)]
        row += [el("span", date or "–", cls="date") for date in (part.begin, part.end) if dated]
        row += [count(part.missing_inputs), count(part.missing_outputs)] if missing else []
        rows.append(row)
    first = 1 + several
    numeric = {first, first + 1} | (set(range(len(head) - 2, len(head))) if missing else set())
    return table(head, rows, caption="Split", numeric=numeric, cls="slim")


def _window_sentence(parts: Sequence[Part]) -> str:
    skips = sorted({part.skip for part in parts if part.split != "train"})
    if not skips or skips == [0]:
        return "Every sample of a test record is scored; the model starts at rest."
    span = count(skips[0]) if len(skips) == 1 else f"{count(skips[0])} to {count(skips[-1])}"
    return (
        f"The first {span} samples of a validation or test record only set the initial state; "
        "after them the model sees inputs alone."
    )


def _chain(data: ReportData) -> Html:
    """Inputs, blocks and outputs as a row of boxes."""
    inputs, outputs = data.data.inputs, data.data.outputs
    boxes = [_box("inputs", _names(inputs), "signal")]
    boxes += [_block(layer) for layer in data.layers]
    boxes.append(_box("outputs", _names(outputs), "signal"))
    return el("ol", *(el("li", box) for box in boxes), cls="chain", aria_label="Parts of the model")


def _names(channels: Sequence[Channel]) -> str:
    names = [channel.name for channel in channels]
    return (
        ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more"
    )


def _block(layer: LayerSummary) -> Html:
    kind = "complex states" if layer.paired else "real states"
    extra = [f"skip: {layer.skip}"] if layer.skip != "none" else []
    extra += [f"norm: {layer.norm}"] if layer.norm else []
    text = join(
        [
            f"{count(len(layer.eigenvalues))} {kind}",
            f"{layer.n_inputs} → {layer.n_outputs} channels",
            f"static map {layer.static}",
            *extra,
        ],
        Html("<br>"),  # type: ignore[arg-type]
    )
    return _box(layer.name, text, "block")


def _box(title: str, text: Any, cls: str) -> Html:
    return el("div", el("strong", title), el("span", text), cls=f"box {cls}")


def _nested(value: Any) -> Html:
    """Settings as nested definition lists."""
    if isinstance(value, Mapping):
        items = [
            el(
                "div",
                el("dt", key),
                el("dd", _nested(item)),
                cls="nest" if isinstance(item, Mapping) and set(item) - {"kind"} else None,
            )
            for key, item in value.items()
            if key != "kind"
        ]
        kind = el("code", value["kind"]) if "kind" in value else None
        return join([kind, el("dl", *items, cls="settings") if items else None])
    if isinstance(value, list | tuple):
        return el("code", ", ".join(str(item) for item in value) or "none")
    if isinstance(value, float):
        return el("code", exact(value))
    return el("code", "none" if value is None else str(value))
