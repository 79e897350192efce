"""Statewise: state-space models, linear and deep, as one object.

The names below are imported on first use, so that ``import statewise`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from statewise._version import __version__

_LAZY = {
    "ConvergenceError": "statewise._errors",
    "DataError": "statewise._errors",
    "StatewiseError": "statewise._errors",
    "Experiments": "statewise.data",
    "Record": "statewise.data",
    "load_fulda": "statewise.data",
    "DeepWiener": "statewise.models",
    "DeepWienerConfig": "statewise.models",
    "SystemIdentifier": "statewise.estimators",
    "FIR": "statewise.estimators",
    "ARX": "statewise.estimators",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'statewise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
