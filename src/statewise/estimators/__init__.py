"""The front door: estimators with ``fit``, ``simulate``, ``predict`` and ``score``.

The names are imported on first use; the linear baselines need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.estimators.arx import ARX
    from statewise.estimators.fir import FIR
    from statewise.estimators.linear_start import LinearStart
    from statewise.estimators.linear_system import LinearSystem
    from statewise.estimators.noise import ErrorModel
    from statewise.estimators.recipes import RECIPES, Recipe
    from statewise.estimators.reduction import reduce_states
    from statewise.estimators.system_identifier import SystemIdentifier
    from statewise.estimators.transform import OutputTransform, SignedPower

_LAZY = {
    "ARX": "arx",
    "ErrorModel": "noise",
    "FIR": "fir",
    "LinearStart": "linear_start",
    "LinearSystem": "linear_system",
    "OutputTransform": "transform",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "SignedPower": "transform",
    "SystemIdentifier": "system_identifier",
    "reduce_states": "reduction",
}

__all__ = [
    "ARX",
    "FIR",
    "RECIPES",
    "ErrorModel",
    "LinearStart",
    "LinearSystem",
    "OutputTransform",
    "Recipe",
    "SignedPower",
    "SystemIdentifier",
    "reduce_states",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
