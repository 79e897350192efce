"""Tasks of agents with memory, for training by example: streams of episodes, and a long wait."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from statewise.papers.harness.tasks import Batch, Seed, Task


@dataclasses.dataclass(frozen=True)
class RepeatFirst(Task):
    """Say at every sample the first symbol of the episode, in a stream of episodes.

    ``length`` is that of the stream. Episodes have random lengths; the first one starts with the
    stream. Tokens below ``symbols`` are what must be remembered, as many others distract.

    Attributes:
        symbols: symbols to remember, and distracting ones.
        shortest: samples of the shortest episode.
        longest: samples of the longest.
        resets: whether the model is told where episodes start.
        judged: judge only this many samples of each episode; None for all.
    """

    symbols: int = 8
    shortest: int = 5
    longest: int = 60
    resets: bool = True
    judged: int | None = None

    @property
    def n_inputs(self) -> int:
        """The symbols and the distractors."""
        return 2 * self.symbols

    @property
    def n_outputs(self) -> int:
        """The symbols."""
        return self.symbols

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        if length < 1:
            raise ValueError(f"{self} needs a length of at least 1; given {length}")
        rng = np.random.default_rng(seed)
        most = length // self.shortest + 1
        ends = np.cumsum(rng.integers(self.shortest, self.longest + 1, (batch, most)), axis=1)
        reset = np.zeros((batch, length + 1), bool)
        np.put_along_axis(reset, np.minimum(ends, length), True, axis=1)
        reset = reset[:, :-1]
        reset[:, 0] = True
        time = np.arange(length)
        start = np.maximum.accumulate(np.where(reset, time, 0), axis=1)
        inputs = rng.integers(self.symbols, self.n_inputs, (batch, length))
        inputs[reset] = rng.integers(0, self.symbols, int(reset.sum()))
        targets = np.take_along_axis(inputs, start, axis=1)
        judged = time - start < (length if self.judged is None else self.judged)
        parts = (torch.from_numpy(part) for part in (inputs, targets, judged, reset))
        inputs, targets, mask, reset = parts
        return Batch(inputs, targets, mask, reset if self.resets else None)


@dataclasses.dataclass(frozen=True)
class MemoryChain(Task):
    """Choose at the end of a wait by what was seen at its start: signals (context, time, query).

    ``length`` is that of the chain. The context, ±1, is shown at the first sample, the query at the
    last one, where the right action has the sign of the context; the second signal is the share of
    the wait that is over. Actions are learnt from those of an agent that acts rightly.

    Source: Osband et al., Behaviour suite for reinforcement learning (1908.03568), memory length.
    """

    tokens = False

    @property
    def n_inputs(self) -> int:
        """Context, time and query."""
        return 3

    @property
    def n_outputs(self) -> int:
        """The two actions."""
        return 2

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        if length < 2:
            raise ValueError(f"{self} needs a length of at least 2; given {length}")
        context = np.random.default_rng(seed).integers(0, 2, batch)
        inputs = np.zeros((batch, length, 3), np.float32)
        inputs[:, 0, 0] = 2 * context - 1
        inputs[:, :, 1] = np.linspace(0, 1, length)
        inputs[:, -1, 2] = 1
        mask = np.zeros((batch, length), bool)
        mask[:, -1] = True
        targets = np.where(mask, context[:, None], 0)
        return Batch(*(torch.from_numpy(part) for part in (inputs, targets, mask)))
