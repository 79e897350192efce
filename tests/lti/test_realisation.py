"""Eigensystem realisation gives systems back from their responses."""

from __future__ import annotations

import math

import pytest
import torch
from lti_systems import card_system, same_map, stable

from statewise.lti import (
    era,
    frequency_response,
    hankel_singular_values,
    markov_parameters,
    step_response,
)


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 3), (3, 1)])
def test_responses_give_the_system_back(n, m, p) -> None:
    system = stable(n, m, p, seed=n)
    grid = torch.exp(1j * torch.linspace(0, math.pi, 41, dtype=torch.float64))
    for kind, response in (
        ("pulse", markov_parameters(system, 60)),
        ("step", step_response(system, 60)),
        ("frequency", torch.stack([system(z) for z in grid])),
    ):
        result = era(response, kind=kind, dt=1.0)
        assert result.order == n
        same_map(result.system, system, 1e-8)


def test_poles_and_hankel_values_are_those_of_the_notes() -> None:
    system = card_system()
    result = era(markov_parameters(system, 801), dt=1.0)
    true, found = torch.linalg.eigvals(system.A), torch.linalg.eigvals(result.system.A)
    assert (found[:, None] - true).abs().amin(0).max() < 1e-12
    values = result.hankel_singular_values[:3]
    assert values.tolist() == pytest.approx([6.5526, 5.1437, 0.6344], abs=1e-4)
    assert torch.allclose(values, hankel_singular_values(system), rtol=1e-10)


def test_long_horizons_give_balanced_states() -> None:
    result = era(markov_parameters(card_system(), 801))
    A, B, C, _ = result.system.matrices
    sigma = torch.diag(result.hankel_singular_values[:3])
    assert (A @ sigma @ A.mT - sigma + B @ B.mT).abs().max() < 1e-10
    assert (A.mT @ sigma @ A - sigma + C.mT @ C).abs().max() < 1e-10


def test_reduction_stays_near() -> None:
    system = card_system()
    small = era(markov_parameters(system, 801), 2).system
    w = torch.linspace(0, math.pi, 400, dtype=torch.float64)
    error = (frequency_response(small, w) - frequency_response(system, w)).abs().max()
    assert 0.6344 <= error <= 2 * 0.6344


def test_batches() -> None:
    systems = stable(3, 2, 2, seed=4, batch=(5,))
    h = markov_parameters(systems, 40)
    result = era(h, 3)
    assert result.system.batch_shape == (5,)
    assert torch.allclose(markov_parameters(result.system, 40), h, atol=1e-10)
    with pytest.raises(ValueError, match="needs an order"):
        era(h)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(5, 1),), r"the response has shape \(5, 1\)"),
        ((torch.ones(5, 1, 1), 9), r"order is 9; .* allows 1 to 2"),
        ((torch.full((5, 1, 1), math.inf),), "not finite"),
    ],
)
def test_errors_say_what_was_given(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        era(*arguments)
    with pytest.raises(ValueError, match="kind is 'noise'"):
        era(torch.ones(5, 1, 1), kind="noise")
    with pytest.raises(ValueError, match="9 block rows leave -5 block columns"):
        era(torch.ones(5, 1, 1), rows=9)
    with pytest.raises(TypeError, match="complex"):
        era(torch.ones(5, 1, 1, dtype=torch.complex128))
