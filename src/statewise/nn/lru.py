"""The Linear Recurrent Unit."""

from __future__ import annotations

import math

import numpy as np

from statewise.nn.initialisers import Ring
from statewise.nn.lti import LTI
from statewise.nn.specs import FFT, Auto, DiscreteDiagonal, Scan


class LRU(LTI):
    """x_k = λ ⊙ x_{k−1} + γ ⊙ (B u_k),  y_k = Re(C x_k) + D ⊙ u_k,  λ = exp(−e^ν + i e^θ).

    D is a matrix where outputs and inputs differ in number.

    Source: Orvieto et al., Resurrecting recurrent neural networks for long sequences (2303.06349).

    Args:
        d_input: input channels.
        d_output: output channels; None for as many as inputs.
        d_state: complex states.
        r_min: inner radius of the initial ring.
        r_max: outer radius of the initial ring.
        phase_max: largest initial phase, radians per sample.
        train_gain: train γ from its start √(1 − |λ|²), as in the paper, instead of deriving it
            from λ at every call.
        simulator: ``Scan()``, ``FFT()`` or ``Auto()``.
        seed: seed of the initial draw, or a NumPy generator.
    """

    def __init__(
        self,
        d_input: int,
        d_output: int | None = None,
        d_state: int = 64,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        phase_max: float = 2 * math.pi,
        train_gain: bool = True,
        simulator: Scan | FFT | Auto | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__(
            d_input,
            d_input if d_output is None else d_output,
            d_state,
            poles=DiscreteDiagonal(
                Ring(r_min, r_max, phase_max), "trained" if train_gain else "derived"
            ),
            simulator=simulator,
            feedthrough="diagonal" if d_output in (None, d_input) else True,
            seed=seed,
        )
