"""From matplotlib to SVG that belongs to the page: its fonts, its colours, no clashing ids.

matplotlib is used through ``Figure`` objects alone; settings hold inside a context.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from statewise.report.markup import Html, el, escape, printable
from statewise.report.words import tick

#: Colours of the light page; each becomes a variable of the style sheet with this name. They are
#: those of Okabe and Ito, which colour-blind readers tell apart.
PALETTE = {
    "ink": "#1d2731",
    "muted": "#5b6773",
    "line": "#d5dae0",
    "measured": "#39424c",
    "model": "#0f7fd0",
    "second": "#d55e00",
    "third": "#009e73",
    "fourth": "#cc79a7",
    "fifth": "#e69f00",
    "sixth": "#56b4e9",
    "band": "#e8f0f6",
    "range": "#bfdcf3",
    "worst": "#fbe4d5",
}
SERIES = ("model", "second", "third", "fourth", "fifth", "sixth")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))

WIDE, NARROW = 9.8, 3.9
"""Widths in inches: 72 units of the SVG's own coordinates each."""

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": PALETTE["line"],
    "axes.facecolor": "none",
    "axes.formatter.use_mathtext": False,
    "axes.grid": True,
    "axes.labelcolor": PALETTE["muted"],
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": PALETTE["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 7.0,
    "axes.unicode_minus": True,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.facecolor": "none",
    "figure.dpi": 72.0,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "grid.color": PALETTE["line"],
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.solid_joinstyle": "round",
    "path.simplify": True,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "statewise",
    "text.color": PALETTE["ink"],
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": PALETTE["line"],
    "xtick.labelcolor": PALETTE["muted"],
    "xtick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "xtick.minor.size": 0.0,
    "ytick.color": PALETTE["line"],
    "ytick.labelcolor": PALETTE["muted"],
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))

Draw = Callable[[Figure, bool], None]


def figure(
    key: str, draw: Draw, *, wide: float, narrow: float, alt: str, caption: Any = None
) -> Html:
    """A figure in two sizes, of which the style sheet shows one.

    Args:
        key: unique name on the page.
        draw: draws on a matplotlib figure; True asks for the wide variant.
        wide: height of the wide variant in inches.
        narrow: height of the narrow variant in inches.
        alt: what the figure shows, for those who do not see it.
        caption: text or markup below the figure.
    """
    variants = [
        el("div", _svg(f"{key}-{name}", draw, size, alt), cls=name)
        for name, size in (("wide", (WIDE, wide)), ("narrow", (NARROW, narrow)))
    ]
    below = None if caption is None else el("figcaption", caption)
    return el("figure", *variants, below, id=f"figure-{key}")


def legend(entries: Sequence[tuple[str, str, str]]) -> Html:
    """A legend in HTML: (label, colour name, mark); a mark is a line, dash, dot or band."""
    items = [
        el("span", el("i", cls=f"{mark} c-{colour}", aria_hidden="true"), label)
        for label, colour, mark in entries
    ]
    return el("div", *items, cls="legend")


def log_axis(axes: Axes, which: str, low: float, high: float, *, most: int = 6) -> None:
    """Make an axis logarithmic from ``low`` to ``high`` with round, plain tick labels."""
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    decades = abs(math.log10(high / low))
    if decades < 0.7:
        locator: Locator = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
    else:
        subs = (1.0, 2.0, 5.0) if decades < 1.7 else (1.0,)
        locator = LogLocator(subs=subs, numticks=max(most, 3))
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(tick))


def _svg(key: str, draw: Draw, size: tuple[float, float], alt: str) -> Html:
    # Inside the page the browser's fonts draw the text, so glyphs that matplotlib's font lacks
    # are no loss.
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)
        drawing = Figure(figsize=size, layout="constrained")
        draw(drawing, size[0] == WIDE)
        buffer = io.StringIO()
        # The layout is settled once; savefig would do so twice and draw twice.
        engine = drawing.get_layout_engine()
        if engine is not None:
            engine.execute(drawing)
        drawing.set_layout_engine("none")
        FigureCanvasSVG(drawing).print_svg(buffer, metadata=_NO_METADATA)
    return Html(_inline(buffer.getvalue(), key, size, alt))


def _inline(svg: str, key: str, size: tuple[float, float], alt: str) -> str:
    """Fit matplotlib's SVG into the page."""
    body = printable(svg[svg.index("<svg") :])
    # The style sheet of the SVG would hold for the whole page.
    body = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL
    )
    body = re.sub(r"<svg[^>]*>", "", body, count=1)
    body = re.sub(r"<[^>]*>", lambda match: _clean(match[0], key), body)
    body = re.sub(r"\n\s*", "\n", body)
    width, height = 72 * size[0], 72 * size[1]
    head = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}"'
    return f"<svg {head}>{body}"


def _clean(tag: str, key: str) -> str:
    """One tag: short numbers, ids of this figure, colours of the page."""
    tag = re.sub(r'\bd="([^"]*)"', lambda match: f'd="{_path(match[1])}"', tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    if tag.startswith("<g "):
        tag = re.sub(r' id="[^"]*"', "", tag)
    tag = re.sub(r'\bid="([^"]*)"', rf'id="{key}-\1"', tag)
    tag = re.sub(r'(?:xlink:)?href="#([^"]*)"', rf'href="#{key}-\1"', tag)
    tag = re.sub(r"url\(#([^)]*)\)", rf"url(#{key}-\1)", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: ((?:bold|\d00) )?([\d.]+px)[^;\"]*", _font, tag)
    return re.sub(r"#[0-9a-f]{6}\b", _variable, tag)


def _path(data: str) -> str:
    """Path data in tenths of a unit; a line after a move or a line needs no letter."""
    data = re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), data)
    data = " ".join(data.split())
    return data if re.search("[QCA]", data) else data.replace("L ", "")


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1].strip()}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"


_VARIABLES = {colour: f"var(--{name})" for name, colour in PALETTE.items()}


def _variable(match: re.Match[str]) -> str:
    return _VARIABLES.get(match[0], match[0])
