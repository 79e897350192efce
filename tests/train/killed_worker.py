"""Train once undisturbed, then once more with the training process killed twenty times.

Prints a JSON object: the kills, and the number of rows in the log at each start. Training processes
are forked from here, where the kernels are compiled already.
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

KILLS = 20
START_KILLS = 5
"""Kills that fall into the start of the process; the others fall into training."""


def _train(folder: Path) -> None:
    model = small_model(dropout=0.1)
    config = quick(steps=160, eval_every=4, polish_steps=30, average=0.9)
    train, valid = [oscillator(300, 1)], [oscillator(60, 2)]
    fit(model, train, valid, config, seed=1, folder=folder, resume=True)
    weights = [parameter.detach().flatten() for parameter in model.parameters()]
    (folder / "weights.bin").write_bytes(torch.cat(weights).numpy().tobytes())


def _report_first_step(pipe: int) -> None:
    """Let the first step of either phase write a byte to the pipe."""
    for phase in (AdamPhase, PolishPhase):

        def step(self, *, original=phase.step):
            if next(count) == 0:
                os.write(pipe, b".")
            return original(self)

        phase.step = step  # type: ignore[method-assign]
    count = itertools.count()


def _start(folder: Path) -> tuple[int, int]:
    """The training process, and a pipe that it writes to when it begins to train."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    code = 1
    try:
        _report_first_step(writer)
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
    kills, resumed_at = 0, []
    while kills < KILLS:
        resumed_at.append(_rows(folder / "killed"))
        child, reader = _start(folder / "killed")
        if kills >= START_KILLS:
            os.read(reader, 1)
        time.sleep(draw.uniform(0.0, 0.09) * duration)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            raise SystemExit(f"a training process ended by itself, with status {status}")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        kills += 1
    _wait(*_start(folder / "killed"))
    print(json.dumps({"kills": kills, "resumed_at": resumed_at}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
