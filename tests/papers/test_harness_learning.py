"""Measuring learning curves, paths, tokens and sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statewise.papers.harness.flows import (
    crossing,
    deep_flow,
    descend_product,
    epochs_to,
    logistic,
    orthogonal,
    time_to,
)
from statewise.papers.harness.scaling import one_step
from statewise.papers.harness.signatures import (
    dense_features,
    diagonal_features,
    iterated_integral,
    nilpotent_integral,
    readout_rmse,
    rounded_paths,
)
from statewise.papers.harness.tokens import TokenFlow, one_dimension, vanishing_constants
from statewise.papers.harness.trained_systems import descend, filtered, one_pole_layer


def test_logistic_solves_its_equation():
    time, width = np.array([0.2, 0.7, 1.5]), 1e-6
    slope = (logistic(time + width, 0.1, 2, 0.5) - logistic(time - width, 0.1, 2, 0.5)) / 2e-6
    value = logistic(time, 0.1, 2, 0.5)
    np.testing.assert_allclose(slope, 2 * value * (2 - 0.5 * value), rtol=1e-6)
    assert logistic(np.array(time_to(1.0, 0.1, 2, 0.5)), 0.1, 2, 0.5) == pytest.approx(1.0)
    np.testing.assert_allclose(deep_flow(time, 0.1, 2, 0.5, 2), value, rtol=1e-6)


def test_crossing():
    assert crossing(np.arange(4.0), np.array([0.0, 1.0, 3.0, 4.0]), 2.0) == 1.5
    assert crossing(np.arange(2.0), np.zeros(2), 2.0) == float("inf")


def test_descent_is_that_of_autograd():
    rng = np.random.default_rng(0)
    weights = [torch.from_numpy(rng.standard_normal((3, 3))) for _ in range(3)]
    target = torch.from_numpy(rng.standard_normal((3, 3)))
    leaves = [weight.clone().requires_grad_() for weight in weights]
    loss = 0.5 * (target - leaves[2] @ leaves[1] @ leaves[0]).square().sum()
    grads = torch.autograd.grad(loss, leaves)
    path = descend_product(weights, target, 0.01, 1)
    assert path.shape == (2, 3, 3)
    for weight, leaf, grad in zip(weights, leaves, grads, strict=True):
        torch.testing.assert_close(weight, (leaf - 0.01 * grad).detach())


def test_epochs_and_orthogonal_starts():
    rng = np.random.default_rng(0)
    start, target = orthogonal(4, rng), orthogonal(4, rng)
    torch.testing.assert_close(start @ start.T, torch.eye(4, dtype=start.dtype))
    steps, rate = epochs_to([start], target, np.array([0.1, 0.5]), 0.1, 100)
    assert rate == 0.5
    # The error halves with each step: 4^-k times its start is below a tenth of the target's power.
    ratio = float((start - target).square().sum() / target.square().sum())
    assert steps == int(np.ceil(np.log(ratio / 0.1) / np.log(4)))
    assert epochs_to([start], target, np.array([100.0]), 0.1, 50)[0] == 50


def test_layers_descend_on_their_filtered_input():
    layer = one_pole_layer(0.5, 2, 0.3)
    u = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 20, 1)))
    z = filtered(layer, u)
    with torch.no_grad():
        torch.testing.assert_close(layer(u)[0], 2 * 0.09 * z)
    power = float(z.square().mean())
    ((before, _),), ((after, _),) = descend([layer], u, z, 0.01, 1)
    move = 0.01 * 0.3 * (power - 0.18 * power)
    torch.testing.assert_close(after, before + move)


def test_iterated_integrals():
    moves = np.random.default_rng(0).standard_normal((5, 20, 3))
    one, two = (iterated_integral(moves, (i,)) for i in (0, 1))
    shuffled = iterated_integral(moves, (0, 1)) + iterated_integral(moves, (1, 0))
    np.testing.assert_allclose(one * two, shuffled, rtol=1e-10)
    fine = np.repeat(moves / 4, 4, 1)
    for word in ((0, 1), (0, 1, 2), (2, 2, 1)):
        coarse = iterated_integral(moves, word)
        np.testing.assert_allclose(iterated_integral(fine, word), coarse, rtol=1e-9)
    np.testing.assert_allclose(
        nilpotent_integral(moves[..., :2]).numpy(), iterated_integral(moves, (0, 1)), rtol=1e-10
    )


def test_features_of_paths():
    moves = rounded_paths(300, 20, 2, 0)
    area = iterated_integral(moves, (0, 1))
    assert readout_rmse(dense_features(moves, 32, 0), area, 200) < 0.5
    assert readout_rmse(diagonal_features(moves, 32, 0), area, 200) < 0.5
    assert readout_rmse(diagonal_features(moves, 8, 0, lti=True), area, 200) > 0.8


def test_tokens_are_causal_and_vanish():
    rng = np.random.default_rng(0)
    flow = TokenFlow(rng.standard_normal((3, 3)), rng.standard_normal((3, 3)))
    x = rng.standard_normal((1, 5, 3))
    later = x.copy()
    later[:, 3:] += 1
    np.testing.assert_array_equal(flow.slope(x)[:, :3], flow.slope(later)[:, :3])
    tokens, time, kept = one_dimension(-1.0).run(np.ones((1, 3, 1)), 1e5)
    np.testing.assert_allclose(
        tokens[0, :, 0] * np.sqrt(1e5), vanishing_constants(3, -1.0), rtol=0.02
    )
    assert time[0] == pytest.approx(1e5)
    assert kept.all()
    assert one_dimension(1.0).run(np.ones((1, 3, 1)), 1e5)[1][0] < 1


def test_one_step_of_a_selective_layer():
    moves = one_step(16, rule="euler", derived=True, optimiser="adam")
    other = one_step(16, rule="euler", derived=False, optimiser="adam")
    assert moves.x == pytest.approx(other.x)
    assert moves.dy < 0.2 * other.dy
