"""An estimated polynomial model with what is known about its errors."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from statewise.lti.polynomial_model import PolynomialModel
from statewise.lti.state_space import StateSpace, as_tensor


class StandardErrors(NamedTuple):
    """Standard errors of the free coefficients of a polynomial model, without leading ones."""

    a: Tensor
    b: tuple[Tensor, ...]
    c: Tensor
    d: Tensor
    f: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class PolynomialEstimate:
    """What a prediction error method found.

    Attributes:
        model: the polynomials.
        covariance: of the free coefficients, in the order a, b_1 …, c, d, f_1 …: for large
            records, σ² (Σ ψ ψᵀ)⁻¹ with ψ the sensitivities of the errors.
        variance: σ² of the innovations, Σ ε²/(N − parameters − initial conditions).
        residuals: one-step errors ε of each record, (T,).
        prediction_fit: 100 (1 − ‖ε‖/‖y − mean(y)‖), per cent, (records,).
        loss: mean of ε², which was minimised.
        samples: N, of all records.
        iterations: steps of the descent.
        converged: whether it ended at a minimum.
        reason: why it ended.
        starts: loss that each start came to in its first steps; empty for a linear problem.
    """

    model: PolynomialModel
    covariance: Tensor
    variance: float
    residuals: list[Tensor]
    prediction_fit: Tensor
    loss: float
    samples: int
    iterations: int
    converged: bool
    reason: str
    starts: dict[str, float]

    @property
    def system(self) -> StateSpace:
        """From the inputs to the output."""
        return self.model.system

    @property
    def noise(self) -> StateSpace:
        """From the innovations to the output."""
        return self.model.noise

    @property
    def n_parameters(self) -> int:
        """Number of free coefficients d."""
        return len(self.covariance)

    @property
    def aic(self) -> float:
        """N log(loss) + 2 d."""
        return self.samples * math.log(self.loss) + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """N log(loss) + d log N."""
        return self.samples * math.log(self.loss) + self.n_parameters * math.log(self.samples)

    @property
    def fpe(self) -> float:
        """Akaike's final prediction error: loss (N + d)/(N − d)."""
        n, d = self.samples, self.n_parameters
        return self.loss * (n + d) / max(n - d, 1)

    @property
    def standard_errors(self) -> StandardErrors:
        """Square roots of the diagonal of the covariance, by polynomial."""
        model = self.model
        sizes = [len(model.a) - 1, *(len(b) for b in model.b), len(model.c) - 1, len(model.d) - 1]
        sizes += [len(f) - 1 for f in model.f]
        parts = self.covariance.diagonal().clamp_min(0).sqrt().split(sizes)
        m = model.n_inputs
        return StandardErrors(
            parts[0], parts[1 : m + 1], parts[m + 1], parts[m + 2], parts[m + 3 :]
        )

    def response_deviation(self, frequency: Any) -> Tensor:
        """Standard deviation of the frequency response, √E|G − E G|², by linearisation.

        Args:
            frequency: ω in radians per unit of time, (F,).

        Returns:
            (F, 1, m), of the responses from the inputs to the output.
        """
        model = self.model
        angle = as_tensor("frequency", frequency).to(torch.float64) * model.dt
        back = torch.polar(torch.ones_like(angle), -angle)

        def powers(start: int, count: int) -> Tensor:
            return back[:, None] ** torch.arange(start, start + count)

        def value(poly: Tensor) -> Tensor:
            return powers(0, len(poly)) @ poly.to(back.dtype)

        a, noise = value(model.a), len(model.c) + len(model.d) - 2
        columns = []
        for i, (b, f, k) in enumerate(zip(model.b, model.f, model.nk, strict=True)):
            below = value(f)
            gain = value(b) * back**k / (a * below)
            parts = [-(gain / a)[:, None] * powers(1, len(model.a) - 1)]
            for j, other in enumerate(model.b):
                own = (back**k / (a * below))[:, None] * powers(0, len(b))
                parts.append(own if i == j else back.new_zeros(len(back), len(other)))
            parts.append(back.new_zeros(len(back), noise))
            for j, other in enumerate(model.f):
                own = -(gain / below)[:, None] * powers(1, len(f) - 1)
                parts.append(own if i == j else back.new_zeros(len(back), len(other) - 1))
            J = torch.cat(parts, 1)
            columns.append(((J @ self.covariance.to(J.dtype)) * J.conj()).sum(1).real)
        if not columns:
            return angle.new_zeros(len(angle), 1, 0)
        return torch.stack(columns, 1)[:, None].clamp_min(0).sqrt()

    def __repr__(self) -> str:
        end = "converged" if self.converged else "not converged"
        return (
            f"PolynomialEstimate({self.model!r}, loss {self.loss:.4g}, {end} after "
            f"{self.iterations} iterations)"
        )
