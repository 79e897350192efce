"""The front door: estimators with ``fit``, ``simulate``, ``predict`` and ``score``.

The names are imported on first use; the linear baselines need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statewise.estimators.arx import ARX
    from statewise.estimators.fir import FIR
    from statewise.estimators.system_identifier import SystemIdentifier

__all__ = ["ARX", "FIR", "SystemIdentifier"]

_LAZY = {"ARX": "arx", "FIR": "fir", "SystemIdentifier": "system_identifier"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
