"""The selective scan as a torch operator, known to autograd, compile and export.

Arguments are checked by then. u, dt, z (B, L, D) and B, C (B, L, G, N) or (D, N) have one
floating-point type, the working type, and B and C the same G where both have one; A (D, N), D,
dt_bias (D,) and h0 (B, D, N) have its accumulation type. When A has a trailing axis (re, im), so
have B, C and h0.

``states`` holds the state before each chunk of :data:`CHUNK` steps, counted in scan order, as
(B, K, N, D) in the accumulation type; it is empty unless ``keep``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.precision import accumulation_dtype
from statewise.ops.selective_scan._shapes import states_shape

OP = "selective_scan"

dispatch.register(
    OP,
    reference="statewise.ops.selective_scan.reference",
    cpu="statewise.ops.selective_scan.cpu",
    gpu="statewise.ops.selective_scan.gpu",
)

_INPUTS = (
    "Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z,"
    " Tensor? dt_bias, Tensor? h0, Tensor? reset"
)


@operator(
    "selective_scan",
    f"({_INPUTS}, bool softplus, bool zoh, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)",
)
def scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    softplus: bool,
    zoh: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs y (B, L, D), the last state (B, D, N), and the states to keep for the adjoint."""
    backend = dispatch.select(OP, u.device.type, u.dtype)
    return backend.forward(u, dt, A, B, C, D, z, dt_bias, h0, reset, softplus, zoh, reverse, keep)


@scan.register_fake
def _(u, dt, A, B, C, D, z, dt_bias, h0, reset, softplus, zoh, reverse, keep):
    acc = accumulation_dtype(u.dtype)
    return (
        u.new_empty(u.shape),
        u.new_empty((u.shape[0], *A.shape), dtype=acc),
        u.new_empty(states_shape(u, A, keep), dtype=acc),
    )


@operator(
    "selective_scan_backward",
    f"(Tensor? grad_y, Tensor? grad_last, {_INPUTS}, Tensor states, bool softplus,"
    " bool zoh, bool reverse, bool[] needs, str? backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def scan_backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    states: Tensor,
    softplus: bool,
    zoh: bool,
    reverse: bool,
    needs: Sequence[bool],
    backend: str | None,
) -> tuple[Tensor, ...]:
    """Gradients of u, dt, A, B, C, D, z, dt_bias, h0; (0,) where ``needs`` says not to."""
    chosen = dispatch.select(OP, u.device.type, u.dtype, backend)
    return chosen.backward(
        grad_y, grad_last, u, dt, A, B, C, D, z, dt_bias, h0, reset, states,
        softplus, zoh, reverse, tuple(needs),
    )  # fmt: skip


@scan_backward.register_fake
def _(
    grad_y, grad_last, u, dt, A, B, C, D, z, dt_bias, h0, reset, states,
    softplus, zoh, reverse, needs, backend,
):  # fmt: skip
    tensors = (u, dt, A, B, C, D, z, dt_bias, h0)
    return tuple(
        x.new_empty(x.shape) if x is not None and need else u.new_empty(0)
        for x, need in zip(tensors, needs, strict=True)
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.softplus, ctx.zoh, ctx.reverse, ctx.keep = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, grad_states: None
) -> tuple[Tensor | None, ...]:
    *tensors, states = ctx.saved_tensors
    options = (ctx.softplus, ctx.zoh, ctx.reverse)
    if not ctx.keep:
        states = scan(*tensors, *options, True)[2]
    needs = [
        need and x is not None
        for need, x in zip(ctx.needs_input_grad[:9], tensors[:9], strict=True)
    ]
    gradients = scan_backward(grad_y, grad_last, *tensors, states, *options, needs, ctx.backend)
    found = [g if need else None for g, need in zip(gradients, needs, strict=True)]
    return (*found, None, None, None, None, None)


scan.register_autograd(_backward, setup_context=_setup)
scan_backward.register_autograd(no_second_derivative(OP))
