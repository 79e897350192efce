"""Likelihoods by particles of many parameters side by side, as rows of one filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.inference.particle import Bootstrap, particle_filter
from statewise.inference.prior_law import ModelOf, widened

MethodOf = Callable[[Tensor], Bootstrap]


class Rows(NamedTuple):
    """Rows of a filter: for each of G posteriors, C chains, and the S series behind each."""

    y: Tensor
    u: Tensor | None
    lengths: Tensor | None
    series: int

    @classmethod
    def of(cls, y: Any, u: Any, lengths: Any, chains: int, separate: bool) -> Rows:
        """Check data and repeat them for every chain.

        Raises:
            ValueError: y that is not (S, T, p).
        """
        y = torch.as_tensor(y)
        y = y if y.is_floating_point() else y.double()
        if y.dim() != 3 or 0 in y.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}; it must be (S, T, p), series first")

        def rows(x: Any) -> Tensor | None:
            if x is None:
                return None
            x = torch.as_tensor(x).to(y.device)
            if separate:
                return x.repeat_interleave(chains, 0)
            return x.repeat(chains, *(1,) * (x.dim() - 1))

        found = rows(y)
        assert found is not None
        return cls(found, rows(u), rows(lengths), 1 if separate else len(y))


class RowLikelihood(NamedTuple):
    """Log Ẑ of rows of parameters."""

    model: ModelOf
    data: Rows
    particles: int
    method: Bootstrap | MethodOf | None
    options: dict[str, Any]

    def __call__(self, theta: Tensor, rng: np.random.Generator) -> Tensor:
        """(R,) of θ (R, k); estimates of the series behind a row are multiplied."""
        each = theta.repeat_interleave(self.data.series, 0)
        model = widened(self.model(each), len(each), self.particles)
        method = self.method
        if method is not None and not isinstance(method, Bootstrap):
            method = method(each)
        found = particle_filter(
            model,
            self.data.y,
            self.data.u,
            particles=self.particles,
            method=method,
            lengths=self.data.lengths,
            keep="mean",
            seed=rng,
            **self.options,
        )
        total = found.log_likelihood.double().reshape(len(theta), -1).sum(1)
        return torch.where(total.isnan(), -torch.inf, total)
