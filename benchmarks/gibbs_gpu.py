"""Speed of Parisian particle Gibbs on a GPU, chains side by side, an accuracy gate beside it.

Run ``python benchmarks/gibbs_gpu.py`` where there is a CUDA device (``--device cpu --chains 64
--steps 100`` elsewhere). The model is linear and Gaussian, so that a Kalman smoother gives the
expected sum of x_s x_{s+1} exactly. All chains start from exact paths, from which one sweep is
unbiased with any number of particles: its mean over the chains must be within ``GATE`` standard
errors of that value, and so must the mean of the sum along the paths that it leaves behind. For
each way to draw ancestors: the least seconds of ``--repeats`` sweeps, once as they are called and
once replayed as a CUDA graph. ``--json FILE`` also writes the rows.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.distributions import Normal

from statewise import inference
from statewise.inference import (
    Additive,
    ExactBackward,
    LinearGaussian,
    MetropolisBackward,
    ParisianGibbs,
    StateSpaceModel,
)

GATE = 4.5
SLOPE, NOISE = 0.9, 0.1
FIRST = NOISE / (1 - SLOPE**2)
PRODUCT = Additive(lambda x, after, s: (x * after).sum(-1))


@dataclasses.dataclass
class Options:
    """What to measure."""

    device: str = "cuda"
    chains: int = 1024
    particles: int = 128
    steps: int = 1000
    draws: int = 2
    repeats: int = 5
    single: bool = False
    """Particles in float32; sums are float64 all the same."""
    graph: bool = True
    """Also capture the sweep as a CUDA graph."""
    json: Path | None = None
    """Where to write the rows."""


@dataclasses.dataclass
class Row:
    """One measurement."""

    backward: str
    how: str
    seconds: float
    bias: float
    """Of the estimates, in standard errors."""
    drift: float
    """Of the sum along the next paths, in standard errors."""
    good: bool


def model(like: Tensor) -> StateSpaceModel:
    """x_t = 0.9 x_{t−1} + N(0, 0.1), y_t = x_t + N(0, 0.1)."""
    zero, spread = like.new_zeros(1), like.new_full((1,), math.sqrt(NOISE))
    first = like.new_full((1,), math.sqrt(FIRST))
    return StateSpaceModel(
        lambda: Normal(zero, first),
        lambda x, t: Normal(SLOPE * x, spread),
        lambda x, t: Normal(x, spread),
    )


def data(options: Options) -> tuple[Tensor, Tensor, float]:
    """A series (1, T, 1), exact paths (chains, T, 1) and the exact sum."""
    linear = LinearGaussian([[SLOPE]], [[1.0]], [[NOISE]], [[NOISE]], P0=[[FIRST]])
    noise = torch.randn(
        options.steps, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    x, y = math.sqrt(FIRST) * noise[0, 0], []
    for t in range(options.steps):
        x = SLOPE * x + math.sqrt(NOISE) * noise[t, 0] if t else x
        y.append(x + math.sqrt(NOISE) * noise[t, 1])
    seen = torch.stack(y).reshape(1, -1, 1)
    filtered = inference.filter(linear, seen)
    found = inference.smooth(filtered)
    exact = (found.mean[:, 1:] * found.mean[:, :-1]).sum() + found.cross[:, 1:].sum()
    paths = inference.sample_states(filtered, options.chains, seed=0)[:, 0]
    return seen, paths, exact.item()


def errors(values: Tensor, exact: float) -> float:
    """How many standard errors the mean is away."""
    return ((values.mean() - exact) / values.std() * math.sqrt(len(values))).item()


def clocked(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Least seconds of some calls."""
    best = math.inf
    for _ in range(repeats):
        wait(device)
        begun = time.perf_counter()
        call()
        wait(device)
        best = min(best, time.perf_counter() - begun)
    return best


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(options: Options) -> list[Row]:
    """Both ways to draw ancestors, with and without a graph."""
    device = torch.device(options.device)
    seen, paths, exact = data(options)
    dtype = torch.float32 if options.single else torch.float64
    y = seen.to(device, dtype).expand(options.chains, -1, -1)
    start = paths.to(device, dtype)
    rows = []
    for backward in (MetropolisBackward(), ExactBackward()):
        kernel = ParisianGibbs(
            model(y),
            y,
            PRODUCT,
            particles=options.particles,
            draws=options.draws,
            backward=backward,
        )
        torch.manual_seed(0)
        runs: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
            "called": functools.partial(kernel, start)
        }
        if options.graph and device.type == "cuda":
            runs["graph"] = captured(kernel, start)
        for how, run in runs.items():
            found = run()
            bias = errors(found[0], exact)
            drift = errors(PRODUCT.of(found[1]), exact)
            seconds = clocked(run, options.repeats, device)
            good = max(abs(bias), abs(drift)) < GATE
            rows.append(Row(type(backward).__name__, how, seconds, bias, drift, good))
            print(rows[-1], flush=True)
    return rows


def captured(kernel: ParisianGibbs, start: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """The sweep as a CUDA graph, which draws new random numbers at each replay."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        kernel(start)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = kernel(start)

    def replay() -> tuple[Tensor, Tensor]:
        graph.replay()
        return found

    return replay


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options, description=__doc__)
    rows = measure(options)
    if options.json is not None:
        name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        settings = {k: v for k, v in dataclasses.asdict(options).items() if k != "json"}
        text = {"device": name, "options": settings, "rows": [dataclasses.asdict(r) for r in rows]}
        options.json.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    if not all(row.good for row in rows):
        raise SystemExit("a mean is further from Kalman's value than the gate allows")


if __name__ == "__main__":
    main()
