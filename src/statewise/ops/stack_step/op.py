"""``stack_step``: the public door, where arguments are checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.arguments import check_shape, floating, require_tensors
from statewise.ops.library import refuse_tangents
from statewise.ops.mamba_step.op import Mamba2Weights, MambaWeights, mamba2_shapes, mamba_shapes

OP = "stack_step"

dispatch.register(
    OP,
    reference="statewise.ops.stack_step.reference",
    cpu="statewise.ops.stack_step.cpu",
    gpu="statewise.ops.stack_step.reference",
)


class StackSizes(NamedTuple):
    """Sizes of the blocks of a stack.

    Attributes:
        inner: K, the channels between blocks.
        mixed: channels of the convolution.
        taps: its taps, W.
        state: shape of the states h of one row, (I, N) or (H, P, N).
    """

    inner: int
    mixed: int
    taps: int
    state: tuple[int, ...]


class BlockStack:
    """Residual blocks of one kind and size whose steps are one call, x ← x + layer(norm(x)).

    norm(x) = x / rms(x) ⊙ scale. The tensors are held, not copied: a step reads what is in them
    when it is taken, wherever their memory is by then.

    Args:
        norms: scales of the norms, (K,) each.
        weights: parameters of the layers, all :class:`MambaWeights` or all :class:`Mamba2Weights`
            of the same shapes, in the type of the norms; float32 or float64.
        norm_eps: added to the mean square by the norms.
        n_groups: see :func:`mamba2_step`, as for the settings behind it; Mamba has none of them.
        norm_before_gate: whether Mamba-2 gates the normalised y.
        eps: added to the mean square by its norm.
        dt_limit: its least and largest Δ.

    Attributes:
        sizes: sizes of the blocks.
        seen: where the tensors lie and what they are like; another object when that changes.
        noted: what a back end keeps about the tensors, beside the ``seen`` that it is for.

    Raises:
        ValueError: no block, numbers of norms and layers that differ, or a shape that does not fit.
        TypeError: tensors of other or of different types, or layers of different kinds.
    """

    def __init__(
        self,
        norms: Sequence[Tensor],
        weights: Sequence[MambaWeights] | Sequence[Mamba2Weights],
        *,
        norm_eps: float = 1e-5,
        n_groups: int = 1,
        norm_before_gate: bool = False,
        eps: float = 1e-5,
        dt_limit: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        self.norms, self.weights = tuple(norms), tuple(weights)
        if not self.norms or len(self.norms) != len(self.weights):
            raise ValueError(
                f"{OP} takes a norm for each of at least one layer; given {len(self.norms)} norms "
                f"and {len(self.weights)} layers"
            )
        kinds = {type(one) for one in self.weights}
        if len(kinds) > 1 or not kinds <= {MambaWeights, Mamba2Weights}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise TypeError(f"{OP} takes layers of one kind, Mamba or Mamba-2; given {names}")
        self.norm_eps, self.n_groups, self.norm_before_gate = norm_eps, n_groups, norm_before_gate
        self.eps, self.dt_limit = eps, dt_limit
        self.tensors: list[Tensor] = [
            one
            for norm, layer in zip(self.norms, self.weights, strict=True)
            for one in (norm, *layer)
            if one is not None
        ]
        self.seen: list[tuple] = []
        self.noted: tuple[Any, Any] = (None, None)
        self.refresh()

    def refresh(self) -> None:
        """Check the tensors again where memory, type or shape of one is another than before."""
        # All but the addresses is what the addresses alone would not tell.
        seen = [(t.data_ptr(), t.dtype, t.shape, t.is_contiguous()) for t in self.tensors]
        if seen != self.seen:
            self.sizes = self._check()
            self.seen = seen

    def _check(self) -> StackSizes:
        first, given = self.norms[0], self.weights[0]
        require_tensors(OP, norm=first)
        floating(OP, "norm", first)
        for one in self.tensors:
            if one.dtype is not first.dtype or one.device != first.device:
                raise TypeError(
                    f"{OP}: a norm is {first.dtype} on {first.device}, and a parameter {one.dtype} "
                    f"on {one.device}; all must be alike"
                )
        sizes, expected = _sizes(given, first.numel(), self.n_groups)
        for norm, layer in zip(self.norms, self.weights, strict=True):
            check_shape(OP, "norm", norm, (sizes.inner,), "the first norm")
            for name, one in layer._asdict().items():
                if (one is None) != (getattr(given, name) is None):
                    raise ValueError(f"{OP}: some layers have a {name} and some have none")
                if one is not None:
                    shape = expected.get(name) or getattr(given, name).shape
                    check_shape(OP, name, one, shape, f"a norm of {tuple(first.shape)}")
        return sizes


def _sizes(
    weights: MambaWeights | Mamba2Weights, inner: int, n_groups: int
) -> tuple[StackSizes, dict[str, tuple[int, ...]]]:
    """Sizes of a layer, and the shapes that its parameters must have then."""
    mixed, taps = weights.conv_weight.shape
    if isinstance(weights, MambaWeights):
        state = (mixed, weights.A_log.shape[1])
        return StackSizes(inner, mixed, taps, state), mamba_shapes(weights, inner)
    heads, wide = weights.A_log.numel(), weights.out_weight.shape[1]
    # Rows of W_in are 2 J + S + mixed + H, columns of W_out J + S.
    beside = weights.in_weight.shape[0] - mixed - heads - wide
    width, states = (wide - beside) // heads, (mixed - wide + beside) // 2
    if n_groups < 1 or heads % n_groups or states % n_groups:
        raise ValueError(
            f"{OP}: n_groups is {n_groups}; it must divide {heads} heads and {states} rows of B"
        )
    expected = mamba2_shapes(weights, inner, heads, width, states)
    return StackSizes(inner, mixed, taps, (heads, width, states // n_groups)), expected


def stack_step(
    x: Tensor,
    states: Sequence[tuple[Tensor, Tensor]],
    stack: BlockStack,
    *,
    scale: Tensor | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """One sample of a stack of residual blocks, x ← x + layer(norm(x)) for each. No gradients.

    Args:
        x: what goes into the first block, (B, K), in the type of the parameters.
        states: the window and the states h of each block, as :func:`mamba_step` or
            :func:`mamba2_step` takes them. They are left as they are.
        stack: the blocks.
        scale: factor of Δ in all blocks, (B,), or None for 1.

    Returns:
        What comes out of the last block, (B, K), and the next states.

    Raises:
        ValueError: a shape that does not fit, or a tensor whose gradient is asked for.
        TypeError: tensors of other or of different types.

    Sources: Gu and Dao, Mamba (2312.00752); Dao and Gu, Transformers are SSMs (2405.21060).
    """
    stack.refresh()
    require_tensors(OP, x=x)
    dtype, device, sizes = stack.norms[0].dtype, stack.norms[0].device, stack.sizes
    if x.dim() != 2 or x.shape[1] != sizes.inner:
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}; it must be (B, {sizes.inner})")
    batch = x.shape[0]
    if len(states) != len(stack.weights):
        raise ValueError(
            f"{OP} takes a state for each of {len(stack.weights)} blocks; given {len(states)}"
        )
    window = torch.Size((batch, sizes.taps - 1, sizes.mixed))
    cells = torch.Size((batch, *sizes.state))
    if any(one.shape != window or two.shape != cells for one, two in states):
        given = [(tuple(one.shape), tuple(two.shape)) for one, two in states]
        raise ValueError(
            f"{OP} takes states of shapes {tuple(window)} and {tuple(cells)}; given "
            f"{next(pair for pair in given if pair != (window, cells))}"
        )
    if scale is not None:
        check_shape(OP, "scale", scale, (batch,), f"x of {tuple(x.shape)}")
    parts = [x, *(part for pair in states for part in pair)]
    parts += [] if scale is None else [scale]
    for one in parts:
        if one.dtype is not dtype or one.device != device:
            raise TypeError(
                f"{OP}: the parameters are {dtype} on {device}, and x, a state or the scale "
                f"{one.dtype} on {one.device}"
            )
    if torch.is_grad_enabled() and any(one.requires_grad for one in (*parts, *stack.tensors)):
        raise ValueError(
            f"{OP} has no gradient, and one is asked for; call it under torch.no_grad()"
        )
    refuse_tangents(OP, parts, stack.tensors)
    return dispatch.select(OP, x.device.type, dtype).step(x, states, stack, scale)
