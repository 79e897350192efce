"""The short causal convolution as a function of tensors: checks, types, and the operator."""

from __future__ import annotations

from torch import Tensor

from statewise.ops.arguments import (
    REAL,
    check_length,
    check_reset,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.causal_conv1d._library import OP, convolve
from statewise.ops.precision import accumulation_dtype


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    silu: bool = False,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Causal convolution of each channel with a short kernel of its own.

    y_t = φ(Σ_{k<W} w_{W−1−k} ⊙ x_{t−k} + bias), φ the identity or silu(s) = s / (1 + e^{−s}). The
    last tap multiplies the current input, as in ``torch.nn.functional.conv1d``. The state is the
    window of the last W − 1 inputs, oldest first. Half types are computed in float32.
    Differentiable once with respect to x, weight, bias and h0.

    Args:
        x: inputs, (B, L, D).
        weight: taps, (D, W), W ≥ 1.
        bias: (D,), or None for zero.
        h0: the W − 1 inputs before the first step, (B, W − 1, D), oldest first; None for zeros.
        silu: whether φ is silu.
        reset: (B, L) bool; True forgets all inputs before that step.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        y (B, L, D) in the type of ``x``, and the window after the last step (B, W − 1, D) in the
        accumulation type; inputs before the start or a reset are zeros in it.

    Raises:
        ValueError: a shape that does not fit, or no steps at all.
        TypeError: a type that is not real floating-point, or a reset that is not bool.

    Source:
        The convolution of the Mamba block, Gu and Dao (2023), section 3.4.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> y, window = causal_conv1d(x, torch.tensor([[10.0, 1.0]]))
        >>> y.flatten().tolist(), window.flatten().tolist()
        ([1.0, 12.0, 23.0], [3.0])
    """
    require_tensors(OP, x=x, weight=weight)
    optional_tensors(OP, bias=bias, h0=h0)
    floating(OP, "x", x)
    floating(OP, "weight", weight)
    if x.dim() != 3:
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}; it must be (B, L, D)")
    check_length(OP, "x", x)
    batch, length, channels = x.shape
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] == 0:
        raise ValueError(
            f"{OP}: weight has shape {tuple(weight.shape)}; x of shape {tuple(x.shape)} needs "
            f"({channels}, W) with W at least 1"
        )
    taps = weight.shape[1]
    for_x = f"x of shape {tuple(x.shape)}"
    if bias is not None:
        floating(OP, "bias", bias)
        check_shape(OP, "bias", bias, (channels,), for_x)
    if h0 is not None:
        floating(OP, "h0", h0, REAL)
        check_shape(OP, "h0", h0, (batch, taps - 1, channels), f"{for_x} with {taps} taps")
    check_reset(OP, reset, batch, length)
    acc = accumulation_dtype(x.dtype)
    return convolve(
        x,
        weight.to(acc),
        None if bias is None else bias.to(acc),
        None if h0 is None else h0.to(acc),
        reset,
        silu,
        reverse,
    )
