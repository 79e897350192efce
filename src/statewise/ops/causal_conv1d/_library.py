"""The short causal convolution as a torch operator, known to autograd, compile and export.

Arguments are checked by then: x (B, L, D); weight (D, W), bias (D,) and h0 (B, W − 1, D) in the
accumulation type; reset (B, L) bool.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.precision import accumulation_dtype

OP = "causal_conv1d"

dispatch.register(
    OP,
    reference="statewise.ops.causal_conv1d.reference",
    cpu="statewise.ops.causal_conv1d.cpu",
    gpu="statewise.ops.causal_conv1d.gpu",
)


@operator(
    "causal_conv1d",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? h0, Tensor? reset, bool silu,"
    " bool reverse) -> (Tensor, Tensor)",
)
def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The output (B, L, D) and the last window (B, W − 1, D)."""
    backend = dispatch.select(OP, x.device.type, x.dtype)
    return backend.forward(x, weight, bias, h0, reset, silu, reverse)


@convolve.register_fake
def _(x, weight, bias, h0, reset, silu, reverse):
    window = (x.shape[0], weight.shape[1] - 1, x.shape[2])
    return x.new_empty(x.shape), x.new_empty(window, dtype=accumulation_dtype(x.dtype))


@operator(
    "causal_conv1d_backward",
    "(Tensor? grad_y, Tensor? grad_last, Tensor x, Tensor weight, Tensor? bias, Tensor? h0,"
    " Tensor? reset, bool silu, bool reverse, str? backend) -> (Tensor, Tensor, Tensor, Tensor)",
)
def convolve_backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    reverse: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and h0; those of absent ones are empty."""
    chosen = dispatch.select(OP, x.device.type, x.dtype, backend)
    return chosen.backward(grad_y, grad_last, x, weight, bias, h0, reset, silu, reverse)


@convolve_backward.register_fake
def _(grad_y, grad_last, x, weight, bias, h0, reset, silu, reverse, backend):
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(0 if bias is None else bias.shape),
        weight.new_empty(0 if h0 is None else h0.shape),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, h0, reset, ctx.silu, ctx.reverse = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, h0, reset)


def _backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None) -> tuple:
    found = convolve_backward(
        grad_y, grad_last, *ctx.saved_tensors, ctx.silu, ctx.reverse, ctx.backend
    )
    wanted = zip(found, ctx.needs_input_grad, strict=False)
    return (*(g if needed else None for g, needed in wanted), None, None, None)


convolve.register_autograd(_backward, setup_context=_setup)
convolve_backward.register_autograd(no_second_derivative(OP))
