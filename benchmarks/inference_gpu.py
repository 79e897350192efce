"""Speed of Kalman filters and smoothers on a GPU, an accuracy gate beside every number.

Run ``python benchmarks/inference_gpu.py``. Many series of a small model through
``statewise.inference``, and one long series step by step and in parallel over time: the least
milliseconds of ``--repeats`` runs by CUDA events, the memory that a run takes beyond what is given,
and the largest error of the last mean and of the log-likelihood, relative to the same in float64 on
the CPU. A number whose error is above the gate is marked. ``--out FILE`` also writes the rows as
JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from statewise import inference

GATES = {torch.float64: 1e-9, torch.float32: 1e-4}
STATES, OUTPUTS = 4, 2


@dataclasses.dataclass
class Options:
    """What to measure."""

    series: int = 10_000
    steps: int = 1000
    long: int = 1_000_000
    """Steps of the one long series."""
    repeats: int = 10
    device: str = "cuda"
    out: Path | None = None
    """Where to write the rows."""


@dataclasses.dataclass
class Row:
    """One measurement."""

    task: str
    type: str
    series: int
    steps: int
    milliseconds: float
    mebibytes: float
    error: float
    gate: float


def make(dtype: torch.dtype, device: str) -> inference.LinearGaussian:
    """A random stable model, the same numbers in every type."""
    g = torch.Generator().manual_seed(0)
    n, p = STATES, OUTPUTS
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    F = 0.95 * torch.linalg.qr(draw(n, n))[0]
    eye = torch.eye(n, dtype=torch.float64)
    parts = (F, draw(p, n), 0.1 * eye, torch.eye(p, dtype=torch.float64))
    F, H, Q, R, P0 = (x.to(device, dtype) for x in (*parts, eye))
    return inference.LinearGaussian(F, H, Q, R, P0=P0)


def data(series: int, steps: int) -> Tensor:
    """Observations, which the speed does not depend on, in float64 on the CPU."""
    g = torch.Generator().manual_seed(1)
    return torch.randn(series, steps, OUTPUTS, generator=g, dtype=torch.float32).double()


def off(found: Tensor, expected: Tensor) -> float:
    """Largest deviation relative to the largest value expected."""
    return ((found.double().cpu() - expected).abs().max() / expected.abs().max()).item()


def measure(function: Callable[[], Any], options: Options) -> tuple[float, float]:
    """The least milliseconds of a function, and its peak of memory in MiB."""
    function()
    if options.device == "cpu":
        return float("nan"), float("nan")
    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    best = float("inf")
    for _ in range(options.repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end))
        if best > 2000:
            break
    return best, (torch.cuda.max_memory_allocated() - base) / 2**20


Task = tuple[str, int, int, Callable[[], Any], Callable[[], float]]
"""Name, series, steps, what is timed and what gives its error."""


def of_many(dtype: torch.dtype, options: Options) -> Iterator[Task]:
    """Many series of a model."""
    exact, model = make(torch.float64, "cpu"), make(dtype, options.device)
    few = min(100, options.series)
    given = data(options.series, options.steps)
    sizes = (options.series, options.steps)
    y = given.to(options.device, dtype)
    expected = inference.filter(exact, given[:few])
    smoothed = inference.smooth(expected)

    def filtered() -> inference.FilterResult:
        with torch.no_grad():
            return inference.filter(model, y)

    def filter_error() -> float:
        found = filtered()
        logs = found.log_likelihoods[:few].double().sum(1)
        moments = off(found.mean[:few, -1], expected.mean[:, -1])
        return max(moments, off(logs, expected.log_likelihood))

    yield "filter", *sizes, filtered, filter_error

    def likelihood() -> Tensor:
        with torch.no_grad():
            return inference.log_likelihood(model, y)

    yield "likelihood", *sizes, likelihood, lambda: off(likelihood()[:few], expected.log_likelihood)

    def slope(model: inference.LinearGaussian, y: Tensor) -> Tensor:
        leaf = model.F.clone().requires_grad_()
        total = inference.log_likelihood(model.replace(F=leaf), y).sum()
        return torch.autograd.grad(total, leaf)[0]

    yield (
        *("gradient of the likelihood", *sizes, lambda: slope(model, y)),
        lambda: off(slope(model, y[:few]), slope(exact, given[:few])),
    )

    def both() -> inference.SmootherResult:
        return inference.smooth(filtered())

    yield "filter and smoother", *sizes, both, lambda: off(both().mean[:few], smoothed.mean)


def of_long(dtype: torch.dtype, options: Options) -> Iterator[Task]:
    """One long series."""
    exact, model = make(torch.float64, "cpu"), make(dtype, options.device)
    given = data(1, options.long)
    y = given.to(options.device, dtype)
    expected = inference.filter(exact, given)
    smoothed = inference.smooth(expected)

    def run(parallel: bool) -> inference.FilterResult:
        method = inference.ParallelKalman() if parallel else None
        with torch.no_grad():
            return inference.filter(model, y, method=method, parallel=parallel)

    def filter_error(parallel: bool) -> float:
        found = run(parallel)
        moments = off(found.mean[0, -100:], expected.mean[0, -100:])
        return max(moments, off(found.log_likelihoods.double().sum(1), expected.log_likelihood))

    done = run(False)

    def back(parallel: bool) -> inference.SmootherResult:
        with torch.no_grad():
            return inference.smooth(done, parallel=parallel)

    def smoother_error(parallel: bool) -> float:
        return off(back(parallel).mean[0, :100], smoothed.mean[0, :100])

    for task, timed, error in (("filter", run, filter_error), ("smoother", back, smoother_error)):
        for name, parallel in (("step by step", False), ("in parallel", True)):
            yield (
                *(f"{task}, {name}", 1, options.long),
                *(partial(timed, parallel), partial(error, parallel)),
            )


def main(options: Options) -> None:
    """Measure and print."""
    name = "the CPU" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    print(f"{STATES} states, {OUTPUTS} outputs, on {name}, torch {torch.__version__}\n")
    print("| task | type | series x steps | ms | MiB | error |\n|---|---|---|---|---|---|")
    rows = []
    for dtype in (torch.float32, torch.float64):
        gate = GATES[dtype]
        for task, series, steps, timed, error_of in chain(
            of_many(dtype, options), of_long(dtype, options)
        ):
            error = error_of()
            milliseconds, mebibytes = measure(timed, options)
            kind = str(dtype).removeprefix("torch.")
            row = Row(task, kind, series, steps, milliseconds, mebibytes, error, gate)
            rows.append(dataclasses.asdict(row))
            mark = "" if error <= gate else f" (above the gate, {gate:g})"
            print(
                f"| {task} | {kind} | {series} x {steps} | {milliseconds:.2f} | {mebibytes:.0f} | "
                f"{error:.0e}{mark} |",
                flush=True,
            )
            if options.out is not None:
                options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options))
