"""``mamba_step`` and ``mamba2_step``: the public door, where arguments are checked."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.arguments import check_shape, floating, require_tensors
from statewise.ops.library import refuse_tangents
from statewise.ops.precision import accumulation_dtype

OP = "mamba_step"

dispatch.register(
    OP,
    reference="statewise.ops.mamba_step.reference",
    cpu="statewise.ops.mamba_step.cpu",
    gpu="statewise.ops.mamba_step.gpu",
)


class MambaWeights(NamedTuple):
    """Parameters of a Mamba layer, by the names of public checkpoints.

    Attributes:
        in_weight: (2 I, K).
        in_bias: (2 I,), or None.
        conv_weight: taps, the last meets the current input, (I, W).
        conv_bias: (I,), or None.
        x_weight: (R + 2 N, I).
        dt_weight: (I, R).
        dt_bias: (I,).
        A_log: (I, N).
        D: (I,).
        out_weight: (K, I).
        out_bias: (K,), or None.
    """

    in_weight: Tensor
    in_bias: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_weight: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_weight: Tensor
    out_bias: Tensor | None


class Mamba2Weights(NamedTuple):
    """Parameters of a Mamba-2 layer, by the names of public checkpoints; S = H P channels of heads.

    Attributes:
        in_weight: (2 J + 2 S + 2 G N + H, K), with J channels beside the heads.
        in_bias: its bias, or None.
        conv_weight: taps, the last meets the current input, (S + 2 G N, W).
        conv_bias: (S + 2 G N,), or None.
        dt_bias: (H,).
        A_log: (H,).
        D: (H,) or (S,).
        norm_weight: (S,), or None for the gate alone.
        out_weight: (K, J + S).
        out_bias: (K,), or None.
    """

    in_weight: Tensor
    in_bias: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    norm_weight: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None


def mamba_step(
    u: Tensor,
    window: Tensor,
    h: Tensor,
    weights: MambaWeights,
    *,
    scale: Tensor | None = None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One sample of a Mamba layer: h ← e^{ΔA} h + Δ x B, out = W_out ((C h + D ⊙ x) ⊙ silu(z)).

    [x, z] = W_in u, x behind the convolution with silu; [δ, B, C] = W_x x,
    Δ = scale · softplus(W_dt δ + b_dt), A = −exp(A_log). Without gradients.

    Args:
        u: inputs (B, K).
        window: the W − 1 inputs of the convolution before, (B, W − 1, I), oldest first.
        h: states (B, I, N).
        weights: the parameters, all of the type of u; window and h have that type too, or float32
            where it is a half type.
        scale: factor of Δ, (B,), in the type of h, or None for 1.
        overwrite: write the next states over h, which then must be contiguous, and return it.

    Returns:
        Outputs (B, K), the next window and the next states.

    Raises:
        ValueError: a shape that does not fit, or a tensor whose gradient is asked for.
        TypeError: tensors of other or of different types.

    Source: Gu and Dao, Mamba (2312.00752), algorithm 2.
    """
    _check_types("mamba_step", u, (window, h, scale), weights)
    _check_overwritten("mamba_step", h, overwrite)
    name, (batch, inner) = "mamba_step", u.shape
    channels, taps = weights.conv_weight.shape
    states = weights.A_log.shape[1]
    _check_shapes(name, weights._asdict(), mamba_shapes(weights, inner), weights.conv_weight)
    given = {"window": window, "h": h, "scale": scale}
    sizes = {"window": (batch, taps - 1, channels), "h": (batch, channels, states)}
    _check_shapes(name, given, sizes | {"scale": (batch,)}, weights.conv_weight)
    backend = dispatch.select(OP, u.device.type, u.dtype)
    return backend.mamba(u, window, h, weights, scale, overwrite)


def mamba2_step(
    u: Tensor,
    window: Tensor,
    h: Tensor,
    weights: Mamba2Weights,
    *,
    n_groups: int = 1,
    norm_before_gate: bool = False,
    eps: float = 1e-5,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    scale: Tensor | None = None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One sample of a Mamba-2 layer: h ← e^{ΔA} h + Δ x Bᵀ, out = W_out norm((h C + D ⊙ x), z).

    [gate, value, z, x, B, C, δ] = W_in u, with x, B and C behind the convolution with silu;
    Δ = scale · clamp(softplus(δ + b_dt)), A = −exp(A_log). What is normalised, and how it is
    gated, says :class:`~statewise.nn.Mamba2`. Without gradients.

    Args:
        u: inputs (B, K).
        window: the W − 1 inputs of the convolution before, (B, W − 1, S + 2 G N), oldest first.
        h: states (B, H, P, N).
        weights: the parameters, all of the type of u; window and h have that type too, or float32
            where it is a half type.
        n_groups: G.
        norm_before_gate: whether the normalised y is gated, instead of the gated one normalised.
        eps: added to the mean square.
        dt_limit: least and largest Δ.
        scale: factor of Δ, (B,), in the type of h, or None for 1.
        overwrite: write the next states over h, which then must be contiguous, and return it.

    Returns:
        Outputs (B, K), the next window and the next states.

    Raises:
        ValueError: a shape that does not fit, or a tensor whose gradient is asked for.
        TypeError: tensors of other or of different types.

    Source: Dao and Gu, Transformers are SSMs (2405.21060), section 7.
    """
    name = "mamba2_step"
    _check_types(name, u, (window, h, scale), weights)
    _check_overwritten(name, h, overwrite)
    if h.dim() != 4 or n_groups < 1 or h.shape[1] % n_groups:
        raise ValueError(
            f"{name}: h has shape {tuple(h.shape)}; it must be (B, H, P, N), with n_groups = "
            f"{n_groups} that divides H"
        )
    batch, inner = u.shape
    heads, width, states = h.shape[1:]
    mixed, taps = weights.conv_weight.shape
    expected = mamba2_shapes(weights, inner, heads, width, n_groups * states)
    _check_shapes(name, weights._asdict(), expected, h)
    sizes = {"window": (batch, taps - 1, mixed), "h": (batch, *h.shape[1:]), "scale": (batch,)}
    _check_shapes(name, {"window": window, "h": h, "scale": scale}, sizes, weights.conv_weight)
    backend = dispatch.select(OP, u.device.type, u.dtype)
    return backend.mamba2(
        u, window, h, weights, n_groups, norm_before_gate, eps, dt_limit, scale, overwrite
    )


def mamba_shapes(weights: MambaWeights, inner: int) -> dict[str, tuple[int, ...]]:
    """Shapes that the parameters of a layer of ``inner`` channels must have, by their names."""
    channels = weights.conv_weight.shape[0]
    rank, states = weights.dt_weight.shape[1], weights.A_log.shape[1]
    return {
        "in_weight": (2 * channels, inner),
        "in_bias": (2 * channels,),
        "conv_bias": (channels,),
        "x_weight": (rank + 2 * states, channels),
        "dt_weight": (channels, rank),
        "dt_bias": (channels,),
        "A_log": (channels, states),
        "D": (channels,),
        "out_weight": (inner, channels),
        "out_bias": (inner,),
    }


def mamba2_shapes(
    weights: Mamba2Weights, inner: int, heads: int, width: int, states: int
) -> dict[str, tuple[int, ...]]:
    """See :func:`mamba_shapes`; ``states`` are those of all groups, G N."""
    mixed, taps = weights.conv_weight.shape
    wide = heads * width
    beside = weights.out_weight.shape[1] - wide
    rows = 2 * beside + wide + mixed + heads
    return {
        "in_weight": (rows, inner),
        "in_bias": (rows,),
        "conv_weight": (wide + 2 * states, taps),
        "conv_bias": (mixed,),
        "dt_bias": (heads,),
        "A_log": (heads,),
        "D": (heads,) if weights.D.numel() == heads else (wide,),
        "norm_weight": (wide,),
        "out_weight": (inner, beside + wide),
        "out_bias": (inner,),
    }


def _check_types(
    name: str, u: Tensor, states: tuple[Tensor | None, ...], weights: tuple[Tensor | None, ...]
) -> None:
    require_tensors(name, u=u)
    floating(name, "u", u)
    if u.dim() != 2:
        raise ValueError(f"{name}: u has shape {tuple(u.shape)}; it must be (B, K)")
    asked = torch.is_grad_enabled()
    kinds = (
        ("states", states, accumulation_dtype(u.dtype)),
        ("weights", (u, *weights), u.dtype),
    )
    refuse_tangents(name, (u,), states, weights)
    for label, group, dtype in kinds:
        for one in group:
            if one is None:
                continue
            if one.dtype is not dtype:
                raise TypeError(
                    f"{name}: u is {u.dtype}, and one of the {label} {one.dtype}; it must be "
                    f"{dtype}"
                )
            if asked and one.requires_grad:
                raise ValueError(
                    f"{name} has no gradient, and one is asked for; call it under torch.no_grad()"
                )


def _check_overwritten(name: str, h: Tensor, overwrite: bool) -> None:
    if overwrite and not h.is_contiguous():
        raise ValueError(
            f"{name} writes over a contiguous h alone; given strides {h.stride()} for "
            f"{tuple(h.shape)}"
        )


def _check_shapes(
    name: str, given: dict[str, Tensor | None], expected: dict[str, tuple[int, ...]], other: Tensor
) -> None:
    for label, shape in expected.items():
        one = given[label]
        if one is not None and one.shape != shape:
            check_shape(name, label, one, shape, f"a tensor of {tuple(other.shape)} beside it")
