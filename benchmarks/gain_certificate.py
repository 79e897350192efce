"""Certified and measured gain of trained models, and what the certificate costs in accuracy.

Run ``python benchmarks/gain_certificate.py --inputs 10000 --out
benchmarks/results/gain_certificate.md`` (about ten minutes on one core), with the file of Cascaded
Tanks in ``--data-folder`` or ``STATEWISE_DATA``; without it the models learn the bundled river. An
adversary starts at many inputs and differences and raises ‖y(u + δ) − y(u)‖/‖δ‖ by gradient ascent
in u and δ, in double precision; the largest ratio must stay under the certificate.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path

import torch
import tyro
from torch import Tensor

from statewise import DataError
from statewise.data import Task, benchmarks, fulda_task
from statewise.estimators import SystemIdentifier
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import GLU, LRU, L2Bounded, OneLipschitz
from statewise.train import FitConfig


@dataclasses.dataclass
class Options:
    """What to run."""

    inputs: int = 10_000
    """Inputs that the adversary starts at."""
    length: int = 128
    """Samples of each."""
    ascent: int = 40
    """Steps of gradient ascent."""
    steps: int = 1500
    """Steps of training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 1
    data_folder: Path | None = None
    out: Path | None = None


def stack(**changes: object) -> DeepWienerConfig:
    """A model of three blocks with some parts changed."""
    parts = {"n_layers": 3, "d_model": 8, "skip": "identity"} | changes
    return DeepWienerConfig(**parts)  # type: ignore[arg-type]


MODELS = {
    "LRU and GLU, unbounded": stack(layer=LRU.spec(d_state=8), static=GLU()),
    "L2Bounded, trained gains": stack(
        layer=L2Bounded.spec(d_state=8, trainable_gain=True), static=OneLipschitz()
    ),
    "L2Bounded, whole gain 5": stack(
        layer=L2Bounded.spec(d_state=8, trainable_gain=True), static=OneLipschitz(), gain=5.0
    ),
    "L2Bounded, whole gain 2": stack(
        layer=L2Bounded.spec(d_state=8, trainable_gain=True), static=OneLipschitz(), gain=2.0
    ),
}


def load(folder: Path | None) -> Task:
    """Cascaded Tanks, or the river where its file is missing."""
    try:
        return benchmarks.load("cascaded_tanks", folder)
    except (DataError, FileNotFoundError) as error:
        print(f"the bundled river takes the place of Cascaded Tanks: {error}", flush=True)
        return fulda_task()


def attack(model: DeepWiener, options: Options, batch: int = 500) -> float:
    """The largest ratio of differences that gradient ascent finds."""
    model = model.double().eval()
    worst = 0.0
    draw = torch.Generator().manual_seed(0)
    for first in range(0, options.inputs, batch):
        shape = (min(batch, options.inputs - first), options.length, model.d_input)
        # Sizes over decades: near rest, in the range of the data, and far outside of it.
        size = 10 ** (4 * torch.rand(shape[0], 1, 1, generator=draw).double() - 2)
        u = size * torch.randn(shape, generator=draw, dtype=torch.float64)
        delta = 0.1 * size * torch.randn(shape, generator=draw, dtype=torch.float64)
        ascent = torch.optim.Adam([u.requires_grad_(), delta.requires_grad_()], lr=0.05)
        for _ in range(options.ascent):
            ratio = _ratio(model, u, delta)
            worst = max(worst, float(ratio.detach().max()))
            ascent.zero_grad()
            (-ratio.clamp_min(1e-12).log().sum()).backward()
            ascent.step()
        with torch.no_grad():
            worst = max(worst, float(_ratio(model, u, delta).max()))
    return worst


def _ratio(model: DeepWiener, u: Tensor, delta: Tensor) -> Tensor:
    moved = model(u + delta)[0] - model(u)[0]
    return moved.square().sum((1, 2)).sqrt() / delta.square().sum((1, 2)).sqrt()


def main(options: Options) -> None:
    """Train, attack and print the table."""
    torch.set_num_threads(options.threads)
    task = load(options.data_folder)
    unit = f" [{task.unit}]" if task.unit else ""
    training = FitConfig(
        window=256, washout=50, steps=options.steps, eval_every=50, polish_steps=0, lr=5e-3
    )
    lines = [
        "# Certified gain",
        "",
        f"{task.name}, {len(options.seeds)} seed(s), {options.steps} steps of Adam. Gains are in "
        "normalised units: the ratio of ‖y − y'‖/‖u − u'‖ with inputs and outputs over their "
        f"standard deviations. Measured: the largest of {options.inputs} inputs, {options.ascent} "
        "steps of gradient ascent each, for the first seed.",
        "",
        f"| model | parameters | test {task.metric.upper()}{unit}, median (least to largest) | "
        "certificate | measured |",
        "|---|---|---|---|---|",
    ]
    for name, config in MODELS.items():
        errors, first = [], None
        began = time.perf_counter()
        for seed in options.seeds:
            fitted = SystemIdentifier(config, training, seed=seed)
            fitted.fit(task.train, valid=task.valid, threads=options.threads, progress=False)
            records = next(iter(task.test.values()))
            scores = fitted.evaluate(
                records, metrics=(task.metric,), scale=task.scale, unit=task.unit
            )
            errors.append(statistics.fmean(score.value for score in scores))
            first = first or fitted.model_
        assert first is not None
        found, bound = attack(first, options), first.gain_bound()
        if found > bound:
            raise AssertionError(f"{name}: measured {found:.6g} is above the bound {bound:.6g}")
        lines.append(
            f"| {name} | {first.n_parameters} | {statistics.median(errors):.4g} "
            f"({min(errors):.4g} to {max(errors):.4g}) | {bound:.4g} | {found:.4g} |"
        )
        print(lines[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
