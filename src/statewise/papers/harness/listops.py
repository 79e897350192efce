"""Nested operations on digits, as a string to be evaluated."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch

from statewise.papers.harness.tasks import Batch, Seed, Task

OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "MIN": min,
    "MAX": max,
    "MED": lambda values: int(statistics.median(values)),
    "SM": lambda values: sum(values) % 10,
}
"""What an operation makes of its digits."""

WORDS = ("", *map(str, range(10)), *(f"[{name}" for name in OPERATIONS), "]")
"""What the tokens mean; token 0 pads."""


@dataclasses.dataclass(frozen=True)
class ListOps(Task):
    """Say the value of a nested expression such as [MAX 2 [MIN 4 7] 0], one class for a sequence.

    ``length`` is the largest number of tokens; shorter expressions end earlier and are padded.

    Source: Nangia and Bowman, ListOps: a diagnostic dataset for latent tree learning (1804.06028).

    Attributes:
        depth: largest depth of nesting.
        arguments: most arguments of an operation, of which it has at least 2.
    """

    depth: int = 2
    arguments: int = 4

    @property
    def n_inputs(self) -> int:
        """Digits, operations, the closing bracket and the padding."""
        return len(WORDS)

    @property
    def n_outputs(self) -> int:
        """The ten digits."""
        return 10

    def draw(self, batch: int, length: int, seed: Seed) -> Batch:
        """See :meth:`Task.draw`."""
        if length < 4:
            raise ValueError(f"{self} needs a length of at least 4; given {length}")
        rng = np.random.default_rng(seed)
        inputs, targets = torch.zeros(batch, length, dtype=torch.long), []
        lengths = torch.zeros(batch, dtype=torch.long)
        for row in range(batch):
            said, value = self._expression(rng, self.depth, length)
            inputs[row, : len(said)] = torch.tensor([WORDS.index(word) for word in said])
            lengths[row] = len(said)
            targets.append(value)
        return Batch(inputs, torch.tensor(targets), lengths=lengths)

    def _expression(self, rng: np.random.Generator, depth: int, room: int) -> tuple[list[str], int]:
        """The words of one expression that fits into ``room``, and its value."""
        name = str(rng.choice(list(OPERATIONS)))
        words, values = [f"[{name}"], []
        count = int(rng.integers(2, self.arguments + 1))
        for done in range(min(count, room - 2)):
            # What follows needs a word for each argument, and the bracket.
            left = room - len(words) - (min(count, room - 2) - done - 1) - 1
            if depth > 1 and left >= 4 and rng.random() < 0.5:
                inner, value = self._expression(rng, depth - 1, left)
            else:
                value = int(rng.integers(10))
                inner = [str(value)]
            words += inner
            values.append(value)
        return [*words, "]"], OPERATIONS[name](values)
