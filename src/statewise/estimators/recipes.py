"""Recipes: network, training and output transform that go together, by name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from statewise._config import register
from statewise.estimators.transform import OutputTransform, SignedPower
from statewise.models.config import DeepWienerConfig
from statewise.nn.initialisers import LogTimeConstants, Ring
from statewise.nn.specs import ELU, DiscreteDiagonal
from statewise.train import FitConfig

if TYPE_CHECKING:
    from statewise.estimators.system_identifier import SystemIdentifier


@register
@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that an identification needs besides data and seed.

    Attributes:
        model: size and parts of the network.
        training: settings of the training.
        transform: map of the outputs undone after simulation, or None.
        valid_fraction: last part of the training records kept for validation when there are no
            validation records.
    """

    model: DeepWienerConfig = DeepWienerConfig()
    training: FitConfig = FitConfig()
    transform: OutputTransform | None = None
    valid_fraction: float = 0.2

    def identifier(self, *, seed: int = 0, device: str = "cpu") -> SystemIdentifier:
        """Make the estimator of this recipe."""
        from statewise.estimators.system_identifier import SystemIdentifier

        return SystemIdentifier(
            self.model,
            self.training,
            transform=self.transform,
            valid_fraction=self.valid_fraction,
            seed=seed,
            device=device,
        )
