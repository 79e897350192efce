"""Normal plus low rank: HiPPO operators in the eigenbasis of their normal part.

Source: Gu et al., Efficiently modeling long sequences with structured state spaces (2111.00396),
theorem 1 and appendix C.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from statewise.lti.measures import HiPPO


class DPLR(NamedTuple):
    """A real system in diagonal plus low rank form, A = W (Λ − P P*) W*, B = W B̂.

    W = (V, conj V) is unitary; of each conjugate pair one is stored, so m = n/2.

    Attributes:
        poles: Λ, (m,), complex128, ascending imaginary parts ≥ 0.
        p: the low-rank factor P, (r, m), complex128.
        b: B̂, (m,), complex128.
        vectors: V, (n, m), complex128.
    """

    poles: np.ndarray
    p: np.ndarray
    b: np.ndarray
    vectors: np.ndarray


def dplr(measure: HiPPO, n: int) -> DPLR:
    """The operator of a measure as diagonal plus low rank, x = W z.

    A + P Pᵀ = μ I + S with S skew-symmetric; the Hermitian matrix −iS gives Λ = μ + iω and unitary
    eigenvectors in float64. A itself must not be diagonalised: its eigenvectors are as ill
    conditioned as 10¹⁰ at 16 states. Where S is singular (FouT), two real null vectors are made a
    conjugate pair.

    Args:
        measure: a HiPPO measure.
        n: number of real states, even.

    Returns:
        The factors, one of each conjugate pair.

    Raises:
        ValueError: n is odd or below 2, or the operator has no such form.
    """
    if n < 2 or n % 2:
        raise ValueError(f"dplr needs an even number of states, at least 2; given n = {n}")
    a, b = measure.operator(n)
    p = measure.factor(n)
    normal = a + p @ p.T
    shift = np.trace(normal) / n
    skew = normal - shift * np.eye(n)
    rest = np.abs(skew + skew.T).max()
    if rest > 1e-10 * np.abs(a).max():
        raise ValueError(
            f"dplr needs A + P Pᵀ to be a multiple of I plus a skew matrix; the operator of "
            f"{measure} misses this by {rest:.3g}"
        )
    vectors, frequency = _upper_half(0.5 * (skew - skew.T), np.abs(a).max())
    return DPLR(
        shift + 1j * frequency,
        (vectors.conj().T @ p).T,
        vectors.conj().T @ b,
        vectors,
    )


def _upper_half(skew: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit eigenvectors of a real skew matrix for iω, ω ≥ 0 ascending, one of each pair, and ω.

    Frequencies within rounding of 0, relative to ``scale``, are 0.
    """
    n = len(skew)
    frequency, vectors = np.linalg.eigh(-1j * skew)
    null = np.abs(frequency) <= n * np.finfo(float).eps * scale
    count = int(null.sum()) // 2
    vectors, frequency = vectors[:, n // 2 :], frequency[n // 2 :].copy()
    if count:
        real = np.linalg.svd(skew)[2][n - 2 * count :]
        vectors = vectors.copy()
        vectors[:, :count] = (real[::2] + 1j * real[1::2]).T / np.sqrt(2)
        frequency[:count] = 0
    return vectors, frequency
