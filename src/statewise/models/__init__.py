"""Networks assembled from layers for a task.

The names below are imported on first use, so that settings are at hand without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.models.captured_step import CapturedStep
    from statewise.models.config import DeepWienerConfig
    from statewise.models.deep_wiener import DeepWiener
    from statewise.models.hub import push_to_hub
    from statewise.models.language_config import LanguageModelConfig
    from statewise.models.language_model import Generation, LanguageModel
    from statewise.models.pretrained import load_pretrained, save_pretrained
    from statewise.models.sequence_config import (
        PerSample,
        Pooled,
        SequenceModelConfig,
        Signals,
        Tokens,
    )
    from statewise.models.sequence_model import PooledState, SequenceModel
    from statewise.models.storage import load_model, save_model

_LAZY = {
    "CapturedStep": "captured_step",
    "DeepWiener": "deep_wiener",
    "DeepWienerConfig": "config",
    "Generation": "language_model",
    "LanguageModel": "language_model",
    "LanguageModelConfig": "language_config",
    "PerSample": "sequence_config",
    "Pooled": "sequence_config",
    "PooledState": "sequence_model",
    "SequenceModel": "sequence_model",
    "SequenceModelConfig": "sequence_config",
    "Signals": "sequence_config",
    "Tokens": "sequence_config",
    "load_model": "storage",
    "load_pretrained": "pretrained",
    "push_to_hub": "hub",
    "save_model": "storage",
    "save_pretrained": "pretrained",
}

__all__ = [
    "CapturedStep",
    "DeepWiener",
    "DeepWienerConfig",
    "Generation",
    "LanguageModel",
    "LanguageModelConfig",
    "PerSample",
    "Pooled",
    "PooledState",
    "SequenceModel",
    "SequenceModelConfig",
    "Signals",
    "Tokens",
    "load_model",
    "load_pretrained",
    "push_to_hub",
    "save_model",
    "save_pretrained",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
