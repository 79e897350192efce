"""Speed of the operators on CPU, with the accuracy beside it.

Run ``python benchmarks/ops.py`` (one thread; ``--threads N`` for more). For each operator and
shape: milliseconds (median) forward, and forward with backward; the largest error of outputs and
of gradients relative to the float64 reference; the same for two ways to write the recurrence in
plain torch; and the floor, the time to move the bytes that a pass must move at the rate of a large
copy on this machine. Where a rival's tensors would not fit, it is left out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from statewise import ops

Scan = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class Options:
    """What to measure."""

    threads: int = 1
    repeats: int = 7
    shapes: tuple[tuple[int, int, int], ...] = ((8, 1024, 256), (1, 16384, 256), (32, 512, 12))
    rivals: bool = True
    """Also measure the recurrence in plain torch (slow)."""


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """Product of pairs (re, im), or of real numbers."""
    return x * y if not pairs(x) else torch.view_as_real(complex_(x) * complex_(y))


def pairs(x: Tensor) -> bool:
    return x.shape[-1] == 2


def complex_(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.contiguous())


def loop(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One torch statement a step."""
    h, out = torch.zeros_like(b[:, 0]), []
    # Indexing b[:, t] instead would make the backward pass quadratic in the length.
    for a_t, b_t in zip(a.expand(b.shape).unbind(1), b.unbind(1), strict=True):
        h = multiply(a_t, h) + b_t
        out.append(h)
    return torch.stack(out, 1), h


def doubling(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (a, b) combined over 1, 2, 4, … steps: log₂ L passes over everything."""
    a, h, step = a.expand(b.shape), b, 1
    while step < b.shape[1]:
        late = multiply(a[:, step:], h[:, :-step]) + h[:, step:]
        h = torch.cat([h[:, :step], late], 1)
        a = torch.cat([a[:, :step], multiply(a[:, step:], a[:, :-step])], 1)
        step *= 2
    return h, h[:, -1]


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Median time of a function that ran before; what takes seconds is not repeated."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
        if times[-1] > 1000:
            break
    return statistics.median(times)


def copy_rate(repeats: int) -> float:
    """Bytes a millisecond, read and written, of a copy well beyond the caches."""
    source = torch.ones(2**25)
    target = source.clone()
    return 2 * source.nbytes / median_ms(lambda: target.copy_(source), repeats)


def problem(shape: tuple[int, int, int], pair: bool, varying: bool) -> tuple[Tensor, Tensor]:
    """Coefficients inside the unit disc, and noise."""
    B, L, D = shape
    generator = torch.Generator().manual_seed(0)
    lead = (B, L, D) if varying else (D,)
    radius = 0.8 + 0.19 * torch.rand(lead, generator=generator)
    b = torch.randn(B, L, D, *(2,) * pair, generator=generator)
    if not pair:
        return radius, b
    angle = 3 * torch.rand(lead, generator=generator)
    return torch.view_as_real(torch.polar(radius, angle)).clone(), b


def both_passes(scan: Scan, a: Tensor, b: Tensor, weight: Tensor) -> list[Tensor]:
    """h and the gradients of a and b."""
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    h, _ = scan(a, b)
    return [h.detach(), *torch.autograd.grad(h, (a, b), weight)]


def error(given: Tensor, expected: Tensor) -> float:
    return ((given - expected).abs().max() / expected.abs().max()).item()


def rows(options: Options, rate: float):
    """One row for each operator, shape and way to compute it."""
    for shape in options.shapes:
        for pair in (False, True):
            for varying in (False, True):
                a, b = problem(shape, pair, varying)
                weight = torch.randn(b.shape, generator=torch.Generator().manual_seed(1))
                scan = ops.linear_scan_pairs if pair else ops.linear_scan
                with ops.use_backend("reference"):
                    expected = both_passes(scan, a.double(), b.double(), weight.double())
                # Forward: read b (and a), write h. Backward: read ∂h (and a, h), write ∂b (and ∂a);
                # a constant a costs nothing, but its gradient still reads h.
                forward = b.nbytes * (3 if varying else 2)
                floor = forward / rate, (forward + b.nbytes * (5 if varying else 3)) / rate
                kind = ("pairs" if pair else "real") + (", a (B, L, D)" if varying else ", a (D,)")
                ways: dict[str, Scan] = {"statewise": scan}
                if options.rivals:
                    ways |= {"torch loop": loop, "torch doubling": doubling}
                for name, way in ways.items():
                    found = both_passes(way, a, b, weight)
                    errors = [error(x, y) for x, y in zip(found, expected, strict=True)]
                    with torch.no_grad():
                        fast = median_ms(lambda: way(a, b), options.repeats)  # noqa: B023
                    full = median_ms(
                        lambda: both_passes(way, a, b, weight),  # noqa: B023
                        options.repeats,
                    )
                    yield (
                        *(kind, str(shape), name, f"{fast:.3g}", f"{full:.3g}"),
                        *(f"{floor[0]:.2g} / {floor[1]:.2g}",),
                        *(f"{errors[0]:.1e}", f"{max(errors[1:]):.1e}"),
                    )


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    ops.warm()
    rate = copy_rate(options.repeats)
    print(f"float32, {options.threads} thread(s), large copy {rate / 1e6:.1f} GB/s")
    line = "{:24}{:18}{:16}{:>10}{:>12}{:>15}{:>10}{:>10}"
    titles = ("linear_scan", "(B, L, D)", "way", "fwd ms", "fwd+bwd ms", "floor ms")
    print(line.format(*titles, "err h", "err grad"))
    for row in rows(options, rate):
        print(line.format(*row), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
