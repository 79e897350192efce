"""The error of a simulation as an autoregressive process, for prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ENOUGH = 200
"""Known errors of each output that a model can be made of without those of the training data."""


@dataclasses.dataclass(frozen=True, eq=False)
class ErrorModel:
    """e_t = Σ_{i=1}^{p} φ_i e_{t−i} + white noise, for each output on its own.

    A simulation model says nothing about disturbances. Added to its output, the forecast of this
    model gives k-step predictions: ŷ(t | t−k) = y_sim(t) + ê(t | t−k).

    Attributes:
        coefficients: φ, shape (n_y, p), p ≥ 0.
        variance: variance of the white noise, shape (n_y,).
    """

    coefficients: Array
    variance: Array

    @property
    def order(self) -> int:
        """The number p of earlier errors that count."""
        return self.coefficients.shape[1]

    @classmethod
    def fit(cls, errors: Sequence[Array], max_order: int = 10) -> ErrorModel:
        """Least squares with the order chosen by the Bayesian information criterion.

        Args:
            errors: simulation errors of each record (L, n_y), NaN where unknown.
            max_order: largest order tried; one order serves all outputs.

        Returns:
            The model. Orders are tried up to the largest one for which every output has ten
            errors per coefficient whose predecessors are all known.
        """
        longest, rows = max_order, _rows(errors, max_order)
        while longest and any(len(target) < 10 * longest for target, _ in rows):
            longest -= 1
            rows = _rows(errors, longest)
        best: tuple[float, ErrorModel] | None = None
        for order in range(longest + 1):
            # Every order is judged on the same targets, those that the longest order can reach.
            fitted = [_least_squares(target, past[:, :order]) for target, past in rows]
            model = cls(
                np.stack([phi for phi, _ in fitted]), np.array([variance for _, variance in fitted])
            )
            criterion = sum(
                len(target) * np.log(max(variance, np.finfo(float).tiny))
                + order * np.log(max(len(target), 2))
                for (target, _), (_, variance) in zip(rows, fitted, strict=True)
            )
            if best is None or criterion < best[0]:
                best = (float(criterion), model)
        assert best is not None
        return best[1].stabilised()

    def stabilised(self) -> ErrorModel:
        """The same model with poles of modulus above 0.999 pulled back to it."""
        if self.order == 0:
            return self
        rows = []
        for phi in self.coefficients:
            roots = np.roots(np.concatenate([[1.0], -phi]))
            size = np.abs(roots)
            roots = np.where(size > 0.999, roots / np.maximum(size, 1e-300) * 0.999, roots)
            polynomial = np.real(np.poly(roots)) if len(roots) else np.ones(1)
            row = np.zeros(self.order)
            row[: len(polynomial) - 1] = -polynomial[1:]
            rows.append(row)
        return dataclasses.replace(self, coefficients=np.stack(rows))

    def predict(self, errors: Array, steps: int) -> Array:
        """ê(t | t − steps) along a record.

        Args:
            errors: known errors (L, n_y), NaN where unknown; an unknown error enters as its own
                one-step prediction.
            steps: how far ahead, at least 1.

        Returns:
            Predictions (L, n_y); errors before the record count as 0.
        """
        length, n_y = errors.shape
        out = np.zeros((length, n_y))
        if self.order == 0 or steps >= length:
            return out
        for channel in range(n_y):
            phi = self.coefficients[channel]
            known = _fill(errors[:, channel], phi)
            weights = _ahead(phi, steps)
            padded = np.concatenate([np.zeros(steps + self.order - 1), known])
            for lag, weight in enumerate(weights):
                start = self.order - 1 - lag
                out[:, channel] += weight * padded[start : start + length]
        return out

    def forecast(self, errors: Array, horizon: int) -> Array:
        """ê for the ``horizon`` samples after the record, shape (horizon, n_y)."""
        future = np.full((horizon, errors.shape[1]), np.nan)
        extended = np.concatenate([errors, future])
        out = np.zeros_like(future)
        for channel in range(errors.shape[1]):
            if self.order:
                filled = _fill(extended[:, channel], self.coefficients[channel])
                out[:, channel] = filled[len(errors) :]
        return out


def telling_errors(unseen: Sequence[Array], seen: Sequence[Array]) -> list[Array]:
    """The errors that say most about those to come.

    A network fits its training data more closely than new data, and what is left there is smaller
    and whiter than the errors that a prediction will meet.

    Args:
        unseen: errors of each validation record (L, n_y), NaN where unknown; may be empty.
        seen: errors of each training record.

    Returns:
        The validation errors when every output has enough of them, else both.
    """
    counts = [np.isfinite(error).sum(axis=0) for error in unseen]
    if counts and np.sum(counts, axis=0).min() >= ENOUGH:
        return list(unseen)
    return [*unseen, *seen]


def _rows(errors: Sequence[Array], order: int) -> list[tuple[Array, Array]]:
    """For each output the known errors (n,) that follow ``order`` known ones, and those (n, p)."""
    found = []
    for channel in range(errors[0].shape[1]):
        targets, pasts = [], []
        for e in (record[:, channel] for record in errors):
            count = max(len(e) - order, 0)
            lags = [e[order - lag : order - lag + count] for lag in range(order + 1)]
            table = np.stack(lags, axis=1)
            table = table[np.isfinite(table).all(axis=1)]
            targets.append(table[:, 0])
            pasts.append(table[:, 1:])
        found.append((np.concatenate(targets), np.concatenate(pasts)))
    return found


def _least_squares(target: Array, past: Array) -> tuple[Array, float]:
    """Coefficients and the mean square of what they leave; nothing known gives 0."""
    if len(target) == 0:
        return np.zeros(past.shape[1]), 0.0
    phi = np.asarray(np.linalg.lstsq(past, target, rcond=None)[0], dtype=np.float64)
    return phi, float(np.mean((target - past @ phi) ** 2))


def _fill(e: Array, phi: Array) -> Array:
    """Replace unknown errors by their one-step predictions, first to last."""
    gaps = np.flatnonzero(~np.isfinite(e))
    if len(gaps) == 0:
        return e
    order = len(phi)
    padded = np.concatenate([np.zeros(order), e])
    for gap in gaps:
        # The newest error comes first in phi.
        padded[gap + order] = padded[gap : gap + order][::-1] @ phi
    return padded[order:]


def _ahead(phi: Array, steps: int) -> Array:
    """Weights of e_{t−k}, e_{t−k−1}, … in ê(t | t−k): the first row of the companion matrix^k."""
    companion = np.diag(np.ones(len(phi) - 1), -1)
    companion[0] = phi
    return np.linalg.matrix_power(companion, steps)[0]
