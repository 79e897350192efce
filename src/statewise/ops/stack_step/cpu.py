"""CPU back end of the steps of a stack: one call that walks all blocks, or one for each part.

With more than one thread the large products are shared, and the parts between them are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import refuses_cpu
from statewise.ops.mamba_step._kernels import fullest
from statewise.ops.mamba_step.op import MambaWeights
from statewise.ops.matvec.product import MIN_ELEMENTS
from statewise.ops.simd import WIDER, elements
from statewise.ops.stack_step import _kernels

if TYPE_CHECKING:
    from statewise.ops.stack_step.op import BlockStack

_ENDS = ("in_weight", "in_bias", "out_weight", "out_bias")


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    if dtype not in (torch.float32, torch.float64):
        return f"the cpu back end of stack_step computes in float32 and float64, not in {dtype}"
    return refuses_cpu("stack_step", device)


def step(
    x: Tensor,
    states: Sequence[tuple[Tensor, Tensor]],
    stack: BlockStack,
    scale: Tensor | None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """See :func:`~statewise.ops.stack_step`."""
    batch = x.shape[0]
    before = [(one.contiguous(), two.contiguous()) for one, two in states]
    after = [(torch.empty_like(one), torch.empty_like(two)) for one, two in before]
    h = x.detach().clone(memory_format=torch.contiguous_format)
    if not batch:
        return h, after
    # Copies of parameters that are not contiguous live as long as the list of them.
    fixed, _copies = _addresses(stack)
    table = fixed.copy()
    table[:, _kernels.WINDOW : _kernels.REST] = [
        [one.data_ptr() for one in (*old, *new)] for old, new in zip(before, after, strict=True)
    ]
    _move(table, h.numpy().reshape(-1), stack, scale, batch)
    return h, after


def _addresses(stack: BlockStack) -> tuple[np.ndarray, list[Tensor]]:
    """The table of the blocks but for the states, and the tensors whose addresses it holds."""
    # Taken once: another thread may find that the tensors have moved.
    seen, (noted, table) = stack.seen, stack.noted
    if noted is seen:
        return table, stack.tensors
    rows, kept = [], []
    for norm, layer in zip(stack.norms, stack.weights, strict=True):
        named = layer._asdict()
        row = [norm, *(named.pop(name) for name in _ENDS), *[None] * 4, *named.values()]
        row = [one if one is None else one.contiguous() for one in row]
        rows.append([0 if one is None else one.data_ptr() for one in row])
        kept += [one for one in row if one is not None]
    table = np.array(rows)
    if all(one.is_contiguous() for one in stack.tensors):
        stack.noted = (seen, table)
    return table, kept


def _move(
    table: np.ndarray, h: np.ndarray, stack: BlockStack, scale: Tensor | None, batch: int
) -> None:
    given, sizes = stack.weights[0], stack.sizes
    rows, wide = given.in_weight.shape[0], given.out_weight.shape[1]
    maps = (batch, sizes.inner, rows, wide)
    inside, out = np.empty(h.size, h.dtype), np.empty(h.size, h.dtype)
    entered, y = np.empty(batch * rows, h.dtype), np.empty(batch * wide, h.dtype)
    factor = h if scale is None else scale.detach().contiguous().numpy()
    biased = tuple(b is not None for b in (given.in_bias, given.out_bias, given.conv_bias))
    timed, kind = (factor, scale is not None), fullest(sizes.state[-1], h.itemsize)
    between, walk, settings, shape = _kind(stack, batch)
    threads = pool.threads()
    shares = [
        max(1, min(threads, few, few * many // MIN_ELEMENTS))
        for few, many in ((rows, sizes.inner), (sizes.inner, wide))
    ]
    if shares == [1, 1]:
        walk(
            *(table, h, inside, entered, y, out, *timed, maps, stack.norm_eps, biased, settings),
            *(shape, kind),
        )
        return
    for k in range(len(table)):
        _kernels.normalise(table, k, h, inside, stack.norm_eps, maps)
        enter = partial(_kernels.enter, table, k, inside, entered, maps, biased)
        pool.run(_shared(enter, rows, shares[0]))
        between(table, k, entered, y, *timed, biased, settings, shape, kind)
        leave = partial(_kernels.leave, table, k, y, out, h, maps, biased)
        pool.run(_shared(leave, sizes.inner, shares[1]))


def _kind(stack: BlockStack, batch: int) -> tuple[Any, Any, tuple, tuple[int, ...]]:
    """The kernels of this kind of layer, its settings, and its sizes."""
    given, sizes = stack.weights[0], stack.sizes
    if isinstance(given, MambaWeights):
        shape = (batch, *sizes.state, given.dt_weight.shape[1], sizes.taps)
        return _kernels.mamba, _kernels.walk_mamba, (), shape
    heads, width, states = sizes.state
    beside = given.out_weight.shape[1] - heads * width
    shape = (batch, heads, width, states, stack.n_groups, beside, sizes.mixed, sizes.taps)
    normed = given.norm_weight is not None
    low, high = (float(limit) for limit in stack.dt_limit)
    settings = (given.D.numel(), normed, stack.norm_before_gate, stack.eps, low, high)
    return _kernels.mamba2, _kernels.walk_mamba2, settings, shape


def _shared(part: partial, total: int, count: int) -> list[partial]:
    """Calls of a part for ``count`` ranges of all its columns."""
    bounds = [k * total // count for k in range(count + 1)]
    return [partial(part, *ends) for ends in pairwise(bounds)]


def warm() -> None:
    """Compile the kernels for both types and every kind of pack."""
    from statewise.ops.mamba_step.op import Mamba2Weights
    from statewise.ops.stack_step.op import BlockStack, stack_step

    for dtype in (torch.float32, torch.float64):
        pack = elements(dtype.itemsize)
        for states in (1, pack, WIDER * pack):
            zeros = lambda *shape, dtype=dtype: torch.zeros(shape, dtype=dtype)  # noqa: E731
            one = zeros(1)
            small = MambaWeights(
                *(zeros(2, 1), None, zeros(1, 2), None, zeros(1 + 2 * states, 1), zeros(1, 1)),
                *(one, zeros(1, states), one, zeros(1, 1), None),
            )
            stack_step(
                zeros(1, 1), [(zeros(1, 1, 1), zeros(1, 1, states))], BlockStack([one], [small])
            )
            mixed = 1 + 2 * states
            small = Mamba2Weights(
                *(zeros(2 + mixed, 1), None, zeros(mixed, 2), None, one, one, one, one),
                *(zeros(1, 1), None),
            )
            state = (zeros(1, 1, mixed), zeros(1, 1, 1, states))
            stack_step(zeros(1, 1), [state], BlockStack([one], [small]))
