"""Chimera: a selective two-dimensional state space over time and variates."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from statewise.nn.contract import State, at_last
from statewise.nn.mamba import draw_step_bias
from statewise.nn.recurrence import Recurrence
from statewise.nn.static import RootMeanSquareNorm, linear
from statewise.ops import scan2d


class Grid(nn.Module):
    """One direction of a selective two-dimensional system, each of D channels with 2 N states.

    p_{t,v} = Ā₁ p_{t−1,v} + Ā₂ q_{t−1,v} + B̄₁ x_{t,v}
    q_{t,v} = Ā₃ p_{t,v−1} + Ā₄ q_{t,v−1} + B̄₂ x_{t,v}
    y_{t,v} = C₁ p_{t,v} + C₂ q_{t,v}

    B, C and the steps Δ₁ (time) and Δ₂ (variates) are linear in x_{t,v}, Δ behind softplus, and
    Ā₁ = e^{Δ₁A₁}, Ā₄ = e^{Δ₂A₄}, all at the new place. The states of the two axes are coupled:
    "bounded", Ā₂ = κ₂ (1 − Ā₁), Ā₃ = κ₃ (1 − Ā₄) with |κ| < 1, so that no path gains and coupling
    vanishes with the step; "published", Ā₂ = e^{Δ₁A₂}, Ā₃ = e^{Δ₂A₃}, which grows without bound on
    large grids; or "none", Ā₂ = Ā₃ = 0, one selective layer for each axis.

    Source: Behrouz et al., Chimera (2406.04320), section 3.

    Args:
        channels: D.
        d_state: N.
        coupling: "bounded", "published" or "none".
        rates: "diagonal", a rate for every state, or "scalar", one for the states of a channel.
        rule: "zoh", B̄ = A⁻¹(Ā − 1)B, or "euler", B̄ = ΔB.
        dt_min: smallest initial Δ at x = 0 (log-uniform up to ``dt_max``).
        dt_max: largest initial Δ at x = 0.
        rng: source of the initial draw.
    """

    roles: ClassVar[dict[str, str]] = {"log_rates": "A", "cross": "A"}

    def __init__(
        self,
        channels: int,
        d_state: int,
        *,
        coupling: str,
        rates: str,
        rule: str,
        dt_min: float,
        dt_max: float,
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        self.channels, self.d_state = channels, d_state
        self.coupling, self.rule = coupling, rule
        self.select = linear(channels, 4 * d_state, rng, bias=False)
        self.steps = linear(channels, 2 * channels, rng)
        bias = draw_step_bias(2 * channels, dt_min, dt_max, 1e-6, rng)
        dtype = torch.get_default_dtype()
        with torch.no_grad():
            self.steps.bias.copy_(torch.from_numpy(bias))
        each = d_state if rates == "diagonal" else 1
        start = np.log(np.broadcast_to(np.arange(1, each + 1), (2, channels, each)))
        self.log_rates = nn.Parameter(torch.tensor(start, dtype=dtype))
        self.cross = None
        if coupling != "none":
            draw = rng.standard_normal((2, channels, d_state))
            self.cross = nn.Parameter(torch.tensor(draw, dtype=dtype))

    def forward(
        self,
        x: Tensor,
        state: Tensor,
        *,
        dt: Tensor | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run over a grid.

        Args:
            x: inputs (B, L, V, D).
            state: p and q of the last step, (B, 2, V, D·N); sets the precision.
            dt: relative steps of time (B, L), or None for 1.
            reset: True where the state is zeroed before that step, (B, L).
            lengths: number of valid steps (B,), or None for all.

        Returns:
            Outputs (B, L, V, D) in the type of ``state``, and p and q after the last valid step.
        """
        dtype = state.dtype
        states = (self.channels, self.d_state)
        b1, b2, c1, c2 = self.select(x).to(dtype).chunk(4, -1)
        delta = softplus(self.steps(x).to(dtype)).chunk(2, -1)
        if dt is not None:
            delta = (delta[0] * dt.to(dtype)[..., None, None], delta[1])
        rates = torch.exp(self.log_rates.to(dtype))
        keep, gain, cross = [], [], []
        for axis in range(2):
            step = delta[axis].unsqueeze(-1)
            lost = -torch.expm1(-step * rates[axis])
            keep.append(torch.exp(-step * rates[axis]))
            gain.append(lost / rates[axis] if self.rule == "zoh" else step)
            cross.append(self._between(axis, step, lost))
        wide = x.to(dtype).unsqueeze(-1)
        inputs = [g * b.unsqueeze(-2) * wide for g, b in zip(gain, (b1, b2), strict=True)]
        a1, a4, a2, a3 = (a.expand(*a.shape[:-2], *states).flatten(-2) for a in (*keep, *cross))
        b1, b2 = (b.flatten(-2) for b in inputs)
        (p, q), last = scan2d(a1, a2, a3, a4, b1, b2, state, reset=reset)
        if lengths is not None:
            ends = [at_last(s, state[:, i], lengths) for i, s in enumerate((p, q))]
            last = torch.stack(ends, 1)
        read = [
            (s.unflatten(-1, states) @ c.unsqueeze(-1)).squeeze(-1) for s, c in ((p, c1), (q, c2))
        ]
        return read[0] + read[1], last

    def _between(self, axis: int, step: Tensor, lost: Tensor) -> Tensor:
        """Ā₂ or Ā₃."""
        if self.cross is None:
            return lost.new_zeros(self.channels, self.d_state)
        cross = self.cross[axis].to(lost.dtype)
        if self.coupling == "published":
            return torch.exp(-step * torch.exp(cross))
        return torch.tanh(cross) * lost


class ChimeraState(NamedTuple):
    """State of a :class:`Chimera` layer: p and q of every variate, for each way through them.

    Attributes:
        trend: (B, K, 2, V, D·N), with K = 2 ways, or 1.
        seasonal: the same.
    """

    trend: Tensor
    seasonal: Tensor


class Chimera(Recurrence):
    """y = u + W (gate ⊙ (T x + S (x − T x))),  x = norm(u), over time and variates.

    The input has V variates of D channels each, u.view(B, L, V, D). T and S are selective
    two-dimensional systems (:class:`Grid`): causal along time, and along the variates in both
    directions, with weights of their own, summed. T starts with small steps and finds trends, S
    with larger ones and sees the rest. gate = silu(W_g x). All maps act on D channels and are
    shared by the variates.

    Diagonal rates without coupling make the layer a 2-D Mamba, scalar ones a 2-D Mamba-2. Memory of
    a call is 8·B·L·V·D·N numbers for each of the four systems. A relative step ``dt`` multiplies
    the step of time, Δ₁.

    Source: Behrouz et al., Chimera (2406.04320), sections 3 and 4; the bound on the coupling is
    ours, companion matrices are left out.

    Args:
        d_model: V·D, input and output channels, those of a variate side by side.
        variates: V, divides d_model.
        d_state: N.
        coupling: "bounded", "published" or "none", see :class:`Grid`.
        rates: "diagonal" or "scalar".
        rule: "zoh" or "euler".
        bidirectional: go through the variates both ways.
        tied: let both ways share their weights.
        trend: initial steps of T are log-uniform in [trend, 10 trend].
        seasonal: initial steps of S are log-uniform in [seasonal, 10 seasonal].
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a number of variates that does not divide d_model, no states, steps that are
            not positive, or an unknown option.
    """

    timed = True

    def __init__(
        self,
        d_model: int,
        *,
        variates: int = 1,
        d_state: int = 8,
        coupling: str = "bounded",
        rates: str = "diagonal",
        rule: str = "zoh",
        bidirectional: bool = True,
        tied: bool = False,
        trend: float = 1e-3,
        seasonal: float = 1e-2,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if d_model < 1 or variates < 1 or d_model % variates or d_state < 1:
            raise ValueError(
                f"Chimera needs variates that divide d_model, and d_state of at least 1; given "
                f"d_model = {d_model}, variates = {variates}, d_state = {d_state}"
            )
        for name, value, known in (
            ("coupling", coupling, ("bounded", "published", "none")),
            ("rates", rates, ("diagonal", "scalar")),
            ("rule", rule, ("zoh", "euler")),
        ):
            if value not in known:
                raise ValueError(f"Chimera takes {name} among {', '.join(known)}; given {value!r}")
        if not (trend > 0 and seasonal > 0):
            raise ValueError(
                f"Chimera needs positive steps; given trend = {trend}, seasonal = {seasonal}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.variates, self.d_state = variates, d_state
        self.channels, self.ways = d_model // variates, 2 if bidirectional else 1
        own = 1 if tied else self.ways

        def head(least: float) -> nn.ModuleList:
            options = {"coupling": coupling, "rates": rates, "rule": rule}
            grids = [
                Grid(self.channels, d_state, dt_min=least, dt_max=10 * least, rng=rng, **options)
                for _ in range(own)
            ]
            return nn.ModuleList(grids)

        self.norm = RootMeanSquareNorm(self.channels, eps=1e-5)
        self.trend, self.seasonal = head(trend), head(seasonal)
        self.gate = linear(self.channels, self.channels, rng)
        self.leave = linear(self.channels, self.channels, rng)

    def init_state(self, batch: int) -> ChimeraState:
        """The state of rest: zeros."""
        shape = (self.ways, 2, self.variates, self.channels * self.d_state)
        return ChimeraState(self.rest(batch, *shape), self.rest(batch, *shape))

    def _sequence(
        self,
        u: Tensor,
        state: ChimeraState,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        given = {"dt": dt, "reset": reset, "lengths": lengths}
        grid = u.unflatten(-1, (self.variates, self.channels))
        x = self.norm(grid)
        trend, first = self._both_ways(self.trend, x, state.trend, given)
        rest = x - trend.to(x.dtype)
        seasonal, second = self._both_ways(self.seasonal, rest, state.seasonal, given)
        mixed = silu(self.gate(x)) * (trend + seasonal).to(x.dtype)
        return (grid + self.leave(mixed)).flatten(-2), ChimeraState(first, second)

    def _sample(self, u: Tensor, state: ChimeraState, dt: Tensor | None) -> tuple[Tensor, State]:
        step = None if dt is None else dt.unsqueeze(1)
        y, state = self._sequence(u.unsqueeze(1), state, step, None, None)
        return y[:, 0], state

    def rollout(self, u: Tensor, state: State, horizon: int) -> tuple[Tensor, State]:
        """Run the closed loop u_{t+1} = y_t: forecasts of all variates, each fed back as an input.

        The maps B, C and Δ depend on what is fed back, so that the loop, unlike that of a
        :class:`Companion`, is no linear system and goes step by step. Behind a window of the past,
        ``y, state = layer(past)``, the first forecast is y[:, −1], and
        ``rollout(y[:, -1], state, horizon)`` gives those behind it.

        Args:
            u: first input of the loop, (B, d_model).
            state: state before it.
            horizon: H, at least 1.

        Returns:
            y (B, H, d_model), and the state after H steps.

        Raises:
            ValueError: a horizon below 1, or a shape that does not fit.
        """
        if horizon < 1:
            raise ValueError(f"rollout needs a horizon of at least 1; given {horizon}")
        outputs = []
        for _ in range(horizon):
            u, state = self.step(u, state)
            outputs.append(u)
        return torch.stack(outputs, 1), state

    def _both_ways(
        self, grids: nn.ModuleList, x: Tensor, state: Tensor, given: dict[str, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """The sum over the directions; states of the second are in its own order of variates."""
        total, after = None, []
        for way in range(self.ways):
            grid = grids[way % len(grids)]
            y, last = grid(x.flip(2) if way else x, state[:, way], **given)
            y = y.flip(2) if way else y
            total = y if total is None else total + y
            after.append(last)
        assert total is not None
        return total, torch.stack(after, 1)
