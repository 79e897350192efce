"""Step sizes on CPU tensors as a torch operator: Δ = clamp(softplus(dt + bias)) and log_a = Δ A."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.ssd import reference
from statewise.ops.ssd._library import OP

_INPUTS = "Tensor dt, Tensor A, Tensor? bias, bool softplus, float low, float high"


def _backend(dt: Tensor, name: str | None = None) -> Any:
    """The back end of the recurrence where it has step sizes of its own, else the reference."""
    chosen = dispatch.select(OP, dt.device.type, dt.dtype, name)
    return chosen if hasattr(chosen, "steps") else reference


@operator("ssd_steps", f"({_INPUTS}) -> (Tensor, Tensor)")
def steps(
    dt: Tensor, A: Tensor, bias: Tensor | None, softplus: bool, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Return log_a = Δ A and Δ, both (B, L, H); dt, A and bias have one type."""
    return _backend(dt).steps(dt, A, bias, softplus, low, high)


@steps.register_fake
def _(dt, A, bias, softplus, low, high):
    return dt.new_empty(dt.shape), dt.new_empty(dt.shape)


@operator(
    "ssd_steps_backward",
    f"(Tensor? dlog_a, Tensor? ddelta, {_INPUTS}, str? backend) -> (Tensor, Tensor, Tensor)",
)
def steps_backward(
    dlog_a: Tensor | None,
    ddelta: Tensor | None,
    dt: Tensor,
    A: Tensor,
    bias: Tensor | None,
    softplus: bool,
    low: float,
    high: float,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of dt, A and the bias, from those of log_a and Δ."""
    chosen = _backend(dt, backend)
    return chosen.steps_backward(dlog_a, ddelta, dt, A, bias, softplus, low, high)


@steps_backward.register_fake
def _(dlog_a, ddelta, dt, A, bias, softplus, low, high, backend):
    return dt.new_empty(dt.shape), A.new_empty(A.shape), A.new_empty(A.shape)


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.softplus, ctx.low, ctx.high = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dlog_a: Tensor | None, ddelta: Tensor | None) -> tuple:
    found = steps_backward(
        dlog_a, ddelta, *ctx.saved_tensors, ctx.softplus, ctx.low, ctx.high, ctx.backend
    )
    wanted = (g if need else None for g, need in zip(found, ctx.needs_input_grad, strict=False))
    return (*wanted, None, None, None)


steps.register_autograd(_backward, setup_context=_setup)
steps_backward.register_autograd(no_second_derivative(OP))
