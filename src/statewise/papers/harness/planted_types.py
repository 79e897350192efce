"""Couplings whose types are those that were planted, so that strengths alone are fitted."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import softplus

from statewise.inference import CouplingPrior
from statewise.papers.harness.spikes import Spikes


@dataclasses.dataclass(frozen=True, eq=False)
class KnownTypes(CouplingPrior):
    """w_s = strength_s · type_s with types that are given: what one-hot couplings can reach.

    Attributes:
        types: −1, 0 or 1, (S, N, N).
    """

    types: Tensor

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Strengths |w|."""
        return {"strength": torch.log(torch.expm1(weight.abs().clamp_min(0.05)))}

    def couplings(self, parameters: dict[str, Tensor], *, hard: bool = True) -> Tensor:
        """Strength times type."""
        return softplus(parameters["strength"]) * self.types

    def log_prior(self, parameters: dict[str, Tensor]) -> Tensor:
        """Zero."""
        return parameters["strength"].new_zeros(())


def planted_types(data: Spikes) -> KnownTypes:
    """Those of a planted network."""
    return KnownTypes(torch.as_tensor(data.weight).sign())
