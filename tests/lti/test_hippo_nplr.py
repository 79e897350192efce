"""HiPPO operators as normal plus low rank, and in the eigenbasis of the normal part."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from statewise.lti import FouT, HiPPO, LagT, LegS, LegT, dplr, legs_normal

MEASURES = [LegS(), LegT(), LegT(2.0), LagT(), LagT(beta=0.7), FouT(), FouT(3.0)]


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("n", [2, 6, 64])
def test_factor_makes_the_operator_normal(measure: HiPPO, n: int) -> None:
    a, _ = measure.operator(n)
    p = measure.factor(n)
    assert p.shape == (n, 2 if isinstance(measure, LegT) else 1)
    normal = a + p @ p.T
    shift = {LegS: -0.5, LagT: -getattr(measure, "beta", 0.0) / 2}.get(type(measure), 0.0)
    np.testing.assert_allclose(
        normal + normal.T, 2 * shift * np.eye(n), rtol=0, atol=1e-13 * np.abs(a).max()
    )
    # The energy of the states falls at the rate of the factor: ½ d‖x‖²/dt = μ ‖x‖² − ‖Pᵀ x‖².
    gap = np.abs(normal @ normal.T - normal.T @ normal).max()
    assert gap < 1e-12 * np.abs(normal).max() ** 2 + 1e-14


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("n", [2, 6, 64, 128])
def test_diagonal_form_rebuilds_the_operator(measure: HiPPO, n: int) -> None:
    form = dplr(measure, n)
    a, b = measure.operator(n)
    both = lambda x: np.concatenate([x, x.conj()], -1)  # noqa: E731
    basis, poles, p = both(form.vectors), both(form.poles), both(form.p).T
    np.testing.assert_allclose(basis.conj().T @ basis, np.eye(n), rtol=0, atol=1e-12)
    rebuilt = basis @ (np.diag(poles) - p @ p.conj().T) @ basis.conj().T
    np.testing.assert_allclose(rebuilt, a, rtol=0, atol=1e-13 * np.abs(a).max())
    np.testing.assert_allclose(basis @ both(form.b), b, rtol=0, atol=1e-12 * np.abs(b).max())
    np.testing.assert_allclose(basis @ p, measure.factor(n), rtol=0, atol=1e-12 * np.abs(p).max())
    assert (form.poles.imag >= 0).all()
    assert (np.diff(form.poles.imag) >= 0).all()
    assert np.ptp(form.poles.real) == 0


def test_legs_has_the_poles_of_its_normal_part() -> None:
    values, vectors = legs_normal(16)
    form = dplr(LegS(), 16)
    np.testing.assert_allclose(form.poles, values, rtol=1e-13)
    # Eigenvectors are the same up to a phase.
    overlap = np.abs((form.vectors.conj() * vectors).sum(0))
    np.testing.assert_allclose(overlap, 1, rtol=1e-12)


def test_largest_frequency_of_legs_grows_with_the_square() -> None:
    for n, error in ((64, 1e-3), (256, 1e-4)):
        assert dplr(LegS(), n).poles.imag.max() == pytest.approx(n**2 / np.pi, rel=error)


def test_frequencies_of_fout_are_the_harmonics() -> None:
    """The double eigenvalue 0 is one pair of conjugate vectors."""
    form = dplr(FouT(0.5), 12)
    np.testing.assert_allclose(form.poles.imag, 4 * np.pi * np.arange(6), rtol=1e-13, atol=1e-12)
    assert np.abs(form.vectors[:, 0].imag).max() == pytest.approx(np.sqrt(0.5))


@dataclasses.dataclass(frozen=True)
class Wrong(LegS):
    """LegS with the factor of another operator."""

    def factor(self, n: int) -> np.ndarray:
        """Twice the right one."""
        return 2 * super().factor(n)


@pytest.mark.parametrize(
    ("measure", "n", "words"),
    [
        (LegS(), 3, "even number of states.* n = 3"),
        (LegS(), 0, "even number of states.* n = 0"),
        (LagT(alpha=0.2), 4, r"alpha = 0 only; given alpha = 0\.2"),
        (Wrong(), 4, "skew matrix; the operator of .* misses this by"),
    ],
)
def test_what_has_no_such_form_is_told(measure: HiPPO, n: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dplr(measure, n)
