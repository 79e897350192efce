"""Periodic excitation with chosen lines and random phases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def random_phase_multisine(
    period: int,
    lines: Sequence[int],
    *,
    n_inputs: int = 1,
    realisations: int = 1,
    rms: float = 1.0,
    seed: int | np.random.Generator = 0,
) -> Tensor:
    """u_t = Σ_k a cos(2π k t/N + φ_k), φ_k uniform: one period of each realisation.

    With m inputs, every realisation is m experiments in which input j of experiment e is turned by
    e^{2πi e j/m}, so that the inputs are orthogonal at each line and the frequency response can be
    solved for (an orthogonal random multisine).

    Args:
        period: N, samples.
        lines: excited multiples of 1/N, between 1 and (N − 1)/2; odd ones alone make an odd
            multisine.
        n_inputs: m.
        realisations: of the random phases.
        rms: root mean square of every input.
        seed: of the phases.

    Returns:
        (realisations · m, N, m); those of one realisation follow one another.

    Raises:
        ValueError: lines out of range or none, or counts that are not positive.

    Source: Pintelon & Schoukens, System Identification: A Frequency Domain Approach, 2nd ed.
    (2012), chapters 2 and 4; Dobrowiecki & Schoukens, Measuring a linear approximation to weakly
    nonlinear MIMO systems (2007), for orthogonal ones.

    Example:
        >>> u = random_phase_multisine(64, range(1, 20), n_inputs=2)
        >>> u.shape, round(u.square().mean().item(), 12)
        (torch.Size([2, 64, 2]), 1.0)
    """
    chosen = np.array(sorted(set(lines)))
    if not len(chosen) or chosen[0] < 1 or 2 * chosen[-1] >= period:
        raise ValueError(
            f"lines run from {chosen.min(initial=0)} to {chosen.max(initial=0)} with a period of "
            f"{period}; 1 to {(period - 1) // 2} are possible, and one at least is needed"
        )
    for name, value in (("n_inputs", n_inputs), ("realisations", realisations)):
        if value < 1:
            raise ValueError(f"{name} is {value}; at least 1 is needed")
    rng = np.random.default_rng(seed)
    phases = np.exp(2j * math.pi * rng.random((realisations, 1, len(chosen), n_inputs)))
    turn = np.exp(2j * math.pi * np.outer(np.arange(n_inputs), np.arange(n_inputs)) / n_inputs)
    spectrum = np.zeros((realisations, n_inputs, period // 2 + 1, n_inputs), complex)
    spectrum[:, :, chosen] = phases * turn[:, None, :]
    size = period * rms / math.sqrt(2 * len(chosen))
    waves = np.fft.irfft(spectrum * size, n=period, axis=2)
    return torch.from_numpy(waves.reshape(realisations * n_inputs, period, n_inputs))
