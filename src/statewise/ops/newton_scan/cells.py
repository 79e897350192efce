"""The ParaGRU and ParaLSTM cells as pure functions, with their Jacobians in closed form.

Both have a recurrence that is diagonal over channels: every gate of channel d sees the state of
channel d alone, so the Jacobian of the state is diagonal (GRU), or made of 2×2 blocks (LSTM,
whose channel has the pair c, h for a state). The input enters through pre-activations, computed
for all time at once.

Source: ParaRNN (arXiv 2510.21450), the GRU and LSTM cells with diagonal recurrent matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from statewise.ops.newton_scan.structure import Blocks, Diagonal, Structure


def _gru_gates(h: Tensor, pre: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = torch.sigmoid(a[0] * h + pre[..., 0, :])
    r = torch.sigmoid(a[1] * h + pre[..., 1, :])
    return z, r, torch.tanh(a[2] * (h * r) + pre[..., 2, :])


def gru_cell(h: Tensor, pre: Tensor, a: Tensor) -> Tensor:
    """One step of ParaGRU: h' = (1 − z) ⊙ h + z ⊙ n.

    z = σ(a_z ⊙ h + p_z),  r = σ(a_r ⊙ h + p_r),  n = tanh(a_n ⊙ (h ⊙ r) + p_n).

    Args:
        h: state, (..., D).
        pre: pre-activations p = W x + b in the order z, r, n, (..., 3, D).
        a: diagonals of the recurrent matrices in that order, (3, D).

    Returns:
        The next state, (..., D).
    """
    z, _, n = _gru_gates(h, pre, a)
    return h + z * (n - h)


def gru_jacobian(h: Tensor, pre: Tensor, a: Tensor) -> Tensor:
    """The diagonal of ∂h'/∂h of :func:`gru_cell`, (..., D); arguments are those of the cell.

    (1 − z) + (n − h) a_z z(1 − z) + z (1 − n²) a_n (r + h a_r r(1 − r)).
    """
    z, r, n = _gru_gates(h, pre, a)
    candidate = z * (1 - n * n) * a[2] * (r + h * a[1] * r * (1 - r))
    return (1 - z) + (n - h) * a[0] * z * (1 - z) + candidate


def _lstm_gates(state: Tensor, pre: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    c, h = state.unbind(-1)
    f = torch.sigmoid(a[0] * h + pre[..., 0, :] + w[0] * c)
    g = torch.tanh(a[1] * h + pre[..., 1, :])
    new = g + f * (c - g)
    o = torch.sigmoid(a[2] * h + pre[..., 2, :] + w[1] * new)
    return c, f, g, new, o


def lstm_cell(state: Tensor, pre: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """One step of ParaLSTM: c' = f ⊙ c + (1 − f) ⊙ g,  h' = o ⊙ tanh(c').

    f = σ(a_f ⊙ h + p_f + w_f ⊙ c),  g = tanh(a_g ⊙ h + p_g),  o = σ(a_o ⊙ h + p_o + w_o ⊙ c'):
    the input gate is 1 − f, and the output gate sees the new cell.

    Args:
        state: pairs (c, h), (..., D, 2).
        pre: pre-activations in the order f, g, o, (..., 3, D).
        a: diagonals of the recurrent matrices in that order, (3, D).
        w: peephole weights in the order f, o, (2, D).

    Returns:
        The next pairs, (..., D, 2).
    """
    _, _, _, new, o = _lstm_gates(state, pre, a, w)
    return torch.stack([new, o * torch.tanh(new)], -1)


def lstm_jacobian(state: Tensor, pre: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """The blocks ∂(c', h')/∂(c, h) of :func:`lstm_cell`, (..., D, 2, 2); arguments as there."""
    c, f, g, new, o = _lstm_gates(state, pre, a, w)
    squashed = torch.tanh(new)
    slope_f, slope_o = f * (1 - f), o * (1 - o)
    cc = f + w[0] * slope_f * (c - g)
    ch = a[0] * slope_f * (c - g) + (1 - f) * (1 - g * g) * a[1]
    through = w[1] * slope_o * squashed + o * (1 - squashed * squashed)
    hh = a[2] * slope_o * squashed + ch * through
    return torch.stack([torch.stack([cc, ch], -1), torch.stack([cc * through, hh], -1)], -2)


@dataclass(frozen=True, eq=False)
class ParaGRUCell:
    """:func:`gru_cell` for :func:`newton_scan`: x is (B, L, 3, D) and the state (B, D).

    Attributes:
        a: diagonals of the recurrent matrices, (3, D).
    """

    a: Tensor

    @property
    def size(self) -> int:
        """D."""
        return self.a.shape[-1]

    @property
    def structure(self) -> Structure:
        """The Jacobian is diagonal."""
        return Diagonal()

    def __call__(self, h: Tensor, x: Tensor) -> Tensor:
        """The next state, (..., D)."""
        return gru_cell(h, x, self.a)

    def jacobian(self, h: Tensor, x: Tensor) -> Tensor:
        """Its diagonal, (..., D)."""
        return gru_jacobian(h, x, self.a)


@dataclass(frozen=True, eq=False)
class ParaLSTMCell:
    """:func:`lstm_cell` for :func:`newton_scan`: x is (B, L, 3, D) and the state (B, 2 D).

    The state is D pairs (c, h), one after the other.

    Attributes:
        a: diagonals of the recurrent matrices, (3, D).
        w: peephole weights, (2, D).
    """

    a: Tensor
    w: Tensor

    @property
    def size(self) -> int:
        """2 D."""
        return 2 * self.a.shape[-1]

    @property
    def structure(self) -> Structure:
        """The Jacobian has D blocks of 2×2."""
        return Blocks(2)

    def __call__(self, h: Tensor, x: Tensor) -> Tensor:
        """The next state, (..., 2 D)."""
        return lstm_cell(h.unflatten(-1, (-1, 2)), x, self.a, self.w).flatten(-2)

    def jacobian(self, h: Tensor, x: Tensor) -> Tensor:
        """Its blocks, (..., D, 2, 2)."""
        return lstm_jacobian(h.unflatten(-1, (-1, 2)), x, self.a, self.w)
