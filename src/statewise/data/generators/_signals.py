"""Excitation signals and checks that the generators share."""

from __future__ import annotations

import numpy as np


def odd_multisine(
    n: int, rms: float, highest: float, fs: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw an odd random-phase multisine.

    u_k = a Σ_j cos(2π j k / P + φ_j) over odd j with j fs / P ≤ ``highest``, φ_j uniform. The
    period P = 2n is twice the signal: an odd multisine repeats itself with the other sign after
    half a period, and so no sample is a copy of an earlier one.

    Args:
        n: samples.
        rms: root mean square over a period, in the unit of u.
        highest: highest frequency, Hz.
        fs: sampling rate, Hz.
        rng: source of the phases.

    Returns:
        (n,) float64.
    """
    period = 2 * n
    lines = np.arange(1, int(highest * period / fs) + 1, 2)
    return multisine(period, lines, np.ones(len(lines)), rms, rng)[:n]


def multisine(
    period: int, lines: np.ndarray, amplitudes: np.ndarray, rms: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw one period of a random-phase multisine with zero mean.

    Args:
        period: samples.
        lines: harmonics j of 1 / period that are excited, below period / 2.
        amplitudes: relative amplitude of each.
        rms: root mean square, in the unit of u.
        rng: source of the phases.

    Returns:
        (period,) float64.
    """
    spectrum = np.zeros(period // 2 + 1, dtype=complex)
    phases = rng.uniform(0.0, 2.0 * np.pi, len(lines))
    spectrum[lines] = amplitudes * np.exp(1j * phases)
    u = np.fft.irfft(spectrum, period)
    return u * (rms / np.sqrt(np.mean(u**2)))


def check_sizes(n_train: int, n_test: int, least: int) -> None:
    """Refuse records that are too short to split or to score.

    Raises:
        ValueError: a size below ``least``, named with its value.
    """
    for name, value in (("n_train", n_train), ("n_test", n_test)):
        if value < least or value != int(value):
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
