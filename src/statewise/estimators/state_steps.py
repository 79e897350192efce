"""The state of a network as one vector, its steps, and their slopes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from statewise.estimators.signals import Signals
from statewise.inference.noisy_layer import _Flat
from statewise.models import DeepWiener
from statewise.nn.contract import Layer
from statewise.nn.lti import LTI
from statewise.nn.wiener import WienerBlock

Array = npt.NDArray[np.float64]


Expansion = tuple[Tensor, Tensor, Tensor, Tensor]


class StateSteps:
    """x' = f(x, u), z = g(x, u) of a network in float64, states as rows of real numbers.

    The linear systems of a deep Wiener model are read out as matrices once, so that a step is a
    few products.

    Args:
        model: the network, in the layer contract; it is copied.

    Attributes:
        n: number of real states.
        rest: the state of rest, (n,).

    Raises:
        ValueError: a network without a state of real or complex numbers.
    """

    def __init__(self, model: Layer) -> None:
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self._flat = _Flat(self.model, torch.float64)
        self.n = sum(self._flat.sizes)
        if not self.n:
            raise ValueError(f"{type(model).__name__} has no state to observe")
        self.rest = self._flat.rows(self._flat.rest, torch.float64)[0]
        self._blocks = _blocks(self.model)
        if self._blocks is not None:
            assert isinstance(self.model, DeepWiener)
            width, n_u = self.model.output_map.in_features, self.model.d_input
            rows, u = torch.eye(width).double(), torch.zeros(1, n_u).double()
            with torch.no_grad():
                rest = self.model._read_out(torch.zeros_like(rows[:1]), u)
                self._out = (self.model._read_out(rows, u) - rest).mT

    def step(self, x: Tensor, u: Tensor, dt: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States (N, n) after inputs (N, n_u) and steps (N,), and outputs (N, n_y)."""
        if dt is not None or self._blocks is None:
            more = {} if dt is None else {"dt": dt}
            y, after = self.model.step(u, self._flat.state(x), **more)
            return self._flat.rows(after, torch.float64), y.double()
        model = self.model
        assert isinstance(model, DeepWiener)
        signal = u if model.input_map is None else model.input_map(u)
        states = []
        for part, before in zip(self._blocks, x.split([b.n for b in self._blocks], 1), strict=True):
            block = part.block
            inside = block.norm(signal) if block.prenorm else signal
            both = torch.cat([before, inside], 1) @ part.matrix + part.offset
            states.append(both[:, : part.n])
            signal = block._finish(signal, both[:, part.n :])
        return torch.cat(states, 1), model._read_out(signal, u)

    def expand(self, x: Tensor, u: Array, dt: float | None) -> Expansion:
        """State after a sample (n,), output (n_y,), and their slopes (n, n) and (n_y, n) at x."""
        sample = torch.from_numpy(np.nan_to_num(u))
        if dt is None and self._blocks is not None:
            return self._expand_blocks(x, sample)

        def both(rows: Tensor) -> Tensor:
            width = None if dt is None else torch.full((len(rows),), dt, dtype=torch.float64)
            return torch.cat(self.step(rows, sample.expand(len(rows), -1), width), 1)

        value, (slope,) = _value_and_slopes(both, self.n + self.model.d_output, x)
        return value[: self.n], value[self.n :], slope[: self.n], slope[self.n :]

    def _expand_blocks(self, x: Tensor, u: Tensor) -> Expansion:
        """The chain rule through the blocks: only their static parts need automatic slopes."""
        model, blocks = self.model, self._blocks
        assert isinstance(model, DeepWiener)
        assert blocks is not None
        signal = u if model.input_map is None else model.input_map(u)
        slope = x.new_zeros(len(signal), self.n)
        states, slopes, first = [], [], 0
        for part in blocks:
            block, n = part.block, part.n
            inside, moved = signal, slope
            if block.prenorm and not isinstance(block.norm, nn.Identity):
                inside, (into,) = _value_and_slopes(block.norm, len(signal), signal)
                moved = into @ slope
            both = torch.cat([x[first : first + n], inside]) @ part.matrix + part.offset
            rows = part.matrix[n:].mT @ moved
            rows[:, first : first + n] += part.matrix[:n].mT
            states.append(both[:n])
            slopes.append(rows[:n])
            signal, (of_input, of_eta) = _value_and_slopes(
                block._finish, block.d_output, signal, both[n:]
            )
            slope = of_input @ slope + of_eta @ rows[n:]
            first += n
        return (
            torch.cat(states),
            model._read_out(signal[None], u[None])[0],
            torch.cat(slopes),
            self._out @ slope,
        )

    def run(self, x: Tensor, signals: Signals, at: npt.NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """One step of states (N, n), each at a sample of its own."""
        inputs = torch.from_numpy(np.nan_to_num(signals.u[at]))
        dt = None if signals.dt is None else torch.from_numpy(signals.dt[at].copy())
        return self.step(x, inputs, dt)

    def variances(self, inputs: Sequence[Array]) -> Array:
        """Variance of every state about its mean along inputs (L, n_u), from rest; never 0."""
        found = []
        with torch.no_grad():
            for u in inputs:
                x, rows = self.rest[None], torch.from_numpy(np.nan_to_num(u))
                for t in range(len(rows)):
                    x, _ = self.step(x, rows[t : t + 1])
                    found.append(x)
        variance = torch.cat(found).var(0, correction=0)
        # A state that never moves still gets noise; what it is worth, the data tell.
        return variance.clamp_min(1e-6 * float(variance.max().clamp_min(1e-12))).numpy()


class _Linear(NamedTuple):
    """A Wiener block whose linear system is [x', η] = [x, v] M + m.

    Attributes:
        block: the block.
        n: number of real states.
        matrix: M.
        offset: m.
    """

    block: WienerBlock
    n: int
    matrix: Tensor
    offset: Tensor


def _blocks(model: Layer) -> list[_Linear] | None:
    """The blocks of a deep Wiener model as matrices; None for other networks."""
    if not isinstance(model, DeepWiener):
        return None
    found = []
    with torch.no_grad():
        for block in model._chain:
            if not (isinstance(block, WienerBlock) and type(block.layer).step is LTI.step):
                return None
            layer = block.layer
            flat = _Flat(layer, torch.float64)
            n, m = sum(flat.sizes), layer.d_input

            def act(x: Tensor, v: Tensor, layer: LTI = layer, flat: _Flat = flat) -> Tensor:
                y, after = layer.step(v, flat.state(x))
                return torch.cat([flat.rows(after, torch.float64), y], 1)

            every = torch.eye(n + m, dtype=torch.float64)
            offset = act(torch.zeros_like(every[:1, :n]), torch.zeros_like(every[:1, :m]))
            found.append(_Linear(block, n, act(every[:, :n], every[:, n:]) - offset, offset[0]))
    return found


def _value_and_slopes(function: Any, size: int, *at: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A map of vectors that works on rows, and its slopes, by one backward pass over many rows."""
    with torch.enable_grad():
        rows = tuple(x.repeat(size, 1).requires_grad_() for x in at)
        out = function(*rows)
        every = torch.eye(size, dtype=out.dtype)
        slopes = torch.autograd.grad(out, rows, every, allow_unused=True, materialize_grads=True)
    return out[0].detach(), slopes
