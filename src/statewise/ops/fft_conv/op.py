"""``fft_conv``: the public door, where arguments are checked."""

from __future__ import annotations

from torch import Tensor

from statewise.ops.arguments import (
    check_length,
    check_reset,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.fft_conv._library import conv
from statewise.ops.precision import accumulation_dtype


def fft_conv(
    u: Tensor,
    k: Tensor,
    d: Tensor | None = None,
    state: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
    need_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Causal convolution of every channel with its own taps: y_t = Σ_{s<K} k_s u_{t−s} + d u_t.

    Computed by transforms, in O(L log K) a channel. The state is the last K − 1 inputs, so that a
    sequence cut in parts gives what the whole gives. A reset hides all that came before it; the
    sequence is then cut there, and each part transformed alone.

    A transform mixes every input of a part into every output of it: a NaN or an infinity in u
    spoils the steps before it too, back to the last reset or to the beginning.

    k, d and the state are taken to the accumulation type of u: float32 for half types, else the
    type of u. The last state has that type. Differentiable once with respect to u, k, d and state.

    Args:
        u: inputs, (B, L, D).
        k: taps, (D, K), any K ≥ 1; k_0 weighs the input of the same step.
        d: weight of the input itself, (D,); None for none.
        state: the K − 1 inputs before the first step in scan order, newest last, (B, K − 1, D);
            None for zeros.
        reset: (B, L) bool; True forgets every input before that step.
        reverse: run from the last step to the first, y_t = Σ_s k_s u_{t+s} + d u_t; "before" and
            "last" follow that order.
        need_state: False leaves out the last state, a copy as large as u for as many taps as steps.

    Returns:
        y (B, L, D) in the type of u, and the last state (B, K − 1, D), None unless needed.

    Raises:
        ValueError: a shape that does not fit, or no steps or taps at all.
        TypeError: a type that is not real floating-point, or a reset that is not bool.

    Example:
        >>> import torch
        >>> u, k = torch.tensor([[[1.0], [0.0], [0.0]]]), torch.tensor([[4.0, 2.0]])
        >>> y, last = fft_conv(u, k)
        >>> [round(v, 6) for v in y.flatten().tolist()], last.flatten().tolist()
        ([4.0, 2.0, 0.0], [0.0])
    """
    require_tensors("fft_conv", u=u, k=k)
    optional_tensors("fft_conv", d=d, state=state, reset=reset)
    for label, x in (("u", u), ("k", k), ("d", d), ("state", state)):
        if x is not None:
            floating("fft_conv", label, x)
    if u.dim() != 3:
        raise ValueError(f"fft_conv: u has shape {tuple(u.shape)}; it must be (B, L, D)")
    check_length("fft_conv", "u", u)
    batch, length, channels = u.shape
    if k.dim() != 2 or k.shape[0] != channels or k.shape[1] == 0:
        raise ValueError(
            f"fft_conv: k has shape {tuple(k.shape)}; u of shape {tuple(u.shape)} needs "
            f"({channels}, K) with at least one tap"
        )
    if d is not None:
        check_shape("fft_conv", "d", d, (channels,), f"u of shape {tuple(u.shape)}")
    if state is not None:
        because = f"u of shape {tuple(u.shape)} with {k.shape[1]} taps"
        check_shape("fft_conv", "state", state, (batch, k.shape[1] - 1, channels), because)
    check_reset("fft_conv", reset, batch, length)
    dtype = accumulation_dtype(u.dtype)
    y, last = conv(
        u,
        k.to(dtype),
        None if d is None else d.to(dtype),
        None if state is None else state.to(dtype),
        reset,
        reverse,
        need_state,
    )
    return y, last if need_state else None
