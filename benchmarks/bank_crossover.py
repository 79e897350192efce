"""Where a bank of diagonal systems is faster by convolution than by its recurrence.

    python benchmarks/bank_crossover.py [--threads 1] [--channels 256]

Times the two simulators of ``nn.S4D`` beside each other, forward without gradients and forward with
backward, and checks that they agree. ``nn.Auto`` follows the table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from statewise.nn import FFT, S4D, Scan


def median_ms(call: Callable[[], object], seconds: float = 1.0) -> float:
    """Median time of a call in milliseconds, after one call to warm up."""
    call()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def infer(layer: S4D, u: torch.Tensor) -> torch.Tensor:
    """The output, without gradients."""
    with torch.no_grad():
        return layer(u)[0]


def train(layer: S4D, u: torch.Tensor) -> None:
    """Both passes."""
    layer.zero_grad()
    layer(u.detach().requires_grad_())[0].square().mean().backward()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--states", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.channels} channels")
    print("| B | L | N | forward: scan | convolution | training: scan | convolution | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for batch, length in ((1, 1024), (1, 16384), (8, 1024), (8, 4096)):
        for states in options.states:
            generator = torch.Generator().manual_seed(0)
            u = torch.randn(batch, length, options.channels, generator=generator)
            row, outputs = [], []
            for simulator in (Scan(), FFT()):
                layer = S4D(options.channels, states, simulator=simulator)
                outputs.append(infer(layer, u))
                calls = (partial(infer, layer, u), partial(train, layer, u))
                row.append([median_ms(call) for call in calls])
            gap = float((outputs[0] - outputs[1]).norm() / outputs[0].norm())
            (scan, scan_train), (conv, conv_train) = row
            print(
                f"| {batch} | {length} | {states} | {scan:.1f} | {conv:.1f} | {scan_train:.1f} | "
                f"{conv_train:.1f} | {gap:.0e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
