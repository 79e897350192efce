"""Signals that claims are measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pendulums(
    count: int, samples: int, period: float, damping: float, amplitude: float, seed: int
) -> tuple[Array, Array]:
    """Angle and angular velocity of damped pendulums, θ'' = −ω² sin θ − d θ', by Runge–Kutta.

    Args:
        count: number of pendulums.
        samples: length, at a step of 1.
        period: 2π/ω, the period of small swings, in samples.
        damping: d, per sample.
        amplitude: starts are uniform in angles up to this, in radians, and matching velocities.
        seed: seed of the starts.

    Returns:
        Angles and velocities over ω, (count, samples) each.
    """
    rng = np.random.default_rng(seed)
    omega = 2 * np.pi / period
    state = amplitude * rng.uniform(-1, 1, (2, count)) * np.array([[1.0], [omega]])

    def slope(x: Array) -> Array:
        return np.stack([x[1], -(omega**2) * np.sin(x[0]) - damping * x[1]])

    path = np.empty((samples, 2, count))
    for k in range(samples):
        path[k] = state
        one = slope(state)
        two = slope(state + one / 2)
        three = slope(state + two / 2)
        four = slope(state + three)
        state = state + (one + 2 * two + 2 * three + four) / 6
    return path[:, 0].T, path[:, 1].T / omega
