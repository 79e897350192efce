"""Norms against integrals over frequency and dense grids."""

from __future__ import annotations

import math

import pytest
import torch
from lti_systems import card_system, stable

from statewise.lti import (
    Bilinear,
    StateSpace,
    ZeroPoleGain,
    balanced_truncation,
    frequency_response,
    from_zpk,
    h2_norm,
    hankel_norm,
    hankel_singular_values,
    hinf_norm,
    markov_parameters,
    poles,
    to_continuous,
    to_discrete,
)


def gains(system: StateSpace, w: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(frequency_response(system, w), 2)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_h2_is_the_sum_of_squares_and_the_integral(complex_valued) -> None:
    system = stable(5, dt=0.5, batch=(2,), complex_valued=complex_valued)
    pulses = markov_parameters(system, 600)
    expected = pulses.abs().square().sum((-1, -2, -3)).sqrt()
    torch.testing.assert_close(h2_norm(system), expected, rtol=1e-12, atol=0)
    w = (torch.arange(4096, dtype=torch.float64) / 4096 * 2 - 1) * math.pi / 0.5
    power = frequency_response(system, w).abs().square().sum((-1, -2)).mean(-1)
    torch.testing.assert_close(h2_norm(system), power.sqrt(), rtol=1e-10, atol=0)


def test_h2_in_continuous_time() -> None:
    lag = StateSpace([[-2.0]], [[3.0]], [[1.0]])
    assert abs(h2_norm(lag).item() - 1.5) < 1e-15
    assert h2_norm(StateSpace([[-2.0]], [[3.0]], [[1.0]], [[0.1]])).item() == math.inf


def test_norms_of_the_reference_system() -> None:
    system = card_system()
    assert abs(h2_norm(system).item() - 3.11214) < 5e-6
    lower, upper, frequency = hinf_norm(system)
    assert abs(lower.item() - 12.781) < 5e-4
    # The notes give the best point of a grid, so the gain there is the sharper test.
    assert abs(frequency.item() - 0.5005) < 5e-4
    assert 12.7805 < gains(system, torch.tensor([0.5005], dtype=torch.float64)) <= upper
    assert lower <= upper <= lower * (1 + 1.01e-8)


@pytest.mark.parametrize("dt", [None, 0.3])
@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_hinf_is_the_maximum_of_a_dense_grid(dt, complex_valued, seed) -> None:
    system = stable(6, dt=dt, complex_valued=complex_valued, seed=seed, radius=0.97)
    lower, upper, frequency = hinf_norm(system)
    end = 12.0 if dt is None else math.pi / dt
    grid = torch.linspace(-end, end, 20_001, dtype=torch.float64)
    top = gains(system, grid)
    assert top.max() <= upper
    assert upper <= lower * (1 + 1.01e-8)
    at = gains(system, frequency[None].clamp(-1e8, 1e8))[0]
    torch.testing.assert_close(at, lower, rtol=1e-9, atol=0)
    near = frequency + torch.linspace(-1e-3, 1e-3, 2001, dtype=torch.float64)
    peak = max(top.max().item(), gains(system, near.clamp(-1e8, 1e8)).max().item())
    assert abs(peak - lower.item()) <= 1e-6 * peak


def test_sharp_peaks_between_any_grid_points_are_found() -> None:
    poles = [-1e-6 + 3j, -1e-6 - 3j, -1e-5 + 3.001j, -1e-5 - 3.001j, -1.0]
    system = from_zpk(ZeroPoleGain([-0.5], poles, 1.0))
    lower, upper, frequency = hinf_norm(system)
    assert abs(frequency.item() - 3) < 1e-4
    near = frequency + torch.linspace(-3e-6, 3e-6, 4001, dtype=torch.float64)
    assert gains(system, near).max() <= upper * (1 + 1e-6)
    assert abs(gains(system, near).max() / lower - 1) < 1e-5


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_bounds_near_the_boundary_of_stability(dt, distance, complex_valued) -> None:
    for seed in range(3):
        system = stable(8, dt=dt, radius=1 - distance, seed=seed, complex_valued=complex_valued)
        lower, upper, _ = hinf_norm(system)
        at = poles(system)
        middle = at.imag if dt is None else at.angle()
        damping = -at.real if dt is None else 1 - at.abs()
        offsets = torch.linspace(-5, 5, 801, dtype=torch.float64)
        peak = gains(system, (middle[:, None] + damping[:, None] * offsets).reshape(-1)).max()
        assert peak <= upper
        assert upper / lower - 1 <= 1.1e-8 + 1e-12 / distance


def test_special_places_of_the_peak() -> None:
    high = StateSpace([[-1.0]], [[1.0]], [[-0.9]], [[1.0]])
    lower, upper, frequency = hinf_norm(high)
    assert (lower.item(), frequency.item()) == (1.0, math.inf)
    assert upper >= 1
    nyquist = StateSpace([[-0.5]], [[1.0]], [[1.0]], dt=2.0)
    lower, _, frequency = hinf_norm(nyquist)
    assert abs(lower.item() - 2) < 1e-12
    assert abs(frequency.item() - math.pi / 2) < 1e-12
    assert hinf_norm(StateSpace.gain([[3.0, 4.0]], 1.0)).lower.item() == 5
    assert [v.item() for v in hinf_norm(0 * stable(3))] == [0, 0, 0]
    all_pass = from_zpk(ZeroPoleGain([1.0, 2.0], [-1.0, -2.0], 1.0))
    assert abs(hinf_norm(all_pass).lower.item() - 1) < 1e-12
    assert 1 <= hinf_norm(all_pass).upper.item() < 1 + 1e-4


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("count", [2, 3, 4, 6, 8, 12])
def test_zeros_at_all_special_frequencies_do_not_hide_the_gain(dt, count) -> None:
    # A comb, z^-n − z^-k or its image under the bilinear map, is 0 at frequencies such as 0 and π.
    for other in range(count % 2, count, 2):
        taps = torch.zeros(1, count, dtype=torch.float64)
        taps[0, count - 1] = 1.0
        if other:
            taps[0, other - 1] -= 1.0
        shift = torch.diag(torch.ones(count - 1, dtype=torch.float64), -1)
        start = torch.eye(count, dtype=torch.float64)[:, :1]
        comb = StateSpace(shift, start, taps, None if other else [[-1.0]], dt=1.0)
        system = comb if dt else to_continuous(comb, Bilinear())
        found = hinf_norm(system)
        assert abs(found.lower.item() - 2) < 1e-7
        assert 2 * (1 - 1e-12) <= found.upper.item() < 2 * (1 + 1e-6)


def test_batches_and_the_map_of_time() -> None:
    system = stable(4, dt=None, batch=(2, 2))
    found = hinf_norm(system)
    assert found.lower.shape == (2, 2)
    single = hinf_norm(system[1, 0])
    assert single.lower == found.lower[1, 0]
    mapped = hinf_norm(to_discrete(system, 0.4, Bilinear()))
    torch.testing.assert_close(mapped.lower, found.lower, rtol=2e-8, atol=0)


def test_hankel_norm_is_below_hinf_and_twice_the_sum_above() -> None:
    system = stable(5, batch=(4,))
    system = StateSpace(system.A, system.B, system.C, dt=1.0)
    top, sigma = hinf_norm(system), hankel_singular_values(system)
    assert (hankel_norm(system) <= top.upper).all()
    assert (top.lower <= 2 * sigma.sum(-1)).all()


def test_h2_has_gradients() -> None:
    base = stable(3)

    def norm(A, B):
        return h2_norm(StateSpace(A, B, base.C, base.D, 1.0))

    assert torch.autograd.gradcheck(norm, [M.clone().requires_grad_() for M in (base.A, base.B)])


def test_what_has_no_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="stable"):
        hinf_norm(stable(3, radius=1.1))
    with pytest.raises(ValueError, match="1e-10"):
        hinf_norm(stable(3), tolerance=1e-15)


def test_a_flat_peak_that_is_small_beside_its_parts_is_found() -> None:
    # The error of a good reduction: its crossings are off the axis by far more than rounding.
    draw = torch.Generator().manual_seed(0)
    w = torch.linspace(0, math.pi, 3000, dtype=torch.float64)
    for _ in range(40):
        lags = 0.6 + 0.35 * torch.rand(6, generator=draw, dtype=torch.float64)
        B, C = torch.randn(2, 6, generator=draw, dtype=torch.float64)
        system = StateSpace(torch.diag(lags), B[:, None], C[None], dt=1.0)
        gap = system - balanced_truncation(system, 2).system
        lower, upper, _ = hinf_norm(gap, tolerance=1e-6)
        largest = gains(gap, w).max()
        assert largest <= upper
        assert lower <= upper <= largest * (1 + 1e-3)
