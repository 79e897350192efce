"""``linear_scan`` and ``linear_scan_pairs``: the public door, where arguments are checked."""

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
from statewise.ops.linear_scan._library import scan
from statewise.ops.precision import accumulation_dtype


def linear_scan(
    a: Tensor | complex,
    b: Tensor,
    h0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """First-order linear recurrence along time: h_t = a_t ⊙ h_{t−1} + b_t.

    Where a sequence starts, at its first step without ``h0`` and at each reset, h_t = b_t.

    Types promote together, and a complex one makes all complex. Half-precision inputs are
    accumulated in float32: ``h`` then has their type and the last state is float32, which may be
    given back as ``h0``. Differentiable once with respect to a, b and h0.

    Args:
        a: coefficients, a number or anything that broadcasts to (B, L, D): (D,) or (B, 1, D) for
            constant ones, which are not expanded, (L, D) or (B, L, D) for time-varying ones.
        b: inputs, (B, L, D), real or complex.
        h0: state before the first step, (B, D); None for a sequence that starts here.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        Every state h, (B, L, D), and the last one in scan order, (B, D).

    Raises:
        ValueError: a shape that does not fit, or no steps at all.
        TypeError: a type that is not floating-point or complex, or a reset that is not bool.

    Example:
        >>> import torch
        >>> h, last = linear_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))
        >>> h.flatten().tolist(), last.item()
        ([1.0, 1.5, 1.75], 1.75)
    """
    if not isinstance(a, (Tensor, int, float, complex)):
        raise TypeError(f"linear_scan: a must be a tensor or a number, and is a {type(a).__name__}")
    require_tensors("linear_scan", b=b)
    optional_tensors("linear_scan", h0=h0, reset=reset)
    out, acc = _types("linear_scan", a, b, h0, REAL + COMPLEX)
    if out in COMPLEX:
        start = None if h0 is None else _pairs(h0, out, b)
        h, last = linear_scan_pairs(
            _pairs(a, out, b), _pairs(b, out, b), start, reset=reset, reverse=reverse
        )
        return torch.view_as_complex(h), torch.view_as_complex(last)
    _check_shapes("linear_scan", b, h0, reset, "(B, L, D)")
    return scan(
        _coefficients("linear_scan", a, b, out, False),
        *_cast(b, h0, out, acc),
        reset,
        reverse,
    )


def linear_scan_pairs(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The complex :func:`linear_scan` on real tensors with a trailing axis (re, im).

    h_t = a_t ⊙ h_{t−1} + b_t, in complex arithmetic, without a complex type in sight: for layers
    that are to be compiled, exported, or trained in half precision.

    Args:
        a: coefficients, anything that broadcasts to (B, L, D, 2) and ends in an axis of 2: (D, 2)
            or (B, 1, D, 2) for constant ones, which are not expanded, (L, D, 2) or (B, L, D, 2)
            for time-varying ones.
        b: inputs, (B, L, D, 2).
        h0: state before the first step, (B, D, 2); None for a sequence that starts here.
        reset: (B, L) bool; True zeroes the state before that step, whatever it holds.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        Every state h, (B, L, D, 2), and the last one in scan order, (B, D, 2).

    Raises:
        ValueError: a shape that does not fit, or no steps at all.
        TypeError: a type that is not real floating-point, or a reset that is not bool.

    Example:
        >>> import torch
        >>> i = torch.tensor([[0.0, 1.0]])
        >>> h, last = linear_scan_pairs(i, torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]]))
        >>> last.tolist()
        [[[0.0, 1.0]]]
    """
    require_tensors("linear_scan_pairs", a=a, b=b)
    optional_tensors("linear_scan_pairs", h0=h0, reset=reset)
    out, acc = _types("linear_scan_pairs", a, b, h0, REAL)
    _check_shapes("linear_scan_pairs", b, h0, reset, "(B, L, D, 2)")
    return scan(
        _coefficients("linear_scan_pairs", a, b, out, True),
        *_cast(b, h0, out, acc),
        reset,
        reverse,
    )


def _cast(b: Tensor, h0: Tensor | None, out: torch.dtype, acc: torch.dtype) -> tuple:
    if b.dtype is not out:
        b = b.to(out)
    return b, None if h0 is None else h0.to(acc)


def _pairs(x: Tensor | complex, dtype: torch.dtype, like: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        x = torch.tensor(x, dtype=dtype, device=like.device)
    return torch.view_as_real(x.to(dtype).resolve_conj())


def _types(
    name: str, a: Tensor | complex, b: Tensor, h0: Tensor | None, allowed: tuple[torch.dtype, ...]
) -> tuple[torch.dtype, torch.dtype]:
    """The type of h and the type of the state."""
    out = b.dtype
    if isinstance(a, Tensor) and a.dim():
        out = torch.promote_types(a.dtype, out)
    elif a.is_complex() if isinstance(a, Tensor) else isinstance(a, complex):
        # A number changes the kind of the result, and not its precision.
        out = torch.promote_types(torch.complex64, out)
    acc = accumulation_dtype(out)
    if h0 is not None and h0.dtype not in (out, acc):
        wider = torch.promote_types(acc, h0.dtype)
        out, acc = (out, acc) if wider == acc else (wider, wider)
    floating(name, "b", b, allowed)
    if out is not b.dtype:
        floating(name, "the common type of a, b and h0", b.new_empty(0, dtype=out), allowed)
    return out, acc


def _check_shapes(name: str, b: Tensor, h0: Tensor | None, reset: Tensor | None, rule: str) -> None:
    shape = b.shape
    if len(shape) != (4 if "2" in rule else 3) or ("2" in rule and shape[3] != 2):
        raise ValueError(f"{name}: b has shape {tuple(shape)}; it must be {rule}")
    check_length(name, "b", b)
    if h0 is not None:
        check_shape(name, "h0", h0, (shape[0], *shape[2:]), f"b of shape {tuple(shape)}")
    check_reset(name, reset, shape[0], shape[1])


def _coefficients(
    name: str, a: Tensor | complex, b: Tensor, dtype: torch.dtype, pairs: bool
) -> Tensor:
    """``a`` in the given type, its channel axis in full and nothing else expanded."""
    if not isinstance(a, Tensor):
        a = torch.tensor(a, dtype=dtype, device=b.device)
    shape, target = a.shape, b.shape
    missing = len(target) - len(shape)
    fits = missing >= 0 and all(n in (1, m) for n, m in zip(shape, target[missing:], strict=True))
    if not fits or (pairs and (not shape or shape[-1] != 2)):
        also = " with its last axis of length 2" if pairs else ""
        raise ValueError(
            f"{name}: a has shape {tuple(shape)}; it must broadcast to b, which has shape "
            f"{tuple(target)}{also}"
        )
    axis = -2 if pairs else -1
    if a.dtype is not dtype:
        a = a.to(dtype)
    if len(shape) < -axis:
        a = a.expand(target[axis:])
    elif shape[axis] != target[axis]:
        a = a.expand(shape[:axis] + target[axis:])
    return a
