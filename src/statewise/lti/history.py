"""The time-varying LegS memory: the whole history of a signal in a few coefficients.

Source: Gu et al., HiPPO: recurrent memory with optimal polynomial projections (2008.07669), LegS.
"""

from __future__ import annotations

import numpy as np

from statewise.lti.hippo import legs
from statewise.lti.measures import scaled_legendre


def legs_memory(signal: np.ndarray, n: int) -> np.ndarray:
    """Coefficients of the history so far in Legendre polynomials, after every sample.

    c'(t) = (A c(t) + B f(t))/t with A, B of LegS, by the bilinear rule:
    (I − A/(2(k+1))) c_{k+1} = (I + A/(2k)) c_k + (1/k) B f_k, from c_1 = (f_0, 0, …). No time step
    enters: a signal that is stretched has the same coefficients.

    Args:
        signal: samples f_0, f_1, … at equal distances, (L,), L ≥ 1.
        n: number of coefficients.

    Returns:
        Shape (L, n): row k holds the coefficients of f_0 … f_k.

    Raises:
        ValueError: a signal that is not one row of samples, or n < 1.
    """
    from scipy.linalg import solve_triangular

    signal = np.asarray(signal, float)
    if signal.ndim != 1 or not len(signal):
        raise ValueError(f"legs_memory takes a signal of shape (L,), L >= 1; given {signal.shape}")
    a, b = legs(n)
    eye, history = np.eye(n), np.zeros((len(signal), n))
    history[0, 0] = signal[0]
    for k in range(1, len(signal)):
        right = history[k - 1] + (a @ history[k - 1]) / (2 * k) + b * signal[k] / k
        history[k] = solve_triangular(eye - a / (2 * (k + 1)), right, lower=True)
    return history


def legs_rebuild(coefficients: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The history f(s) ≈ Σ_n c_n √(2n+1) P_n(2s/t − 1) from the coefficients at time t.

    Args:
        coefficients: c, (n,).
        place: s/t, from 0 (the beginning) to 1 (now), (T,).

    Returns:
        Shape (T,).
    """
    basis = scaled_legendre(len(coefficients), 2 * np.asarray(place, float) - 1)
    return np.asarray(coefficients) @ basis
