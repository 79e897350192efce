"""``para_gru`` and ``para_lstm``: nonlinear recurrences with fused kernels, and their checks."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import (
    check_length,
    check_reset,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.newton_scan._library import GRU, LSTM, gru, lstm
from statewise.ops.precision import accumulation_dtype


def para_gru(
    pre: Tensor,
    a: Tensor,
    h0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The ParaGRU recurrence over a whole sequence: h_t = (1 − z_t) ⊙ h_{t−1} + z_t ⊙ n_t.

    z = σ(a_z ⊙ h + p_z),  r = σ(a_r ⊙ h + p_r),  n = tanh(a_n ⊙ (h ⊙ r) + p_n), with h = h_{t−1}.

    Every back end gives the sequential answer. On a GPU with few channels, stretches of time run
    at once and Newton's method joins them, until neighbours agree to rounding; that always ends,
    for any weights. Types and precision: half-precision ``pre`` is computed in float32, with
    weights and states in float32; wider weights make all wider. Differentiable once with respect
    to pre, a and h0.

    Args:
        pre: pre-activations p = W x + b in the order z, r, n, (B, L, 3, D).
        a: diagonals of the recurrent matrices in that order, (3, D).
        h0: state before the first step, (B, D); None for zero.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        Every state h, (B, L, D), and the last one in scan order, (B, D).

    Raises:
        ValueError: a shape that does not fit, or no steps at all.
        TypeError: a type that is not real floating-point, or a reset that is not bool.

    Source: ParaRNN (arXiv 2510.21450), ParaGRU.

    Example:
        >>> import torch
        >>> h, last = para_gru(torch.zeros(1, 2, 3, 1), torch.zeros(3, 1), torch.ones(1, 1))
        >>> h.flatten().tolist(), last.item()
        ([0.5, 0.25], 0.25)
    """
    pre, a, h0 = _prepare(GRU, pre, a, h0, reset, ())
    return gru(pre, a, h0, reset, reverse)


def para_lstm(
    pre: Tensor,
    a: Tensor,
    w: Tensor,
    h0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The ParaLSTM recurrence over a whole sequence: c' = f ⊙ c + (1 − f) ⊙ g, h' = o ⊙ tanh(c').

    f = σ(a_f ⊙ h + p_f + w_f ⊙ c),  g = tanh(a_g ⊙ h + p_g),  o = σ(a_o ⊙ h + p_o + w_o ⊙ c').

    As for :func:`para_gru`, every back end gives the sequential answer. Differentiable once with
    respect to pre, a, w and h0.

    Args:
        pre: pre-activations p = W x + b in the order f, g, o, (B, L, 3, D).
        a: diagonals of the recurrent matrices in that order, (3, D).
        w: peephole weights in the order f, o, (2, D).
        h0: state before the first step, pairs (c, h), (B, D, 2); None for zero.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        Every output h, (B, L, D), and the last state in scan order, (B, D, 2).

    Raises:
        ValueError: a shape that does not fit, or no steps at all.
        TypeError: a type that is not real floating-point, or a reset that is not bool.

    Source: ParaRNN (arXiv 2510.21450), ParaLSTM.

    Example:
        >>> import torch
        >>> start = torch.tensor([[[1.0, 0.0]]])
        >>> zero = torch.zeros(1, 2, 3, 1), torch.zeros(3, 1), torch.zeros(2, 1)
        >>> para_lstm(*zero, start)[1][0, 0, 0].item()
        0.25
    """
    require_tensors(LSTM, w=w)
    floating(LSTM, "w", w)
    pre, a, h0 = _prepare(LSTM, pre, a, h0, reset, (2,), w)
    check_shape(LSTM, "w", w, (2, pre.shape[3]), f"pre of shape {tuple(pre.shape)}")
    h, _, last = lstm(pre, a, w.to(a.dtype), h0, reset, reverse)
    return h, last


def _prepare(
    op: str,
    pre: Tensor,
    a: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    state: tuple[int, ...],
    *more: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check and convert: ``pre`` to the type of h, the others to the accumulation type."""
    require_tensors(op, pre=pre, a=a)
    optional_tensors(op, h0=h0, reset=reset)
    floating(op, "pre", pre)
    floating(op, "a", a)
    shape = tuple(pre.shape)
    if len(shape) != 4 or shape[2] != 3:
        raise ValueError(f"{op}: pre has shape {shape}; it must be (B, L, 3, D)")
    check_length(op, "pre", pre)
    because = f"pre of shape {shape}"
    check_shape(op, "a", a, (3, shape[3]), because)
    acc = accumulation_dtype(pre.dtype)
    for x in (a, *more):
        acc = torch.promote_types(acc, x.dtype)
    if h0 is not None:
        floating(op, "h0", h0)
        check_shape(op, "h0", h0, (shape[0], shape[3], *state), because)
        acc = torch.promote_types(acc, h0.dtype)
    check_reset(op, reset, shape[0], shape[1])
    if acc is not accumulation_dtype(pre.dtype):
        pre = pre.to(acc)
    return pre, a.to(acc), None if h0 is None else h0.to(acc)
