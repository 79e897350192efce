"""The course of a run: its history, its best weights, its log on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from statewise._files import atomic_write


def finite_or_none(value: float | None) -> float | None:
    """A number that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None


class Tracker:
    """History rows and the best weights so far.

    Args:
        modules: what is trained.
        validated: whether scores come from validation records; without them the latest weights
            count as the best.
        keep_last: the latest weights count as the best all the same.
        log: file for the rows, one JSON object per line; None writes none.
    """

    def __init__(
        self,
        modules: nn.Module,
        *,
        validated: bool,
        log: Path | None,
        keep_last: bool = False,
    ) -> None:
        self.modules, self.validated, self.log = modules, validated, log
        self.keep_last = keep_last or not validated
        self.history: list[dict[str, Any]] = []
        self.best_score, self.best_step = math.inf, 0
        self.unimproved = 0
        self.lowest = math.inf
        self.best = self._copy()

    def _copy(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.modules.state_dict().items()}

    def offer(self, score: float, step: int) -> bool:
        """Keep the present weights when they are the best; says whether the score improved."""
        improved = score < self.lowest
        self.unimproved = 0 if improved else self.unimproved + 1
        self.lowest = min(score, self.lowest)
        if improved or (self.keep_last and math.isfinite(score)):
            self.best_score, self.best_step = score, step
            self.best = self._copy()
        return improved

    def restore(self) -> None:
        """Put the best weights into the modules."""
        self.modules.load_state_dict(self.best)

    def new_phase(self) -> None:
        """Forget the patience spent; without validation losses of phases do not compare."""
        self.unimproved = 0
        if not self.validated:
            self.lowest = math.inf

    def add(self, row: dict[str, Any]) -> None:
        """Add a row to the history."""
        self.history.append(row)

    def append_to_log(self) -> None:
        """Write the last row of the history to the log."""
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(_line(self.history[-1]))

    def rewrite_log(self) -> None:
        """Make the log hold the history and nothing else."""
        if self.log is not None:
            with atomic_write(self.log) as temporary:
                text = "".join(_line(row) for row in self.history)
                temporary.write_text(text, encoding="utf-8")

    def info(self) -> dict[str, Any]:
        """What a checkpoint keeps, weights aside."""
        return {
            "history": self.history,
            "best_score": finite_or_none(self.best_score),
            "best_step": self.best_step,
            "lowest": finite_or_none(self.lowest),
            "unimproved": self.unimproved,
        }

    def load(self, info: dict[str, Any], best: dict[str, Tensor]) -> None:
        """Take up what :meth:`info` gave."""
        self.history = list(info["history"])
        self.best_score = math.inf if info["best_score"] is None else info["best_score"]
        self.lowest = math.inf if info["lowest"] is None else info["lowest"]
        self.best_step, self.unimproved = info["best_step"], info["unimproved"]
        self.best = best


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
