"""The forward recursion as a torch operator, known to autograd, compile and export.

Arguments are checked by then: log_initial (B, K), log_transition (b, t, K, K) with b 1 or B and t 1
or T, log_emission (B, T, K), lengths (B,) int64 or None; one type, float32 or float64.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator

OP = "hidden_markov"

dispatch.register(
    OP,
    reference="statewise.ops.hidden_markov.reference",
    cpu="statewise.ops.hidden_markov.cpu",
    gpu="statewise.ops.hidden_markov.reference",
)


@operator(
    "hidden_markov",
    "(Tensor log_initial, Tensor log_transition, Tensor log_emission, Tensor? lengths,"
    " bool begins) -> (Tensor, Tensor)",
)
def run(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    lengths: Tensor | None,
    begins: bool,
) -> tuple[Tensor, Tensor]:
    """Filtered log-probabilities (B, T, K) and log-likelihoods (B, T)."""
    backend = dispatch.select(OP, log_emission.device.type, log_emission.dtype)
    return backend.forward(log_initial, log_transition, log_emission, lengths, begins)


@run.register_fake
def _(log_initial, log_transition, log_emission, lengths, begins):
    return log_emission.new_empty(log_emission.shape), log_emission.new_empty(
        log_emission.shape[:2]
    )


@operator(
    "hidden_markov_backward",
    "(Tensor? gf, Tensor? gl, Tensor log_initial, Tensor log_transition,"
    " Tensor log_filtered, Tensor? lengths, bool begins, int[] lead, str? backend)"
    " -> (Tensor, Tensor, Tensor)",
)
def run_backward(
    gf: Tensor | None,
    gl: Tensor | None,
    log_initial: Tensor,
    log_transition: Tensor,
    log_filtered: Tensor,
    lengths: Tensor | None,
    begins: bool,
    lead: list[int],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of log_initial, of log_transition summed to ``lead`` axes, and log_emission."""
    chosen = dispatch.select(OP, log_filtered.device.type, log_filtered.dtype, backend)
    return chosen.backward(
        gf, gl, log_initial, log_transition, log_filtered, lengths, begins, tuple(lead)
    )


@run_backward.register_fake
def _(gf, gl, log_initial, log_transition, log_filtered, lengths, begins, lead, backend):
    K = log_filtered.shape[-1]
    return (
        log_initial.new_empty(log_initial.shape),
        log_filtered.new_empty(*lead, K, K),
        log_filtered.new_empty(log_filtered.shape),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    log_initial, log_transition, _, lengths, ctx.begins = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(log_initial, log_transition, output[0], lengths)


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple:
    log_initial, log_transition, log_filtered, lengths = ctx.saved_tensors
    lead = list(log_transition.shape[:2])
    given = (log_initial, log_transition, log_filtered, lengths)
    found = run_backward(*gradients, *given, ctx.begins, lead, ctx.backend)
    needed = ctx.needs_input_grad[:3]
    return (*(g if wanted else None for g, wanted in zip(found, needed, strict=True)), None, None)


run.register_autograd(_backward, setup_context=_setup)
run_backward.register_autograd(no_second_derivative(OP))
