"""The linear map of a few rows as a torch operator, known to autograd, compile and export.

Arguments are checked by then: x (B, K), weight (M, K) and bias (M,) or None, of one type.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import operator
from statewise.ops.matvec import reference

OP = "matvec"

dispatch.register(
    OP,
    reference="statewise.ops.matvec.reference",
    cpu="statewise.ops.matvec.cpu",
    gpu="statewise.ops.matvec.reference",
)


@operator("matvec", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The rows y, (B, M)."""
    return dispatch.select(OP, x.device.type, x.dtype).forward(x, weight, bias)


@multiply.register_fake
def _(x, weight, bias):
    return x.new_empty(x.shape[0], weight.shape[0])


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad_y: Tensor) -> tuple:
    dx, dweight, dbias = reference.backward(grad_y, *ctx.saved_tensors)
    return dx, dweight, dbias if ctx.has_bias else None


multiply.register_autograd(_backward, setup_context=_setup)
