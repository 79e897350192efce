"""Perturb-then-diagonalise: well-conditioned diagonal forms of operators that have none.

Source: Yu et al., Robustifying state-space models for long sequences via approximate
diagonalization (2310.01698).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PerturbedDiagonal(NamedTuple):
    """A real system A + E = W Λ W⁻¹ with a small E; W = (V, conj V), one of each pair stored.

    Attributes:
        poles: Λ, (n/2,), complex128, ascending imaginary parts > 0.
        vectors: V, (n, n/2), complex128, columns of norm 1: C goes to C V.
        inverse: the rows of W⁻¹ that belong to V, (n/2, n): B goes to W⁻¹ B.
        perturbation: E, (n, n), real.
        condition: the condition number of W; parameters in float32 lose that many digits.
    """

    poles: np.ndarray
    vectors: np.ndarray
    inverse: np.ndarray
    perturbation: np.ndarray
    condition: float


def perturb_then_diagonalise(
    a: np.ndarray,
    size: float = 0.1,
    *,
    draws: int = 32,
    seed: int | np.random.Generator = 0,
) -> PerturbedDiagonal:
    """Diagonalise A + E for a random real E of spectral norm ``size``.

    Gaussian E are drawn. A draw qualifies when A + E is stable and has only pairs of complex
    eigenvalues; of those among the first ``draws``, the one with the best conditioned eigenvectors
    is taken, or the first later one. For HiPPO-LegS the transfer function moves by at most about
    (2 ln n + 4) ‖E‖ in the sup norm, where dropping its low-rank part moves it by more than its
    own size.

    Args:
        a: A, real, (n, n), n even, eigenvalues in the left half plane.
        size: ‖E‖, above 0, in the unit of A.
        draws: number of draws to choose from, at least 1.
        seed: seed of the draws, or a NumPy generator.

    Returns:
        The diagonal form.

    Raises:
        ValueError: n is odd, a size or number of draws out of range, or no draw that qualifies.
    """
    a = np.asarray(a, float)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or len(a) % 2 or not len(a):
        raise ValueError(f"perturb_then_diagonalise needs a square A of even size; given {a.shape}")
    if not 0 < size < np.inf or draws < 1:
        raise ValueError(
            f"perturb_then_diagonalise needs size > 0 and draws >= 1; given size = {size}, "
            f"draws = {draws}"
        )
    rng = np.random.default_rng(seed)
    best = None
    for attempt in range(100 * draws):
        if attempt >= draws and best is not None:
            break
        e = rng.standard_normal(a.shape)
        e *= size / np.linalg.norm(e, 2)
        form = _diagonalised(a, e)
        if form is not None and (best is None or form.condition < best.condition):
            best = form
    if best is None:
        raise ValueError(
            f"none of {100 * draws} perturbations of norm {size} makes A of {len(a)} states stable "
            f"with complex pairs alone; a larger size may"
        )
    return best


def _diagonalised(a: np.ndarray, e: np.ndarray) -> PerturbedDiagonal | None:
    """The form for a given E, or None where A + E has a real or an unstable eigenvalue."""
    values, vectors = np.linalg.eig(a + e)
    upper = np.flatnonzero(np.imag(values) > 0)
    if 2 * len(upper) != len(a) or np.real(values).max() >= 0:
        return None
    upper = upper[np.argsort(np.imag(values[upper]), kind="stable")]
    chosen = vectors[:, upper]
    basis = np.concatenate([chosen, chosen.conj()], 1)
    inverse = np.linalg.solve(basis, np.eye(len(a)))[: len(upper)]
    return PerturbedDiagonal(values[upper], chosen, inverse, e, float(np.linalg.cond(basis)))


def transfer_gap(
    form: PerturbedDiagonal,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray | None = None,
    frequencies: np.ndarray | None = None,
) -> float:
    """The certificate sup_ω |C (iω − A − E)⁻¹ B − C (iω − A)⁻¹ B| of a diagonal form.

    Args:
        form: what :func:`perturb_then_diagonalise` gave for A.
        a: A, (n, n).
        b: B, (n,).
        c: C, (n,); None for the worst C of norm 1.
        frequencies: ω ≥ 0, in radians per time; None for a logarithmic grid from 0.01 to beyond the
            spectrum with the imaginary parts of all poles.

    Returns:
        The largest difference on these frequencies.
    """
    if frequencies is None:
        top = 10 * np.linalg.norm(a, 2)
        frequencies = np.concatenate([np.geomspace(1e-2, top, 400), np.imag(form.poles)])
    weights = form.inverse @ b
    worst = 0.0
    for omega in frequencies:
        exact = np.linalg.solve(1j * omega * np.eye(len(a)) - a, b)
        upper = form.vectors @ (weights / (1j * omega - form.poles))
        lower = form.vectors.conj() @ (weights.conj() / (1j * omega - form.poles.conj()))
        gap = upper + lower - exact
        worst = max(worst, float(np.linalg.norm(gap) if c is None else abs(c @ gap)))
    return worst
