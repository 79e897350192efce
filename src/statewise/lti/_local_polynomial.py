"""The local polynomial method: a frequency response from any data, leakage removed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]


def half_widths(lengths: Sequence[int], m: int, degree: int, freedom: int) -> list[int]:
    """Bins taken from each record, in proportion to its length, so that ``freedom`` are left."""
    columns = (degree + 1) * (m + len(lengths))
    shortest = min(lengths)
    bins = 2 * math.ceil((columns + freedom) / (2 * len(lengths))) + 1
    counts = [max(bins, 2 * round((bins - 1) * n / shortest / 2) + 1) for n in lengths]
    for n, count in zip(lengths, counts, strict=True):
        if count > n // 2 - 1:
            raise ValueError(
                f"a record of {n} samples has {n // 2 - 1} frequencies; the local polynomial of "
                f"degree {degree} with {m} inputs and {len(lengths)} records needs {count}"
            )
    return counts


def local_polynomial(
    us: Sequence[Array],
    ys: Sequence[Array],
    angles: Array,
    degree: int,
    freedom: int,
) -> tuple[Complex, Array, Array, int]:
    """Fit Y(ω) = G(ω) U(ω) + T(ω) + V(ω) in a window around each angle.

    G and the transient T of each record are polynomials in frequency within the window; V is what
    remains.

    Args:
        us: (T, m) of each record.
        ys: (T, p) of each record.
        angles: frequencies in radians per sample, (F,).
        degree: of the polynomials.
        freedom: least number of bins left for the variance.

    Returns:
        G (F, p, m), its variance (F, p, m), the variance of V (F, p), and the degrees of freedom.
    """
    lengths = [len(y) for y in ys]
    m = us[0].shape[1]
    counts = half_widths(lengths, m, degree, freedom)
    records = len(lengths)
    rows, targets = [], []
    width = max(count * 2 * math.pi / n for count, n in zip(counts, lengths, strict=True)) / 2
    for r, (u, y, count) in enumerate(zip(us, ys, counts, strict=True)):
        n = len(y)
        root = math.sqrt(n)
        U, Y = np.fft.rfft(u, axis=0) / root, np.fft.rfft(y, axis=0) / root
        centre = np.rint(angles * n / (2 * math.pi)).astype(int)
        # Without the bins at 0 and at the Nyquist frequency, which are real.
        last = (n - 1) // 2
        low = np.clip(centre - count // 2, 1, last - count + 1)
        bins = low[:, None] + np.arange(count)
        away = (bins * 2 * math.pi / n - angles[:, None]) / width
        powers = away[:, :, None] ** np.arange(degree + 1)
        gains = (powers[:, :, :, None] * U[bins][:, :, None, :]).reshape(*bins.shape, -1)
        part = np.zeros((*bins.shape, (degree + 1) * (m + records)), complex)
        part[:, :, : (degree + 1) * m] = gains
        start = (degree + 1) * (m + r)
        part[:, :, start : start + degree + 1] = powers
        rows.append(part)
        targets.append(Y[bins])
    X, target = np.concatenate(rows, 1), np.concatenate(targets, 1)
    scale = np.sqrt((np.abs(X) ** 2).sum(1, keepdims=True))
    scale = np.where(scale > 0, scale, 1.0)
    Q, R = np.linalg.qr(X / scale)
    pivots = np.abs(np.diagonal(R, axis1=1, axis2=2))
    if not (pivots.min(1) > 1e-10 * pivots.max(1)).all():
        raise ValueError(
            "the inputs do not excite every window of frequencies: they have lines or gaps in "
            "their spectrum; give their period, or frequencies within the excited band"
        )
    back = Q.conj().swapaxes(1, 2)
    moved = back @ target
    theta = np.linalg.solve(R, moved)
    rest = target - Q @ moved
    left = X.shape[1] - X.shape[2]
    noise = (np.abs(rest) ** 2).sum(1) / left
    inverse = np.linalg.inv(R)[:, :m]
    share = (np.abs(inverse) ** 2).sum(2) / scale[:, 0, :m] ** 2
    G = np.asarray(theta[:, :m] / scale[:, 0, :m, None], np.complex128).swapaxes(1, 2)
    return G, noise[:, :, None] * share[:, None, :], noise, left
