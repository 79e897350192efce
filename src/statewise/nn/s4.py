"""S4: a bank of systems that are diagonal plus low rank, run as a convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.lti.measures import HiPPO, LegS
from statewise.lti.nplr import dplr
from statewise.nn.dense_bank import CHUNK, krylov, repeated_squares, row_power, run_bank
from statewise.nn.poles import draw_log_steps
from statewise.nn.recurrence import Recurrence
from statewise.ops import cauchy_kernel

DECAY_MIN = 1e-4
"""Smallest initial decay of the normal part: it is 0 for LegT, LagT and FouT, and −e^α is not."""
SPAN = 64
"""Uneven steps whose coefficients are made at once."""


class S4(Recurrence):
    """x' = (Λ − P P*) x + B u, y = 2 Re(C x) + D u for each channel, by the bilinear rule.

    Ā = (I − ΔA/2)⁻¹ (I + ΔA/2), B̄ = (I − ΔA/2)⁻¹ Δ B. Of each conjugate pair one state is stored,
    Λ = −e^α + iβ, and P P* acts on the whole pairs, so that A + A* is negative definite and the
    system stable for every value of its parameters.

    Sequences are convolved: the kernel comes from Cauchy products with a Woodbury correction. The
    parameter is C; the truncation C (I − Ā^L) that the kernel needs is made anew for each length L,
    so that no length is stored and a sequence may be cut anywhere. With ``dt`` the
    recurrence runs sample by sample, in O(N) a step.

    Sources: Gu et al., Efficiently modeling long sequences with structured state spaces
    (2111.00396); P P* in place of P Q* after Goel et al. (2202.09729).

    Args:
        d_model: channels, inputs and outputs.
        d_state: complex states per channel (half the N of the paper).
        measure: where A and B start: ``LegS()``, ``LegT()``, ``LagT()`` or ``FouT()``.
        dt_min: smallest initial time step; one step per channel is trained.
        dt_max: largest initial time step.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, steps out of order, or a measure without this form.
    """

    timed: ClassVar[bool] = True
    roles: ClassVar[dict[str, str]] = {
        "log_decay": "A",
        "frequency": "A",
        "P": "A",
        "B": "B",
        "C": "C",
        "D": "D",
        "log_dt": "dt",
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 32,
        *,
        measure: HiPPO | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("d_state", d_state)):
            if size < 1:
                raise ValueError(f"S4 needs {name} of at least 1; given {size}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(
                f"time steps need 0 < dt_min <= dt_max; given dt_min = {dt_min}, dt_max = {dt_max}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.d_state = d_state
        self.chunk = CHUNK
        poles, p, b, _ = dplr(LegS() if measure is None else measure, 2 * d_state)
        decay = np.log(np.maximum(-np.real(poles), DECAY_MIN))
        self.log_decay = _tiled(decay, d_model)
        self.frequency = _tiled(np.imag(poles), d_model)
        self.P = _tiled(_pairs(p)[:, None], d_model, axis=1)
        self.B = _tiled(_pairs(b), d_model)
        self.C = _parameter(rng.standard_normal((d_model, d_state, 2)) / math.sqrt(2))
        self.D = _parameter(rng.standard_normal(d_model))
        self.log_dt = _parameter(draw_log_steps(dt_min, dt_max, d_model, rng))

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
        with torch.autocast(u.device.type, enabled=False):
            wide = u.to(state.dtype)
            if dt is None:
                y, last = self._convolve(wide, state, reset, lengths)
            else:
                y, last = self._recur(wide, state, dt, reset)
            return y + self.D.to(y.dtype) * wide, last

    def _sample(self, u: Tensor, state: Tensor, dt: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(u.device.type, enabled=False):
            wide = u.to(state.dtype)
            state = self._advance(state, wide, dt)
            return self._read(*state.unbind(-1)) + self.D.to(wide.dtype) * wide, state

    def kernel(self, length: int) -> Tensor:
        """The impulse response without D, K_l = 2 Re(C Ā^l B̄), in float64.

        Args:
            length: number of taps, at least 1.

        Returns:
            Shape (d_model, length).
        """
        if length < 1:
            raise ValueError(f"S4 makes a kernel of at least one tap; given length = {length}")
        a, b, c = self.discretise()
        squares = repeated_squares(a, length)
        make = self._taps(c, length)
        return (c @ krylov(squares, b, length) if make is None else make(squares))[:, 0]

    def eigenvalues(self) -> Tensor:
        """Discrete eigenvalues of Ā at the nominal step, complex128, (d_model, 2 d_state)."""
        return torch.linalg.eigvals(self.discretise()[0])

    def discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        """The dense recurrence x_k = Ā x_{k−1} + B̄ u_k, y_k = C x_k of each channel, in float64.

        Returns:
            Ā (H, n, n), B̄ (H, n) and C (H, 1, n) on the n = 2N real numbers of a state.
        """
        n = 2 * self.d_state
        c = self.C.double()
        zero = torch.zeros(1, self.d_input, self.d_state, 2, dtype=c.dtype, device=c.device)
        unit = torch.eye(n, dtype=c.dtype, device=c.device).view(n, 1, self.d_state, 2)
        unit = unit.expand(-1, self.d_input, -1, -1)
        a = self._advance(unit, zero[..., 0, 0], None).flatten(-2).permute(1, 2, 0)
        b = self._advance(zero, torch.ones_like(zero[..., 0, 0]), None)[0].flatten(-2)
        row = 2 * torch.stack([c[..., 0], -c[..., 1]], -1)
        return a, b, row.flatten(-2).unsqueeze(1)

    def _advance(self, x: Tensor, u: Tensor, dt: Tensor | None) -> Tensor:
        """Ā x + B̄ u for states (..., H, N, 2) and inputs (..., H), in the type of the states."""
        p, inverse, columns, weigh, push = self._resolvent(x.dtype, dt)
        side = _times(inverse, 2 * x + push * u[..., None, None])
        seen = _project(p, side).movedim(-2, -1).unsqueeze(-1)
        weights = (weigh @ seen).squeeze(-1).movedim(-1, -2)
        return side - _spread(columns, weights) - x

    def _resolvent(self, dtype: torch.dtype, dt: Tensor | None) -> tuple[Tensor, ...]:
        """What a step is made of: Ā x + B̄ u = R (2 x + Δ B u) − x, R = (I − hA)⁻¹, h = Δ/2.

        With E = 1/(1 − hΛ), R = E − E P (I + h P* E P)⁻¹ h P* E.

        Returns:
            P, E (..., H, N, 2), E P (..., R, H, N, 2), the matrices (I + h P* E P)⁻¹ h
            (..., H, R, R), and Δ B (..., H, N, 2).
        """
        step = torch.exp(self.log_dt.to(dtype))
        if dt is not None:
            step = step * dt.to(dtype).unsqueeze(-1)
        half = (step / 2)[..., None]
        real, imag = -torch.exp(self.log_decay.to(dtype)), self.frequency.to(dtype)
        p, b = self.P.to(dtype), self.B.to(dtype)
        size = (1 - half * real) ** 2 + (half * imag) ** 2
        inverse = torch.stack([(1 - half * real) / size, half * imag / size], -1)
        columns = _times(inverse.unsqueeze(-4), p)
        half = half.unsqueeze(-1)
        unit = torch.eye(p.shape[0], dtype=dtype, device=p.device)
        weigh = _solve(half * _gram(p, columns), half * unit)
        return p, inverse, columns, weigh, step[..., None, None] * b

    def _read(self, real: Tensor, imag: Tensor) -> Tensor:
        """2 Re(C x), (..., H)."""
        c = self.C.to(real.dtype)
        return 2 * (c[..., 0] * real - c[..., 1] * imag).sum(-1)

    def _taps(self, row: Tensor, length: int) -> Callable[[list[Tensor]], Tensor] | None:
        """How :func:`run_bank` gets its taps: by Cauchy products beyond a chunk."""
        if length <= self.chunk:
            return None

        def kernel(squares: list[Tensor]) -> Tensor:
            cut = (row - row_power(squares, row, length)).view(self.C.shape) / 2
            return cauchy_kernel(
                torch.stack([-torch.exp(self.log_decay.double()), self.frequency.double()], -1),
                self.P.double(),
                self.B.double(),
                torch.stack([cut[..., 0], -cut[..., 1]], -1),
                torch.exp(self.log_dt.double()),
                length,
            ).unsqueeze(1)

        return kernel

    def _convolve(
        self, u: Tensor, state: Tensor, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        a, b, c = self.discretise()
        y, last = run_bank(
            a,
            b,
            c,
            u,
            state.flatten(-2),
            reset=reset,
            lengths=lengths,
            kernel=self._taps(c, u.shape[1]),
            chunk=self.chunk,
        )
        return y[..., 0], last.unflatten(-1, (self.d_state, 2))

    def _recur(
        self, u: Tensor, state: Tensor, dt: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # Real and imaginary parts apart: a loop of small steps is bound by their number, and pairs
        # would have to be put together at every one.
        outputs, parts = [], state.unbind(-1)
        for first in range(0, u.shape[1], SPAN):
            span = slice(first, first + SPAN)
            p, inverse, columns, weigh, push = self._resolvent(state.dtype, dt[:, span])
            push = push * u[:, span, :, None, None]
            # Cut once: a cut at every step would have a gradient of the whole at every step.
            pieces = (*inverse.unbind(-1), *columns.unbind(-1), weigh, *push.unbind(-1))
            steps = [piece.unbind(1) for piece in pieces]
            rows = (2 * p).unbind(-1)
            found = []
            for k, step in enumerate(zip(*steps, strict=True), first):
                if reset is not None:
                    fresh = reset[:, k, None, None]
                    parts = tuple(torch.where(fresh, 0, part) for part in parts)
                parts = _resolved(parts, rows, step)
                found.append(parts)
            outputs.append(self._read(*(torch.stack(side, 1) for side in zip(*found, strict=True))))
        return torch.cat(outputs, 1), torch.stack(parts, -1)


def _resolved(
    state: tuple[Tensor, ...], rows: tuple[Tensor, ...], step: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """R (2 x + Δ B u) − x, see :meth:`S4._resolvent`; real and imaginary parts (B, H, N)."""
    er, ei, cr, ci, weigh, br, bi = step
    xr, xi = torch.add(br, state[0], alpha=2), torch.add(bi, state[1], alpha=2)
    yr = torch.addcmul(er * xr, ei, xi, value=-1)
    yi = torch.addcmul(er * xi, ei, xr)
    seen = (rows[0] * yr.unsqueeze(1) + rows[1] * yi.unsqueeze(1)).sum(-1)
    if weigh.shape[-1] == 1:
        w = weigh[..., 0] * seen[:, 0].unsqueeze(-1)
        yr, yi = (torch.addcmul(y, c[:, 0], w, value=-1) for y, c in ((yr, cr), (yi, ci)))
    else:
        w = (weigh @ seen.mT.unsqueeze(-1)).squeeze(-1).mT.unsqueeze(-1)
        yr, yi = yr - (cr * w).sum(1), yi - (ci * w).sum(1)
    return yr - state[0], yi - state[1]


def _parameter(start: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))


def _tiled(start: np.ndarray, channels: int, axis: int = 0) -> nn.Parameter:
    """A parameter with the same start for every channel."""
    start = np.expand_dims(start, 0) if axis == 0 else start
    return _parameter(np.repeat(start, channels, axis))


def _pairs(x: np.ndarray) -> np.ndarray:
    return np.stack([np.real(x), np.imag(x)], -1)


def _times(x: Tensor, y: Tensor) -> Tensor:
    """Product of complex numbers as pairs."""
    real = x[..., 0] * y[..., 0] - x[..., 1] * y[..., 1]
    return torch.stack([real, x[..., 0] * y[..., 1] + x[..., 1] * y[..., 0]], -1)


def _project(p: Tensor, x: Tensor) -> Tensor:
    """P* x over whole pairs, 2 Re Σ_n conj(p_n) x_n: (..., R, H) from (R, H, N, 2), (..., H, N, 2).

    A factor may have leading axes too.
    """
    return 2 * (p * x.unsqueeze(-4)).sum((-2, -1))


def _spread(p: Tensor, weights: Tensor) -> Tensor:
    """P w: (..., H, N, 2) from (..., R, H, N, 2) and real weights (..., R, H)."""
    return (p * weights[..., None, None]).sum(-4)


def _gram(p: Tensor, columns: Tensor) -> Tensor:
    """P* Q over whole pairs, (..., H, R, R)."""
    return 2 * torch.einsum("rhnc,...shnc->...hrs", p, columns)


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """(I + G)⁻¹ r for real matrices (..., R, R)."""
    if gram.shape[-1] == 1:
        return right / (1 + gram)
    system = gram + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(system, right.expand_as(system))
