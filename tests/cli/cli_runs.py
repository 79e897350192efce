"""What the tests of the command line share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Settings that make a run take about a second.
TINY = [
    "--training.steps=20",
    "--training.eval-every=5",
    "--training.window=60",
    "--training.washout=10",
    "--training.polish-steps=0",
    "--model.n-layers=1",
    "--model.d-model=4",
    "--model.d-state=4",
]
COLUMNS = ["--inputs", "volt", "load", "--outputs", "speed"]


@dataclass
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


Run = Callable[..., Outcome]


def motor(rows: int, seed: int = 0) -> np.ndarray:
    """Columns volt, load, speed of a made-up motor."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((rows, 2))
    x, speed = 0.0, []
    for volt, load in u:
        x = 0.8 * x + volt - 0.5 * np.tanh(load)
        speed.append(np.tanh(x / 3))
    return np.column_stack([u, speed])


def write_csv(path: Path, values: np.ndarray, header: str) -> Path:
    np.savetxt(path, values, delimiter=",", header=header, comments="", fmt="%.8g")
    return path
