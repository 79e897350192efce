"""The ParaGRU and ParaLSTM scans as readable loops, and their adjoints as loops.

Shapes: pre (B, L, 3, D), a (3, D), w (2, D), h and c (B, L, D), reset (B, L); the state is (B, D)
for the GRU and (B, D, 2), pairs (c, h), for the LSTM. See README.md for the derivation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from statewise.ops.newton_scan.cells import gru_cell, lstm_cell
from statewise.ops.precision import accumulation_dtype


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def _cleared(state: Tensor, reset: Tensor | None, t: int) -> Tensor:
    """The state, zero where it is reset before step t."""
    if reset is None:
        return state
    fresh = reset[:, t].reshape(-1, *(1,) * (state.dim() - 1))
    return torch.where(fresh, torch.zeros_like(state), state)


def _walk(
    step: Callable[[Tensor, Tensor], Tensor],
    pre: Tensor,
    start: Tensor,
    reset: Tensor | None,
    reverse: bool,
) -> Tensor:
    """Every state, (B, L, ...)."""
    states = start.new_empty((start.shape[0], pre.shape[1], *start.shape[1:]))
    state = start
    for t in _order(pre.shape[1], reverse):
        state = step(_cleared(state, reset, t), pre[:, t])
        states[:, t] = state
    return states


def gru_forward(
    pre: Tensor, a: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h_t = gru_cell(h_{t−1}, pre_t).

    Args:
        pre: pre-activations in the order z, r, n, (B, L, 3, D).
        a: recurrent weights in that order, (3, D), in the accumulation type.
        h0: state before the first step in scan order, (B, D), in that type, or None for zero.
        reset: (B, L) bool, True where the state is zeroed before the step, or None.
        reverse: scan from the last step to the first.

    Returns:
        h (B, L, D) in the type of ``pre``, and the last state (B, D) in the accumulation type.
    """
    dtype = accumulation_dtype(pre.dtype)
    start = pre.new_zeros((pre.shape[0], pre.shape[3]), dtype=dtype) if h0 is None else h0
    h = _walk(lambda s, p: gru_cell(s, p, a), pre.to(dtype), start, reset, reverse)
    return h.to(pre.dtype), h[:, 0 if reverse else -1].clone()


def lstm_forward(
    pre: Tensor, a: Tensor, w: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(c_t, h_t) = lstm_cell((c_{t−1}, h_{t−1}), pre_t).

    Args:
        pre: pre-activations in the order f, g, o, (B, L, 3, D).
        a: recurrent weights in that order, (3, D), in the accumulation type.
        w: peephole weights in the order f, o, (2, D), in that type.
        h0: pairs (c, h) before the first step, (B, D, 2), in that type, or None for zero.
        reset: as in :func:`gru_forward`.
        reverse: as there.

    Returns:
        h and c (B, L, D) in the type of ``pre``, and the last pairs (B, D, 2) in the
        accumulation type.
    """
    dtype = accumulation_dtype(pre.dtype)
    start = pre.new_zeros((pre.shape[0], pre.shape[3], 2), dtype=dtype) if h0 is None else h0
    states = _walk(lambda s, p: lstm_cell(s, p, a, w), pre.to(dtype), start, reset, reverse)
    c, h = states.to(pre.dtype).unbind(-1)
    return h.clone(), c.clone(), states[:, 0 if reverse else -1].clone()


def _steps_back(
    length: int, reverse: bool, start: Tensor, states: Tensor, reset: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    """Steps against the scan's order, each with the state before it."""
    order = list(_order(length, reverse))
    for k in range(length - 1, -1, -1):
        before = start if k == 0 else states[:, order[k - 1]]
        yield order[k], _cleared(before, reset, order[k])


def gru_backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    pre: Tensor,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """λ_t = ∂h_t + J_{t+1} λ_{t+1}, then one vector-Jacobian product a step with λ_t.

    Args:
        grad_h: gradient of ``h``, (B, L, D), or None for zero.
        grad_last: gradient of the last state, (B, D), or None for zero.
        pre: as given to :func:`gru_forward`.
        a: as given to it.
        h: as returned by it.
        h0: as given to it.
        reset: as given to it.
        reverse: as given to it.

    Returns:
        The gradients of pre (its type), a and h0 (accumulation type); that of ``h0`` is empty
        when there is none.
    """
    dtype = accumulation_dtype(pre.dtype)
    p, states = pre.to(dtype), h.to(dtype)
    start = torch.zeros_like(states[:, 0]) if h0 is None else h0
    carry = torch.zeros_like(start) if grad_last is None else grad_last.to(dtype)
    dpre, da = torch.empty_like(p), torch.zeros_like(a)
    for t, s in _steps_back(p.shape[1], reverse, start, states, reset):
        g = carry if grad_h is None else carry + grad_h[:, t].to(dtype)
        z = torch.sigmoid(a[0] * s + p[:, t, 0])
        r = torch.sigmoid(a[1] * s + p[:, t, 1])
        n = torch.tanh(a[2] * (s * r) + p[:, t, 2])
        dz = g * (n - s) * z * (1 - z)
        dn = g * z * (1 - n * n)
        dr = dn * a[2] * s * r * (1 - r)
        dpre[:, t] = torch.stack([dz, dr, dn], 1)
        da += torch.stack([dz * s, dr * s, dn * s * r]).sum(1)
        carry = _cleared(g * (1 - z) + dz * a[0] + dr * a[1] + dn * a[2] * r, reset, t)
    dh0 = states.new_empty(0) if h0 is None else carry.clone()
    return dpre.to(pre.dtype), da, dh0


def lstm_backward(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    grad_last: Tensor | None,
    pre: Tensor,
    a: Tensor,
    w: Tensor,
    h: Tensor,
    c: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`gru_backward`, for the pairs (c, h).

    Args:
        grad_h: gradient of ``h``, (B, L, D), or None for zero.
        grad_c: gradient of ``c``, (B, L, D), or None for zero.
        grad_last: gradient of the last pairs, (B, D, 2), or None for zero.
        pre: as given to :func:`lstm_forward`.
        a: as given to it.
        w: as given to it.
        h: as returned by it.
        c: as returned by it.
        h0: as given to it.
        reset: as given to it.
        reverse: as given to it.

    Returns:
        The gradients of pre (its type), a, w and h0 (accumulation type); that of ``h0`` is empty
        when there is none.
    """
    dtype = accumulation_dtype(pre.dtype)
    p = pre.to(dtype)
    states = torch.stack([c.to(dtype), h.to(dtype)], -1)
    start = torch.zeros_like(states[:, 0]) if h0 is None else h0
    carry = torch.zeros_like(start) if grad_last is None else grad_last.to(dtype)
    dpre, da, dw = torch.empty_like(p), torch.zeros_like(a), torch.zeros_like(w)
    for t, state in _steps_back(p.shape[1], reverse, start, states, reset):
        gc, gh = carry.unbind(-1)
        gh = gh if grad_h is None else gh + grad_h[:, t].to(dtype)
        gc = gc if grad_c is None else gc + grad_c[:, t].to(dtype)
        sc, sh = state.unbind(-1)
        f = torch.sigmoid(a[0] * sh + p[:, t, 0] + w[0] * sc)
        g = torch.tanh(a[1] * sh + p[:, t, 1])
        new = g + f * (sc - g)
        o = torch.sigmoid(a[2] * sh + p[:, t, 2] + w[1] * new)
        squashed = torch.tanh(new)
        do = gh * squashed * o * (1 - o)
        dnew = gc + gh * o * (1 - squashed * squashed) + do * w[1]
        df = dnew * (sc - g) * f * (1 - f)
        dg = dnew * (1 - f) * (1 - g * g)
        dpre[:, t] = torch.stack([df, dg, do], 1)
        da += torch.stack([df * sh, dg * sh, do * sh]).sum(1)
        dw += torch.stack([df * sc, do * new]).sum(1)
        back = [dnew * f + df * w[0], df * a[0] + dg * a[1] + do * a[2]]
        carry = _cleared(torch.stack(back, -1), reset, t)
    dh0 = states.new_empty(0) if h0 is None else carry.clone()
    return dpre.to(pre.dtype), da, dw, dh0
