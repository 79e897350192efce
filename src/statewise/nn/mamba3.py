"""The Mamba-3 layer: rotating states, a trapezoidal rule, several inputs for one state."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from statewise.nn.contract import State, at_last, mask_input, valid_steps
from statewise.nn.mamba import draw_step_bias
from statewise.nn.mamba2 import GatedRMSNorm
from statewise.nn.recurrence import Recurrence
from statewise.nn.rotary import rotate
from statewise.nn.static import RootMeanSquareNorm, linear
from statewise.ops import linear_attention, linear_scan

SLOWEST = 1e-4
"""The least rate of decay −A."""


class Mamba3State(NamedTuple):
    """State of a :class:`Mamba3` layer.

    Attributes:
        ssm: states h (B, H, headdim, d_state).
        angle: what keys and queries have turned by, in radians within ±π, (B, H, S).
        key: the last keys as they were written, (B, R, H, d_state).
        value: the last values (B, H, headdim).
    """

    ssm: Tensor
    angle: Tensor
    key: Tensor
    value: Tensor


class _Terms(NamedTuple):
    """What the recurrence is made of, at every step or at one; R ranks, H heads."""

    query: Tensor  # (..., R, H, N), turned
    key: Tensor  # (..., R, H, N), turned
    value: Tensor  # (..., H, P)
    gate: Tensor  # (..., H, P)
    delta: Tensor  # (..., H)
    decay: Tensor  # (..., H): ΔA
    share: Tensor  # (..., H): λ
    angle: Tensor  # (..., H, S)


class Mamba3(Recurrence):
    """h_t = α_t (h_{t−1} + (1−λ_t) Δ_t v_{t−1} k_{t−1}ᵀ) + λ_t Δ_t v_t k_tᵀ,  y = h_t q_t + D v_t.

    For each head, with α = e^{ΔA}: a trapezoidal rule between the two ends of a step, weighted by
    λ = σ(trap) (λ = 1 is the rule of Mamba-2). [z, v, B, C, δ, a, trap, angle] = W_in u;
    Δ = softplus(δ + b_dt); A = −max(φ(a), 10⁻⁴). k and q are B and C divided by their root mean
    square, plus a bias of each head, then turned pair by pair by φ_t = φ_{t−1} + Δ_t π tanh(angle):
    this equals states that rotate themselves, which Mamba-2's cannot. out = W_out (y ⊙ silu(z)).
    There is no convolution.

    With ``rank`` R > 1 (MIMO), every head has R keys, queries and, by trained factors, values,
    gates and outputs, for one state: h_t gains Σ_r v_r k_rᵀ, and y = Σ_r o_r ⊙ (h q_r + D v_r) ⊙
    silu(z_r), with v_r = x_r ⊙ v and z_r = g_r ⊙ z.

    A sequence is one pass of linear attention whose inputs are scaled by
    λ_t Δ_t + (1−λ_{t+1}) Δ_{t+1}; the share of the step to come is then taken from the output.
    A relative step ``dt`` multiplies Δ. States and angles are in float32 at least; angles add up in
    float64. The share of the next sample is subtracted up to rounding, so that NaN in the input
    reaches the sample before it.

    Source: Mamba-3 (2603.15569).

    Args:
        d_model: input and output channels.
        d_state: N.
        expand: D / d_model.
        headdim: P, channels of a head; H = D / P.
        n_groups: G, divides H; B and C are shared by the heads of a group.
        rank: R; 1 is SISO.
        rope_fraction: share of the d_state entries that turn, in pairs: neighbours, or with R > 1
            those d_state/2 apart. 0 leaves rotation away.
        decay: φ: "rational", 1 + a for a ≥ 0 and 1/(1 − a) below, or "softplus", as first
            published.
        norm: normalise y over each head before the gate.
        dt_min: smallest initial Δ at u = 0 (log-uniform up to ``dt_max``).
        dt_max: largest initial Δ at u = 0.
        dt_floor: initial Δ below are raised to it.
        bias: whether W_in and W_out have biases.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a size below 1, sizes that do not divide, or an unknown decay.
    """

    timed = True
    roles: ClassVar[dict[str, str]] = {
        "dt_bias": "dt",
        "B_bias": "B",
        "C_bias": "C",
        "D": "D",
        "mimo_x": "scale",
        "mimo_z": "scale",
        "mimo_o": "scale",
    }

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        expand: int = 2,
        headdim: int = 64,
        n_groups: int = 1,
        rank: int = 1,
        rope_fraction: float = 0.5,
        decay: str = "rational",
        norm: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_floor: float = 1e-4,
        bias: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        inner = expand * d_model
        sizes = {"d_model": d_model, "d_state": d_state, "expand": expand}
        sizes |= {"headdim": headdim, "n_groups": n_groups, "rank": rank}
        _check(sizes, inner, rope_fraction, decay)
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.d_state, self.headdim, self.n_groups, self.rank = d_state, headdim, n_groups, rank
        self.n_heads = heads = inner // headdim
        self.n_angles = int(d_state * rope_fraction) // 2
        self.decay = decay
        shared = rank * n_groups * d_state
        self._widths = [inner, inner, shared, shared, heads, heads, heads, self.n_angles]
        self.in_proj = linear(d_model, sum(self._widths), rng, bias=bias)
        steps = draw_step_bias(heads, dt_min, dt_max, dt_floor, rng)
        self.dt_bias = nn.Parameter(torch.tensor(steps, dtype=torch.get_default_dtype()))
        self.B_norm = RootMeanSquareNorm(d_state, eps=1e-5)
        self.C_norm = RootMeanSquareNorm(d_state, eps=1e-5)
        self.B_bias = nn.Parameter(torch.ones(heads, rank, d_state))
        self.C_bias = nn.Parameter(torch.ones(heads, rank, d_state))
        self.D = nn.Parameter(torch.ones(heads))
        self.mimo_x = self.mimo_z = self.mimo_o = None
        if rank > 1:
            self.mimo_x = nn.Parameter(torch.full((heads, rank, headdim), 1 / rank))
            self.mimo_z = nn.Parameter(torch.ones(heads, rank, headdim))
            self.mimo_o = nn.Parameter(torch.full((heads, rank, headdim), 1 / rank))
        self.norm = GatedRMSNorm(inner, heads, True, 1e-5) if norm else None
        self.out_proj = linear(inner, d_model, rng, bias=bias)

    def init_state(self, batch: int) -> Mamba3State:
        """The state of rest: zeros."""
        heads, states = self.n_heads, self.d_state
        return Mamba3State(
            self.rest(batch, heads, self.headdim, states),
            self.rest(batch, heads, self.n_angles),
            self.rest(batch, self.rank, heads, states),
            self.rest(batch, heads, self.headdim),
        )

    def _sequence(
        self,
        u: Tensor,
        state: Mamba3State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        valid = None if lengths is None else valid_steps(lengths, u.shape[1])
        t = self._terms(u, state.angle, dt, reset, valid)
        value = self._expand(t.value, self.mimo_x)
        now, before = t.share * t.delta, (1 - t.share) * t.delta
        ahead = before[:, 1:] if reset is None else mask_input(before[:, 1:], ~reset[:, 1:])
        ahead = nn.functional.pad(ahead, (0, 0, 0, 1))
        first = self._expand(state.value, self.mimo_x) * before[:, 0, None, :, None]
        start = state.ssm + torch.einsum("brhp,brhn->bhpn", first, state.key)
        y, last = trapezoid(t.query, t.key, value, t.decay, now, ahead, start, reset)
        y = y + self.D.to(y.dtype).unsqueeze(-1) * value
        if lengths is None:
            key, final = t.key[:, -1], t.value[:, -1]
        else:
            key, final = (
                at_last(of_all, rest, lengths)
                for of_all, rest in ((t.key, state.key), (t.value, state.value))
            )
        return self._finish(y, t.gate), Mamba3State(last, t.angle[:, -1], key, final)

    def _sample(
        self, u: Tensor, state: Mamba3State, dt: Tensor | None
    ) -> tuple[Tensor, Mamba3State]:
        width = None if dt is None else dt.unsqueeze(1)
        t = _Terms(*(part[:, 0] for part in self._terms(u.unsqueeze(1), state.angle, width)))
        value = self._expand(t.value, self.mimo_x)
        previous = self._expand(state.value, self.mimo_x) * (1 - t.share)[:, None, :, None]
        # What the last sample writes belongs to the beginning of this step, and decays with it.
        written = torch.einsum("brhp,brhn->bhpn", previous, state.key)
        h = state.ssm + t.delta[..., None, None] * written
        weighted = value * (t.share * t.delta)[:, None, :, None]
        h = torch.exp(t.decay)[..., None, None] * h
        h = h + torch.einsum("brhp,brhn->bhpn", weighted, t.key)
        y = torch.einsum("bhpn,brhn->brhp", h, t.query)
        y = y + self.D.to(y.dtype).unsqueeze(-1) * value
        return self._finish(y, t.gate), Mamba3State(h, t.angle, t.key, t.value)

    def _terms(
        self,
        u: Tensor,
        angle: Tensor,
        dt: Tensor | None,
        reset: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> _Terms:
        z, v, B, C, step, rate, trap, turn = self.in_proj(u).split(self._widths, -1)
        dtype = self.state_dtype
        delta = softplus(step.to(dtype) + self.dt_bias.to(dtype))
        if dt is not None:
            delta = delta * dt.to(dtype).unsqueeze(-1)
        delta = mask_input(delta, valid)
        turned = self._turn(delta, turn.to(dtype), angle, reset)
        return _Terms(
            self._direction(C, self.C_norm, self.C_bias, turned),
            self._direction(B, self.B_norm, self.B_bias, turned),
            v.to(dtype).unflatten(-1, (self.n_heads, self.headdim)),
            z.to(dtype).unflatten(-1, (self.n_heads, self.headdim)),
            delta,
            -delta * self._rate(rate.to(dtype)),
            torch.sigmoid(trap.to(dtype)),
            turned,
        )

    def _rate(self, a: Tensor) -> Tensor:
        if self.decay == "softplus":
            return softplus(a).clamp_min(SLOWEST)
        # Both branches are evaluated: 1 − a must not pass 0 in the one that is not taken.
        return torch.where(a >= 0, 1 + a, 1 / (1 - a.clamp_max(0))).clamp_min(SLOWEST)

    def _turn(self, delta: Tensor, turn: Tensor, angle: Tensor, reset: Tensor | None) -> Tensor:
        """φ (B, L, H, S), within ±π."""
        speed = math.pi * torch.tanh(turn).double()
        steps = delta.double().unsqueeze(-1) * speed.unsqueeze(-2)
        if not self.n_angles:
            return steps.to(angle.dtype)
        one = torch.ones((), dtype=steps.dtype, device=steps.device)
        phase, _ = linear_scan(one, steps.flatten(2), angle.double().flatten(1), reset=reset)
        wrapped = phase - 2 * math.pi * torch.round(phase / (2 * math.pi))
        return wrapped.view_as(steps).to(angle.dtype)

    def _direction(self, x: Tensor, norm: nn.Module, bias: Tensor, angle: Tensor) -> Tensor:
        """Keys or queries (B, L, R, H, N): normalised, with their bias, turned."""
        x = norm(x.unflatten(-1, (self.rank, self.n_groups, self.d_state))).to(angle.dtype)
        x = x.repeat_interleave(self.n_heads // self.n_groups, dim=-2)
        x = x + bias.to(x.dtype).transpose(0, 1)
        return rotate(x, angle.unsqueeze(2), neighbours=self.rank == 1)

    def _expand(self, x: Tensor, factor: Tensor | None) -> Tensor:
        """Of (..., H, P), one for each rank: (..., R, H, P)."""
        x = x.unsqueeze(-3)
        return x if factor is None else x * factor.to(x.dtype).transpose(0, 1)

    def _finish(self, y: Tensor, gate: Tensor) -> Tensor:
        gate = self._expand(gate, self.mimo_z)
        if self.norm is None:
            y = y * silu(gate)
        else:
            y = self.norm(y.flatten(-2), gate.flatten(-2)).view_as(y)
        y = y if self.mimo_o is None else y * self.mimo_o.to(y.dtype).transpose(0, 1)
        return self.out_proj(y.sum(-3).flatten(-2).to(self.out_proj.weight.dtype))


def trapezoid(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor,
    now: Tensor,
    ahead: Tensor,
    start: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y_{t,r} = h_t q_{t,r}, h_t = e^{decay_t} (h_{t−1} + ahead_{t−1} w_{t−1}) + now_t w_t.

    Here w_t = Σ_r v_{t,r} k_{t,r}ᵀ. One pass of linear attention over L·R steps writes with
    now + ahead; what it adds to the output of the same step too early is taken away.

    Args:
        query: (B, L, R, H, N).
        key: (B, L, R, H, N).
        value: (B, L, R, H, P).
        decay: (B, L, H).
        now: (B, L, H).
        ahead: (B, L, H); 0 at the last step makes the last state h_L.
        start: the state before the first step, what the sample before it writes included,
            (B, H, P, N).
        reset: (B, L), or None.

    Returns:
        Outputs (B, L, R, H, P) and the last state (B, H, P, N).
    """
    ranks = query.shape[2]
    scale = now + ahead
    written = value * scale[:, :, None, :, None]
    once = nn.functional.pad(decay.unsqueeze(2), (0, 0, 0, ranks - 1))
    if reset is not None:
        reset = nn.functional.pad(reset.unsqueeze(2), (0, ranks - 1)).flatten(1, 2)
    q, k, v, once = (x.flatten(1, 2) for x in (query, key, written, once))
    y, last = linear_attention(q, k, v, once, start, reset=reset)
    # Rank r has seen what ranks up to r write, with the share of the next step; due is what all
    # ranks write, without it.
    seen = torch.ones(ranks, ranks, dtype=y.dtype, device=y.device).tril()
    missing = now[:, :, None, None] - scale[:, :, None, None] * seen[..., None]
    overlap = torch.einsum("blrhn,blshn->blrsh", query, key)
    return y.view_as(value) + torch.einsum("blrsh,blshp->blrhp", missing * overlap, value), last


def _check(sizes: dict[str, int], inner: int, rope_fraction: float, decay: str) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"Mamba3 needs {name} of at least 1; given {size}")
    headdim, n_groups, d_state = sizes["headdim"], sizes["n_groups"], sizes["d_state"]
    if inner % headdim:
        raise ValueError(
            f"Mamba3 needs a headdim that divides expand * d_model = {inner}; given {headdim}"
        )
    if (inner // headdim) % n_groups:
        raise ValueError(
            f"Mamba3 needs n_groups that divides the {inner // headdim} heads; given {n_groups}"
        )
    if not 0 <= rope_fraction <= 1 or (rope_fraction and d_state % 2):
        raise ValueError(
            f"Mamba3 needs rope_fraction in [0, 1], and an even d_state to rotate; given "
            f"rope_fraction = {rope_fraction}, d_state = {d_state}"
        )
    if decay not in ("rational", "softplus"):
        raise ValueError(f'the decay of Mamba3 is "rational" or "softplus"; given {decay!r}')
