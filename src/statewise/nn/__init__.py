"""Layers: causal maps over time that keep the layer contract.

The names below are imported on first use, so that settings are at hand without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.nn.attention import Attention, AttentionState
    from statewise.nn.block import Block
    from statewise.nn.butterfly import Butterfly, ButterflyConv
    from statewise.nn.chimera import Chimera, ChimeraState
    from statewise.nn.companion import Companion
    from statewise.nn.contract import Layer, State, map_state, state_tensors
    from statewise.nn.dss import DSS
    from statewise.nn.ema import EMA
    from statewise.nn.feed_forward import FeedForward
    from statewise.nn.gated import Gated, GatedState
    from statewise.nn.gau import GAU, GAUState
    from statewise.nn.gss import GSS
    from statewise.nn.h3 import H3, H3State
    from statewise.nn.hyena import Hyena, HyenaState
    from statewise.nn.initialisers import (
        GivenContinuous,
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
    from statewise.nn.l2_bounded import L2Bounded
    from statewise.nn.layer_spec import BlockSpec, LayerSpec
    from statewise.nn.linear_cde import LinearCDE
    from statewise.nn.liquid_s4 import LiquidS4, LiquidState
    from statewise.nn.long_conv import LongConv
    from statewise.nn.longhorn import Longhorn, LonghornState
    from statewise.nn.longvq import LongVQ, LongVQState
    from statewise.nn.lru import LRU
    from statewise.nn.lssl import LSSL
    from statewise.nn.lti import LTI, LTIState
    from statewise.nn.mamba import Mamba, MambaState
    from statewise.nn.mamba2 import Mamba2, Mamba2State
    from statewise.nn.mamba3 import Mamba3, Mamba3State
    from statewise.nn.mup import (
        MupFactors,
        mup_factors,
        mup_groups,
        mup_slices,
        mup_start_,
    )
    from statewise.nn.one_lipschitz import certified_gain
    from statewise.nn.para_gru import ParaGRU
    from statewise.nn.para_lstm import ParaLSTM
    from statewise.nn.recurrent import GRU, LSTM, Elman, LSTMState
    from statewise.nn.retention import Retention
    from statewise.nn.rg_lru import RGLRU
    from statewise.nn.roles import parameter_groups, parameter_roles
    from statewise.nn.s4 import S4
    from statewise.nn.s4_ptd import S4PTD, S5PTD
    from statewise.nn.s4d import S4D
    from statewise.nn.s4nd import S4ND
    from statewise.nn.s5 import S5
    from statewise.nn.sma import SeqBoat, SeqBoatState
    from statewise.nn.solvers import NewtonSolver, SequentialSolver
    from statewise.nn.specs import (
        FFT,
        Auto,
        Bank,
        ContinuousDiagonal,
        Dense,
        DiscreteDiagonal,
        LayerNorm,
        PolarDiagonal,
        RealDiagonal,
        RMSNorm,
        Scan,
        Selective,
    )
    from statewise.nn.static_specs import (
        ELU,
        GELU,
        GLU,
        MLP,
        Identity,
        LinearPlus,
        OneLipschitz,
        Polynomial,
        StaticMap,
        Tanh,
    )
    from statewise.nn.wiener import WienerBlock

_LAZY = {
    "Attention": "attention",
    "AttentionState": "attention",
    "Auto": "specs",
    "Bank": "specs",
    "Block": "block",
    "BlockSpec": "layer_spec",
    "Butterfly": "butterfly",
    "ButterflyConv": "butterfly",
    "Chimera": "chimera",
    "ChimeraState": "chimera",
    "Companion": "companion",
    "ContinuousDiagonal": "specs",
    "DSS": "dss",
    "Dense": "specs",
    "DiscreteDiagonal": "specs",
    "ELU": "static_specs",
    "EMA": "ema",
    "Elman": "recurrent",
    "FFT": "specs",
    "FeedForward": "feed_forward",
    "GAU": "gau",
    "GAUState": "gau",
    "GELU": "static_specs",
    "GLU": "static_specs",
    "GRU": "recurrent",
    "GSS": "gss",
    "Gated": "gated",
    "GatedState": "gated",
    "GivenContinuous": "initialisers",
    "GivenDiscrete": "initialisers",
    "H3": "h3",
    "H3State": "h3",
    "Hyena": "hyena",
    "HyenaState": "hyena",
    "Identity": "static_specs",
    "L2Bounded": "l2_bounded",
    "LRU": "lru",
    "LSSL": "lssl",
    "LSTM": "recurrent",
    "LSTMState": "recurrent",
    "LTI": "lti",
    "LTIState": "lti",
    "Layer": "contract",
    "LayerNorm": "specs",
    "LayerSpec": "layer_spec",
    "LegSBlocks": "initialisers",
    "LinearCDE": "linear_cde",
    "LinearPlus": "static_specs",
    "LiquidS4": "liquid_s4",
    "LiquidState": "liquid_s4",
    "LogTimeConstants": "initialisers",
    "LongConv": "long_conv",
    "LongVQ": "longvq",
    "LongVQState": "longvq",
    "Longhorn": "longhorn",
    "LonghornState": "longhorn",
    "MLP": "static_specs",
    "Mamba": "mamba",
    "Mamba2": "mamba2",
    "Mamba2State": "mamba2",
    "Mamba3": "mamba3",
    "Mamba3State": "mamba3",
    "MambaState": "mamba",
    "MupFactors": "mup",
    "NewtonSolver": "solvers",
    "NyquistFan": "initialisers",
    "OneLipschitz": "static_specs",
    "ParaGRU": "para_gru",
    "ParaLSTM": "para_lstm",
    "PolarDiagonal": "specs",
    "Polynomial": "static_specs",
    "RGLRU": "rg_lru",
    "RMSNorm": "specs",
    "RealDiagonal": "specs",
    "Retention": "retention",
    "Ring": "initialisers",
    "S4": "s4",
    "S4D": "s4d",
    "S4DInv": "initialisers",
    "S4DLegS": "initialisers",
    "S4DLin": "initialisers",
    "S4DReal": "initialisers",
    "S4ND": "s4nd",
    "S4PTD": "s4_ptd",
    "S5": "s5",
    "S5PTD": "s4_ptd",
    "Scan": "specs",
    "Selective": "specs",
    "SeqBoat": "sma",
    "SeqBoatState": "sma",
    "SequentialSolver": "solvers",
    "State": "contract",
    "StaticMap": "static_specs",
    "Tanh": "static_specs",
    "WienerBlock": "wiener",
    "certified_gain": "one_lipschitz",
    "map_state": "contract",
    "mup_factors": "mup",
    "mup_groups": "mup",
    "mup_slices": "mup",
    "mup_start_": "mup",
    "parameter_groups": "roles",
    "parameter_roles": "roles",
    "state_tensors": "contract",
}

__all__ = [
    "DSS",
    "ELU",
    "EMA",
    "FFT",
    "GAU",
    "GELU",
    "GLU",
    "GRU",
    "GSS",
    "H3",
    "LRU",
    "LSSL",
    "LSTM",
    "LTI",
    "MLP",
    "RGLRU",
    "S4",
    "S4D",
    "S4ND",
    "S4PTD",
    "S5",
    "S5PTD",
    "Attention",
    "AttentionState",
    "Auto",
    "Bank",
    "Block",
    "BlockSpec",
    "Butterfly",
    "ButterflyConv",
    "Chimera",
    "ChimeraState",
    "Companion",
    "ContinuousDiagonal",
    "Dense",
    "DiscreteDiagonal",
    "Elman",
    "FeedForward",
    "GAUState",
    "Gated",
    "GatedState",
    "GivenContinuous",
    "GivenDiscrete",
    "H3State",
    "Hyena",
    "HyenaState",
    "Identity",
    "L2Bounded",
    "LSTMState",
    "LTIState",
    "Layer",
    "LayerNorm",
    "LayerSpec",
    "LegSBlocks",
    "LinearCDE",
    "LinearPlus",
    "LiquidS4",
    "LiquidState",
    "LogTimeConstants",
    "LongConv",
    "LongVQ",
    "LongVQState",
    "Longhorn",
    "LonghornState",
    "Mamba",
    "Mamba2",
    "Mamba2State",
    "Mamba3",
    "Mamba3State",
    "MambaState",
    "MupFactors",
    "NewtonSolver",
    "NyquistFan",
    "OneLipschitz",
    "ParaGRU",
    "ParaLSTM",
    "PolarDiagonal",
    "Polynomial",
    "RMSNorm",
    "RealDiagonal",
    "Retention",
    "Ring",
    "S4DInv",
    "S4DLegS",
    "S4DLin",
    "S4DReal",
    "Scan",
    "Selective",
    "SeqBoat",
    "SeqBoatState",
    "SequentialSolver",
    "State",
    "StaticMap",
    "Tanh",
    "WienerBlock",
    "certified_gain",
    "map_state",
    "mup_factors",
    "mup_groups",
    "mup_slices",
    "mup_start_",
    "parameter_groups",
    "parameter_roles",
    "state_tensors",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
