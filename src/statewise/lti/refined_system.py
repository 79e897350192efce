"""A system refined by prediction error, with what is known about its errors."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from statewise.lti._coordinates import Matrices, response_sensitivity
from statewise.lti.frequency import boundary
from statewise.lti.state_space import StateSpace, as_tensor


@dataclasses.dataclass(frozen=True, eq=False)
class RefinedSystem:
    """What :func:`~statewise.lti.refine` found, a system in innovation form.

    x_{t+1} = A x_t + B u_t + K e_t,  y_t = C x_t + D u_t + e_t.

    Attributes:
        system: A, B, C and D; states as the predictor had them, of unit covariance at the start.
        K: gain of the innovations, (n, p); 0 for ``noise=False``.
        innovation_covariance: mean of e eᵀ, (p, p).
        x0: first states, (records, n).
        residuals: one-step errors e of each record, (T, p).
        fit: of the simulation from x0, per cent, 100 (1 − ‖y − ŷ‖/‖y − mean(y)‖), (records, p).
        prediction_fit: the same of one-step predictions.
        covariance: of the flattened (A, B, K, C, D), (k, k), singular: within changes orthogonal to
            those of the basis of the states. What does not depend on the basis has its errors in
            :meth:`response_deviation` and :meth:`pole_deviation`.
        n_parameters: dimension of the model, n (m + 2 p) + p m, without K or D that are held.
        loss: det of the innovation covariance, which was minimised.
        samples: N, of all records.
        iterations: steps of the descent.
        converged: whether it ended at a minimum.
        reason: why it ended.
    """

    system: StateSpace
    K: Tensor
    innovation_covariance: Tensor
    x0: Tensor
    residuals: list[Tensor]
    fit: Tensor
    prediction_fit: Tensor
    covariance: Tensor
    n_parameters: int
    loss: float
    samples: int
    iterations: int
    converged: bool
    reason: str

    @property
    def predictor(self) -> StateSpace:
        """The one-step predictor from (u_t, y_t) to ŷ_t: A − K C, [B − K D, K], C, [D, 0]."""
        A, B, C, D = self.system.matrices
        inputs = torch.cat((B - self.K @ D, self.K), -1)
        direct = torch.cat((D, D.new_zeros(len(D), len(D))), -1)
        return StateSpace(A - self.K @ C, inputs, C, direct, self.system.dt)

    @property
    def noise(self) -> StateSpace:
        """From the innovations to the output: A, K, C and 1."""
        A, _, C, D = self.system.matrices
        return StateSpace(A, self.K, C, torch.eye(len(D), dtype=D.dtype), self.system.dt)

    @property
    def aic(self) -> float:
        """N log(loss) + 2 d."""
        return self.samples * math.log(self.loss) + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """N log(loss) + d log N."""
        return self.samples * math.log(self.loss) + self.n_parameters * math.log(self.samples)

    def response_deviation(self, frequency: Any) -> Tensor:
        """Standard deviation of the frequency response, √E|G − E G|², by linearisation.

        Args:
            frequency: ω in radians per unit of time, (F,).

        Returns:
            (F, p, m).
        """
        points = boundary(self.system, as_tensor("frequency", frequency).to(torch.float64))
        _, J = response_sensitivity(self._matrices, points)
        spread = torch.einsum("fock,kl,focl->foc", J, self.covariance.to(J.dtype), J.conj())
        return spread.real.clamp_min(0).sqrt()

    def pole_deviation(self) -> tuple[Tensor, Tensor]:
        """The poles, (n,), and their standard deviations √E|λ − E λ|², by linearisation."""
        A = self.system.A
        poles, right = torch.linalg.eig(A)
        left = torch.linalg.inv(right)
        J = torch.einsum("ki,jk->kij", left, right).flatten(1)
        spread = (J @ self.covariance[: A.numel(), : A.numel()].to(J.dtype) * J.conj()).sum(1)
        return poles, spread.real.clamp_min(0).sqrt()

    @property
    def _matrices(self) -> Matrices:
        A, B, C, D = self.system.matrices
        return A, B, self.K, C, D

    def __repr__(self) -> str:
        fit = ", ".join(f"{value:.4g}" for value in self.fit.mean(0).tolist())
        end = "converged" if self.converged else "not converged"
        return (
            f"RefinedSystem({self.system!r}, mean fit [{fit}] %, {end} after {self.iterations} "
            f"iterations)"
        )
