"""Static maps and the Wiener block by their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev
from torch import Tensor, nn

from statewise._config import from_dict, to_dict
from statewise.nn import (
    ELU,
    GELU,
    GLU,
    LTI,
    MLP,
    Identity,
    LayerNorm,
    Polynomial,
    RMSNorm,
    Tanh,
    WienerBlock,
)

MAPS = [Identity(), ELU(), Tanh(), GELU(), GLU(), MLP(5), Polynomial(), Polynomial(1, 0.5)]
ETA = torch.linspace(-9, 9, 37, dtype=torch.float64).view(37, 1) * torch.tensor([1.0, -0.5])


def build(config, channels: int = 2, seed: int = 0) -> nn.Module:
    return config.build(channels, np.random.default_rng(seed)).double()


def by_hand(config, module: nn.Module, eta: Tensor) -> Tensor:
    """The formula of each map, with the parameters of its module."""
    weights = dict(module.named_parameters())
    gelu = 0.5 * eta * (1 + torch.erf(eta / 2**0.5))
    match config:
        case Identity():
            return eta
        case ELU():
            return torch.where(eta > 0, eta, torch.expm1(eta))
        case Tanh():
            return torch.tanh(eta)
        case GELU():
            return gelu
        case GLU():
            both = gelu @ weights["mix.weight"].mT + weights["mix.bias"]
            return both[..., :2] / (1 + torch.exp(-both[..., 2:]))
        case MLP():
            hidden = torch.tanh(eta @ weights["0.weight"].mT + weights["0.bias"])
            return hidden @ weights["2.weight"].mT + weights["2.bias"]
    raise AssertionError(config)


@pytest.mark.parametrize("config", MAPS[:6], ids=lambda config: type(config).__name__)
def test_maps_are_their_formulas(config) -> None:
    module = build(config)
    torch.testing.assert_close(module(ETA), by_hand(config, module, ETA), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("config", MAPS, ids=repr)
def test_maps_have_no_memory_and_a_seed(config) -> None:
    module = build(config)
    sequence = ETA.view(1, 37, 2)
    torch.testing.assert_close(module(sequence)[0, 11], module(ETA[11:12])[0], rtol=1e-12, atol=0)
    one, again = module.state_dict(), build(config).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize("config", [GLU(), MLP(5)], ids=repr)
def test_weights_start_within_their_bound(config) -> None:
    other = build(config, seed=1).state_dict()
    for name, value in build(config).state_dict().items():
        assert value.abs().max() <= 2**-0.5
        assert value.any()
        assert not torch.equal(value, other[name])


def polynomial(degree: int = 4, support: float = 2.5) -> tuple[nn.Module, np.ndarray]:
    module = build(Polynomial(degree, support))
    coefficients = np.random.default_rng(1).standard_normal((degree + 1, 2))
    with torch.no_grad():
        module.coefficients.copy_(torch.from_numpy(coefficients))
    return module, coefficients


@pytest.mark.parametrize(("degree", "support"), [(1, 1.0), (3, 3.0), (7, 0.3)])
def test_polynomial_starts_as_the_identity(degree: int, support: float) -> None:
    torch.testing.assert_close(build(Polynomial(degree, support))(ETA), ETA, rtol=1e-6, atol=1e-14)


def test_polynomial_is_chebyshev_within_its_support() -> None:
    module, c = polynomial()
    eta = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None].expand(-1, 2)
    found = module(eta).detach().numpy()
    for channel in range(2):
        expected = chebyshev.chebval(eta[:, channel].numpy() / 2.5, c[:, channel])
        np.testing.assert_allclose(found[:, channel], expected, rtol=0, atol=1e-13)


def test_polynomial_goes_on_as_its_tangent() -> None:
    module, c = polynomial()
    for edge in (-2.5, 2.5):
        slope = np.array(
            [chebyshev.chebval(edge / 2.5, chebyshev.chebder(c[:, k])) / 2.5 for k in range(2)]
        )
        value = module(torch.full((1, 2), edge, dtype=torch.float64)).detach().numpy()[0]
        for distance in (1e-9, 1e-3, 1.0, 1e6):
            eta = torch.full((1, 2), edge + np.sign(edge) * distance, dtype=torch.float64)
            expected = value + slope * np.sign(edge) * distance
            np.testing.assert_allclose(module(eta).detach().numpy()[0], expected, rtol=1e-12)
        # The slope as autograd sees it is continuous: C¹.
        for shift in (-1e-7, 0.0, 1e-7, 5.0 * np.sign(edge)):
            eta = torch.full((1, 2), edge + shift, dtype=torch.float64, requires_grad=True)
            (found,) = torch.autograd.grad(module(eta).sum(), eta)
            np.testing.assert_allclose(found.numpy()[0], slope, rtol=1e-5, atol=1e-5)


def test_polynomial_is_differentiable() -> None:
    module, _ = polynomial()
    eta = torch.tensor([[-4.0, -2.4], [0.1, 0.0], [2.4, 7.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(module, eta.requires_grad_())


@pytest.mark.parametrize(("degree", "support"), [(0, 1.0), (2, 0.0), (2, -1.0)])
def test_polynomial_checks_its_arguments(degree: int, support: float) -> None:
    with pytest.raises(ValueError, match=f"degree = {degree}, support = {support}"):
        Polynomial(degree, support)


# --- the block


def block(d_output: int = 3, **options) -> WienerBlock:
    rng = np.random.default_rng(0)
    lti = LTI(3, d_output, 4, bias=True, seed=rng)
    return WienerBlock(lti, Tanh(), rng=rng, **options).double()


def normalised(u: Tensor, norm) -> Tensor:
    if isinstance(norm, RMSNorm):
        return u / (u.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    centred = u - u.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("norm", [None, LayerNorm(), RMSNorm()], ids=repr)
@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("skip", ["identity", "linear", "none"])
@pytest.mark.parametrize("d_output", [2, 3])
def test_block_is_its_formula(norm, prenorm: bool, skip: str, d_output: int) -> None:
    layer = block(d_output, norm=norm, prenorm=prenorm, skip=skip)
    u = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inside = normalised(u, norm) if norm is not None and prenorm else u
    expected = torch.tanh(layer.lti(inside)[0])
    if skip != "none" and d_output == 3:
        expected = expected + u
        assert layer.F is None
    elif skip == "linear":
        expected = expected + torch.einsum("oi,bli->blo", layer.F, u)
    else:
        assert layer.F is None
    if norm is not None and not prenorm:
        expected = normalised(expected, norm)
    torch.testing.assert_close(layer(u)[0], expected, rtol=1e-10, atol=1e-11)


def test_dropout_is_for_training_alone() -> None:
    layer = block(dropout=0.5, skip="none")
    u = torch.ones(1, 200, 3, dtype=torch.float64)
    torch.manual_seed(0)
    dropped = layer(u)[0] == 0
    assert 0.4 < dropped.double().mean() < 0.6
    layer.eval()
    y = layer(u)[0]
    assert (y != 0).all()
    assert torch.equal(y, layer(u)[0])


def test_block_checks_its_skip() -> None:
    with pytest.raises(ValueError, match="'residual'"):
        block(skip="residual")
