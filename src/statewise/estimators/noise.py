"""The error of a simulation as an autoregressive process, for prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


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
        """P."""
        return self.coefficients.shape[1]

    @classmethod
    def fit(cls, errors: Sequence[Array], max_order: int = 10) -> ErrorModel:
        """Least squares with the order chosen by the Bayesian information criterion.

        Args:
            errors: simulation errors of each record (L, n_y), NaN where unknown.
            max_order: largest order tried; one order serves all outputs.

        Returns:
            The model. With fewer than ten known errors per coefficient, shorter orders are tried.
        """
        n_y = errors[0].shape[1]
        best: tuple[float, ErrorModel] | None = None
        for order in range(max_order + 1):
            # Every order is judged on the same targets, those that the longest order can reach.
            fitted = [_least_squares(errors, channel, order, max_order) for channel in range(n_y)]
            if any(rows < 10 * max(order, 1) for _, _, rows in fitted) and best is not None:
                break
            model = cls(
                np.stack([phi for phi, _, _ in fitted]).reshape(n_y, order),
                np.array([variance for _, variance, _ in fitted]),
            )
            criterion = sum(
                rows * np.log(max(variance, np.finfo(float).tiny)) + order * np.log(max(rows, 2))
                for _, variance, rows in fitted
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
        if self.order == 0:
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


def _least_squares(
    errors: Sequence[Array], channel: int, order: int, first: int
) -> tuple[Array, float, int]:
    targets, regressors = [], []
    for record in errors:
        e = record[:, channel]
        if len(e) <= first:
            continue
        lags = [e[first - lag : len(e) - lag] for lag in range(1, order + 1)]
        columns = np.stack(lags, axis=1) if lags else np.empty((len(e) - first, 0))
        target = e[first:]
        keep = np.isfinite(target) & np.isfinite(columns).all(axis=1)
        targets.append(target[keep])
        regressors.append(columns[keep])
    target = np.concatenate(targets) if targets else np.empty(0)
    if len(target) == 0:
        return np.zeros(order), 0.0, 0
    columns = np.concatenate(regressors)
    phi = np.zeros(0)
    if order:
        phi = np.asarray(np.linalg.lstsq(columns, target, rcond=None)[0], dtype=np.float64)
    return phi, float(np.mean((target - columns @ phi) ** 2)), len(target)


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
