"""Kalman gains of many small systems, one after another, compiled."""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel


@kernel
def _solve(M, Y, n, columns):
    """Y ← M⁻¹ Y by elimination with pivoting, which overwrites M; False where M is singular."""
    for k in range(n):
        best = k
        for i in range(k + 1, n):
            if abs(M[i, k]) > abs(M[best, k]):
                best = i
        if M[best, k] == 0.0:
            return False
        if best != k:
            for j in range(n):
                M[k, j], M[best, j] = M[best, j], M[k, j]
            for j in range(columns):
                Y[k, j], Y[best, j] = Y[best, j], Y[k, j]
        for i in range(k + 1, n):
            factor = M[i, k] / M[k, k]
            for j in range(k + 1, n):
                M[i, j] -= factor * M[k, j]
            for j in range(columns):
                Y[i, j] -= factor * Y[k, j]
    for k in range(n - 1, -1, -1):
        for j in range(columns):
            total = Y[k, j]
            for i in range(k + 1, n):
                total -= M[k, i] * Y[i, j]
            Y[k, j] = total / M[k, k]
    return True


@kernel
def _product(X, Y, Z, rows, inner, columns, first):
    """Z ← X Y, with the columns of Y from ``first`` on."""
    for i in range(rows):
        for j in range(columns):
            total = 0.0
            for k in range(inner):
                total += X[i, k] * Y[k, first + j]
            Z[i, j] = total


@kernel
def kalman_gains(A, C, Q, R, S, s0, s1, most, gains, settled):
    """Stationary gains by structured doubling.

    A, G, H ← A W⁻¹A, G + A W⁻¹G Aᵀ, H + Aᵀ H W⁻¹ A with W = 1 + G H, whose H tends to X.

    Args:
        A: dynamics, (B, n, n).
        C: output matrix, (B, p, n).
        Q: covariance of what drives the states, (B, n, n).
        R: covariance of the innovations, (B, p, p).
        S: covariance of the two, (B, n, p).
        s0: first series.
        s1: behind the last series.
        most: doublings.
        gains: (B, n, p), to be filled.
        settled: (B,), set where the doubling converged.
    """
    n, p = A.shape[1], C.shape[1]
    F, G, H = np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    W, Y, Z = np.empty((n, n)), np.empty((n, 2 * n)), np.empty((n, n))
    M, back = np.empty((p, p)), np.empty((p, 2 * n))
    for s in range(s0, s1):
        settled[s] = False
        M[:] = R[s]
        for i in range(p):
            for k in range(n):
                back[i, k], back[i, n + k] = C[s, i, k], S[s, k, i]
        if not _solve(M, back, p, 2 * n):
            continue
        # R⁻¹C and R⁻¹Sᵀ stand side by side; the problem is that of the transposed system.
        for i in range(n):
            for j in range(n):
                F[i, j], G[i, j], H[i, j] = A[s, j, i], 0.0, Q[s, i, j]
                for k in range(p):
                    F[i, j] -= C[s, k, i] * back[k, n + j]
                    G[i, j] += C[s, k, i] * back[k, j]
                    H[i, j] -= S[s, i, k] * back[k, n + j]
        for _ in range(most):
            _product(G, H, W, n, n, n, 0)
            for i in range(n):
                W[i, i] += 1.0
                for j in range(n):
                    Y[i, j], Y[i, n + j] = F[i, j], G[i, j]
            if not _solve(W, Y, n, 2 * n):
                break
            # Fᵀ H W⁻¹F, and F W⁻¹G Fᵀ, halved with their transposes against drift.
            _product(H, Y, Z, n, n, n, 0)
            change, size = 0.0, 0.0
            for i in range(n):
                for j in range(n):
                    total = 0.0
                    for k in range(n):
                        total += F[k, i] * Z[k, j]
                    W[i, j] = total
            for i in range(n):
                for j in range(n):
                    step = 0.5 * (W[i, j] + W[j, i])
                    H[i, j] += step
                    change += step * step
                    size += H[i, j] * H[i, j]
            _product(F, Y, Z, n, n, n, n)
            for i in range(n):
                for j in range(n):
                    total = 0.0
                    for k in range(n):
                        total += Z[i, k] * F[j, k]
                    W[i, j] = total
            for i in range(n):
                for j in range(n):
                    G[i, j] += 0.5 * (W[i, j] + W[j, i])
            _product(F, Y, Z, n, n, n, 0)
            F[:] = Z
            if not np.isfinite(size):
                break
            if change <= 1e-30 * size:
                settled[s] = True
                break
        if not settled[s]:
            continue
        # K = (A X Cᵀ + S)(R + C X Cᵀ)⁻¹, transposed.
        for i in range(p):
            for k in range(n):
                total = 0.0
                for j in range(n):
                    total += H[k, j] * C[s, i, j]
                Z[k, 0] = total
            for k in range(n):
                total = S[s, k, i]
                for j in range(n):
                    total += A[s, k, j] * Z[j, 0]
                back[i, k] = total
            for l in range(p):
                total = R[s, l, i]
                for j in range(n):
                    total += C[s, l, j] * Z[j, 0]
                M[l, i] = total
        if not _solve(M, back, p, n):
            settled[s] = False
            continue
        for k in range(n):
            for i in range(p):
                gains[s, k, i] = back[i, k]
