"""A linear layer whose ℓ2 gain is bounded for every value of its parameters."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti.diagonal_form import DiagonalForm
from statewise.lti.functions import complex_exp, phi1
from statewise.nn.contract import State, at_last
from statewise.nn.initialisers import Ring
from statewise.nn.recurrence import Recurrence
from statewise.ops import linear_scan_pairs
from statewise.ops.pairs import from_pairs

RIDGE = 1e-8
"""Part of the storage function that is the plain sum of squares: it bounds the condition of P."""


class _Matrices(NamedTuple):
    """x_{k+1} = λ ⊙ x_k + B u_k, y_k = Re(C x_k) + D u_k; complex parts as complex numbers."""

    poles: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


class L2Bounded(Recurrence):
    """x_{k+1} = λ ⊙ x_k + B u_k,  y_k = Re(C x_k) + D u_k  with  Σ‖y‖² ≤ γ² Σ‖u‖²  from rest.

    The bound holds for all parameters, which are free: poles λ = ρ exp(−e^ν + iθ), output vectors
    h_i of d_input + d_output numbers, and a matrix Z with orthonormal columns. The storage function
    x* P x comes from the Stein equation P − Λ* P Λ = H* H, in closed form
    P_ij = h_i* h_j / (1 − λ̄_i λ_j) over the states and their conjugates, and

        G(z) Z = (I − (z − 1) H (zI − Λ)⁻¹ P⁻¹ (I − Λ*)⁻¹ H*) Z

    keeps energy: its first d_output outputs, times γ, are the layer. So every diagonalisable system
    of gain γ or less is the layer for some parameters (but for a ridge of 1e-8 in P), and the
    recurrence stays diagonal. A sequence costs, beside its scan, one Cholesky factor of 2·d_state
    rows, in double precision.

    Differences of two outputs from one initial state obey the same bound, and those of two states
    under one input shrink at least by ρ each step (contraction).

    Source: Massai, Zakwan and Ferrari-Trecate, L2RU: a structured state space model with prescribed
    L2-bound (2503.23818). Theirs are two families of matrices, one complete for as many outputs as
    inputs, one cautious for any number; here the storage function follows from the poles, which
    keeps Λ diagonal and is complete for any number of inputs and outputs.

    Args:
        d_input: input channels.
        d_output: output channels; None for as many as inputs.
        d_state: complex states.
        gain: γ, positive.
        trainable_gain: train γ from there, through its logarithm.
        rate: ρ in (0, 1], the largest size of a pole.
        r_min: inner radius of the initial ring of poles, before ``rate``.
        r_max: outer radius of it.
        phase_max: largest initial phase, radians per sample.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, or a gain or rate out of range.
    """

    roles: ClassVar[dict[str, str]] = {
        "nu": "A",
        "theta": "A",
        "H": "C",
        "Z": "D",
        "log_gain": "scale",
    }

    def __init__(
        self,
        d_input: int,
        d_output: int | None = None,
        d_state: int = 16,
        *,
        gain: float = 1.0,
        trainable_gain: bool = False,
        rate: float = 1.0,
        r_min: float = 0.4,
        r_max: float = 0.99,
        phase_max: float = math.pi,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        d_output = d_input if d_output is None else d_output
        for name, size in (("d_input", d_input), ("d_output", d_output), ("d_state", d_state)):
            if size < 1:
                raise ValueError(f"L2Bounded needs {name} of at least 1; given {size}")
        if not (math.isfinite(gain) and gain > 0):
            raise ValueError(f"the gain of L2Bounded is a positive number; given {gain}")
        if not 0 < rate <= 1:
            raise ValueError(f"the rate of L2Bounded is in (0, 1]; given {rate}")
        rng = np.random.default_rng(seed)
        self.d_input, self.d_output, self.d_state, self.rate = d_input, d_output, d_state, rate
        poles = Ring(r_min, r_max, phase_max).sample(d_state, rng)
        rows, dtype = d_input + d_output, torch.get_default_dtype()
        self.nu = nn.Parameter(torch.tensor(np.log(-np.log(np.abs(poles))), dtype=dtype))
        self.theta = nn.Parameter(torch.tensor(np.angle(poles), dtype=dtype))
        self.H = nn.Parameter(torch.tensor(rng.standard_normal((rows, d_state, 2)), dtype=dtype))
        self.Z = nn.Parameter(torch.tensor(rng.standard_normal((rows, d_input)), dtype=dtype))
        log_gain = torch.tensor(math.log(gain), dtype=dtype)
        self.fixed_gain = None if trainable_gain else float(gain)
        self.log_gain = nn.Parameter(log_gain) if trainable_gain else None

    @property
    def gain(self) -> Tensor:
        """γ, a number, in double precision, with its gradient."""
        if self.log_gain is None:
            assert self.fixed_gain is not None
            return torch.full((), self.fixed_gain, dtype=torch.float64, device=self.nu.device)
        return torch.exp(self.log_gain.double())

    def gain_bound(self) -> float:
        """γ: ‖y − y'‖₂ ≤ γ ‖u − u'‖₂ for any two inputs from one initial state."""
        return float(self.gain.detach())

    def contraction_rate(self) -> float:
        """The largest pole size: distances of two states under one input shrink by it each step."""
        return float(self.eigenvalues().detach().abs().max())

    def eigenvalues(self) -> Tensor:
        """The poles λ, one of each conjugate pair, complex128, shape (d_state,)."""
        return complex_exp(self._log_poles())

    def _log_poles(self) -> Tensor:
        decay = torch.exp(self.nu.double()) - math.log(self.rate)
        return torch.complex(-decay, self.theta.double())

    def modes(self) -> DiagonalForm:
        """The layer as modes of the textbook form, in double precision and differentiable."""
        poles, B, C, D = self._matrices()
        return DiagonalForm(poles, B, C, D, dt=1.0, half=True)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, d_state, 2)."""
        return self.rest(batch, self.d_state, 2)

    def _matrices(self) -> _Matrices:
        logs = self._log_poles()
        poles = complex_exp(logs)
        V = from_pairs(self.H.double())
        # Columns of this norm put ones on the diagonal of P.
        spare = -torch.expm1(2 * logs.real)
        H = V * (spare / (V.abs().square().sum(0) + 1e-30)).sqrt()
        Z = _orthonormal(self.Z.double())
        adjoint = H.mH.to(poles.dtype)
        direct = (adjoint @ H) / _one_minus_exp(logs.conj()[:, None] + logs)
        crossed = (adjoint @ H.conj()) / _one_minus_exp(logs.conj()[:, None] + logs.conj())
        right = (adjoint @ Z.to(poles.dtype)) / _one_minus_exp(logs.conj())[:, None]
        M = _solve(direct, crossed, right)
        read, gain = H[: self.d_output], self.gain
        D = Z[: self.d_output] - 2 * (read @ M).real
        return _Matrices(poles, gain * _one_minus_exp(logs)[:, None] * M, 2 * read, gain * D)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        poles, B, C, D = self._matrices()
        kind = self.state_dtype
        v = (u @ _columns(B).to(u.dtype)).unflatten(-1, (self.d_state, 2)).to(kind)
        x, last = linear_scan_pairs(torch.view_as_real(poles).to(kind), v, state, reset=reset)
        before = torch.cat([state.unsqueeze(1), x[:, :-1]], 1)
        if reset is not None:
            before = torch.where(reset[..., None, None], torch.zeros_like(before), before)
        if lengths is not None:
            last = at_last(x, state, lengths)
        return _read(C, before).to(u.dtype) + u @ D.to(u.dtype).mT, last

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        poles, B, C, D = self._matrices()
        v = (u @ _columns(B).to(u.dtype)).unflatten(-1, (self.d_state, 2)).to(state.dtype)
        real, imag = poles.real.to(state.dtype), poles.imag.to(state.dtype)
        turned = (
            real * state[..., 0] - imag * state[..., 1],
            real * state[..., 1] + imag * state[..., 0],
        )
        y = _read(C, state).to(u.dtype) + u @ D.to(u.dtype).mT
        return y, torch.stack(turned, -1) + v


def _one_minus_exp(z: Tensor) -> Tensor:
    """1 − e^z with all digits where z is small."""
    return -z * phi1(z)


def _orthonormal(Z: Tensor) -> Tensor:
    """Orthonormal columns that span those of Z."""
    return torch.linalg.qr(Z)[0]


def _solve(direct: Tensor, crossed: Tensor, right: Tensor) -> Tensor:
    """M of P [M; M̄] = [R; R̄] with P = [[direct, crossed], [conjugates]] + RIDGE · I."""
    n = len(direct)
    real = torch.cat(
        (
            torch.cat((direct.real + crossed.real, crossed.imag - direct.imag), -1),
            torch.cat((direct.imag + crossed.imag, direct.real - crossed.real), -1),
        ),
        -2,
    )
    real = real + RIDGE * torch.eye(2 * n, dtype=real.dtype, device=real.device)
    factor = torch.linalg.cholesky(real)
    found = torch.cholesky_solve(torch.cat((right.real, right.imag), -2), factor)
    return torch.complex(found[:n], found[n:])


def _columns(B: Tensor) -> Tensor:
    """Complex (S, m) as real columns (m, 2 S)."""
    return torch.view_as_real(B).permute(1, 0, 2).reshape(B.shape[1], -1)


def _read(C: Tensor, x: Tensor) -> Tensor:
    """Re(C x) for states as real pairs."""
    weight = torch.stack((C.real, -C.imag), -1).flatten(-2)
    return x.flatten(-2) @ weight.to(x.dtype).mT
