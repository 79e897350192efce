"""Layers whose parameters are parts of one vector, which may begin at odd places in memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from statewise import nn


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["DSS", "LRU", "LTI", "LiquidS4", "S4", "S4D", "S4PTD", "S5"])
def test_parameters_in_one_vector(name, dtype, shift):
    layer = getattr(nn, name)(3).to(dtype)
    u = torch.randn(2, 9, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))

    def found() -> list[torch.Tensor]:
        y, _ = layer(u)
        y_t, _ = layer.step(u[:, 0], layer.init_state(2))
        gradients = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        return [y.detach(), y_t.detach(), *gradients]

    expected = found()
    vector = torch.cat([torch.zeros(shift, dtype=dtype), parameters_to_vector(layer.parameters())])
    parts = vector.detach()[shift:].split([p.numel() for p in layer.parameters()])
    for parameter, part in zip(layer.parameters(), parts, strict=True):
        parameter.data = part.view_as(parameter)
    for one, other in zip(found(), expected, strict=True):
        assert torch.equal(one, other)


def test_butterfly_in_one_vector():
    butterfly = nn.Butterfly(4)
    x = torch.randn(2, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    expected = butterfly(x)
    for factor in butterfly.factors:
        factor.data = torch.cat([torch.zeros(1), factor.detach().flatten()])[1:].view_as(factor)
    assert torch.equal(butterfly(x), expected)
