"""What a training run gives back."""

from __future__ import annotations

import dataclasses
from typing import Any

from statewise.train.initialisers import Initialiser


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """How a training run went; the model itself holds the best weights.

    Attributes:
        history: one row per evaluation: phase ("adam" or "polish"), step, loss (mean since the row
            before), valid (free-run NRMSE), lr, grad_norm (mean since the row before) and seconds;
            None where a number is undefined or not finite.
        best_step: step of the weights that were kept.
        best_valid: their free-run validation NRMSE; None without validation records.
        seconds: wall time of training, over all runs when resumed.
        reason: why training ended, in words.
        steps: steps of Adam taken.
        polish_steps: iterations of L-BFGS taken.
        restarts: how often a loss that was not finite sent training back to the best weights.
        initialiser: the initial-state strategy of the validation runs, trained, for
            :func:`free_run`.
    """

    history: list[dict[str, Any]]
    best_step: int
    best_valid: float | None
    seconds: float
    reason: str
    steps: int
    polish_steps: int
    restarts: int
    initialiser: Initialiser
