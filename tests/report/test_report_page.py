"""The page: well-formed, self-contained, escaped, repeatable; it does without any of its parts."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from report_builders import Page, layer, minimal, report, rows, trace

from statewise.analysis import whiteness
from statewise.report import Channel, ReportData, Trace, render_html, write_report
from statewise.report.markup import el, escape


def test_tags_balance_and_every_id_is_there_once(html: str, page: Page) -> None:
    assert html.startswith("<!DOCTYPE html>\n<html")
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = [target[1:] for target in page.attributes("href")]
    targets += re.findall(r"url\(#([^)]*)\)", html)
    targets += page.attributes("aria-labelledby")
    assert targets
    assert set(targets) <= set(ids)


def test_nothing_is_fetched_and_nothing_runs(html: str, page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "image"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert all(target.startswith("#") for target in page.attributes("href"))
    assert page.attributes("src") == []
    assert set(re.findall(r"url\((.)", html)) == {"#"}
    assert "@import" not in html
    assert "://" not in html


def test_sections_and_their_figures_come_in_order(page: Page) -> None:
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    expected = ["model", "data", "errors", "simulation", "residuals", "certainty", "learned"]
    assert sections == [*expected, "behaviour", "blocks", "states", "training", "reproduce"]
    figures = [str(attrs["id"]) for tag, attrs in page.tags if tag == "figure"]
    assert figures == [
        f"figure-{name}"
        for name in (
            "trace-0",
            "valid-0",
            "input-correlation",
            "whiteness",
            "bands-0",
            "bands-states",
            "innovations",
            "steady",
            "path-response",
            "response-comparison",
            "poles",
            "time-constants",
            "layer-response",
            "static",
            "hankel",
            "reduction",
            "training",
        )
    ]


def test_every_figure_is_described_and_comes_in_two_sizes(page: Page) -> None:
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) == 2 * sum(tag == "figure" for tag, _ in page.tags)
    assert sum(tag == "figcaption" for tag, _ in page.tags) == len(pictures) / 2
    for attrs in pictures:
        assert attrs["role"] == "img"
        assert len(str(attrs["aria-label"])) > 20
        assert "width" not in attrs
        assert "height" not in attrs
    widths = [float(str(attrs.get("viewBox") or attrs["viewbox"]).split()[2]) for attrs in pictures]
    assert all(wide > 2 * narrow for wide, narrow in zip(widths[::2], widths[1::2], strict=True))


def test_style_switches_sizes_and_follows_the_reader(html: str) -> None:
    style = html[html.index("<style>") : html.index("</style>")]
    narrow = style[style.index("@media (max-width: 740px)") :]
    assert "figure .wide { display: none; }" in narrow
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_figures_take_their_colours_and_fonts_from_the_page(html: str) -> None:
    used = set(re.findall(r"var\(--([a-z]+)\)", html))
    style = html[html.index("<style>") : html.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for name in used:
        assert f"--{name}:" in light
    assert {"model", "measured", "second"} <= used
    for name in ("model", "measured", "second", "band", "worst", "ink", "line"):
        assert f"--{name}:" in dark
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "font-family" not in pictures
    assert re.findall(r"#[0-9a-fA-F]{6}\b", pictures) == []


def test_headline_names_number_and_baseline(page: Page) -> None:
    assert "Explains 82 % of the variance of Q on 1096 days it never saw" in page.text
    assert "The best baseline, FIR, explains 59 %" in page.text
    assert "32 % lower" in page.text
    assert "samples 21–200: first 20 for the initial state" in page.text


def test_tables_have_headers_with_a_scope(page: Page) -> None:
    scopes = [attrs.get("scope") for tag, attrs in page.tags if tag == "th"]
    assert scopes
    assert set(scopes) <= {"col", "row", "rowgroup"}
    assert sum(tag == "table" for tag, _ in page.tags) == sum(
        tag == "caption" for tag, _ in page.tags
    )
    scrolls = [attrs for tag, attrs in page.tags if attrs.get("class") == "scroll"]
    assert len(scrolls) == sum(tag == "table" for tag, _ in page.tags)
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolls)


def test_best_value_of_a_column_is_marked(html: str) -> None:
    errors = html[html.index('<section id="errors"') : html.index('<section id="simulation"')]
    marked = re.findall(r'<td class="num"><b>([^<]*)</b>', errors)
    assert marked[:5] == ["19.90", "0.4300", "57.00", "0.8151", "81.70"]
    assert re.search(r"a published model.*published", errors, flags=re.DOTALL)


def test_the_same_data_give_the_same_page(html: str) -> None:
    assert render_html(report()) == html


def test_settings_of_matplotlib_are_left_alone() -> None:
    before = dict(matplotlib.rcParams)
    render_html(minimal(history=report().history))
    assert dict(matplotlib.rcParams) == before


def test_names_are_escaped_everywhere() -> None:
    bad = '<b>&"$x$ {0} --> \x00 流量 "onload="'
    base = report()
    tests = whiteness(np.random.default_rng(0).standard_normal((90, 1)), 5, names=[bad])
    data = dataclasses.replace(
        base,
        title=bad,
        command=f"statewise fit {bad}",
        data=dataclasses.replace(
            base.data,
            name=bad,
            description=bad,
            source=bad,
            licence=bad,
            inputs=(Channel(bad, bad, 0, 1, 2),),
            parts=tuple(dataclasses.replace(p, record=f"{bad}{p.split}") for p in base.data.parts),
        ),
        model=dataclasses.replace(base.model, name=bad, description=bad, config={bad: [bad]}),
        scores=rows(bad, {"nse": 0.5}, bad, window=bad) + rows(f"{bad}2", {"nse": 0.4}, bad),
        traces=(dataclasses.replace(trace(), record=bad, channel=bad, unit=bad),),
        residuals={"whiteness": tests},
        layers=(dataclasses.replace(layer(), name=bad, static=bad, static_note=bad),),
        path=None,
        environment={bad: bad},
        notes=(bad,),
    )
    html = render_html(data)
    page = Page(html)
    assert "<b>&" not in html
    assert "\x00" not in html
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert '<b>&"$x$ {0} -->' in page.text


def test_a_lone_surrogate_can_be_written(tmp_path: Path) -> None:
    path = write_report(minimal(title="a\ud800b"), tmp_path)
    assert "a?b" in path.read_text(encoding="utf-8")


def test_bare_report_renders() -> None:
    page = Page(render_html(minimal()))
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == [
        "model",
        "data",
        "reproduce",
    ]
    assert "deep Wiener, identified from d" in page.text


def _gaps() -> Trace:
    whole = trace(300, dates=False)
    measured = whole.measured.copy()
    measured[40:120] = np.nan
    diverged = {"deep Wiener": np.where(np.arange(300) > 250, np.inf, 1.0)}
    return dataclasses.replace(whole, measured=measured, simulated=diverged)


def _all_missing() -> Trace:
    return dataclasses.replace(trace(60), measured=np.full(60, np.nan))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"traces": (_gaps(),)}, "80 measured values are missing"),
        ({"traces": (_all_missing(),)}, "60 measured values are missing"),
        ({"traces": (trace(3, skip=0),)}, "Worst stretch: 2001-03-01 to 2001-03-03 (3 samples)"),
        ({"traces": (trace(1, skip=0),)}, "(1 samples)"),
        ({"traces": (trace(90, split="valid"),)}, "Validation records"),
        ({"layers": (layer(states=1),)}, "All poles lie inside the unit circle"),
        ({"layers": (dataclasses.replace(layer(), eigenvalues=np.array([1.0, 0.0, -0.5])),)}, "∞"),
        ({"history": [{"step": 1, "loss": -2.0}]}, "Loss over the training steps."),
        ({"history": [{"loss": None}, {"loss": 3.0, "valid": float("nan")}]}, "row of the log"),
        ({"scores": rows("deep Wiener", {"rmse": 2.0})}, "RMSE 2.00 m³/s for Q"),
        ({"scores": rows("deep Wiener", {"nse": float("nan"), "rmse": 1.5})}, "RMSE 1.50 m³/s"),
        ({"scores": rows("deep Wiener", {"nse": -0.3})}, "Does not explain Q"),
        (
            {"scores": rows("deep Wiener", {"nse": 0.4}) + rows("deep Wiener", {"nse": 0.8}, "H")},
            "Explains 60 % of the variance of 2 outputs on average",
        ),
        ({"scores": rows("deep Wiener", {"nse": 0.4}, split="valid")}, "the validation data"),
    ],
)
def test_pieces_that_are_missing_or_odd_render(changes: dict, said: str) -> None:
    assert said in Page(render_html(minimal(**changes))).text


def test_static_maps_that_cannot_be_drawn_are_explained() -> None:
    mixed = dataclasses.replace(
        layer(),
        static="GLU",
        static_grid=None,
        static_values=None,
        static_note="It mixes channels.",
    )
    page = Page(render_html(minimal(layers=(mixed,))))
    assert "It mixes channels." in page.text
    assert "figure-static" not in page.attributes("id")


def test_long_records_and_many_outputs_stay_below_two_megabytes() -> None:
    long = [trace(100_000, channel=name, dates=name == "a") for name in "abcdefgh"]
    html = render_html(dataclasses.replace(report(), traces=[*long, long[0]]))
    assert len(html.encode()) < 2_000_000
    page = Page(html)
    assert "3 more traces are in the JSON twin" in page.text
    assert sum("figure-trace" in name for name in page.attributes("id")) == 6


def test_files_are_written_where_asked(tmp_path: Path) -> None:
    data = minimal()
    assert write_report(data, tmp_path / "a folder") == tmp_path / "a folder" / "report.html"
    assert sorted(p.name for p in (tmp_path / "a folder").iterdir()) == [
        "report.html",
        "report.json",
    ]
    assert write_report(data, tmp_path / "x.html") == tmp_path / "x.html"
    twin = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert twin["title"] == "t"
    first = (tmp_path / "x.html").read_bytes()
    write_report(data, tmp_path / "x.html")
    assert (tmp_path / "x.html").read_bytes() == first


def test_a_failing_report_leaves_the_old_one(tmp_path: Path) -> None:
    page = write_report(minimal(), tmp_path)
    before = page.read_bytes()
    broken = minimal(layers=("not a layer",))
    with pytest.raises(AttributeError):
        write_report(broken, tmp_path)
    assert page.read_bytes() == before


def test_markup_helpers() -> None:
    assert el("p", "a<b", None, el("br"), cls="x", hidden=True, title=None) == (
        '<p class="x" hidden>a&lt;b<br></p>'
    )
    assert escape('"&\x07') == "&quot;&amp;"


def test_report_data_is_frozen() -> None:
    data: ReportData = minimal()
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.title = "other"  # type: ignore[misc]
