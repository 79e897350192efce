"""The linear scan as a torch operator, known to autograd, compile and export.

Arguments are checked by then: a has the type of b and broadcasts to it, its channel axis in full;
b is (B, L, D), h0 (B, D) or None in the accumulation type, reset (B, L) bool or None; all but
reset with a trailing axis (re, im) when b has four axes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.precision import accumulation_dtype

OP = "linear_scan"

dispatch.register(
    OP,
    reference="statewise.ops.linear_scan.reference",
    cpu="statewise.ops.linear_scan.cpu",
    gpu="statewise.ops.linear_scan.gpu",
)


def _full_rank(a: Tensor, b: Tensor) -> Tensor:
    missing = b.dim() - a.dim()
    return a.reshape((1,) * missing + a.shape) if missing else a


@operator(
    "linear_scan",
    "(Tensor a, Tensor b, Tensor? h0, Tensor? reset, bool reverse) -> (Tensor, Tensor)",
)
def scan(
    a: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Every state h (B, L, D), and the last one (B, D)."""
    backend = dispatch.select(OP, b.device.type, b.dtype)
    return backend.forward(_full_rank(a, b), b, h0, reset, reverse, b.dim() == 4)


@scan.register_fake
def _(a, b, h0, reset, reverse):
    state = (b.shape[0], *b.shape[2:])
    return b.new_empty(b.shape), b.new_empty(state, dtype=accumulation_dtype(b.dtype))


@operator(
    "linear_scan_backward",
    "(Tensor? grad_h, Tensor? grad_last, Tensor a, Tensor h, Tensor? h0, Tensor? reset,"
    " bool reverse, bool need_a, str? backend) -> (Tensor, Tensor, Tensor)",
)
def scan_backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_a: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, b and h0; that of ``a`` is empty unless needed, that of h0 without one."""
    chosen = dispatch.select(OP, h.device.type, h.dtype, backend)
    full = _full_rank(a, h)
    da, db, dh0 = chosen.backward(
        grad_h, grad_last, full, h, h0, reset, reverse, h.dim() == 4, need_a
    )
    return (da.reshape(a.shape) if need_a and full is not a else da), db, dh0


@scan_backward.register_fake
def _(grad_h, grad_last, a, h, h0, reset, reverse, need_a, backend):
    return (
        a.new_empty(a.shape if need_a else 0),
        h.new_empty(h.shape),
        h.new_empty(0 if h0 is None else h0.shape, dtype=accumulation_dtype(h.dtype)),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    a, _, h0, reset, ctx.reverse = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(a, output[0], h0, reset)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple:
    a, h, h0, reset = ctx.saved_tensors
    need_a, need_b, need_h0 = ctx.needs_input_grad[:3]
    da, db, dh0 = scan_backward(
        grad_h, grad_last, a, h, h0, reset, ctx.reverse, need_a, ctx.backend
    )
    return (
        da if need_a else None,
        db if need_b else None,
        dh0 if need_h0 else None,
        None,
        None,
    )


scan.register_autograd(_backward, setup_context=_setup)
scan_backward.register_autograd(no_second_derivative(OP))
