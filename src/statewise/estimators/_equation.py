"""A linear difference equation between scaled signals: simulate, predict, poles."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from statewise.data import Record
from statewise.estimators._least_squares import Orders
from statewise.estimators._recursion import look_ahead, recurse

Array = npt.NDArray[np.float64]

LIMIT = 1e6  # standard deviations; where the output of an unstable model stops


@dataclasses.dataclass(frozen=True, eq=False)
class DifferenceEquation:
    """y(t) = Σ_{k=1..na} a[k−1] y(t−k) + Σ_{k=0..nb−1} b[k] u(t−nk−k) + c + e(t), scaled signals.

    Scaled means (signal − mean) / std with the stored values; a missing input counts as its mean.

    Attributes:
        orders: na, nb and nk.
        a: (na, n_y, n_y). b: (nb, n_y, n_u). c: (n_y,).
        u_mean, u_std: (n_u,). y_mean, y_std: (n_y,).
    """

    orders: Orders
    a: Array
    b: Array
    c: Array
    u_mean: Array
    u_std: Array
    y_mean: Array
    y_std: Array

    def outputs(
        self,
        u: Array,
        y: Array,
        steps: int | None,
        past_u: Array | None = None,
        past_y: Array | None = None,
    ) -> Array:
        """Compute outputs from inputs and whatever outputs are known.

        Args:
            u: (L, n_u) in physical units, NaN where missing.
            y: (L, n_y) in physical units; NaN where missing or not to be used.
            steps: None runs on ``y`` where known and on the own output elsewhere, k predicts
                k steps ahead.
            past_u: (m, n_u) inputs before the record, the newest last; what is not given counts
                as the mean.
            past_y: (m, n_y) outputs before the record, likewise.

        Returns:
            (L, n_y) in physical units, within ±``LIMIT`` standard deviations of the mean.
        """
        if not len(y):
            return np.zeros((0, len(self.c)))
        orders = self.orders
        reach = orders.nb + orders.nk - 1 if orders.nb else 0
        padded = np.concatenate(
            [
                _past(past_u, reach, self.u_mean, self.u_std),
                np.nan_to_num((u - self.u_mean) / self.u_std),
            ]
        )
        forced = np.tile(self.c, (len(y), 1))
        for k, gain in enumerate(self.b):
            start = reach - orders.nk - k
            forced += padded[start : start + len(y)] @ gain.T
        if not orders.na:
            return np.clip(forced, -LIMIT, LIMIT) * self.y_std + self.y_mean
        past = _past(past_y, orders.na, self.y_mean, self.y_std)
        measured = np.ascontiguousarray((y - self.y_mean) / self.y_std)
        computed, filled = recurse(forced, self.a, past, measured, LIMIT)
        if steps is not None and steps > 1:
            computed = look_ahead(forced, self.a, filled, min(steps, len(y)), LIMIT)
            if steps > len(y):
                computed = recurse(forced, self.a, past, np.full_like(measured, np.nan), LIMIT)[0]
        return computed * self.y_std + self.y_mean

    def free_run(self, record: Record) -> Array:
        """Simulate a record from the end of its ``skip`` window on.

        Before that end measured outputs are used, so the first ``skip`` rows are one-step
        predictions.
        """
        known = np.full((len(record), len(self.c)), np.nan)
        if record.n_y:
            known[: record.skip] = record.y[: record.skip]
        return self.outputs(inputs_of(record), known, None)

    def poles(self) -> npt.NDArray[np.complex128]:
        """Eigenvalues of the block companion matrix of a, largest modulus first, (na·n_y,)."""
        na, n = self.orders.na, len(self.c)
        if not na:
            return np.zeros(0, dtype=np.complex128)
        companion = np.eye(na * n, k=-n)
        companion[:n] = self.a.transpose(1, 0, 2).reshape(n, na * n)
        values = np.linalg.eigvals(companion).astype(np.complex128)
        return values[np.argsort(-np.abs(values), kind="stable")]

    @property
    def stable(self) -> bool:
        """Whether all poles lie inside the unit circle."""
        return bool((np.abs(self.poles()) < 1.0).all())

    def physical(self) -> tuple[Array, Array, Array]:
        """Give a, b and the constant for signals in physical units."""
        a = self.a * self.y_std[:, None] / self.y_std
        b = self.b * self.y_std[:, None] / self.u_std
        constant = self.y_mean + self.y_std * self.c
        return a, b, constant - a.sum(0) @ self.y_mean - b.sum(0) @ self.u_mean


def inputs_of(record: Record) -> Array:
    """Inputs (L, n_u), with no columns when the record is autonomous."""
    return np.zeros((len(record), 0)) if record.u is None else record.u


def _past(given: Array | None, n: int, mean: Array, std: Array) -> Array:
    """Scale the newest n samples; those that are not given are at the mean."""
    past = np.zeros((n, len(mean)))
    if given is not None and n:
        newest = np.nan_to_num((given[-n:] - mean) / std)
        past[n - len(newest) :] = newest
    return past
