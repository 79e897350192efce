"""Steps of Mamba and Mamba-2 layers, equation by equation; shapes are those of op.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear, silu, softplus

if TYPE_CHECKING:
    from statewise.ops.mamba_step.op import Mamba2Weights, MambaWeights


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any real floating-point type."""
    return None


def _convolved(
    x: Tensor, window: Tensor, taps: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """silu(Σ_k w_k ⊙ x_{t−k} + bias) (B, D), and the next window."""
    joined = torch.cat([window, x.unsqueeze(1).to(window.dtype)], 1)
    total = (joined * taps.mT).sum(1)
    # Rounded as the convolution of a sequence rounds it.
    y = silu(total if bias is None else total + bias).to(x.dtype)
    return y, joined[:, 1:].clone()


def _placed(after: Tensor, h: Tensor, overwrite: bool) -> Tensor:
    return h.copy_(after) if overwrite else after


def mamba(
    u: Tensor,
    window: Tensor,
    h: Tensor,
    weights: MambaWeights,
    scale: Tensor | None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`~statewise.ops.mamba_step`."""
    p = weights
    x, z = linear(u, p.in_weight, p.in_bias).chunk(2, -1)
    x, window = _convolved(x, window, p.conv_weight, p.conv_bias)
    rank, states = p.dt_weight.shape[1], p.A_log.shape[1]
    step, B, C = linear(x, p.x_weight).split([rank, states, states], -1)
    wide = h.dtype
    delta = softplus(linear(step.to(wide), p.dt_weight.to(wide), p.dt_bias.to(wide)))
    if scale is not None:
        delta = delta * scale.unsqueeze(-1)
    decay = torch.exp(-delta.unsqueeze(-1) * torch.exp(p.A_log.to(wide)))
    h = _placed(decay * h + (delta * x).unsqueeze(-1) * B.unsqueeze(1), h, overwrite)
    y = ((h * C.unsqueeze(1)).sum(-1) + p.D.to(wide) * x) * silu(z.to(wide))
    return linear(y.to(u.dtype), p.out_weight, p.out_bias), window, h


def mamba2(
    u: Tensor,
    window: Tensor,
    h: Tensor,
    weights: Mamba2Weights,
    n_groups: int,
    norm_before_gate: bool,
    eps: float,
    dt_limit: tuple[float, float],
    scale: Tensor | None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`~statewise.ops.mamba2_step`."""
    p = weights
    heads, width, states = h.shape[1:]
    wide, mixed = heads * width, p.conv_weight.shape[0]
    beside = p.out_weight.shape[1] - wide
    entered = linear(u, p.in_weight, p.in_bias)
    gate, value, z, xbc, step = entered.split([beside, beside, wide, mixed, heads], -1)
    xbc, window = _convolved(xbc, window, p.conv_weight, p.conv_bias)
    x, B, C = xbc.split([wide, n_groups * states, n_groups * states], -1)
    x = x.unflatten(-1, (heads, width))
    B, C = (
        part.unflatten(-1, (n_groups, states)).repeat_interleave(heads // n_groups, dim=1)
        for part in (B, C)
    )
    z, step = z.to(h.dtype), step.to(h.dtype)
    delta = softplus(step + p.dt_bias).clamp(*dt_limit)
    if scale is not None:
        delta = delta * scale.unsqueeze(-1)
    decay = torch.exp(-delta * torch.exp(p.A_log.to(h.dtype)))
    after = decay[..., None, None] * h + (delta.unsqueeze(-1) * x).unsqueeze(-1) * B.unsqueeze(2)
    h, D = _placed(after, h, overwrite), p.D.to(h.dtype).view(heads, -1)
    y = ((h * C.unsqueeze(2)).sum(-1) + D * x).flatten(1)
    if p.norm_weight is None or not norm_before_gate:
        y = y * silu(z)
    if p.norm_weight is not None:
        groups = y.unflatten(-1, (n_groups, -1))
        y = (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + eps)).flatten(1)
        y = y * p.norm_weight
        y = y * silu(z) if norm_before_gate else y
    y = torch.cat([silu(gate) * value, y.to(u.dtype)], -1)
    return linear(y, p.out_weight, p.out_bias), window, h
