"""Statewise: state-space models, linear and deep, as one object.

The names below are imported on first use, so that ``import statewise`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach
from statewise._version import __version__

if TYPE_CHECKING:
    from statewise._errors import ConvergenceError, DataError, StatewiseError
    from statewise.data import Experiments, Record, load_fulda
    from statewise.estimators import ARX, FIR, SystemIdentifier
    from statewise.models import DeepWiener, DeepWienerConfig

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

__all__ = [
    "ARX",
    "FIR",
    "ConvergenceError",
    "DataError",
    "DeepWiener",
    "DeepWienerConfig",
    "Experiments",
    "Record",
    "StatewiseError",
    "SystemIdentifier",
    "__version__",
    "load_fulda",
]

__getattr__, __dir__ = attach(__name__, _LAZY, ready=["__version__"])
