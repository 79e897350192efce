"""Smaller models: fewer states, fewer channels, with bounds of what that changes.

The names below are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.compress.methods import (
        BalancedTruncation,
        H2Optimal,
        ModalSingularPerturbation,
        ModalTruncation,
        ReductionMethod,
        SingularPerturbation,
    )
    from statewise.compress.pruning import Pruning, prune
    from statewise.compress.reduction import reduce
    from statewise.compress.result import BlockReduction, ModelReduction

_LAZY = {
    "BalancedTruncation": "methods",
    "BlockReduction": "result",
    "H2Optimal": "methods",
    "ModalSingularPerturbation": "methods",
    "ModalTruncation": "methods",
    "ModelReduction": "result",
    "Pruning": "pruning",
    "ReductionMethod": "methods",
    "SingularPerturbation": "methods",
    "prune": "pruning",
    "reduce": "reduction",
}

__all__ = [
    "BalancedTruncation",
    "BlockReduction",
    "H2Optimal",
    "ModalSingularPerturbation",
    "ModalTruncation",
    "ModelReduction",
    "Pruning",
    "ReductionMethod",
    "SingularPerturbation",
    "prune",
    "reduce",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
