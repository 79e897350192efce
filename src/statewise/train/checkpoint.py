"""The state of a run on disk: one safetensors file, replaced by a rename."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from statewise._config import to_dict
from statewise._errors import DataError
from statewise._files import atomic_write
from statewise.data.record import Record
from statewise.train.polish import PolishPhase
from statewise.train.problem import Problem

if TYPE_CHECKING:
    from statewise.train.loop import Run

FORMAT = 1
KEY = "statewise.train"
"""Name of the entry in the header of the file that holds everything but tensors."""


class Checkpoint:
    """Saves and loads a run.

    Weights, optimiser and bookkeeping are in one file, so a kill at any moment leaves the file of
    the evaluation before or the new one.

    Args:
        folder: folder of the run.
        problem: the problem, whose settings, seed, model and data a checkpoint belongs to.
        records: training records, and validation records or None.
    """

    def __init__(
        self, folder: Path, problem: Problem, records: tuple[list[Record], list[Record] | None]
    ) -> None:
        self.path = folder / "checkpoint" / "state.safetensors"
        self.fingerprint = _fingerprint(problem, *records)

    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return self.path.is_file()

    def clear(self) -> None:
        """Remove the checkpoint and what an interrupted write left."""
        if self.path.parent.is_dir():
            self.path.unlink(missing_ok=True)
            self.sweep()

    def sweep(self) -> None:
        """Remove what an interrupted write left."""
        for rest in self.path.parent.glob(f".{self.path.name}.*"):
            rest.unlink(missing_ok=True)

    def save(self, run: Run) -> None:
        """Write the state of a run; all ranks take part, the main one writes."""
        problem, adam = run.problem, run.adam
        tensors = _prefixed("weights", problem.modules.state_dict())
        tensors |= _prefixed("best", run.tracker.best)
        info: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "phase": run.phase,
            "reason": run.reason,
            "seconds": run.seconds,
            "tracker": run.tracker.info(),
            "adam": adam.info(),
        }
        if run.phase == "adam":
            tensors |= _prefixed("adam", adam.tensors())
        if run.polish is not None:
            info["polish"] = run.polish.info()
            tensors |= _prefixed("polish", run.polish.tensors())
        if not problem.ranks.is_main:
            return
        ready = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        with atomic_write(self.path) as temporary:
            save_file(ready, temporary, metadata={KEY: json.dumps(info, allow_nan=False)})

    def load(self, run: Run) -> None:
        """Put a run where the checkpoint left it.

        Raises:
            DataError: the file is damaged.
            ValueError: the checkpoint belongs to other settings, seed, model or data.
        """
        info, tensors = self._read()
        _compare(info["fingerprint"], self.fingerprint, self.path)
        problem = run.problem
        run.phase, run.reason = info["phase"], info["reason"]
        run.seconds_before = info["seconds"]
        device = problem.device
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        run.tracker.load(info["tracker"], _under("best", tensors))
        weights = _under("weights", tensors)
        run.adam.load(info["adam"], _under("adam", tensors))
        if "polish" in info:
            run.polish = PolishPhase(problem)
            run.polish.load(info["polish"], _under("polish", tensors), weights)
        problem.modules.load_state_dict(weights)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self.path, framework="pt") as stream:
                info = json.loads(stream.metadata()[KEY])
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.path}: no readable checkpoint of a training run: {error}"
            ) from error
        if info.get("format") != FORMAT:
            raise DataError(
                f"{self.path}: expected a checkpoint of format {FORMAT}, "
                f"found {info.get('format')!r}; was it written by another version?"
            )
        return info, tensors


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {n.removeprefix(start): tensor for n, tensor in tensors.items() if n.startswith(start)}


def _fingerprint(
    problem: Problem, train: list[Record], valid: list[Record] | None
) -> dict[str, Any]:
    """What must be equal for a checkpoint to go on, as flat JSON-able entries."""
    found: dict[str, Any] = {"seed": problem.seed}
    for name, value in to_dict(problem.config).items():
        if name != "kind":
            found[f"config.{name}"] = value
    found["model"] = _describe_model(problem.model)
    found["training data"] = _digest(train)
    found["validation data"] = None if valid is None else _digest(valid)
    return json.loads(json.dumps(found))


def _describe_model(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: f"{tuple(tensor.shape)} {tensor.dtype}" for name, tensor in model.state_dict().items()
    }
    config = getattr(model, "config", None)
    try:
        found["config"] = to_dict(config)
    except TypeError:
        found["config"] = repr(config)
    return found


def _digest(records: Iterable[Record]) -> str:
    """A hash of all that training sees of the records."""
    digest = hashlib.blake2b(digest_size=16)
    for record in records:
        digest.update(f"{record.y.shape} {record.n_u} {record.skip};".encode())
        for array in (record.y, record.u, record.steps()):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _compare(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    for name in sorted({*old, *new}):
        if old.get(name) == new.get(name):
            continue
        what = name.removeprefix("config.")
        if name in ("training data", "validation data", "model"):
            raise ValueError(f"cannot resume from {path}: it was made with other {what}")
        raise ValueError(
            f"cannot resume from {path}: it was made with {what} = {old.get(name)!r}; "
            f"given {new.get(name)!r}"
        )
