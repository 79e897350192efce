"""The HiPPO-LegS operator and its normal part."""

from __future__ import annotations

import numpy as np
import pytest

from statewise.lti import legs, legs_normal


def test_legs_entries() -> None:
    a, b = legs(5)
    for i in range(5):
        assert b[i] == np.sqrt(2 * i + 1)
        for j in range(5):
            expected = -np.sqrt((2 * i + 1) * (2 * j + 1)) if i > j else -(i + 1) * (i == j)
            assert a[i, j] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("n", [1, 2, 9, 64])
def test_legs_plus_rank_one_is_skew_but_for_a_half(n: int) -> None:
    a, b = legs(n)
    np.testing.assert_allclose(a + a.T + np.outer(b, b), -np.eye(n), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvals(a).real.max(), -1, rtol=1e-6)


@pytest.mark.parametrize("n", [2, 4, 10, 64, 128])
def test_normal_part_is_diagonalised(n: int) -> None:
    values, vectors = legs_normal(n)
    a, b = legs(n)
    normal = a + 0.5 * np.outer(b, b)
    assert values.shape == (n // 2,)
    assert vectors.shape == (n, n // 2)
    assert (values.real == -0.5).all()
    assert (values.imag > 0).all()
    assert (np.diff(values.imag) > 0).all()
    residual = np.abs(normal @ vectors - vectors * values).max()
    assert residual < 1e-12 * max(1.0, np.abs(values).max())
    basis = np.concatenate([vectors, vectors.conj()], 1)
    np.testing.assert_allclose(basis.conj().T @ basis, np.eye(n), rtol=0, atol=1e-12)
    both = np.concatenate([values, values.conj()])
    rebuilt = (basis * both) @ basis.conj().T
    np.testing.assert_allclose(rebuilt, normal, rtol=0, atol=1e-12 * np.abs(normal).max())


def test_published_frequencies() -> None:
    """The largest and smallest of 64 states, as tabulated for S4D."""
    frequencies = legs_normal(64)[0].imag[::-1]
    np.testing.assert_allclose(frequencies[:5], [1303, 433, 258, 183, 140], rtol=0, atol=0.5)
    assert frequencies[-1] == pytest.approx(0.26, abs=0.005)


@pytest.mark.parametrize("n", [0, -1, 1, 3, 65])
def test_sizes_are_checked(n: int) -> None:
    with pytest.raises(ValueError, match=rf"even number of states.* n = {n}$"):
        legs_normal(n)
    if n < 1:
        with pytest.raises(ValueError, match=rf"at least one state.* n = {n}$"):
            legs(n)
