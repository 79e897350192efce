"""What the operations of torch mean for the entries of their tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from statewise.inference.particle_trace import Trace


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """Why a function is no formula that the compiled filter can compute."""


class Lines(NamedTuple):
    """Numbers of lines, where a rule would take a tensor."""

    ids: Tensor


SHAPED = frozenset(
    [
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "sym_size",
        "size",
    ]
)
"""What looks at the shape of a tensor only; the outcome is constant."""

MOVES = frozenset(
    [
        "view",
        "_unsafe_view",
        "clone",
        "detach",
        "alias",
        "contiguous",
        "_to_copy",
        "select",
        "slice",
        "expand",
        "permute",
        "transpose",
        "t",
        "unsqueeze",
        "squeeze",
        "cat",
        "stack",
        "unbind",
        "split",
        "split_with_sizes",
        "index",
        "index_select",
        "flip",
        "roll",
        "repeat",
        "diagonal",
    ]
)
"""What moves entries about and computes nothing."""

RULES: dict[str, Callable[..., Tensor]] = {}
"""What becomes of the lines, given the trace and the arguments of the operation."""


def _rule(*names: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    def register(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
        for name in names:
            RULES[name] = rule
        return rule

    return register


def _alike(name: str) -> None:
    def rule(trace: Trace, *args: Any) -> Tensor:
        return trace.each(name, *args)

    RULES[name] = rule


for _name in [
    "neg",
    "abs",
    "sqrt",
    "exp",
    "log",
    "sin",
    "cos",
    "sigmoid",
    "tanh",
    "expm1",
    "log1p",
    "tan",
    "atan",
    "sinh",
    "cosh",
    "erf",
    "lgamma",
    "mul",
    "maximum",
    "minimum",
    "where",
    "lt",
    "le",
    "eq",
]:
    _alike(_name)


def _logical(x: Any) -> bool:
    """Whether torch adds it as a truth, not as a number."""
    return x.dtype is torch.bool if isinstance(x, Tensor) else isinstance(x, bool)


def _truth(trace: Trace, x: Any) -> Lines:
    return Lines(trace.ids(x) if _logical(x) else _differs(trace, x, 0.0))


@_rule("add")
def _add(trace: Trace, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    if _logical(a) and _logical(b):
        return trace.each("maximum", a, b)
    return trace.each("add", a, b if alpha == 1 else Lines(trace.each("mul", b, alpha)))


@_rule("sub")
def _sub(trace: Trace, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    return trace.each("sub", a, b if alpha == 1 else Lines(trace.each("mul", b, alpha)))


@_rule("rsub")
def _rsub(trace: Trace, a: Any, b: Any, alpha: float = 1) -> Tensor:
    return _sub(trace, b, a, alpha=alpha)


@_rule("div")
def _div(trace: Trace, a: Any, b: Any, *, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is not None:
        raise Refused("it divides with rounding")
    return trace.each("div", a, b)


@_rule("reciprocal")
def _reciprocal(trace: Trace, a: Any) -> Tensor:
    return trace.each("div", 1.0, a)


@_rule("rsqrt")
def _rsqrt(trace: Trace, a: Any) -> Tensor:
    return trace.each("div", 1.0, Lines(trace.each("sqrt", a)))


@_rule("square")
def _square(trace: Trace, a: Any) -> Tensor:
    return trace.each("mul", a, a)


@_rule("pow")
def _pow(trace: Trace, a: Any, b: Any) -> Tensor:
    if isinstance(b, int | float) and b in (1, 2, 3, 0.5, -1):
        if b == 0.5:
            return trace.each("sqrt", a)
        if b == -1:
            return trace.each("div", 1.0, a)
        found = trace.ids(a)
        for _ in range(int(b) - 1):
            found = trace.each("mul", Lines(found), a)
        return found
    return trace.each("pow", a, b)


@_rule("ne")
def _differs(trace: Trace, a: Any, b: Any) -> Tensor:
    return trace.each("sub", 1.0, Lines(trace.each("eq", a, b)))


@_rule("gt")
def _more(trace: Trace, a: Any, b: Any) -> Tensor:
    return trace.each("lt", b, a)


@_rule("ge")
def _at_least(trace: Trace, a: Any, b: Any) -> Tensor:
    return trace.each("le", b, a)


@_rule("logical_and", "bitwise_and")
def _and(trace: Trace, a: Any, b: Any) -> Tensor:
    return trace.each("minimum", _truth(trace, a), _truth(trace, b))


@_rule("logical_or", "bitwise_or")
def _or(trace: Trace, a: Any, b: Any) -> Tensor:
    return trace.each("maximum", _truth(trace, a), _truth(trace, b))


@_rule("logical_not", "bitwise_not")
def _not(trace: Trace, a: Any) -> Tensor:
    return trace.each("sub", 1.0, _truth(trace, a))


@_rule("clamp", "clamp_min", "clamp_max")
def _clamp(trace: Trace, a: Any, low: Any = None, high: Any = None, **named: Any) -> Tensor:
    low, high = named.get("min", low), named.get("max", high)
    found = trace.ids(a)
    if low is not None:
        found = trace.each("maximum", Lines(found), low)
    return found if high is None else trace.each("minimum", Lines(found), high)


@_rule("relu")
def _relu(trace: Trace, a: Any) -> Tensor:
    return trace.each("maximum", a, 0.0)


@_rule("silu")
def _silu(trace: Trace, a: Any) -> Tensor:
    return trace.each("mul", a, Lines(trace.each("sigmoid", a)))


@_rule("softplus")
def _softplus(trace: Trace, a: Any, beta: float = 1, threshold: float = 20) -> Tensor:
    scaled = Lines(trace.each("mul", a, beta))
    small = Lines(trace.each("exp", Lines(trace.each("neg", Lines(trace.each("abs", scaled))))))
    above = Lines(trace.each("maximum", scaled, 0.0))
    soft = Lines(trace.each("add", above, Lines(trace.each("log1p", small))))
    soft = Lines(trace.each("div", soft, beta))
    return trace.each("where", Lines(trace.each("lt", threshold, scaled)), a, soft)


@_rule("binary_cross_entropy_with_logits")
def _logits(
    trace: Trace, a: Any, y: Any, weight: Any = None, pos_weight: Any = None, reduction: int = 1
) -> Tensor:
    if weight is not None or pos_weight is not None or reduction != 0:
        raise Refused("it weighs or adds up cross-entropies")
    part = Lines(trace.each("mul", a, y))
    return trace.each("sub", Lines(_softplus(trace, a, threshold=torch.inf)), part)


@_rule("xlogy")
def _xlogy(trace: Trace, a: Any, b: Any) -> Tensor:
    whole = Lines(trace.each("mul", a, Lines(trace.each("log", b))))
    return trace.each("where", Lines(trace.each("eq", a, 0.0)), 0.0, whole)


@_rule("addcmul")
def _addcmul(trace: Trace, a: Any, b: Any, c: Any, *, value: float = 1) -> Tensor:
    return _add(trace, a, Lines(trace.each("mul", b, c)), alpha=value)


@_rule("linalg_solve_triangular")
def _solve(
    trace: Trace, A: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    if not left or unitriangular:
        raise Refused("it solves a triangular system from the right, or with a unit diagonal")
    known, given = trace.ids(A), trace.ids(b)
    lead = torch.broadcast_shapes(known.shape[:-2], given.shape[:-2])
    known, given = (x.expand(*lead, *x.shape[-2:]) for x in (known, given))
    n = known.shape[-1]
    rows: dict[int, Tensor] = {}
    for i in reversed(range(n)) if upper else range(n):
        rest = given[..., i, :]
        for j, row in rows.items():
            part = trace.each("mul", Lines(known[..., i, j].unsqueeze(-1)), Lines(row))
            rest = trace.each("sub", Lines(rest), Lines(part))
        rows[i] = trace.each("div", Lines(rest), Lines(known[..., i, i].unsqueeze(-1)))
    return torch.stack([rows[i] for i in range(n)], -2)


@_rule("mm", "bmm", "mv", "dot")
def _product(trace: Trace, a: Any, b: Any) -> Tensor:
    left, right = trace.ids(a), trace.ids(b)
    vector = right.dim() == 1
    right = right.unsqueeze(-1) if vector else right
    total: Tensor | None = None
    for j in range(left.shape[-1]):
        pair = Lines(left[..., :, j].unsqueeze(-1)), Lines(right[..., j, :].unsqueeze(-2))
        part = trace.each("mul", *pair)
        total = part if total is None else trace.each("add", Lines(total), Lines(part))
    assert total is not None
    return total.squeeze(-1) if vector else total


@_rule("addmm", "addmv", "baddbmm")
def _affine(trace: Trace, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if beta != 1 or alpha != 1:
        raise Refused("it calls addmm with factors")
    return trace.each("add", Lines(_product(trace, a, b)), c)


def _folded(trace: Trace, name: str, lines: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Entries along axes joined pair by pair."""
    for axis in sorted((a % max(lines.dim(), 1) for a in axes), reverse=True):
        first, *rest = lines.unbind(axis)
        for one in rest:
            first = trace.each(name, Lines(first), Lines(one))
        lines = first.unsqueeze(axis) if keep else first
    return lines


def _axes(x: Tensor, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(x.dim()))
    return [dim] if isinstance(dim, int) else list(dim)


@_rule("sum")
def _sum(trace: Trace, a: Any, dim: Any = None, keepdim: bool = False, **named: Any) -> Tensor:
    lines = trace.ids(a)
    return _folded(trace, "add", lines, _axes(lines, dim), keepdim)


@_rule("mean")
def _mean(trace: Trace, a: Any, dim: Any = None, keepdim: bool = False, **named: Any) -> Tensor:
    lines = trace.ids(a)
    total = _sum(trace, a, dim, keepdim)
    return trace.each("div", Lines(total), float(lines.numel() // max(total.numel(), 1)))


@_rule("amax")
def _amax(trace: Trace, a: Any, dim: Any = None, keepdim: bool = False) -> Tensor:
    lines = trace.ids(a)
    return _folded(trace, "maximum", lines, _axes(lines, dim), keepdim)


@_rule("amin")
def _amin(trace: Trace, a: Any, dim: Any = None, keepdim: bool = False) -> Tensor:
    lines = trace.ids(a)
    return _folded(trace, "minimum", lines, _axes(lines, dim), keepdim)


@_rule("logsumexp")
def _logsumexp(trace: Trace, a: Any, dim: Any, keepdim: bool = False) -> Tensor:
    top = Lines(_amax(trace, a, dim, True))
    # Where all are −∞, or one is ∞, there is nothing to subtract.
    endless = Lines(trace.each("eq", Lines(trace.each("abs", top)), torch.inf))
    shift = Lines(trace.each("where", endless, 0.0, top))
    found = Lines(trace.each("exp", Lines(trace.each("sub", a, shift))))
    axes = _axes(found.ids, dim)
    total = Lines(_folded(trace, "add", found.ids, axes, True))
    found = trace.each("add", Lines(trace.each("log", total)), shift)
    return found if keepdim else _folded(trace, "add", found, axes, False)
