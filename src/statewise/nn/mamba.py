"""The Mamba layer: a gated short convolution and a selective state space (S6)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State, check_sample, mask_input, valid_steps
from statewise.nn.fused import fuses, overwrites
from statewise.nn.poles import draw_log_steps
from statewise.nn.recurrence import Recurrence
from statewise.nn.short_conv import ShortConv
from statewise.nn.specs import Selective
from statewise.nn.static import linear
from statewise.ops import MambaWeights, mamba_step, selective_scan


class MambaState(NamedTuple):
    """State of a :class:`Mamba` layer.

    Attributes:
        conv: the last inputs of the short convolution (B, d_conv − 1, d_inner), oldest first.
        ssm: states h (B, d_inner, d_state).
    """

    conv: Tensor
    ssm: Tensor


class Mamba(Recurrence):
    """h_t = e^{Δ_t A} h_{t−1} + B̄_t x_t,  y_t = W_out ((C_t h_t + D ⊙ x_t) ⊙ silu(z_t)).

    [x, z] = W_in u, x behind a short causal convolution with silu; [δ_t, B_t, C_t] = W_x x_t,
    Δ_t = softplus(W_dt δ_t + b_dt), A = −exp(A_log) real and diagonal, ``d_state`` states for each
    of d_inner = expand · d_model channels. B̄ = ΔB (``rule="euler"``), as all public checkpoints
    assume, or the zero-order hold that the paper states, (e^{ΔA} − 1)/A · B (``rule="zoh"``).

    A relative step ``dt`` multiplies Δ. The convolution counts samples, whatever time lies
    between them. Samples that pad a batch are behind ``lengths``: there Δ = 0 holds the state.
    ``mask`` is for samples that happened and were not seen: they enter as 0, and time goes on.

    Parameters have the names of public checkpoints; ``conv1d.weight`` is (d_inner, d_conv).

    Source: Gu and Dao, Mamba: linear-time sequence modeling with selective state spaces
    (2312.00752), algorithm 2 and section 3.4.

    Args:
        d_model: input and output channels.
        d_state: states per channel, N.
        d_conv: taps of the convolution.
        expand: d_inner / d_model.
        dt_rank: rank of the map to Δ; None for ⌈d_model / 16⌉.
        dt_min: smallest initial Δ at x = 0 (log-uniform up to ``dt_max``).
        dt_max: largest initial Δ at x = 0.
        dt_floor: initial Δ below are raised to it.
        dt_start: start of W_dt, "random" for uniform in ±dt_scale/√dt_rank, "constant" for
            dt_scale/√dt_rank everywhere.
        dt_scale: factor of that start.
        rule: "euler" or "zoh".
        selective: which of Δ, B and C depend on the input; None for all of them.
        conv_bias: whether the convolution has a bias.
        bias: whether W_in and W_out have biases.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a size below 1, or an unknown rule or start.
    """

    timed: ClassVar[bool] = True
    roles: ClassVar[dict[str, str]] = {
        "A_log": "A",
        "B": "B",
        "C": "C",
        "D": "D",
        "dt_bias": "dt",
        "dt_proj.bias": "dt",
    }

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_floor: float = 1e-4,
        dt_start: str = "random",
        dt_scale: float = 1.0,
        rule: Literal["euler", "zoh"] = "euler",
        selective: Selective | None = None,
        conv_bias: bool = True,
        bias: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        inner = int(expand * d_model)
        sizes = {"d_model": d_model, "d_state": d_state, "d_conv": d_conv, "dt_rank": rank}
        for name, size in {**sizes, "expand * d_model": inner}.items():
            if size < 1:
                raise ValueError(f"Mamba needs {name} of at least 1; given {size}")
        if rule not in ("euler", "zoh"):
            raise ValueError(f'the rule of Mamba is "euler" or "zoh"; given {rule!r}')
        if dt_start not in ("random", "constant"):
            raise ValueError(f'dt_start is "random" or "constant"; given {dt_start!r}')
        rng = np.random.default_rng(seed)
        dtype = torch.get_default_dtype()
        self.d_input = self.d_output = d_model
        self.d_inner, self.d_state, self.dt_rank = inner, d_state, rank
        self.rule: Literal["euler", "zoh"] = rule
        self.selective = Selective() if selective is None else selective
        self.in_proj = linear(d_model, 2 * inner, rng, bias=bias)
        self.conv1d = ShortConv(inner, d_conv, rng, bias=conv_bias)
        parts = self.selective
        self._widths = [rank * parts.dt, d_state * parts.B, d_state * parts.C]
        self.x_proj = None
        if any(self._widths):
            self.x_proj = linear(inner, sum(self._widths), rng, bias=False)
        start = draw_step_bias(inner, dt_min, dt_max, dt_floor, rng)
        if parts.dt:
            self.dt_proj = linear(rank, inner, rng)
            bound = dt_scale * rank**-0.5
            weight = rng.uniform(-bound, bound, (inner, rank))
            if dt_start == "constant":
                weight = np.full((inner, rank), bound)
            with torch.no_grad():
                self.dt_proj.weight.copy_(torch.from_numpy(weight))
                self.dt_proj.bias.copy_(torch.from_numpy(start))
            self.dt_bias = None
        else:
            self.dt_proj = None
            self.dt_bias = nn.Parameter(torch.tensor(start, dtype=dtype))
        self.B = self.C = None
        if not parts.B:
            self.B = nn.Parameter(torch.ones(inner, d_state, dtype=dtype))
        if not parts.C:
            constant = rng.standard_normal((inner, d_state))
            self.C = nn.Parameter(torch.tensor(constant, dtype=dtype))
        rates = np.tile(np.log(np.arange(1, d_state + 1)), (inner, 1))
        self.A_log = nn.Parameter(torch.tensor(rates, dtype=dtype))
        self.D = nn.Parameter(torch.ones(inner, dtype=dtype))
        self.out_proj = linear(inner, d_model, rng, bias=bias)

    @property
    def packed(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Which rows of a weight are of which kind, see :func:`~statewise.nn.mup_groups`."""
        kinds = ("matrix", "selective B", "selective C")
        return {"x_proj.weight": tuple(zip(kinds, self._widths, strict=True))}

    def init_state(self, batch: int) -> MambaState:
        """The state of rest: an empty window and h = 0."""
        window = self.rest(batch, self.conv1d.width - 1, self.d_inner)
        return MambaState(window, self.rest(batch, self.d_inner, self.d_state))

    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, MambaState]:
        """See :meth:`Layer.step`; one operator does it where no gradient is asked for."""
        check_sample(self, u, dt, mask)
        weights = self._fused_weights(u, state, dt)
        if weights is not None:
            y, *after = mamba_step(
                mask_input(u, mask),
                state.conv,
                state.ssm,
                weights,
                scale=None if dt is None else dt.to(state.ssm.dtype),
                overwrite=overwrites(state.ssm),
            )
            return y, MambaState(*after)
        return super().step(u, state, dt=dt, mask=mask)

    def _sequence(
        self,
        u: Tensor,
        state: MambaState,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, MambaState]:
        valid = None if lengths is None else valid_steps(lengths, u.shape[1])
        return self._run(u, state, step_scale(dt, valid, state.ssm.dtype), reset, lengths)

    def _sample(self, u: Tensor, state: MambaState, dt: Tensor | None) -> tuple[Tensor, MambaState]:
        scale = None if dt is None else dt.unsqueeze(-1).to(state.ssm.dtype)
        y, after = self._run(u.unsqueeze(1), state, scale, None, None)
        return y.squeeze(1), after

    def step_weights(self) -> MambaWeights | None:
        """What a step as one operator needs; None where no operator knows this kind of layer."""
        enter, draw, steps, leave = self.in_proj, self.x_proj, self.dt_proj, self.out_proj
        if self.rule != "euler" or self.selective != Selective():
            return None
        assert draw is not None
        assert steps is not None
        conv = self.conv1d
        return MambaWeights(
            *(enter.weight, enter.bias, conv.weight, conv.bias, draw.weight, steps.weight),
            *(steps.bias, self.A_log, self.D, leave.weight, leave.bias),
        )

    def step_settings(self) -> dict[str, Any]:
        """Settings of that operator; this layer has none."""
        return {}

    def _fused_weights(
        self, u: Tensor, state: State, dt: Tensor | None = None
    ) -> MambaWeights | None:
        """The weights where this step can be taken as one operator, else None."""
        weights = self.step_weights() if type(state) is MambaState else None
        if weights is None:
            return None
        rows = u.shape[0]
        fits = state.ssm.shape == (rows, self.d_inner, self.d_state)
        fits = fits and state.conv.shape == (rows, self.conv1d.width - 1, self.d_inner)
        maps = (self.in_proj, self.x_proj, self.dt_proj, self.out_proj)
        return weights if fits and fuses(u, maps, weights, state, dt) else None

    def _run(
        self,
        u: Tensor,
        before: MambaState,
        scale: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, MambaState]:
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, window = self.conv1d(x, before.conv, reset=reset, lengths=lengths)
        step, bias, B, C = self._select(x)
        work = before.ssm.dtype
        if scale is not None:
            biased = step.to(work) + bias.to(work)
            step, bias = nn.functional.softplus(biased) * scale.unsqueeze(-1), None
        y, h = selective_scan(
            x,
            step,
            -torch.exp(self.A_log.to(work)),
            B,
            C,
            self.D,
            z,
            bias,
            before.ssm,
            softplus=scale is None,
            rule=self.rule,
            reset=reset,
        )
        return self.out_proj(y.to(x.dtype)), MambaState(window, h.to(work))

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Δ before its bias and softplus (B, L, d_inner), the bias, B_t and C_t or B and C."""
        drawn: list[Tensor] = []
        if self.x_proj is not None:
            drawn = list(self.x_proj(x).split(self._widths, dim=-1))
        if self.dt_proj is not None:
            # The bias enters in the type of the state, behind the product.
            step = nn.functional.linear(drawn[0], self.dt_proj.weight)
            bias = self.dt_proj.bias
        else:
            assert self.dt_bias is not None
            step, bias = torch.zeros_like(x), self.dt_bias
        B = drawn[1] if self.B is None else self.B
        C = drawn[2] if self.C is None else self.C
        return step, bias, B, C


def draw_step_bias(
    count: int, dt_min: float, dt_max: float, dt_floor: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw b with softplus(b) log-uniform in [dt_min, dt_max], at least dt_floor, (count,)."""
    if not 0 < dt_min <= dt_max or dt_floor <= 0:
        raise ValueError(
            f"time steps need 0 < dt_min <= dt_max and dt_floor > 0; given dt_min = {dt_min}, "
            f"dt_max = {dt_max}, dt_floor = {dt_floor}"
        )
    steps = np.maximum(np.exp(draw_log_steps(dt_min, dt_max, count, rng)), dt_floor)
    return steps + np.log(-np.expm1(-steps))


def step_scale(dt: Tensor | None, valid: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Factor of Δ, (B, L) or (1, L): the relative step, and 0 behind the end; None for 1."""
    if dt is None:
        return None if valid is None else valid.to(dtype)
    scale = dt.to(dtype)
    scale = scale.unsqueeze(0) if scale.ndim == 1 else scale
    return scale if valid is None else torch.where(valid, scale, torch.zeros_like(scale))
