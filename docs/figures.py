"""Figures of the documentation, drawn from measured numbers and by pages when they are built."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure

FORWARD, FULL, FLOOR = "#1f6f8b", "#c1572b", "#9a9a9a"


def draw_lengths(measured: Path, target: Path) -> None:
    """Time against length for every operator, with the floor that the memory sets.

    Args:
        measured: JSON that ``benchmarks/lengths.py --json`` wrote.
        target: the SVG to write.
    """
    rows = json.loads(measured.read_text(encoding="utf-8"))["rows"]
    names = list(dict.fromkeys(row["op"] for row in rows))
    columns = 3
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(9, 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        own = [row for row in rows if row["op"] == name]
        length = [row["length"] for row in own]
        for pass_, colour, label in (
            ("forward", FORWARD, "forward"),
            ("full", FULL, "both passes"),
        ):
            axis.loglog(length, [row[pass_] for row in own], "o-", ms=3, color=colour, label=label)
            floor = [row[f"floor_{pass_}"] for row in own]
            axis.loglog(length, floor, ":", lw=1.2, color=colour, label=f"{label}, floor")
        axis.set_title(name, fontsize=9, loc="left", family="monospace")
        axis.grid(color="#e4e4e4", lw=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("ms", fontsize=8)
    for axis in axes[max(0, len(names) - columns) : len(names)]:
        axis.set_xlabel("length", fontsize=8)
        axis.tick_params(labelbottom=True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "statewise"
    figure.savefig(target, metadata={"Date": None})


def draw_page(page: Path, target: Path) -> None:
    """Run the Python blocks of a page and keep the figures that they save.

    Args:
        page: a Markdown page whose blocks save SVG files.
        target: the folder for them.

    Raises:
        RuntimeError: a block that fails.
    """
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-c", "\n".join(blocks)],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise RuntimeError(f"a block of {page.name} fails:\n{run.stderr}")
        for drawn in sorted(Path(folder).glob("*.svg")):
            shutil.copy(drawn, target / drawn.name)
