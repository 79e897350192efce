"""Numba kernels of the two-level Vandermonde product: tables of powers, and the last contraction.

With l = r T + s, a^l = (a^T)^r a^s, so a block of channels needs L/T + T powers instead of L.
Powers are running products in double precision over all N numbers of a channel at once, and are
rounded when stored.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel


@kernel
def _powers(a_re, a_im, x_re, x_im):
    """Multiply N numbers x by a, in a loop that the compiler turns into vectors."""
    for n in range(a_re.shape[0]):
        re = a_re[n] * x_re[n] - a_im[n] * x_im[n]
        x_im[n] = a_re[n] * x_im[n] + a_im[n] * x_re[n]
        x_re[n] = re


@kernel
def _root(a, log, times, re, im):
    """a^times in double precision: from the logarithms, or by squaring."""
    for n in range(a.shape[0]):
        if log:
            size = np.exp(times * a[n, 0])
            re[n], im[n] = size * np.cos(times * a[n, 1]), size * np.sin(times * a[n, 1])
        else:
            result, square, left = 1.0 + 0j, complex(a[n, 0], a[n, 1]), times
            while left:
                if left & 1:
                    result = result * square
                left >>= 1
                if left:
                    square = square * square
            re[n], im[n] = result.real, result.imag


@kernel
def tables(a, c, log, d0, rows, columns):
    """Fill rows (R, L/T, 2N) with (Re, −Im) of c a^{rT}, and columns (R, T, 2N) with a^s.

    R channels from ``d0`` on; ``a`` and ``c`` are (D, N, 2).
    """
    R, steps, N = rows.shape[0], columns.shape[1], a.shape[1]
    one, big = np.empty((2, N)), np.empty((2, N))
    x, y = np.empty(N), np.empty(N)
    for i in range(R):
        _root(a[d0 + i], log, 1, one[0], one[1])
        _root(a[d0 + i], log, steps, big[0], big[1])
        x[:], y[:] = 1.0, 0.0
        for s in range(steps):
            columns[i, s, :N] = x
            columns[i, s, N:] = y
            _powers(one[0], one[1], x, y)
        for n in range(N):
            x[n], y[n] = c[d0 + i, n, 0], c[d0 + i, n, 1]
        for r in range(rows.shape[1]):
            rows[i, r, :N] = x
            for n in range(N):
                rows[i, r, N + n] = -y[n]
            _powers(big[0], big[1], x, y)


@kernel
def slopes(a, log, d0, columns):
    """Fill columns (R, T, 4N) with a^s and s a^{s−1}, real parts before imaginary ones."""
    N, steps = a.shape[1], columns.shape[1]
    one = np.empty((2, N))
    x, y, p, q = np.empty(N), np.empty(N), np.empty(N), np.empty(N)
    for i in range(columns.shape[0]):
        _root(a[d0 + i], log, 1, one[0], one[1])
        x[:], y[:], p[:], q[:] = 1.0, 0.0, 0.0, 0.0
        for s in range(steps):
            for n in range(N):
                columns[i, s, n] = x[n]
                columns[i, s, N + n] = y[n]
                columns[i, s, 2 * N + n] = s * p[n]
                columns[i, s, 3 * N + n] = s * q[n]
            p[:], q[:] = x, y
            _powers(one[0], one[1], x, y)


@kernel
def contract(a, c, log, d0, steps, moments, da, dc):
    """Gradients (D, N, 2) of R channels from moments (R, L/T, 4N), the products with ``slopes``.

    ∂c = conj Σ_r a^{rT} M_r and ∂a = conj c Σ_r (rT a^{rT−1} M_r + a^{rT} M'_r), the latter times
    conj(a) with ``log``.
    """
    R, count, N = moments.shape[0], moments.shape[1], a.shape[1]
    one, big, less = np.empty((2, N)), np.empty((2, N)), np.empty((2, N))
    x, y, p, q = np.empty(N), np.empty(N), np.empty(N), np.empty(N)
    total = np.empty((4, N))
    for i in range(R):
        _root(a[d0 + i], log, 1, one[0], one[1])
        _root(a[d0 + i], log, steps, big[0], big[1])
        _root(a[d0 + i], log, steps - 1, less[0], less[1])
        x[:], y[:], total[:] = 1.0, 0.0, 0.0
        for r in range(count):
            # p + iq = a^{rT−1}: from a^{(r−1)T} of the round before.
            if r:
                _powers(less[0], less[1], p, q)
            else:
                p[:], q[:] = 0.0, 0.0
            for n in range(N):
                mr, mi = moments[i, r, n], moments[i, r, N + n]
                sr, si = moments[i, r, 2 * N + n], moments[i, r, 3 * N + n]
                total[0, n] += x[n] * mr - y[n] * mi
                total[1, n] += x[n] * mi + y[n] * mr
                w = r * steps
                total[2, n] += w * (p[n] * mr - q[n] * mi) + x[n] * sr - y[n] * si
                total[3, n] += w * (p[n] * mi + q[n] * mr) + x[n] * si + y[n] * sr
            p[:], q[:] = x, y
            _powers(big[0], big[1], x, y)
        for n in range(N):
            dc[d0 + i, n, 0], dc[d0 + i, n, 1] = total[0, n], -total[1, n]
            slope = np.conj(complex(c[d0 + i, n, 0], c[d0 + i, n, 1]))
            slope *= complex(total[2, n], -total[3, n])
            if log:
                slope *= complex(one[0, n], -one[1, n])
            da[d0 + i, n, 0], da[d0 + i, n, 1] = slope.real, slope.imag
