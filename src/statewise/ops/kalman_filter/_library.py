"""The Kalman filter and smoother as torch operators, known to autograd, compile and export.

Arguments are checked by then. Of the filter: y (B, T, p), finite; F, H, Q, R (b, t, ·, ·), c and d
(b, t, ·) with b 1 or B and t 1 or T; m0 (B, n), P0 (B, n, n); observed (B, T, p) bool; lengths (B,)
int64; floating tensors of one type, float32 or float64.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import captured_choice, no_second_derivative, operator

OP = "kalman_filter"
SMOOTHER = "rts_smoother"

dispatch.register(
    OP,
    reference="statewise.ops.kalman_filter.reference",
    cpu="statewise.ops.kalman_filter.cpu",
    gpu="statewise.ops.kalman_filter.gpu",
)
dispatch.register(
    SMOOTHER,
    reference="statewise.ops.kalman_filter.reference",
    cpu="statewise.ops.kalman_filter.cpu",
    gpu="statewise.ops.kalman_filter.gpu",
)

_log = logging.getLogger("statewise")
_told: set[str] = set()


def _chosen(op: str, like: Tensor, states: int, outputs: int, name: str | None = None) -> Any:
    """The back end for models of this size.

    Raises:
        BackendError: a back end chosen by name refuses the size.
    """
    backend = dispatch.select(op, like.device.type, like.dtype, name)
    refusal = backend.fits(states, outputs) if hasattr(backend, "fits") else None
    if refusal is None:
        return backend
    if name or dispatch.choice():
        raise dispatch.BackendError(f"{op} was asked to use the gpu back end, but {refusal}")
    if refusal not in _told:
        _told.add(refusal)
        _log.warning("%s: the reference back end runs, slowly, because %s", op, refusal)
    return dispatch.select(op, like.device.type, like.dtype, "reference")


def complete(lengths: Tensor | None, steps: int) -> bool:
    """Whether no series ends early, as far as one can tell without waiting for a device."""
    if lengths is None:
        return True
    return lengths.device.type == "cpu" and not bool((lengths < steps).any())


def shared_now(
    y: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    moves_first: bool,
    stores: bool,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The filter of series that have their covariances in common, (1, T, n, n).

    None where the back end has no way of its own for them.
    """
    backend = _chosen(OP, y, parameters[0].shape[-1], y.shape[-1])
    if not hasattr(backend, "forward_shared"):
        return None
    return backend.forward_shared(y, parameters, start, observed, moves_first, stores)


def smooth_shared_now(
    m: Tensor, P: Tensor, F: Tensor, Q: Tensor, c: Tensor | None, cross: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The same for the smoother, from covariances (1, T, n, n)."""
    backend = _chosen(SMOOTHER, m, m.shape[-1], 1)
    if not hasattr(backend, "smooth_shared"):
        return None
    return backend.smooth_shared(m, P, F, Q, c, cross)


@operator(
    "kalman_filter",
    "(Tensor y, Tensor F, Tensor H, Tensor Q, Tensor R, Tensor? c, Tensor? d, Tensor m0,"
    " Tensor P0, Tensor? observed, Tensor? lengths, bool moves_first)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def run(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Filtered means (B, T, n), covariances (B, T, n, n) and log-likelihoods (B, T).

    The last, (B, T) bool, is true where the covariance and all that it gives are those of the
    step before, by no accident: the back end computed no more than the mean.
    """
    chosen = _chosen(OP, y, F.shape[-1], y.shape[-1])
    return chosen.forward(y, F, H, Q, R, c, d, m0, P0, observed, lengths, moves_first)


@run.register_fake
def _(y, F, H, Q, R, c, d, m0, P0, observed, lengths, moves_first):
    shape, n = y.shape[:2], F.shape[-1]
    still = y.new_empty(shape, dtype=torch.bool)
    return y.new_empty(*shape, n), y.new_empty(*shape, n, n), y.new_empty(shape), still


@operator(
    "kalman_filter_backward",
    "(Tensor? gm, Tensor? gP, Tensor? gll, Tensor y, Tensor F, Tensor H, Tensor Q, Tensor R,"
    " Tensor? c, Tensor? d, Tensor m0, Tensor P0, Tensor? observed, Tensor? lengths, Tensor m,"
    " Tensor P, Tensor still, bool moves_first, str? backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def run_backward(
    gm: Tensor | None,
    gP: Tensor | None,
    gll: Tensor | None,
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    m: Tensor,
    P: Tensor,
    still: Tensor,
    moves_first: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of y, F, H, Q, R, c, d, m0 and P0; those of c and d are empty without them."""
    parameters, gradients, found = (F, H, Q, R, c, d), (gm, gP, gll), (m, P, still)
    chosen = _chosen(OP, y, F.shape[-1], y.shape[-1], backend)
    return chosen.backward(
        gradients, y, parameters, (m0, P0), observed, lengths, found, moves_first
    )


@run_backward.register_fake
def _(
    gm, gP, gll, y, F, H, Q, R, c, d, m0, P0, observed, lengths, m, P, still, moves_first, backend
):
    given = (y, F, H, Q, R, c, d, m0, P0)
    return tuple(y.new_empty(0 if x is None else x.shape) for x in given)


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.moves_first = inputs
    ctx.backend = captured_choice()
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[3])
    ctx.save_for_backward(*tensors, output[0], output[1], output[3])


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple:
    given = (*gradients[:3], *ctx.saved_tensors)
    found = run_backward(*given, ctx.moves_first, ctx.backend)
    needed = ctx.needs_input_grad[:9]
    return (*(g if wanted else None for g, wanted in zip(found, needed, strict=True)), *(None,) * 3)


run.register_autograd(_backward, setup_context=_setup)
run_backward.register_autograd(no_second_derivative(OP))


@operator(
    "kalman_likelihood",
    "(Tensor y, Tensor F, Tensor H, Tensor Q, Tensor R, Tensor? c, Tensor? d, Tensor m0,"
    " Tensor P0, Tensor? observed, Tensor? lengths, bool moves_first) -> Tensor",
)
def run_likelihood(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> Tensor:
    """Log-likelihoods (B, T); no moments are stored."""
    chosen = _chosen(OP, y, F.shape[-1], y.shape[-1])
    return chosen.likelihood(y, F, H, Q, R, c, d, m0, P0, observed, lengths, moves_first)


@run_likelihood.register_fake
def _(y, F, H, Q, R, c, d, m0, P0, observed, lengths, moves_first):
    return y.new_empty(y.shape[:2])


@operator(
    "kalman_likelihood_backward",
    "(Tensor gll, Tensor y, Tensor F, Tensor H, Tensor Q, Tensor R, Tensor? c, Tensor? d,"
    " Tensor m0, Tensor P0, Tensor? observed, Tensor? lengths, bool moves_first, str? backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def run_likelihood_backward(
    gll: Tensor,
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of y, F, H, Q, R, c, d, m0 and P0; those of c and d are empty without them."""
    chosen = _chosen(OP, y, F.shape[-1], y.shape[-1], backend)
    return chosen.likelihood_backward(
        gll, y, (F, H, Q, R, c, d), (m0, P0), observed, lengths, moves_first
    )


@run_likelihood_backward.register_fake
def _(gll, y, F, H, Q, R, c, d, m0, P0, observed, lengths, moves_first, backend):
    given = (y, F, H, Q, R, c, d, m0, P0)
    return tuple(y.new_empty(0 if x is None else x.shape) for x in given)


def _setup_likelihood(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.moves_first = inputs
    ctx.backend = captured_choice()
    ctx.save_for_backward(*tensors)


def _likelihood_backward(ctx: Any, gll: Tensor) -> tuple:
    found = run_likelihood_backward(gll, *ctx.saved_tensors, ctx.moves_first, ctx.backend)
    needed = ctx.needs_input_grad[:9]
    return (*(g if wanted else None for g, wanted in zip(found, needed, strict=True)), *(None,) * 3)


run_likelihood.register_autograd(_likelihood_backward, setup_context=_setup_likelihood)
run_likelihood_backward.register_autograd(no_second_derivative("kalman_likelihood"))


@operator(
    "rts_smoother",
    "(Tensor m, Tensor P, Tensor F, Tensor Q, Tensor? c, Tensor? lengths, bool cross)"
    " -> (Tensor, Tensor, Tensor)",
)
def smooth(
    m: Tensor,
    P: Tensor,
    F: Tensor,
    Q: Tensor,
    c: Tensor | None,
    lengths: Tensor | None,
    cross: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed means and covariances, and Cov(x_t, x_{t−1}), which is empty without ``cross``."""
    backend = _chosen(SMOOTHER, m, m.shape[-1], 1)
    return backend.smooth(m, P, F, Q, c, lengths, cross)


@smooth.register_fake
def _(m, P, F, Q, c, lengths, cross):
    return m.new_empty(m.shape), m.new_empty(P.shape), m.new_empty(P.shape if cross else 0)
