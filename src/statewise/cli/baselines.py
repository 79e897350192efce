"""What every identified model stands beside: the mean, a FIR and an ARX model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise.data.metrics import score

if TYPE_CHECKING:
    from statewise.data import Experiments, Task
    from statewise.data.metrics import Score


class Mean:
    """ŷ = the mean of the training outputs: what knows nothing of the inputs.

    Args:
        train: the training records.
    """

    def __init__(self, train: Experiments) -> None:
        self.y_mean = np.nanmean(np.concatenate([record.y for record in train]), axis=0)

    def simulate_experiments(self, experiments: Experiments) -> list[np.ndarray]:
        """One array (L, n_y) for every record."""
        return [np.tile(self.y_mean, (len(record), 1)) for record in experiments]

    def evaluate(
        self,
        experiments: Experiments,
        mode: str | int = "simulation",
        *,
        split: str = "test",
        scale: float = 1.0,
        unit: str | None = None,
    ) -> list[Score]:
        """Score the mean on records; it is the same in every mode."""
        computed = self.simulate_experiments(experiments)
        return score(experiments, computed, split=split, mode=mode, scale=scale, unit=unit)


def fit_baselines(task: Task, say: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    """Fit the baselines of a task.

    They learn from training and validation records together and choose their orders and ridge by
    cross-validation there, so that one unlucky validation stretch does not make them look worse
    than they are.

    Args:
        task: the problem.
        say: told what is going on.

    Returns:
        The baselines by name, and a sentence for each that cannot serve these data.
    """
    from statewise.data import Experiments
    from statewise.estimators import ARX, FIR

    known = task.train
    if task.valid is not None:
        known = Experiments.concat([task.train, task.valid])
    found: dict[str, Any] = {"mean": Mean(task.train)}
    notes: list[str] = []
    for kind in (FIR, ARX):
        name = kind.__name__
        say(f"fitting the baseline {name}")
        try:
            found[name] = kind().fit(known)
        except ValueError as error:
            notes.append(f"The baseline {name} is left out: {error}.")
    return found, notes
