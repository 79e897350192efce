"""The convolution as a torch operator, known to autograd, compile and export.

Arguments are checked by then: u (B, L, D), k (D, K), d (D,) or None, state (B, K − 1, D) or None,
all but u in its accumulation type; reset (B, L) bool or None.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.precision import accumulation_dtype

OP = "fft_conv"

dispatch.register(
    OP,
    reference="statewise.ops.fft_conv.reference",
    cpu="statewise.ops.fft_conv.cpu",
    gpu="statewise.ops.fft_conv.gpu",
)


@operator(
    "fft_conv",
    "(Tensor u, Tensor k, Tensor? d, Tensor? state, Tensor? reset, bool reverse,"
    " bool need_state) -> (Tensor, Tensor)",
)
def conv(
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_state: bool,
) -> tuple[Tensor, Tensor]:
    """The outputs (B, L, D), and the last K − 1 inputs (B, K − 1, D), empty unless needed."""
    backend = dispatch.select(OP, u.device.type, u.dtype)
    return backend.forward(u, k, d, state, reset, reverse, need_state)


@conv.register_fake
def _(u, k, d, state, reset, reverse, need_state):
    last = (u.shape[0], k.shape[1] - 1, u.shape[2]) if need_state else 0
    return u.new_empty(u.shape), u.new_empty(last, dtype=accumulation_dtype(u.dtype))


@operator(
    "fft_conv_backward",
    "(Tensor? grad_y, Tensor? grad_last, Tensor u, Tensor k, Tensor? d, Tensor? state,"
    " Tensor? reset, bool reverse, bool need_u, bool need_k, str? backend)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def conv_backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_u: bool,
    need_k: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, k, d and state; those of u and state, and of k and d, come together."""
    chosen = dispatch.select(OP, u.device.type, u.dtype, backend)
    return chosen.backward(grad_y, grad_last, u, k, d, state, reset, reverse, need_u, need_k)


@conv_backward.register_fake
def _(grad_y, grad_last, u, k, d, state, reset, reverse, need_u, need_k, backend):
    dtype = accumulation_dtype(u.dtype)
    return (
        u.new_empty(u.shape if need_u else 0),
        k.new_empty(k.shape if need_k else 0, dtype=dtype),
        k.new_empty(d.shape if need_k and d is not None else 0, dtype=dtype),
        k.new_empty(state.shape if need_u and state is not None else 0, dtype=dtype),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    u, k, d, state, reset, ctx.reverse, ctx.need_state = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(u, k, d, state, reset)


def _backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None) -> tuple:
    u, k, d, state, reset = ctx.saved_tensors
    need_u, need_k, need_d, need_state = ctx.needs_input_grad[:4]
    du, dk, dd, dstate = conv_backward(
        *(grad_y, grad_last if ctx.need_state else None, u, k, d, state, reset, ctx.reverse),
        *(need_u or need_state, need_k or need_d, ctx.backend),
    )
    return (
        du if need_u else None,
        dk if need_k else None,
        dd if need_d else None,
        dstate if need_state else None,
        None,
        None,
        None,
    )


conv.register_autograd(_backward, setup_context=_setup)
conv_backward.register_autograd(no_second_derivative(OP))
