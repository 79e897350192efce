"""Systems from frequency responses: exact recovery, weights, bounds, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from lti_systems import same_map, stable

from statewise.lti import StateSpace, fit_frequency_response, frequency_response, poles


def grid(count: int, dt: float = 1.0) -> torch.Tensor:
    """Frequencies that are not evenly spaced."""
    return (torch.linspace(0.05, 1.0, count, dtype=torch.float64) ** 1.3) * (3.1 / dt)


@pytest.mark.parametrize(
    ("n", "m", "p"), [(1, 1, 1), (4, 1, 1), (5, 1, 2), (6, 3, 1), (8, 2, 2), (12, 2, 3)]
)
def test_exact_responses_give_the_system_back(n, m, p) -> None:
    system, w = stable(n, m, p, seed=n), grid(60)
    G = frequency_response(system, w)
    found = fit_frequency_response(G, w, n)
    assert found.converged
    assert (found.response - G).abs().max() < 1e-9 * G.abs().max()
    same_map(found.system, system, 1e-8)


def test_sampling_time_and_missing_direct_terms() -> None:
    base = stable(3, 1, 1, seed=1)
    system = StateSpace(base.A, base.B, base.C, dt=0.1)
    w = grid(30, 0.1)
    G = frequency_response(system, w)
    found = fit_frequency_response(G[:, 0, 0], w, 3, dt=0.1, direct=False)
    assert found.system.dt == 0.1
    assert not found.system.D.any()
    same_map(found.system, system, 1e-8)


def test_weights_are_those_of_least_squares() -> None:
    """At the minimum the weighted misfit is stationary, and no neighbour is better."""
    system, w = stable(3, 1, 2, seed=2), grid(80)
    G = frequency_response(system, w)
    g = torch.Generator().manual_seed(0)
    variance = 0.01 * (0.1 + torch.rand(G.shape, generator=g, dtype=torch.float64))
    parts = torch.randn(*G.shape, 2, generator=g, dtype=torch.float64)
    noisy = G + (variance / 2).sqrt() * torch.view_as_complex(parts)
    found = fit_frequency_response(noisy, w, 3, variance=variance, tolerance=1e-6)
    assert found.converged

    def misfit(candidate: StateSpace) -> float:
        rest = (frequency_response(candidate, w) - noisy).abs().square() / variance
        return float(rest.mean())

    assert misfit(found.system) == pytest.approx(found.loss, rel=1e-10)
    # N = 320 real numbers less 14 parameters, over N: 0.956, with a standard deviation of 0.08.
    assert 0.7 < found.loss < 1.25
    assert found.loss < misfit(system)
    for k, M in enumerate(found.system.matrices):
        for sign in (1e-4, -1e-4):
            step = sign * torch.randn(M.shape, generator=g, dtype=torch.float64)
            parts = [Q + step if j == k else Q for j, Q in enumerate(found.system.matrices)]
            assert misfit(StateSpace(*parts, dt=1.0)) > found.loss
    plain = fit_frequency_response(noisy, w, 3)
    assert misfit(plain.system) > found.loss


def test_poles_are_held_inside_only_when_asked() -> None:
    system, w = StateSpace([[1.1]], [[1.0]], [[1.0]], dt=1.0), grid(40)
    G = frequency_response(system, w)
    free = fit_frequency_response(G, w, 1, stable=False)
    same_map(free.system, system, 1e-9)
    held = fit_frequency_response(G, w, 1)
    assert poles(held.system).abs().max() < 1
    assert held.loss > free.loss


def test_an_order_too_small_is_the_best_of_its_order() -> None:
    system, w = stable(5, 1, 1, seed=6), grid(100)
    G = frequency_response(system, w)
    losses = [fit_frequency_response(G, w, n).loss for n in (1, 2, 3, 4, 5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-18


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": 0}, r"order is 0"),
        ({"dt": None}, r"dt is None"),
        ({"dt": 2.0}, r"the Nyquist frequency 1.5708 is possible"),
        ({"frequency": torch.ones(3)}, r"response has shape \(20, 1, 1\) and frequency \(3,\)"),
        ({"variance": torch.zeros(20)}, r"a variance is not positive"),
        ({"response": torch.full((20,), math.nan)}, r"not finite"),
        ({"order": 20}, r"20 frequencies are too few for order 20"),
    ],
)
def test_errors_say_what_was_given(change, words) -> None:
    w = grid(20)
    given = {"response": frequency_response(stable(2, 1, 1), w), "frequency": w, "order": 2}
    with pytest.raises(ValueError, match=words):
        fit_frequency_response(**{**given, **change})
