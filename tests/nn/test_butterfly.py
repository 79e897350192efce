"""Butterfly: the factors start as the Fourier transform, and can leave it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statewise.nn import Butterfly, ButterflyConv
from statewise.ops import fft_conv


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("largest", [2, 4, 8, 16])
@pytest.mark.parametrize("length", [1, 2, 4, 8, 16, 32, 128, 1024])
def test_it_starts_as_the_fourier_transform(length: int, largest: int) -> None:
    butterfly = Butterfly(length, largest=largest).double()
    # Parameters are made in float32; the exact matrices are put in their place.
    exact(butterfly)
    x = torch.complex(noise(3, length), noise(3, length, seed=1))
    scale = length**0.5
    assert (butterfly(x) - torch.fft.fft(x)).abs().max() < 1e-13 * scale * max(1, np.log2(length))
    assert all(factor.shape[0] <= largest for factor in butterfly.factors)


@pytest.mark.parametrize("length", [1, 4, 64, 512])
def test_the_inverse_undoes_it(length: int) -> None:
    there = exact(Butterfly(length).double())
    back = exact(Butterfly(length, inverse=True).double())
    x = noise(2, length)
    torch.testing.assert_close(back(there(x)).real, x, rtol=1e-12, atol=1e-13)


def exact(module: torch.nn.Module) -> torch.nn.Module:
    """The factors at the start in float64."""
    for butterfly in (m for m in module.modules() if isinstance(m, Butterfly)):
        for factor, n in zip(butterfly.factors, butterfly.sizes, strict=True):
            k = np.arange(n)
            f = np.exp(butterfly.sign * 2j * np.pi / n * np.outer(k, k))
            f = f / n if butterfly.sign > 0 else f
            pairs = torch.from_numpy(np.stack([f.real, f.imag], -1))
            assert (factor.detach() - pairs).abs().max() < 1e-7
            with torch.no_grad():
                factor.copy_(pairs)
    return module


@pytest.mark.parametrize("length", [1, 5, 16, 100])
def test_the_convolution_starts_as_a_causal_one(length: int) -> None:
    layer = exact(ButterflyConv(3, length).double())
    for steps in {1, length // 2 + 1, length}:
        u = noise(2, steps, 3)
        expected, _ = fft_conv(u, layer.taps, layer.D)
        torch.testing.assert_close(layer(u), expected, rtol=1e-12, atol=1e-13)


def test_all_of_it_learns() -> None:
    layer = ButterflyConv(2, 20, noise=0.01).double()
    names, values = zip(*layer.named_parameters(), strict=True)
    found = torch.autograd.grad(layer(noise(2, 20, 2)).square().sum(), values)
    for name, gradient in zip(names, found, strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


def test_trained_factors_are_no_convolution() -> None:
    layer = ButterflyConv(1, 16, noise=0.1).double()
    u = noise(1, 16, 1).requires_grad_()
    (sensitivity,) = torch.autograd.grad(layer(u)[0, 3, 0], u)
    assert sensitivity[0, 4:].abs().max() > 1e-4


def test_gradients_of_the_transform() -> None:
    butterfly = Butterfly(8, largest=4, noise=0.1).double()

    def real(x: torch.Tensor, *factors: torch.Tensor) -> torch.Tensor:
        given = {f"factors.{i}": factor for i, factor in enumerate(factors)}
        return torch.view_as_real(torch.func.functional_call(butterfly, given, (x,)))

    values = [p.detach().clone().requires_grad_() for p in butterfly.parameters()]
    assert torch.autograd.gradcheck(real, (noise(2, 8).requires_grad_(), *values))


def test_the_noise_is_the_share_it_says() -> None:
    for inverse in (False, True):
        plain = Butterfly(16, inverse=inverse)
        noisy = Butterfly(16, inverse=inverse, noise=0.01)
        size = plain.factors[0].detach().square().sum(-1).sqrt().max()
        share = (noisy.factors[0] - plain.factors[0]).detach().std() / size
        assert 0.008 < share < 0.012


def test_half_precision_parameters_and_inputs() -> None:
    layer = ButterflyConv(2, 30).bfloat16()
    u = noise(2, 30, 2).bfloat16()
    y = layer(u)
    assert y.dtype == torch.bfloat16
    wide = layer.float()(u.float())
    assert (y - wide).abs().max() < 0.05 * wide.abs().max()


@pytest.mark.parametrize("given", [0, 3, 24])
def test_lengths_that_are_no_power_of_two_are_told(given: int) -> None:
    with pytest.raises(ValueError, match=f"length; given {given}"):
        Butterfly(given)
    with pytest.raises(ValueError, match=f"largest; given {given}"):
        Butterfly(8, largest=given)


def test_wrong_shapes_are_told() -> None:
    layer = ButterflyConv(2, 6)
    for shape in ((1, 7, 2), (1, 0, 2), (1, 5, 3), (5, 2)):
        with pytest.raises(ValueError, match="given"):
            layer(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"\(\.\.\., 8\)"):
        Butterfly(8)(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="given 2 and 0"):
        ButterflyConv(2, 0)
