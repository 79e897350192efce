"""``selective_scan``: the public door, where arguments are checked."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from statewise.ops.arguments import (
    COMPLEX,
    REAL,
    check_length,
    check_reset,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.precision import accumulation_dtype
from statewise.ops.selective_scan._library import OP, scan

RULES = ("euler", "zoh")

_REAL_OF = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def selective_scan(
    u: Tensor,
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
    rule: Literal["euler", "zoh"] = "euler",
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The selective state-space recurrence: h_t = e^{Δ_t A} h_{t−1} + B̄_t u_t, y_t = C_t h_t.

    For every channel d, with N states n of its own and Δ_t = softplus(dt_t + dt_bias)::

        h_t[d, n] = exp(Δ_t[d] A[d, n]) h_{t−1}[d, n] + B̄_t[d, n] u_t[d]
        y_t[d]    = (Σ_n C_t[n] h_t[d, n] + D[d] u_t[d]) · silu(z_t[d])

    B̄ = ΔB (``rule="euler"``), which public checkpoints assume, or (e^{ΔA} − 1)/A · B
    (``rule="zoh"``), the exact answer to an input held over the step. Where ``D``, ``z`` or
    ``dt_bias`` is None, its term is left out. A complex A stands for conjugate pairs of states of
    which one is kept: the sum becomes 2 Re Σ_n C_t[n] h_t[d, n], and B, C and h0 may be complex.
    Softplus passes values above 20 through.

    u, dt, z, B and C promote to one type, which y has. A, D, dt_bias and the state are in float32
    where that is a half type. Differentiable once in all tensors, through y and the last state.
    In the backward pass states are computed again from one kept every 64 steps.

    Args:
        u: inputs, (B, L, D), real.
        dt: step sizes before bias and softplus, (B, L, D), real.
        A: dynamics, (D, N), real or complex; decaying where its real part is negative.
        B: input vectors, (B, L, N) shared by all channels, (B, L, G, N) with channel d in group
            d·G//D, where G divides D, or (D, N), constant.
        C: read-out vectors, of any of these shapes.
        D: skip from input to output, (D,), real.
        z: gate, (B, L, D), real.
        dt_bias: added to ``dt``, (D,), real.
        h0: state before the first step, (B, D, N); None for a sequence that starts here.
        softplus: take softplus of dt + dt_bias.
        rule: how an input enters the state, ``"euler"`` or ``"zoh"``.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        Outputs y, (B, L, D), and the last state in scan order, (B, D, N), complex where A is.

    Raises:
        ValueError: a shape that does not fit, no steps or no states, or an unknown rule.
        TypeError: a type that is not floating-point, a complex B, C or h0 with a real A, or a
            reset that is not bool.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        arXiv 2312.00752, equations 2 and 4, algorithm 2.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 3, 1)
        >>> y, last = selective_scan(one, one, torch.zeros(1, 1), one, one)
        >>> y.flatten().tolist(), last.item()
        ([1.0, 2.0, 3.0], 3.0)
    """
    require_tensors(OP, u=u, dt=dt, A=A, B=B, C=C)
    optional_tensors(OP, D=D, z=z, dt_bias=dt_bias, h0=h0)
    if rule not in RULES:
        raise ValueError(f"{OP}: rule is {rule!r}; it must be one of {', '.join(RULES)}")
    _check_shapes(u, dt, A, B, C, D, z, dt_bias, h0)
    check_reset(OP, reset, u.shape[0], u.shape[1])
    work, acc = _types(u, dt, A, B, C, D, z, dt_bias, h0)
    paired = A.is_complex()
    B, C = _share_groups(B, C)
    tensors = (
        u.to(work),
        dt.to(work),
        _state_form(A, acc, paired),
        _state_form(B, work, paired),
        _state_form(C, work, paired),
        None if D is None else D.to(acc),
        None if z is None else z.to(work),
        None if dt_bias is None else dt_bias.to(acc),
        None if h0 is None else _state_form(h0, acc, paired),
    )
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    y, last, _ = scan(*tensors, reset, softplus, rule == "zoh", reverse, keep)
    return y, torch.view_as_complex(last) if paired else last


def _share_groups(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """B and C with an axis for their groups where they vary, of one length where both do."""
    B, C = (x.unsqueeze(2) if x.dim() == 3 else x for x in (B, C))
    if B.dim() == C.dim() == 4 and B.shape[2] != C.shape[2]:
        groups = math.lcm(B.shape[2], C.shape[2])
        B, C = (x.repeat_interleave(groups // x.shape[2], dim=2) for x in (B, C))
    return B, C


def _state_form(x: Tensor, dtype: torch.dtype, paired: bool) -> Tensor:
    """A tensor over states in a real type; with a trailing axis (re, im) when ``paired``."""
    if not paired:
        return x.to(dtype)
    if x.is_complex():
        return torch.view_as_real(x.resolve_conj()).to(dtype)
    return torch.stack((x, torch.zeros_like(x)), dim=-1).to(dtype)


def _check_shapes(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
) -> None:
    if u.dim() != 3:
        raise ValueError(f"{OP}: u has shape {tuple(u.shape)}; it must be (B, L, D)")
    check_length(OP, "u", u)
    batch, length, channels = u.shape
    given = f"u of shape {tuple(u.shape)}"
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(
            f"{OP}: A has shape {tuple(A.shape)}; {given} needs ({channels}, N), N at least 1"
        )
    states = A.shape[1]
    for label, x in (("dt", dt), ("z", z)):
        if x is not None:
            check_shape(OP, label, x, u.shape, given)
    for label, x in (("D", D), ("dt_bias", dt_bias)):
        if x is not None:
            check_shape(OP, label, x, (channels,), given)
    if h0 is not None:
        expected = (batch, channels, states)
        check_shape(OP, "h0", h0, expected, f"{given} with A of shape {tuple(A.shape)}")
    for label, x in (("B", B), ("C", C)):
        shape = tuple(x.shape)
        plain = shape in ((channels, states), (batch, length, states))
        grouped = len(shape) == 4 and (*shape[:2], shape[3]) == (batch, length, states)
        if not plain and not grouped:
            raise ValueError(
                f"{OP}: {label} has shape {shape}; {given} with A of shape {tuple(A.shape)} needs "
                f"{(batch, length, states)}, ({batch}, {length}, G, {states}) "
                f"or {(channels, states)}"
            )
        if grouped and (shape[2] == 0 or channels % shape[2]):
            raise ValueError(
                f"{OP}: {label} has shape {shape}, {shape[2]} groups; "
                f"their number must divide the {channels} channels"
            )


def _types(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
) -> tuple[torch.dtype, torch.dtype]:
    """The working type and the accumulation type."""
    paired = A.is_complex()
    real = {"u": u, "dt": dt, "D": D, "z": z, "dt_bias": dt_bias}
    for label, x in real.items():
        if x is not None:
            floating(OP, label, x)
    for label, x in (("A", A), ("B", B), ("C", C), ("h0", h0)):
        if x is not None:
            if x.is_complex() and not paired:
                raise TypeError(f"{OP}: {label} is {x.dtype} and A is {A.dtype}; A must be complex")
            floating(OP, label, x, REAL + COMPLEX if paired else REAL)
    work = u.dtype
    for x in (dt, B, C, z):
        if x is not None:
            work = torch.promote_types(work, _REAL_OF.get(x.dtype, x.dtype))
    acc = accumulation_dtype(work)
    for x in (A, D, dt_bias, h0):
        if x is not None:
            wider = torch.promote_types(acc, _REAL_OF.get(x.dtype, x.dtype))
            work, acc = (work, acc) if wider == acc else (wider, wider)
    return work, acc
