"""A linear system with its noise model between scaled signals: states along records."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LONGEST = 1000
"""Samples at most that set an initial state."""
QUIET = 1e-6
"""Deviation of innovations, relative to that of the output, below which data count as exact."""
GENEROUS = 10.0
"""Factor of the expected deviation of states under white inputs; others excite some more."""


class InnovationForm(NamedTuple):
    """x_{t+1} = A x_t + B u_t + K e_t,  y_t = C x_t + D u_t + e_t.

    Attributes:
        A: (n, n).
        B: (n, m).
        K: (n, p).
        C: (p, n).
        D: (p, m).
    """

    A: Array
    B: Array
    K: Array
    C: Array
    D: Array

    def states(self, u: Array, y: Array | None, x: Array) -> Array:
        """States before every sample, (L, n); with outputs (L, p) those of the predictor.

        A missing output (NaN) counts as its prediction.
        """
        return self.run(u, y, x)[:-1]

    def run(self, u: Array, y: Array | None, x: Array) -> Array:
        """The same and the state behind the last sample, (L + 1, n)."""
        A, B, K, C, D = self
        states = np.empty((len(u) + 1, len(A)))
        states[0] = x
        with np.errstate(over="ignore", invalid="ignore"):
            drive = u @ B.T
            given = np.empty((0, len(C))) if y is None else y - u @ D.T
            known = np.isfinite(given)
            for t in range(len(u)):
                after = A @ x + drive[t]
                if y is not None:
                    after += K @ np.where(known[t], given[t] - C @ x, 0.0)
                states[t + 1] = x = after
        return states

    def settled(self, u: Array, y: Array, noise: Array) -> Array:
        """States through a stretch whose first state is found from its outputs.

        min over x_0 of Σ |e_t/σ|² + |x_0|²_P with the covariance P of states, over the last 1000
        samples; before them the system starts at rest.

        Args:
            u: inputs (L, m).
            y: outputs (L, p), NaN where missing.
            noise: σ, deviation of the innovations, (p,).

        Returns:
            States before every sample and behind the last, (L + 1, n).
        """
        n = len(self.A)
        if not np.isfinite(y).any():
            return self.run(u, None, np.zeros(n))
        first = max(0, len(u) - LONGEST)
        before = self.run(u[:first], None, np.zeros(n))[:-1]
        u, y = u[first:], y[first:]
        # Errors of the predictor from 0, and how each depends on the state before the stretch.
        errors = y - self.states(u, y, np.zeros(n)) @ self.C.T - u @ self.D.T
        power, rows = np.eye(n), []
        for known in np.isfinite(y):
            rows.append(self.C @ power)
            power = (self.A - (self.K * known) @ self.C) @ power
        weight = 1 / np.tile(np.maximum(noise, QUIET), len(u))
        table, target = np.concatenate(rows), errors.ravel()
        seen = np.isfinite(target) & np.isfinite(table).all(1)
        root = self.spread()
        table = np.concatenate([(weight[:, None] * table @ root)[seen], np.eye(n)])
        target = np.concatenate([(weight * target)[seen], np.zeros(n)])
        start = root @ np.linalg.lstsq(table, target, rcond=None)[0]
        return np.concatenate([before, self.run(u, y, start)])

    def spread(self) -> Array:
        """A root of the covariance that states are expected to have before a record, generously.

        Without it, modes that the first outputs hardly show would get states of any size.
        """
        from statewise.lti import StateSpace, controllability_factor, is_stable

        n = len(self.A)
        driven = StateSpace(self.A, np.hstack([self.B, self.K]), np.zeros((0, n)), dt=1.0)
        if not is_stable(driven):
            return 1e3 * np.eye(n)
        return GENEROUS * controllability_factor(driven).numpy()
