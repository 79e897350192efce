"""LongConv: the layer contract, its regularisers, and the convolution by its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import LongConv, parameter_roles


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TestLongConv(LayerContract):
    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return LongConv(3, taps=6, squash=0.001, seed=seed).to(dtype)


class TestLongConvBeyondTheSequence(EagerContract):
    """More taps than most sequences of the suite have steps."""

    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        options = {"smooth": "time", "smooth_width": 3, "init": "random", "squash": 0.0005}
        return LongConv(2, taps=13, feedthrough=False, **options, seed=seed).to(dtype)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 40), taps=st.integers(1, 40), width=st.integers(1, 5), cut=st.floats(0, 1)
)
def test_the_convolution_is_its_definition(length: int, taps: int, width: int, cut: float) -> None:
    layer = LongConv(width, taps=taps, squash=0.0).double()
    u, k = noise(2, length, width), layer.kernel().detach()
    expected = layer.D.detach() * u
    for t in range(length):
        for s in range(min(taps, t + 1)):
            expected[:, t] += k[:, s] * u[:, t - s]
    y, _ = layer(u)
    torch.testing.assert_close(y.detach(), expected, rtol=1e-12, atol=1e-13)
    at = round(cut * (length - 1))
    if at:
        head, window = layer(u[:, :at])
        tail, _ = layer(u[:, at:], window)
        torch.testing.assert_close(torch.cat([head, tail], 1).detach(), expected)


def test_squash_is_the_proximal_operator_of_the_absolute_value() -> None:
    lam = 0.02
    layer = LongConv(2, taps=50, squash=lam, seed=3).double()
    k, squashed = layer.taps.detach(), layer.kernel()
    # argmin_x |x| λ + ½ (x − k)² on a fine grid
    grid = torch.linspace(-0.1, 0.1, 20_001, dtype=torch.float64)
    cost = lam * grid.abs() + 0.5 * (grid - k.flatten().unsqueeze(-1)) ** 2
    best = grid[cost.argmin(-1)].view_as(k)
    assert (squashed.detach() - best).abs().max() < 1e-5
    (gradient,) = torch.autograd.grad(squashed.sum(), layer.taps)
    assert torch.equal(gradient, (k.abs() > lam).double())


def test_a_random_start_is_sparse_as_the_normal_law_says() -> None:
    layer = LongConv(40, taps=2000, squash=0.002, init="random").double()
    share = (layer.kernel() == 0).double().mean().item()
    assert abs(share - math.erf(1 / math.sqrt(2))) < 0.01


def test_smoothing_in_time_is_a_moving_average() -> None:
    layer = LongConv(3, taps=20, squash=0.0, smooth="time", smooth_width=5).double()
    k = layer.taps.detach().numpy()
    expected = np.stack([np.convolve(row, np.full(5, 0.2), "same") for row in k])
    np.testing.assert_allclose(layer.kernel().detach().numpy(), expected, atol=1e-15)


def test_smoothing_inside_averages_the_taps_that_are_there() -> None:
    layer = LongConv(
        3, taps=20, squash=0.0, smooth="time", smooth_width=5, smooth_edges="inside"
    ).double()
    k = layer.taps.detach().numpy()
    expected = [k[:, max(s - 2, 0) : s + 3].mean(1) for s in range(20)]
    np.testing.assert_allclose(layer.kernel().detach().numpy(), np.stack(expected, 1), atol=1e-15)


def test_smoothing_makes_taps_smoother() -> None:
    def roughness(k: torch.Tensor) -> float:
        k = k.detach()
        return float(k.diff(dim=-1).square().sum() / k.square().sum())

    rough = LongConv(8, taps=200, squash=0.0, init="random")
    smooth = LongConv(8, taps=200, squash=0.0, init="random", smooth="time")
    assert roughness(smooth.kernel()) * 3 < roughness(rough.kernel())


@pytest.mark.parametrize("taps", [16, 21])
def test_smoothing_in_frequency_convolves_the_spectrum(taps: int) -> None:
    layer = LongConv(2, taps=taps, squash=0.0, smooth="frequency", smooth_width=7).double()
    spectrum = torch.fft.fft(layer.taps.detach())
    mixed = sum(math.exp(-(j**2) / 2) * spectrum.roll(j, -1) for j in range(-3, 4))
    expected = torch.fft.ifft(mixed).real
    torch.testing.assert_close(layer.kernel().detach(), expected, rtol=1e-12, atol=1e-14)


def test_dropout_acts_on_taps_in_training_alone() -> None:
    layer = LongConv(4, taps=500, squash=0.0, kernel_dropout=0.25).double()
    kept = layer.eval().kernel()
    assert torch.equal(kept, layer.taps)
    dropped = layer.train().kernel()
    gone = dropped == 0
    assert 0.2 < gone.double().mean() < 0.3
    torch.testing.assert_close(dropped[~gone], kept[~gone] / 0.75)


def test_the_geometric_start_spreads_time_scales() -> None:
    taps = LongConv(8, taps=4000, seed=1).double().taps.detach()
    s = torch.arange(4000) / 4000
    for h in (0, 4, 7):
        scaled = taps[h] / 0.02 * torch.exp(s * 4.0 ** (h / 8))
        assert abs(float(scaled.std()) - 1) < 0.05


def test_the_memory_ends_with_the_taps() -> None:
    layer = LongConv(1, taps=5).double()
    u = torch.zeros(1, 12, 1, dtype=torch.float64)
    u[0, 0] = 1
    y, _ = layer(u)
    assert y[0, 5:].abs().max() < 1e-15
    assert y[0, 4].abs() > 1e-4


def test_taps_are_trained_as_dynamics() -> None:
    assert parameter_roles(LongConv(2, taps=3)) == {"taps": "A", "D": "D"}


@pytest.mark.parametrize(
    "options",
    [
        {"taps": 0},
        {"squash": -0.1},
        {"kernel_dropout": 1.0},
        {"smooth": "space"},
        {"smooth_width": 4},
        {"smooth_edges": "wrap"},
        {"init": "zero"},
    ],
)
def test_wrong_options_are_told(options: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        LongConv(2, **options)
