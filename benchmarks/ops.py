"""Speed of the operators on CPU or GPU, with the accuracy and the floor beside it.

Run ``python benchmarks/ops.py`` (one thread; ``--threads N`` for more) or ``--device cuda``. For
each operator and shape: median milliseconds forward, and forward with backward; the relative error
‖x − ref‖ / ‖ref‖ of the output and the largest one of the gradients against float64; the same for
every peer that is installed; and the floor. The floor is the largest of the time to move the bytes
that a pass must move and the times to do the arithmetic it must do, at rates measured in the same
run. ``--json FILE`` also writes the rows.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pkgutil
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import tyro
from torch import Tensor

import operators
from operators.problem import Inputs, Problem, Way
from statewise import ops


@dataclasses.dataclass
class Options:
    """What to measure."""

    device: str = "cpu"
    threads: int = 1
    repeats: int = 7
    only: tuple[str, ...] = ()
    """Names of operators; all when empty."""
    rivals: bool = True
    """Also measure peers (slow)."""
    check: bool = True
    """Also compare with float64 (slow for long shapes)."""
    json: Path | None = None
    """Where to write the rows."""


def median_ms(function: Callable[[], object], device: str, repeats: int) -> float:
    """Median time of a function, in milliseconds; what takes a second is not repeated."""
    if device == "cuda":
        return _median_of_events(function, repeats)
    times = []
    function()
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
        if times[-1] > 1000:
            break
    return statistics.median(times)


def _median_of_events(function: Callable[[], object], repeats: int) -> float:
    """Median of CUDA events around single calls, caches flushed between them."""
    flush = torch.empty(2**26, device="cuda")
    for _ in range(3):
        function()
    pairs = []
    for _ in range(3 * repeats):
        flush.zero_()
        # The device waits while the host queues the call: otherwise its pace would be measured.
        torch.cuda._sleep(5_000_000)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        stop.record()
        pairs.append((start, stop))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in pairs)


def measured_rates(device: str, repeats: int) -> dict[str, float]:
    """Units of work a millisecond that this device does: bytes copied, flops, exponentials."""
    source = torch.rand(2**28 if device == "cuda" else 2**25, device=device)
    target = source.clone()
    found = {"byte": 2 * source.nbytes / median_ms(lambda: target.copy_(source), device, repeats)}
    n = 8192 if device == "cuda" else 1024
    for name, dtype in (("flop", torch.float32), ("bf16 flop", torch.bfloat16)):
        if dtype is torch.bfloat16 and device == "cpu":
            continue
        x = torch.rand(n, n, device=device).to(dtype)
        found[name] = 2 * n**3 / median_ms(lambda: x @ x, device, repeats)  # noqa: B023
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        # Special-function units of a multiprocessor: 16 results a clock on every card since 2017.
        clock = getattr(properties, "clock_rate", 1_755_000)
        found["exp"] = 16.0 * properties.multi_processor_count * clock
    return found


def floors(problem: Problem, rates: dict[str, float]) -> tuple[float, float]:
    """Least time of forward, and of forward with backward, in milliseconds."""
    work = {"byte": problem.moved, **problem.rates}
    known = {name: both for name, both in work.items() if name in rates}
    forward, full = (max(both[i] / rates[name] for name, both in known.items()) for i in (0, 1))
    return forward, full


def prepared(problem: Problem, inputs: Inputs, device: str, dtype: torch.dtype) -> Inputs:
    """The inputs on the device, those that are differentiated as leaves."""
    found = {}
    for name, x in inputs.items():
        kept = torch.promote_types(dtype, torch.float32) if name in problem.keep_float32 else dtype
        y = x.to(device, kept if x.is_floating_point() else x.dtype)
        found[name] = y.detach().requires_grad_(name in problem.differentiate)
    return found


def both_passes(way: Way, problem: Problem, inputs: Inputs, weight: Tensor) -> list[Tensor]:
    """The output and its gradients."""
    y = way(inputs)
    leaves = [inputs[name] for name in problem.differentiate]
    return [y.detach(), *torch.autograd.grad(y, leaves, weight.to(y))]


def error(given: Tensor, expected: Tensor) -> float:
    """‖given − expected‖ / ‖expected‖."""
    difference = given.to("cpu", torch.float64) - expected.to(torch.float64)
    return (difference.norm() / expected.to(torch.float64).norm().clamp(min=1e-300)).item()


def yardstick(problem: Problem, inputs: Inputs, weight: Tensor) -> list[Tensor]:
    """Output and gradients in float64, from the values that the timed run sees."""
    seen = prepared(problem, inputs, "cpu", problem.dtype)
    wide = prepared(problem, seen, "cpu", torch.float64)
    if problem.reference is not None:
        return both_passes(problem.reference, problem, wide, weight.double())
    with ops.use_backend("cpu"):
        return both_passes(problem.run, problem, wide, weight.double())


def measure(problem: Problem, options: Options, rates: dict[str, float]) -> Iterator[dict]:
    """One row for each way to compute the problem."""
    inputs = problem.inputs(torch.Generator().manual_seed(0))
    ready = prepared(problem, inputs, options.device, problem.dtype)
    with torch.no_grad():
        shape = problem.run(ready).shape
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(problem.dtype)
    expected = yardstick(problem, inputs, weight) if options.check else None
    on_device = weight.to(options.device)
    floor = floors(problem, rates)
    ways = {"statewise": problem.run} | (problem.rivals if options.rivals else {})
    for name, way in ways.items():
        row = {"op": problem.op, "problem": problem.label, "way": name}
        row |= {"dtype": str(problem.dtype).removeprefix("torch.")}
        errors = [math.nan, math.nan]
        if expected is not None:
            found = both_passes(way, problem, ready, on_device)
            errors = [error(x, y) for x, y in zip(found, expected, strict=True)]
            del found
        with torch.no_grad():
            forward = median_ms(lambda: way(ready), options.device, options.repeats)  # noqa: B023
        full = median_ms(
            lambda: both_passes(way, problem, ready, on_device),  # noqa: B023
            options.device,
            options.repeats,
        )
        yield row | {
            "forward_ms": forward,
            "full_ms": full,
            "floor_forward_ms": floor[0],
            "floor_full_ms": floor[1],
            "error": errors[0],
            "gradient_error": max(errors[1:]),
        }


def problems(options: Options) -> Iterator[Problem]:
    """All problems of the chosen operators."""
    for module in pkgutil.iter_modules(operators.__path__):
        if module.name != "problem" and (not options.only or module.name in options.only):
            yield from importlib.import_module(f"operators.{module.name}").problems(options.device)


def machine(options: Options) -> str:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    threads = "" if options.device == "cuda" else f", {options.threads} thread(s)"
    return f"{name}{threads}, torch {torch.__version__}, Python {platform.python_version()}"


def main(options: Options) -> None:
    """Print the table, and write the rows."""
    torch.set_num_threads(options.threads)
    if options.device == "cpu":
        ops.warm()
    rates = measured_rates(options.device, options.repeats)
    print(machine(options))
    print("rates: " + ", ".join(f"{rate / 1e6:.3g} G{name}/s" for name, rate in rates.items()))
    line = "{:20}{:38}{:10}{:26}{:>9}{:>12}{:>15}{:>10}{:>10}"
    titles = (
        "op",
        "problem",
        "type",
        "way",
        "fwd ms",
        "fwd+bwd ms",
        "floor ms",
        "err y",
        "err grad",
    )
    print(line.format(*titles))
    rows = []
    for problem in problems(options):
        for row in measure(problem, options, rates):
            rows.append(row)
            cells = (
                *(row["op"], row["problem"], row["dtype"], row["way"]),
                *(f"{row['forward_ms']:.3g}", f"{row['full_ms']:.3g}"),
                f"{row['floor_forward_ms']:.2g} / {row['floor_full_ms']:.2g}",
                *(f"{row['error']:.1e}", f"{row['gradient_error']:.1e}"),
            )
            print(line.format(*cells), flush=True)
    if options.json:
        text = json.dumps({"machine": machine(options), "rates": rates, "rows": rows}, indent=1)
        partial = options.json.with_suffix(".part")
        partial.write_text(text)
        partial.replace(options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
