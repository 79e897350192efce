"""Two generated water tanks with overflow, after the Cascaded Tanks benchmark."""

from __future__ import annotations

import math

import numpy as np

from statewise.data.experiments import Experiments
from statewise.data.generators._signals import check_sizes, multisine
from statewise.data.record import Record
from statewise.data.task import Task

SAMPLING_INTERVAL = 4.0
OUTFLOW_1 = 0.050
INFLOW_2 = 0.050
OUTFLOW_2 = 0.053
PUMP = 0.046
SPILL = 0.4
HEIGHT = 10.0
SUBSTEPS = 10
_START = (5.2, 5.2)
_START_SPREAD = 0.5


def two_tanks(
    n_train: int = 1024,
    n_test: int = 1024,
    seed: int = 0,
    *,
    process_noise: float = 0.002,
    sensor_noise: float = 0.02,
    valid_fraction: float = 0.2,
) -> Task:
    """Generate a pump that fills a tank, which drains into a second one whose level is measured.

    x1' = −k1 √x1 + k4 u + w1, x2' = k2 √x1 − k3 √x2 + c q + w2, y = x2 + e,
    0 ≤ x1, x2 ≤ 10. A full first tank spills its net inflow q; the part c of it falls into the
    second tank, the rest is lost. A full second tank loses its net inflow.

    Constants (levels in V of the sensor, time in s): k1 = k2 = 0.050 √V/s, k3 = 0.053 √V/s,
    k4 = 0.046 1/s, c = 0.4. The input is held over the sampling interval of 4 s, and so are w1, w2;
    10 Runge-Kutta sub-steps a sample. u is a random-phase multisine over the record plus 2.8 V,
    with a standard deviation of 1 V: full amplitude up to 4.6 mHz, a tenth of it up to 14.4 mHz.
    Both records start from one initial state that only the seed knows.

    Args:
        n_train: samples to learn from, the last ``valid_fraction`` of them for validation.
        n_test: samples to test on; the first 50 are for the initial state.
        seed: seed of the phases, of the noise and of the initial state.
        process_noise: standard deviation of w1, w2 in V/s.
        sensor_noise: standard deviation of e in V.
        valid_fraction: part of the training samples for validation.

    Returns:
        A task with one input u [V], one output y [V] and the metric RMSE in V.

    Raises:
        ValueError: fewer than 256 samples, negative noise, or a fraction outside [0, 1).
    """
    check_sizes(n_train, n_test, 256)
    for argument, value in (("process_noise", process_noise), ("sensor_noise", sensor_noise)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{argument} must be 0 or more, got {value!r}")
    rng = np.random.default_rng(seed)
    start = np.asarray(_START) + _START_SPREAD * rng.uniform(-1.0, 1.0, 2)

    def part(n: int, name: str) -> Experiments:
        u = _pump_voltage(int(n), rng)
        w = process_noise * rng.standard_normal((int(n), 2))
        levels = _simulate(u, w, start)
        y = levels[:, 1:] + sensor_noise * rng.standard_normal((int(n), 1))
        return Experiments(
            (Record(y=y, u=u[:, None], dt=SAMPLING_INTERVAL, name=name),),
            input_names=("u",),
            output_names=("y",),
            input_units=("V",),
            output_units=("V",),
            time_unit="s",
        )

    return Task.from_train_test(
        "two_tanks",
        part(n_train, "train"),
        {"test": part(n_test, "test")},
        window=50,
        valid_fraction=valid_fraction,
        metric="rmse",
        unit="V",
        description="Generated water tanks in cascade, with overflow: pump voltage to lower level.",
        source=f"statewise.data.generators.two_tanks, seed {seed}",
    )


def _pump_voltage(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return (n,) V: one period of the multisine, never below 0 V."""
    frequencies = np.arange(1, n // 2) / (n * SAMPLING_INTERVAL)
    lines = np.flatnonzero(frequencies <= 0.0144) + 1
    amplitudes = np.where(frequencies[lines - 1] <= 0.0046, 1.0, 0.1)
    return np.maximum(2.8 + multisine(n, lines, amplitudes, 1.0, rng), 0.0)


def _simulate(u: np.ndarray, noise: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return (n, 2) levels in V of both tanks at the sampling instants."""
    from statewise.data.generators import _kernels

    return _kernels.two_tanks(
        u,
        noise,
        OUTFLOW_1,
        INFLOW_2,
        OUTFLOW_2,
        PUMP,
        SPILL,
        HEIGHT,
        SAMPLING_INTERVAL,
        SUBSTEPS,
        float(start[0]),
        float(start[1]),
    )
