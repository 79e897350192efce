"""The classic recurrent networks with dense recurrent matrices: Elman, GRU, LSTM."""

from __future__ import annotations

import abc
import math
import warnings
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from statewise.nn.contract import State, at_last, mask_input
from statewise.nn.recurrence import Recurrence
from statewise.nn.solvers import NewtonSolver, SequentialSolver
from statewise.ops import Cell, Damped, Newton, QuasiNewton, newton_scan


class _DenseRecurrent(Recurrence):
    """h_t = f(h_{t−1}, W_ih u_t + b_ih; W_hh, b_hh), y_t = the first d_output entries of h_t.

    Weights have the shapes and the order of gates of ``torch.nn``, and its start, uniform in
    ±1/√d_output.
    """

    gates: ClassVar[int]
    parts: ClassVar[int] = 1
    roles: ClassVar[dict[str, str]] = {
        "weight_ih": "B",
        "weight_hh": "A",
        "bias_ih": "bias",
        "bias_hh": "bias",
    }

    def __init__(
        self,
        d_model: int,
        *,
        d_output: int | None = None,
        solver: SequentialSolver | NewtonSolver | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.d_input = d_model
        self.d_output = d_model if d_output is None else d_output
        for name, size in (("d_model", self.d_input), ("d_output", self.d_output)):
            if size < 1:
                raise ValueError(f"{type(self).__name__} needs {name} of at least 1; given {size}")
        self.solver = SequentialSolver() if solver is None else solver
        rows, bound = self.gates * self.d_output, 1 / math.sqrt(self.d_output)

        def draw(*shape: int) -> nn.Parameter:
            start = rng.uniform(-bound, bound, shape)
            return nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))

        self.weight_ih, self.weight_hh = draw(rows, self.d_input), draw(rows, self.d_output)
        self.bias_ih, self.bias_hh = draw(rows), draw(rows)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, d_output)."""
        return self.rest(batch, self.d_output)

    @staticmethod
    @abc.abstractmethod
    def _cell(h: Tensor, pre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The next states (..., n) from states, W_ih u + b_ih, W_hh and b_hh."""

    @staticmethod
    @abc.abstractmethod
    def _jacobian(h: Tensor, pre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """∂f/∂h, (..., n, n)."""

    def _flat(self, state: State) -> Tensor:
        return state

    def _parted(self, flat: Tensor) -> State:
        return flat

    def _weights(self) -> tuple[Tensor, Tensor]:
        return self.weight_hh.to(self.state_dtype), self.bias_hh.to(self.state_dtype)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        start = self._flat(state)
        pre = linear(u, self.weight_ih, self.bias_ih).to(start.dtype)
        with torch.autocast(u.device.type, enabled=False):
            if isinstance(self.solver, NewtonSolver):
                h = self._by_newton(pre, start, reset, self.solver)
            else:
                h = self._by_steps(pre, start, reset)
        last = h[:, -1] if lengths is None else at_last(h, start, lengths)
        return h[..., : self.d_output], self._parted(last)

    def _by_steps(self, pre: Tensor, h: Tensor, reset: Tensor | None) -> Tensor:
        weights, found = self._weights(), []
        for t, now in enumerate(pre.unbind(1)):
            if reset is not None:
                h = mask_input(h, ~reset[:, t])
            h = self._cell(h, now, *weights)
            found.append(h)
        return torch.stack(found, 1)

    def _by_newton(
        self, pre: Tensor, start: Tensor, reset: Tensor | None, solver: NewtonSolver
    ) -> Tensor:
        weights = self._weights()
        constant = [weight.detach() for weight in weights]
        cell = Cell(
            lambda h, x: self._cell(h, x, *weights),
            size=self.parts * self.d_output,
            jacobian=lambda h, x: self._jacobian(h, x, *constant).unsqueeze(-3),
        )
        method = QuasiNewton() if solver.diagonal else Newton()
        if solver.damping:
            method = Damped(solver.damping, solver.diagonal)
        found = newton_scan(
            cell,
            pre,
            start,
            method=method,
            iterations=solver.iterations,
            tolerance=solver.tolerance,
            reset=reset,
        )
        if not found.converged:
            warnings.warn(
                f"{type(self).__name__}: Newton's method has not converged after "
                f"{found.iterations} iterations (residual {found.residual:.3g}, next correction "
                f"{found.bound:.3g}); the output is not that of the recurrence, and its gradient "
                f"will be refused",
                RuntimeWarning,
                stacklevel=2,
            )
        return found.h

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        start = self._flat(state)
        pre = linear(u, self.weight_ih, self.bias_ih).to(start.dtype)
        with torch.autocast(u.device.type, enabled=False):
            h = self._cell(start, pre, *self._weights())
        return h[..., : self.d_output], self._parted(h)


class Elman(_DenseRecurrent):
    """h_t = tanh(W_ih u_t + b_ih + W_hh h_{t−1} + b_hh),  y_t = h_t: the simple network.

    The state is h, (B, d_output).

    Source: Elman, Finding structure in time (1990).

    Args:
        d_model: channels of the input.
        d_output: channels of the state and of the output; None for d_model.
        solver: ``SequentialSolver()``, one step after the other, or ``NewtonSolver()``, all steps
            at once; None for the first.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a width below 1.
    """

    gates = 1

    @staticmethod
    def _cell(h: Tensor, pre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.tanh(pre + linear(h, weight, bias))

    @staticmethod
    def _jacobian(h: Tensor, pre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        value = torch.tanh(pre + linear(h, weight, bias))
        return (1 - value * value).unsqueeze(-1) * weight


class GRU(_DenseRecurrent):
    """h_t = (1 − z) ⊙ n + z ⊙ h_{t−1},  y_t = h_t: the gated recurrent unit.

    With p = W_ih u_t + b_ih, s = W_hh h_{t−1} + b_hh in the order r, z, n: r = σ(p_r + s_r),
    z = σ(p_z + s_z), n = tanh(p_n + r ⊙ s_n). The state is h, (B, d_output).

    Source: Cho et al. (1406.1078), with the reset gate behind the recurrent matrix.

    Args:
        d_model: channels of the input.
        d_output: channels of the state and of the output; None for d_model.
        solver: ``SequentialSolver()``, one step after the other, or ``NewtonSolver()``, all steps
            at once; None for the first.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a width below 1.
    """

    gates = 3

    @staticmethod
    def _cell(h: Tensor, pre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        z, n = _gru_gates(pre, linear(h, weight, bias))[1:]
        return n + z * (h - n)

    @staticmethod
    def _jacobian(h: Tensor, pre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        s = linear(h, weight, bias)
        r, z, n = _gru_gates(pre, s)
        w_r, w_z, w_n = weight.chunk(3)
        slope = (1 - z) * (1 - n * n)
        return (
            torch.diag_embed(z)
            + ((h - n) * z * (1 - z)).unsqueeze(-1) * w_z
            + (slope * r).unsqueeze(-1) * w_n
            + (slope * s.chunk(3, -1)[2] * r * (1 - r)).unsqueeze(-1) * w_r
        )


def _gru_gates(pre: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (p_r, p_z, p_n), (s_r, s_z, s_n) = pre.chunk(3, -1), s.chunk(3, -1)
    r = torch.sigmoid(p_r + s_r)
    return r, torch.sigmoid(p_z + s_z), torch.tanh(p_n + r * s_n)


class LSTMState(NamedTuple):
    """State of an LSTM.

    Attributes:
        h: the output (B, d_output).
        c: the cell (B, d_output).
    """

    h: Tensor
    c: Tensor


class LSTM(_DenseRecurrent):
    """c_t = f ⊙ c_{t−1} + i ⊙ g,  y_t = h_t = o ⊙ tanh(c_t): long short-term memory.

    With p = W_ih u_t + b_ih + W_hh h_{t−1} + b_hh in the order i, f, g, o: i, f, o = σ(p) and
    g = tanh(p_g). The state is an :class:`LSTMState` of h and c, (B, d_output) each.

    Source: Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000).

    Args:
        d_model: channels of the input.
        d_output: channels of the state and of the output; None for d_model.
        solver: ``SequentialSolver()``, one step after the other, or ``NewtonSolver()``, all steps
            at once; None for the first.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a width below 1.
    """

    gates = 4
    parts = 2

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros."""
        return LSTMState(self.rest(batch, self.d_output), self.rest(batch, self.d_output))

    def _flat(self, state: State) -> Tensor:
        return torch.cat(list(state), -1)

    def _parted(self, flat: Tensor) -> State:
        return LSTMState(*flat.chunk(2, -1))

    @staticmethod
    def _cell(h: Tensor, pre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out, c = h.chunk(2, -1)
        i, f, g, o = _lstm_gates(pre + linear(out, weight, bias))
        c = f * c + i * g
        return torch.cat([o * torch.tanh(c), c], -1)

    @staticmethod
    def _jacobian(h: Tensor, pre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out, c = h.chunk(2, -1)
        i, f, g, o = _lstm_gates(pre + linear(out, weight, bias))
        w_i, w_f, w_g, w_o = weight.chunk(4)
        squashed = torch.tanh(f * c + i * g)
        through = (o * (1 - squashed * squashed)).unsqueeze(-1)
        ch = (
            (g * i * (1 - i)).unsqueeze(-1) * w_i
            + (c * f * (1 - f)).unsqueeze(-1) * w_f
            + (i * (1 - g * g)).unsqueeze(-1) * w_g
        )
        cc = torch.diag_embed(f)
        hh = through * ch + (squashed * o * (1 - o)).unsqueeze(-1) * w_o
        return torch.cat([torch.cat([hh, through * cc], -1), torch.cat([ch, cc], -1)], -2)


def _lstm_gates(p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p_i, p_f, p_g, p_o = p.chunk(4, -1)
    return torch.sigmoid(p_i), torch.sigmoid(p_f), torch.tanh(p_g), torch.sigmoid(p_o)
