"""How many states of an over-sized stack can go for one point of FIT, by regulariser and method.

Run ``python benchmarks/reduction.py`` for the generated plant of order 4 and the bundled river, and
``--tasks order4 fulda silverbox`` with the file in ``--data-folder`` (or ``STATEWISE_DATA``). Every
stack is trained without and with each regulariser at each weight; then :func:`reduce` looks for the
fewest states that lose at most ``--tolerance`` points of FIT on the validation record, and the test
record is simulated once with the result. The river has but one short year for validation, so that
its training years count too. Every error bound on the way is compared with the measured H-infinity
error. ``--steps`` shortens the training.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import statewise
from statewise.compress import (
    BalancedTruncation,
    H2Optimal,
    ModalSingularPerturbation,
    ModalTruncation,
    ModelReduction,
    ReductionMethod,
    SingularPerturbation,
    reduce,
)
from statewise.data import Experiments, Normaliser, Record, Task, benchmarks, fulda_task
from statewise.estimators.transform import SignedPower
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import ELU, LRU, MLP, DiscreteDiagonal, LogTimeConstants
from statewise.train import FitConfig, FreeRunError, HankelNuclear, ModalL1, Regulariser, fit

METHODS: dict[str, ReductionMethod] = {
    "balanced truncation": BalancedTruncation(),
    "balanced singular perturbation": SingularPerturbation(),
    "modal truncation": ModalTruncation(),
    "modal singular perturbation": ModalSingularPerturbation(),
}
KINDS: dict[str, type[HankelNuclear | ModalL1]] = {"modal": ModalL1, "hankel": HankelNuclear}


@dataclasses.dataclass
class Options:
    """What to run."""

    tasks: tuple[str, ...] = ("order4", "fulda")
    """order4, fulda, silverbox."""
    regularisers: tuple[str, ...] = ("none", "modal", "hankel")
    weights: tuple[float, ...] = (1e-3, 5e-3)
    """Weights of the regularisers."""
    tolerance: float = 1.0
    """Points of FIT on the validation record that may be lost."""
    steps: int | None = None
    """Steps of Adam; None takes those of the task."""
    seed: int = 0
    threads: int = 1
    h2: bool = False
    """Also reduce to the orders of balanced truncation in the H2 norm."""
    data_folder: Path | None = None
    out: Path | None = None
    """File to which the tables are appended."""


@dataclasses.dataclass
class Setting:
    """Data, stack and training of one task."""

    train: list[Record]
    valid: list[Record]
    test: list[Record]
    model: Callable[[int], DeepWiener]
    training: FitConfig
    words: str
    watched: list[Record] | None = None
    """Records on which the loss of FIT is measured; None is the validation records."""


def order4(_: Options) -> Setting:
    """A plant of order 4 with a saturation, 40 dB, and one block with 32 complex states."""

    def record(length: int, seed: int) -> Record:
        draw = np.random.default_rng(seed)
        u = draw.standard_normal(length)
        poles = np.array([0.95 * np.exp(0.3j), 0.8 * np.exp(1.1j)])
        weights = np.array([0.25 - 0.1j, 0.3 + 0.2j])
        x, y = np.zeros(2, dtype=complex), np.empty(length)
        for k in range(length):
            y[k] = 2 * np.real(weights @ x)
            x = poles * x + u[k]
        y = np.tanh(y)
        return Record(y + 0.01 * y.std() * draw.standard_normal(length), u, dt=1.0, skip=100)

    parts = [[record(n, seed)] for n, seed in ((8000, 1), (2000, 2), (4000, 3))]
    config = DeepWienerConfig(
        n_layers=1, d_model=4, layer=LRU.spec(d_state=32, r_min=0.3, r_max=0.99), static=MLP(16)
    )
    return Setting(
        *scaled(*(Experiments(part) for part in parts)),
        model=lambda seed: DeepWiener(1, 1, config, seed=seed),
        training=FitConfig(steps=1500, lr=1e-2, eval_every=250, polish_steps=0),
        words="1 block, 4 channels, 32 complex states; plant of order 4 behind a saturation",
    )


def fulda(_: Options) -> Setting:
    """The river, with twice the states of its recipe."""
    task = fulda_task()
    config = DeepWienerConfig(
        n_layers=4,
        d_model=16,
        d_state=32,
        poles=DiscreteDiagonal(LogTimeConstants(shortest=1.0, longest=30.0, phase_max=0.1)),
        dropout=0.5,
    )
    transform = SignedPower(power=0.5, floor=0.0)
    train, valid, test = scaled(*(transform.apply(part) for part in parts_of(task)))
    return Setting(
        train,
        valid,
        test,
        model=lambda seed: DeepWiener(task.train[0].n_u, task.train[0].n_y, config, seed=seed),
        training=FitConfig(
            window=730,
            washout=365,
            batch_size=8,
            steps=500,
            lr=0.04,
            weight_decay=0.3,
            eval_every=100,
            keep="last",
            polish_steps=0,
        ),
        words="4 blocks, 16 channels, 32 complex states each; FIT of the root of the discharge",
        watched=[*train, *valid],
    )


def silverbox(options: Options) -> Setting:
    """The circuit, with a stack of the literature and 32 instead of 6 states in each block."""
    task = benchmarks.load("silverbox", options.data_folder)
    config = DeepWienerConfig(
        n_layers=4,
        d_model=4,
        layer=LRU.spec(d_state=32, r_min=0.5, r_max=0.99, phase_max=np.pi),
        static=ELU(),
    )
    return Setting(
        *scaled(*parts_of(task)),
        model=lambda seed: DeepWiener(1, 1, config, seed=seed),
        training=FitConfig(steps=4000, lr=1e-2, clip=None, eval_every=500, polish_steps=0),
        words="4 blocks, 4 channels, 32 complex states each",
    )


def parts_of(task: Task) -> tuple[Experiments, Experiments, Experiments]:
    """Training, validation and the first test set."""
    if task.valid is None:
        raise ValueError(f"{task.name} has no validation records")
    return task.train, task.valid, next(iter(task.test.values()))


def scaled(train: Experiments, *others: Experiments) -> tuple[list[Record], ...]:
    """All parts normalised by the training records."""
    normaliser = Normaliser.fit(train)
    return tuple(list(normaliser.transform(part)) for part in (train, *others))


TASKS = {"order4": order4, "fulda": fulda, "silverbox": silverbox}


def run(name: str, options: Options) -> str:
    """One task as a markdown table."""
    setting = TASKS[name](options)
    training = setting.training
    if options.steps is not None:
        training = dataclasses.replace(training, steps=options.steps)
    judge, watched = FreeRunError(setting.test), setting.watched or setting.valid
    choices: list[tuple[str, Regulariser | None]] = []
    for kind in options.regularisers:
        if kind == "none":
            choices.append((kind, None))
        else:
            choices += [(f"{kind} {w:g}", KINDS[kind](w)) for w in options.weights]
    lines = [
        f"\n## {name}\n\n{setting.words}; {training.steps} steps, seed {options.seed}.\n",
        "| regulariser | method | states removed | order before | after | FIT watched before "
        "| after | FIT test before | after | largest error / bound | s |",
        "|---" * 11 + "|",
    ]
    for label, regulariser in choices:
        model = setting.model(options.seed)
        started = time.perf_counter()
        settings = dataclasses.replace(training, regulariser=regulariser)
        fit(model, setting.train, setting.valid, settings, seed=options.seed, threads=1)
        seconds = time.perf_counter() - started
        print(f"{name}, {label}: trained in {seconds:.0f} s", flush=True)
        before = 100 * (1 - judge(model))
        orders: list[int] = []
        for method, how in METHODS.items():
            started = time.perf_counter()
            found = reduce(model, tolerance=options.tolerance, method=how, data=watched)
            if isinstance(how, BalancedTruncation):
                orders = [block.order_after for block in found.blocks]
            lines.append(row(label, method, found, before, judge, time.perf_counter() - started))
            print(lines[-1], flush=True)
        if options.h2:
            started = time.perf_counter()
            found = reduce(model, to=orders, method=H2Optimal(), data=watched)
            used = time.perf_counter() - started
            lines.append(row(label, "H2-optimal, same orders", found, before, judge, used))
            print(lines[-1], flush=True)
    return "\n".join(lines)


def row(
    label: str,
    method: str,
    found: ModelReduction,
    before: float,
    judge: FreeRunError,
    seconds: float,
) -> str:
    """One line of the table; a bound that is violated stops the run."""
    ratios = []
    for block in found.blocks:
        if block.bound is None:
            continue
        allowed = block.bound + block.rounding
        if block.error > allowed * (1 + 1e-6):
            raise AssertionError(f"{label}, {method}, {block.name}: {block.error} > {allowed}")
        if block.order_after < block.order_before:
            ratios.append(block.error / allowed)
    orders = [
        sum(getattr(b, f"order_{when}") for b in found.blocks) for when in ("before", "after")
    ]
    cells: list[Any] = [
        label,
        method,
        f"{100 * found.removed:.0f} %",
        *orders,
        *(f"{fit_value:.2f}" for fit_value in (found.fit_before, found.fit_after)),
        f"{before:.2f}",
        f"{100 * (1 - judge(found.model)):.2f}",
        f"{max(ratios):.2f}" if ratios else "–",
        f"{seconds:.1f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(options: Options) -> None:
    """Run all tasks."""
    torch.set_num_threads(options.threads)
    for name in options.tasks:
        table = run(name, options)
        if options.out is not None:
            words = f"statewise {statewise.__version__}, torch {torch.__version__}"
            with options.out.open("a", encoding="utf-8") as stream:
                stream.write(f"{table}\n\n({platform.machine()}, {words})\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
