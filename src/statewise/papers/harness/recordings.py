"""Real and published sets of digits as sequences to be classified."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise._errors import DataError, require
from statewise.papers.harness.tasks import Batch, Seed, Task


class Part(NamedTuple):
    """Sequences, their classes and their lengths.

    Attributes:
        inputs: (M, L, 1), float32, zeros behind the end.
        classes: (M,).
        lengths: (M,).
    """

    inputs: Tensor
    classes: Tensor
    lengths: Tensor


@dataclasses.dataclass(frozen=True)
class Recordings(Task):
    """Say the class of a recorded sequence; for models with a pooled head.

    ``length`` is the number of samples that are shown; longer recordings are cut. What is held out
    is the test part, its first ``batch`` sequences; nothing is drawn there.

    Attributes:
        train: the sequences to train on.
        test: those to be judged on.
        classes: number of classes.
    """

    train: Part
    test: Part
    classes: int = 10

    tokens = False

    @property
    def n_inputs(self) -> int:
        """Channels of the recording."""
        return self.train.inputs.shape[-1]

    @property
    def n_outputs(self) -> int:
        """The classes."""
        return self.classes

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`; with replacement from the training part."""
        size = len(self.train.classes)
        rows = torch.from_numpy(np.random.default_rng(seed).integers(0, size, batch))
        return self._take(self.train, rows, length)

    def held_out(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.held_out`."""
        return self._take(self.test, torch.arange(min(batch, len(self.test.classes))), length)

    @staticmethod
    def _take(part: Part, rows: Tensor, length: int) -> Batch:
        if length < 1:
            raise ValueError(f"recordings are shown from 1 sample on; given length = {length}")
        lengths = part.lengths[rows].clamp(max=length)
        return Batch(part.inputs[rows, :length], part.classes[rows], lengths=lengths)


def written_digits(seed: int = 0) -> Recordings:
    """The 8 x 8 digits of scikit-learn, row by row: 64 samples, 1347 to train on and 450 to test.

    Args:
        seed: seed of the split.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    x, y = require("sklearn.datasets", extra="sklearn").load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[:1347], order[1347:]
    values = (x.astype(np.float32) / 8) - 1
    return Recordings(_even(values[train], y[train]), _even(values[test], y[test]))


def mnist_1d(folder: Path) -> Recordings:
    """The frozen MNIST-1D set: 4000 + 1000 sequences of 40 samples.

    Args:
        folder: the data collection, with the folder "mnist1d".

    Raises:
        DataError: the file is not there.
    """
    held = _load(folder / "mnist1d" / "mnist1d.npz")
    return Recordings(
        _even(held["x_train"], held["y_train"]), _even(held["x_test"], held["y_test"])
    )


def spoken_digits(folder: Path, every: int = 1) -> Recordings:
    """The Free Spoken Digits: 2700 recordings to train on, 300 to test (takes 0 to 4), 8 kHz.

    Args:
        folder: the data collection, with the folder "fsdd".
        every: keep the mean of so many samples in a row.

    Raises:
        DataError: the file is not there.
    """
    held = _load(folder / "fsdd" / "fsdd_mulaw8.npz")
    q = held["mulaw"].astype(np.float32) / 127
    signal = np.sign(q) * (256 ** np.abs(q) - 1) / 255
    ends = np.cumsum(held["length"])
    lengths = held["length"] // every
    inputs = np.zeros((len(ends), int(lengths.max()), 1), np.float32)
    for row, (end, size, count) in enumerate(zip(ends, held["length"], lengths, strict=True)):
        piece = signal[end - size : end][: count * every]
        inputs[row, :count, 0] = piece.reshape(count, every).mean(1)
    parts = []
    for rows in (held["take"] >= 5, held["take"] < 5):
        classes = torch.from_numpy(held["digit"][rows].astype(np.int64))
        parts.append(
            Part(
                torch.from_numpy(inputs[rows]),
                classes,
                torch.from_numpy(lengths[rows].astype(np.int64)),
            )
        )
    return Recordings(*parts)


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def _even(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Part:
    inputs = torch.from_numpy(np.asarray(x, np.float32)).unsqueeze(-1)
    lengths = torch.full((len(inputs),), inputs.shape[1])
    return Part(inputs, torch.from_numpy(np.asarray(y, np.int64)), lengths)
