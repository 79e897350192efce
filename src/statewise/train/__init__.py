"""Training: from records to a model that simulates them in free run.

The names below are imported on first use, so that the settings are at hand without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach
from statewise.train.config import FitConfig
from statewise.train.initial import (
    EncoderState,
    InitialState,
    LearnedState,
    LeastSquaresState,
    ZeroState,
)
from statewise.train.losses import MSE, Huber
from statewise.train.methods import Carry, Windows
from statewise.train.regularisers import HankelNuclear, ModalL1, Regulariser

if TYPE_CHECKING:
    from statewise.train.distributed import torchrun_group
    from statewise.train.estimate import estimate_state
    from statewise.train.free_run_error import FreeRunError
    from statewise.train.initialisers import Initialiser, build_initialiser
    from statewise.train.loop import fit
    from statewise.train.result import FitResult
    from statewise.train.simulate import free_run

_LAZY = {
    "FitResult": "result",
    "FreeRunError": "free_run_error",
    "Initialiser": "initialisers",
    "build_initialiser": "initialisers",
    "estimate_state": "estimate",
    "fit": "loop",
    "free_run": "simulate",
    "torchrun_group": "distributed",
}

__all__ = [
    "MSE",
    "Carry",
    "EncoderState",
    "FitConfig",
    "FitResult",
    "FreeRunError",
    "HankelNuclear",
    "Huber",
    "InitialState",
    "Initialiser",
    "LearnedState",
    "LeastSquaresState",
    "ModalL1",
    "Regulariser",
    "Windows",
    "ZeroState",
    "build_initialiser",
    "estimate_state",
    "fit",
    "free_run",
    "torchrun_group",
]

__getattr__, __dir__ = attach(__name__, _LAZY, ready=__all__)
