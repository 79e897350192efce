"""S5: one multi-input multi-output diagonal system."""

from __future__ import annotations

import numpy as np
import torch

from statewise.lti import ZOH, Discretisation, legs_normal
from statewise.nn.initialisers import LegSBlocks
from statewise.nn.lti import LTI
from statewise.nn.specs import FFT, Auto, ContinuousDiagonal, Scan


class S5(LTI):
    """x' = λ x + B u, y = 2 Re(C x) + D u with dense B and C and a time step per state.

    D is diagonal, or a matrix where outputs and inputs differ in number. B and C start in the
    eigenbasis V of the HiPPO blocks: B = Vᴴ B₀, C = C₀ V with B₀ and C₀ real LeCun normal.

    Source: Smith et al., Simplified state space layers for sequence modeling (2208.04933).

    Args:
        d_input: input channels.
        d_output: output channels; None for as many as inputs.
        d_state: complex states (half the P of the paper).
        blocks: number of HiPPO blocks, dividing ``d_state``.
        rule: discretisation rule.
        dt_min: smallest initial time step.
        dt_max: largest initial time step.
        simulator: ``Scan()``, ``FFT()`` or ``Auto()``.
        seed: seed of the initial draw, or a NumPy generator.
    """

    def __init__(
        self,
        d_input: int,
        d_output: int | None = None,
        d_state: int = 32,
        *,
        blocks: int = 1,
        rule: Discretisation | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        simulator: Scan | FFT | Auto | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        d_output = d_input if d_output is None else d_output
        poles = ContinuousDiagonal(
            LegSBlocks(blocks), ZOH() if rule is None else rule, dt_min, dt_max, per_state=True
        )
        super().__init__(
            d_input,
            d_output,
            d_state,
            poles=poles,
            simulator=simulator,
            feedthrough="diagonal" if d_output == d_input else True,
            seed=rng,
        )
        size = 2 * d_state // blocks
        vectors = np.kron(np.eye(blocks), legs_normal(size)[1])
        b = vectors.conj().T @ rng.standard_normal((2 * d_state, d_input)) / np.sqrt(d_input)
        c = rng.standard_normal((d_output, 2 * d_state)) @ vectors / np.sqrt(2 * d_state)
        with torch.no_grad():
            for parameter, start in ((self.coupling.B, b), (self.coupling.C, c)):
                parameter.copy_(torch.from_numpy(np.stack([start.real, start.imag], -1)))
