"""How a particle filter moves its particles: by the model, by a proposal, by looking ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor
from torch.distributions import Distribution

if TYPE_CHECKING:
    from statewise.inference.particle import StateSpaceModel


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Particles move by the transition and are weighed by the observation.

    Source: Gordon, Salmond and Smith (1993).
    """

    def look_ahead(self, x: Tensor, y: Tensor, t: int, *u: Tensor) -> Tensor | None:
        """Log-weights (B, N) by which ancestors are chosen, beside their own; None for none."""
        return None

    def propose(
        self, model: StateSpaceModel, x: Tensor | None, y: Tensor, t: int, *u: Tensor
    ) -> Distribution | None:
        """The law that x_t is drawn from given x_{t−1} and y_t; None for the model's own."""
        return None


@dataclasses.dataclass(frozen=True)
class Guided(Bootstrap):
    """Particles move by a proposal that knows y_t; weights make up for it: G = f g / q.

    Attributes:
        proposal: of x_{t−1} (None at t = 0), y_t (B, 1, p) and t, the law of x_t, (B, N, n). Where
            an output is missing it is 0, and the model's own law is taken.

    Source: Doucet, Godsill and Andrieu (2000).
    """

    proposal: Callable[..., Distribution | None]

    def propose(
        self, model: StateSpaceModel, x: Tensor | None, y: Tensor, t: int, *u: Tensor
    ) -> Distribution | None:
        """What the proposal says."""
        return self.proposal(x, y, t, *u)


@dataclasses.dataclass(frozen=True)
class Auxiliary(Bootstrap):
    """Ancestors are chosen by W η with η ≈ p(y_t | x_{t−1}), and weights divided by it.

    Attributes:
        weigh: of x_{t−1}, y_t (B, 1, p) and t, log η (B, N).
        proposal: as for :class:`Guided`, or None.

    Source: Pitt and Shephard (1999).
    """

    weigh: Callable[..., Tensor]
    proposal: Callable[..., Distribution | None] | None = None

    def look_ahead(self, x: Tensor, y: Tensor, t: int, *u: Tensor) -> Tensor | None:
        """Log η."""
        return self.weigh(x, y, t, *u)

    def propose(
        self, model: StateSpaceModel, x: Tensor | None, y: Tensor, t: int, *u: Tensor
    ) -> Distribution | None:
        """What the proposal says."""
        return None if self.proposal is None else self.proposal(x, y, t, *u)
