"""The convolution kernel of a system with a companion matrix, open and closed loop."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import check_shape, floating, require_tensors
from statewise.ops.companion_kernel._library import reciprocal
from statewise.ops.companion_kernel.op import WIDE
from statewise.ops.companion_kernel.series import correlate, multiply


def companion_kernel(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    length: int,
    *,
    feedback: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """K_l = C A^l B, l < L, for the companion matrix A = S + a e_Nᵀ of every channel.

    S is the shift down, S_{i+1,i} = 1, and a the last column. With ``feedback`` the matrix is
    A + B F, the loop that feeds F x back as the input; with ``start`` the vector is x in place of
    B: together y_h = C (A + B F)^h x, the forecast from the state x.

    In O((N + L) log (N + L)): the generating function is a quotient of polynomials made from the
    vectors by correlation, and the quotient is expanded as a power series. There is no matrix
    power and no wrap-around, and a pole at a root of unity does no harm. Computed in double
    precision whatever the type. Differentiable once with respect to all tensors.

    Args:
        a: last column of A, (D, N).
        b: input vector B, (D, N).
        c: output vector C, (D, N).
        length: L, at least 1; less or more than N.
        feedback: F, (D, N), or None for the open loop.
        start: x, (D, N) or (B, D, N), or None for B.

    Returns:
        K, (D, L), or (B, D, L) when ``start`` has a batch, in the common type of a, b and c.

    Raises:
        ValueError: a shape that does not fit, or a length below 1.
        TypeError: something that is not a tensor in float32 or float64.

    Source: SpaceTime, arXiv 2303.09489, section 3 and Algorithm 1; see README.md for what differs.

    Example:
        >>> import torch
        >>> one = torch.tensor([[1.0]])
        >>> companion_kernel(torch.tensor([[0.5]]), one, one, 3).tolist()
        [[1.0, 0.5, 0.25]]
    """
    op = "companion_kernel"
    vectors = {"a": a, "b": b, "c": c}
    vectors |= {k: x for k, x in (("feedback", feedback), ("start", start)) if x is not None}
    require_tensors(op, **vectors)
    for label, x in vectors.items():
        floating(op, label, x, WIDE)
    if a.dim() != 2 or a.shape[1] == 0:
        raise ValueError(f"{op}: a has shape {tuple(a.shape)}; it must be (D, N), with N ≥ 1")
    because = f"a of shape {tuple(a.shape)}"
    for label, x in vectors.items():
        shape = a.shape if label != "start" or x.dim() != 3 else (x.shape[0], *a.shape)
        check_shape(op, label, x, shape, because)
    if length < 1:
        raise ValueError(f"{op}: length is {length}; it must be at least 1")
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), c.dtype)
    x = (b if start is None else start).double()
    if feedback is None:
        top, bottom = _open(a.double(), c.double(), x, length)
    else:
        top, bottom = _closed(a.double(), b.double(), c.double(), feedback.double(), x, length)
    quotient = multiply(top, reciprocal(bottom, length), length)
    direct = correlate(c.double(), x, c.shape[-1])
    return _add(direct, _delay(quotient), length)[..., :length].to(dtype)


def _open(a: Tensor, c: Tensor, x: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(Q(C,a) Q(e,x), and −Q(e,a), the denominator beyond its 1)."""
    return multiply(_corr(c, a), x.flip(-1), length), -a.flip(-1)


def _closed(
    a: Tensor, b: Tensor, c: Tensor, f: Tensor, x: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """The same for A + B F, where Woodbury's correction has rank two."""
    ea, eb, ex = a.flip(-1), b.flip(-1), x.flip(-1)
    fa, fb, fx = _corr(f, a), _corr(f, b), _corr(f, x)
    ca, cb = _corr(c, a), _corr(c, b)
    full = 2 * a.shape[-1]
    cross = multiply(eb, fa, full - 1) - multiply(ea, fb, full - 1)
    bottom = -_add(ea + fb, _delay(cross), full)
    upper = _add(ex, _delay(multiply(eb, fx, full) - multiply(fb, ex, full)), full)
    lower = _add(fx, _delay(multiply(fa, ex, full) - multiply(ea, fx, full)), full)
    return multiply(ca, upper, length) + multiply(cb, lower, length), bottom


def _corr(x: Tensor, y: Tensor) -> Tensor:
    return correlate(x, y, x.shape[-1])


def _delay(x: Tensor) -> Tensor:
    """The series times z."""
    return torch.nn.functional.pad(x, (1, 0))


def _add(x: Tensor, y: Tensor, length: int) -> Tensor:
    """Sum of two series, at most ``length`` coefficients of each, in that many."""
    x, y = x[..., :length], y[..., :length]
    x = torch.nn.functional.pad(x, (0, length - x.shape[-1]))
    return x + torch.nn.functional.pad(y, (0, length - y.shape[-1]))
