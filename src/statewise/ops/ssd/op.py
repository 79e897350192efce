"""``ssd`` and ``linear_attention``: the public door, where arguments are checked."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import softplus as _softplus

from statewise.ops.arguments import (
    check_length,
    check_reset,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.precision import accumulation_dtype
from statewise.ops.ssd._library import core
from statewise.ops.ssd._steps import steps


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Selective state space with one decay per head: the core of Mamba-2.

    Per head, h_t = exp(Δ_t A) h_{t−1} + Δ_t x_t B_tᵀ and y_t = (h_t C_t + D ⊙ x_t) ⊙ silu(z_t),
    with Δ_t = clamp(dt_t + dt_bias, dt_limit), softplus before the clamp where asked for. Where a
    sequence starts, at its first step without ``h0`` and at each reset, h_t = Δ_t x_t B_tᵀ.

    x, B, C and z promote together to the type of y. Δ, the decays and the state are computed in
    float32 where that is half precision, else in that type. Differentiable once with respect to
    every tensor but ``reset``.

    Args:
        x: inputs, (B, L, H, P): H heads of dimension P.
        dt: step sizes before bias, softplus and clamp, (B, L, H).
        A: rate of each head, (H,); negative for a decay.
        B: input directions, (B, L, G, N) with G dividing H: H/G heads in a row share a group;
            (B, L, N) for one group.
        C: output directions, of the shape of ``B``.
        D: skip, (H,) or (H, P); None for none.
        z: gate, (B, L, H, P); None for none.
        dt_bias: added to ``dt``, (H,); None for 0.
        h0: state before the first step, (B, H, P, N); None for a sequence that starts here.
        softplus: pass the biased step sizes through log(1 + exp(·)).
        dt_limit: least and largest Δ.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        y, (B, L, H, P), and the last state in scan order, (B, H, P, N), float32 for half types.

    Raises:
        ValueError: a shape that does not fit, no steps at all, or limits out of order.
        TypeError: an argument that is not a floating-point tensor, or a reset that is not bool.

    Source: Dao and Gu, "Transformers are SSMs" (arXiv:2405.21060), equations 1, 2 and section 6.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 3, 1)
        >>> y, last = ssd(one[..., None], one, torch.tensor([-0.6931472]), one, one)
        >>> y.flatten().tolist(), last.item()
        ([1.0, 1.5, 1.75], 1.75)
    """
    name = "ssd"
    require_tensors(name, x=x, dt=dt, A=A, B=B, C=C)
    optional_tensors(name, D=D, z=z, dt_bias=dt_bias, h0=h0)
    for label, one in (("dt", dt), ("A", A), ("D", D), ("dt_bias", dt_bias)):
        if one is not None:
            floating(name, label, one)
    low, high = dt_limit
    if not low <= high:
        raise ValueError(f"{name}: dt_limit is {dt_limit}; the first must not exceed the second")
    x, B, C, z, h0 = _common(name, ("x", "B", "C"), x, B, C, z, h0)
    batch, length, heads, width = x.shape
    because = f"x of shape {tuple(x.shape)}"
    check_shape(name, "dt", dt, (batch, length, heads), because)
    check_shape(name, "A", A, (heads,), because)
    if dt_bias is not None:
        check_shape(name, "dt_bias", dt_bias, (heads,), because)
    if z is not None:
        check_shape(name, "z", z, x.shape, because)
    check_reset(name, reset, batch, length)
    acc = accumulation_dtype(x.dtype)
    if D is not None:
        if D.shape != (heads,):
            check_shape(name, "D", D, (heads, width), because)
        D = D.to(acc)
        D = D[:, None].expand(heads, width) if D.dim() == 1 else D
    A = A.to(acc)
    if x.device.type == "cpu":
        bias = None if dt_bias is None else dt_bias.to(acc)
        log_a, delta = steps(dt.to(acc), A, bias, softplus, float(low), float(high))
    else:
        delta = step_sizes(dt, dt_bias, softplus, dt_limit, acc)
        log_a = delta * A
    return _call(x, log_a, delta, B, C, D, z, h0, reset, reverse)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    scale: float = 1.0,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Causal linear attention with a scalar decay per head and step.

    h_t = exp(log_decay_t) h_{t−1} + v_t k_tᵀ and y_t = scale · h_t q_t: what :func:`ssd` computes
    with q for C, k for B and v for x, without a step size on the input. Without decay,
    y_t = scale · Σ_{s ≤ t} (q_t · k_s) v_s. Where a sequence starts, h_t = v_t k_tᵀ.

    Args:
        q: queries, (B, L, G, N) with G dividing H, or (B, L, N) for one group.
        k: keys, of the shape of ``q``.
        v: values, (B, L, H, P).
        log_decay: logarithm of the decay, (B, L, H); None for no decay.
        h0: state before the first step, (B, H, P, N); None for a sequence that starts here.
        scale: factor of the output.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        y, (B, L, H, P), and the last state in scan order, (B, H, P, N), float32 for half types.

    Raises:
        ValueError: a shape that does not fit, or no steps at all.
        TypeError: an argument that is not a floating-point tensor, or a reset that is not bool.

    Source: Katharopoulos et al., "Transformers are RNNs" (arXiv:2006.16236), section 3.3; with
    decay, Dao and Gu (arXiv:2405.21060), section 4.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 3, 1)
        >>> y, last = linear_attention(one, one, one[..., None])
        >>> y.flatten().tolist()
        [1.0, 2.0, 3.0]
    """
    name = "linear_attention"
    require_tensors(name, q=q, k=k, v=v)
    optional_tensors(name, log_decay=log_decay, h0=h0)
    if log_decay is not None:
        floating(name, "log_decay", log_decay)
    v, k, q, _, h0 = _common(name, ("v", "k", "q"), v, k, q, None, h0)
    batch, length, heads, _ = v.shape
    check_reset(name, reset, batch, length)
    acc = accumulation_dtype(v.dtype)
    if log_decay is None:
        log_a = v.new_zeros((batch, length, heads), dtype=acc)
    else:
        check_shape(name, "log_decay", log_decay, v.shape[:3], f"v of shape {tuple(v.shape)}")
        log_a = log_decay.to(acc)
    if scale != 1.0:
        q = q * scale
    return _call(v, log_a, None, k, q, None, None, h0, reset, reverse)


def step_sizes(
    dt: Tensor,
    dt_bias: Tensor | None,
    softplus: bool,
    dt_limit: tuple[float, float],
    dtype: torch.dtype,
) -> Tensor:
    """Δ = clamp(softplus(dt + dt_bias), dt_limit) in ``dtype``, softplus where asked for."""
    low, high = dt_limit
    delta = dt.to(dtype)
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    if softplus:
        # The default threshold of torch replaces softplus by the identity from 20 on, which is
        # exact in float32 and 2e-9 off in float64.
        delta = _softplus(delta, threshold=40.0)
    if low > (0.0 if softplus else -math.inf) or high < math.inf:
        delta = delta.clamp(low, high)
    return delta


def _common(
    name: str,
    labels: tuple[str, str, str],
    x: Tensor,
    b: Tensor,
    c: Tensor,
    z: Tensor | None,
    h0: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """x, B, C, z in their common type and h0 in its accumulation type, their shapes checked."""
    x_label, b_label, c_label = labels
    given = {x_label: x, b_label: b, c_label: c}
    if z is not None:
        given["z"] = z
    for label, one in given.items():
        floating(name, label, one)
    dtype = reduce(torch.promote_types, [one.dtype for one in given.values()])
    if x.dim() != 4:
        raise ValueError(f"{name}: {x_label} has shape {tuple(x.shape)}; it must be (B, L, H, P)")
    check_length(name, x_label, x)
    batch, length, heads, width = x.shape
    if b.dim() not in (3, 4):
        raise ValueError(
            f"{name}: {b_label} has shape {tuple(b.shape)}; it must be (B, L, G, N) or (B, L, N)"
        )
    check_shape(name, c_label, c, b.shape, f"{b_label} of shape {tuple(b.shape)}")
    if b.dim() == 3:
        b, c = b.unsqueeze(2), c.unsqueeze(2)
    because = f"{x_label} of shape {tuple(x.shape)}"
    groups, states = b.shape[2:]
    check_shape(name, b_label, b, (batch, length, groups, states), because)
    if groups == 0 or heads % groups:
        raise ValueError(
            f"{name}: {b_label} has {groups} groups, and {x_label} {heads} heads; the number of "
            "groups must divide that of heads"
        )
    if h0 is not None:
        floating(name, "h0", h0)
        check_shape(name, "h0", h0, (batch, heads, width, states), because)
        h0 = h0.to(accumulation_dtype(dtype))
    return x.to(dtype), b.to(dtype), c.to(dtype), None if z is None else z.to(dtype), h0


def _call(
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    tensors = (x, log_a, w, B, C, D, z, h0)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y, last, _ = core(*tensors, reset, reverse, keep)
    return y, last
