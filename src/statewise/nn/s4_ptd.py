"""S4-PTD and S5-PTD: diagonal layers that start from a perturbed, then diagonalised operator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from statewise.lti import (
    ZOH,
    Discretisation,
    HiPPO,
    LegS,
    perturb_then_diagonalise,
)
from statewise.nn.initialisers import GivenContinuous
from statewise.nn.lti import LTI
from statewise.nn.specs import FFT, Auto, Bank, ContinuousDiagonal, Scan


class S4PTD(LTI):
    """S4D whose start has the transfer function of S4: x' = λ x + B u, y = 2 Re(C x) + D u.

    λ, B = V⁻¹ B₀ and C = C₀ V diagonalise A + E of :func:`~statewise.lti.perturb_then_diagonalise`,
    the same for every channel; C₀ is real standard normal.

    Source: Yu et al., Robustifying state-space models for long sequences via approximate
    diagonalization (2310.01698).

    Args:
        channels: H, inputs and outputs.
        d_state: complex states per channel (half the size of A).
        measure: where A and B₀ come from.
        perturbation: spectral norm of E; smaller is closer to A and worse conditioned.
        rule: discretisation rule.
        dt_min: smallest initial time step; one step per channel is trained.
        dt_max: largest initial time step.
        simulator: ``Scan()``, ``FFT()`` or ``Auto()``.
        seed: seed of the initial draw, or a NumPy generator.
    """

    def __init__(
        self,
        channels: int,
        d_state: int = 32,
        *,
        measure: HiPPO | None = None,
        perturbation: float = 0.1,
        rule: Discretisation | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        simulator: Scan | FFT | Auto | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        a, b = (LegS() if measure is None else measure).operator(2 * d_state)
        form = perturb_then_diagonalise(a, perturbation, seed=rng)
        poles = ContinuousDiagonal(
            _law(form.poles), ZOH() if rule is None else rule, dt_min, dt_max
        )
        super().__init__(
            channels,
            channels,
            d_state,
            poles=poles,
            coupling=Bank(),
            simulator=simulator,
            seed=rng,
        )
        drive = np.broadcast_to(form.inverse @ b, (channels, d_state))
        read = rng.standard_normal((channels, 2 * d_state)) @ form.vectors
        _set(self.coupling.B, drive)
        _set(self.coupling.C, read)


class S5PTD(LTI):
    """S5 that starts from A + E instead of the normal part of A, with B = V⁻¹ B₀ and C = C₀ V.

    B₀ and C₀ are real LeCun normal. Every block has its own E.

    Source: Yu et al., Robustifying state-space models for long sequences via approximate
    diagonalization (2310.01698).

    Args:
        d_input: input channels.
        d_output: output channels; None for as many as inputs.
        d_state: complex states (half the size of A, over all blocks).
        measure: where A comes from.
        blocks: number of blocks, dividing ``d_state``.
        perturbation: spectral norm of E; smaller is closer to A and worse conditioned.
        rule: discretisation rule.
        dt_min: smallest initial time step.
        dt_max: largest initial time step.
        simulator: ``Scan()``, ``FFT()`` or ``Auto()``.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: blocks that do not divide the states.
    """

    def __init__(
        self,
        d_input: int,
        d_output: int | None = None,
        d_state: int = 32,
        *,
        measure: HiPPO | None = None,
        blocks: int = 1,
        perturbation: float = 0.1,
        rule: Discretisation | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        simulator: Scan | FFT | Auto | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        if blocks < 1 or d_state % blocks:
            raise ValueError(f"{blocks} blocks do not divide {d_state} complex states")
        rng = np.random.default_rng(seed)
        d_output = d_input if d_output is None else d_output
        a, _ = (LegS() if measure is None else measure).operator(2 * d_state // blocks)
        forms = [perturb_then_diagonalise(a, perturbation, seed=rng) for _ in range(blocks)]
        poles = ContinuousDiagonal(
            _law(np.concatenate([form.poles for form in forms])),
            ZOH() if rule is None else rule,
            dt_min,
            dt_max,
            per_state=True,
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
        inward = rng.standard_normal((2 * d_state, d_input)) / np.sqrt(d_input)
        outward = rng.standard_normal((d_output, 2 * d_state)) / np.sqrt(2 * d_state)
        rows, columns = np.split(inward, blocks), np.split(outward, blocks, 1)
        _set(
            self.coupling.B,
            np.concatenate([f.inverse @ part for f, part in zip(forms, rows, strict=True)]),
        )
        _set(
            self.coupling.C,
            np.concatenate([part @ f.vectors for f, part in zip(forms, columns, strict=True)], 1),
        )


def _law(poles: np.ndarray) -> GivenContinuous:
    return GivenContinuous(tuple(np.real(poles).tolist()), tuple(np.imag(poles).tolist()))


def _set(parameter: Tensor, start: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.stack([np.real(start), np.imag(start)], -1)))
