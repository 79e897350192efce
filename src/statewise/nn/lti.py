"""The linear time-invariant layer: one class for LRU, S4D, S5 and their relatives."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.bank import bank_convolution, bank_recurrence, convolution_pays
from statewise.nn.contract import (
    Layer,
    State,
    at_last,
    check_sample,
    check_sequence,
    mask_input,
    valid_steps,
)
from statewise.nn.coupling import BankCoupling, DenseCoupling
from statewise.nn.simulators import fft_simulate
from statewise.nn.specs import FFT, Auto, Bank, Dense, DiscreteDiagonal, PolesConfig, Scan
from statewise.ops import linear_scan, linear_scan_pairs


class LTIState(NamedTuple):
    """State of a layer whose rule uses two input samples.

    Attributes:
        x: states (B, S, 2), or (B, S) for real poles.
        u: the last input (B, d_input).
    """

    x: Tensor
    u: Tensor


class LTI(Layer):
    """x_k = a x_{k−1} + gain ⊙ (B u_k) [+ gain' ⊙ (B u_{k−1})],  y_k = s Re(C x_k) + D u_k + b.

    One class for the linear layers of the field: a parametrisation of the poles with its
    discretisation rule and initial law, a coupling, and a simulator. It is stable for every value
    of its parameters. The output uses the state updated with the present input.

    Args:
        d_input: input channels.
        d_output: output channels; None for as many as inputs.
        d_state: states; per channel for ``Bank``.
        poles: parametrisation of the poles.
        coupling: ``Dense()`` or ``Bank()``.
        simulator: ``Scan()``, ``FFT()`` or ``Auto()``.
        feedthrough: whether D is there: (d_output, d_input), or a diagonal (d_input,) for a bank
            and where "diagonal" is given.
        bias: whether b is there.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes that do not fit, such as a bank with d_input ≠ d_output.
    """

    roles: ClassVar[dict[str, str]] = {"D": "D", "bias": "bias"}

    def __init__(
        self,
        d_input: int,
        d_output: int | None = None,
        d_state: int = 64,
        *,
        poles: PolesConfig | None = None,
        coupling: Dense | Bank | None = None,
        simulator: Scan | FFT | Auto | None = None,
        feedthrough: bool | Literal["diagonal"] = True,
        bias: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        d_output = d_input if d_output is None else d_output
        for name, size in (("d_input", d_input), ("d_output", d_output), ("d_state", d_state)):
            if size < 1:
                raise ValueError(f"LTI needs {name} of at least 1; given {size}")
        rng = np.random.default_rng(seed)
        self.d_input, self.d_output, self.d_state = d_input, d_output, d_state
        self.simulator = Auto() if simulator is None else simulator
        config = DiscreteDiagonal() if poles is None else poles
        dtype = torch.get_default_dtype()
        if isinstance(coupling, Bank):
            if d_input != d_output:
                raise ValueError(
                    f"a bank has as many outputs as inputs; given d_input = {d_input}, "
                    f"d_output = {d_output}"
                )
            self.poles = config.build(d_state, d_input, rng)
            self.coupling = BankCoupling(d_input, d_state, self.poles.is_complex, rng)
            d = rng.standard_normal(d_input) if feedthrough else None
        else:
            self.poles = config.build(d_state, 1, rng)
            self.coupling = DenseCoupling(d_input, d_output, d_state, self.poles.is_complex, rng)
            d = None
            if feedthrough == "diagonal":
                if d_input != d_output:
                    raise ValueError(
                        f"a diagonal D needs as many outputs as inputs; given d_input = {d_input}, "
                        f"d_output = {d_output}"
                    )
                d = rng.standard_normal(d_input)
            elif feedthrough:
                d = d_input**-0.5 * rng.standard_normal((d_output, d_input))
        self.D = None if d is None else nn.Parameter(torch.tensor(d, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(d_output, dtype=dtype)) if bias else None

    @property
    def n_states(self) -> int:
        """Number of states, over all channels."""
        return self.poles.n

    @property
    def _state_dtype(self) -> torch.dtype:
        """States have the precision of the parameters, float32 at least, whatever the input is."""
        return torch.float64 if self.coupling.B.dtype == torch.float64 else torch.float32

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, S, 2), or (batch, S) for real poles."""
        pair = (2,) if self.poles.is_complex else ()
        device, dtype = self.coupling.B.device, self._state_dtype
        x = torch.zeros(batch, self.poles.n, *pair, dtype=dtype, device=device)
        if self.poles.points == 1:
            return x
        return LTIState(x, torch.zeros(batch, self.d_input, dtype=dtype, device=device))

    def forward(
        self,
        u: Tensor,
        state: State = None,
        *,
        dt: Tensor | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.forward`."""
        check_sequence(self, u, dt, mask, reset, lengths)
        u = mask_input(u, mask)
        if lengths is not None:
            valid = valid_steps(lengths, u.shape[1])
            u = mask_input(u, valid)
            dt = None if dt is None else torch.where(valid, dt, torch.ones_like(dt))
        if self._convolves(u, dt, reset, lengths):
            return self._by_convolution(u, state)
        state = self.init_state(u.shape[0]) if state is None else state
        return self._by_scan(u, state, dt, reset, lengths)

    def _convolves(
        self, u: Tensor, dt: Tensor | None, reset: Tensor | None, lengths: Tensor | None
    ) -> bool:
        obstacles = [
            f"{name} was given"
            for name, value in (("dt", dt), ("reset", reset), ("lengths", lengths))
            if value is not None
        ]
        if self.poles.points == 2:
            obstacles.append("its discretisation rule uses two input samples")
        if isinstance(self.simulator, FFT):
            if obstacles:
                raise ValueError(
                    f"LTI with simulator=FFT() cannot run here because {obstacles[0]}; "
                    f"use Scan() or Auto()"
                )
            return True
        if not isinstance(self.simulator, Auto) or obstacles:
            return False
        if u.is_cuda:
            return u.shape[1] >= self.simulator.crossover
        return isinstance(self.coupling, BankCoupling) and convolution_pays(u, self.d_state)

    def _by_convolution(self, u: Tensor, state: State) -> tuple[Tensor, Tensor]:
        if isinstance(self.coupling, BankCoupling) and not u.is_cuda:
            start = None if state is None else self._split_state(state, u.shape[0])[0]
            y, last = bank_convolution(self.poles, self.coupling, self.D, u, start)
            y = y if self.bias is None else y + self.bias.to(y.dtype)
            return y, last.to(self._state_dtype)
        state = self.init_state(u.shape[0]) if state is None else state
        start, _ = self._split_state(state, u.shape[0])
        a, gain, _ = self.poles.discretise()
        y, last = fft_simulate(self.coupling, a, gain, self.poles.output_scale, u, start)
        return self._add_direct(y, u), last

    def _by_scan(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        start, previous = self._split_state(state, u.shape[0])
        if isinstance(self.coupling, BankCoupling) and self.poles.points == 1:
            found = bank_recurrence(self.poles, self.coupling, self.D, u, start, dt, reset, lengths)
            if found is not None:
                y, last = found
                y = y if self.bias is None else y + self.bias.to(u.dtype)
                return mask_input(
                    y, None if lengths is None else valid_steps(lengths, u.shape[1])
                ), last
        step = None if dt is None else dt.reshape(-1, u.shape[1], 1)
        a, v = self._coefficients_and_drive(u, previous, step, reset)
        v = v.to(start.dtype)
        if self.poles.is_complex:
            x, last = linear_scan_pairs(torch.view_as_real(a), v, start, reset=reset)
        else:
            x, last = linear_scan(a, v, start, reset=reset)
        y = self._add_direct(self.coupling.read(x, self.poles.output_scale).to(u.dtype), u)
        if lengths is not None:
            y = mask_input(y, valid_steps(lengths, u.shape[1]))
            last = at_last(x, start, lengths)
        if previous is None:
            return y, last
        final = u[:, -1] if lengths is None else at_last(u, previous, lengths)
        return y, LTIState(last, final.to(previous.dtype))

    def _split_state(self, state: State, batch: int) -> tuple[Tensor, Tensor | None]:
        """States and previous input of a state, whose parts must fit the layer and the batch."""
        shape = (batch, self.poles.n, 2) if self.poles.is_complex else (batch, self.poles.n)
        shapes = [shape] if self.poles.points == 1 else [shape, (batch, self.d_input)]
        parts = list(state) if isinstance(state, tuple) else [state]
        given = [tuple(part.shape) for part in parts]
        if given != shapes:
            raise ValueError(
                f"{type(self).__name__} takes a state of shape {' and '.join(map(str, shapes))} "
                f"for this input; given {' and '.join(map(str, given))}"
            )
        x = parts[0].to(self._state_dtype)
        return x, None if self.poles.points == 1 else parts[1].to(self._state_dtype)

    def _coefficients_and_drive(
        self, u: Tensor, previous: Tensor | None, step: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        a, gain, gain_previous = self.poles.discretise(step)
        if step is None:
            v = self.coupling.drive(u, gain)
        else:
            v = _scale(gain, self.coupling.drive(u, self._unit_gain(gain)))
        if gain_previous is None or previous is None:
            return a, v
        shifted = torch.cat([previous.unsqueeze(1).to(u.dtype), u[:, :-1]], dim=1)
        if reset is not None:
            shifted = mask_input(shifted, ~reset)
        if step is None:
            return a, v + self.coupling.drive(shifted, gain_previous)
        unit = self.coupling.drive(shifted, self._unit_gain(gain))
        return a, v + _scale(gain_previous, unit)

    def _unit_gain(self, gain: Tensor) -> Tensor:
        return torch.ones(self.poles.n, dtype=gain.dtype, device=gain.device)

    def _add_direct(self, y: Tensor, u: Tensor) -> Tensor:
        if self.D is not None:
            d = self.D.to(u.dtype)
            y = y + (u * d if d.ndim == 1 else u @ d.mT)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See :meth:`Layer.step`."""
        check_sample(self, u, dt, mask)
        u = mask_input(u, mask)
        start, previous = self._split_state(state, u.shape[0])
        width = None if dt is None else dt.reshape(-1, 1, 1)
        sequence = u.unsqueeze(1)
        a, v = self._coefficients_and_drive(sequence, previous, width, None)
        x = _scale(a if dt is None else a[:, 0], start) + v[:, 0].to(start.dtype)
        y = self._add_direct(self.coupling.read(x, self.poles.output_scale).to(u.dtype), u)
        return y, x if previous is None else LTIState(x, u.to(previous.dtype))

    def eigenvalues(self) -> Tensor:
        """Discrete eigenvalues at the nominal step, complex, shape (S,)."""
        return self.poles.eigenvalues

    def frequency_response(self, omega: Tensor) -> Tensor:
        """H(e^{iω}) from u to y at the nominal step.

        Args:
            omega: angular frequency in radians per sample, shape (F,).

        Returns:
            Complex response (F, d_output, d_input).
        """
        a, gain, gain_previous = self.poles.discretise()
        b, c = self.coupling.matrices()
        a = a.to(b.dtype)
        z = torch.polar(torch.ones_like(omega), omega).to(b.dtype).unsqueeze(-1)

        def half(sign: int) -> Tensor:
            point = z if sign > 0 else z.conj()
            drive = gain if gain_previous is None else gain + gain_previous / point
            return torch.einsum("os,fs,si->foi", c, drive / (1 - a / point), b)

        response = 0.5 * self.poles.output_scale * (half(1) + half(-1).conj())
        if self.D is not None:
            response = response + (torch.diag(self.D) if self.D.ndim == 1 else self.D)
        return response


def _scale(factor: Tensor, x: Tensor) -> Tensor:
    """The product factor · x, with states as real pairs when the factor is complex."""
    if not factor.is_complex():
        return factor * x
    real, imag = factor.real, factor.imag
    return torch.stack(
        [real * x[..., 0] - imag * x[..., 1], real * x[..., 1] + imag * x[..., 0]], dim=-1
    )
