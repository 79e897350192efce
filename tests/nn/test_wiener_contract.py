"""The layer contract of the Wiener block, over its static maps, norms and skips."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from contracts.layer_suite import EagerContract, TracedContract
from statewise.lti import Trapezoid
from statewise.nn import (
    ELU,
    GELU,
    GLU,
    LTI,
    MLP,
    ContinuousDiagonal,
    DiscreteDiagonal,
    Identity,
    LayerNorm,
    Polynomial,
    RMSNorm,
    S4DLin,
    Tanh,
    WienerBlock,
)


class BlockContract(EagerContract):
    static: ClassVar = GLU()
    skip: ClassVar[str] = "identity"
    norm: ClassVar = None
    prenorm: ClassVar[bool] = True
    d_output: ClassVar[int] = 3
    poles: ClassVar = DiscreteDiagonal()

    def build(self, dtype=torch.float64, seed=0):
        rng = np.random.default_rng(seed)
        lti = LTI(3, self.d_output, 4, poles=self.poles, bias=True, seed=rng)
        return WienerBlock(
            lti, self.static, skip=self.skip, norm=self.norm, prenorm=self.prenorm, rng=rng
        ).to(dtype)


class TestIdentityPostnorm(BlockContract):
    static = Identity()
    norm = LayerNorm()
    prenorm = False


class TestELUWithoutSkip(BlockContract):
    static = ELU()
    skip = "none"


class TestTanhLinearSkip(BlockContract):
    static = Tanh()
    skip = "linear"
    norm = LayerNorm()
    d_output = 2


class TestGELUPrenorm(BlockContract):
    static = GELU()
    norm = RMSNorm()


class TestGLUPrenorm(BlockContract):
    norm = LayerNorm()


class TestMLPLinearSkipPostnorm(BlockContract, TracedContract):
    static = MLP(5)
    skip = "linear"
    norm = RMSNorm()
    prenorm = False
    d_output = 4


class TestPolynomialTrapezoid(BlockContract, TracedContract):
    static = Polynomial(4)
    poles = ContinuousDiagonal(S4DLin(), Trapezoid())


class TestWidthChangeWithoutSkip(BlockContract):
    static = Tanh()
    d_output = 2
