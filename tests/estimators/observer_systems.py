"""Small observed systems that the tests of filters around models share."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from statewise.estimators.error_noise import ErrorNoise
from statewise.estimators.signals import Signals
from statewise.lti import StateSpace
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import ELU

ERRORS = ErrorNoise(((1.2, -0.4), (0.7, 0.1)), (0.3, 0.2), (0.1, 0.4))
"""Two outputs with errors of different memory."""


def errors(length: int, seed: int = 0, noise: ErrorNoise = ERRORS) -> np.ndarray:
    """Errors drawn from a noise, (L, n_y), started 500 samples before."""
    rng = np.random.default_rng(seed)
    columns = []
    for phi, q, r in zip(noise.coefficients, noise.process, noise.measurement, strict=True):
        drive = q * rng.standard_normal(length + 500)
        e = lfilter([1.0], np.concatenate([[1.0], -np.asarray(phi)]), drive)[500:]
        columns.append(e + r * rng.standard_normal(length))
    return np.stack(columns, 1)


def error_signals(length: int = 120, seed: int = 0, gaps: bool = True) -> Signals:
    """A free run with such errors and samples that are missing, one output or both."""
    rng = np.random.default_rng(seed + 100)
    free = np.cumsum(0.1 * rng.standard_normal((length, 2)), axis=0)
    z = free + errors(length, seed)
    if gaps:
        z[10:14] = np.nan
        z[30:60:7, 1] = np.nan
        z[-3:, 0] = np.nan
    return Signals(np.zeros((length, 1)), z, free)


def linear_network() -> DeepWiener:
    """A network that is a linear system: two inputs, two outputs, three modes."""
    A = np.array([[0.9, 0.1, 0.0], [-0.1, 0.8, 0.0], [0.0, 0.0, 0.5]])
    B = np.array([[1.0, 0.0], [0.3, 0.5], [0.0, 1.0]])
    C = np.array([[1.0, 0.0, 0.4], [0.0, 1.0, -0.3]])
    system = StateSpace(A, B, C, np.zeros((2, 2)), 1.0)
    config = DeepWienerConfig(n_layers=1, d_model=4, d_state=4, static=ELU())
    return DeepWiener.from_linear(system, config).double().eval()


def network_signals(model: DeepWiener, length: int = 60, seed: int = 0) -> Signals:
    """Inputs, outputs with noise and gaps, and the free run of a network in float64."""
    import torch

    rng = np.random.default_rng(seed)
    u = rng.standard_normal((length, model.d_input))
    with torch.no_grad():
        free = model(torch.from_numpy(u)[None])[0][0].numpy()
    wandering = np.cumsum(0.1 * rng.standard_normal(free.shape), axis=0)
    z = free + wandering + 0.1 * rng.standard_normal(free.shape)
    z[20:25] = np.nan
    z[40:44, 0] = np.nan
    return Signals(u, z, free)
