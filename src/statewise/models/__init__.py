"""Networks assembled from layers for a task.

The names below are imported on first use, so that settings are at hand without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

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

__getattr__, __dir__ = attach(__name__, _LAZY)
