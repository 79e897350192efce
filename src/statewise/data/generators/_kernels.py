"""Compiled fixed-step integrators; imported on first use, because numba is slow to import."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def duffing(u, omega, zeta, cubic, step, substeps, start, velocity):
    n = u.shape[0]
    out = np.empty(n)
    y, v = start, velocity
    h = step / substeps
    stiffness, damping = omega * omega, 2.0 * zeta * omega
    for k in range(n):
        out[k] = y
        for _ in range(substeps):
            k1 = stiffness * (u[k] - y - cubic * y**3) - damping * v
            y2, v2 = y + 0.5 * h * v, v + 0.5 * h * k1
            k2 = stiffness * (u[k] - y2 - cubic * y2**3) - damping * v2
            y3, v3 = y + 0.5 * h * v2, v + 0.5 * h * k2
            k3 = stiffness * (u[k] - y3 - cubic * y3**3) - damping * v3
            y4, v4 = y + h * v3, v + h * k3
            k4 = stiffness * (u[k] - y4 - cubic * y4**3) - damping * v4
            y += h / 6.0 * (v + 2.0 * v2 + 2.0 * v3 + v4)
            v += h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    return out


@njit(cache=True, nogil=True)
def _tank_rates(x1, x2, inflow, w1, w2, k1, k2, k3, spill, height):
    out1 = math.sqrt(max(x1, 0.0))
    rate1 = inflow + w1 - k1 * out1
    over = 0.0
    if x1 >= height and rate1 > 0.0:
        over = rate1
        rate1 = 0.0
    rate2 = k2 * out1 - k3 * math.sqrt(max(x2, 0.0)) + spill * over + w2
    if x2 >= height and rate2 > 0.0:
        rate2 = 0.0
    return rate1, rate2


@njit(cache=True, nogil=True)
def two_tanks(u, noise, k1, k2, k3, k4, spill, height, step, substeps, start1, start2):
    n = u.shape[0]
    out = np.empty((n, 2))
    x1, x2 = start1, start2
    h = step / substeps
    for k in range(n):
        out[k, 0], out[k, 1] = x1, x2
        q, w1, w2 = k4 * u[k], noise[k, 0], noise[k, 1]
        for _ in range(substeps):
            a1, a2 = _tank_rates(x1, x2, q, w1, w2, k1, k2, k3, spill, height)
            b1, b2 = _tank_rates(
                x1 + 0.5 * h * a1, x2 + 0.5 * h * a2, q, w1, w2, k1, k2, k3, spill, height
            )
            c1, c2 = _tank_rates(
                x1 + 0.5 * h * b1, x2 + 0.5 * h * b2, q, w1, w2, k1, k2, k3, spill, height
            )
            d1, d2 = _tank_rates(x1 + h * c1, x2 + h * c2, q, w1, w2, k1, k2, k3, spill, height)
            x1 += h / 6.0 * (a1 + 2.0 * b1 + 2.0 * c1 + d1)
            x2 += h / 6.0 * (a2 + 2.0 * b2 + 2.0 * c2 + d2)
            # A stage that crosses the rim leaves at most one sub-step of water above it.
            x1 = min(max(x1, 0.0), height)
            x2 = min(max(x2, 0.0), height)
    return out
