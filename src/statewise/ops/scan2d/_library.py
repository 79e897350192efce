"""The two-dimensional scan as a torch operator, known to autograd, compile and export.

Arguments are checked by then: a1 … a4 (1 or B, 1 or L, 1 or V, D), b1 and b2 (B, L, V, D), all of
one type; h0 (B, 2, V, D) in the accumulation type; reset (B, L) bool.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.precision import accumulation_dtype

OP = "scan2d"

dispatch.register(
    OP,
    reference="statewise.ops.scan2d.reference",
    cpu="statewise.ops.scan2d.cpu",
    gpu="statewise.ops.scan2d.gpu",
)


@operator(
    "scan2d",
    "(Tensor a1, Tensor a2, Tensor a3, Tensor a4, Tensor b1, Tensor b2, Tensor? h0,"
    " Tensor? reset, bool reverse) -> (Tensor, Tensor, Tensor)",
)
def scan(
    a1: Tensor,
    a2: Tensor,
    a3: Tensor,
    a4: Tensor,
    b1: Tensor,
    b2: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """p, q (B, L, V, D) and the last state (B, 2, V, D)."""
    backend = dispatch.select(OP, b1.device.type, b1.dtype)
    return backend.forward((a1, a2, a3, a4), b1, b2, h0, reset, reverse)


@scan.register_fake
def _(a1, a2, a3, a4, b1, b2, h0, reset, reverse):
    batch, _, variates, channels = b1.shape
    state = b1.new_empty(batch, 2, variates, channels, dtype=accumulation_dtype(b1.dtype))
    return b1.new_empty(b1.shape), b1.new_empty(b1.shape), state


@operator(
    "scan2d_backward",
    "(Tensor? grad_p, Tensor? grad_q, Tensor? grad_last, Tensor a1, Tensor a2, Tensor a3,"
    " Tensor a4, Tensor p, Tensor q, Tensor? h0, Tensor? reset, bool reverse, str? backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def scan_backward(
    grad_p: Tensor | None,
    grad_q: Tensor | None,
    grad_last: Tensor | None,
    a1: Tensor,
    a2: Tensor,
    a3: Tensor,
    a4: Tensor,
    p: Tensor,
    q: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a1 … a4, b1, b2 and h0; that of h0 is empty without one."""
    chosen = dispatch.select(OP, p.device.type, p.dtype, backend)
    return chosen.backward(grad_p, grad_q, grad_last, (a1, a2, a3, a4), p, q, h0, reset, reverse)


@scan_backward.register_fake
def _(grad_p, grad_q, grad_last, a1, a2, a3, a4, p, q, h0, reset, reverse, backend):
    like = [x.new_empty(x.shape) for x in (a1, a2, a3, a4, p, q)]
    state = 0 if h0 is None else h0.shape
    return (*like, p.new_empty(state, dtype=accumulation_dtype(p.dtype)))


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *coefficients, _, _, h0, reset, ctx.reverse = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*coefficients, *output[:2], h0, reset)


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple:
    found = scan_backward(*gradients, *ctx.saved_tensors, ctx.reverse, ctx.backend)
    wanted = zip(found, ctx.needs_input_grad, strict=False)
    return (*(g if needed else None for g, needed in wanted), None, None)


scan.register_autograd(_backward, setup_context=_setup)
scan_backward.register_autograd(no_second_derivative(OP))
