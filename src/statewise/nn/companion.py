"""Companion: discrete systems with a companion matrix, the layer of SpaceTime."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State, check_sequence, mask_input
from statewise.nn.recurrence import Recurrence
from statewise.nn.windows import final_window
from statewise.ops import companion_kernel, fft_conv


class Companion(Recurrence):
    """x_k = (S + a e_Nᵀ) x_{k−1} + B u_k,  y_k = C x_k + D u_k, one input and output per system.

    S shifts down by one, a is the last column: the characteristic polynomial is λ^N − Σ_i a_i λ^i.
    With a = 0 and B = e_1 the state is the last N inputs, so that every autoregressive process of
    order N, every filter of N taps and, with a, every single-input system of N states is there
    exactly; a discretised continuous system has none of the former. Divided by ‖a‖₁, as in the
    paper, no eigenvalue is outside the unit circle, and memory is long.

    A sequence is a convolution with C A^l B, found in O((N + L) log (N + L)); a step costs O(N).
    The state is x, (B, d_model, N). Channels h·n … h·n + h − 1 are the heads of system n.

    With ``closed_loop`` there is F, (systems, N), which predicts the layer's own next input,
    û_{k+1} = F x_k: :meth:`next_input` gives it along a sequence, :meth:`rollout` feeds it back,
    x_{k+1} = (A + B F) x_k. F is not part of the output of ``forward``. A + B F is not bounded by
    ‖a‖₁: a rollout may grow.

    Source: Zhang et al., Effectively modeling time series with simple discrete state spaces
    (2303.09489), sections 3.1 to 3.3.

    Args:
        d_model: inputs and outputs.
        d_state: N.
        heads: h, channels that share a system; it divides ``d_model``.
        norm: "l1" divides a by ‖a‖₁, "scaled" by ‖a‖₁ (1 + e^{−s}) with one trained s a system, so
            that short memory is possible; "none" takes a as it is.
        init: "random", a standard normal; or "shift", a = 0, which needs ``norm="none"``. B, C and
            F start normal, with ‖·‖₁ = 1.
        closed_loop: whether F is there.
        feedthrough: whether D is there, one a system (it starts standard normal).
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: an option out of its range, or heads that do not divide ``d_model``.
    """

    roles: ClassVar[dict[str, str]] = {
        "a": "A",
        "log_scale": "A",
        "B": "B",
        "C": "C",
        "D": "D",
        "F": "C",
    }

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        heads: int = 1,
        norm: str = "l1",
        init: str = "random",
        closed_loop: bool = False,
        feedthrough: bool = True,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if d_model < 1 or d_state < 1 or heads < 1 or d_model % heads:
            raise ValueError(
                f"Companion needs sizes of at least 1 and heads that divide d_model; given "
                f"d_model = {d_model}, d_state = {d_state}, heads = {heads}"
            )
        if norm not in ("l1", "scaled", "none"):
            raise ValueError(f'norm is "l1", "scaled" or "none"; given {norm!r}')
        if init not in ("random", "shift") or (init == "shift" and norm != "none"):
            raise ValueError(
                f'init is "random", or "shift" with norm="none"; given {init!r} with norm={norm!r}'
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.d_state, self.heads, self.norm = d_state, heads, norm
        systems = d_model // heads

        def draw(scaled: bool = True) -> nn.Parameter:
            x = rng.standard_normal((systems, d_state))
            x = x / np.abs(x).sum(1, keepdims=True) if scaled else x
            return nn.Parameter(torch.tensor(x, dtype=torch.get_default_dtype()))

        self.a = draw(norm == "none")
        if init == "shift":
            nn.init.zeros_(self.a)
        self.B, self.C = draw(), draw()
        d = torch.tensor(rng.standard_normal(systems), dtype=torch.get_default_dtype())
        self.D = nn.Parameter(d) if feedthrough else None
        self.F = draw() if closed_loop else None
        # sigmoid(3) = 0.95
        self.log_scale = nn.Parameter(torch.full((systems,), 3.0)) if norm == "scaled" else None

    def column(self) -> Tensor:
        """The last column a of the matrix of every system, normalised, (systems, N)."""
        a = self._work(self.a)
        if self.norm == "none":
            return a
        size = a.abs().sum(1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)
        if self.log_scale is None:
            return a / size
        return a / size * torch.sigmoid(self._work(self.log_scale)).unsqueeze(-1)

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of A, complex, (systems, N)."""
        a = self.column()
        shift = torch.diag(torch.ones(self.d_state - 1, dtype=a.dtype, device=a.device), -1)
        last = torch.nn.functional.pad(a.unsqueeze(-1), (self.d_state - 1, 0))
        return torch.linalg.eigvals(shift + last)

    def _work(self, parameter: Tensor) -> Tensor:
        return parameter.to(self.state_dtype)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros (batch, d_model, N)."""
        return self.rest(batch, self.d_input, self.d_state)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        a, alive = self.column(), _alive(reset)
        # The last components alone drive the columns: the rest of the states is a filter of them.
        ends = self._convolve(u, a, self._last_unit(a), None, state, reset, alive)
        last = self._last(u, ends, a, state, reset, alive, lengths)
        return self._convolve(u, a, self._work(self.C), self.D, state, reset, alive), last

    def _check_state(self, state: State, batch: int) -> State:
        # The kernel of a first state costs as much as all else; rest has none.
        return None if state is None else super()._check_state(state, batch)

    def _last_unit(self, a: Tensor) -> Tensor:
        unit = torch.zeros_like(a)
        unit[:, -1] = 1
        return unit

    def _convolve(
        self,
        u: Tensor,
        a: Tensor,
        c: Tensor,
        d: Tensor | None,
        start: Tensor | None,
        reset: Tensor | None,
        alive: Tensor | None,
    ) -> Tensor:
        """The output c x_k + d u_k of all steps, (B, L, d_model)."""
        batch, length, h = u.shape[0], u.shape[1], self.heads
        b = self._work(self.B)
        taps = companion_kernel(a, b, c, length).repeat_interleave(h, 0)
        direct = None if d is None else d.repeat_interleave(h, 0)
        y, _ = fft_conv(u, taps, direct, reset=reset, need_state=False)
        if start is None:
            return y
        # What the first state leaves: c A^{k+1} x.
        first = self._advance(start, a).unflatten(1, (-1, h)).movedim(2, 1).flatten(0, 1)
        free = companion_kernel(a, b, c, length, start=first)
        free = free.unflatten(0, (batch, h)).movedim(1, 2).flatten(1, 2).mT
        if alive is not None:
            free = mask_input(free, alive)
        return y + free.to(y.dtype)

    def _advance(self, x: Tensor, a: Tensor) -> Tensor:
        """A x, for (B, d_model, N)."""
        shifted = nn.functional.pad(x[..., :-1], (1, 0))
        return shifted + a.repeat_interleave(self.heads, 0) * x[..., -1:]

    def _last(
        self,
        u: Tensor,
        ends: Tensor,
        a: Tensor,
        start: Tensor | None,
        reset: Tensor | None,
        alive: Tensor | None,
        lengths: Tensor | None,
    ) -> Tensor:
        """The last state, x[i] = Σ_{m≤i} a_{i−m} v_{T−1−m} + B_{i−m} u_{T−m} + (S^T x_0)[i]."""
        batch, length, n = u.shape[0], u.shape[1], self.d_state
        first: Tensor = self.init_state(batch) if start is None else start
        before = torch.cat([first[:, None, :, -1].to(ends.dtype), ends[:, :-1]], 1)
        if reset is not None:
            before = mask_input(before, ~reset)
        none = first.new_zeros(batch, n, self.d_input)
        x = first.new_zeros(batch, n, self.d_input)
        for sequence, column in ((before, a), (u, self._work(self.B))):
            window = final_window(sequence, none, reset, lengths)
            taps = column.repeat_interleave(self.heads, 0)
            x = x + fft_conv(window.flip(1), taps, need_state=False)[0]
        count = torch.full((batch,), length, device=u.device) if lengths is None else lengths.long()
        place = torch.arange(n, device=u.device) - count.unsqueeze(-1)
        kept = place >= 0
        if alive is not None:
            at = (count - 1).clamp_min(0).unsqueeze(-1)
            kept = kept & (alive.gather(1, at) | (count == 0).unsqueeze(-1))
        index = place.clamp_min(0).unsqueeze(1).expand_as(first)
        shifted = torch.where(kept.unsqueeze(1), first.gather(-1, index), torch.zeros_like(first))
        return x.mT + shifted

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        b, c = (self._work(p).repeat_interleave(self.heads, 0) for p in (self.B, self.C))
        state = self.init_state(u.shape[0]) if state is None else state
        x = self._advance(state, self.column()) + b * u.unsqueeze(-1).to(state.dtype)
        y = (c * x).sum(-1)
        if self.D is not None:
            y = y + self._work(self.D).repeat_interleave(self.heads, 0) * u
        return y, x

    def next_input(
        self,
        u: Tensor,
        state: State = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tensor:
        """û_{k+1} = F x_k along a sequence: what the loop would be fed after every sample.

        Args:
            u: input (B, L, d_model).
            state: state before the first sample, or None for rest.
            mask: as in :meth:`forward`.
            reset: as in :meth:`forward`.

        Returns:
            (B, L, d_model), entry k the prediction of u_{k+1}.

        Raises:
            ValueError: a layer without ``closed_loop``, or a shape that does not fit.
        """
        check_sequence(self, u, None, mask, reset, None)
        feedback, start = self._feedback(), self._check_state(state, u.shape[0])
        return self._convolve(
            mask_input(u, mask), self.column(), feedback, None, start, reset, _alive(reset)
        )

    def rollout(self, state: State, horizon: int) -> tuple[Tensor, Tensor, State]:
        """Run the closed loop, û_h = F x_{h−1} and y_h, x_h = step(û_h, x_{h−1}).

        û_h = F (A + B F)^{h−1} x_0 comes from one kernel, in O((N + H) log (N + H)) a channel. The
        paper's forecast C (A + B F)^h x_0 without D starts at h = 0 with C x_0, which is the
        output of the step that led to x_0; y_1 here is its entry h = 1.

        Args:
            state: x_0, (B, d_model, N), such as the state after a sequence.
            horizon: H, at least 1.

        Returns:
            y (B, H, d_model), û (B, H, d_model), and the state after H steps.

        Raises:
            ValueError: a layer without ``closed_loop``, a state that does not fit, or a horizon
                below 1.
        """
        feedback = self._feedback()
        if horizon < 1:
            raise ValueError(f"rollout needs a horizon of at least 1; given {horizon}")
        batch, h = state.shape[0], self.heads
        state = self._check_state(state, batch)
        start = state.unflatten(1, (-1, h)).movedim(2, 1).flatten(0, 1)
        u = companion_kernel(
            self.column(), self._work(self.B), feedback, horizon, feedback=feedback, start=start
        )
        u = u.unflatten(0, (batch, h)).movedim(1, 2).flatten(1, 2).mT.contiguous()
        y, state = self(u, state)
        return y, u, state

    def _feedback(self) -> Tensor:
        if self.F is None:
            raise ValueError("this Companion has no feedback F; build it with closed_loop=True")
        return self._work(self.F)


def _alive(reset: Tensor | None) -> Tensor | None:
    """True at steps before the first reset, where the first state still counts."""
    return None if reset is None else reset.cumsum(1) == 0
