"""S4D: a bank of diagonal single-input single-output systems."""

from __future__ import annotations

import numpy as np

from statewise.lti import ZOH, Discretisation
from statewise.nn.initialisers import ContinuousLaw, S4DLegS
from statewise.nn.lti import LTI
from statewise.nn.specs import FFT, Auto, Bank, ContinuousDiagonal, RealDiagonal, Scan


class S4D(LTI):
    """x' = λ x + B u, y = 2 Re(C x) + D u for each channel, λ = −e^α + iβ.

    Source: Gu et al., On the parameterization and initialization of diagonal state space models
    (2206.11893).

    Args:
        channels: H, inputs and outputs.
        d_state: complex states per channel (half the N of the paper).
        law: initial λ, such as ``S4DLegS()``, ``S4DInv()`` or ``S4DLin()``.
        rule: discretisation rule.
        dt_min: smallest initial time step; one step per channel is trained.
        dt_max: largest initial time step.
        real: real poles −e^α (S4D-Real) instead of complex ones.
        simulator: ``Scan()``, ``FFT()`` or ``Auto()``.
        seed: seed of the initial draw, or a NumPy generator.
    """

    def __init__(
        self,
        channels: int,
        d_state: int = 32,
        *,
        law: ContinuousLaw | None = None,
        rule: Discretisation | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        real: bool = False,
        simulator: Scan | FFT | Auto | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        rule = ZOH() if rule is None else rule
        if real:
            poles = (
                RealDiagonal(rule=rule, dt_min=dt_min, dt_max=dt_max)
                if law is None
                else RealDiagonal(law, rule, dt_min, dt_max)
            )
        else:
            poles = ContinuousDiagonal(S4DLegS() if law is None else law, rule, dt_min, dt_max)
        super().__init__(
            channels,
            channels,
            d_state,
            poles=poles,
            coupling=Bank(),
            simulator=simulator,
            seed=seed,
        )
