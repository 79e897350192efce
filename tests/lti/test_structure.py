"""Poles, zeros, staircases and minimal realisations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch
from lti_systems import card_system, same_map, stable

from statewise.lti import (
    StateSpace,
    ZeroPoleGain,
    append,
    controllability_matrix,
    controllable_staircase,
    from_zpk,
    is_stable,
    minimal_realisation,
    observability_matrix,
    poles,
    series,
    stack,
    to_zpk,
    transmission_zeros,
)


def in_order(roots: torch.Tensor) -> np.ndarray:
    return np.array(sorted(roots.tolist(), key=lambda z: (round(z.real, 6), z.imag)), complex)


def test_poles_and_stability() -> None:
    system = card_system()
    np.testing.assert_allclose(poles(system).abs().sort()[0], [0.7, 0.95, 0.95])
    assert is_stable(system)
    assert not is_stable(system, margin=0.06)
    both = stable(3, dt=None, batch=(2,))
    shift = torch.tensor([0.0, 2.0], dtype=torch.float64)[:, None, None] * torch.eye(3)
    moved = StateSpace(both.A + shift, both.B, both.C)
    assert is_stable(moved).tolist() == [True, False]


def test_zeros_of_a_square_system_are_generalised_eigenvalues() -> None:
    system = stable(5, 2, 2)
    A, B, C, D = (M.numpy() for M in system.matrices)
    pencil = scipy.linalg.eigvals(
        np.block([[A, B], [C, D]]), np.block([[np.eye(5), np.zeros((5, 2))], [np.zeros((2, 7))]])
    )
    expected = in_order(torch.as_tensor(pencil[np.isfinite(pencil)]))
    found = in_order(transmission_zeros(system))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    for z in found:
        assert np.linalg.svd(system(z).numpy())[1][-1] < 1e-9


@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_zeros_of_a_rectangular_system_drop_its_rank(shape) -> None:
    p, m = shape
    assert len(transmission_zeros(stable(6, m, p))) == 0
    common = StateSpace.gain(torch.eye(m), 1.0) if m < p else StateSpace.gain(torch.eye(p), 1.0)
    lag = from_zpk(ZeroPoleGain([0.4], [0.2], 1.0, 1.0))
    k = min(shape)
    filters = append(*[lag] * k) @ common
    inner = stable(4, m, p)
    system = series(filters, inner) if m < p else series(inner, filters)
    np.testing.assert_allclose(transmission_zeros(system), [0.4] * k, atol=1e-8)


def test_zeros_at_infinity_and_hidden_ones() -> None:
    integrators = StateSpace([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    assert len(transmission_zeros(integrators)) == 0
    hidden = StateSpace(torch.diag(torch.tensor([0.5, 0.3])), [[1.0], [0.0]], [[1.0, 1.0]], dt=1.0)
    np.testing.assert_allclose(transmission_zeros(hidden), [0.3], atol=1e-12)


def test_batches_are_worked_on_one_by_one() -> None:
    systems = stable(5, 2, 2, batch=(2, 3))
    found = transmission_zeros(systems)
    assert found.shape == (2, 3, 5)
    torch.testing.assert_close(found[1, 2], transmission_zeros(systems[1, 2]))
    lag, lead = (
        from_zpk(ZeroPoleGain([], [0.2, 0.1], 1.0, 1.0)),
        from_zpk(ZeroPoleGain([0.4, 0.7], [0.2, 0.1], 1.0, 1.0)),
    )
    both = transmission_zeros(stack([lag, lead]))
    assert both.shape == (2, 2)
    assert both[0].isnan().all()
    np.testing.assert_allclose(in_order(both[1]), [0.4, 0.7], atol=1e-12)
    doubled = series(systems, StateSpace.gain(torch.eye(2), 1.0)) + systems
    small = minimal_realisation(doubled, tolerance=1e-9)
    assert small.batch_shape == (2, 3)
    assert small.n_states == 5
    same_map(small, doubled)
    with pytest.raises(ValueError, match=r"minimal realisations of \[1, 2\] states"):
        minimal_realisation(stack([lead, from_zpk(ZeroPoleGain([0.4], [0.4, 0.1], 1.0, 1.0))]))
    with pytest.raises(ValueError, match=r"batch of shape \(0,\) holds no system"):
        transmission_zeros(stable(2, batch=(0,)))


def test_zeros_poles_and_gain_round_trip() -> None:
    zeros, where, gain = scipy.signal.ellip(7, 0.5, 40, 0.3, output="zpk")
    form = to_zpk(from_zpk(ZeroPoleGain(zeros, where, gain, 1.0)))
    np.testing.assert_allclose(in_order(form.zeros), in_order(torch.as_tensor(zeros)), atol=1e-8)
    np.testing.assert_allclose(in_order(form.poles), in_order(torch.as_tensor(where)), atol=1e-10)
    np.testing.assert_allclose(form.gain, gain, rtol=1e-10)
    lag = to_zpk(from_zpk(ZeroPoleGain([2.0], [-1.0, -2.0, -3.0], 5.0)))
    np.testing.assert_allclose(lag.zeros, [2.0], atol=1e-12)
    assert abs(lag.gain.item() - 5) < 1e-12
    with pytest.raises(ValueError, match="select"):
        to_zpk(stable(3))
    with pytest.raises(ValueError, match="is 0"):
        to_zpk(StateSpace([[0.5]], [[0.0]], [[1.0]]))


def test_reachable_states() -> None:
    system = stable(4)
    A, B, C = (M.numpy() for M in (system.A, system.B, system.C))
    expected = np.hstack([np.linalg.matrix_power(A, k) @ B for k in range(4)])
    np.testing.assert_allclose(controllability_matrix(system), expected, atol=1e-13)
    expected = np.vstack([C @ np.linalg.matrix_power(A, k) for k in range(6)])
    np.testing.assert_allclose(observability_matrix(system, 6), expected, atol=1e-13)


def padded(seed: int, dt: float | None, complex_valued: bool = False) -> StateSpace:
    """Five states that matter among two that no input reaches and two that no output shows."""
    core = stable(5, seed=seed, dt=dt, complex_valued=complex_valued)
    n, kind = 9, core.dtype
    rng = torch.Generator().manual_seed(seed)
    A = torch.zeros(n, n, dtype=kind)
    A[:5, :5] = core.A
    A[5:7, 5:7] = torch.diag(torch.tensor([0.3, -0.2], dtype=kind))
    A[7:, 7:] = torch.diag(torch.tensor([0.25, -0.5], dtype=kind))
    A[:5, 5:7] = torch.randn(5, 2, dtype=kind, generator=rng)
    A[7:, :5] = torch.randn(2, 5, dtype=kind, generator=rng)
    B = torch.cat((core.B, torch.zeros(2, 2, dtype=kind), torch.ones(2, 2, dtype=kind)))
    C = torch.cat((core.C, torch.ones(3, 2, dtype=kind), torch.zeros(3, 2, dtype=kind)), 1)
    turn = torch.linalg.qr(torch.randn(n, n, dtype=kind, generator=rng))[0]
    return StateSpace(A, B, C, core.D, dt).transform(turn)


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_a_minimal_realisation_drops_hidden_states(dt, complex_valued) -> None:
    system = padded(3, dt, complex_valued)
    stairs = controllable_staircase(system)
    assert sum(stairs.sizes) == 7
    same_map(stairs.system, system, 1e-12)
    assert stairs.system.B[7:].abs().max() < 1e-12
    assert stairs.system.A[7:, :7].abs().max() < 1e-12
    assert sum(controllable_staircase(system.dual()).sizes) == 7
    small = minimal_realisation(system)
    assert small.n_states == 5
    same_map(small, system)
    full = stable(5, seed=3)
    assert minimal_realisation(full).n_states == 5


@pytest.mark.parametrize("size", [1e-25, 1e20])
@pytest.mark.parametrize("dt", [None, 1.0])
def test_ranks_do_not_hang_on_units(dt, size) -> None:
    system = padded(3, dt)
    A, B, C, D = system.matrices
    expected = in_order(transmission_zeros(system.select([0, 1])))
    for into, out in ((size, 1.0), (1.0, size), (size, size)):
        changed = StateSpace(A, into * B, out * C, into * out * D, dt)
        assert minimal_realisation(changed).n_states == 5
        found = in_order(transmission_zeros(changed.select([0, 1])))
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    # Another unit of time.
    if dt is None:
        slow = StateSpace(size * A, size * B, C, D)
        assert minimal_realisation(slow).n_states == 5
        found = in_order(transmission_zeros(slow.select([0, 1])) / size)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def test_nothing_reached() -> None:
    still = StateSpace(torch.eye(2), torch.zeros(2, 1), torch.ones(1, 2), [[3.0]])
    assert controllable_staircase(still).sizes == ()
    small = minimal_realisation(still)
    assert small.n_states == 0
    assert small(1.5).item() == 3
