"""The ParaGRU and ParaLSTM scans as torch operators, known to autograd, compile and export.

Arguments are checked by then: pre is (B, L, 3, D); a (3, D), w (2, D) and h0 are in the
accumulation type, reset is (B, L) bool or None.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator
from statewise.ops.precision import accumulation_dtype

GRU, LSTM = "para_gru", "para_lstm"

for _op in (GRU, LSTM):
    dispatch.register(
        _op,
        reference="statewise.ops.newton_scan.reference",
        cpu="statewise.ops.newton_scan.cpu",
        gpu="statewise.ops.newton_scan.gpu",
    )


@operator(
    "para_gru",
    "(Tensor pre, Tensor a, Tensor? h0, Tensor? reset, bool reverse) -> (Tensor, Tensor)",
)
def gru(
    pre: Tensor, a: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Every state h (B, L, D), and the last one (B, D)."""
    backend = dispatch.select(GRU, pre.device.type, pre.dtype)
    return backend.gru_forward(pre, a, h0, reset, reverse)


@gru.register_fake
def _(pre, a, h0, reset, reverse):
    B, L, _, D = pre.shape
    return pre.new_empty(B, L, D), pre.new_empty(B, D, dtype=accumulation_dtype(pre.dtype))


@operator(
    "para_gru_backward",
    "(Tensor? grad_h, Tensor? grad_last, Tensor pre, Tensor a, Tensor h, Tensor? h0,"
    " Tensor? reset, bool reverse, str? backend) -> (Tensor, Tensor, Tensor)",
)
def gru_backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    pre: Tensor,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of pre, a and h0, the last one empty without h0."""
    chosen = dispatch.select(GRU, pre.device.type, pre.dtype, backend)
    return chosen.gru_backward(grad_h, grad_last, pre, a, h, h0, reset, reverse)


@gru_backward.register_fake
def _(grad_h, grad_last, pre, a, h, h0, reset, reverse, backend):
    dh0 = h.new_empty(0 if h0 is None else h0.shape, dtype=accumulation_dtype(pre.dtype))
    return pre.new_empty(pre.shape), a.new_empty(a.shape), dh0


def _setup_gru(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    pre, a, h0, reset, ctx.reverse = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(pre, a, output[0], h0, reset)


def _gru_gradients(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple:
    pre, a, h, h0, reset = ctx.saved_tensors
    dpre, da, dh0 = gru_backward(grad_h, grad_last, pre, a, h, h0, reset, ctx.reverse, ctx.backend)
    return dpre, da, None if h0 is None else dh0, None, None


gru.register_autograd(_gru_gradients, setup_context=_setup_gru)
gru_backward.register_autograd(no_second_derivative(GRU))


@operator(
    "para_lstm",
    "(Tensor pre, Tensor a, Tensor w, Tensor? h0, Tensor? reset, bool reverse)"
    " -> (Tensor, Tensor, Tensor)",
)
def lstm(
    pre: Tensor, a: Tensor, w: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Every h and every c (B, L, D), and the last pairs (c, h) (B, D, 2)."""
    backend = dispatch.select(LSTM, pre.device.type, pre.dtype)
    return backend.lstm_forward(pre, a, w, h0, reset, reverse)


@lstm.register_fake
def _(pre, a, w, h0, reset, reverse):
    B, L, _, D = pre.shape
    last = pre.new_empty(B, D, 2, dtype=accumulation_dtype(pre.dtype))
    return pre.new_empty(B, L, D), pre.new_empty(B, L, D), last


@operator(
    "para_lstm_backward",
    "(Tensor? grad_h, Tensor? grad_c, Tensor? grad_last, Tensor pre, Tensor a, Tensor w,"
    " Tensor h, Tensor c, Tensor? h0, Tensor? reset, bool reverse, str? backend)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def lstm_backward(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    grad_last: Tensor | None,
    pre: Tensor,
    a: Tensor,
    w: Tensor,
    h: Tensor,
    c: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of pre, a, w and h0, the last one empty without h0."""
    chosen = dispatch.select(LSTM, pre.device.type, pre.dtype, backend)
    return chosen.lstm_backward(grad_h, grad_c, grad_last, pre, a, w, h, c, h0, reset, reverse)


@lstm_backward.register_fake
def _(grad_h, grad_c, grad_last, pre, a, w, h, c, h0, reset, reverse, backend):
    dh0 = h.new_empty(0 if h0 is None else h0.shape, dtype=accumulation_dtype(pre.dtype))
    return pre.new_empty(pre.shape), a.new_empty(a.shape), w.new_empty(w.shape), dh0


def _setup_lstm(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    pre, a, w, h0, reset, ctx.reverse = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(pre, a, w, output[0], output[1], h0, reset)


def _lstm_gradients(
    ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None, grad_last: Tensor | None
) -> tuple:
    pre, a, w, h, c, h0, reset = ctx.saved_tensors
    dpre, da, dw, dh0 = lstm_backward(
        grad_h, grad_c, grad_last, pre, a, w, h, c, h0, reset, ctx.reverse, ctx.backend
    )
    return dpre, da, dw, None if h0 is None else dh0, None, None


lstm.register_autograd(_lstm_gradients, setup_context=_setup_lstm)
lstm_backward.register_autograd(no_second_derivative(LSTM))
