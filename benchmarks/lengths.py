"""Time of the operators against the length of the sequence, and the floor under it.

Run ``python benchmarks/lengths.py`` (one CPU thread) or ``--device cuda``. One sequence, constant
width, lengths in powers of four.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
import tyro
from torch import Tensor

from operators.problem import Inputs, Problem
from ops import both_passes, floors, machine, measured_rates, median_ms, prepared
from statewise import ops

STATES = 16


@dataclasses.dataclass
class Options:
    """What to measure."""

    device: str = "cpu"
    threads: int = 1
    repeats: int = 7
    channels: int = 256
    longest: int = 65536
    json: Path | None = None
    """Where to write the rows; None prints them only."""


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _cell(a: Tensor) -> ops.Cell:
    """tanh(a h + u), every channel for itself."""
    return ops.Cell(lambda h, u: torch.tanh(a * h + u), size=len(a), structure=ops.Diagonal())


def _problem(op: str, length: int, channels: int, unit: int) -> Problem:
    """One sequence through one operator; widths as its layers have them."""
    wide, narrow = length * channels * unit, length * STATES * unit
    u = _randn(1, length, channels)
    few = _randn(1, length, STATES)
    heads = channels // 64
    pole = torch.view_as_real(
        torch.polar(torch.full((channels, STATES), 0.97), _randn(channels, 1))
    )
    cases = {
        "linear_scan": (
            {"a": 0.9 + 0.05 * torch.sigmoid(u), "b": u},
            lambda x: ops.linear_scan(x["a"], x["b"])[0],
            (3 * wide, 8 * wide),
        ),
        "causal_conv1d": (
            {"u": u, "w": _randn(channels, 4)},
            lambda x: ops.causal_conv1d(x["u"], x["w"], silu=True)[0],
            (2 * wide, 5 * wide),
        ),
        "diagonal_ssm": (
            {"u": u, "a": pole.clone(), "c": pole.clone()},
            lambda x: ops.diagonal_ssm(x["u"], x["a"], torch.ones_like(x["a"]), x["c"])[0],
            (2 * wide, 5 * wide),
        ),
        "fft_conv": (
            {"u": u, "k": _randn(channels, length) / length},
            lambda x: ops.fft_conv(x["u"], x["k"])[0],
            (3 * wide, 8 * wide),
        ),
        "selective_scan": (
            {"u": u, "dt": u - 4.6, "A": -torch.arange(1.0, STATES + 1).repeat(channels, 1),
             "B": few, "C": few.clone()},
            lambda x: ops.selective_scan(x["u"], x["dt"], x["A"], x["B"], x["C"], softplus=True)[0],
            (3 * wide + 2 * narrow, 8 * wide + 6 * narrow),
        ),
        "ssd": (
            {"x": u.reshape(1, length, heads, 64), "dt": u[..., :heads] - 2.0,
             "A": -torch.ones(heads), "B": _randn(1, length, 1, 64), "C": _randn(1, length, 1, 64)},
            lambda x: ops.ssd(x["x"], x["dt"], x["A"], x["B"], x["C"], softplus=True)[0],
            (2 * wide + 8 * narrow, 5 * wide + 24 * narrow),
        ),
        "block_scan": (
            {"A": 0.6 * torch.eye(2).repeat(1, length, channels, 1, 1),
             "b": _randn(1, length, channels, 2)},
            lambda x: ops.block_scan(x["A"], x["b"])[0],
            (8 * wide, 20 * wide),
        ),
        "para_gru": (
            {"pre": _randn(1, length, 3, channels), "a": 0.3 * _randn(3, channels)},
            lambda x: ops.para_gru(x["pre"], x["a"])[0],
            (4 * wide, 10 * wide),
        ),
        "para_lstm": (
            {"pre": _randn(1, length, 3, channels), "a": 0.3 * _randn(3, channels),
             "w": 0.3 * _randn(2, channels)},
            lambda x: ops.para_lstm(x["pre"], x["a"], x["w"])[0],
            (4 * wide, 10 * wide),
        ),
        "newton_scan": (
            {"u": u, "a": 0.5 * torch.ones(channels)},
            lambda x: ops.newton_scan(_cell(x["a"]), x["u"]).h,
            (2 * wide, 5 * wide),
        ),
        "scan2d": (
            {"b1": _randn(1, length, 8, channels // 8), "b2": _randn(1, length, 8, channels // 8),
             "a": torch.full((1, length, 8, channels // 8), 0.45)},
            lambda x: ops.scan2d(*[x["a"]] * 4, x["b1"], x["b2"])[0][0],
            (5 * wide, 12 * wide),
        ),
        "vandermonde_kernel": (
            {"a": pole.clone(), "c": pole.clone()},
            lambda x: ops.vandermonde_kernel(x["a"], x["c"], length),
            (wide, 2 * wide),
        ),
        "cauchy_kernel": (
            {"poles": torch.stack([torch.full((channels, STATES), -0.5),
                                   torch.pi * torch.arange(float(STATES)).repeat(channels, 1)], -1),
             "p": 0.1 * pole, "b": pole.clone(), "c": pole.clone(),
             "dt": torch.full((channels,), 0.01)},
            lambda x: ops.cauchy_kernel(x["poles"], x["p"], x["b"], x["c"], x["dt"], length),
            (wide, 2 * wide),
        ),
        "companion_kernel": (
            {"a": 0.9 / STATES * torch.ones(channels, STATES), "b": _randn(channels, STATES),
             "c": _randn(channels, STATES)},
            lambda x: ops.companion_kernel(x["a"], x["b"], x["c"], length),
            (wide, 2 * wide),
        ),
    }  # fmt: skip
    inputs, run, moved = cases[op]
    exps = length * channels * STATES
    return Problem(
        op=op,
        label=str(length),
        dtype=torch.float32,
        inputs=lambda generator: inputs,
        run=run,
        moved=moved,
        rates={"exp": (exps, 2 * exps)} if op == "selective_scan" else {},
        differentiate=tuple(inputs),
    )


OPERATORS = (
    "linear_scan", "block_scan", "diagonal_ssm", "selective_scan", "ssd", "causal_conv1d",
    "fft_conv", "vandermonde_kernel", "cauchy_kernel", "companion_kernel", "para_gru",
    "para_lstm", "newton_scan", "scan2d",
)  # fmt: skip


def measure(problem: Problem, options: Options, rates: dict[str, float]) -> dict[str, float]:
    """Medians of both passes, and their floors."""
    inputs: Inputs = problem.inputs(torch.Generator())
    ready = prepared(problem, inputs, options.device, problem.dtype)
    with torch.no_grad():
        weight = torch.ones_like(problem.run(ready))
        forward = median_ms(lambda: problem.run(ready), options.device, options.repeats)
    full = median_ms(
        lambda: both_passes(problem.run, problem, ready, weight), options.device, options.repeats
    )
    least, least_full = floors(problem, rates)
    return {"forward": forward, "full": full, "floor_forward": least, "floor_full": least_full}


def main(options: Options) -> None:
    """Measure every operator at every length."""
    torch.set_num_threads(options.threads)
    rates = measured_rates(options.device, options.repeats)
    rows = []
    for op in OPERATORS:
        length = 64
        while length <= options.longest:
            problem = _problem(op, length, options.channels, 4)
            rows.append({"op": op, "length": length, **measure(problem, options, rates)})
            print({k: v if isinstance(v, (str, int)) else round(v, 4) for k, v in rows[-1].items()})
            length *= 4
    if options.json:
        found = {"machine": machine(options), "channels": options.channels, "rows": rows}
        partial = options.json.with_suffix(".part")
        partial.write_text(json.dumps(found, indent=1) + "\n")
        partial.replace(options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
