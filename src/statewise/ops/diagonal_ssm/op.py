"""``diagonal_ssm``: the public door, where arguments are checked."""

from __future__ import annotations

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
from statewise.ops.diagonal_ssm._library import OP, bank
from statewise.ops.diagonal_ssm.rules import RULES
from statewise.ops.pairs import aligned
from statewise.ops.precision import accumulation_dtype


def diagonal_ssm(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    dt: Tensor | None = None,
    rule: str | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """A bank of diagonal systems: h_t = ā_t h_{t−1} + b̄_t u_t,  y_t = Re Σ_n c_n h_{t,n} + d u_t.

    Each of D channels has N states of its own, one input and one output. The states are never
    stored over time. Without ``rule``, ā = a and b̄ = b. With it, ``a`` holds continuous poles λ:

        "zoh":       ā = e^{λΔ},                b̄ = (e^{λΔ} − 1)/λ · b
        "bilinear":  ā = (1 + λΔ/2)/(1 − λΔ/2),  b̄ = Δ/(1 − λΔ/2) · b

    right to rounding also for λΔ near and at 0. The output uses the state updated with the present
    input. No factor 2 is implied: where conjugate states are left out, double ``c``.

    Poles and weights are pairs (D, N, 2) of (re, im); or all three complex (D, N), or all three
    real (D, N), which are computed as complex ones. Everything but ``u`` is brought to the
    accumulation type of ``u``: float32 for half types, else its own. Differentiable once with
    respect to u, a, b, c, d, h0 and dt.

    Args:
        u: inputs, (B, L, D), real.
        a: discrete poles, or continuous ones with ``rule``: (D, N, 2) or (D, N).
        b: input weights, in the form of ``a``.
        c: output weights, in the form of ``a``.
        d: direct term, (D,); None for none.
        h0: state before the first step, (B, D, N, 2) or (B, D, N), in the form of ``a``; None for
            a sequence that starts here.
        dt: steps Δ, with ``rule`` only, in the unit of 1/λ: (D,) for constant ones, (B, L) for
            ones that all channels share, or (B, L, D).
        rule: "zoh", "bilinear" or None.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        y, (B, L, D), in the type of ``u``, and the last state in scan order, in the form of ``a``
        and the accumulation type.

    Raises:
        ValueError: a shape that does not fit, no steps at all, an unknown rule, or one of ``dt``
            and ``rule`` without the other.
        TypeError: an argument that is no tensor, or of a type that is not accepted.

    Source: Gu et al., On the parameterization and initialization of diagonal state space models
    (2206.11893), equations 2 to 4.

    Example:
        >>> import torch
        >>> half, one = torch.tensor([[0.5]]), torch.ones(1, 1)
        >>> y, last = diagonal_ssm(torch.ones(1, 3, 1), half, one, one)
        >>> y.flatten().tolist(), last.item()
        ([1.0, 1.5, 1.75], 1.75)
    """
    require_tensors(OP, u=u, a=a, b=b, c=c)
    optional_tensors(OP, d=d, h0=h0, dt=dt)
    floating(OP, "u", u)
    if u.dim() != 3:
        raise ValueError(f"{OP}: u has shape {tuple(u.shape)}; it must be (B, L, D)")
    check_length(OP, "u", u)
    B, L, D = u.shape
    check_reset(OP, reset, B, L)
    dtype = accumulation_dtype(u.dtype)
    form = _form(a, D)
    poles, inward, outward = (
        _pairs(label, x, form, a.shape, "a", dtype) for label, x in (("a", a), ("b", b), ("c", c))
    )
    start = None if h0 is None else _pairs("h0", h0, form, (B, *a.shape), "u and a", dtype)
    if d is not None:
        floating(OP, "d", d)
        check_shape(OP, "d", d, (D,), f"u of shape {tuple(u.shape)}")
        d = d.to(dtype)
    steps = _steps(u, dt, rule, dtype)
    used = (poles, inward, outward, d, steps)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in used)
    y, last, _ = bank(
        u, poles, inward, outward, d, start, steps, reset, rule or "", bool(reverse), keep
    )
    if form == "pairs":
        return y, last
    return y, last[..., 0] if form == "real" else torch.view_as_complex(last)


def _form(a: Tensor, channels: int) -> str:
    """How poles and weights are written: "pairs", "complex" or "real"."""
    form = "complex" if a.is_complex() else "pairs" if a.dim() == 3 else "real"
    pairs = form == "pairs"
    fits = a.dim() == (3 if pairs else 2) and a.shape[0] == channels and a.shape[1] > 0
    if not fits or (pairs and a.shape[2] != 2):
        raise ValueError(
            f"{OP}: a has shape {tuple(a.shape)}; u with {channels} channels needs "
            f"({channels}, N, 2), or ({channels}, N), with N at least 1"
        )
    return form


def _pairs(
    label: str, x: Tensor, form: str, shape: tuple[int, ...], of: str, dtype: torch.dtype
) -> Tensor:
    """Poles, weights or states as (re, im) in the working type."""
    floating(OP, label, x, COMPLEX if form == "complex" else REAL)
    check_shape(OP, label, x, shape, f"{of} in {form} form")
    if form == "complex":
        x = torch.view_as_real(x.resolve_conj())
    elif form == "real":
        x = torch.stack((x, torch.zeros_like(x)), -1)
    return aligned(x.to(dtype))


def _steps(u: Tensor, dt: Tensor | None, rule: str | None, dtype: torch.dtype) -> Tensor | None:
    """Steps as (D,), (B, L, D) or (B, L, 1), or None without a rule."""
    if rule is None:
        if dt is not None:
            raise ValueError(f"{OP}: dt was given without a rule; it must be one of {RULES}")
        return None
    if rule not in RULES:
        raise ValueError(f"{OP}: rule is {rule!r}; it must be None or one of {RULES}")
    if dt is None:
        raise ValueError(f"{OP}: rule {rule!r} needs dt, and dt is None")
    floating(OP, "dt", dt)
    shapes = {1: u.shape[2:], 2: u.shape[:2], 3: u.shape}
    if dt.shape != shapes.get(dt.dim()):
        raise ValueError(
            f"{OP}: dt has shape {tuple(dt.shape)}; u of shape {tuple(u.shape)} needs "
            f"{tuple(shapes[1])}, {tuple(shapes[2])} or {tuple(shapes[3])}"
        )
    if dt.dim() == 2:
        dt = dt.unsqueeze(-1)
    return dt.to(dtype)
