"""The short causal convolution tap by tap, and its adjoint.

Shapes: x (B, L, D), weight (D, W), bias (D,), h0 and last (B, W − 1, D), reset (B, L). See
README.md for the derivation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.precision import accumulation_dtype


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any real floating-point type."""
    return None


def _in_order(x: Tensor, reverse: bool) -> Tensor:
    return x.flip(1) if reverse else x


def _history(x: Tensor, h0: Tensor | None, reset: Tensor | None, taps: int) -> tuple:
    """The inputs with the window in front, (B, W − 1 + L, D), and the segment of each."""
    batch, length, channels = x.shape
    window = x.new_zeros(batch, taps - 1, channels) if h0 is None else h0
    flags = torch.zeros(batch, length, dtype=torch.bool, device=x.device)
    flags = flags if reset is None else reset
    segment = flags.long().cumsum(1)
    before = segment.new_zeros(batch, taps - 1)
    return torch.cat([window, x], 1), torch.cat([before, segment], 1)[..., None]


def _sum(values: Tensor, segment: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Σ_k w_{W−1−k} x_{t−k} + bias over the inputs of the segment of t."""
    taps = weight.shape[1]
    length = values.shape[1] - taps + 1
    total = torch.zeros_like(values[:, :length])
    if bias is not None:
        total = total + bias
    now = segment[:, taps - 1 :]
    for j in range(taps):
        there = slice(j, j + length)
        seen = torch.where(segment[:, there] == now, values[:, there], 0)
        total = total + weight[:, j] * seen
    return total


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """y_t = φ(Σ_k w_{W−1−k} x_{t−k} + bias), and the last W − 1 inputs.

    Args:
        x: inputs, (B, L, D).
        weight: taps, (D, W), in the accumulation type, as bias and h0 are.
        bias: (D,) or None.
        h0: the window before the first step, (B, W − 1, D), or None for zeros.
        reset: (B, L) bool, True where all earlier inputs are forgotten, or None.
        silu: whether φ is silu, else the identity.
        reverse: from the last step to the first.

    Returns:
        y (B, L, D) in the type of ``x``, the last window in the accumulation type.
    """
    taps = weight.shape[1]
    inputs = _in_order(x.to(accumulation_dtype(x.dtype)), reverse)
    flags = None if reset is None else _in_order(reset, reverse)
    values, segment = _history(inputs, h0, flags, taps)
    total = _sum(values, segment, weight, bias)
    y = torch.nn.functional.silu(total) if silu else total
    kept = segment[:, x.shape[1] :] == segment[:, -1:]
    last = torch.where(kept, values[:, x.shape[1] :], 0)
    return _in_order(y, reverse).to(x.dtype).contiguous(), last


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """g_t = ∂y_t φ'(s_t);  ∂x_s = Σ_k w_{W−1−k} g_{s+k},  ∂w_{W−1−k} = Σ_t g_t x_{t−k}.

    Args:
        grad_y: gradient of y, (B, L, D), or None for zero.
        grad_last: gradient of the last window, (B, W − 1, D), or None for zero.
        x: as given to :func:`forward`.
        weight: as given to it.
        bias: as given to it.
        h0: as given to it.
        reset: as given to it.
        silu: as given to it.
        reverse: as given to it.

    Returns:
        The gradients of x, weight, bias and h0; those of absent ones are empty.
    """
    dtype = accumulation_dtype(x.dtype)
    length = x.shape[1]
    taps = weight.shape[1]
    inputs = _in_order(x.to(dtype), reverse)
    flags = None if reset is None else _in_order(reset, reverse)
    values, segment = _history(inputs, h0, flags, taps)
    g = torch.zeros_like(inputs) if grad_y is None else _in_order(grad_y.to(dtype), reverse)
    if silu:
        total = _sum(values, segment, weight, bias)
        gate = torch.sigmoid(total)
        g = g * gate * (1 + total * (1 - gate))
    dvalues = torch.zeros_like(values)
    dweight = torch.zeros_like(weight)
    now = segment[:, taps - 1 :]
    for j in range(taps):
        there = slice(j, j + length)
        same = segment[:, there] == now
        dvalues[:, there] += torch.where(same, weight[:, j] * g, 0)
        dweight[:, j] = torch.where(same, g * values[:, there], 0).sum((0, 1))
    if grad_last is not None:
        kept = segment[:, length:] == segment[:, -1:]
        dvalues[:, length:] += torch.where(kept, grad_last.to(dtype), 0)
    dx = _in_order(dvalues[:, taps - 1 :], reverse).to(x.dtype).contiguous()
    dbias = weight.new_empty(0) if bias is None else g.sum((0, 1))
    dh0 = weight.new_empty(0) if h0 is None else dvalues[:, : taps - 1].clone()
    return dx, dweight, dbias, dh0
