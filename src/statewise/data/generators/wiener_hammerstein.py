"""A generated Wiener-Hammerstein circuit, after the benchmark of 2009."""

from __future__ import annotations

import numpy as np

from statewise.data.experiments import Experiments
from statewise.data.generators._signals import check_sizes
from statewise.data.record import Record
from statewise.data.task import Task

SAMPLING_RATE = 51_200.0
_LEAD_IN = 1000


def wiener_hammerstein(
    n_train: int = 40_000, n_test: int = 20_000, seed: int = 0, *, valid_fraction: float = 0.2
) -> Task:
    """Generate a linear filter, a static nonlinearity and a second linear filter in series.

    x = G1 u, z = f(x) = x − 0.09 log(1 + e^{10 (x − 0.5)}), y = G2 z, without noise. G1 is a
    Chebyshev filter of the first kind (order 3, 0.5 dB ripple, 4.4 kHz), G2 one of the second kind
    (order 3, 40 dB stop band, 5 kHz); f bends where the diode of the circuit conducts. u is white
    Gaussian noise through a Butterworth filter (order 6, 10 kHz), scaled to a standard deviation
    of 0.64 V. The test record goes on where the training record ends.

    Args:
        n_train: samples to learn from, the last ``valid_fraction`` of them for validation.
        n_test: samples to test on; the first 50 are for the initial state.
        seed: seed of the noise.
        valid_fraction: part of the training samples for validation.

    Returns:
        A task with one input u [V] and one output y [V], sampled at 51.2 kHz, and the metric NRMSE.

    Raises:
        ValueError: fewer than 500 samples, or a fraction outside [0, 1).
    """
    check_sizes(n_train, n_test, 500)
    n = int(n_train + n_test)
    noise = np.random.default_rng(seed).standard_normal(2 * _LEAD_IN + n)
    u = _filter("butter", 6, 10e3, signal=noise)[_LEAD_IN:]
    u *= 0.64 / np.std(u)
    # Both filters forget their start within the lead-in.
    u, y = u[_LEAD_IN:, None], simulate(u)[_LEAD_IN:, None]

    def part(rows: slice, name: str) -> Experiments:
        return Experiments(
            (Record(y=y[rows], u=u[rows], dt=1.0 / SAMPLING_RATE, name=name),),
            input_names=("u",),
            output_names=("y",),
            input_units=("V",),
            output_units=("V",),
            time_unit="s",
        )

    return Task.from_train_test(
        "wiener_hammerstein",
        part(slice(0, n_train), "train"),
        {"test": part(slice(n_train, n), "test")},
        window=50,
        valid_fraction=valid_fraction,
        metric="nrmse",
        description="Generated Wiener-Hammerstein circuit: linear, static nonlinear, linear.",
        source=f"statewise.data.generators.wiener_hammerstein, seed {seed}",
    )


def simulate(u: np.ndarray) -> np.ndarray:
    """Return y = G2 f(G1 u), (L,) V, for u (L,) V, from filters at rest."""
    x = _filter("cheby1", 3, 0.5, 4.4e3, signal=u)
    z = x - 0.09 * np.logaddexp(0.0, 10.0 * (x - 0.5))
    return _filter("cheby2", 3, 40.0, 5e3, signal=z)


def _filter(design: str, *arguments: float, signal: np.ndarray) -> np.ndarray:
    """Run a low-pass filter from rest; scipy.signal is slow to import and waits until here."""
    import scipy.signal

    sections = getattr(scipy.signal, design)(*arguments, fs=SAMPLING_RATE, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, signal))
