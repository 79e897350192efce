"""Perturb-then-diagonalise: exact forms of a near operator, and the transfer functions."""

from __future__ import annotations

import numpy as np
import pytest

from statewise.lti import (
    LegS,
    LegT,
    PerturbedDiagonal,
    legs,
    perturb_then_diagonalise,
    transfer_gap,
)


def resolvent(a: np.ndarray, b: np.ndarray, omega: np.ndarray) -> np.ndarray:
    """(iω − A)⁻¹ B, (F, n)."""
    eye = np.eye(len(a))
    return np.stack([np.linalg.solve(1j * w * eye - a, b) for w in omega])


def legs_parts(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, B, the factor P and the normal part of LegS."""
    a, b = legs(n)
    p = LegS().factor(n)[:, 0]
    return a, b, p, a + np.outer(p, p)


def grid(normal: np.ndarray) -> np.ndarray:
    """Frequencies from 0.01 to 10⁴ with the resonances of the normal part."""
    return np.concatenate([np.geomspace(1e-2, 1e4, 300), np.abs(np.linalg.eigvals(normal).imag)])


@pytest.mark.parametrize("n", [4, 8, 16, 32, 64])
def test_form_rebuilds_the_perturbed_operator(n: int) -> None:
    a, _ = legs(n)
    form = perturb_then_diagonalise(a, 0.1, seed=n)
    basis = np.concatenate([form.vectors, form.vectors.conj()], 1)
    poles = np.concatenate([form.poles, form.poles.conj()])
    inverse = np.concatenate([form.inverse, form.inverse.conj()])
    assert np.linalg.norm(form.perturbation, 2) == pytest.approx(0.1, rel=1e-12)
    scale = form.condition * np.linalg.norm(a, 2)
    rebuilt = (basis * poles) @ inverse
    np.testing.assert_allclose(rebuilt, a + form.perturbation, rtol=0, atol=1e-14 * scale)
    np.testing.assert_allclose(inverse @ basis, np.eye(n), rtol=0, atol=1e-14 * scale)
    assert form.condition == pytest.approx(np.linalg.cond(basis), rel=1e-6)
    assert (form.poles.real < 0).all()
    assert (form.poles.imag > 0).all()
    assert (np.diff(form.poles.imag) >= 0).all()


def test_seeds_repeat_and_differ() -> None:
    a, _ = legs(16)
    one, same, other = (perturb_then_diagonalise(a, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.poles, same.poles)
    np.testing.assert_array_equal(one.inverse, same.inverse)
    assert not np.array_equal(one.poles, other.poles)


def test_more_draws_are_better_conditioned() -> None:
    a, _ = legs(16)
    few, many = (perturb_then_diagonalise(a, draws=draws, seed=3).condition for draws in (4, 64))
    assert many <= few


def test_condition_grows_as_the_perturbation_vanishes() -> None:
    a, _ = legs(16)
    sizes = (1.0, 0.1, 0.01)
    conditions = [perturb_then_diagonalise(a, size, seed=0).condition for size in sizes]
    assert 3 < conditions[1] / conditions[0] < 30
    assert 3 < conditions[2] / conditions[1] < 30


@pytest.mark.parametrize("n", [16, 64])
def test_dropping_the_low_rank_part_multiplies_the_transfer_function(n: int) -> None:
    """G_D = ½ (1 + r) G exactly, r(s) = Pᵀ (s − A_D)⁻¹ P, with half of B in the normal system."""
    a, b, p, normal = legs_parts(n)
    omega = grid(normal)
    full, half = resolvent(a, b, omega), resolvent(normal, b / 2, omega)
    r = resolvent(normal, p, omega) @ p
    expected = 0.5 * (1 + r[:, None]) * full
    np.testing.assert_allclose(half, expected, rtol=0, atol=1e-10 * np.abs(half).max())


@pytest.mark.parametrize("n", [16, 64, 128])
def test_perturbed_form_is_close_where_the_normal_part_is_not(n: int) -> None:
    """In the sup norm the normal part misses by more than max|G|, the perturbed form by 5 %."""
    a, b, _, normal = legs_parts(n)
    c = np.random.default_rng(0).standard_normal(n) / np.sqrt(n)
    omega = grid(normal)
    g = resolvent(a, b, omega) @ c
    dropped = np.abs(resolvent(normal, b / 2, omega) @ c - g).max()
    form = perturb_then_diagonalise(a, 0.1, seed=0)
    kept = transfer_gap(form, a, b, c)
    assert dropped >= 1.2 * np.abs(g).max()
    assert kept <= 0.05 * np.abs(g).max()
    # At the highest resonance, where noise would be amplified.
    top = np.array([np.abs(np.linalg.eigvals(normal).imag).max()])
    spike = np.abs(resolvent(normal, b / 2, top) @ c - resolvent(a, b, top) @ c)[0]
    assert spike > 5 * transfer_gap(form, a, b, c, top)


def test_low_frequencies_of_the_normal_part_converge() -> None:
    gaps = []
    for n in (16, 64, 256):
        a, b, _, normal = legs_parts(n)
        omega = np.array([0.3, 1.0])
        full, half = resolvent(a, b, omega)[:, 0], resolvent(normal, b / 2, omega)[:, 0]
        gaps.append(np.abs(half / full - 1).max())
    assert gaps[1] < gaps[0] / 3
    assert gaps[2] < gaps[1] / 3


@pytest.mark.parametrize("n", [4, 16, 64])
@pytest.mark.parametrize("size", [0.3, 0.1])
def test_gap_is_within_the_theorem(n: int, size: float) -> None:
    """‖G_PTD − G‖_∞ ≤ (2 ln n + 4) ε for every C of norm 1."""
    a, b = legs(n)
    form = perturb_then_diagonalise(a, size, seed=1)
    assert transfer_gap(form, a, b) <= (2 * np.log(n) + 4) * size


def test_gap_is_that_of_dense_resolvents() -> None:
    a, b = legs(8)
    form = perturb_then_diagonalise(a, 0.2, seed=2)
    omega = np.geomspace(0.1, 100, 20)
    gap = resolvent(a + form.perturbation, b, omega) - resolvent(a, b, omega)
    c = np.random.default_rng(1).standard_normal(8)
    assert transfer_gap(form, a, b, c, omega) == pytest.approx(np.abs(gap @ c).max(), rel=1e-9)
    worst = np.linalg.norm(gap, axis=1).max()
    assert transfer_gap(form, a, b, None, omega) == pytest.approx(worst, rel=1e-9)


def test_other_operators_too() -> None:
    a, b = LegT().operator(8)
    form = perturb_then_diagonalise(a, 0.05, seed=0)
    assert isinstance(form, PerturbedDiagonal)
    assert transfer_gap(form, a, b) < 0.5


@pytest.mark.parametrize(
    ("a", "options", "words"),
    [
        (np.eye(3), {}, r"square A of even size; given \(3, 3\)"),
        (np.ones((2, 4)), {}, r"given \(2, 4\)"),
        (-np.eye(2), {"size": 0.0}, r"size = 0\.0"),
        (-np.eye(2), {"draws": 0}, "draws = 0"),
        (np.diag([-1.0, -9.0]), {"draws": 1}, "none of 100 perturbations of norm 0.1"),
        (np.eye(2), {"draws": 1}, "a larger size may"),
    ],
)
def test_arguments_are_checked(a: np.ndarray, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        perturb_then_diagonalise(a, **options)
