"""The Vandermonde kernel as a torch operator, known to autograd, compile and export.

Arguments are checked by then: a and c are (D, N, 2), both float32 or both float64.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator

OP = "vandermonde_kernel"

dispatch.register(
    OP,
    reference="statewise.ops.vandermonde_kernel.reference",
    cpu="statewise.ops.vandermonde_kernel.cpu",
    gpu="statewise.ops.vandermonde_kernel.gpu",
)


@operator("vandermonde_kernel", "(Tensor a, Tensor c, SymInt length, bool log) -> Tensor")
def product(a: Tensor, c: Tensor, length: int, log: bool) -> Tensor:
    """The kernel (D, L)."""
    return dispatch.select(OP, a.device.type, a.dtype).forward(a, c, length, log)


@product.register_fake
def _(a, c, length, log):
    return a.new_empty(a.shape[0], length)


@operator(
    "vandermonde_kernel_backward",
    "(Tensor grad, Tensor a, Tensor c, bool log, str? backend) -> (Tensor, Tensor)",
)
def product_backward(
    grad: Tensor, a: Tensor, c: Tensor, log: bool, backend: str | None
) -> tuple[Tensor, Tensor]:
    """Gradients of a and c."""
    return dispatch.select(OP, a.device.type, a.dtype, backend).backward(grad, a, c, log)


@product_backward.register_fake
def _(grad, a, c, log, backend):
    return a.new_empty(a.shape), c.new_empty(c.shape)


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    a, c, _, ctx.log = inputs
    ctx.backend = captured_choice()
    ctx.save_for_backward(a, c)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    a, c = ctx.saved_tensors
    da, dc = product_backward(grad, a, c, ctx.log, ctx.backend)
    need = ctx.needs_input_grad
    return da if need[0] else None, dc if need[1] else None, None, None


product.register_autograd(_backward, setup_context=_setup)
product_backward.register_autograd(no_second_derivative(OP))
