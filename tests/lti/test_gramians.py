"""Gramians and Hankel singular values against sums, long Hankel matrices and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lti_systems import card_system, stable

from statewise.lti import (
    Bilinear,
    DiagonalForm,
    StateSpace,
    controllability_factor,
    controllability_gramian,
    from_diagonal,
    hankel_singular_values,
    markov_parameters,
    observability_factor,
    observability_gramian,
    to_diagonal,
    to_discrete,
)


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("method", ["auto", "schur", "doubling"])
def test_gramians_solve_their_equations(dt, complex_valued, method) -> None:
    system = stable(6, dt=dt, batch=(2,), complex_valued=complex_valued)
    A, B, C, _ = system.matrices
    P, residual = controllability_gramian(system, method=method)
    Q, other = observability_gramian(system, method=method)
    assert max(residual.max(), other.max()) < 1e-13
    if dt is None:
        rests = A @ P + P @ A.mH + B @ B.mH, A.mH @ Q + Q @ A + C.mH @ C
    else:
        rests = A @ P @ A.mH - P + B @ B.mH, A.mH @ Q @ A - Q + C.mH @ C
    assert rests[0].norm() <= 1e-12 * P.norm()
    assert rests[1].norm() <= 1e-12 * Q.norm()
    for X, L in ((P, controllability_factor(system)), (Q, observability_factor(system))):
        assert ((L @ L.mH - X).norm() / X.norm()) < 1e-12
        assert torch.linalg.eigvalsh((X + X.mH) / 2).min() > 0


def test_a_gramian_is_the_sum_over_its_pulse_response() -> None:
    system = stable(5, radius=0.7)
    states = StateSpace(system.A, system.B, torch.eye(5), dt=1.0)
    pulses = markov_parameters(states, 200)
    expected = (pulses @ pulses.mT).sum(0)
    torch.testing.assert_close(controllability_gramian(system).X, expected)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_hankel_values_are_those_of_the_long_hankel_matrix(complex_valued) -> None:
    system = stable(6, radius=0.85, complex_valued=complex_valued)
    pulses = markov_parameters(system, 321)[1:]
    rows = torch.arange(160)
    hankel = pulses[rows[:, None] + rows].movedim(2, 1).reshape(160 * 3, 160 * 2)
    expected = torch.linalg.svdvals(hankel)[:6]
    torch.testing.assert_close(hankel_singular_values(system), expected, rtol=1e-10, atol=1e-12)


def test_hankel_values_of_the_reference_system() -> None:
    expected = torch.tensor([6.5526, 5.1437, 0.6344], dtype=torch.float64)
    found = hankel_singular_values(card_system())
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)


def test_small_hankel_values_keep_their_digits() -> None:
    lags = torch.arange(1, 9, dtype=torch.float64)
    system = StateSpace(torch.diag(-lags), torch.ones(8, 1), torch.ones(1, 8))
    # P_ij = Q_ij = 1/(i + j), so the values are the eigenvalues of this matrix.
    exact = np.linalg.svd(1 / (lags[:, None] + lags).numpy())[1]
    found = hankel_singular_values(system).numpy()
    assert exact[0] / exact[-1] > 1e9
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    np.testing.assert_allclose(found[:6], exact[:6], rtol=1e-8)


@pytest.mark.parametrize("dt", [None, 1.0])
def test_values_do_not_depend_on_the_states_or_the_map_of_time(dt) -> None:
    system = stable(5, dt=dt)
    T = torch.eye(5) + 0.3 * torch.arange(25.0).reshape(5, 5).cos()
    expected = hankel_singular_values(system)
    torch.testing.assert_close(hankel_singular_values(system.transform(T)), expected)
    if dt is None:
        mapped = to_discrete(system, 0.7, Bilinear())
        torch.testing.assert_close(hankel_singular_values(mapped), expected)


def test_modes_have_closed_form_gramians() -> None:
    form = to_diagonal(stable(6), half=True).completed()
    P = controllability_gramian(from_diagonal(form, real=False)).X
    gain = form.B @ form.B.mH
    expected = gain / (1 - form.poles[:, None] * form.poles.conj())
    torch.testing.assert_close(P, expected, rtol=1e-14, atol=0)
    assert isinstance(form, DiagonalForm)
    torch.testing.assert_close(
        hankel_singular_values(from_diagonal(form, real=False))[:6],
        hankel_singular_values(stable(6)),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_hankel_values_have_gradients(dt, complex_valued) -> None:
    base = stable(3, dt=dt, complex_valued=complex_valued)

    def values(A, B, C):
        return hankel_singular_values(StateSpace(A, B, C, base.D, dt))

    inputs = [M.clone().requires_grad_() for M in (base.A, base.B, base.C)]
    assert torch.autograd.gradcheck(values, inputs)


def test_an_unstable_system_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one is at"):
        hankel_singular_values(stable(3, radius=1.2))
    with pytest.raises(ValueError, match="imaginary axis"):
        controllability_gramian(stable(3, dt=None, radius=1.2))
