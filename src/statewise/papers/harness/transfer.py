"""Responses of continuous-time systems x' = A x + B u to sinusoids, from dense and diagonal A."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Complex = npt.NDArray[Any]


def dense_response(a: Array, b: Array, omega: Array) -> Complex:
    """The state response (iω − A)⁻¹ B on a grid of frequencies.

    Args:
        a: A, (n, n).
        b: B, (n,).
        omega: ω, (F,), radians per time.

    Returns:
        Shape (F, n).
    """
    unit = np.eye(len(a))
    return np.stack([np.linalg.solve(1j * w * unit - a, b.astype(complex)) for w in omega])


def legs_pair(n: int) -> tuple[Array, Array, Array, Array]:
    """HiPPO-LegS (A, B) and its normal part with half the input, (A + ½ B Bᵀ, ½ B)."""
    from statewise.lti import legs

    a, b = legs(n)
    return a, b, a + 0.5 * np.outer(b, b), 0.5 * b


def relative_state_gap(first: Complex, second: Complex) -> Array:
    """Relative rms difference of every state over sinusoids of equal amplitude.

    Args:
        first: state responses (F, n) of the reference.
        second: those of the other system.

    Returns:
        Shape (n,).
    """
    gap = np.sqrt((np.abs(first - second) ** 2).sum(0))
    return gap / np.sqrt((np.abs(first) ** 2).sum(0))


def order(sizes: Array, errors: Array) -> float:
    """The p of errors ∝ sizes^(−p), by least squares on logarithms."""
    slope = np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(errors, float)), 1)[0]
    return float(-slope)
