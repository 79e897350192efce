"""Any layer as x⁺ = f(x, u), y = g(x, u) on flat real states, with its derivatives."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.nn.contract import Layer, State, map_state, state_tensors

ENTRIES = 2**21
"""Numbers in one batch of replicated states and inputs: bounds the memory of Jacobians."""
MOST_STATES = 3000
"""States above which no dense Jacobian is made."""


class Jacobians(NamedTuple):
    """Derivatives of one step at T points.

    Attributes:
        A: ∂x⁺/∂x, (T, n, n).
        B: ∂x⁺/∂u, (T, n, m).
        C: ∂y/∂x, (T, p, n).
        D: ∂y/∂u, (T, p, m).
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


class Flow:
    """A float64 copy of a layer in evaluation mode; states are vectors of n real numbers.

    Complex states are stored as pairs in the layers, so each counts twice.

    Args:
        model: a layer or model in the layer contract; it is not changed.
        state: a state that gives the shapes; None for the state of rest.

    Raises:
        TypeError: no layer, or a state that holds no real numbers.
    """

    def __init__(self, model: Layer, state: State = None) -> None:
        if not isinstance(model, Layer):
            raise TypeError(
                f"analysis asks models in the layer contract (statewise.nn.Layer); given "
                f"{type(model).__name__}"
            )
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self.template = self.model.init_state(1) if state is None else state
        parts = state_tensors(self.template)
        if any(not part.is_floating_point() for part in parts):
            kinds = sorted({str(part.dtype) for part in parts})
            raise TypeError(
                f"{type(model).__name__} has a state of {', '.join(kinds)}; derivatives need real "
                f"numbers"
            )
        if any(part.ndim < 1 or part.shape[0] != 1 for part in parts):
            shapes = [tuple(part.shape) for part in parts]
            raise ValueError(f"a state of one sequence, batch 1, is needed; given {shapes}")
        self.shapes = [tuple(part.shape[1:]) for part in parts]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.n, self.m, self.p = sum(self.sizes), model.d_input, model.d_output
        parameter = next(self.model.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device

    def flatten(self, state: Any) -> Tensor:
        """A state of the layer, or a vector (n,), as vectors (B, n)."""
        if isinstance(state, (list, tuple)) and all(isinstance(v, (int, float)) for v in state):
            state = np.array(state, np.float64) if state else state
        if isinstance(state, (np.ndarray, Tensor)) and state.ndim == 1 and self.shapes != [()]:
            flat = torch.as_tensor(state, dtype=torch.float64, device=self.device)
            if flat.shape[0] != self.n:
                raise ValueError(f"a flat state has {self.n} numbers here; given {flat.shape[0]}")
            return flat[None]
        parts = state_tensors(state)
        given = [tuple(part.shape[1:]) for part in parts]
        if given != self.shapes:
            raise ValueError(
                f"the state has parts of shape {given} behind the batch axis; expected "
                f"{self.shapes}"
            )
        if not parts:
            return torch.zeros(1, 0, dtype=torch.float64, device=self.device)
        rows = [part.detach().reshape(len(part), -1) for part in parts]
        flat = [row.to(self.device, torch.float64) for row in rows]
        return torch.cat(flat, 1)

    def unflatten(self, x: Tensor) -> State:
        """Vectors (B, n) as a state of the layer."""
        pieces = [
            piece.reshape(len(x), *shape)
            for piece, shape in zip(x.split(self.sizes, 1), self.shapes, strict=True)
        ]
        remaining = iter(pieces)
        return map_state(lambda _: next(remaining), self.template)

    def rest(self) -> Tensor:
        """The state of rest, (1, n)."""
        return self.flatten(self.model.init_state(1))

    def step(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """x⁺ (B, n) and y (B, p) of states (B, n) and inputs (B, m)."""
        y, state = self.model.step(u, self.unflatten(x))
        parts = state_tensors(state)
        if [tuple(part.shape[1:]) for part in parts] != self.shapes:
            raise ValueError(
                f"the state of {type(self.model).__name__} changes its shape from sample to "
                f"sample, so that it has no fixed number of dimensions"
            )
        if not parts:
            return x, y
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1), y

    def jacobians(self, x: Tensor, u: Tensor) -> Jacobians:
        """Derivatives of one step at states (T, n) and inputs (T, m).

        Raises:
            ValueError: more states than a dense matrix is made for.
        """
        if self.n > MOST_STATES:
            raise ValueError(
                f"{type(self.model).__name__} has {self.n} states; matrices of derivatives are "
                f"made for {MOST_STATES} at most"
            )
        rows, width = self.n + self.p, 2 * self.n + self.m + self.p
        points = max(1, ENTRIES // max(1, rows * width))
        at_once = max(1, min(rows, ENTRIES // width))
        pieces = []
        for xs, us in zip(x.split(points), u.split(points), strict=True):
            found = [
                self._replicated(xs, us, range(first, min(first + at_once, rows)))
                for first in range(0, rows, at_once)
            ]
            pieces.append(torch.cat(found, 1))
        full = torch.cat(pieces)
        return Jacobians(
            full[:, : self.n, : self.n],
            full[:, : self.n, self.n :],
            full[:, self.n :, : self.n],
            full[:, self.n :, self.n :],
        )

    def _replicated(self, x: Tensor, u: Tensor, rows: range) -> Tensor:
        """Some rows of the Jacobians by one backward pass: a copy of each point for each row."""
        count = len(rows)
        with torch.enable_grad():
            xs = x.repeat_interleave(count, 0).requires_grad_()
            us = u.repeat_interleave(count, 0).requires_grad_()
            after, y = self.step(xs, us)
            values = torch.cat([after, y], 1)[:, rows.start : rows.stop]
            own = values.reshape(len(x), count, count).diagonal(dim1=1, dim2=2).sum()
            if not own.requires_grad:
                return x.new_zeros(len(x), count, self.n + self.m)
            by_x, by_u = torch.autograd.grad(own, [xs, us], materialize_grads=True)
        return torch.cat([by_x, by_u], 1).reshape(len(x), count, self.n + self.m)

    def trajectory(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """States before the first and behind every sample (L + 1, n), and outputs (L, p).

        Args:
            x: state before the first sample (1, n).
            u: inputs (L, m).
        """
        states, outputs = [x], []
        with torch.no_grad():
            for sample in u:
                x, y = self.step(x, sample[None])
                states.append(x)
                outputs.append(y)
        return torch.cat(states), torch.cat(outputs)

    def sample(self, u: Any) -> Tensor:
        """One input as (m,), from numbers."""
        value = self._numbers(u).reshape(-1)
        if value.shape[0] != self.m:
            raise ValueError(f"an input has {self.m} channels here; given {value.shape[0]}")
        return value

    def sequence(self, u: Any, *, least: int = 1) -> Tensor:
        """Inputs over time as (L, m); (L,) is taken for a model of one input."""
        value = self._numbers(u)
        if value.ndim == 1 and self.m == 1:
            value = value[:, None]
        if value.ndim != 2 or value.shape[1] != self.m:
            raise ValueError(
                f"inputs over time have shape (length, {self.m}) here; given {tuple(value.shape)}"
            )
        if len(value) < least:
            raise ValueError(f"at least {least} samples are needed; given {len(value)}")
        return value

    def _numbers(self, u: Any) -> Tensor:
        # A copy: arrays of a record are read-only, which PyTorch warns of.
        value = u.detach() if isinstance(u, Tensor) else torch.tensor(np.asarray(u))
        value = value.to(self.device, torch.float64)
        if not value.isfinite().all():
            raise ValueError("the inputs hold values that are not finite")
        return value
