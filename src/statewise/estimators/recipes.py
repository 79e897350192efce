"""Recipes: network, training and output transform that go together, by name."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from statewise._config import register
from statewise.estimators.linear_start import LinearStart
from statewise.estimators.transform import OutputTransform, SignedPower
from statewise.models.config import DeepWienerConfig
from statewise.nn.initialisers import LogTimeConstants, Ring
from statewise.nn.specs import DiscreteDiagonal
from statewise.nn.static_specs import ELU, MLP
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
        start: LinearStart() starts the training at a linear model; None at random.
        valid_fraction: last part of the training records kept for validation when there are no
            validation records.
    """

    model: DeepWienerConfig = dataclasses.field(default_factory=DeepWienerConfig)
    training: FitConfig = dataclasses.field(default_factory=FitConfig)
    transform: OutputTransform | None = None
    start: LinearStart | None = None
    valid_fraction: float = 0.2

    def identifier(self, *, seed: int = 0, device: str = "cpu") -> SystemIdentifier:
        """Make the estimator of this recipe."""
        from statewise.estimators.system_identifier import SystemIdentifier

        return SystemIdentifier(
            self.model,
            self.training,
            transform=self.transform,
            start=self.start,
            valid_fraction=self.valid_fraction,
            seed=seed,
            device=device,
        )


RIVER = Recipe(
    model=DeepWienerConfig(
        n_layers=4,
        d_model=16,
        d_state=16,
        poles=DiscreteDiagonal(LogTimeConstants(shortest=1.0, longest=30.0, phase_max=0.1)),
        dropout=0.5,
    ),
    training=FitConfig(
        window=730,
        washout=365,
        batch_size=8,
        steps=500,
        lr=0.04,
        dynamics_factor=0.5,
        weight_decay=0.3,
        eval_every=50,
        keep="last",
        polish_steps=0,
    ),
    transform=SignedPower(power=0.5, floor=0.0),
)
"""Few and noisy samples, memory over decades, outputs that are never negative: daily river flow.

Chosen by cross-validation over the training years of the bundled record alone
(``benchmarks/river_cross_validation.py --choose``).
"""

COMPACT = Recipe(
    model=DeepWienerConfig(
        n_layers=4,
        d_model=3,
        d_state=6,
        poles=DiscreteDiagonal(Ring(r_min=0.5, r_max=0.99, phase_max=math.pi)),
        static=ELU(),
        input_map=False,
        bias=True,
    ),
    training=FitConfig(
        window=512,
        washout=64,
        batch_size=32,
        steps=6000,
        lr=1e-2,
        dynamics_factor=1.0,
        clip=None,
        eval_every=500,
        polish_steps=200,
    ),
)
"""The 358-parameter stack of the deep Wiener card: circuits with plenty of clean samples."""

NONLINEAR = Recipe(
    model=DeepWienerConfig(
        n_layers=4,
        d_model=16,
        d_state=16,
        poles=DiscreteDiagonal(LogTimeConstants(shortest=1.0, longest=30.0, phase_max=0.7)),
        static=MLP(hidden=16),
        direct=True,
    ),
    training=FitConfig(
        window=1024,
        washout=100,
        batch_size=64,
        steps=7000,
        lr=1e-2,
        dynamics_factor=1.0,
        weight_decay=0.1,
        eval_every=100,
        polish_steps=60,
        polish_max_parameters=20_000,
    ),
)
"""A wider stack with small networks between the linear systems: nonlinear laboratory systems."""

RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    "river": RIVER,
    "compact": COMPACT,
    "nonlinear": NONLINEAR,
}
"""The shipped recipes by name."""
