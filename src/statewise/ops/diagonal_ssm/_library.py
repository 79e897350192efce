"""The diagonal bank as a torch operator, known to autograd, compile and export.

Arguments are checked by then: u is (B, L, D); a, b, c (D, N, 2), d (D,) or None, h0 (B, D, N, 2)
or None, dt (D,), (B, L, D), (B, L, 1) for steps that all channels share, or None are in the
accumulation type of u; reset is (B, L) bool or None.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.diagonal_ssm.reference import bounds_shape
from statewise.ops.library import captured_choice, no_second_derivative, operator

OP = "diagonal_ssm"

dispatch.register(
    OP,
    reference="statewise.ops.diagonal_ssm.reference",
    cpu="statewise.ops.diagonal_ssm.cpu",
    gpu="statewise.ops.diagonal_ssm.gpu",
)


def _expanded(backend: Any, u: Tensor, dt: Tensor | None) -> Tensor | None:
    """The steps, written out for all channels where the back end knows no shared ones."""
    if dt is None or dt.dim() != 3 or getattr(backend, "SHARED_STEPS", False):
        return dt
    return dt.expand(u.shape)


@operator(
    "diagonal_ssm",
    "(Tensor u, Tensor a, Tensor b, Tensor c, Tensor? d, Tensor? h0, Tensor? dt,"
    " Tensor? reset, str rule, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)",
)
def bank(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    h0: Tensor | None,
    dt: Tensor | None,
    reset: Tensor | None,
    rule: str,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, L, D), the last state (B, D, N, 2), and the states kept for the backward pass."""
    backend = dispatch.select(OP, u.device.type, u.dtype)
    dt = _expanded(backend, u, dt)
    return backend.forward(u, a, b, c, d, h0, dt, reset, rule, reverse, keep)


@bank.register_fake
def _(u, a, b, c, d, h0, dt, reset, rule, reverse, keep):
    return (
        u.new_empty(u.shape),
        a.new_empty((u.shape[0], *a.shape)),
        a.new_empty(bounds_shape(u, a) if keep else 0),
    )


@operator(
    "diagonal_ssm_backward",
    "(Tensor? grad_y, Tensor? grad_last, Tensor u, Tensor a, Tensor b, Tensor c, Tensor? d,"
    " Tensor? h0, Tensor? dt, Tensor? reset, Tensor bounds, str rule, bool reverse,"
    " bool need_parameters, str? backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def bank_backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    h0: Tensor | None,
    dt: Tensor | None,
    reset: Tensor | None,
    bounds: Tensor,
    rule: str,
    reverse: bool,
    need_parameters: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, a, b, c, d, h0 and dt; empty where not wanted or where there is none."""
    if need_parameters and u.numel() and not bounds.numel():
        raise RuntimeError(
            f"{OP}: the gradients of a, b, c, d and dt need the states that the forward pass keeps "
            "when one of them requires a gradient, and none were kept"
        )
    chosen = dispatch.select(OP, u.device.type, u.dtype, backend)
    steps = _expanded(chosen, u, dt)
    found = chosen.backward(
        grad_y, grad_last, u, a, b, c, d, h0, steps, reset, bounds, rule, reverse, need_parameters
    )
    du, da, db, dc, dd, dh0, ddt = (a.new_empty(0) if x is None else x for x in found)
    if dt is not None and need_parameters:
        ddt = ddt.sum_to_size(dt.shape)
    return du, da, db, dc, dd, dh0, ddt


@bank_backward.register_fake
def _(
    grad_y, grad_last, u, a, b, c, d, h0, dt, reset, bounds, rule, reverse, need_parameters, backend
):
    def like(x: Tensor | None, wanted: bool = True) -> Tensor:
        return a.new_empty(x.shape if x is not None and wanted else 0)

    return (
        u.new_empty(u.shape),
        *(like(x, need_parameters) for x in (a, b, c, d)),
        like(h0),
        like(dt, need_parameters),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.rule, ctx.reverse, _ = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Tensor | None) -> tuple:
    *tensors, bounds = ctx.saved_tensors
    need = ctx.needs_input_grad
    parameters = any(need[i] for i in (1, 2, 3, 4, 6))
    du, da, db, dc, dd, dh0, ddt = bank_backward(
        grad_y, grad_last, *tensors, bounds, ctx.rule, ctx.reverse, parameters, ctx.backend
    )
    found = (du, da, db, dc, dd, dh0, ddt)
    return (*(x if need[i] else None for i, x in enumerate(found)), None, None, None, None)


bank.register_autograd(_backward, setup_context=_setup)
bank_backward.register_autograd(no_second_derivative(OP))
