"""The Kalman filter as a function of tensors: checks, types, and the operator."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from statewise.ops.arguments import (
    check_length,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.kalman_filter._library import (
    OP,
    complete,
    run,
    run_likelihood,
    shared_now,
)
from statewise.ops.library import is_followed


def kalman_filter(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    m0: Tensor,
    P0: Tensor,
    *,
    c: Tensor | None = None,
    d: Tensor | None = None,
    observed: Tensor | None = None,
    lengths: Tensor | None = None,
    moves_first: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The Kalman filter of x_t = F x_{t−1} + c + w, y_t = H x_t + d + v, w ~ N(0, Q), v ~ N(0, R).

    Covariances are updated in Joseph's form. Differentiable once with respect to every floating
    tensor; the symmetric parts of Q, R and P0 count.

    Args:
        y: observations, (B, T, p); what stands where nothing is observed must be finite.
        F: transition into each step, (b, t, n, n) with b 1 or B and t 1 or T.
        H: (b, t, p, n).
        Q: (b, t, n, n), positive semi-definite.
        R: (b, t, p, p), positive semi-definite.
        m0: mean of the state before the first step, (B, n).
        P0: its covariance, (B, n, n).
        c: offset of the state, (b, t, n), or None for zero.
        d: offset of the outputs, (b, t, p), or None for zero.
        observed: (B, T, p) bool; None where all is observed.
        lengths: number of steps of each series, (B,) int64; None for T. Behind them results are 0.
        moves_first: whether the first step moves the state before it observes; if not, m0 and P0
            are those at the first observation.

    Returns:
        Filtered means (B, T, n), covariances (B, T, n, n) and log p(y_t | y_1 … y_{t−1}) (B, T).
        Series that differ in y, m0, c and d alone have the same covariances, which may then be one
        tensor expanded over the batch: clone it before writing into it.

    Raises:
        ValueError: a shape that does not fit, no steps at all, or an innovation without variance.
        TypeError: a type that is not real floating-point.

    Source: Kalman (1960); Bucy and Joseph (1968) for the form.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1, 1, 1)
        >>> y = torch.tensor([[[1.0], [2.0]]])
        >>> start = torch.zeros(1, 1), torch.ones(1, 1, 1)
        >>> mean, _, _ = kalman_filter(y, one, one, one, one, *start)
        >>> [round(x, 4) for x in mean.flatten().tolist()]
        [0.6667, 1.5]
    """
    offsets = {"c": c, "d": d, "observed": observed, "lengths": lengths}
    given = _checked({"y": y, "F": F, "H": H, "Q": Q, "R": R, "m0": m0, "P0": P0}, offsets)
    found = None if is_followed(given) else _shared(given, moves_first, True)
    if found is not None:
        return found[0], found[1].expand(len(y), -1, -1, -1), found[2]
    return run(*given, moves_first)[:3]


KEPT = 2**25
"""Numbers of moments that are kept between a likelihood and its gradient; beyond them memory is
dearer than filtering again."""


def kalman_likelihood(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    m0: Tensor,
    P0: Tensor,
    *,
    c: Tensor | None = None,
    d: Tensor | None = None,
    observed: Tensor | None = None,
    lengths: Tensor | None = None,
    moves_first: bool = True,
) -> Tensor:
    """The log-likelihoods of :func:`kalman_filter` alone, in memory that does not grow with n².

    Differentiable once; where the moments that the gradient needs are many, they are found again,
    a few series at a time.

    Args:
        y: as all others, what :func:`kalman_filter` takes.
        F: transition.
        H: outputs.
        Q: state noise.
        R: output noise.
        m0: mean of the first state.
        P0: its covariance.
        c: offset of the state.
        d: offset of the outputs.
        observed: what is observed.
        lengths: number of steps of each series.
        moves_first: whether the first step moves the state.

    Returns:
        Log p(y_t | y_1 … y_{t−1}), (B, T).

    Raises:
        ValueError: what the filter raises.
        TypeError: a type that is not real floating-point.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        >>> start = torch.zeros(1, 1).double(), torch.ones(1, 1, 1).double()
        >>> found = kalman_likelihood(torch.zeros(1, 1, 1).double(), one, one, one, one, *start)
        >>> round(found.item(), 6)
        -1.468245
    """
    offsets = {"c": c, "d": d, "observed": observed, "lengths": lengths}
    given = _checked({"y": y, "F": F, "H": H, "Q": Q, "R": R, "m0": m0, "P0": P0}, offsets)
    batch, length, _ = y.shape
    n = m0.shape[-1]
    found = None if is_followed(given) else _shared(given, moves_first, False)
    if found is not None:
        return found[2]
    tensors = [x for x in given if x is not None]
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if wanted and batch * length * n * (n + 1) <= KEPT:
        return run(*given, moves_first)[2]
    return run_likelihood(*given, moves_first)


def _alike(x: Tensor | None) -> bool:
    """Whether a tensor is the same for every series, as far as one can tell without waiting."""
    if x is None or x.stride(0) == 0:
        return True
    return x.device.type == "cpu" and bool((x == x[:1]).all())


def _shared(
    given: tuple[Any, ...], moves_first: bool, stores: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """What is found where series differ in y, m0 and offsets alone, else None."""
    y, F, H, Q, R, c, d, m0, P0, observed, lengths = given
    if len(y) == 1 or any(len(x) > 1 for x in (F, H, Q, R)):
        return None
    if not (complete(lengths, y.shape[1]) and _alike(P0) and _alike(observed)):
        return None
    return shared_now(y, (F, H, Q, R, c, d), (m0, P0), observed, moves_first, stores)


def _fits(x: Tensor | None, batch: int, length: int, *tail: int) -> bool:
    """Whether a parameter has the right shape; None has."""
    if x is None:
        return True
    b, t, *rest = x.shape
    return (b in (1, batch)) and (t in (1, length)) and rest == list(tail)


def _ready(named: dict[str, Tensor], more: dict[str, Tensor | None]) -> bool:
    """Whether all that :func:`_checked` asks for holds already, asked in few words."""
    floats = (*named.values(), more["c"], more["d"])
    if not all(x is None or type(x) is Tensor for x in floats) or named["y"].dim() != 3:
        return False
    y, F, H, Q, R, m0, P0 = named.values()
    dtype = y.dtype
    if dtype not in (torch.float32, torch.float64):
        return False
    if any(x is not None and x.dtype is not dtype for x in floats):
        return False
    if any(more[k] is not None for k in ("observed", "lengths")):
        return False
    if not all(x.dim() == 4 for x in (F, H, Q, R)):
        return False
    batch, length, p = y.shape
    n = F.shape[-1]
    return (
        min(batch, length, p, n) > 0
        and _fits(F, batch, length, n, n)
        and _fits(H, batch, length, p, n)
        and _fits(Q, batch, length, n, n)
        and _fits(R, batch, length, p, p)
        and (more["c"] is None or more["c"].dim() == 3)
        and (more["d"] is None or more["d"].dim() == 3)
        and _fits(more["c"], batch, length, n)
        and _fits(more["d"], batch, length, p)
        and m0.shape == (batch, n)
        and P0.shape == (batch, n, n)
    )


def _checked(named: dict[str, Tensor], more: dict[str, Tensor | None]) -> tuple[Any, ...]:
    """All tensors in the operators' order, of one type."""
    if _ready(named, more):
        y, F, H, Q, R, m0, P0 = named.values()
        return y, F, H, Q, R, more["c"], more["d"], m0, P0, None, None
    observed, lengths = more["observed"], more["lengths"]
    offsets = {label: more[label] for label in ("c", "d")}
    y, F = named["y"], named["F"]
    require_tensors(OP, **named)
    optional_tensors(OP, **more)
    if y.dim() != 3:
        raise ValueError(f"{OP}: y has shape {tuple(y.shape)}; it must be (B, T, p)")
    check_length(OP, "y", y)
    batch, length, p = y.shape
    n = F.shape[-1] if F.dim() else 0
    if not n or not p or not batch:
        raise ValueError(
            f"{OP}: y has shape {tuple(y.shape)} and F {tuple(F.shape)}; there must be at least "
            "one series, one output and one state"
        )
    tails = {"F": (n, n), "H": (p, n), "Q": (n, n), "R": (p, p), "c": (n,), "d": (p,)}
    given = {label: x for label, x in (named | offsets).items() if x is not None}
    for label, x in given.items():
        floating(OP, label, x)
        if label in tails:
            _check_parameter(label, x, (batch, length), tails[label])
    check_shape(OP, "m0", named["m0"], (batch, n), f"a batch of {batch} with {n} states")
    check_shape(OP, "P0", named["P0"], (batch, n, n), f"a batch of {batch} with {n} states")
    if observed is not None:
        check_shape(OP, "observed", observed, y.shape, f"y of shape {tuple(y.shape)}")
        if observed.dtype is not torch.bool:
            raise TypeError(f"{OP}: observed is {observed.dtype}; it must be bool")
    _check_lengths(lengths, batch, length)
    dtype = reduce(torch.promote_types, (x.dtype for x in given.values()))
    if dtype not in (torch.float32, torch.float64):
        dtype = torch.float32
    y, F, H, Q, R, m0, P0 = (x.to(dtype) for x in named.values())
    c, d = (None if x is None else x.to(dtype) for x in offsets.values())
    return y, F, H, Q, R, c, d, m0, P0, observed, lengths


def _check_parameter(label: str, x: Tensor, sizes: tuple[int, int], tail: tuple[int, ...]) -> None:
    fits = x.dim() == 2 + len(tail) and tuple(x.shape[2:]) == tail
    if not fits or any(k not in (1, size) for k, size in zip(x.shape, sizes, strict=False)):
        wanted = ", ".join(str(k) for k in tail)
        raise ValueError(
            f"{OP}: {label} has shape {tuple(x.shape)}; it must be (b, t, {wanted}) with b 1 or "
            f"{sizes[0]} and t 1 or {sizes[1]}"
        )


def _check_lengths(lengths: Tensor | None, batch: int, length: int) -> None:
    if lengths is None:
        return
    check_shape(OP, "lengths", lengths, (batch,), f"a batch of {batch}")
    if lengths.dtype is not torch.int64:
        raise TypeError(f"{OP}: lengths is {lengths.dtype}; it must be int64")
    if int(lengths.min()) < 1 or int(lengths.max()) > length:
        raise ValueError(f"{OP}: lengths is {lengths.tolist()}; each must be from 1 to {length}")
