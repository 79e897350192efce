"""Lipschitz bounds of static maps: never below measured slopes, and sharp where they can be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from statewise.analysis import lipschitz
from statewise.nn import ELU, GELU, GLU, MLP, FeedForward, Identity, Polynomial, RMSNorm, Tanh
from statewise.nn.static_specs import LinearPlus, OneLipschitz

CHANNELWISE = {
    "elu": nn.ELU(),
    "elu2": nn.ELU(alpha=2.0),
    "gelu": nn.GELU(),
    "tanh": nn.Tanh(),
    "relu": nn.ReLU(),
    "silu": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "softplus": nn.Softplus(),
    "leaky": nn.LeakyReLU(0.2),
}


def measured(module, channels, *, low=-6.0, high=6.0, count=4000, seed=0):
    """The largest spectral norm of the Jacobian at drawn points."""
    generator = torch.Generator().manual_seed(seed)
    points = low + (high - low) * torch.rand(count, channels, generator=generator).double()
    jacobian = torch.func.vmap(torch.func.jacrev(module))(points)
    return float(torch.linalg.matrix_norm(jacobian.detach(), 2).max())


@pytest.mark.parametrize("name", CHANNELWISE)
def test_slopes_of_activations_are_sharp(name):
    module = CHANNELWISE[name].double()
    found = lipschitz(module)
    x = torch.linspace(-12, 12, 480_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x).sum(), x)
    assert found.slopes is not None
    low, high = (float(end) for end in found.slopes)
    assert low <= float(slope.min()) + 1e-12
    assert high >= float(slope.max()) - 1e-12
    assert low == pytest.approx(float(slope.min()), abs=1e-4)
    assert high == pytest.approx(float(slope.max()), abs=1e-4)
    assert found.value == max(abs(low), abs(high))


def test_a_polynomial_has_the_extremes_of_its_slope():
    module = Polynomial(degree=5, support=2.0).build(4, np.random.default_rng(0)).double()
    with torch.no_grad():
        drawn = np.random.default_rng(1).standard_normal((6, 4))
        module.coefficients.copy_(torch.from_numpy(drawn))
        module.coefficients[2:, 3] = 0.0
    found = lipschitz(module)
    x = torch.linspace(-3, 3, 100_001, dtype=torch.float64)[:, None].repeat(1, 4).requires_grad_()
    (slope,) = torch.autograd.grad(module(x).sum(), x)
    assert found.slopes is not None
    np.testing.assert_allclose(found.slopes[0], slope.amin(0), atol=1e-5)
    np.testing.assert_allclose(found.slopes[1], slope.amax(0), atol=1e-5)
    assert (found.slopes[0] <= slope.amin(0) + 1e-12).all()
    assert (found.slopes[1] >= slope.amax(0) - 1e-12).all()


@pytest.mark.parametrize(
    "spec", [ELU(), GELU(), Tanh(), Identity(), MLP(6), Polynomial(), LinearPlus(Tanh())]
)
def test_no_static_map_stretches_more_than_its_bound(spec):
    module = spec.build(3, np.random.default_rng(0)).double()
    found = lipschitz(module)
    assert math.isfinite(found.value)
    assert measured(module, 3) <= found.value * (1 + 1e-9)


def test_linear_maps_have_their_spectral_norm_and_networks_less_than_the_product():
    rng = np.random.default_rng(0)
    module = MLP(8).build(3, rng).double()
    first, last = module[0], module[2]
    norms = [float(torch.linalg.matrix_norm(part.weight.detach(), 2)) for part in (first, last)]
    assert lipschitz(first).value == pytest.approx(norms[0], rel=1e-11)
    assert lipschitz(module).value < 0.95 * norms[0] * norms[1]
    deep = nn.Sequential(first, nn.Tanh(), last, nn.ELU())
    assert lipschitz(deep).value == pytest.approx(lipschitz(module).value)
    assert lipschitz(nn.Sequential(first, last)).value == pytest.approx(norms[0] * norms[1])
    layer = FeedForward(3, seed=0).double()
    assert measured(lambda u: layer(u[None, None])[0][0, 0], 3) <= lipschitz(layer).value


def test_a_linear_part_beside_a_map_shifts_its_slopes():
    module = LinearPlus(Tanh()).build(2, np.random.default_rng(0)).double()
    with torch.no_grad():
        module.linear.copy_(torch.tensor([0.5, -0.25]))
        module.weight.copy_(torch.tensor([2.0, -1.0]))
    found = lipschitz(module)
    assert found.slopes is not None
    assert found.slopes[0].tolist() == [0.5, -1.25]
    assert found.slopes[1].tolist() == [2.5, -0.25]
    mixed = LinearPlus(MLP(4)).build(2, np.random.default_rng(0)).double()
    assert measured(mixed, 2) <= lipschitz(mixed).value


def test_a_gate_needs_a_range_and_keeps_its_bound_there():
    module = GLU().build(4, np.random.default_rng(0)).double()
    refused = lipschitz(module)
    assert refused.value == math.inf
    assert "only one on a range" in refused.reason
    wide, narrow = lipschitz(module, low=-3.0, high=3.0), lipschitz(module, low=-1.0, high=0.5)
    assert measured(module, 4, low=-3.0, high=3.0) <= wide.value
    assert measured(module, 4, low=-1.0, high=0.5) <= narrow.value < wide.value
    assert wide.value < 5 * measured(module, 4, low=-3.0, high=3.0)
    ends = torch.full((4,), -1.0), torch.full((4,), 0.5)
    assert lipschitz(module, low=ends[0], high=ends[1]).value == pytest.approx(narrow.value)


def test_norms_are_lipschitz_by_their_eps_alone():
    for module in (nn.LayerNorm(5), RMSNorm().build(5)):
        module = module.double()
        with torch.no_grad():
            module.weight.copy_(torch.linspace(0.5, 2.0, 5))
        found = lipschitz(module)
        near = measured(module, 5, low=-1e-5, high=1e-5, count=200)
        assert 0.9 * found.value < near <= found.value
        assert "eps = 1e-05 alone" in found.reason
    assert lipschitz(nn.LayerNorm(5, eps=0.0)).value == math.inf


def test_modules_may_answer_for_themselves():
    module = OneLipschitz().build(4, np.random.default_rng(0)).double()
    assert lipschitz(module).value == 1.0
    assert measured(module, 4) <= 1 + 1e-9


def test_unknown_maps_and_bad_ranges_are_refused():
    found = lipschitz(nn.Softmax(-1))
    assert found.value == math.inf
    assert found.reason == "no Lipschitz constant of Softmax is known"
    with pytest.raises(ValueError, match="both of its ends"):
        lipschitz(nn.Tanh(), low=1.0)
    with pytest.raises(ValueError, match="low must not be above high"):
        lipschitz(nn.Tanh(), low=1.0, high=0.0)
