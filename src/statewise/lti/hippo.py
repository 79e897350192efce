"""The HiPPO-LegS operator and its normal part.

Sources: Gu et al., HiPPO (2008.07669), eq. for LegS; Gu et al., S4D (2206.11893), section 4.
"""

from __future__ import annotations

import numpy as np


def legs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """HiPPO-LegS: x'(t) = A x(t) + B u(t) with scaled Legendre memory.

    A_ij = −√((2i+1)(2j+1)) for i > j, −(i+1) for i = j, 0 above; B_i = √(2i+1).

    Args:
        n: number of states, at least 1.

    Returns:
        A (n, n) and B (n,), float64.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"legs needs at least one state; given n = {n}")
    root = np.sqrt(2 * np.arange(n) + 1.0)
    a = -np.tril(np.outer(root, root), -1) - np.diag(np.arange(1.0, n + 1))
    return a, root


def legs_normal(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the normal part of LegS, one of each conjugate pair.

    The normal part is A + ½ B Bᵀ = −½ I + S with S skew-symmetric, so its eigenvalues are
    −½ ± iω. It is diagonalised through the Hermitian matrix −iS, which is well conditioned.

    Args:
        n: number of real states, even.

    Returns:
        Eigenvalues (n/2,) with positive imaginary parts, ascending, and the unit eigenvectors V
        (n, n/2), complex128.

    Raises:
        ValueError: n is odd or below 2.
    """
    if n < 2 or n % 2:
        raise ValueError(f"legs_normal needs an even number of states, at least 2; given n = {n}")
    a, b = legs(n)
    skew = a + 0.5 * np.outer(b, b) + 0.5 * np.eye(n)
    skew = 0.5 * (skew - skew.T)
    frequency, vectors = np.linalg.eigh(-1j * skew)
    positive = frequency > 0
    return -0.5 + 1j * frequency[positive], vectors[:, positive]
