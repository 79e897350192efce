"""Compiled sums over many series equal the tensor code that they stand for."""

from __future__ import annotations

import pytest
import torch
from lti_systems import stable

from statewise.lti import CVA, StateSpace, identify_batch, markov_parameters, simulate
from statewise.lti import _hankel as hankel
from statewise.lti import _lanes as lanes
from statewise.lti import _projections as projections
from statewise.lti._output_fit import fit_outputs, innovations, simulation_rests
from statewise.lti.riccati import discrete_riccati

SHAPES = [(1, 1, 1, 3, 61), (2, 1, 1, 9, 200), (4, 2, 3, 8, 157), (3, 0, 2, 11, 120)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(n: int, m: int, p: int, count: int, length: int) -> tuple[hankel.Records, StateSpace]:
    system = stable(n, m, p, seed=n, batch=(count,))
    u = draw(count, length, m, seed=1)
    y = simulate(system, u, draw(count, n, seed=2))[0] if m else draw(count, length, p, seed=4)
    return hankel.read_batch(u if m else None, y + 0.1 * draw(*y.shape, seed=3)), system


def compiled(records: hankel.Records) -> lanes.Lanes:
    found = lanes.lanes_of(records)
    assert found is not None
    return found


@pytest.mark.parametrize(("n", "m", "p", "count", "length"), SHAPES)
def test_gram_matrix_of_windows(n, m, p, count, length) -> None:
    records, _ = batch(n, m, p, count, length)
    for past, future in ((3, 3), (1, 4), (5, 2)):
        layout = hankel.Layout(past, future, m, p)
        found = lanes.window_gram(compiled(records), layout)
        triangular = hankel.triangular_factor(records, layout, "qr")
        windows = length - past - future + 1
        expected = triangular.mT @ triangular * windows
        assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("n", "m", "p", "count", "length"), SHAPES)
def test_fit_of_simulations_and_powers_of_errors(n, m, p, count, length, direct) -> None:
    records, system = batch(n, m, p, count, length)
    A, C = system.A, system.C
    ran = fit_outputs(records, A, C, None, direct)
    found = lanes.fit_simulation(compiled(records), A, C, direct)
    assert found.sound.all()
    for name in ("B", "D"):
        expected = getattr(ran, name)
        assert getattr(found, name).shape == expected.shape
        assert torch.allclose(getattr(found, name), expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(found.x0, ran.x0[0], rtol=1e-9, atol=1e-9)
    K = 0.1 * draw(count, n, p, seed=7)
    given = (A, ran.B, C, ran.D)
    power, ahead = lanes.rest_powers(compiled(records), *given, K, ran.x0[0])
    rests = simulation_rests(records, *given, ran.x0)[0]
    errors = innovations(records, *given, K, ran.x0)[0]
    assert torch.allclose(power, rests.square().sum(1), rtol=1e-11)
    assert torch.allclose(ahead, errors.mT @ errors, rtol=1e-11, atol=1e-11)


def test_dependent_columns_are_not_sound() -> None:
    records, system = batch(2, 1, 1, 9, 200)
    A = system.A.clone()
    # A state that no output shows has columns of zeros, and two equal states equal columns.
    A[3] = torch.diag(torch.tensor([0.5, 0.5], dtype=torch.float64))
    found = lanes.fit_simulation(compiled(records), A, system.C, True)
    assert not found.sound[3]
    assert found.sound.sum() == 8


@pytest.mark.parametrize(("n", "p"), [(1, 1), (4, 1), (5, 3)])
def test_gains_solve_the_riccati_equation(n, p) -> None:
    system = stable(n, 1, p, seed=5, batch=(12,), radius=0.95)
    noise = draw(12, n + p, n + p, seed=6)
    covariance = noise @ noise.mT
    Q, S, R = covariance[:, :n, :n], covariance[:, :n, n:], covariance[:, n:, n:]
    found = lanes.compiled_gains(system.A, system.C, Q, R, S, 60)
    assert found is not None
    gains, settled = found
    assert settled.all()
    for k in range(12):
        one = discrete_riccati(system.A[k].mT, system.C[k].mT, Q[k], R[k], S[k], method="scipy")
        assert torch.allclose(gains[k], one.gain.mT, rtol=1e-9, atol=1e-9)


def test_one_system_without_a_gain_does_not_spoil_the_others() -> None:
    system = stable(2, 1, 1, seed=1, batch=(6,))
    A, C = system.A.clone(), system.C.clone()
    # Unstable and unseen: no gain can hold it.
    A[2], C[2] = torch.diag(torch.tensor([1.2, 0.5], dtype=torch.float64)), 0.0
    covariance = torch.eye(3, dtype=torch.float64).expand(6, 3, 3)
    gains = projections.kalman_gain(A, C, covariance)
    assert gains.isfinite().all()
    for k in (0, 1, 3, 4, 5):
        alone = projections.kalman_gain(A[k : k + 1], C[k : k + 1], covariance[:1])[0]
        assert torch.allclose(gains[k], alone, rtol=1e-9, atol=1e-12)


def test_whitening_of_regular_and_singular_factors() -> None:
    full = torch.linalg.qr(draw(3, 20, 4), mode="r").R
    # The second has rank 2.
    low = torch.linalg.qr(draw(3, 20, 2) @ draw(3, 2, 4, seed=1), mode="r").R
    for R, rank in ((full, 4), (low, 2)):
        weight, back = projections._whitening(R)
        white = R @ weight
        gram = white.mT @ white
        values = torch.linalg.eigvalsh(gram)
        expected = torch.tensor([0.0] * (4 - rank) + [1.0] * rank, dtype=torch.float64)
        assert (values - expected).abs().max() < 1e-12
        assert (R.mT @ white - back).abs().max() < 1e-12 * R.abs().max()


def test_digits_of_series_without_noise() -> None:
    system = stable(4, 1, 1, seed=3, batch=(9,))
    u = draw(9, 600, 1, seed=1)
    y = simulate(system, u)[0]
    true = markov_parameters(system, 20)
    gaps = {}
    for factor in ("auto", "qr"):
        found = identify_batch(u, y, 4, weighting=CVA, factor=factor)
        gap = markov_parameters(found.system, 20) - true
        gaps[factor] = float((gap.abs().amax((0, 2, 3)) / true.abs().amax((0, 2, 3))).max())
    assert gaps["auto"] < 1e-11
    assert gaps["qr"] < 1e-12


def test_threads_change_nothing(monkeypatch) -> None:
    records, _ = batch(3, 1, 1, 50, 900)
    u, y = records.u[0], records.y[0]
    one = identify_batch(u, y, 3)
    monkeypatch.setenv("STATEWISE_THREADS", "3")
    three = identify_batch(u, y, 3)
    assert torch.equal(one.system.A, three.system.A)
    assert torch.equal(one.system.B, three.system.B)
    assert torch.equal(one.K, three.K)


def test_without_compiled_code(monkeypatch) -> None:
    records, _ = batch(3, 2, 2, 9, 300)
    u, y = records.u[0], records.y[0]
    fast = identify_batch(u, y, 3)
    monkeypatch.setattr("statewise.ops.arrays.refuses_cpu", lambda op, device: "no compiler")
    assert lanes.lanes_of(records) is None
    slow = identify_batch(u, y, 3)
    first, second = (markov_parameters(each.system, 20) for each in (fast, slow))
    assert (first - second).abs().max() < 1e-8 * second.abs().max()
    assert torch.allclose(fast.fit, slow.fit, atol=1e-8)
    assert torch.allclose(fast.K, slow.K, atol=1e-8)
