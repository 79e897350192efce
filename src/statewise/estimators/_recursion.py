"""Recursions of a linear difference equation on its own or on measured outputs, compiled."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model="numpy")
def recurse(forced, a, past, measured, limit):  # pragma: no cover - compiled
    """ŷ(t) = forced(t) + Σ_k a[k−1] h(t−k), where h is ``measured``, or ŷ where that is NaN.

    All NaN in ``measured`` is the free run; none is one-step prediction.

    Args:
        forced: (L, n) the part that does not depend on outputs.
        a: (na, n, n) coefficients of h(t−1), ..., h(t−na).
        past: (na, n) h before the record, the newest last.
        measured: (L, n), NaN where missing.
        limit: ŷ is clipped to ± this, so that an unstable model stays finite.

    Returns:
        ŷ (L, n), and h with ``past`` in front (na + L, n).
    """
    length, n = forced.shape
    na = a.shape[0]
    filled = np.empty((na + length, n))
    filled[:na] = past
    computed = np.empty((length, n))
    for t in range(length):
        for i in range(n):
            total = forced[t, i]
            for k in range(na):
                for j in range(n):
                    total += a[k, i, j] * filled[na + t - 1 - k, j]
            computed[t, i] = min(max(total, -limit), limit)
        for i in range(n):
            known = measured[t, i]
            filled[na + t, i] = computed[t, i] if np.isnan(known) else known
    return computed, filled


@numba.njit(cache=True, nogil=True, error_model="numpy")
def look_ahead(forced, a, filled, steps, limit):  # pragma: no cover - compiled
    """ŷ(t | t − steps) for t ≥ steps − 1: run freely for ``steps`` from every point of ``filled``.

    Args:
        forced: (L, n) as for :func:`recurse`.
        a: (na, n, n), na ≥ 1.
        filled: (na + L, n) as from :func:`recurse`.
        steps: 1 ≤ steps ≤ L.
        limit: as for :func:`recurse`.

    Returns:
        (L, n); the first ``steps − 1`` rows are the free run from the past in ``filled``.
    """
    length, n = forced.shape
    na = a.shape[0]
    computed = np.empty((length, n))
    window = np.empty((na + steps, n))
    for start in range(length - steps + 1):
        window[:na] = filled[start : start + na]
        for s in range(steps):
            for i in range(n):
                total = forced[start + s, i]
                for k in range(na):
                    for j in range(n):
                        total += a[k, i, j] * window[na + s - 1 - k, j]
                window[na + s, i] = min(max(total, -limit), limit)
        if start == 0:
            computed[: steps - 1] = window[na : na + steps - 1]
        computed[start + steps - 1] = window[na + steps - 1]
    return computed
