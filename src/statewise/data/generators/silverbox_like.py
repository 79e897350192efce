"""A generated Duffing oscillator, after the Silverbox circuit."""

from __future__ import annotations

import math

import numpy as np

from statewise.data.experiments import Experiments
from statewise.data.generators._signals import check_sizes, odd_multisine
from statewise.data.record import Record
from statewise.data.task import Task

SAMPLING_RATE = 610.35
RESONANCE = 68.0
DAMPING = 0.05
CUBIC = 4.0
HIGHEST = 200.0
SUBSTEPS = 10


def silverbox_like(
    rms: float = 0.03,
    n_train: int = 40_000,
    n_test: int = 10_000,
    seed: int = 0,
    *,
    extrapolation_rms: float = 0.045,
    valid_fraction: float = 0.2,
) -> Task:
    """Generate a resonance with a hardening spring, driven by an odd random-phase multisine.

    y'' = ω₀² (u − y − 4 y³) − 2 ζ ω₀ y', ω₀ = 2π · 68 rad/s, ζ = 0.05, without noise. u is held
    between samples (610.35 Hz) and excites odd harmonics up to 200 Hz; the equation is integrated
    by the classical Runge-Kutta rule with 10 sub-steps a sample. Every record is a fresh draw of
    phases and starts at rest. The nonlinearity sits in the feedback and is excited beyond the
    training amplitude by the second test set.

    Args:
        rms: root mean square of u [V] in training and in the test set ``"multisine"``.
        n_train: samples to learn from, the last ``valid_fraction`` of them for validation.
        n_test: samples of each test set; the first 50 are for the initial state.
        seed: seed of the phases.
        extrapolation_rms: root mean square of u [V] in the test set ``"extrapolation"``.
        valid_fraction: part of the training samples for validation.

    Returns:
        A task with one input u [V], one output y [V], the test sets ``"multisine"`` and
        ``"extrapolation"``, and the metric NRMSE.

    Raises:
        ValueError: fewer than 500 samples, an amplitude that is not positive, or a fraction outside
            [0, 1).
    """
    check_sizes(n_train, n_test, 500)
    for argument, value in (("rms", rms), ("extrapolation_rms", extrapolation_rms)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{argument} must be a positive number of volts, got {value!r}")
    rng = np.random.default_rng(seed)

    def part(n: int, amplitude: float, name: str) -> Experiments:
        u = odd_multisine(int(n), amplitude, HIGHEST, SAMPLING_RATE, rng)
        return Experiments(
            (Record(y=_simulate(u)[:, None], u=u[:, None], dt=1.0 / SAMPLING_RATE, name=name),),
            input_names=("u",),
            output_names=("y",),
            input_units=("V",),
            output_units=("V",),
            time_unit="s",
        )

    return Task.from_train_test(
        "silverbox_like",
        part(n_train, rms, "train"),
        {
            "multisine": part(n_test, rms, "multisine"),
            "extrapolation": part(n_test, extrapolation_rms, "extrapolation"),
        },
        window=50,
        valid_fraction=valid_fraction,
        metric="nrmse",
        description="Generated Duffing oscillator: a resonance with a hardening spring.",
        source=f"statewise.data.generators.silverbox_like, seed {seed}",
    )


def _simulate(u: np.ndarray) -> np.ndarray:
    from statewise.data.generators._kernels import duffing

    omega = 2.0 * math.pi * RESONANCE
    return duffing(u, omega, DAMPING, CUBIC, 1.0 / SAMPLING_RATE, SUBSTEPS, 0.0, 0.0)
