"""Recurrences over a sequence that is spread over processes, each holding a slice of time.

Rank r of a ``torch.distributed`` group holds the r-th slice of every timed tensor; slices may be of
unequal length. The functions have the names and arguments of those in :mod:`statewise.ops`, and
give what one process would: y for the slice, and the state after the slice. Only states travel.

A recurrence is linear in its state: a slice maps the state before it to decay ⊙ state + own, where
own is its last state when it starts from zero; in ``block_scan`` the decay is a matrix. Every rank
computes its decay and own at once, one all-gather shows them to all, each folds those before it
into the state at its start, and runs the operator from there. Backward is the same with time
reversed: the gradient of the state before a slice is linear in the gradient of the state after it.
A slice is thus computed twice in each direction, whatever the number of ranks, instead of every
rank waiting for the one before. Every rank has to take part in the backward pass when one does.

Gradients of what all ranks hold alike (constant coefficients, weights) are the share of the slice;
add them up over the group, as data parallelism does. ``h0`` belongs to the first rank in scan
order, which with ``reverse`` is the last one; a loss that reads the final state does so on the last
rank in scan order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from statewise import ops
from statewise.ops.arguments import require_tensors
from statewise.ops.library import carries_tangent
from statewise.ops.precision import accumulation_dtype
from statewise.ops.ssd.op import step_sizes

Group = Any
"""A ``torch.distributed`` process group, or None for all processes."""

Run = Callable[..., tuple[Tensor, Tensor]]


def linear_scan(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
    group: Group = None,
) -> tuple[Tensor, Tensor]:
    """:func:`statewise.ops.linear_scan` with time spread over the ranks of ``group``.

    Args:
        a: coefficients of this slice, or constant ones; a tensor.
        b: inputs of this slice, (B, L_r, D).
        h0: state before the whole sequence, on the first rank in scan order only; else None.
        reset: resets of this slice, (B, L_r).
        reverse: run from the end of the last slice.
        group: the processes, None for all.

    Returns:
        h of this slice, and the state after it in scan order.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.
        ValueError: ``h0`` on a rank that is not the first in scan order.
    """
    require_tensors("linear_scan", a=a, b=b)

    def run(a: Tensor, b: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        return ops.linear_scan(a, b, h0, reset=reset, reverse=reverse)

    def decay(a: Tensor, b: Tensor) -> Tensor:
        acc = accumulation_dtype(torch.promote_types(a.dtype, b.dtype))
        return a.to(acc).expand(b.shape).prod(1)

    return _spread("linear_scan", run, decay, (a, b), h0, reset, reverse, group)


def block_scan(
    A: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
    group: Group = None,
) -> tuple[Tensor, Tensor]:
    """:func:`statewise.ops.block_scan` with time spread over the ranks of ``group``.

    Args:
        A: matrices of this slice, or constant ones.
        b: inputs of this slice, (B, L_r, D, k).
        h0: state before the whole sequence, on the first rank in scan order only; else None.
        reset: resets of this slice, (B, L_r).
        reverse: run from the end of the last slice.
        group: the processes, None for all.

    Returns:
        h of this slice, and the state after it in scan order.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.
        ValueError: ``h0`` on a rank that is not the first in scan order.
    """
    require_tensors("block_scan", A=A, b=b)

    def run(A: Tensor, b: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        return ops.block_scan(A, b, h0, reset=reset, reverse=reverse)

    def decay(A: Tensor, b: Tensor) -> Tensor:
        acc = accumulation_dtype(torch.promote_types(A.dtype, b.dtype))
        steps = A.to(acc).expand(*b.shape, b.shape[-1])
        return _product(steps.flip(1) if reverse else steps)

    return _spread("block_scan", run, decay, (A, b), h0, reset, reverse, group)


def _product(A: Tensor) -> Tensor:
    """A_L ⋯ A_1 of (B, L, D, k, k), neighbours first."""
    while A.shape[1] > 1:
        even = A.shape[1] // 2 * 2
        A = torch.cat([A[:, 1:even:2] @ A[:, :even:2], A[:, even:]], 1)
    return A[:, 0]


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    softplus: bool = False,
    rule: str = "euler",
    reset: Tensor | None = None,
    reverse: bool = False,
    group: Group = None,
) -> tuple[Tensor, Tensor]:
    """:func:`statewise.ops.selective_scan` with time spread over the ranks of ``group``.

    The arguments are those of the slice; see the module for ``h0`` and ``group``.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.
        ValueError: ``h0`` on a rank that is not the first in scan order.
    """

    def run(*tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        options = {"softplus": softplus, "rule": rule, "reset": reset, "reverse": reverse}
        return ops.selective_scan(*tensors, **options)  # pyright: ignore[reportArgumentType]

    def decay(u: Tensor, dt: Tensor, A: Tensor, *rest: Tensor | None) -> Tensor:
        acc = accumulation_dtype(torch.promote_types(dt.dtype, A.real.dtype))
        delta = dt.to(acc) if rest[4] is None else dt.to(acc) + rest[4].to(acc)
        if softplus:
            delta = torch.nn.functional.softplus(delta)
        return torch.exp(delta.sum(1)[..., None] * A)

    tensors = (u, dt, A, B, C, D, z, dt_bias)
    return _spread("selective_scan", run, decay, tensors, h0, reset, reverse, group)


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    reset: Tensor | None = None,
    reverse: bool = False,
    group: Group = None,
) -> tuple[Tensor, Tensor]:
    """:func:`statewise.ops.ssd` with time spread over the ranks of ``group``.

    The arguments are those of the slice; see the module for ``h0`` and ``group``.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.
        ValueError: ``h0`` on a rank that is not the first in scan order.
    """

    def run(*tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        options = {"softplus": softplus, "dt_limit": dt_limit, "reset": reset, "reverse": reverse}
        return ops.ssd(*tensors, **options)  # pyright: ignore[reportArgumentType]

    def decay(x: Tensor, dt: Tensor, A: Tensor, *rest: Tensor | None) -> Tensor:
        delta = step_sizes(dt, rest[4], softplus, dt_limit, accumulation_dtype(x.dtype))
        return torch.exp((delta * A.to(delta)).sum(1))[..., None, None]

    tensors = (x, dt, A, B, C, D, z, dt_bias)
    return _spread("ssd", run, decay, tensors, h0, reset, reverse, group)


def _spread(
    op: str,
    run: Run,
    decay: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    group: Group,
) -> tuple[Tensor, Tensor]:
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"sequence_parallel.{op}: torch.distributed is not initialised; start the processes "
            "with torchrun and call torch.distributed.init_process_group first"
        )
    if carries_tangent((*tensors, h0)):
        raise ValueError(
            f"sequence_parallel.{op}: a tensor has a forward-mode tangent, which does not travel "
            "between ranks; differentiate in reverse mode"
        )
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    place = size - 1 - rank if reverse else rank
    if h0 is not None and place:
        raise ValueError(
            f"sequence_parallel.{op}: h0 was given on rank {rank}; the state before the sequence "
            f"belongs to rank {size - 1 if reverse else 0}, the first in scan order"
        )
    return _Spread.apply(run, decay, reset, reverse, group, h0, *tensors)  # pyright: ignore


class _Spread(torch.autograd.Function):
    """The operator on a slice, with the states of the slices before it."""

    @staticmethod
    def forward(ctx, run, decay, reset, reverse, group, h0, *tensors):
        with torch.no_grad():
            _, own = run(*tensors, h0)
            factor = decay(*tensors).to(own.dtype)
            factor = factor.expand(*own.shape, *factor.shape[own.dim() :])
            if reset is not None:
                cut = reset.any(1).reshape(-1, *(1,) * (factor.dim() - 1))
                factor = torch.where(cut, torch.zeros_like(factor), factor)
        start = _fold(own, factor, reverse, group)
        first = start is None
        start = h0 if first else start
        leaves = [
            None if x is None else x.detach().requires_grad_(x.requires_grad) for x in tensors
        ]
        needs = any(ctx.needs_input_grad)
        with torch.set_grad_enabled(needs):
            if start is not None:
                start = start.detach().requires_grad_(needs)
            y, last = run(*leaves, start)
        ctx.graph = (y, last, leaves, start) if needs else None
        ctx.first = first
        ctx.travel = (factor, reverse, group)
        ctx.set_materialize_grads(False)
        return y.detach(), last.detach()

    @staticmethod
    def backward(ctx, grad_y, grad_last):  # pyright: ignore[reportIncompatibleMethodOverride]
        y, last, leaves, start = ctx.graph
        factor, reverse, group = ctx.travel
        grad_y = torch.zeros_like(y) if grad_y is None else grad_y
        grad_last = torch.zeros_like(last) if grad_last is None else grad_last
        # What the state before this slice gets from y, and from the state after it if nothing
        # came from the ranks behind; the first rank sends nothing on.
        own = torch.zeros_like(last)
        if start is not None and not ctx.first:
            (own,) = torch.autograd.grad([y, last], [start], [grad_y, grad_last], retain_graph=True)
        adjoint = factor.mT if factor.dim() > own.dim() else factor.conj()
        behind = _fold(own, adjoint, not reverse, group)
        if behind is not None:
            grad_last = grad_last + behind
        wanted = [x for x in leaves if x is not None and x.requires_grad]
        keep_start = ctx.first and start is not None
        sources = [*wanted, *([start] if keep_start else [])]
        found = list(
            torch.autograd.grad([y, last], sources, [grad_y, grad_last], allow_unused=True)
        )
        grad_h0 = found.pop() if keep_start else None
        remaining = iter(found)
        gradients = [next(remaining) if x is not None and x.requires_grad else None for x in leaves]
        ctx.graph = None
        return (None, None, None, None, None, grad_h0, *gradients)


def _fold(own: Tensor, factor: Tensor, reverse: bool, group: Group) -> Tensor | None:
    """The state that the ranks before this one arrive at; None on the first in scan order."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    columns = factor if factor.dim() > own.dim() else factor.unsqueeze(-1)
    sent = torch.cat([own.unsqueeze(-1), columns], -1).contiguous().resolve_conj()
    sent = torch.view_as_real(sent).contiguous() if sent.is_complex() else sent
    parts = [torch.empty_like(sent) for _ in range(size)]
    dist.all_gather(parts, sent, group=group)
    before = range(size - 1, rank, -1) if reverse else range(rank)
    state = None
    for other in before:
        part = torch.view_as_complex(parts[other]) if own.is_complex() else parts[other]
        last, decay = part[..., 0], part[..., 1:]
        if state is not None:
            last = last + _carried(decay, state)
        state = last
    return state


def _carried(decay: Tensor, state: Tensor) -> Tensor:
    """What a state becomes over a slice. Where a reset made the decay 0, NaN stops too."""
    if decay.shape[-1] == 1:
        decay = decay[..., 0]
        return torch.where(decay == 0, torch.zeros_like(state), decay * state)
    cut = (decay == 0).all(-1).all(-1, keepdim=True)
    return torch.where(cut, torch.zeros_like(state), (decay @ state.unsqueeze(-1)).squeeze(-1))
