"""Realisations of one map: updated, diagonal, partial fractions, DPLR, polynomials, zeros."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from lti_systems import card_system, points, same_map, stable, values

from statewise.lti import (
    DiagonalForm,
    DiagonalPlusLowRank,
    HiPPO,
    LegS,
    PoleResidue,
    StateSpace,
    TransferFunction,
    UpdatedForm,
    ZeroPoleGain,
    dplr,
    from_diagonal,
    from_dplr,
    from_pole_residue,
    from_transfer_function,
    from_updated,
    from_zpk,
    to_diagonal,
    to_dplr,
    to_pole_residue,
    to_transfer_function,
    to_updated,
    zpk_to_transfer_function,
)


def run_updated(form: UpdatedForm, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    outputs = []
    for v in u:
        x = form.A @ x + form.B @ v
        outputs.append(form.C @ x + form.D @ v)
    return torch.stack(outputs)


def run_textbook(system: StateSpace, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    outputs = []
    for v in u:
        outputs.append(system.C @ x + system.D @ v)
        x = system.A @ x + system.B @ v
    return torch.stack(outputs)


def test_updated_outputs_are_those_of_the_textbook_form() -> None:
    system = stable(4)
    u = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = torch.ones(4, dtype=torch.float64)
    expected = run_textbook(system, u, start)
    torch.testing.assert_close(run_updated(to_updated(system), u, start), expected)
    wide = to_updated(system, augment=True)
    beginning = torch.cat((start, torch.zeros(3, dtype=torch.float64)))
    torch.testing.assert_close(run_updated(wide, u, beginning), expected, rtol=0, atol=1e-13)
    back = from_updated(to_updated(system))
    for name in "ABCD":
        torch.testing.assert_close(
            getattr(back, name), getattr(system, name), rtol=1e-11, atol=1e-12
        )
    same_map(from_updated(wide), system, 1e-13)


def test_a_singular_system_needs_a_wider_updated_form() -> None:
    delay = StateSpace([[0.0, 0.0], [1.0, 0.0]], [[1.0], [0.0]], [[0.0, 1.0]], dt=1.0)
    with pytest.raises(ValueError, match="augment=True"):
        to_updated(delay)
    same_map(from_updated(to_updated(delay, augment=True)), delay, 1e-15)
    with pytest.raises(ValueError, match="discrete time"):
        to_updated(stable(2, dt=None))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dt", [None, 0.5])
def test_diagonal_round_trip(half, dt) -> None:
    system = stable(7, dt=dt)
    form = to_diagonal(system, half=half)
    assert form.half is half
    same_map(from_diagonal(form), system)
    same_map(from_diagonal(form, real=True), system)
    same_map(from_diagonal(form.completed(), real=False), system)
    assert from_diagonal(form, real=True).n_states == 7


def test_half_forms_of_a_batch_share_their_size() -> None:
    turn = torch.tensor([[0.3, -0.5], [0.5, 0.3]], dtype=torch.float64)
    B, C = torch.ones(2, 1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    even = StateSpace(torch.stack((turn, turn.mT / 2)), B, C, dt=1.0)
    form = to_diagonal(even, half=True)
    assert form.poles.shape == (2, 1)
    same_map(from_diagonal(form), even)
    mixed = StateSpace(torch.stack((turn, torch.diag(turn.new_tensor([0.4, 0.2])))), B, C, dt=1.0)
    form = to_diagonal(mixed, half=True)
    assert form.poles.shape == (2, 2)
    same_map(from_diagonal(form), mixed)
    same_map(from_pole_residue(to_pole_residue(mixed)), mixed)
    with pytest.raises(ValueError, match="complex"):
        to_diagonal(stable(2, complex_valued=True), half=True)
    with pytest.raises(ValueError, match="conjugate pairs"):
        from_diagonal(to_diagonal(stable(2, complex_valued=True)), real=True)


def test_a_half_form_means_the_real_part_of_complex_states() -> None:
    g = torch.Generator().manual_seed(3)
    poles, B, C = (
        torch.randn(*shape, dtype=torch.complex128, generator=g) for shape in ((3,), (3, 2), (1, 3))
    )
    form = DiagonalForm(poles / 4, B, C, torch.zeros(1, 2, dtype=torch.float64), 1.0, half=True)
    x, u = (
        torch.zeros(3, dtype=torch.complex128),
        torch.randn(30, 2, dtype=torch.float64, generator=g),
    )
    expected = []
    for v in u:
        expected.append((C @ x).real)
        x = poles / 4 * x + B @ v.to(B.dtype)
    real = from_diagonal(form)
    assert real.n_states == 6
    start = torch.zeros(6, dtype=torch.float64)
    torch.testing.assert_close(run_textbook(real, u, start), torch.stack(expected))


def test_a_defective_matrix_has_no_diagonal_form() -> None:
    jordan = StateSpace([[0.5, 1.0], [0.0, 0.5]], [[0.0], [1.0]], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="defective"):
        to_diagonal(jordan)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_partial_fractions_round_trip(complex_valued) -> None:
    system = stable(6, batch=(2,), complex_valued=complex_valued, seed=4)
    form = to_pole_residue(system)
    same_map(form, system)
    back = from_pole_residue(form, real=not complex_valued)
    assert from_pole_residue(to_pole_residue(system[0]), real=not complex_valued).n_states == 6
    assert back.is_complex is complex_valued
    same_map(back, system)


def test_a_residue_of_rank_two_needs_two_states() -> None:
    residues = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]]).to(
        torch.complex128
    )
    poles = torch.tensor([0.5, -0.3], dtype=torch.complex128)
    form = PoleResidue(poles, residues, torch.zeros(2, 2, dtype=torch.float64), 1.0)
    system = from_pole_residue(form)
    assert system.n_states == 3
    same_map(system, form, 1e-14)


def test_partial_fractions_are_those_of_scipy() -> None:
    num, den = [1.0, 3.0, 5.0], [1.0, 6.0, 11.0, 6.0]
    residues, poles, _ = scipy.signal.residue(num, den)
    form = to_pole_residue(from_transfer_function(TransferFunction(num, den)))
    order, expected = form.poles.real.argsort(), np.argsort(poles.real)
    torch.testing.assert_close(
        form.poles[order], torch.as_tensor(poles[expected], dtype=torch.complex128)
    )
    found = form.residues[order, 0, 0]
    torch.testing.assert_close(found, torch.as_tensor(residues[expected], dtype=torch.complex128))


def test_diagonal_plus_low_rank_round_trip() -> None:
    measure: HiPPO = LegS()
    A, b = (torch.as_tensor(x) for x in measure.operator(8))
    P = torch.as_tensor(measure.factor(8))
    system = StateSpace(A, b.reshape(8, 1), torch.ones(1, 8))
    form = to_dplr(system, P)
    same_map(from_dplr(form), system, 1e-12)
    with pytest.raises(ValueError, match="skew"):
        to_dplr(system, 2 * P)
    half = dplr(measure, 8)
    V, p = torch.as_tensor(half.vectors), torch.as_tensor(half.p).mT
    small = DiagonalPlusLowRank(
        torch.as_tensor(half.poles),
        p,
        p,
        torch.as_tensor(half.b)[:, None],
        2 * system.C.to(V.dtype) @ V,
        system.D,
        half=True,
    )
    back = from_dplr(small)
    assert not back.is_complex
    assert back.n_states == 8
    same_map(back, system, 1e-12)


@pytest.mark.parametrize("dt", [None, 0.2])
def test_transfer_function_round_trip(dt) -> None:
    system = stable(5, m=2, p=2, dt=dt, batch=(3,))
    function = to_transfer_function(system)
    same_map(function, system)
    back = from_transfer_function(function)
    assert back.n_states == 10
    assert back.dt == dt
    same_map(back, system)


def test_entries_may_have_denominators_of_different_degrees() -> None:
    num = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 1.0, 2.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]]])
    den = torch.tensor([[[0.0, 1.0, 0.5], [1.0, 0.3, 0.1]], [[2.0, 0.1, 0.3], [0.0, 0.0, 2.0]]])
    function = TransferFunction(num.double(), den.double(), dt=1.0)
    system = from_transfer_function(function)
    assert system.n_states == 1 + 2 + 2 + 0
    same_map(system, function, 1e-14)


@given(st.integers(0, 6), st.integers(0, 10_000))
def test_companion_forms_agree_with_scipy(order: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num, den = rng.normal(size=order + 1), np.append(1 + rng.random(), rng.normal(size=order))
    system = from_transfer_function(TransferFunction(num, den))
    s = 0.7 + 1.3j
    expected = np.polyval(num, s) / np.polyval(den, s)
    assert abs(system(s).item() - expected) <= 1e-10 * max(1, abs(expected))
    back = to_transfer_function(system)
    scale = np.abs(den).max() / den[0]
    np.testing.assert_allclose(back.den[0, 0], den / den[0], rtol=0, atol=1e-9 * scale**2)


@pytest.mark.parametrize(
    ("num", "den", "words"),
    [
        ([1.0, 0.0], [1.0], "improper|higher degree"),
        ([1.0], [0.0, 0.0], "denominator is 0"),
        ([[1.0]], [1.0], "num has shape"),
        ([float("inf")], [1.0], "not finite"),
        (torch.ones(2, 1, 1), torch.ones(3, 1, 1), "broadcast"),
    ],
)
def test_functions_that_do_not_fit_are_refused(num, den, words) -> None:
    with pytest.raises(ValueError, match=words):
        from_transfer_function(TransferFunction(num, den))


def test_degrees_of_a_batch_must_agree() -> None:
    den = torch.tensor([[[[1.0, 1.0]]], [[[0.0, 1.0]]]])
    with pytest.raises(ValueError, match="one by one"):
        from_transfer_function(TransferFunction([1.0], den))


def test_zeros_and_poles_of_a_filter_of_high_order() -> None:
    zeros, poles, gain = scipy.signal.ellip(11, 0.1, 60, 0.2, output="zpk")
    form = ZeroPoleGain(zeros, poles, gain, dt=1.0)
    system = from_zpk(form)
    assert system.n_states == 11
    at = points(system)
    expected = np.array([gain * np.prod(s - zeros) / np.prod(s - poles) for s in at.numpy()])
    np.testing.assert_allclose(values(system, at)[:, 0, 0].numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(values(form, at).numpy(), expected, rtol=1e-12)
    num, den = scipy.signal.zpk2tf(zeros, poles, gain)
    function = zpk_to_transfer_function(form)
    np.testing.assert_allclose(function.num[0, 0], num, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(function.den[0, 0], den, rtol=1e-10, atol=1e-12)


def test_zeros_and_poles_come_in_batches() -> None:
    poles = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, -1 + 2j, -1 - 2j]])
    form = ZeroPoleGain([0.5], poles.to(torch.complex128), [2.0, 3.0])
    system = from_zpk(form)
    at = points(system)
    torch.testing.assert_close(values(system)[..., 0, 0], values(form, at), rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match="conjugate pairs"):
        from_zpk(ZeroPoleGain([], [1j], 1.0))
    with pytest.raises(ValueError, match="k ≤ n"):
        ZeroPoleGain([1.0, 2.0], [1.0], 1.0)


def test_the_reference_system_has_its_poles() -> None:
    form = to_diagonal(card_system(), half=True)
    expected = torch.tensor([0.95 * np.exp(0.5j), 0.7], dtype=torch.complex128)
    torch.testing.assert_close(form.poles, expected)
