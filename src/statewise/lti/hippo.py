"""The HiPPO operators: linear systems whose states are coefficients of the past of the input.

Each is a pair (A, B) of x'(t) = A x(t) + B u(t). What its states mean (measure, basis, kernels) is
in :mod:`statewise.lti.measures`.

Sources: Gu et al., HiPPO (2008.07669), appendix D; Gu et al., How to train your HiPPO (2206.12037);
Gu et al., S4D (2206.11893), section 4.
"""

from __future__ import annotations

import math

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


def legt(n: int, window: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """HiPPO-LegT: Legendre coefficients of the last θ units of time.

    A_ij = −(1/θ) √((2i+1)(2j+1)) · {1 for j ≤ i, (−1)^{i−j} for j > i}; B_i = (1/θ) √(2i+1).

    Args:
        n: number of states, at least 1.
        window: θ, the length of the window, above 0, in time.

    Returns:
        A (n, n) and B (n,), float64.

    Raises:
        ValueError: n < 1, or a window that is not above 0.
    """
    if n < 1:
        raise ValueError(f"legt needs at least one state; given n = {n}")
    _check_window("legt", window)
    index = np.arange(n)
    root = np.sqrt(2 * index + 1.0)
    sign = np.where((index[:, None] - index) % 2, -1.0, 1.0)
    sign[np.tril_indices(n)] = 1.0
    return -np.outer(root, root) * sign / window, root / window


def lagt(n: int, alpha: float = 0.0, beta: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """HiPPO-LagT, generalised: Laguerre coefficients under the weight s^{−α} e^{−βs} of age s.

    A = −G⁻¹ ((1+β)/2 I + S) G,  B_i = binom(α+i, i) / g_i, with S ones below the diagonal and
    G = diag(g), g_i² = Γ(i+α+1)/i!. For α = β = 0 this is A = ½ I − tril(1), B = 1. The constant
    that makes the weight a probability, which the source puts into B, is left out: it is infinite
    for β = 0.

    Args:
        n: number of states, at least 1.
        alpha: α of the Laguerre polynomials, above −1.
        beta: tilt β, at least 0; larger ones forget faster.

    Returns:
        A (n, n) and B (n,), float64.

    Raises:
        ValueError: n < 1, α ≤ −1 or β < 0.
    """
    if n < 1:
        raise ValueError(f"lagt needs at least one state; given n = {n}")
    if not alpha > -1 or not beta >= 0 or math.isinf(alpha + beta):
        raise ValueError(
            f"lagt needs alpha > -1 and beta >= 0; given alpha = {alpha}, beta = {beta}"
        )
    from scipy.special import binom

    g = laguerre_norms(n, alpha)
    a = -0.5 * (1 + beta) * np.eye(n) - np.tril(np.ones((n, n)), -1)
    return a * g / g[:, None], binom(alpha + np.arange(n), np.arange(n)) / g


def laguerre_norms(n: int, alpha: float) -> np.ndarray:
    """The norms g_i = √(Γ(i+α+1)/i!) of the Laguerre polynomials under s^α e^{−s}, shape (n,)."""
    from scipy.special import gammaln

    index = np.arange(n)
    return np.exp(0.5 * (gammaln(index + alpha + 1) - gammaln(index + 1)))


def fout(n: int, window: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """HiPPO-FouT: Fourier coefficients of the last θ units of time.

    A = (F − 2 b bᵀ)/θ,  B = 2b/θ, with b = (1, 0, √2, 0, √2, 0, …) and F skew-symmetric, which
    turns the cosine state 2k into the sine state 2k+1 with 2πk radians per window. State 1, the
    sine of frequency 0, stays 0; it is kept so that states come in pairs.

    Args:
        n: number of states, even, at least 2.
        window: θ, the length of the window, above 0, in time.

    Returns:
        A (n, n) and B (n,), float64.

    Raises:
        ValueError: n is odd or below 2, or a window that is not above 0.
    """
    if n < 2 or n % 2:
        raise ValueError(f"fout needs an even number of states, at least 2; given n = {n}")
    _check_window("fout", window)
    b = fourier_ends(n)
    turn = 2 * np.pi * np.arange(n // 2)
    even = np.arange(0, n, 2)
    a = -2 * np.outer(b, b)
    a[even + 1, even] += turn
    a[even, even + 1] -= turn
    return a / window, 2 * b / window


def fourier_ends(n: int) -> np.ndarray:
    """The Fourier basis at the ends of its window: (1, 0, √2, 0, √2, 0, …), shape (n,)."""
    b = np.zeros(n)
    b[0::2] = math.sqrt(2)
    b[0] = 1
    return b


def _check_window(name: str, window: float) -> None:
    if not 0 < window < math.inf:
        raise ValueError(f"{name} needs a window above 0; given window = {window}")


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
