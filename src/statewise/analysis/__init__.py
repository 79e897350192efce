"""Questions asked of any model or of what it leaves unexplained.

A question takes a model in the layer contract and gives a frozen dataclass with numbers, and with
``plot()`` for a figure. :class:`InUnits` joins a model and its normalisation, so that answers are
in the units of the data. The names below are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.analysis.block_systems import Blocks, BlockSystem, blocks
    from statewise.analysis.effective_memory import ImpulseMemory, Memory, memory
    from statewise.analysis.equilibrium import Equilibria, Equilibrium, equilibria
    from statewise.analysis.incremental import (
        BlockStability,
        IncrementalStability,
        incremental_stability,
    )
    from statewise.analysis.kernels import VolterraKernels, volterra
    from statewise.analysis.l2_gain import BlockGain, Gain, gain
    from statewise.analysis.linearisation import Linearisation, linearise
    from statewise.analysis.lyapunov import LyapunovSpectrum, lyapunov_spectrum
    from statewise.analysis.residuals import (
        InputCorrelation,
        ResidualTest,
        Whiteness,
        input_residual_correlation,
        whiteness,
    )
    from statewise.analysis.sensitivities import InputEffect, Sensitivity, sensitivity
    from statewise.analysis.static_maps import Lipschitz, lipschitz
    from statewise.analysis.units import InUnits

_LAZY = {
    "BlockGain": "l2_gain",
    "BlockStability": "incremental",
    "BlockSystem": "block_systems",
    "Blocks": "block_systems",
    "Equilibria": "equilibrium",
    "Equilibrium": "equilibrium",
    "Gain": "l2_gain",
    "ImpulseMemory": "effective_memory",
    "InUnits": "units",
    "IncrementalStability": "incremental",
    "InputCorrelation": "residuals",
    "InputEffect": "sensitivities",
    "Linearisation": "linearisation",
    "Lipschitz": "static_maps",
    "LyapunovSpectrum": "lyapunov",
    "Memory": "effective_memory",
    "ResidualTest": "residuals",
    "Sensitivity": "sensitivities",
    "VolterraKernels": "kernels",
    "Whiteness": "residuals",
    "blocks": "block_systems",
    "equilibria": "equilibrium",
    "gain": "l2_gain",
    "incremental_stability": "incremental",
    "input_residual_correlation": "residuals",
    "linearise": "linearisation",
    "lipschitz": "static_maps",
    "lyapunov_spectrum": "lyapunov",
    "memory": "effective_memory",
    "sensitivity": "sensitivities",
    "volterra": "kernels",
    "whiteness": "residuals",
}

__all__ = [
    "BlockGain",
    "BlockStability",
    "BlockSystem",
    "Blocks",
    "Equilibria",
    "Equilibrium",
    "Gain",
    "ImpulseMemory",
    "InUnits",
    "IncrementalStability",
    "InputCorrelation",
    "InputEffect",
    "Linearisation",
    "Lipschitz",
    "LyapunovSpectrum",
    "Memory",
    "ResidualTest",
    "Sensitivity",
    "VolterraKernels",
    "Whiteness",
    "blocks",
    "equilibria",
    "gain",
    "incremental_stability",
    "input_residual_correlation",
    "linearise",
    "lipschitz",
    "lyapunov_spectrum",
    "memory",
    "sensitivity",
    "volterra",
    "whiteness",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
