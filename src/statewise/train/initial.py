"""How a simulation finds the state it starts from, as data."""

from __future__ import annotations

import dataclasses

from statewise._config import register


@register
@dataclasses.dataclass(frozen=True)
class ZeroState:
    """The state of rest; the washout (or the skipped start of a record) lets it settle."""


@register
@dataclasses.dataclass(frozen=True)
class LearnedState:
    """x₀ of every training record is a parameter, trained with the model.

    It serves what starts at the start of a training record, with no washout there. Everything else
    (windows from inside a record, records that were not trained on) starts at rest.
    """


@register
@dataclasses.dataclass(frozen=True)
class EncoderState:
    """A small network maps the first samples of u and y to the state after them.

    x_n = W₂ tanh(W₁ [u_0 … u_{n−1}, y_0 … y_{n−1}] + b₁) + b₂ with missing samples as 0, trained
    with the model. The n samples take the place of the washout.

    Source: Beintema et al., Nonlinear state-space identification using deep encoder networks
    (2012.07697).

    Attributes:
        samples: n, samples that the network sees.
        hidden: width of the network.
    """

    samples: int = 32
    hidden: int = 32

    def __post_init__(self) -> None:
        for name in ("samples", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"EncoderState needs {name} >= 1; given {getattr(self, name)}")


@register
@dataclasses.dataclass(frozen=True)
class LeastSquaresState:
    """The state that explains the first outputs best, found anew whenever it is needed.

    min over x of Σ_k |y_k − ŷ_k(x)|² + ridge·|x|², k < n, by Gauss–Newton steps with damping. The
    n samples take the place of the washout. The gradient of the solution counts in training.

    Attributes:
        samples: n, outputs used; fewer where a record skips fewer.
        iterations: largest number of steps.
        ridge: weight of the state's distance from its start.
    """

    samples: int = 64
    iterations: int = 10
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("samples", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"LeastSquaresState needs {name} >= 1; given {getattr(self, name)}"
                )
        if not self.ridge >= 0:
            raise ValueError(f"LeastSquaresState needs ridge >= 0; given {self.ridge}")


InitialState = ZeroState | LearnedState | EncoderState | LeastSquaresState


def context_samples(spec: InitialState) -> int:
    """Number of samples that a strategy needs in front of the simulation."""
    return spec.samples if isinstance(spec, EncoderState | LeastSquaresState) else 0
