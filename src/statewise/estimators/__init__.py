"""The front door: estimators with ``fit``, ``simulate``, ``predict`` and ``score``.

The names are imported on first use; the linear baselines need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.estimators.arx import ARX
    from statewise.estimators.fir import FIR
    from statewise.estimators.noise import ErrorModel
    from statewise.estimators.recipes import RECIPES, Recipe
    from statewise.estimators.system_identifier import SystemIdentifier
    from statewise.estimators.transform import OutputTransform, SignedPower

_LAZY = {
    "ARX": "arx",
    "ErrorModel": "noise",
    "FIR": "fir",
    "OutputTransform": "transform",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "SignedPower": "transform",
    "SystemIdentifier": "system_identifier",
}

__all__ = [
    "ARX",
    "FIR",
    "RECIPES",
    "ErrorModel",
    "OutputTransform",
    "Recipe",
    "SignedPower",
    "SystemIdentifier",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
