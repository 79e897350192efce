"""H3: products of a shift system and a diagonal system between projections."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.contract import State
from statewise.nn.diagonal_bank import DiagonalBank
from statewise.nn.initialisers import ContinuousLaw, S4DLin
from statewise.nn.recurrence import Recurrence
from statewise.nn.static import linear
from statewise.nn.windows import convolve, convolve_sample, convolve_short

SHORT = 8
"""Taps of a shift that is summed directly; longer ones are convolved by transforms."""


class H3State(NamedTuple):
    """State of an H3 layer.

    Attributes:
        window: the last keys, (B, shift − 1, d_model), oldest first.
        x: states of the diagonal systems, (B, d_model · head_dim, d_state, 2).
    """

    window: Tensor
    x: Tensor


class H3(Recurrence):
    """y = W_o (q ⊙ diag(shift(k) ⊙ v)) with q = W_q u, k = W_k u, v = W_v u (each with a bias).

    shift is a filter of ``shift`` taps for each channel (the system whose matrix is the shift, and
    B = e_1) with a direct term, diag a diagonal system for each head. The shift lets a key meet the
    value of a later step, the product stores it, and q asks for it.

    With p = ``head_dim`` channels a head, the products are outer ones: Z_t = shift(k)_t v_tᵀ is
    p × p, diag runs over each of its entries with the same system, and the head's output is
    diag(Z)_tᵀ q_t. The state has p² entries a head.

    ``dt`` is refused, because the shift counts samples. A shift of more than 8 taps is convolved by
    transforms.

    Source: Fu et al., Hungry hungry hippos (2212.14052), section 3.

    Args:
        d_model: D, inputs and outputs.
        d_state: complex states of a diagonal system.
        shift: taps of the shift system.
        head_dim: p, which divides ``d_model``.
        law: where the diagonal systems' λ start, ``S4DLin()`` for None.
        dt_min: smallest initial time step; one a head is trained.
        dt_max: largest initial time step.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, or heads that do not divide ``d_model``.
    """

    roles: ClassVar[dict[str, str]] = {"taps": "C", "direct": "D"}

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 32,
        shift: int = 64,
        head_dim: int = 1,
        law: ContinuousLaw | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if d_model < 1 or shift < 1 or head_dim < 1 or d_model % head_dim:
            raise ValueError(
                f"H3 needs sizes of at least 1 and head_dim that divides d_model; given d_model = "
                f"{d_model}, shift = {shift}, head_dim = {head_dim}"
            )
        rng = np.random.default_rng(seed)
        self.d_input = self.d_output = d_model
        self.head_dim, self.heads = head_dim, d_model // head_dim
        self.enter = linear(d_model, 3 * d_model, rng)
        dtype = torch.get_default_dtype()
        taps = rng.standard_normal((d_model, shift)) / shift**0.5
        self.taps = nn.Parameter(torch.tensor(taps, dtype=dtype))
        self.direct = nn.Parameter(torch.tensor(rng.standard_normal(d_model), dtype=dtype))
        law = S4DLin() if law is None else law
        self.diag = DiagonalBank(self.heads, d_state, law, dt_min, dt_max, rng)
        self.leave = linear(d_model, d_model, rng)

    def init_state(self, batch: int) -> State:
        """The state of rest: zeros, see :class:`H3State`."""
        width = self.d_input * self.head_dim
        return H3State(
            self.rest(batch, self.taps.shape[1] - 1, self.d_input),
            self.rest(batch, width, self.diag.d_state, 2),
        )

    def kernel(self) -> Tensor:
        """Taps of the shift system with its direct term, (D, shift)."""
        taps, direct = self.taps.to(self.state_dtype), self.direct.to(self.state_dtype)
        return torch.cat([taps[:, :1] + direct.unsqueeze(-1), taps[:, 1:]], 1)

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        q, k, v = self.enter(u).chunk(3, -1)
        taps = self.kernel()
        run = convolve_short if taps.shape[1] <= SHORT else convolve
        k, window = run(k, taps, state.window, reset=reset, lengths=lengths)
        stored, x = self.diag(
            *(self._products(k, v), state.x),
            reset=reset,
            lengths=lengths,
            copies=self.head_dim**2,
        )
        return self._answer(q, stored), H3State(window, x)

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        q, k, v = self.enter(u).chunk(3, -1)
        k, window = convolve_sample(k, self.kernel(), state.window)
        stored, x = self.diag(
            self._products(k.to(v.dtype), v).unsqueeze(1), state.x, copies=self.head_dim**2
        )
        return self._answer(q, stored.squeeze(1)), H3State(window, x)

    def _products(self, k: Tensor, v: Tensor) -> Tensor:
        """Outer products of every head, (..., D · p), the channel of the key first."""
        if self.head_dim == 1:
            return k * v
        k, v = (x.unflatten(-1, (self.heads, self.head_dim)) for x in (k, v))
        return (k.unsqueeze(-1) * v.unsqueeze(-2)).flatten(-3)

    def _answer(self, q: Tensor, stored: Tensor) -> Tensor:
        if self.head_dim == 1:
            return self.leave(q * stored)
        p = self.head_dim
        q = q.unflatten(-1, (self.heads, p, 1))
        return self.leave((q * stored.unflatten(-1, (self.heads, p, p))).sum(-2).flatten(-2))
