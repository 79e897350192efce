"""A measured system and quick settings that the tests of the identifier share."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.signal import lfilter

from statewise.estimators import SystemIdentifier
from statewise.models import DeepWienerConfig
from statewise.nn import ELU
from statewise.train import FitConfig

TRAINED = 900
"""Samples of :func:`measured` that the shared model is fitted on."""


def measured(length: int = 1200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two inputs of different size, a saturating and a linear output; the first has slow noise."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((length, 2)) * [1.0, 5.0] + [0.0, 2.0]
    x = lfilter([1.0], [1.0, -0.9], u[:, 0]) + lfilter([0.2], [1.0, -0.5], u[:, 1])
    noise = lfilter([1.0], [1.0, -0.95], 0.15 * rng.standard_normal(length))
    return u, np.stack([4.0 * np.tanh(0.3 * x) + noise + 10.0, x], axis=1)


def small(**changes: Any) -> DeepWienerConfig:
    """One block."""
    parts: dict[str, Any] = {"n_layers": 1, "d_model": 4, "d_state": 4, "static": ELU()}
    return DeepWienerConfig(**(parts | changes))


def quick(**changes: Any) -> FitConfig:
    """A training of a few steps."""
    parts: dict[str, Any] = {
        "window": 64,
        "washout": 16,
        "batch_size": 4,
        "steps": 4,
        "lr": 0.02,
        "eval_every": 2,
        "polish_steps": 0,
    }
    return FitConfig(**(parts | changes))


def identifier(training: FitConfig | None = None, **changes: Any) -> SystemIdentifier:
    """An identifier that fits in a fraction of a second."""
    return SystemIdentifier(small(), training or quick(), **changes)


def without_time(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without the wall time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]
