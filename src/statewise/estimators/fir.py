"""The finite impulse response: the plainest linear model that simulates."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from statewise.data import Experiments
from statewise.estimators._inputs import as_arrays
from statewise.estimators._least_squares import Orders
from statewise.estimators.linear import LinearIdentifier

Array = npt.NDArray[np.float64]

LAGS = (5, 10, 15, 30, 60, 90, 120, 180)


class FIR(LinearIdentifier):
    """Finite impulse response y(t) = Σ_{k=0..lags−1} coef[k] u(t−k) + intercept + e(t).

    Regularised least squares on standardised signals, several inputs and outputs, several
    records, missing samples left out. The model has no feedback, so it is stable, and its
    simulation is its prediction at any number of steps. Inputs before a record, and missing ones,
    count as the training mean. In ``simulate(u, x0)`` the initial state ``x0`` holds the last
    inputs before ``u``, (m, n_u), the newest last.

    Args:
        lags: length of the response in samples; None chooses among 5 to 180 on data left out.
        ridge: penalty on the standardised coefficients, relative to the mean squared error; None
            chooses on data left out.
        bias: whether to fit the intercept.
        folds: number of parts of the cross-validation that chooses what is None when ``fit`` gets
            no validation data.

    Attributes:
        coef_: (lags, n_y, n_u) impulse response in physical units.
        lags_: its length.
    """

    coef_: Array
    lags_: int

    def __init__(
        self,
        lags: int | None = None,
        ridge: float | None = None,
        bias: bool = True,
        folds: int = 5,
    ) -> None:
        self.lags = lags
        self.ridge = ridge
        self.bias = bias
        self.folds = folds

    def _candidates(self, experiments: Experiments) -> list[Orders]:
        if not experiments.n_u:
            raise ValueError("FIR needs inputs; the records have none: use ARX(na=..., nb=0)")
        return [Orders(0, lags) for lags in (LAGS if self.lags is None else (self.lags,))]

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.lags is not None and self.lags < 1:
            raise ValueError(f"lags must be at least 1, or None to choose it, got {self.lags}")

    def _publish(self) -> None:
        self.coef_ = self.equation_.physical()[1]
        self.lags_ = self.equation_.orders.nb

    def _simulate_array(self, u: Array, x0: Any) -> Array:
        past = None
        if x0 is not None:
            past = as_arrays(x0, "x0")[0][0]
            if past.shape[1] != u.shape[1]:
                raise ValueError(f"x0 holds the last inputs, (m, {u.shape[1]}), got {past.shape}")
        unknown = np.full((len(u), len(self.output_names_)), np.nan)
        return self.equation_.outputs(u, unknown, None, past_u=past)
