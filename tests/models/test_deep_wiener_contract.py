"""The layer contract of the deep Wiener model, over its parts."""

from __future__ import annotations

from typing import ClassVar

import torch

from contracts.layer_suite import EagerContract, TracedContract
from statewise.lti import Euler, Trapezoid
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import (
    ELU,
    FFT,
    MLP,
    Bank,
    ContinuousDiagonal,
    LayerNorm,
    Polynomial,
    RealDiagonal,
    RMSNorm,
    S4DLin,
    Tanh,
)


class ModelContract(EagerContract):
    config: ClassVar[DeepWienerConfig]

    def build(self, dtype=torch.float64, seed=0):
        return DeepWiener(3, 2, self.config, seed=seed).to(dtype)


class TestDefaultParts(ModelContract, TracedContract):
    config = DeepWienerConfig(n_layers=2, d_model=4, d_state=3)


class TestPrenormDirect(ModelContract):
    config = DeepWienerConfig(
        n_layers=2, d_model=4, d_state=3, static=ELU(), norm=LayerNorm(), direct=True, bias=True
    )


class TestPostnormWithoutInputMap(ModelContract):
    config = DeepWienerConfig(
        n_layers=3,
        d_model=4,
        d_state=3,
        static=Tanh(),
        norm=RMSNorm(),
        prenorm=False,
        input_map=False,
        skip="linear",
    )


class TestBankOfTrapezoids(ModelContract):
    config = DeepWienerConfig(
        n_layers=2,
        d_model=3,
        d_state=2,
        poles=ContinuousDiagonal(S4DLin(), Trapezoid()),
        coupling=Bank(),
        static=MLP(4),
    )


class TestRealPolesOneLayer(ModelContract, TracedContract):
    config = DeepWienerConfig(
        n_layers=1,
        d_model=3,
        d_state=2,
        poles=RealDiagonal(rule=Euler()),
        static=Polynomial(),
        skip="none",
        input_map=False,
    )


class TestConvolution(ModelContract):
    refuses = frozenset({"dt", "reset", "lengths"})
    exact = False
    config = DeepWienerConfig(n_layers=2, d_model=4, d_state=3, simulator=FFT())
