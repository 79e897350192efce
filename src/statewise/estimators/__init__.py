"""The front door: estimators with ``fit``, ``simulate``, ``predict`` and ``score``.

The names are imported on first use; the linear baselines need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.estimators.arx import ARX
    from statewise.estimators.bands import Bands
    from statewise.estimators.error_noise import ErrorNoise, ErrorObserver
    from statewise.estimators.fir import FIR
    from statewise.estimators.linear_start import LinearStart
    from statewise.estimators.linear_system import LinearSystem
    from statewise.estimators.linear_uncertainty import LinearUncertainty, StillInputWarning
    from statewise.estimators.noise import ErrorModel
    from statewise.estimators.noise_model import NoiseModel
    from statewise.estimators.online import OnlineObserver
    from statewise.estimators.recipes import RECIPES, Recipe
    from statewise.estimators.reduction import reduce_states
    from statewise.estimators.state_noise import StateNoise, StateObserver
    from statewise.estimators.system_identifier import SystemIdentifier
    from statewise.estimators.transform import OutputTransform, SignedPower

_LAZY = {
    "ARX": "arx",
    "Bands": "bands",
    "ErrorModel": "noise",
    "ErrorNoise": "error_noise",
    "ErrorObserver": "error_noise",
    "FIR": "fir",
    "LinearStart": "linear_start",
    "LinearSystem": "linear_system",
    "LinearUncertainty": "linear_uncertainty",
    "NoiseModel": "noise_model",
    "OnlineObserver": "online",
    "OutputTransform": "transform",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "SignedPower": "transform",
    "StateNoise": "state_noise",
    "StateObserver": "state_noise",
    "StillInputWarning": "linear_uncertainty",
    "SystemIdentifier": "system_identifier",
    "reduce_states": "reduction",
}

__all__ = [
    "ARX",
    "FIR",
    "RECIPES",
    "Bands",
    "ErrorModel",
    "ErrorNoise",
    "ErrorObserver",
    "LinearStart",
    "LinearSystem",
    "LinearUncertainty",
    "NoiseModel",
    "OnlineObserver",
    "OutputTransform",
    "Recipe",
    "SignedPower",
    "StateNoise",
    "StateObserver",
    "StillInputWarning",
    "SystemIdentifier",
    "reduce_states",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
