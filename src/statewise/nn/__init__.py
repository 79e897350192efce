"""Layers: causal maps over time that keep the layer contract.

The names below are imported on first use, so that settings are at hand without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.nn.contract import Layer, State, map_state, state_tensors
    from statewise.nn.initialisers import (
        GivenDiscrete,
        LegSBlocks,
        LogTimeConstants,
        NyquistFan,
        Ring,
        S4DInv,
        S4DLegS,
        S4DLin,
        S4DReal,
    )
    from statewise.nn.lru import LRU
    from statewise.nn.lti import LTI, LTIState
    from statewise.nn.roles import parameter_groups, parameter_roles
    from statewise.nn.s4d import S4D
    from statewise.nn.s5 import S5
    from statewise.nn.specs import (
        ELU,
        FFT,
        GELU,
        GLU,
        MLP,
        Auto,
        Bank,
        ContinuousDiagonal,
        Dense,
        DiscreteDiagonal,
        Identity,
        LayerNorm,
        Polynomial,
        RealDiagonal,
        RMSNorm,
        Scan,
        StaticMap,
        Tanh,
    )
    from statewise.nn.wiener import WienerBlock

_LAZY = {
    "Auto": "specs",
    "Bank": "specs",
    "ContinuousDiagonal": "specs",
    "Dense": "specs",
    "DiscreteDiagonal": "specs",
    "ELU": "specs",
    "FFT": "specs",
    "GELU": "specs",
    "GLU": "specs",
    "GivenDiscrete": "initialisers",
    "Identity": "specs",
    "LRU": "lru",
    "LTI": "lti",
    "LTIState": "lti",
    "Layer": "contract",
    "LayerNorm": "specs",
    "LegSBlocks": "initialisers",
    "LogTimeConstants": "initialisers",
    "MLP": "specs",
    "NyquistFan": "initialisers",
    "Polynomial": "specs",
    "RMSNorm": "specs",
    "RealDiagonal": "specs",
    "Ring": "initialisers",
    "S4D": "s4d",
    "S4DInv": "initialisers",
    "S4DLegS": "initialisers",
    "S4DLin": "initialisers",
    "S4DReal": "initialisers",
    "S5": "s5",
    "Scan": "specs",
    "State": "contract",
    "StaticMap": "specs",
    "Tanh": "specs",
    "WienerBlock": "wiener",
    "map_state": "contract",
    "parameter_groups": "roles",
    "parameter_roles": "roles",
    "state_tensors": "contract",
}

__all__ = [
    "ELU",
    "FFT",
    "GELU",
    "GLU",
    "LRU",
    "LTI",
    "MLP",
    "S4D",
    "S5",
    "Auto",
    "Bank",
    "ContinuousDiagonal",
    "Dense",
    "DiscreteDiagonal",
    "GivenDiscrete",
    "Identity",
    "LTIState",
    "Layer",
    "LayerNorm",
    "LegSBlocks",
    "LogTimeConstants",
    "NyquistFan",
    "Polynomial",
    "RMSNorm",
    "RealDiagonal",
    "Ring",
    "S4DInv",
    "S4DLegS",
    "S4DLin",
    "S4DReal",
    "Scan",
    "State",
    "StaticMap",
    "Tanh",
    "WienerBlock",
    "map_state",
    "parameter_groups",
    "parameter_roles",
    "state_tensors",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
