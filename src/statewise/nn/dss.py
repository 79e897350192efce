"""DSS: diagonal state spaces with shared poles and one vector of output weights per channel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti.diagonal_form import DiagonalForm
from statewise.lti.functions import complex_exp, phi1
from statewise.lti.hippo import legs_normal
from statewise.nn.contract import valid_steps
from statewise.nn.poles import draw_log_steps
from statewise.nn.recurrence import Recurrence
from statewise.ops import diagonal_ssm, vandermonde_kernel
from statewise.ops.pairs import from_pairs

GUARD = 1e-7
"""Added to |z|² where 1/z is taken, as published: a pole near 2πik/(LΔ) keeps a finite weight."""


class DSS(Recurrence):
    """x' = λ x + u with a zero-order hold, y = Re(w x) + D u for each channel, λ shared by all.

    The kernel is K_l = Re Σ_n (w_n/λ_n) (e^{λ_n Δ} − 1) e^{λ_n Δ l} with ``norm="exp"``, where
    λ = −e^α + iβ. With ``norm="softmax"`` it is K_l = Re Σ_n (w_n/λ_n) e^{λ_n Δ l}/Σ_{r<L}
    e^{λ_n Δ r}, that is w divided by e^{λ_n Δ L} − 1, for a fixed L; λ is free there, and poles
    that training moves to Re λ > 0 give a kernel that grows up to and beyond step L.

    Source: Gupta et al., Diagonal state spaces are as effective as structured state spaces
    (2203.14343).

    Args:
        d_model: channels, inputs and outputs.
        d_state: complex states per channel.
        norm: "exp" or "softmax".
        length: L of the softmax, the length of the training sequences; not used with "exp".
        dt_min: smallest initial time step; one step per channel is trained.
        dt_max: largest initial time step.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, steps out of order, or an unknown norm.
    """

    timed: ClassVar[bool] = True
    roles: ClassVar[dict[str, str]] = {
        "log_decay": "A",
        "real": "A",
        "frequency": "A",
        "W": "C",
        "D": "D",
        "log_dt": "dt",
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        norm: str = "exp",
        length: int = 1024,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("d_state", d_state), ("length", length)):
            if size < 1:
                raise ValueError(f"DSS needs {name} of at least 1; given {size}")
        if norm not in ("exp", "softmax"):
            raise ValueError(f'the norm of DSS is "exp" or "softmax"; given {norm!r}')
        if not 0 < dt_min <= dt_max:
            raise ValueError(
                f"time steps need 0 < dt_min <= dt_max; given dt_min = {dt_min}, dt_max = {dt_max}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.d_state, self.norm, self.length = d_state, norm, length
        poles = legs_normal(2 * d_state)[0]
        if norm == "exp":
            self.log_decay = _parameter(np.log(-np.real(poles)))
        else:
            self.real = _parameter(np.real(poles))
        self.frequency = _parameter(np.imag(poles))
        self.W = _parameter(rng.standard_normal((d_model, d_state, 2)))
        self.D = _parameter(rng.standard_normal(d_model))
        self.log_dt = _parameter(draw_log_steps(dt_min, dt_max, d_model, rng))

    @property
    def poles(self) -> Tensor:
        """λ, complex, shape (d_state,), per unit of the layer's own time."""
        dtype = self.state_dtype
        real = -torch.exp(self.log_decay.to(dtype)) if self.norm == "exp" else self.real.to(dtype)
        return torch.complex(real, self.frequency.to(dtype))

    def init_state(self, batch: int) -> Tensor:
        """The state of rest: zeros (batch, d_model, d_state, 2)."""
        return self.rest(batch, self.d_input, self.d_state, 2)

    def _sequence(
        self,
        u: Tensor,
        state: Tensor,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if lengths is not None and dt is None:
            # A step of length 0 leaves the state as it is.
            dt = valid_steps(lengths, u.shape[1]).to(state.dtype)
        return self._run(u, state, dt, reset)

    def _sample(self, u: Tensor, state: Tensor, dt: Tensor | None) -> tuple[Tensor, Tensor]:
        steps = None if dt is None else dt.unsqueeze(1)
        y, state = self._run(u.unsqueeze(1), state, steps, None)
        return y[:, 0], state

    def kernel(self, length: int) -> Tensor:
        """The impulse response without D, shape (d_model, length).

        Args:
            length: number of taps, at least 1.
        """
        poles, step, weights = self._system()
        z = poles * step.unsqueeze(-1)
        held = weights * phi1(z) * step.unsqueeze(-1)
        return vandermonde_kernel(z, held, length, log=True)

    def modes(self) -> DiagonalForm:
        """The channels as modes of the textbook form at the nominal step, (d_model, d_state).

        In the type of the states.
        """
        poles, step, weights = self._system()
        z = poles * step.unsqueeze(-1)
        a, push = complex_exp(z), phi1(z) * step.unsqueeze(-1)
        direct = (weights * push).real.sum(-1) + self.D.to(step.dtype)
        later, read = (a * push).unsqueeze(-1), weights.unsqueeze(-2)
        return DiagonalForm(a, later, read, direct[:, None, None], dt=1.0, half=True)

    def _run(
        self, u: Tensor, state: Tensor, dt: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        poles, step, weights = self._system()
        pairs = torch.view_as_real(poles)
        one = torch.zeros_like(pairs, dtype=state.dtype)
        one[..., 0] = 1
        if dt is not None:
            step = step * dt.to(step.dtype).unsqueeze(-1)
        return diagonal_ssm(
            u.to(state.dtype),
            pairs,
            one,
            torch.view_as_real(weights),
            self.D,
            state,
            dt=step,
            rule="zoh",
            reset=reset,
        )

    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """λ (H, N), Δ (H,) and the output weights (H, N) of states with a zero-order hold."""
        step = torch.exp(self.log_dt.to(self.state_dtype))
        poles = self.poles.expand(self.d_input, -1)
        weights = from_pairs(self.W.to(self.state_dtype))
        if self.norm == "softmax":
            weights = weights * _reciprocal_expm1(poles * (self.length * step).unsqueeze(-1))
        return poles, step, weights


def _parameter(start: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))


def _reciprocal_expm1(z: Tensor) -> Tensor:
    """1/(e^z − 1) for complex z, also where e^z overflows, guarded where it is infinite."""
    grows = z.real > 0
    inner = torch.where(grows, -z, z)
    q = inner * phi1(inner)
    inverse = q.conj() / (q.real**2 + q.imag**2 + GUARD)
    return torch.where(grows, -complex_exp(inner) * inverse, inverse)
