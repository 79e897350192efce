"""Frozen dynamics and a ridge read-out: what a state holds, without any training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from statewise.lti import HiPPO

Array = npt.NDArray[np.float64]

RIDGE = 1e-8
"""Ridge relative to the mean power of the features."""


def low_passed_noise(samples: int, cutoff: float, seed: int) -> Array:
    """White Gaussian noise without anything above ``cutoff`` times the Nyquist frequency.

    Args:
        samples: length.
        cutoff: share of the spectrum that is kept, (0, 1].
        seed: seed of the draw.

    Returns:
        The signal, (samples,), with standard deviation 1.
    """
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    spectrum[int(cutoff * (len(spectrum) - 1)) + 1 :] = 0
    signal = np.fft.irfft(spectrum, samples)
    return signal / signal.std()


def butterworth_noise(samples: int, order: int, cutoff: float, seed: int) -> Array:
    """White Gaussian noise behind a Butterworth low-pass filter.

    Args:
        samples: length.
        order: order of the filter.
        cutoff: its corner, in Nyquist frequencies, (0, 1).
        seed: seed of the draw.

    Returns:
        The signal, (samples,), with standard deviation 1.
    """
    from scipy.signal import butter, sosfilt

    noise = np.random.default_rng(seed).standard_normal(samples)
    signal = np.asarray(sosfilt(butter(order, cutoff, output="sos"), noise), np.float64)
    return signal / signal.std()


def delayed(signal: Array, lag: int) -> Array:
    """The signal ``lag`` samples ago, zeros before its start."""
    return np.concatenate([np.zeros(lag), signal[: len(signal) - lag]])


def ridge(features: Tensor, target: Tensor, strength: float = RIDGE) -> Tensor:
    """Least squares with a ridge: argmin ‖F w − t‖² + s ‖w‖², s relative to the mean of ‖f‖².

    Args:
        features: F, (T, S).
        target: t, (T,) or (T, M).
        strength: ridge relative to the mean power of a feature.

    Returns:
        w, (S,) or (S, M), in float64.
    """
    wide, aim = features.double(), target.double()
    gram = wide.mT @ wide
    gram.diagonal().add_(strength * gram.diagonal().mean())
    aim = aim.unsqueeze(-1) if target.ndim == 1 else aim
    return torch.linalg.solve(gram, wide.mT @ aim).squeeze(-1 if target.ndim == 1 else -3)


def readout_error(
    features: Tensor, target: Tensor, train: int, skip: int = 0, strength: float = RIDGE
) -> float:
    """Normalised mean square error of the best read-out, on samples it was not fitted to.

    Args:
        features: (T, S).
        target: (T,).
        train: the read-out is fitted to samples ``skip`` … ``train`` and judged on the rest.
        skip: first samples that are left out.
        strength: ridge relative to the mean power of a feature.

    Returns:
        Σ (t − F w)² / Σ (t − mean t)² over the held-out samples.
    """
    scale = features[skip:train].double().square().mean(0).sqrt().clamp_min(1e-300)
    scaled = features.double() / scale
    weight = ridge(scaled[skip:train], target[skip:train], strength)
    held = target[train:].double()
    error = held - scaled[train:] @ weight
    return float(error.square().sum() / (held - held.mean()).square().sum())


def states(layer: torch.nn.Module, signal: Array) -> Tensor:
    """The states of a linear layer with one input over a signal, as real features.

    Args:
        layer: an :class:`~statewise.nn.LTI` with one input.
        signal: (T,).

    Returns:
        Shape (T, 2S), or (T, S) for real poles.
    """
    from statewise.nn import LTI
    from statewise.ops import linear_scan, linear_scan_pairs

    if not isinstance(layer, LTI):
        raise TypeError(f"states of an LTI layer are read; given {type(layer).__name__}")
    with torch.no_grad():
        a, gain, _ = layer.poles.discretise()
        u = torch.from_numpy(signal).to(gain.real.dtype).reshape(1, -1, 1)
        v = layer.coupling.drive(u, gain)
        if not layer.poles.is_complex:
            return linear_scan(a, v)[0][0]
        x, _ = linear_scan_pairs(torch.view_as_real(a), v)
    return x[0].flatten(-2)


def memory_states(measure: HiPPO, n: int, step: float, signal: Array, alpha: float = 0.5) -> Tensor:
    """The states of x' = A x + B u of a HiPPO measure over a signal, dense, (T, n), float64.

    Args:
        measure: where A and B come from.
        n: number of states.
        step: Δ, in the unit of the measure.
        signal: (T,).
        alpha: α of the generalised bilinear rule.
    """
    from statewise.nn import LSSL

    layer = LSSL(1, n, outputs=n, measure=measure, alpha=alpha, dt_min=step, dt_max=step).double()
    with torch.no_grad():
        # The layer was made in single precision.
        layer.A.copy_(torch.from_numpy(measure.operator(n)[0]))
        layer.B.copy_(torch.from_numpy(measure.operator(n)[1]))
        layer.log_dt.fill_(math.log(step))
        layer.C.copy_(torch.eye(n).unsqueeze(0))
        layer.D.zero_()
        return layer(torch.from_numpy(signal).view(1, -1, 1))[0][0]
