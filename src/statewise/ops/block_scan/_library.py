"""The block scan as a torch operator, known to autograd, compile and export.

Arguments are checked by then: A is (1 or B, 1 or L, D, k, k) in the type of b, b is (B, L, D, k),
h0 (B, D, k) or None in the accumulation type, reset (B, L) bool or None.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.precision import accumulation_dtype

OP = "block_scan"

dispatch.register(
    OP,
    reference="statewise.ops.block_scan.reference",
    cpu="statewise.ops.block_scan.cpu",
    gpu="statewise.ops.block_scan.gpu",
)


@operator(
    "block_scan",
    "(Tensor A, Tensor b, Tensor? h0, Tensor? reset, bool reverse) -> (Tensor, Tensor)",
)
def scan(
    A: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Every state h (B, L, D, k), and the last one (B, D, k)."""
    return dispatch.select(OP, b.device.type, b.dtype).forward(A, b, h0, reset, reverse)


@scan.register_fake
def _(A, b, h0, reset, reverse):
    state = (b.shape[0], *b.shape[2:])
    return b.new_empty(b.shape), b.new_empty(state, dtype=accumulation_dtype(b.dtype))


@operator(
    "block_scan_backward",
    "(Tensor? grad_h, Tensor? grad_last, Tensor A, Tensor h, Tensor? h0, Tensor? reset,"
    " bool reverse, bool need_A, str? backend) -> (Tensor, Tensor, Tensor)",
)
def scan_backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    A: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_A: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of A, b and h0; that of ``A`` is empty unless needed, that of h0 without one."""
    chosen = dispatch.select(OP, h.device.type, h.dtype, backend)
    return chosen.backward(grad_h, grad_last, A, h, h0, reset, reverse, need_A)


@scan_backward.register_fake
def _(grad_h, grad_last, A, h, h0, reset, reverse, need_A, backend):
    return (
        A.new_empty(A.shape if need_A else 0),
        h.new_empty(h.shape),
        h.new_empty(0 if h0 is None else h0.shape, dtype=accumulation_dtype(h.dtype)),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    A, _, h0, reset, ctx.reverse = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(A, output[0], h0, reset)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple:
    A, h, h0, reset = ctx.saved_tensors
    need_A, need_b, need_h0 = ctx.needs_input_grad[:3]
    dA, db, dh0 = scan_backward(
        grad_h, grad_last, A, h, h0, reset, ctx.reverse, need_A, ctx.backend
    )
    return (
        dA if need_A else None,
        db if need_b else None,
        dh0 if need_h0 else None,
        None,
        None,
    )


scan.register_autograd(_backward, setup_context=_setup)
scan_backward.register_autograd(no_second_derivative(OP))
