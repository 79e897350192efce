"""The autoregressive model with inputs: the linear baseline of system identification."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from statewise.data import Experiments
from statewise.estimators._inputs import as_arrays
from statewise.estimators._least_squares import Orders
from statewise.estimators.linear import LinearIdentifier

Array = npt.NDArray[np.float64]

ORDERS = (1, 2, 3, 4, 6, 8, 10)


class ARX(LinearIdentifier):
    """y(t) = Σ_{k=1..na} a[k−1] y(t−k) + Σ_{k=0..nb−1} b[k] u(t−nk−k) + intercept + e(t).

    Regularised least squares on standardised signals, several inputs and outputs (a[k] is a
    matrix), several records, missing samples left out. Least squares minimises the one-step
    error; the free run on the model's own outputs is what ``simulate`` gives.

    Before a record, signals count as their training mean. In a record with ``skip > 0`` the first
    ``skip`` measured outputs set the initial state. In ``simulate(u, x0)`` the initial state is
    the last outputs before ``u``, (m, n_y), the newest last, or a pair of the last outputs and
    the last inputs. A missing output counts as its one-step prediction. The free run of an
    unstable model is clipped at 10⁶ standard deviations; ``stable_`` says so.

    Args:
        na: number of past outputs; None chooses among 1 to 10 on data left out.
        nb: number of inputs; None chooses among 1 to 10 (0 when the records have no inputs).
        nk: delay of the first input in samples.
        ridge: penalty on the standardised coefficients, relative to the mean squared error; None
            chooses on data left out.
        bias: whether to fit the intercept.
        folds: number of parts of the cross-validation that chooses what is None when ``fit`` gets
            no validation data.

    Attributes:
        a_: (na, n_y, n_y) in physical units. b_: (nb, n_y, n_u) in physical units.
        na_, nb_: the orders in use.
        poles_: (na·n_y,) complex, largest modulus first.
        stable_: whether all poles lie inside the unit circle.
    """

    a_: Array
    b_: Array
    na_: int
    nb_: int
    poles_: npt.NDArray[np.complex128]
    stable_: bool

    def __init__(
        self,
        na: int | None = None,
        nb: int | None = None,
        nk: int = 0,
        ridge: float | None = None,
        bias: bool = True,
        folds: int = 5,
    ) -> None:
        self.na = na
        self.nb = nb
        self.nk = nk
        self.ridge = ridge
        self.bias = bias
        self.folds = folds

    def _candidates(self, experiments: Experiments) -> list[Orders]:
        if not experiments.n_u and self.nb:
            raise ValueError(f"nb is {self.nb}, but the records have no inputs: use nb=0")
        outputs = ORDERS if self.na is None else (self.na,)
        inputs = ORDERS if self.nb is None else (self.nb,)
        pairs = [(na, nb) for na in outputs for nb in (inputs if experiments.n_u else (0,))]
        return [Orders(na, nb, self.nk) for na, nb in sorted(pairs, key=sum)]

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("na", "nb", "nk"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if self.na == 0 and self.nb == 0:
            raise ValueError("ARX with na=0 and nb=0 has nothing to regress on")

    def _publish(self) -> None:
        self.a_, self.b_, _ = self.equation_.physical()
        self.na_, self.nb_ = self.equation_.orders.na, self.equation_.orders.nb
        self.poles_ = self.equation_.poles()
        self.stable_ = self.equation_.stable

    def _simulate_array(self, u: Array, x0: Any) -> Array:
        n_y = len(self.output_names_)
        past_y, past_u = x0 if isinstance(x0, tuple) else (x0, None)
        checked = []
        for past, n, what in ((past_y, n_y, "outputs"), (past_u, u.shape[1], "inputs")):
            array = None if past is None else as_arrays(past, "x0")[0][0]
            if array is not None and array.shape[1] != n:
                raise ValueError(f"x0 holds the last {what}, (m, {n}), got {array.shape}")
            checked.append(array)
        return self.equation_.outputs(
            u, np.full((len(u), n_y), np.nan), None, past_y=checked[0], past_u=checked[1]
        )
