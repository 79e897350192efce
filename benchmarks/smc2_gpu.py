"""Speed of SMC² on a GPU beside the CPU, an accuracy gate beside it.

Run ``python benchmarks/smc2_gpu.py`` where there is a CUDA device (``--devices cpu --thetas 200
--particles 50 --steps 30`` elsewhere). The model is linear and Gaussian with two unknown
parameters, so that a grid of Kalman filters gives the evidence exactly: the mean error of the
log-evidence, less half its variance, must be within ``GATE`` of its standard errors over the runs.
The time is that of the fastest run.
``--json FILE`` also writes the rows.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.distributions import Normal

from statewise import inference
from statewise.papers.harness import linear_particles as linear

GATE = 4.5


@dataclasses.dataclass
class Options:
    """What to measure."""

    devices: tuple[str, ...] = ("cuda", "cpu")
    thetas: int = 1024
    particles: int = 256
    steps: int = 100
    runs: int = 6
    json: Path | None = None
    """Where to write the rows."""


@dataclasses.dataclass
class Row:
    """One measurement."""

    device: str
    seconds: float
    error: float
    """Of the log-evidence, in standard errors."""
    spread: float
    """Standard deviation of the log-evidence over the runs."""
    particles: int
    """States of a filter at the end."""


def model(theta: Tensor) -> inference.StateSpaceModel:
    """x_t = a x_{t−1} + N(0, e^{2b}), y_t = x_t + N(0, 0.1), on the device of θ = (a, b)."""
    a, scale = theta[:, :1, None], theta[:, 1:2, None].exp()
    zero = theta.new_zeros(1)
    first = theta.new_full((1,), math.sqrt(linear.START))
    noise = theta.new_full((1,), math.sqrt(linear.R))
    return inference.StateSpaceModel(
        lambda: Normal(zero, first),
        lambda x, t: Normal(a * x, scale),
        lambda x, t: Normal(x, noise),
    )


def measure(device: str, y: Tensor, truth: float, options: Options) -> Row:
    """All runs on a device."""
    best, values, largest = math.inf, [], 0
    y = y.to(device)
    for seed in range(options.runs):
        begun = time.perf_counter()
        found = inference.smc2(
            model,
            linear.prior(),
            y,
            thetas=options.thetas,
            particles=options.particles,
            seed=seed,
        )
        values.append(float(found.log_evidence[-1]))
        best = min(best, time.perf_counter() - begun)
        largest = max(largest, int(found.particles[-1]))
    sample = torch.tensor(values, dtype=torch.float64) - truth
    spread, count = float(sample.std()), len(values)
    scale = math.hypot(spread / count**0.5, spread**2 / (2 * count - 2) ** 0.5)
    error = (float(sample.mean()) + spread**2 / 2) / scale
    return Row(device, best, error, spread, largest)


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options, description=__doc__)
    y = linear.series(options.steps, 3)
    truth = linear.on_grid(y)[0]
    rows = []
    for device in options.devices:
        rows.append(measure(device, y, truth, options))
        print(rows[-1], flush=True)
    if options.json is not None:
        settings = {k: v for k, v in dataclasses.asdict(options).items() if k != "json"}
        text = {"options": settings, "rows": [dataclasses.asdict(row) for row in rows]}
        options.json.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    if any(abs(row.error) > GATE for row in rows):
        raise SystemExit("the evidence is further from the grid's than the gate allows")


if __name__ == "__main__":
    main()
