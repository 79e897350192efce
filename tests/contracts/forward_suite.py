"""Forward-mode derivatives of operators: right by the reference back end, refused by others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from statewise import ops

QUIET = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
"""Torch compiles something of its own when it makes the first tensor with a tangent."""


def normal_like(tensors: Iterable[Tensor], seed: int) -> list[Tensor]:
    """Normal numbers in the shapes and types of some tensors, which may be complex."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape, dtype=x.dtype, generator=g) for x in tensors]


def pushed(function: Callable[..., Any], tensors: list[Tensor], along: list[Tensor]) -> list:
    """Tangents of what a function returns, None where one has none."""
    with forward_ad.dual_level():
        found = function(*map(forward_ad.make_dual, tensors, along))
        return [forward_ad.unpack_dual(x).tangent for x in found]


def pulled(function: Callable[..., Any], tensors: list[Tensor], weights: list[Tensor]) -> list:
    """The gradients of a weighing of what a function returns."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    return list(torch.autograd.grad(function(*leaves), leaves, weights, materialize_grads=True))


def inner(left: Iterable[Tensor], right: Iterable[Tensor]) -> Tensor:
    """Σ Re ⟨x, y⟩."""
    total = torch.zeros((), dtype=torch.float64)
    for x, y in zip(left, right, strict=True):
        total = total + (x.conj() * y).sum().real
    return total


def hold_together(function: Callable[..., Any], tensors: list[Tensor], backend: str) -> None:
    """⟨w, J v⟩ = ⟨Jᵀ w, v⟩, with J v by forward mode and Jᵀ w by the kernels of a back end."""
    along = normal_like(tensors, 1)
    with torch.no_grad():
        weights = normal_like(function(*tensors), 2)
    with ops.use_backend(backend):
        expected = inner(pulled(function, tensors, weights), along)
        with pytest.raises(ops.BackendError, match="forward-mode tangent"):
            pushed(function, tensors, along)
    for choice in (None, "reference"):
        if choice is None:
            found = pushed(function, tensors, along)
        else:
            with ops.use_backend(choice):
                found = pushed(function, tensors, along)
        torch.testing.assert_close(inner(weights, found), expected, rtol=1e-10, atol=1e-12)


class ForwardContract:
    """The part of the op contract about forward mode."""

    @QUIET
    @pytest.mark.parametrize("reverse", [False, True])
    def test_forward_mode_is_right_or_refused(self, fast, reverse):
        inputs, h0, options = self.case((2, 6, 3), state=True, reset=True, reverse=reverse)

        def function(h0: Tensor, *tensors: Tensor):
            return self.apply(dict(zip(inputs, tensors, strict=True)), h0, **options)

        for backend in fast:
            hold_together(function, [h0, *inputs.values()], backend)
