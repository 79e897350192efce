"""Small tasks that tell architectures apart, drawn from a seed.

Every task draws batches of any length from a seed, so that a network can be judged at lengths it
was not trained at. What ``length`` counts is said by each task. Token tasks are for models with
``Tokens()``, the others for models with ``Signals()``.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Seed = int | np.random.Generator
Whole = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences and what a model must say of them.

    Attributes:
        inputs: tokens (B, L) or signals (B, L, n_inputs) in float32.
        targets: classes (B, L), bits (B, L, n_outputs) or values (B, L, n_outputs) of every sample,
            or classes (B,) of whole sequences.
        mask: the samples that are judged, (B, L); None for all.
        reset: where a new episode starts, (B, L); None for one episode.
        lengths: valid samples of each sequence, (B,); None for all.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None = None
    reset: Tensor | None = None
    lengths: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The batch on a device."""
        extra = (self.mask, self.reset, self.lengths)
        moved = (None if part is None else part.to(device) for part in extra)
        return Batch(self.inputs.to(device), self.targets.to(device), *moved)


class Task(abc.ABC):
    """What a network is trained for.

    Attributes:
        loss: "classes" (logits of a class), "bits" (a logit for each output) or "squares".
        tokens: whether inputs are tokens rather than signals.
    """

    loss: ClassVar[Literal["classes", "bits", "squares"]] = "classes"
    tokens: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def n_inputs(self) -> int:
        """Size of the vocabulary, or number of input signals."""

    @property
    @abc.abstractmethod
    def n_outputs(self) -> int:
        """Number of classes or outputs."""

    @abc.abstractmethod
    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """Draw sequences to train on.

        Args:
            batch: number of sequences.
            length: size of each, in the sense of the task.
            seed: seed of the draw.

        Raises:
            ValueError: a length that cannot hold the task.
        """

    def held_out(self, batch: int, length: int, seed: Seed) -> Batch:
        """Draw sequences to be judged on; a task with its own test set gives that instead."""
        return self.draw(batch, length, seed)


def _needs(task: object, length: int, least: int) -> None:
    if length < least:
        raise ValueError(f"{task} needs a length of at least {least}; given {length}")


def _places(rng: np.random.Generator, batch: int, length: int, count: int) -> Whole:
    """``count`` different positions below ``length`` in ascending order, (batch, count)."""
    order = np.argsort(rng.random((batch, length)), axis=1)
    return np.sort(order[:, :count], axis=1)


def _batch(inputs: Whole, targets: Whole, mask: npt.NDArray[np.bool_]) -> Batch:
    return Batch(*(torch.from_numpy(part) for part in (inputs, targets, mask)))


@dataclasses.dataclass(frozen=True)
class Copying(Task):
    """Say a string again after a pause: s₁ … s_n, blanks, a marker for each symbol to be said.

    ``length`` is the number of blanks. Token 0 is the blank, 1 the marker.

    Source: Arjovsky et al., Unitary evolution recurrent neural networks (1511.06464).

    Attributes:
        symbols: number of different symbols.
        count: n, symbols in the string.
    """

    symbols: int = 8
    count: int = 10

    @property
    def n_inputs(self) -> int:
        """The symbols, the blank and the marker."""
        return self.symbols + 2

    @property
    def n_outputs(self) -> int:
        """As many as tokens."""
        return self.n_inputs

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        _needs(self, length, 0)
        rng = np.random.default_rng(seed)
        data = rng.integers(2, self.n_inputs, (batch, self.count))
        return _recall(data, np.zeros((batch, length), np.int64), data)


def _recall(front: Whole, pause: Whole, said: Whole) -> Batch:
    """The batch of front, pause and as many markers as symbols that must be said there."""
    inputs = np.concatenate([front, pause, np.ones_like(said)], axis=1)
    targets, mask = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
    targets[:, -said.shape[1] :], mask[:, -said.shape[1] :] = said, True
    return _batch(inputs, targets, mask)


@dataclasses.dataclass(frozen=True)
class SelectiveCopying(Task):
    """Say the symbols that were scattered among blanks, in their order, after the input.

    ``length`` is the number of positions among which they lie; markers, one for each, follow. Token
    0 is the blank, 1 the marker. A time-invariant system cannot know where the symbols are.

    Source: Gu and Dao, Mamba (2312.00752), section 4.1.1.

    Attributes:
        symbols: number of different symbols.
        count: symbols in a sequence.
    """

    symbols: int = 14
    count: int = 4

    @property
    def n_inputs(self) -> int:
        """The symbols, the blank and the marker."""
        return self.symbols + 2

    @property
    def n_outputs(self) -> int:
        """As many as tokens."""
        return self.n_inputs

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        _needs(self, length, self.count)
        rng = np.random.default_rng(seed)
        data = rng.integers(2, self.n_inputs, (batch, self.count))
        front = np.zeros((batch, length), np.int64)
        np.put_along_axis(front, _places(rng, batch, length, self.count), data, axis=1)
        return _recall(front, front[:, :0], data)


@dataclasses.dataclass(frozen=True)
class InductionHeads(Task):
    """Say what came behind the first marker when the marker comes again, at the end.

    ``length`` is that of the sequence: random symbols with the marker (token 0) at a random place
    and at the last one.

    Source: Olsson et al., In-context learning and induction heads (2209.11895); Gu and Dao, Mamba
    (2312.00752), section 4.1.2.

    Attributes:
        symbols: number of symbols besides the marker.
    """

    symbols: int = 15

    @property
    def n_inputs(self) -> int:
        """The symbols and the marker."""
        return self.symbols + 1

    @property
    def n_outputs(self) -> int:
        """As many as tokens."""
        return self.n_inputs

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        _needs(self, length, 3)
        rng = np.random.default_rng(seed)
        inputs = rng.integers(1, self.n_inputs, (batch, length))
        row, place = np.arange(batch), rng.integers(0, length - 2, batch)
        inputs[row, place], inputs[:, -1] = 0, 0
        targets, mask = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
        targets[:, -1], mask[:, -1] = inputs[row, place + 1], True
        return _batch(inputs, targets, mask)


@dataclasses.dataclass(frozen=True)
class AssociativeRecall(Task):
    """Multi-query associative recall: k₁ v₁ … k_n v_n, then every key once more: say its value.

    ``length`` is that of the sequence; the queries lie among blanks (token 0) behind the pairs.
    Keys are the lower half of the vocabulary, values the upper half.

    Source: Arora et al., Zoology: measuring and improving recall in efficient language models
    (2312.04927).

    Attributes:
        pairs: n.
        vocabulary: number of tokens.
    """

    pairs: int = 8
    vocabulary: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.pairs < self.vocabulary // 2:
            raise ValueError(
                f"{self.vocabulary} tokens give {self.vocabulary // 2 - 1} keys; asked for "
                f"{self.pairs} pairs"
            )

    @property
    def n_inputs(self) -> int:
        """The vocabulary."""
        return self.vocabulary

    @property
    def n_outputs(self) -> int:
        """The vocabulary."""
        return self.vocabulary

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        _needs(self, length, 3 * self.pairs)
        rng = np.random.default_rng(seed)
        half, front = self.vocabulary // 2, 2 * self.pairs
        keys = 1 + np.argsort(rng.random((batch, half - 1)), axis=1)[:, : self.pairs]
        values = rng.integers(half, self.vocabulary, keys.shape)
        inputs = np.zeros((batch, length), np.int64)
        inputs[:, 0:front:2], inputs[:, 1:front:2] = keys, values
        order = np.argsort(rng.random(keys.shape), axis=1)
        place = front + _places(rng, batch, length - front, self.pairs)
        targets, mask = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
        np.put_along_axis(inputs, place, np.take_along_axis(keys, order, 1), axis=1)
        np.put_along_axis(targets, place, np.take_along_axis(values, order, 1), axis=1)
        np.put_along_axis(mask, place, True, axis=1)
        return _batch(inputs, targets, mask)


@dataclasses.dataclass(frozen=True)
class Parity(Task):
    """Say after every bit whether the number of ones so far is odd; ``length`` counts bits."""

    @property
    def n_inputs(self) -> int:
        """The two bits."""
        return 2

    @property
    def n_outputs(self) -> int:
        """Even and odd."""
        return 2

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        _needs(self, length, 1)
        bits = np.random.default_rng(seed).integers(0, 2, (batch, length))
        return _batch(bits, np.cumsum(bits, axis=1) % 2, np.ones(bits.shape, bool))


@dataclasses.dataclass(frozen=True)
class Adding(Task):
    """Say the sum of the two marked values at the end: signals (value in [0, 1], mark).

    ``length`` is that of the sequence; one mark lies in each half. Saying 1 always has a mean
    square error of 1/6.

    Source: Hochreiter and Schmidhuber, Long short-term memory (1997), experiment 4.
    """

    loss = "squares"
    tokens = False

    @property
    def n_inputs(self) -> int:
        """Value and mark."""
        return 2

    @property
    def n_outputs(self) -> int:
        """The sum."""
        return 1

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        _needs(self, length, 2)
        rng = np.random.default_rng(seed)
        inputs = np.zeros((batch, length, 2), np.float32)
        inputs[..., 0] = rng.random((batch, length))
        row, half = np.arange(batch), length // 2
        for low, high in ((0, half), (half, length)):
            inputs[row, rng.integers(low, high, batch), 1] = 1
        targets = np.zeros((batch, length, 1), np.float32)
        targets[:, -1, 0] = np.prod(inputs, axis=-1).sum(-1)
        mask = np.zeros((batch, length), bool)
        mask[:, -1] = True
        return Batch(*(torch.from_numpy(part) for part in (inputs, targets, mask)))


@dataclasses.dataclass(frozen=True)
class CopyBits(Task):
    """Say a pattern of random bits again after a pause: signals (bits, mark), ±1 each.

    ``length`` is the pause in samples, the time between the last row of the pattern and the first
    mark; the mark is on while the pattern must be said.

    Attributes:
        bits: bits in a row.
        count: rows of the pattern.
    """

    loss = "bits"
    tokens = False

    bits: int = 7
    count: int = 20

    @property
    def n_inputs(self) -> int:
        """The bits and the mark."""
        return self.bits + 1

    @property
    def n_outputs(self) -> int:
        """The bits."""
        return self.bits

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        _needs(self, length, 0)
        count = self.count
        pattern = np.random.default_rng(seed).integers(0, 2, (batch, count, self.bits))
        inputs = np.zeros((batch, 2 * count + length, self.n_inputs), np.float32)
        inputs[:, :count, :-1] = 2 * pattern - 1
        inputs[:, -count:, -1] = 1
        targets = np.zeros((*inputs.shape[:2], self.bits), np.float32)
        targets[:, -count:] = pattern
        mask = np.zeros(inputs.shape[:2], bool)
        mask[:, -count:] = True
        return Batch(*(torch.from_numpy(part) for part in (inputs, targets, mask)))
