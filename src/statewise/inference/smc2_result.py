"""What SMC² found: weighted parameters, and the evidence over time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from statewise.inference.evidence_error import Evidence
from statewise.inference.particle import seeded
from statewise.inference.resampling import Systematic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class SMC2Result:
    """Weighted parameters after the last observation, and how they came about.

    Attributes:
        theta: (M, k).
        log_weights: normalised, (M,).
        log_evidence: log p̂(y_1 … y_t) after each step, (T,).
        standard_error: of it, from the family tree of the θ in this one run, (T,). It is an
            estimate itself, and close to 1 where few ancestors are left: M must be large beside
            the number of times that θ were moved.
        ess: effective number of θ after each observation, before they were moved, (T,).
        acceptance: share of accepted moves at each step, NaN where none were made, (T,).
        particles: N at each step, before a doubling in it, (T,).
        means: posterior means of θ after each step, (T, k).
        states: means of x_t given y_1 … y_t, θ averaged over, (S, T, n).
        names: of the parameters.
    """

    theta: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    standard_error: Tensor
    ess: Tensor
    acceptance: Tensor
    particles: Tensor
    means: Tensor
    states: Tensor
    names: tuple[str, ...]

    @property
    def evidence(self) -> Evidence:
        """Log-evidence of all observations with its standard error."""
        return Evidence(self.log_evidence[-1], self.standard_error[-1])

    @property
    def mean(self) -> Tensor:
        """Posterior means of θ, (k,)."""
        return self.log_weights.exp() @ self.theta

    @property
    def cov(self) -> Tensor:
        """Posterior covariance of θ, (k, k)."""
        change = self.theta - self.mean
        return (self.log_weights.exp().unsqueeze(1) * change).mT @ change

    def sample(self, *, seed: int | np.random.Generator = 0) -> Tensor:
        """Draws of θ with even weights, (M, k); some are alike.

        Args:
            seed: of the random numbers.
        """
        with seeded(seed, self.theta.device):
            index = Systematic()(self.log_weights.exp()[None])[0]
        return self.theta[index]

    def plot(self) -> Figure:
        """Means of θ, log-evidence, and the effective number of θ beside N, over time."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 3.2), layout="constrained")
        first, second, third = figure.subplots(1, 3)
        steps = np.arange(1, len(self.log_evidence) + 1)
        for i, name in enumerate(self.names):
            first.plot(steps, self.means[:, i].cpu().numpy(), label=name)
        first.legend()
        first.set_title("posterior means")
        value, error = self.log_evidence.cpu().numpy(), 2 * self.standard_error.cpu().numpy()
        second.plot(steps, value)
        second.fill_between(steps, value - error, value + error, alpha=0.3)
        second.set_title("log-evidence, two standard errors")
        third.plot(steps, self.ess.cpu().numpy(), label="effective number of θ")
        third.step(steps, self.particles.cpu().numpy(), where="post", label="N of each filter")
        moved = torch.isfinite(self.acceptance).cpu().numpy()
        third.plot(steps[moved], self.ess.cpu().numpy()[moved], "k.", label="moved")
        third.legend()
        for axes in (first, second, third):
            axes.set_xlabel("observations")
        return figure
