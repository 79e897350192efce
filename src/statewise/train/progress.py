"""The progress bar on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class Bar(Protocol):
    """Shows how far training is."""

    def move(self, phase: str, step: int, total: int) -> None:
        """Go to a step of a phase."""
        ...

    def say(self, text: str) -> None:
        """Show a note, such as the latest errors."""
        ...


class _Silent:
    def move(self, phase: str, step: int, total: int) -> None: ...

    def say(self, text: str) -> None: ...


class _Shown:
    every = 0.1
    """Seconds between updates."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("adam", total=1, note="")
        self.phase, self.due = "", 0.0

    def move(self, phase: str, step: int, total: int) -> None:
        now = time.monotonic()
        if phase == self.phase and now < self.due and step < total:
            return
        if phase != self.phase:
            self.progress.reset(self.task, description=phase, total=total)
            self.phase = phase
        self.due = now + self.every
        self.progress.update(self.task, completed=step)

    def say(self, text: str) -> None:
        self.progress.update(self.task, note=text)


@contextlib.contextmanager
def progress_bar(show: bool | None) -> Iterator[Bar]:
    """A bar on standard error.

    Args:
        show: True or False; None shows it when standard error is a terminal.
    """
    if show is None:
        show = sys.stderr.isatty()
    if not show:
        yield _Silent()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        yield _Shown(progress)
