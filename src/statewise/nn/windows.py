"""Convolutions whose state is a window: the last K − 1 inputs of K taps, newest last."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.nn.contract import valid_steps
from statewise.ops import causal_conv1d, fft_conv


def working_dtype(parameter: Tensor) -> torch.dtype:
    """The type of states and taps: that of the parameters, float32 at least."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def final_window(
    u: Tensor, before: Tensor, reset: Tensor | None = None, lengths: Tensor | None = None
) -> Tensor:
    """The last W inputs of every sequence, zero where a reset or the beginning hides them.

    Args:
        u: inputs (B, L, D).
        before: the W inputs before them, (B, W, D), oldest first.
        reset: True where all earlier inputs are forgotten, (B, L).
        lengths: number of valid inputs (B,), or None for all.

    Returns:
        (B, W, D) in the type of ``before``, oldest first.
    """
    batch, length, channels = u.shape
    width = before.shape[1]
    joined = torch.cat([before, u.to(before.dtype)], 1)
    if lengths is None:
        ends = torch.full((batch,), length, device=u.device)
    else:
        ends = lengths.to(u.device)
    places = ends.unsqueeze(-1) + torch.arange(width, device=u.device)
    window = joined.gather(1, places.unsqueeze(-1).expand(batch, width, channels))
    if reset is None:
        return window
    steps = torch.arange(length, device=u.device)
    counted = reset & valid_steps(ends, length)
    last_reset = torch.where(counted, steps, -width - 1).amax(1, keepdim=True)
    hidden = places - width < last_reset
    return torch.where(hidden.unsqueeze(-1), torch.zeros_like(window), window)


def convolve(
    u: Tensor,
    taps: Tensor,
    window: Tensor,
    d: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Long causal convolution by transforms, y_t = Σ_s k_s u_{t−s} + d u_t, with its window.

    Args:
        u: inputs (B, L, D), zero behind ``lengths``.
        taps: (D, K), k_0 first.
        window: the K − 1 inputs before the first, oldest first.
        d: direct term (D,), or None.
        reset: True where all earlier inputs are forgotten, (B, L).
        lengths: number of valid inputs (B,), or None for all.

    Returns:
        Outputs (B, L, D) in the type of ``u``, and the window after the last valid input.
    """
    y, last = fft_conv(u, taps, d, window, reset=reset, need_state=lengths is None)
    if last is None:
        last = final_window(u, window, reset, lengths)
    return y, last.to(window.dtype)


def convolve_short(
    u: Tensor,
    taps: Tensor,
    window: Tensor,
    bias: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Short causal convolution by the definition, y_t = Σ_s k_s u_{t−s} + bias, with its window.

    Takes and gives what :func:`convolve` does, with a bias (D,) in place of the direct term.
    """
    y, last = causal_conv1d(u, taps.flip(-1), bias, window, reset=reset)
    if lengths is not None:
        last = final_window(u, window, reset, lengths)
    return y, last.to(window.dtype)


def convolve_sample(u: Tensor, taps: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """One sample of a causal convolution.

    Args:
        u: input (B, D).
        taps: (D, K), k_0 first.
        window: the K − 1 inputs before it, (B, K − 1, D), oldest first.

    Returns:
        Output (B, D) in the type of the window, and the next window.
    """
    joined = torch.cat([window, u.unsqueeze(1).to(window.dtype)], 1)
    return (joined * taps.flip(-1).mT.to(window.dtype)).sum(1), joined[:, 1:]
