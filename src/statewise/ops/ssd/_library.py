"""The core recurrence of state-space duality as a torch operator.

Arguments are checked by then. In the working type: x and z (B, L, H, P), B and C (B, L, G, N)
with G dividing H. In the accumulation type: log_a and w (B, L, H), D (H, P), h0 (B, H, P, N).
reset is (B, L) bool. w, D, z, h0 and reset may be None. Per head, in scan order,

    h_t = exp(log_a_t) h_{t−1} + w_t x_t B_tᵀ,   y_t = (h_t C_t + D ⊙ x_t) ⊙ silu(z_t).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.precision import accumulation_dtype
from statewise.ops.ssd._shapes import chunks

OP = "ssd"

dispatch.register(
    OP,
    reference="statewise.ops.ssd.reference",
    cpu="statewise.ops.ssd.cpu",
    gpu="statewise.ops.ssd.gpu",
)

_INPUTS = (
    "Tensor x, Tensor log_a, Tensor? w, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? h0,"
    " Tensor? reset"
)


@operator("ssd", f"({_INPUTS}, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)")
def core(
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (B, L, H, P), the last state (B, H, P, N) and the states before the chunks.

    The third, (B, K, H, P, N) in scan order, is for the backward pass; empty unless ``keep``.
    """
    backend = dispatch.select(OP, x.device.type, x.dtype)
    return backend.forward(x, log_a, w, B, C, D, z, h0, reset, reverse, keep)


@core.register_fake
def _(x, log_a, w, B, C, D, z, h0, reset, reverse, keep):
    batch, length, heads, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    states = (batch, chunks(length), heads, width, B.shape[3]) if keep else (0,)
    return (
        x.new_empty(x.shape),
        x.new_empty((batch, heads, width, B.shape[3]), dtype=dtype),
        x.new_empty(states, dtype=dtype),
    )


@operator(
    "ssd_backward",
    f"(Tensor? grad_y, Tensor? grad_last, {_INPUTS}, Tensor states, bool reverse,"
    " bool[] needs, str? backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def core_backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    states: Tensor,
    reverse: bool,
    needs: Sequence[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, log_a, w, B, C, D, z and h0, each in the type of its tensor.

    ``needs`` says for each of the eight whether it is wanted; the others are empty, of shape (0,).
    """
    chosen = dispatch.select(OP, x.device.type, x.dtype, backend)
    return chosen.backward(
        *(grad_y, grad_last, x, log_a, w, B, C, D, z, h0, reset, states, reverse, needs)
    )


@core_backward.register_fake
def _(grad_y, grad_last, x, log_a, w, B, C, D, z, h0, reset, states, reverse, needs, backend):
    inputs = (x, log_a, w, B, C, D, z, h0)
    return tuple(
        # In place of a tensor that is absent: its type, for the empty answer.
        torch.empty(like.shape if need else 0, dtype=like.dtype, device=x.device)
        for need, like in zip(needs, present(inputs), strict=True)
    )


def present(inputs: Sequence[Tensor | None]) -> list[Tensor]:
    """The eight inputs, an absent one replaced by one of the type its empty gradient has."""
    x, log_a = inputs[:2]
    stand_ins = (x, log_a, log_a, x, x, log_a, x, log_a)
    found = (y if given is None else given for given, y in zip(inputs, stand_ins, strict=True))
    return [tensor for tensor in found if tensor is not None]


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.reverse, ctx.keep = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2] if ctx.keep else None)


def _backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Tensor | None) -> tuple:
    *tensors, states = ctx.saved_tensors
    if states is None:
        states = core(*tensors, ctx.reverse, True)[2]
    needs = [
        bool(need) and x is not None
        for need, x in zip(ctx.needs_input_grad[:8], tensors[:8], strict=True)
    ]
    gradients = core_backward(grad_y, grad_last, *tensors, states, ctx.reverse, needs, ctx.backend)
    wanted = (g if need else None for g, need in zip(gradients, needs, strict=True))
    return (*wanted, None, None, None)


core.register_autograd(_backward, setup_context=_setup)
core_backward.register_autograd(no_second_derivative(OP))
