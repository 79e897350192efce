"""Networks assembled from layers for a task.

The names below are imported on first use, so that settings are at hand without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statewise.models.config import DeepWienerConfig
    from statewise.models.deep_wiener import DeepWiener
    from statewise.models.storage import load_model, save_model

_LAZY = {
    "DeepWiener": "deep_wiener",
    "DeepWienerConfig": "config",
    "load_model": "storage",
    "save_model": "storage",
}

__all__ = [
    "DeepWiener",
    "DeepWienerConfig",
    "load_model",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"statewise.models.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'statewise.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
