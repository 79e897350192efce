"""The reciprocal of a power series as a torch operator, known to autograd, compile and export."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator

OP = "reciprocal_series"

# The transforms of torch serve both devices, so both back ends are one module.
dispatch.register(
    OP,
    reference="statewise.ops.companion_kernel.reference",
    cpu="statewise.ops.companion_kernel.series",
    gpu="statewise.ops.companion_kernel.series",
)


@operator("reciprocal_series", "(Tensor p, SymInt length) -> Tensor")
def reciprocal(p: Tensor, length: int) -> Tensor:
    """The first coefficients, (..., L)."""
    return dispatch.select(OP, p.device.type, p.dtype).forward(p, length)


@reciprocal.register_fake
def _(p, length):
    return p.new_empty((*p.shape[:-1], length))


@operator(
    "reciprocal_series_backward", "(Tensor grad, Tensor y, SymInt count, str? backend) -> Tensor"
)
def reciprocal_backward(grad: Tensor, y: Tensor, count: int, backend: str | None) -> Tensor:
    """Gradient of p, (..., n), from the result y."""
    return dispatch.select(OP, y.device.type, y.dtype, backend).backward(grad, y, count)


@reciprocal_backward.register_fake
def _(grad, y, count, backend):
    return y.new_empty((*y.shape[:-1], count))


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.count = inputs[0].shape[-1]
    ctx.backend = captured_choice()
    ctx.save_for_backward(output)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    (y,) = ctx.saved_tensors
    return reciprocal_backward(grad, y, ctx.count, ctx.backend), None


reciprocal.register_autograd(_backward, setup_context=_setup)
reciprocal_backward.register_autograd(no_second_derivative(OP))
