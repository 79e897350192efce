"""The Mamba-2 layer: state-space duality, one decay for each head."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State, check_sample, mask_input, valid_steps
from statewise.nn.fused import fuses, overwrites
from statewise.nn.mamba import draw_step_bias, step_scale
from statewise.nn.recurrence import Recurrence
from statewise.nn.short_conv import ShortConv
from statewise.nn.static import linear
from statewise.ops import Mamba2Weights, linear_scan, mamba2_step, ssd


class Mamba2State(NamedTuple):
    """State of a :class:`Mamba2` layer.

    Attributes:
        conv: the last inputs of the short convolution, (B, d_conv − 1, d_ssm + 2 G d_state),
            oldest first.
        ssm: states h (B, H, headdim, d_state).
    """

    conv: Tensor
    ssm: Tensor


class Mamba2(Recurrence):
    """h_t = e^{Δ_t A} h_{t−1} + Δ_t x_t B_tᵀ,  y_t = W_out norm((h_t C_t + D ⊙ x_t) ⊙ silu(z_t)).

    [z, x, B, C, δ] = W_in u, with x, B and C behind a short causal convolution with silu, and
    Δ = clamp(softplus(δ + b_dt)), A = −exp(A_log): one number for each head and step. B and C are
    shared by the heads of a group. The norm divides by the root mean square over a group's share of
    the d_ssm channels. The d_inner − d_ssm channels left over pass a gated unit beside the heads.

    A relative step ``dt`` multiplies Δ behind its limits. The convolution counts samples, whatever
    time lies between them. Samples that pad a batch are behind ``lengths``: there Δ = 0 holds the
    state. ``mask`` is for samples that happened and were not seen: they enter as 0, and time goes
    on. With ``learnable_init_states`` the state of rest, and that behind a reset, has a trained h.

    Parameters have the names of public checkpoints; ``conv1d.weight`` is (channels, d_conv).

    Source: Dao and Gu, Transformers are SSMs (2405.21060), sections 6 and 7.

    Args:
        d_model: input and output channels.
        d_state: N.
        d_conv: taps of the convolution.
        expand: d_inner / d_model.
        headdim: P, channels of a head; H = d_ssm / P. None for 64, or for the next smaller number
            that gives whole heads in whole groups.
        d_ssm: channels of the heads; None for d_inner.
        n_groups: G, divides H.
        rmsnorm: normalise before W_out; off, the gate alone stays.
        norm_before_gate: gate the normalised y instead of normalising the gated one.
        D_per_channel: D for each channel instead of each head.
        a_min: smallest initial −A (uniform up to ``a_max``).
        a_max: largest initial −A.
        dt_min: smallest initial Δ at u = 0 (log-uniform up to ``dt_max``).
        dt_max: largest initial Δ at u = 0.
        dt_floor: initial Δ below are raised to it.
        dt_lowest: lower limit of Δ.
        dt_highest: upper limit of Δ; None for none.
        conv_start: taps start uniform in ±conv_start; None for ±1/√d_conv.
        learnable_init_states: train the h of rest, which starts at 0.
        norm_eps: added to the mean square.
        conv_bias: whether the convolution has a bias.
        bias: whether W_in and W_out have biases.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a size below 1, sizes that do not divide, or limits out of order.
    """

    timed: ClassVar[bool] = True
    roles: ClassVar[dict[str, str]] = {
        "A_log": "A",
        "D": "D",
        "dt_bias": "dt",
        "init_states": "bias",
    }

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        expand: float = 2,
        headdim: int | None = None,
        d_ssm: int | None = None,
        n_groups: int = 1,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        D_per_channel: bool = False,
        a_min: float = 1.0,
        a_max: float = 16.0,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_floor: float = 1e-4,
        dt_lowest: float = 0.0,
        dt_highest: float | None = None,
        conv_start: float | None = None,
        learnable_init_states: bool = False,
        norm_eps: float = 1e-5,
        conv_bias: bool = True,
        bias: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        inner = int(expand * d_model)
        width = inner if d_ssm is None else d_ssm
        if headdim is None:
            headdim = usual_headdim(width, n_groups)
        sizes = {
            "d_model": d_model,
            "d_state": d_state,
            "d_conv": d_conv,
            "headdim": headdim,
            "n_groups": n_groups,
            "d_ssm": width,
        }
        _check(sizes, inner, a_min, a_max, dt_lowest, dt_highest)
        rng = np.random.default_rng(seed)
        dtype = torch.get_default_dtype()
        heads = width // headdim
        self.d_input = self.d_output = d_model
        self.d_inner, self.d_ssm, self.d_state = inner, width, d_state
        self.n_heads, self.headdim, self.n_groups = heads, headdim, n_groups
        self.dt_limit = (dt_lowest, math.inf if dt_highest is None else dt_highest)
        mixed, beside = width + 2 * n_groups * d_state, inner - width
        self._widths = [beside, beside, width, mixed, heads]
        self.in_proj = linear(d_model, sum(self._widths), rng, bias=bias)
        self.conv1d = ShortConv(mixed, d_conv, rng, bias=conv_bias, bound=conv_start)
        rates = np.log(rng.uniform(a_min, a_max, heads))
        self.A_log = nn.Parameter(torch.tensor(rates, dtype=dtype))
        start = draw_step_bias(heads, dt_min, dt_max, dt_floor, rng)
        self.dt_bias = nn.Parameter(torch.tensor(start, dtype=dtype))
        self.D = nn.Parameter(torch.ones(width if D_per_channel else heads, dtype=dtype))
        self.init_states = None
        if learnable_init_states:
            self.init_states = nn.Parameter(torch.zeros(heads, headdim, d_state, dtype=dtype))
        self.norm = None
        if rmsnorm:
            self.norm = GatedRMSNorm(width, n_groups, norm_before_gate, norm_eps)
        self.out_proj = linear(inner, d_model, rng, bias=bias)

    @property
    def packed(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Which rows of a weight are of which kind, see :func:`~statewise.nn.mup_groups`."""
        beside, states = 2 * self._widths[0], self.n_groups * self.d_state
        parts = (
            ("matrix", beside + 2 * self.d_ssm),
            ("selective B", states),
            ("selective C", states),
            ("matrix", self.n_heads),
        )
        return {"in_proj.weight": parts}

    def init_state(self, batch: int) -> Mamba2State:
        """The state of rest: an empty window, and h = 0 or as trained."""
        h = self.rest(batch, self.n_heads, self.headdim, self.d_state)
        if self.init_states is not None:
            h = h + self.init_states.to(h.dtype)
        return Mamba2State(self.rest(batch, self.conv1d.width - 1, self.conv1d.channels), h)

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Mamba2State]:
        """See :meth:`Layer.step`; one operator does it where no gradient is asked for."""
        check_sample(self, u, dt, mask)
        weights = self._fused_weights(u, state, dt)
        if weights is not None:
            y, *after = mamba2_step(
                mask_input(u, mask),
                state.conv,
                state.ssm,
                weights,
                **self.step_settings(),
                scale=None if dt is None else dt.to(state.ssm.dtype),
                overwrite=overwrites(state.ssm),
            )
            return y, Mamba2State(*after)
        return super().step(u, state, dt=dt, mask=mask)

    def _sequence(
        self,
        u: Tensor,
        state: Mamba2State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Mamba2State]:
        valid = None if lengths is None else valid_steps(lengths, u.shape[1])
        return self._run(u, state, step_scale(dt, valid, state.ssm.dtype), reset, lengths)

    def _sample(
        self, u: Tensor, state: Mamba2State, dt: Tensor | None
    ) -> tuple[Tensor, Mamba2State]:
        scale = None if dt is None else dt.unsqueeze(-1).to(state.ssm.dtype)
        y, after = self._run(u.unsqueeze(1), state, scale, None, None)
        return y.squeeze(1), after

    def step_weights(self) -> Mamba2Weights:
        """What a step as one operator needs."""
        enter, conv, leave, norm = self.in_proj, self.conv1d, self.out_proj, self.norm
        return Mamba2Weights(
            *(enter.weight, enter.bias, conv.weight, conv.bias, self.dt_bias, self.A_log, self.D),
            *(None if norm is None else norm.weight, leave.weight, leave.bias),
        )

    def step_settings(self) -> dict[str, Any]:
        """Settings of that operator."""
        norm = self.norm
        return {
            "n_groups": self.n_groups,
            "norm_before_gate": norm is not None and norm.norm_before_gate,
            "eps": 1e-5 if norm is None else norm.eps,
            "dt_limit": self.dt_limit,
        }

    def _fused_weights(
        self, u: Tensor, state: State, dt: Tensor | None = None
    ) -> Mamba2Weights | None:
        """The weights where this step can be taken as one operator, else None."""
        if type(state) is not Mamba2State:
            return None
        rows, conv, weights = u.shape[0], self.conv1d, self.step_weights()
        fits = state.ssm.shape == (rows, self.n_heads, self.headdim, self.d_state)
        fits = fits and state.conv.shape == (rows, conv.width - 1, conv.channels)
        maps = (self.in_proj, self.out_proj)
        return weights if fits and fuses(u, maps, weights, state, dt) else None

    def _run(
        self,
        u: Tensor,
        before: Mamba2State,
        scale: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Mamba2State]:
        gate, value, z, xbc, step = self.in_proj(u).split(self._widths, dim=-1)
        xbc, window = self.conv1d(xbc, before.conv, reset=reset, lengths=lengths)
        states = self.n_groups * self.d_state
        x, B, C = xbc.split([self.d_ssm, states, states], dim=-1)
        x = x.unflatten(-1, (self.n_heads, self.headdim))
        B, C = (part.unflatten(-1, (self.n_groups, self.d_state)) for part in (B, C))
        delta = self._steps(step, scale, before.ssm.dtype)
        A = -torch.exp(self.A_log.to(before.ssm.dtype))
        D = self.D if self.D.numel() == self.n_heads else self.D.view(self.n_heads, self.headdim)
        y, h = ssd(x, delta, A, B, C, D, h0=before.ssm, reset=reset)
        h = h.to(before.ssm.dtype)
        if self.init_states is not None and reset is not None:
            trace, last = self._from_rest(delta * A, C, reset)
            y, h = y + trace.to(y.dtype), h + last
        y = y.flatten(-2)
        y = y * nn.functional.silu(z) if self.norm is None else self.norm(y, z)
        if gate.shape[-1]:
            y = torch.cat([nn.functional.silu(gate) * value, y.to(value.dtype)], dim=-1)
        return self.out_proj(y.to(z.dtype)), Mamba2State(window, h)

    def _steps(self, step: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Δ (B, L, H) in the type of the state."""
        delta = nn.functional.softplus(step.to(dtype) + self.dt_bias.to(dtype))
        if self.dt_limit != (0.0, math.inf):
            delta = delta.clamp(*self.dt_limit)
        return delta if scale is None else delta * scale.unsqueeze(-1)

    def _from_rest(self, log_decay: Tensor, C: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """What the trained h of rest adds behind resets, where the scan starts from 0.

        It decays alone: with w_t the decay since the last reset (0 before the first), it adds
        w_t h_rest C_t to the output and w_L h_rest to the last state.
        """
        assert self.init_states is not None
        rest = self.init_states.to(log_decay.dtype)
        decay, anew = torch.exp(log_decay), reset.unsqueeze(-1)
        none = torch.zeros_like(decay)
        w, last = linear_scan(torch.where(anew, none, decay), torch.where(anew, decay, none))
        heads = C.to(rest.dtype).repeat_interleave(self.n_heads // self.n_groups, dim=2)
        trace = torch.einsum("hpn,blhn->blhp", rest, heads) * w.unsqueeze(-1)
        return trace, last[..., None, None] * rest


def usual_headdim(d_ssm: int, n_groups: int) -> int:
    """Channels of a head where none are given: 64, or the next smaller number that fits."""
    per_group = d_ssm // max(n_groups, 1)
    return max((p for p in range(1, 65) if per_group % p == 0), default=64)


class GatedRMSNorm(nn.Module):
    """(y ⊙ silu(z)) / rms(y ⊙ silu(z)) ⊙ w, or y / rms(y) ⊙ w ⊙ silu(z), rms over each group.

    Args:
        channels: width of y.
        n_groups: number of groups of neighbouring channels.
        norm_before_gate: the second form.
        eps: added to the mean square.
    """

    roles: ClassVar[dict[str, str]] = {"weight": "scale"}

    def __init__(self, channels: int, n_groups: int, norm_before_gate: bool, eps: float) -> None:
        super().__init__()
        self.n_groups, self.norm_before_gate, self.eps = n_groups, norm_before_gate, eps
        self.weight = nn.Parameter(torch.ones(channels, dtype=torch.get_default_dtype()))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """The normalised and gated y, (..., channels), computed in float32 at least."""
        dtype = torch.promote_types(torch.float32, torch.promote_types(y.dtype, z.dtype))
        y, gate = y.to(dtype), nn.functional.silu(z.to(dtype))
        if not self.norm_before_gate:
            y = y * gate
        groups = y.unflatten(-1, (self.n_groups, -1))
        mean_square = groups.square().mean(-1, keepdim=True)
        y = (groups * torch.rsqrt(mean_square + self.eps)).flatten(-2) * self.weight.to(dtype)
        return y * gate if self.norm_before_gate else y


def _check(
    sizes: dict[str, int],
    inner: int,
    a_min: float,
    a_max: float,
    dt_lowest: float,
    dt_highest: float | None,
) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"Mamba2 needs {name} of at least 1; given {size}")
    width, headdim, n_groups = sizes["d_ssm"], sizes["headdim"], sizes["n_groups"]
    if width > inner:
        raise ValueError(f"Mamba2 needs d_ssm of at most expand * d_model = {inner}; given {width}")
    if width % headdim:
        raise ValueError(
            f"Mamba2 needs a headdim that divides the {width} channels of the heads; given "
            f"headdim = {headdim}"
        )
    if (width // headdim) % n_groups:
        raise ValueError(
            f"Mamba2 needs n_groups that divides the {width // headdim} heads; given "
            f"n_groups = {n_groups}"
        )
    if not 0 < a_min <= a_max:
        raise ValueError(f"Mamba2 needs 0 < a_min <= a_max; given a_min = {a_min}, a_max = {a_max}")
    if dt_lowest < 0 or (dt_highest is not None and dt_highest < dt_lowest):
        raise ValueError(
            f"Mamba2 needs 0 <= dt_lowest <= dt_highest; given dt_lowest = {dt_lowest}, "
            f"dt_highest = {dt_highest}"
        )
