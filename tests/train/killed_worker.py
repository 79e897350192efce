"""Train once undisturbed, then once more with the training process killed twenty times.

Prints a JSON object: the kills, and the number of rows in the log at each start. Training processes
are forked from here, where the kernels are compiled already. A process that is to be killed waits
for that a few steps later, so that it cannot end before, however fast or slow the machine is.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from train_systems import oscillator, quick, small_model

from statewise.train import fit
from statewise.train.adam import AdamPhase
from statewise.train.polish import PolishPhase

START_KILLS, ADAM_KILLS, POLISH_KILLS = 5, 12, 3
"""Kills that fall into the start of the process and around its first steps, into Adam after some
steps, and into the polish. Adam's cannot use up its 160 steps: 12 × (6 + 4) + 5 × 4 = 140."""


def _train(folder: Path) -> None:
    model = small_model(dropout=0.1)
    config = quick(steps=160, eval_every=4, polish_steps=30, average=0.9)
    train, valid = [oscillator(300, 1)], [oscillator(60, 2)]
    fit(model, train, valid, config, seed=1, folder=folder, resume=True)
    weights = [parameter.detach().flatten() for parameter in model.parameters()]
    (folder / "weights.bin").write_bytes(torch.cat(weights).numpy().tobytes())


def _watch(pipe: int, phases: tuple[type, ...], at: int, leash: int | None) -> None:
    """Write a byte at step ``at`` of these phases, and stop ``leash`` steps later."""
    count = itertools.count()
    for phase in phases:

        def step(self, *, original=phase.step):
            done = next(count)
            if done == at:
                os.write(pipe, b".")
            if leash is not None and done > at + leash:
                signal.pause()
            return original(self)

        phase.step = step  # type: ignore[method-assign]


def _start(
    folder: Path,
    phases: tuple[type, ...] = (AdamPhase, PolishPhase),
    at: int = 0,
    leash: int | None = None,
) -> tuple[int, int]:
    """The training process, and a pipe that it writes to when it has come to that step."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    code = 1
    try:
        _watch(writer, phases, at, leash)
        _train(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(child: int, reader: int) -> None:
    os.close(reader)
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit("a training process failed")


def _rows(folder: Path) -> int:
    log = folder / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def main(folder: Path) -> None:
    fit(small_model(), [oscillator(300, 1)], None, quick(steps=1, polish_steps=1))
    child, reader = _start(folder / "whole")
    os.read(reader, 1)
    begun = time.monotonic()
    _wait(child, reader)
    duration = time.monotonic() - begun
    draw = random.Random(0)
    plan: list[tuple[tuple[type, ...], int, int]] = [((AdamPhase,), 0, 3)] * START_KILLS
    plan += [((AdamPhase,), draw.randint(4, 6), 3) for _ in range(ADAM_KILLS)]
    plan += [((PolishPhase,), 0, 1)] * POLISH_KILLS
    resumed_at = []
    for number, (phases, at, leash) in enumerate(plan):
        resumed_at.append(_rows(folder / "killed"))
        child, reader = _start(folder / "killed", phases, at, leash)
        if number >= START_KILLS:
            os.read(reader, 1)
        time.sleep(draw.uniform(0.0, 0.02) * duration)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            raise SystemExit(f"a training process ended by itself, with status {status}")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
    _wait(*_start(folder / "killed"))
    print(json.dumps({"kills": len(plan), "resumed_at": resumed_at}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
