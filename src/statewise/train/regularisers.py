"""What training adds to the loss so that linear layers need few states, as data."""

from __future__ import annotations

import dataclasses
from typing import Any

from statewise._config import register


@register
@dataclasses.dataclass(frozen=True)
class HankelNuclear:
    """weight · Σ_layers Σ_j σ_j: the Hankel singular values of the linear layers.

    Small values are pushed to 0, as singular values are by the nuclear norm, and the states behind
    them can be taken out with :func:`statewise.compress.reduce`. It acts on ``LTI`` layers, such as
    LRU, S4D and S5, without their direct terms.

    Source: Forgione, Mejari & Piga, Model order reduction of deep structured state-space models
    (2403.14833).

    Attributes:
        weight: factor of the sum, not negative, to be compared with a loss of 1 for a model that
            predicts the mean.

    Raises:
        ValueError: a negative weight.
    """

    weight: float = 1e-2

    def __post_init__(self) -> None:
        _check_weight(self)

    def penalty(self, model: Any) -> Any:
        """The term for a model, a differentiable number in float64.

        Raises:
            ValueError: a model without linear layers.
        """
        from statewise.train.penalties import hankel_sum, linear_layers

        return self.weight * sum(hankel_sum(layer) for layer in linear_layers(model))


@register
@dataclasses.dataclass(frozen=True)
class ModalL1:
    """weight · Σ_layers Σ_i |λ_i|: the moduli of the discrete poles of the linear layers.

    Poles are pushed towards 0, where a mode is gone after a sample or two; what is left of it can
    be taken out with :class:`~statewise.compress.ModalSingularPerturbation`. A pole that stands for
    a conjugate pair counts once.

    Source: as :class:`HankelNuclear`.

    Attributes:
        weight: factor of the sum, not negative.

    Raises:
        ValueError: a negative weight.
    """

    weight: float = 1e-2

    def __post_init__(self) -> None:
        _check_weight(self)

    def penalty(self, model: Any) -> Any:
        """The term for a model, a differentiable number in float64.

        Raises:
            ValueError: a model without linear layers.
        """
        from statewise.train.penalties import linear_layers, modulus_sum

        return self.weight * sum(modulus_sum(layer) for layer in linear_layers(model))


def _check_weight(regulariser: HankelNuclear | ModalL1) -> None:
    if not regulariser.weight >= 0:
        name = type(regulariser).__name__
        raise ValueError(f"{name} needs weight >= 0; given {regulariser.weight}")


Regulariser = HankelNuclear | ModalL1
