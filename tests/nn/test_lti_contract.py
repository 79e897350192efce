"""The layer contract of the linear layers: parametrisations, rules, couplings, simulators."""

from __future__ import annotations

from typing import ClassVar

import torch

from contracts.layer_suite import EagerContract, LayerContract, TracedContract
from statewise.lti import ZOH, Bilinear, Euler, Trapezoid
from statewise.nn import (
    FFT,
    LRU,
    LTI,
    S4D,
    S5,
    Auto,
    Bank,
    ContinuousDiagonal,
    Dense,
    DiscreteDiagonal,
    LogTimeConstants,
    NyquistFan,
    PolarDiagonal,
    RealDiagonal,
    S4DInv,
    S4DLegS,
    S4DLin,
    Scan,
)


class LTIContract(EagerContract):
    poles: ClassVar = None
    coupling: ClassVar = Dense()
    simulator: ClassVar = Scan()

    def build(self, dtype=torch.float64, seed=0):
        d_output = 3 if isinstance(self.coupling, Bank) else 2
        return LTI(
            3,
            d_output,
            4,
            poles=self.poles,
            coupling=self.coupling,
            simulator=self.simulator,
            bias=True,
            seed=seed,
        ).to(dtype)


class TestDiscreteDerivedGain(LTIContract):
    poles = DiscreteDiagonal()


class TestDiscreteTrainedGainBank(LTIContract):
    poles = DiscreteDiagonal(LogTimeConstants(), "trained")
    coupling = Bank()


class TestDiscreteNoGain(LTIContract):
    poles = DiscreteDiagonal(NyquistFan(), "none")


class TestPolar(LTIContract):
    poles = PolarDiagonal()


class TestPolarBank(LTIContract):
    poles = PolarDiagonal()
    coupling = Bank()


class TestContinuousZOHPerState(LTIContract):
    poles = ContinuousDiagonal(S4DLegS(), ZOH(), per_state=True)


class TestContinuousZOHBank(LTIContract):
    poles = ContinuousDiagonal(S4DInv(), ZOH(), dt_max=0.5)
    coupling = Bank()


class TestContinuousBilinear(LTIContract):
    poles = ContinuousDiagonal(S4DLin(), Bilinear())


class TestContinuousBilinearBankPerState(LTIContract):
    poles = ContinuousDiagonal(S4DLegS(), Bilinear(), per_state=True)
    coupling = Bank()


class TestContinuousEuler(LTIContract):
    poles = ContinuousDiagonal(S4DLin(), Euler())


class TestContinuousEulerBank(LTIContract):
    poles = ContinuousDiagonal(S4DLin(), Euler(0.5), dt_max=1.0)
    coupling = Bank()


class TestContinuousTrapezoid(LTIContract):
    poles = ContinuousDiagonal(S4DLin(), Trapezoid())


class TestContinuousTrapezoidBank(LTIContract, TracedContract):
    poles = ContinuousDiagonal(S4DInv(), Trapezoid(), per_state=True)
    coupling = Bank()


class TestRealZOHBank(LTIContract):
    poles = RealDiagonal(rule=ZOH())
    coupling = Bank()


class TestRealBilinearPerState(LTIContract, TracedContract):
    poles = RealDiagonal(rule=Bilinear(), per_state=True)


class TestRealEuler(LTIContract):
    poles = RealDiagonal(rule=Euler())


class TestRealTrapezoid(LTIContract):
    poles = RealDiagonal(rule=Trapezoid(), dt_max=0.5)


class TestRealTrapezoidBank(LTIContract):
    poles = RealDiagonal(rule=Trapezoid())
    coupling = Bank()


class TestBare(EagerContract):
    """Without feedthrough and bias, one channel, one state."""

    def build(self, dtype=torch.float64, seed=0):
        return LTI(1, 1, 1, feedthrough=False, simulator=Auto(1), seed=seed).to(dtype)


class TestLRU(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return LRU(3, 2, 5, seed=seed).to(dtype)


class TestS4D(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return S4D(3, 4, seed=seed).to(dtype)


class TestS4DReal(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return S4D(2, 3, real=True, rule=Bilinear(), seed=seed).to(dtype)


class TestS5(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return S5(3, 2, 6, blocks=3, seed=seed).to(dtype)


class FFTContract(LTIContract):
    simulator = FFT()
    refuses = frozenset({"dt", "reset", "lengths"})
    exact = False


class TestFFTDiscrete(FFTContract):
    poles = DiscreteDiagonal()


class TestFFTContinuousBank(FFTContract):
    poles = ContinuousDiagonal(S4DLin(), Bilinear())
    coupling = Bank()


class TestFFTRealBank(FFTContract):
    poles = RealDiagonal(rule=Euler(), dt_max=1.0)
    coupling = Bank()


class TestFFTRealDense(FFTContract, TracedContract):
    poles = RealDiagonal()
