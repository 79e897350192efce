"""CPU back end of particle filters: one compiled call a step, series shared among threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.blocks import cut
from statewise.ops.library import refuse_tangents
from statewise.ops.particle_step import _kernels
from statewise.ops.particle_step.reference import SCHEMES, ParticleSteps

_EMPTY, _EMPTY_ROWS = np.empty(0), np.empty((0, 0))
_NO_WORDS = np.empty(0, np.int64)
_PLAIN = (torch.float64, torch.float32)
_WORDS = {4: np.int32, 8: np.int64}


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("particle_step", device)


def _flat(x: Tensor) -> np.ndarray:
    refuse_tangents("particle_step on the cpu back end", (x,))
    # Most are as they have to be; the checks of as_array, and a conversion by torch, cost more.
    if x.dtype in _PLAIN and not x.requires_grad and x.is_contiguous():
        return x.numpy().reshape(-1).astype(np.float64, copy=False)
    return as_array(x, torch.float64).reshape(-1)


def _words(x: Tensor) -> np.ndarray:
    """The numbers of a contiguous tensor as so many whole numbers, to be moved about."""
    return x.numpy().reshape(-1).view(_WORDS[x.itemsize])


class Steps(ParticleSteps):
    """The compiled steps; methods are those of the reference."""

    def __init__(
        self,
        sizes: tuple[int, int, int],
        threshold: float,
        scheme: str | Callable[[Tensor], Tensor],
        history: bool,
        device: torch.device,
    ) -> None:
        super().__init__(sizes, threshold, scheme, history, device)
        self._compiled = isinstance(scheme, str)
        self._scheme = SCHEMES.index(scheme) if isinstance(scheme, str) else _kernels.NONE
        shape = (len(self.log_weights), -1)
        self._logs = self.log_weights.numpy().reshape(shape)
        self._rows = self.ancestors.numpy().reshape(shape)
        self._ll, self._ess = self.log_likelihoods.numpy(), self.ess.numpy()
        self._carried = self.carried.numpy().reshape(-1)
        self._spare: Tensor | None = None
        self._spare_words = _NO_WORDS
        self._unused = np.empty(self.batch * self.count, np.int64)
        blocks = cut(self.batch, 1, 4 * self.batch * self.count)
        self._blocks = [(i0, i1) for i0, i1, _, _ in blocks]
        # Kept from step to step: memory that is asked for anew costs more than the arithmetic.
        room = max(-(-self.count // _kernels.ROUND), 2) * _kernels.ROUND
        self._scratch = [np.empty((4, room)) for _ in blocks]
        self._marks = [np.empty(self.count + 1, np.int64) for _ in blocks]

    def average(self, t: int, x: Tensor, out: Tensor) -> None:
        """See the reference."""
        logs = self._logs[t if self.history else 0]
        given = (logs, _flat(x), out.numpy())
        sizes = (self.count, x.shape[-1])
        calls = [
            partial(_kernels.averages, *given, w[0], *sizes, *block)
            for w, block in zip(self._scratch, self._blocks, strict=True)
        ]
        pool.run(calls)

    def weigh(
        self, t: int, gain: Tensor, x: Tensor | None = None, u: Tensor | None = None
    ) -> Tensor | None:
        """See the reference."""
        given = (_kernels.GAIN, False, _flat(gain), _EMPTY_ROWS, _EMPTY, _EMPTY)
        return self._weighed(t, given, x, u)

    def weigh_normal(
        self,
        t: int,
        y: Tensor,
        loc: Tensor,
        scale: Tensor,
        whole: bool = False,
        x: Tensor | None = None,
        u: Tensor | None = None,
    ) -> Tensor | None:
        """See the reference."""
        first, second, _ = scale.stride()
        shared = (first == 0 or self.batch == 1) and (second == 0 or self.count == 1)
        refuse_tangents("particle_step on the cpu back end", (scale,))
        if shared:
            form = _kernels.SHARED
            spread = np.ascontiguousarray(scale.detach().numpy()[0, 0], np.float64)
        else:
            form, spread = _kernels.OWN, _flat(scale)
        given = (form, whole, _EMPTY, _flat(y).reshape(y.shape), _flat(loc), spread)
        return self._weighed(t, given, x, u)

    def choose(
        self, t: int, x: Tensor, u: Tensor | None = None, ahead: Tensor | None = None
    ) -> Tensor:
        """See the reference."""
        if not self._compiled or x.itemsize not in _WORDS:
            # The kernels write to the carried weights, which have to stay where they are.
            moved = super().choose(t, x, u, ahead)
            self.carried = self.carried.contiguous()
            self._carried = self.carried.numpy().reshape(-1)
            return moved
        given = (_kernels.GAIN, False, _EMPTY, _EMPTY_ROWS, _EMPTY, _EMPTY)
        none = (_EMPTY, _EMPTY, _EMPTY)
        return self._chosen(t, (*given, self._carried, *none), x, u, ahead)

    def _weighed(self, t: int, given: tuple, x: Tensor | None, u: Tensor | None) -> Tensor | None:
        out = (self._carried, self._logs[t if self.history else 0], self._ll[t], self._ess[t])
        if x is None or not self._compiled or x.itemsize not in _WORDS:
            rest = (_EMPTY, _EMPTY, _NO_WORDS, _NO_WORDS, _NO_WORDS)
            self._call((*given, *out, _kernels.NONE, 0.0, *rest))
            return None if x is None else self.choose(t + 1, x, u)
        return self._chosen(t + 1, (*given, *out), x, u, None)

    def _chosen(
        self, t: int, given: tuple, x: Tensor, u: Tensor | None, ahead: Tensor | None
    ) -> Tensor:
        if u is None:
            raise ValueError(f"particle_step: {self.scheme} ancestors need uniform numbers u")
        refuse_tangents("particle_step on the cpu back end", (x,))
        x = x.contiguous()
        words, spare = _words(x), self._spare
        if spare is None or spare.shape != x.shape or spare.dtype is not x.dtype:
            spare = self._spare = torch.empty_like(x)
            self._spare_words = _words(spare)
        rows = self._unused
        if t < self.steps:
            rows = self._rows[t if self.history else 0]
        eta = _EMPTY if ahead is None else _flat(ahead)
        chance = (self._scheme, self.threshold * self.count, _flat(u), eta)
        if not self._call((*given, *chance, words, self._spare_words, rows)):
            return x
        self._spare = None
        return spare

    def _call(self, given: tuple) -> int:
        """The kernel on all series; how many took ancestors."""
        N, B, blocks = self.count, self.batch, self._blocks
        if len(blocks) == 1:
            return _kernels.step(*given, self._scratch[0], self._marks[0], N, 0, B)
        moved = np.zeros(len(blocks), np.int64)
        x, taken, rows = given[-3:]
        # Particles of series in other blocks may move too: all wait before they are gathered.
        given = (*given[:-2], _NO_WORDS.astype(taken.dtype), rows)

        def weigh(k: int, i0: int, i1: int) -> None:
            moved[k] = _kernels.step(*given, self._scratch[k], self._marks[k], N, i0, i1)

        pool.run([partial(weigh, k, *block) for k, block in enumerate(blocks)])
        total = int(moved.sum())
        if total and len(taken):
            taking = (x, taken, rows, N, len(x) // (B * N))
            pool.run([partial(_kernels.gather, *taking, *block) for block in blocks])
        return total


def warm() -> None:
    """Compile the kernel for particles of both sizes."""
    y, u = torch.zeros(1, 1).double(), torch.zeros(1, 1).double()
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, 2, 1, dtype=dtype)
        steps = Steps((2, 1, 2), 2.0, "systematic", True, torch.device("cpu"))
        steps.weigh_normal(0, y, x, x + 1, False, x, u)
        steps.average(0, x, torch.empty(1, 1, dtype=torch.float64))
        words = _words(x)
        _kernels.gather(words, words.copy(), np.zeros(2, np.int64), 2, 1, 0, 1)
