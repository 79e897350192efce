"""The look that the figures of this package share; matplotlib is imported when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE = "#1d2731", "#5b6773", "#d5dae0"
COLOURS = ("#0f7fd0", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Those of Okabe and Ito, which colour-blind readers tell apart; the first is darker."""


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 3.2, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns), styled; nothing global changes.

    Args:
        rows: rows of axes.
        columns: columns of axes.
        width: width in inches.
        height: height of a row in inches.
        options: as for ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        style(axes)
    return figure, grid


def style(axes: Any) -> None:
    """Give axes the look of the package."""
    axes.set_axisbelow(True)
    axes.grid(True, color=LINE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(which="both", color=LINE, labelcolor=MUTED, labelsize=8.5)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(MUTED)
        text.set_fontsize(9)


def title(axes: Any, text: str) -> None:
    """Name axes, at their upper left."""
    axes.set_title(text, loc="left", fontsize=9.5, fontweight="bold", color=INK)


def legend(axes: Any, **options: Any) -> None:
    """A legend without a frame, where there is something to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, **options)


def unit_disc(
    axes: Any, poles: npt.NDArray[np.complex128], *, label: str = "", colour: str = COLOURS[0]
) -> None:
    """Discrete poles (n,) with the unit circle."""
    angle = np.linspace(0, 2 * np.pi, 361)
    axes.plot(np.cos(angle), np.sin(angle), color=MUTED, lw=0.9)
    axes.plot(
        poles.real, poles.imag, "o", color=colour, ms=4.5, mew=0, alpha=0.8, label=label or None
    )
    reach = max(1.08, 1.05 * float(np.abs(poles).max(initial=0.0)))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_xlabel("real part")
    axes.set_ylabel("imaginary part")


def names(given: tuple[str, ...] | list[str] | None, count: int, letter: str) -> tuple[str, ...]:
    """Names of channels; ``u1``, ``u2``, ... where none were given.

    Raises:
        ValueError: another number of names than channels.
    """
    if given is None:
        return tuple(f"{letter}{index + 1}" for index in range(count))
    if len(given) != count:
        raise ValueError(f"{count} channels need {count} names; given {list(given)}")
    return tuple(given)
