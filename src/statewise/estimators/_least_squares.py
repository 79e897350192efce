"""Ridge regression of a linear difference equation on records, in float64, through QR.

The regression matrix is never formed whole: blocks of rows are folded into one triangular factor,
from which every ridge, and every smaller model, is solved. Working on the factor and not on the
normal equations keeps the condition number unsquared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Orders:
    """y(t) depends on y(t−1..t−na) and u(t−nk..t−nk−nb+1)."""

    na: int
    nb: int
    nk: int = 0

    @property
    def history(self) -> int:
        """Number of samples before t that the regressors reach back to."""
        return max(self.na, self.nb + self.nk - 1 if self.nb else 0)

    def columns(self, n_y: int, n_u: int) -> int:
        """Number of regressors, the constant not counted."""
        return self.na * n_y + self.nb * n_u


@dataclasses.dataclass(frozen=True, eq=False)
class TriangularFactor:
    """QR factor of [1 | X | Y] over all complete rows of the records.

    A row counts when it lies after ``skip``, its history lies in the record, no regressor is
    missing and the output is there. Outputs that miss different rows get factors of their own.

    Attributes:
        orders: the largest model.
        bias: whether the constant is a regressor.
        n_y, n_u: numbers of channels.
        parts: one factor for all outputs, or one for each: (outputs, factor, number of rows).
    """

    orders: Orders
    bias: bool
    n_y: int
    n_u: int
    parts: tuple[tuple[tuple[int, ...], Array, int], ...]

    @classmethod
    def of(
        cls,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        skips: Sequence[int],
        orders: Orders,
        bias: bool,
    ) -> Self:
        """Fold records into a factor.

        Args:
            inputs: (L, n_u) per record, scaled, NaN where missing.
            outputs: (L, n_y) per record, scaled, NaN where missing.
            skips: leading samples of each record that are history only.
            orders: the largest model.
            bias: whether to have the constant regressor.

        Returns:
            The factor.
        """
        n_u, n_y = inputs[0].shape[1], outputs[0].shape[1]
        records = list(zip(inputs, outputs, skips, strict=True))
        same = all((np.isnan(y).all(1) == np.isnan(y).any(1)).all() for y in outputs)
        groups = [tuple(range(n_y))] if same else [(i,) for i in range(n_y)]
        parts = tuple((group, *_reduce(records, orders, bias, group)) for group in groups)
        return cls(orders, bias, n_y, n_u, parts)

    @classmethod
    def combine(cls, factors: Sequence[Self]) -> Self:
        """Give the factor of all rows that went into any of ``factors`` (same orders)."""
        first = factors[0]
        if any(len(factor.parts) != len(first.parts) for factor in factors):
            factors = [factor._by_output() for factor in factors]
        parts = []
        for same in zip(*(factor.parts for factor in factors), strict=True):
            stacked = np.concatenate([r for _, r, _ in same])
            rows = sum(rows for _, _, rows in same)
            parts.append((same[0][0], _triangle(stacked), rows))
        return dataclasses.replace(first, parts=tuple(parts))

    def _by_output(self) -> Self:
        """Give the same factor as one for each output."""
        if len(self.parts) == self.n_y:
            return self
        [(group, r, rows)] = self.parts
        width = r.shape[1] - len(group)
        parts = [
            ((i,), _triangle(np.concatenate([r[:, :width], r[:, width + i, None]], 1)), rows)
            for i in group
        ]
        return dataclasses.replace(self, parts=tuple(parts))

    @property
    def rows(self) -> int:
        """Number of complete rows, of the output that has the fewest."""
        return min(rows for _, _, rows in self.parts)

    def solve(self, orders: Orders, ridges: Sequence[float]) -> list[tuple[Array, Array, Array]]:
        """Minimise mean‖y − a·y_past − b·u_past − c‖² + ridge (‖a‖² + ‖b‖²) for every ridge.

        With ridge 0 and dependent regressors the answer of least norm is given.

        Args:
            orders: a model within ``self.orders``, with the same ``nk``.
            ridges: the penalties, dimensionless since the signals are scaled; c is not penalised.

        Returns:
            For every ridge a (na, n_y, n_y), b (nb, n_y, n_u) and c (n_y,).

        Raises:
            ValueError: no complete row.
        """
        if not self.rows:
            raise ValueError(
                f"the training data have no stretch of more than {self.orders.history} samples "
                f"without a gap, which the model needs"
            )
        chosen = self._columns(orders)
        weights = [np.zeros((len(chosen), self.n_y)) for _ in ridges]
        constants = [np.zeros(self.n_y) for _ in ridges]
        first = int(self.bias)
        width = first + self.orders.columns(self.n_y, self.n_u)
        for outputs, factor, rows in self.parts:
            group = np.array(outputs)
            part = np.concatenate([factor[:, :first], factor[:, first + chosen]], axis=1)
            p = part.shape[1]
            r = _triangle(np.concatenate([part, factor[:, width:]], axis=1))
            left, s, right = np.linalg.svd(r[first:p, first:p])
            target = left.T @ r[first:p, p:]
            floor = s[0] * np.finfo(float).eps * max(rows, p) if s.size else 0.0
            for index, ridge in enumerate(ridges):
                gain = np.where(s > floor, s, 0.0) / np.where(s > floor, s**2 + ridge * rows, 1.0)
                w = right.T @ (gain[:, None] * target)
                weights[index][:, group] = w
                if self.bias:
                    constants[index][group] = (r[0, p:] - r[0, 1:p] @ w) / r[0, 0]
        split = orders.na * self.n_y
        return [
            (
                np.ascontiguousarray(
                    w[:split].reshape(orders.na, self.n_y, self.n_y).transpose(0, 2, 1)
                ),
                np.ascontiguousarray(
                    w[split:].reshape(orders.nb, self.n_u, self.n_y).transpose(0, 2, 1)
                ),
                c,
            )
            for w, c in zip(weights, constants, strict=True)
        ]

    def _columns(self, orders: Orders) -> npt.NDArray[np.int64]:
        """Places of the regressors of a smaller model; lags are stored newest first."""
        if orders.na > self.orders.na or orders.nb > self.orders.nb or orders.nk != self.orders.nk:
            raise ValueError(f"{orders} is not part of {self.orders}")
        past_y = np.arange(orders.na * self.n_y)
        past_u = self.orders.na * self.n_y + np.arange(orders.nb * self.n_u)
        return np.concatenate([past_y, past_u])


def _reduce(
    records: Sequence[tuple[Array, Array, int]],
    orders: Orders,
    bias: bool,
    outputs: tuple[int, ...],
) -> tuple[Array, int]:
    """Factor of [1 | X | Y] for some outputs, and the number of complete rows."""
    n_u, n_y = records[0][0].shape[1], records[0][1].shape[1]
    width = int(bias) + orders.columns(n_y, n_u) + len(outputs)
    block = max(4096, 2 * width)
    factor, rows = np.zeros((0, width)), 0
    for u, y, skip in records:
        for start in range(max(skip, orders.history), len(y), block):
            stop = min(start + block, len(y))
            parts = [np.ones((stop - start, 1))] if bias else []
            parts += [y[start - k : stop - k] for k in range(1, orders.na + 1)]
            parts += [u[start - k : stop - k] for k in range(orders.nk, orders.nk + orders.nb)]
            matrix = np.concatenate([*parts, y[start:stop, list(outputs)]], axis=1)
            matrix = matrix[~np.isnan(matrix).any(axis=1)]
            rows += len(matrix)
            factor = np.asarray(np.linalg.qr(np.concatenate([factor, matrix]), mode="r"))
    return _triangle(factor), rows


def _triangle(matrix: Array) -> Array:
    """Square upper triangular R with RᵀR = matrixᵀ matrix."""
    width = matrix.shape[1]
    r = np.asarray(np.linalg.qr(matrix, mode="r"))
    return np.concatenate([r, np.zeros((width - len(r), width))])
