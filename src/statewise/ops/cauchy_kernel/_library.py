"""The Cauchy product as a torch operator, known to autograd, compile and export.

Arguments are checked by then: v (P, D, N, 2), poles (D, N, 2), frequencies (J,), each float32 or
float64.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator

OP = "cauchy_product"

dispatch.register(
    OP,
    reference="statewise.ops.cauchy_kernel.reference",
    cpu="statewise.ops.cauchy_kernel.cpu",
    gpu="statewise.ops.cauchy_kernel.gpu",
)


@operator("cauchy_product", "(Tensor v, Tensor poles, Tensor frequencies) -> Tensor")
def product(v: Tensor, poles: Tensor, frequencies: Tensor) -> Tensor:
    """The sums, (P, D, J, 2)."""
    return dispatch.select(OP, v.device.type, v.dtype).forward(v, poles, frequencies)


@product.register_fake
def _(v, poles, frequencies):
    return v.new_empty((v.shape[0], v.shape[1], frequencies.shape[0], 2))


@operator(
    "cauchy_product_backward",
    "(Tensor grad, Tensor v, Tensor poles, Tensor frequencies, str? backend) -> (Tensor, Tensor)",
)
def product_backward(
    grad: Tensor, v: Tensor, poles: Tensor, frequencies: Tensor, backend: str | None
) -> tuple[Tensor, Tensor]:
    """Gradients of v and the poles."""
    chosen = dispatch.select(OP, v.device.type, v.dtype, backend)
    return chosen.backward(grad, v, poles, frequencies)


@product_backward.register_fake
def _(grad, v, poles, frequencies, backend):
    return v.new_empty(v.shape), poles.new_empty(poles.shape)


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.backend = captured_choice()
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    dv, dpoles = product_backward(grad, *ctx.saved_tensors, ctx.backend)
    need_v, need_poles = ctx.needs_input_grad[:2]
    return dv if need_v else None, dpoles if need_poles else None, None


product.register_autograd(_backward, setup_context=_setup)
product_backward.register_autograd(no_second_derivative(OP))
