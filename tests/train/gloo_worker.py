"""Train on two gloo processes and save what each of them got.

The processes are forked from here, where the kernels are compiled already.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from train_systems import curve, oscillator, quick, small_model

from statewise.data import Record
from statewise.train import (
    Carry,
    EncoderState,
    FitConfig,
    FitResult,
    LearnedState,
    fit,
)
from statewise.train.tracker import Tracker

WORLD = 2
CONFIGS = {
    "windows": quick(batch_size=5, polish_steps=10, average=0.9),
    "carry": quick(batch_size=5, window=32, method=Carry()),
    "learned": quick(batch_size=3, initial_state=LearnedState(), washout=5),
    "encoder": quick(batch_size=4, initial_state=EncoderState(8, 8), method=Carry()),
}


class CutOffError(Exception):
    """Stands for the power going out."""


def records() -> list[Record]:
    """Records of unequal length with missing outputs, so that ranks see unequal counts."""
    found = []
    for index, length in enumerate((300, 170, 50)):
        base = oscillator(length, index)
        y = np.array(base.y)
        y[: length // 3][np.random.default_rng(index).random((length // 3, 1)) < 0.5] = np.nan
        found.append(Record(y, base.u))
    return found


def train(config: FitConfig, folder: Path | None = None, resume: bool = False, seed: int = 0):
    """Train the model that all tests of this file train; ``seed`` is that of the model."""
    model = small_model(seed)
    result = fit(
        model, records(), [oscillator(100, 9)], config, seed=2, folder=folder, resume=resume
    )
    return model, result


def summary(model: torch.nn.Module, result: FitResult) -> dict:
    """What is compared."""
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return {
        "history": curve(result.history),
        "weights": weights.tolist(),
        "best_step": result.best_step,
        "reason": result.reason,
    }


def _rank(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "meeting"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    # Ranks start from different weights: those of the main rank must win.
    found = {name: summary(*train(config, seed=rank)) for name, config in CONFIGS.items()}
    shared = folder / "shared"
    append = Tracker.append_to_log
    rows = []

    def dying(self: Tracker) -> None:
        rows.append(0)
        if len(rows) == 2:
            raise CutOffError
        append(self)

    Tracker.append_to_log = dying  # type: ignore[method-assign]
    try:
        train(CONFIGS["carry"], shared)
    except CutOffError:
        Tracker.append_to_log = append  # type: ignore[method-assign]
    found["resumed"] = summary(*train(CONFIGS["carry"], shared, resume=True))
    try:
        train(quick(batch_size=1))
    except ValueError as error:
        found["refused"] = {"message": str(error)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path) -> None:
    """Fork the ranks and wait for them."""
    train(quick(steps=1, polish_steps=1))
    children = set()
    for rank in range(WORLD):
        child = os.fork()
        if not child:
            code = 1
            try:
                _rank(rank, folder)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.add(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:  # it would wait for the one that failed
                os.kill(other, signal.SIGKILL)
            raise SystemExit("a rank failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
