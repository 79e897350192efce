"""The forward-backward recursions of hidden Markov models as functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import check_shape, floating, optional_tensors, require_tensors
from statewise.ops.hidden_markov._library import OP, run, run_backward
from statewise.ops.library import refuse_tangents

FLOATS = (torch.float32, torch.float64)


def hidden_markov(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    *,
    lengths: Tensor | None = None,
    begins: bool = True,
) -> tuple[Tensor, Tensor]:
    """Filtered log-probabilities of K states and the log-likelihood of every step.

    ℓ_t + log p(x_t=j | y_{1…t}) = log Σ_i p(x_{t−1}=i | y_{1…t−1}) P_t(i, j) + log p(y_t | x_t=j).
    All in logarithms and float64: probabilities that differ by thousands of nats are kept.

    Args:
        log_initial: (B, K), of the state at the first step.
        log_transition: into each step, from axis 2 to axis 3, (b, t, K, K) with b 1 or B and t 1
            or T; −∞ where a state cannot follow.
        log_emission: log p(y_t | x_t), (B, T, K); 0 where nothing is observed.
        lengths: (B,) int64, steps of each series; None for T.
        begins: False where ``log_initial`` is that before a transition into the first step.

    Returns:
        log p(x_t | y_{1…t}), (B, T, K), and log p(y_t | y_{1…t−1}), (B, T); zeros behind the end of
        a series.

    Raises:
        ValueError: a shape that does not fit, or a step that no state can have given.
        TypeError: tensors that are not real floating-point.

    Source: Rabiner, A tutorial on hidden Markov models (1989), section III.A, in logarithms.
    """
    lengths = _check(log_initial, log_transition, log_emission, lengths)
    dtype = log_emission.dtype
    return run(log_initial.to(dtype), log_transition.to(dtype), log_emission, lengths, begins)


def hidden_markov_smoother(
    log_filtered: Tensor,
    log_initial: Tensor,
    log_transition: Tensor,
    *,
    lengths: Tensor | None = None,
    begins: bool = True,
    pairs: bool = False,
) -> tuple[Tensor, Tensor]:
    """Probabilities of states and of pairs of states given all observations.

    γ_t(i) = Σ_j ξ_{t+1}(i, j), ξ_{t+1}(i, j) = γ_{t+1}(j) p(x_t=i | x_{t+1}=j, y_{1…t}). Without
    gradients.

    Args:
        log_filtered: what :func:`hidden_markov` found, (B, T, K).
        log_initial: as given there.
        log_transition: as given there.
        lengths: as given there.
        begins: as given there.
        pairs: whether to give the pairs of every step, not only their sum.

    Returns:
        γ (B, T, K), and ξ (B, T, K, K) with that of step t at index t, zero at a first step without
        transition; or its sum over the steps, (B, 1, K, K). Zeros behind the end of a series.

    Raises:
        ValueError: a shape that does not fit, or a tensor whose gradient is asked for.
        TypeError: tensors that are not real floating-point.

    Source: Rabiner (1989), section III.B, as a recursion on γ that needs no backward messages.
    """
    lengths = _check(log_initial, log_transition, log_filtered, lengths)
    given = (log_filtered, log_initial, log_transition)
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        raise ValueError(
            f"{OP}_smoother: a tensor wants a gradient, and this operator has none; detach the "
            "tensors, or smooth in parallel"
        )
    refuse_tangents(f"{OP}_smoother", given)
    dtype, (batch, length, K) = log_filtered.dtype, log_filtered.shape
    P = log_transition.to(dtype)
    ones = log_filtered.new_ones(batch, length)
    size = (batch, length if pairs else 1, K, K)
    _, both, one = run_backward(
        None, ones, log_initial.to(dtype), P, log_filtered, lengths, begins, list(size[:2]), None
    )
    return one, both


def _check(
    log_initial: Tensor, log_transition: Tensor, steps: Tensor, lengths: Tensor | None
) -> Tensor | None:
    named = {"log_initial": log_initial, "log_transition": log_transition, "log_emission": steps}
    require_tensors(OP, **named)
    optional_tensors(OP, lengths=lengths)
    for label, x in named.items():
        floating(OP, label, x, FLOATS)
    if steps.dim() != 3 or 0 in steps.shape:
        raise ValueError(
            f"{OP}: log_emission has shape {tuple(steps.shape)}; it must be (B, T, K), none of "
            "them 0"
        )
    batch, length, K = steps.shape
    because = f"log_emission of shape {tuple(steps.shape)}"
    check_shape(OP, "log_initial", log_initial, (batch, K), because)
    shape = tuple(log_transition.shape)
    fits = len(shape) == 4 and shape[0] in (1, batch) and shape[1] in (1, length)
    if not fits or shape[2:] != (K, K):
        raise ValueError(
            f"{OP}: log_transition has shape {shape}; {because} needs (1 or {batch}, 1 or "
            f"{length}, {K}, {K})"
        )
    if lengths is None:
        return None
    check_shape(OP, "lengths", lengths, (batch,), because)
    if bool((lengths < 0).any()) or bool((lengths > length).any()):
        raise ValueError(
            f"{OP}: lengths reach from {int(lengths.min())} to {int(lengths.max())}; they must be "
            f"from 0 to the {length} steps given"
        )
    return lengths.to(torch.int64)
