"""Small systems and models that the training tests share."""

from __future__ import annotations

import numpy as np

from statewise.data import Record
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import ELU, Identity
from statewise.train import FitConfig

POLE = 0.9 * np.exp(0.4j)
READ = 0.3 + 0.2j
STD = 0.75
"""Rough standard deviation of the output of :func:`oscillator` under white input."""


def oscillator(
    length: int,
    seed: int,
    *,
    x0: complex = 0.0,
    drive: float = 1.0,
    pole: complex = POLE,
    skip: int = 0,
    saturation: bool = False,
) -> Record:
    """x⁺ = λ x + u, y = Re(c x) + 0.1 u, scaled to about unit variance."""
    u = drive * np.random.default_rng(seed).standard_normal((length, 1))
    x, y = complex(x0), np.empty((length, 1))
    for k in range(length):
        x = pole * x + u[k, 0]
        y[k] = ((READ * x).real + 0.1 * u[k, 0]) / STD
    return Record(np.tanh(y) if saturation else y, u, dt=1.0, skip=skip)


def linear_model(seed: int = 0, **changes: object) -> DeepWiener:
    """One linear layer with two states."""
    parts: dict[str, object] = {
        "n_layers": 1,
        "d_model": 2,
        "d_state": 2,
        "static": Identity(),
        "input_map": False,
        "skip": "none",
    }
    return DeepWiener(1, 1, DeepWienerConfig(**(parts | changes)), seed=seed)  # type: ignore[arg-type]


def small_model(seed: int = 0, **changes: object) -> DeepWiener:
    """Two nonlinear layers."""
    parts: dict[str, object] = {"n_layers": 2, "d_model": 2, "d_state": 2, "static": ELU()}
    return DeepWiener(1, 1, DeepWienerConfig(**(parts | changes)), seed=seed)  # type: ignore[arg-type]


def quick(**changes: object) -> FitConfig:
    """Settings of a run of a fraction of a second."""
    parts: dict[str, object] = {
        "window": 64,
        "washout": 16,
        "batch_size": 4,
        "steps": 40,
        "eval_every": 10,
        "polish_steps": 0,
    }
    return FitConfig(**(parts | changes))  # type: ignore[arg-type]


def curve(history: list[dict]) -> list[dict]:
    """The history without the wall time."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def same_weights(first: DeepWiener, second: DeepWiener) -> bool:
    """Whether two models have equal bits."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(bool((a == b).all()) for a, b in pairs)
