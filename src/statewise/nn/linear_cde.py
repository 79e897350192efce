"""Linear controlled differential equations: the input chooses dense or block transitions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State, valid_steps
from statewise.nn.recurrence import Recurrence
from statewise.nn.static import linear
from statewise.ops import block_scan, linear_scan

_SMALL = 1e-3
"""Below this (e^m − 1)/m is taken from its series, whose next term is m⁴/120."""


class LinearCDE(Recurrence):
    """dh = Σ_i A_i h dω_i + B dω,  y = C h + D ⊙ u,  along the path dω = (1, W u) dt.

    The input is the speed of the path, constant between samples, so that a step of length δ is
    solved exactly: h_t = e^{M_t} h_{t−1} + φ(M_t) B r_t δ_t, M_t = δ_t Σ_i A_i r_{t,i},
    r_t = (1, W u_t), φ(M) = ∫₀¹ e^{sM} ds. A layer that is to be driven by the path X itself, as
    in the source, is given its differences.

    A_i are block-diagonal with blocks of ``block`` states. One dense block sees the whole order of
    a path (its signature, already with random A_i and B); blocks of 1 commute and see increments
    alone, as Mamba does. A step costs O(N k (d_path + k²)) for N states in blocks of k.

    A relative step ``dt`` is δ. Nothing bounds the transitions: a path of large total variation
    makes the states grow.

    Sources: Cirone et al., Theoretical foundations of deep selective state-space models
    (2402.19047); Walker et al., Structured linear CDEs (2505.17761), for the blocks.

    Args:
        d_model: input and output channels.
        d_state: N.
        block: k, divides N; None for N, one dense block.
        d_path: components of W u; None leaves W away, ω = (t, ∫u).
        scale: A_i starts normal with standard deviation scale / √(k (1 + d_path)), so that an
            input of variance one makes a spectral radius of about this.
        decay: the matrix of time starts skew-symmetric, with this subtracted on its diagonal. For
            white input of variance one, states are forgotten while it exceeds scale² / 2.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a size below 1, or a block that does not divide the states.
    """

    timed: ClassVar[bool] = True
    roles: ClassVar[dict[str, str]] = {"A": "A", "B": "B", "D": "D"}

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        block: int | None = 4,
        d_path: int | None = None,
        scale: float = 0.3,
        decay: float = 0.1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        k = d_state if block is None else block
        for name, size in (
            ("d_model", d_model),
            ("d_state", d_state),
            ("block", k),
            ("d_path", 1 if d_path is None else d_path),
        ):
            if size < 1:
                raise ValueError(f"LinearCDE needs {name} of at least 1; given {size}")
        if d_state % k:
            raise ValueError(
                f"LinearCDE needs a block that divides the states; given block = {k}, d_state = "
                f"{d_state}"
            )
        rng, dtype = np.random.default_rng(seed), torch.get_default_dtype()
        self.d_input = self.d_output = d_model
        self.d_state, self.block = d_state, k
        self.enter = None if d_path is None else linear(d_model, d_path, rng, bias=False)
        width = 1 + (d_model if d_path is None else d_path)
        matrices = scale / (k * width) ** 0.5 * rng.standard_normal((width, d_state // k, k, k))
        # That of time acts at every step: its random part turns, and does not stretch.
        turn = (matrices[0] - matrices[0].mT) / 2**0.5
        matrices[0] = turn - decay * np.eye(k)
        self.A = nn.Parameter(torch.tensor(matrices, dtype=dtype))
        gains = rng.standard_normal((d_state, width)) / width**0.5
        self.B = nn.Parameter(torch.tensor(gains, dtype=dtype))
        self.leave = linear(d_state, d_model, rng, bias=False)
        self.D = nn.Parameter(torch.ones(d_model, dtype=dtype))

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, d_state)."""
        return self.rest(batch, self.d_state)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        steps = dt
        if lengths is not None and dt is None:
            steps = valid_steps(lengths, u.shape[1])
        transition, gain = self._transitions(u, steps)
        if self.block == 1:
            h, last = linear_scan(transition, gain, state, reset=reset)
        else:
            start = state.unflatten(-1, (-1, self.block))
            h, last = block_scan(transition, gain, start, reset=reset)
            h, last = h.flatten(-2), last.flatten(-2)
        return self._read(h, u), last

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        transition, gain = self._transitions(u, dt)
        if self.block == 1:
            state = transition * state + gain
        else:
            h = state.unflatten(-1, (-1, self.block, 1))
            state = ((transition @ h).squeeze(-1) + gain).flatten(-2)
        return self._read(state, u), state

    def _read(self, h: Tensor, u: Tensor) -> Tensor:
        dtype = h.dtype
        y = h @ self.leave.weight.to(dtype).mT + self.D.to(dtype) * u.to(dtype)
        return y.to(u.dtype)

    def _transitions(self, u: Tensor, steps: Tensor | None) -> tuple[Tensor, Tensor]:
        """e^M and φ(M) B r δ of every step: (..., N) for blocks of 1, else (..., G, k, k or k)."""
        speed = u if self.enter is None else self.enter(u)
        # An exponential has no use of half precision. "meta" has no autocast to leave.
        kind = u.device.type if torch.amp.is_autocast_available(u.device.type) else "cpu"
        with torch.autocast(kind, enabled=False):
            return self._solved(speed.to(self.state_dtype), steps)

    def _solved(self, speed: Tensor, steps: Tensor | None) -> tuple[Tensor, Tensor]:
        dtype = speed.dtype
        moved = torch.cat([torch.ones_like(speed[..., :1]), speed], -1)
        if steps is not None:
            moved = moved * steps.to(dtype).unsqueeze(-1)
        pushed = moved @ self.B.to(dtype).mT
        matrices = (moved @ self.A.to(dtype).flatten(1)).unflatten(-1, self.A.shape[1:])
        if self.block == 1:
            exponent = matrices.flatten(-3)
            return torch.exp(exponent), _mean_exponential(exponent) * pushed
        pushed = pushed.unflatten(-1, (-1, self.block))
        # exp([[M, b], [0, 0]]) = [[e^M, φ(M) b], [0, 1]].
        top = torch.cat([matrices, pushed.unsqueeze(-1)], -1)
        both = torch.linalg.matrix_exp(nn.functional.pad(top, (0, 0, 0, 1)))
        return both[..., :-1, :-1], both[..., :-1, -1]


def _mean_exponential(m: Tensor) -> Tensor:
    """(e^m − 1) / m, and 1 at 0, with finite slopes everywhere."""
    small = m.abs() < _SMALL
    away = torch.where(small, torch.ones_like(m), m)
    near = torch.where(small, m, torch.zeros_like(m))
    series = 1 + near / 2 * (1 + near / 3 * (1 + near / 4))
    return torch.where(small, series, torch.expm1(away) / away)
