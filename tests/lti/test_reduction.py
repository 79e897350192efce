"""Reduced systems: bounds on grids, what each method keeps, and optimality."""

from __future__ import annotations

import math

import pytest
import torch
from lti_systems import card_system, same_map, stable

from statewise.lti import (
    StateSpace,
    ZeroPoleGain,
    balanced_realisation,
    balanced_truncation,
    controllability_gramian,
    dc_gain,
    frequency_response,
    from_zpk,
    h2_norm,
    h2_reduction,
    hankel_singular_values,
    hinf_norm,
    is_stable,
    modal_truncation,
    observability_gramian,
    poles,
    series,
    singular_perturbation,
    weighted_truncation,
)


def error(system: StateSpace, reduced: StateSpace) -> float:
    """The largest gain of the difference on a dense grid."""
    end = 30.0 if system.dt is None else math.pi / system.dt
    w = torch.linspace(-end, end, 8001, dtype=torch.float64)
    gap = frequency_response(system, w) - frequency_response(reduced, w)
    return torch.linalg.matrix_norm(gap, 2).max().item()


@pytest.mark.parametrize("dt", [None, 0.5])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_a_balanced_realisation_has_equal_diagonal_gramians(dt, complex_valued) -> None:
    system = stable(6, dt=dt, batch=(2,), complex_valued=complex_valued)
    balanced = balanced_realisation(system)
    same_map(balanced.system, system)
    expected = torch.diag_embed(hankel_singular_values(system)).to(system.dtype)
    for gramian in (controllability_gramian, observability_gramian):
        torch.testing.assert_close(gramian(balanced.system).X, expected, rtol=1e-10, atol=1e-10)
    eye = torch.eye(6, dtype=system.dtype).expand(2, 6, 6)
    torch.testing.assert_close(balanced.left @ balanced.right, eye, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dt", [None, 0.5])
@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("method", [balanced_truncation, singular_perturbation])
@pytest.mark.parametrize("order", [0, 1, 3, 6])
def test_bounds_hold_on_a_grid(dt, complex_valued, method, order) -> None:
    system = stable(8, dt=dt, complex_valued=complex_valued)
    found = method(system, order)
    assert found.system.n_states == order
    assert is_stable(found.system)
    gap = error(system, found.system)
    assert gap <= found.bound
    certified = hinf_norm(system - found.system)
    assert found.values[order] <= certified.upper
    assert certified.lower <= found.bound * (1 + 1e-10)
    torch.testing.assert_close(found.bound, 2 * found.values[order:].sum())


def test_the_reference_system() -> None:
    two, one = (balanced_truncation(card_system(), r) for r in (2, 1))
    assert abs(hinf_norm(card_system() - two.system).lower.item() - 1.0765) < 5e-5
    assert abs(hinf_norm(card_system() - one.system).lower.item() - 10.241) < 5e-4
    assert abs(two.bound.item() - 1.2689) < 5e-5
    assert abs(one.bound.item() - 11.556) < 5e-4


def test_the_least_order_within_a_tolerance() -> None:
    system = stable(8, batch=(3,), radius=0.8)
    limit = 2 * hankel_singular_values(system)[:, 5:].sum(-1).max().item()
    limit *= 1 + 1e-12
    found = balanced_truncation(system, tolerance=limit)
    assert found.system.n_states == 5
    assert limit * (1 - 1e-11) <= found.bound.max() <= limit
    assert balanced_truncation(system, tolerance=1e9).system.n_states == 0


def test_hidden_states_are_left_out() -> None:
    core = stable(4)
    wide = series(core, StateSpace.gain(torch.eye(3), dt=1.0)) + 0 * stable(3, seed=8)
    found = balanced_realisation(wide)
    assert found.system.n_states == 4
    same_map(found.system, core)


@pytest.mark.parametrize("dt", [None, 0.5])
def test_singular_perturbation_keeps_the_constant_gain(dt) -> None:
    system = stable(7, dt=dt, batch=(2,))
    found = singular_perturbation(system, 3)
    torch.testing.assert_close(dc_gain(found.system), dc_gain(system))
    truncated = balanced_truncation(system, 3)
    assert (dc_gain(truncated.system) - dc_gain(system)).abs().max() > 1e-3


@pytest.mark.parametrize("dt", [None, 0.5])
@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("match_dc", [False, True])
def test_modal_truncation_keeps_poles(dt, complex_valued, match_dc) -> None:
    system = stable(8, dt=dt, complex_valued=complex_valued)
    found = modal_truncation(system, 5, match_dc=match_dc)
    assert 4 <= found.system.n_states <= 5
    assert found.system.is_complex is complex_valued
    gap = (poles(found.system)[:, None] - poles(system)).abs().amin(1)
    assert gap.max() < 1e-12
    assert error(system, found.system) <= found.bound
    if match_dc:
        torch.testing.assert_close(dc_gain(found.system), dc_gain(system))
    same_map(modal_truncation(system, 8).system, system)


def test_weights_shift_the_error_away() -> None:
    system = stable(8, 1, 1, seed=4)
    low = from_zpk(ZeroPoleGain([-1.0, -1.0], [0.9, 0.85], 0.01, dt=1.0))
    plain, heavy = balanced_truncation(system, 3), weighted_truncation(system, 3, input_weight=low)
    both = weighted_truncation(system, 3, input_weight=low, output_weight=low)
    w = torch.linspace(0, 0.1, 50, dtype=torch.float64)

    def gap(found) -> float:
        rest = frequency_response(system, w) - frequency_response(found.system, w)
        return rest.abs().max().item()

    assert gap(heavy) < 0.5 * gap(plain)
    assert gap(both) < 0.5 * gap(plain)
    assert heavy.bound is None
    unit = StateSpace.gain([[1.0]], dt=1.0)
    same = weighted_truncation(system, 3, input_weight=unit, output_weight=unit)
    same_map(same.system, plain.system)


@pytest.mark.parametrize("dt", [None, 0.5])
@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_h2_optimal_systems_interpolate(dt, complex_valued, channels) -> None:
    system = stable(8, *channels, dt=dt, complex_valued=complex_valued, seed=1)
    found = h2_reduction(system, 4, iterations=400, tolerance=1e-10)
    assert found.converged
    assert found.error <= found.start_error
    rest = system - found.system
    torch.testing.assert_close(
        found.error, h2_norm(StateSpace(rest.A, rest.B, rest.C, dt=dt)), rtol=1e-6, atol=0
    )
    at, X = torch.linalg.eig(found.system.A)
    into = torch.linalg.solve(X, found.system.B.to(X.dtype)).conj()
    out = (found.system.C.to(X.dtype) @ X).conj()
    for pole, b, c in zip(at, into, out.mT, strict=True):
        point = -pole.conj() if dt is None else 1 / pole.conj()
        G, Gr = system(point), found.system(point)
        scale = G.abs().max()
        assert ((G - Gr) @ b).abs().max() < 1e-6 * scale * b.norm()
        assert (c @ (G - Gr)).abs().max() < 1e-6 * scale * c.norm()


def test_a_full_order_is_the_system() -> None:
    system = stable(4)
    found = h2_reduction(system, 4)
    assert found.converged
    assert found.error < 1e-10
    assert h2_reduction(system, 0).system.n_states == 0


def test_a_batch_is_reduced_system_by_system() -> None:
    systems = stable(5, batch=(2, 2))
    found = h2_reduction(systems, 2)
    assert found.system.batch_shape == found.error.shape == found.converged.shape == (2, 2)
    assert found.values.shape == (2, 2, 5)
    one = h2_reduction(systems[1, 0], 2)
    same_map(found.system[1, 0], one.system)
    assert found.error[1, 0] == one.error
    assert found.iterations[1, 0] == one.iterations


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: balanced_truncation(stable(3), 4), "needs 0 to 3"),
        (lambda: balanced_truncation(stable(3)), "one of order and tolerance"),
        (lambda: balanced_truncation(stable(3), 1, tolerance=1.0), "one of order and tolerance"),
        (lambda: balanced_truncation(stable(3), tolerance=-1.0), "negative"),
        (lambda: balanced_truncation(stable(3, radius=1.1), 1), "stable system"),
        (lambda: modal_truncation(stable(3, radius=1.1), 1), "stable system"),
        (lambda: modal_truncation(stable(3, batch=(2,)), 1), "one system"),
        (lambda: h2_reduction(stable(3, radius=1.1), 1), "stable system"),
    ],
)
def test_what_cannot_be_reduced_is_refused(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_h2_reduction_of_what_has_too_few_directions() -> None:
    # Poles that agree to rounding: order 1 is exact, whose error is rounding too.
    poles = torch.tensor([0.5, 0.5 + 1e-9, 0.5 - 1e-9], dtype=torch.float64)
    near = StateSpace(torch.diag(poles), torch.ones(3, 1), torch.tensor([[1.0, 2.0, 3.0]]), dt=1.0)
    for order in (1, 2, 3):
        found = h2_reduction(near, order)
        assert found.converged
        assert found.error <= 1e-6 * h2_norm(near)
    # A pure delay, whose balanced states are all worth the same.
    shift = torch.diag(torch.ones(3, dtype=torch.float64), -1)
    eye = torch.eye(4, dtype=torch.float64)
    delay = StateSpace(shift, eye[:, :1], eye[3:], dt=1.0)
    for order in range(4):
        found = h2_reduction(delay, order)
        assert found.error <= found.start_error
