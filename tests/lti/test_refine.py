"""State-space prediction error: gradients, exact recovery, statistics, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from lti_systems import card_system, stable

from statewise.lti import (
    PolynomialModel,
    StateSpace,
    armax,
    discrete_riccati,
    frequency_response,
    identify,
    identify_batch,
    markov_parameters,
    poles,
    refine,
    simulate,
)
from statewise.lti import _innovations as engine
from statewise.lti._coordinates import moved, response_sensitivity, tangent_complement
from statewise.lti._hankel import read_records

EYE = torch.eye(2, dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap(found: StateSpace, true: StateSpace) -> float:
    h = markov_parameters(true, 30)
    return float((markov_parameters(found, 30) - h).abs().max() / h.abs().max())


def with_noise(
    system: StateSpace, K: torch.Tensor, lengths: tuple[int, ...], seed: int, root: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Records in innovation form with innovations root · white, from random first states."""
    p = system.n_outputs
    one = torch.eye(p, dtype=torch.float64)
    joint = StateSpace(
        system.A, torch.cat((system.B, K), 1), system.C, torch.cat((system.D, one), 1), 1.0
    )
    us = [draw(n, system.n_inputs, seed=seed + n) for n in lengths]
    es = [draw(n, p, seed=seed + n + 10**6) @ root.mT for n in lengths]
    ys = [
        simulate(joint, torch.cat((u, e), 1), 3 * draw(system.n_states, seed=seed + k))[0]
        for k, (u, e) in enumerate(zip(us, es, strict=True))
    ]
    return us, ys


def stochastic() -> tuple[StateSpace, torch.Tensor, torch.Tensor]:
    """A system of order 3 with the gain of a Kalman filter, and a root of a covariance."""
    system = stable(3, 2, 2, seed=1)
    root = torch.tensor([[0.3, 0.0], [0.2, 0.5]], dtype=torch.float64)
    gain = discrete_riccati(
        system.A.mT, system.C.mT, 0.05 * torch.eye(3, dtype=torch.float64), root @ root.mT
    ).gain
    return system, gain.mT.contiguous(), root


@pytest.mark.parametrize("at_rest", [False, True])
def test_sensitivities_are_the_differences_of_the_cost(at_rest) -> None:
    system, K, root = stochastic()
    records = read_records(*with_noise(system, K, (50, 30), 0, root))
    start = tuple(M + 0.02 * draw(*M.shape, seed=k) for k, M in enumerate(_scaled(system, K)))

    def settled(matrices) -> engine.Point:
        """First states at the optimum for the covariance that they themselves give."""
        point = engine.predict(records, matrices, EYE, at_rest)
        for _ in range(25):
            point = engine.predict(records, matrices, point.weight, at_rest)
        return point

    point = settled(start)
    count = sum(M.numel() for M in start)
    units = torch.eye(count, dtype=torch.float64)
    local, taken = engine.linearise(records, point, units, at_rest)
    assert taken == (0 if at_rest else 6)
    gradient = 2 * local.R.T @ local.r
    for direction in draw(10, count, seed=11):
        costs = [settled(moved(start, s * 1e-6 * direction)).cost for s in (1, -1)]
        slope = (costs[0] - costs[1]) / 2e-6
        assert gradient @ direction.numpy() == pytest.approx(slope, rel=2e-6, abs=2e-5)


def _scaled(system: StateSpace, K: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return system.A, system.B, K, system.C, system.D


def test_pieces_of_a_record_are_joined(monkeypatch) -> None:
    system, K, root = stochastic()
    records = read_records(*with_noise(system, K, (70, 33), 0, root))
    point = engine.predict(records, _scaled(system, K), EYE, False)
    basis = tangent_complement(point.matrices, True, True)
    whole, _ = engine.linearise(records, point, basis, False)
    monkeypatch.setattr(engine, "ROWS", 16)
    parts, _ = engine.linearise(records, point, basis, False)
    normal = whole.R.T @ whole.R
    assert abs(parts.R.T @ parts.R - normal).max() < 1e-11 * abs(normal).max()


def test_coordinates_leave_out_similarities_alone() -> None:
    system, K, _ = stochastic()
    matrices = _scaled(system, K)
    basis = tangent_complement(matrices, True, True)
    n, m, p = 3, 2, 2
    assert basis.shape == (n * (n + m + 2 * p) + p * m, n * (m + 2 * p) + p * m)
    assert tangent_complement(matrices, False, False).shape[1] == n * (m + p)
    X = draw(n, n, seed=8)
    A, B, K, C, D = matrices
    along = torch.cat([M.flatten() for M in (A @ X - X @ A, -X @ B, -X @ K, C @ X, 0 * D)])
    assert (basis.mT @ along).abs().max() < 1e-12
    points = torch.polar(torch.ones(3), torch.tensor([0.2, 1.0, 2.5])).to(torch.complex128)
    G, J = response_sensitivity(matrices, points)
    assert (J @ along.to(J.dtype)).abs().max() < 1e-11
    step = 1e-6 * draw(len(along), seed=9)
    after, _ = response_sensitivity(moved(matrices, step), points)
    assert (after - G - J @ step.to(J.dtype)).abs().max() < 1e-9


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize(("n", "m", "p"), [(1, 1, 1), (4, 2, 1), (3, 1, 3)])
def test_noise_free_records_give_the_system_back(noise, n, m, p) -> None:
    system = stable(n, m, p, seed=n)
    us = [draw(T, m, seed=T) for T in (200, 30, 90)]
    ys = [simulate(system, u, draw(n, seed=k))[0] for k, u in enumerate(us)]
    noisy = [y + 0.05 * y.std(0) * draw(*y.shape, seed=77) for y in ys]
    start = identify(us, noisy, n)
    assert gap(start.system, system) > 1e-4
    found = refine(start.system, us, ys, noise=noise)
    assert found.converged, found.reason
    assert gap(found.system, system) < 1e-9
    assert found.fit.shape == (3, p)
    assert (found.fit > 100 - 1e-6).all()
    for u, y, x0 in zip(us, ys, found.x0, strict=True):
        assert (simulate(found.system, u, x0)[0] - y).abs().max() < 1e-8 * y.abs().max()
    rest = [simulate(system, u)[0] for u in us]
    again = refine(start.system, us, rest, noise=noise, at_rest=True)
    assert gap(again.system, system) < 1e-9
    assert not again.x0.any()


def test_spread_of_the_estimates_is_that_of_the_covariance() -> None:
    system, K, root = stochastic()
    w = torch.tensor([0.1, 0.9, 2.0, 3.0], dtype=torch.float64)
    true, seeds = frequency_response(system, w), 20
    ratios, at_poles, covariances = [], [], []
    for seed in range(seeds):
        us, ys = with_noise(system, K, (700, 60, 240), 1000 * seed, root)
        start = identify(us, ys, 3)
        found = refine(start, us, ys)
        assert found.converged, found.reason
        assert found.loss < float(torch.linalg.det(start.innovation_covariance))
        error = frequency_response(found.system, w) - true
        ratios.append((error.abs() / found.response_deviation(w)).square())
        at, deviation = found.pole_deviation()
        near = (at[:, None] - poles(system)).abs().amin(1)
        at_poles.append((near / deviation).square())
        covariances.append(found.innovation_covariance)
    # Of |z|² with E|z|² = 1 and a standard deviation of √2 at most, over 20 draws.
    mean = torch.stack(ratios).mean(0)
    assert (mean < 1 + 3.5 * (2 / seeds) ** 0.5).all()
    assert 0.75 < mean.mean() < 1.25
    assert 0.5 < torch.stack(at_poles).mean() < 1.6
    covariance = torch.stack(covariances).mean(0)
    assert torch.allclose(covariance, root @ root.mT, rtol=0.03, atol=0.005)


def test_the_gain_makes_better_predictions_and_white_errors() -> None:
    system, K, root = stochastic()
    us, ys = with_noise(system, K, (3000,), 5, root)
    found = refine(identify(us, ys, 3), us, ys)
    bare = refine(found.system, us, ys, noise=False)
    assert found.loss < bare.loss
    assert not bare.K.any()
    assert found.bic < bare.bic
    assert found.n_parameters == bare.n_parameters + 6 == 3 * (2 + 4) + 4
    (e,) = found.residuals
    correlation = torch.stack([e[k:].mT @ e[: len(e) - k] for k in range(1, 13)]) / len(e)
    root = torch.linalg.cholesky(found.innovation_covariance)
    left = torch.linalg.solve_triangular(root, correlation, upper=False)
    whitened = torch.linalg.solve_triangular(root.mT, left, upper=True, left=False)
    # The 99.9 % point of χ² with 12 · 4 degrees of freedom, from which estimation takes some.
    assert float(len(e) * whitened.square().sum()) < 84.0
    ahead = simulate(found.predictor, torch.cat((us[0], ys[0]), 1), found.x0[0])[0]
    assert (ys[0] - ahead - e).abs().max() < 1e-9
    noise = StateSpace(system.A, K, system.C, EYE, 1.0)
    assert gap(found.noise, noise) < 0.1


def test_units_and_coordinates_do_not_matter() -> None:
    system, K, root = stochastic()
    us, ys = with_noise(system, K, (400,), 2, root)
    start = identify(us, ys, 3)
    first = refine(start, us, ys, tolerance=1e-7)
    T = draw(3, 3, seed=5)
    other = refine(
        start.system.transform(T), us, ys, K=torch.linalg.solve(T, start.K), tolerance=1e-7
    )
    assert gap(other.system, first.system) < 1e-7
    scaled = refine(identify([1e3 * us[0]], [1e-4 * ys[0]], 3), 1e3 * us[0], 1e-4 * ys[0])
    w = torch.tensor([0.3, 2.0], dtype=torch.float64)
    big = scaled.response_deviation(w) * 1e7
    assert torch.allclose(big, first.response_deviation(w), rtol=1e-3)
    assert torch.allclose(scaled.fit, first.fit, atol=1e-3)


def test_a_series_without_inputs() -> None:
    system = card_system()
    K = torch.tensor([[0.3], [0.1], [0.2]], dtype=torch.float64)
    noise = StateSpace(system.A, K, system.C, [[1.0]], 1.0)
    y = simulate(noise, draw(3000, 1))[0]
    found = refine(identify(None, y, 3), None, y)
    assert found.converged
    assert gap(found.noise, noise) < 0.15
    assert found.loss == pytest.approx(float(draw(3000, 1).square().mean()), rel=0.01)


def test_poles_stay_within_the_radius() -> None:
    system = StateSpace([[0.98]], [[1.0]], [[1.0]], dt=1.0)
    u = draw(60, 1)
    y = simulate(system, u)[0] + draw(60, 1, seed=2)
    start = StateSpace([[0.8]], [[1.0]], [[1.0]], dt=1.0)
    held = refine(start, u, y, stability=0.9)
    assert poles(held.system).abs().max() < 0.9
    assert not held.converged
    assert "the bound of stability" in held.reason
    free = refine(start, u, y)
    assert poles(free.system).abs().max() > 0.9
    assert free.loss < held.loss
    fixed = refine(start, u, y, direct=False)
    assert not fixed.system.D.any()
    stopped = refine(start, u, y, iterations=0)
    assert not stopped.converged
    assert "0 iterations were not enough" in stopped.reason


def test_an_unstable_system_with_a_stable_predictor() -> None:
    system = StateSpace([[1.02]], [[1.0]], [[1.0]], dt=1.0)
    K = torch.tensor([[0.7]], dtype=torch.float64)
    us, ys = with_noise(system, K, (150, 100), 3, torch.eye(1, dtype=torch.float64))
    start = StateSpace([[1.0]], [[0.8]], [[1.0]], dt=1.0)
    found = refine(start, us, ys, K=[[0.5]])
    assert found.converged
    assert poles(found.system).real.item() == pytest.approx(1.02, abs=0.01)
    with pytest.raises(ValueError, match=r"the predictor A − K C .* spectral radius 1[;.]"):
        refine(start, us, ys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": "a model"}, r"start is 'a model'; a StateSpace or an estimate"),
        ({"start": stable(2, 1, 1, dt=None)}, r"one discrete real system"),
        ({"start": stable(2, 1, 1, batch=(2,))}, r"one discrete real system"),
        ({"start": stable(2, 2, 1)}, r"2 inputs and 1 outputs, the data 1 and 1"),
        ({"start": StateSpace.gain([[1.0]], 1.0)}, r"no states"),
        ({"start": []}, r"0 starts are given"),
        ({"start": [stable(2, 1, 1), stable(2, 1, 1, dt=0.5)]}, r"times: \[0.5, 1.0\]"),
        ({"start": [stable(2, 1, 1)] * 2, "K": [[0.0], [0.0]]}, r"2 starts .* for K just one"),
        ({"K": [[1.0]]}, r"K has shape \(1, 1\); 2 states and 1 outputs"),
        ({"K": [[0.0], [0.0]], "noise": False}, r"K is given and noise=False"),
        ({"stability": 1.5}, r"stability is 1.5"),
        ({"stability": 0.5}, r"A radius 0.9, with 0.5 allowed"),
        ({"u": torch.ones(5, 1), "y": torch.ones(5, 1)}, r"lengths \[5\] of 1 outputs are 5"),
        ({"u": torch.ones(50, 1)}, r"record 0 has 50 samples of u and 80 of y"),
    ],
)
def test_errors_say_what_was_given(change, words) -> None:
    given = {"start": stable(2, 1, 1), "u": draw(80, 1), "y": draw(80, 1, seed=1), **change}
    kind = TypeError if isinstance(given["start"], str) else ValueError
    with pytest.raises(kind, match=words):
        refine(given.pop("start"), given.pop("u"), given.pop("y"), **given)


def test_the_best_of_several_starts_is_kept() -> None:
    """Starts of both kinds, one after the other and together."""
    g = torch.Generator().manual_seed(3)
    steps = (torch.rand(40, 1, generator=g, dtype=torch.float64) > 0.5).double()
    u = steps.repeat_interleave(10, 0)
    model = PolynomialModel(a=(1.0, -1.6, 0.64), b=[(0.1, 0.05)], c=(1.0, 0.7), nk=(1,), dt=0.5)
    system, K = model.innovation_form
    noise = StateSpace(system.A, K, system.C, [[1.0]], 0.5)
    y = simulate(system, u)[0] + simulate(noise, 0.1 * draw(400, 1, seed=4))[0]
    first = identify(u, y, 2, dt=0.5)
    other = armax(u, y, 2, 2, 2, dt=0.5)
    alone = [refine(start, u, y) for start in (first, other)]
    both = refine([first, other], u, y)
    assert both.loss == min(found.loss for found in alone)
    assert both.system.dt == 0.5
    assert both.loss <= other.loss * (1 + 1e-9)
    again = refine(both, u, y)
    assert again.iterations <= 1
    assert again.loss == pytest.approx(both.loss, rel=1e-9)


def test_a_gain_too_large_does_not_trap_the_descent() -> None:
    """White noise on the output of a light damping: the best gain is nearly 0."""
    c, s = 0.99 * math.cos(0.2), 0.99 * math.sin(0.2)
    system = StateSpace([[c, s], [-s, c]], [[0.0], [1.0]], [[1.0, 0.0]], dt=1.0)
    u = draw(800, 1)
    y = simulate(system, u)[0] + 0.3 * draw(800, 1, seed=1)
    start = identify(u, y, 2)
    bare = refine(start, u, y, noise=False)
    assert bare.converged
    for K in (start.K, 3 * start.K):
        if torch.linalg.eigvals(start.system.A - K @ start.system.C).abs().max() < 1:
            found = refine(start.system, u, y, K=K)
            assert found.loss < bare.loss
            assert found.loss > 0.98 * bare.loss


def test_estimates_of_a_batch_are_refined_one_by_one() -> None:
    u, y = draw(2, 100, 1), draw(2, 100, 1, seed=3)
    batch = identify_batch(u, y, 1)
    with pytest.raises(ValueError, match="one discrete real system"):
        refine(batch, u[0], y[0])
    found = refine(batch.system[1], u[1], y[1], K=batch.K[1])
    assert found.system.n_states == 1
    assert "1 states" in repr(found)
