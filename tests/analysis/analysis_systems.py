"""Models that the questions of ``statewise.analysis`` are asked of."""

from __future__ import annotations

import numpy as np
import torch

from statewise.lti import Trapezoid
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import (
    ELU,
    GRU,
    LRU,
    LSTM,
    LTI,
    RGLRU,
    S4,
    S4D,
    S5,
    ContinuousDiagonal,
    LayerNorm,
    Mamba,
    Mamba2,
    S4DLin,
    Tanh,
)
from statewise.nn.recurrence import Recurrence

LINEAR = ("lru", "lru_wide", "s4d", "s5", "s4", "trapezoid")
NONLINEAR = ("mamba", "mamba2", "gru", "lstm", "rg_lru", "stack", "mamba_stack")


def build(name: str, seed: int = 0):
    """A small model by its name, in float64."""
    if name == "lru":
        model = LRU(2, d_state=4, seed=seed)
    elif name == "lru_wide":
        model = LRU(2, 3, d_state=3, train_gain=False, seed=seed)
    elif name == "s4d":
        model = S4D(2, 3, seed=seed)
    elif name == "s5":
        model = S5(2, 1, 3, seed=seed)
    elif name == "s4":
        model = S4(2, 3, seed=seed)
    elif name == "trapezoid":
        poles = ContinuousDiagonal(S4DLin(), Trapezoid(), 0.1, 0.5)
        model = LTI(2, 2, 3, poles=poles, seed=seed)
    elif name == "mamba":
        model = Mamba(3, d_state=3, d_conv=3, expand=1, seed=seed)
    elif name == "mamba2":
        model = Mamba2(4, d_state=2, headdim=4, expand=1, d_conv=3, seed=seed)
    elif name == "gru":
        model = GRU(2, d_output=3, seed=seed)
    elif name == "lstm":
        model = LSTM(2, seed=seed)
    elif name == "rg_lru":
        model = RGLRU(3, seed=seed)
    elif name == "stack":
        config = DeepWienerConfig(n_layers=2, d_model=3, d_state=3, static=ELU(), direct=True)
        model = DeepWiener(2, 1, config, seed=seed)
    else:
        config = DeepWienerConfig(
            n_layers=2,
            d_model=3,
            static=Tanh(),
            norm=LayerNorm(),
            input_map=True,
            layer=Mamba.spec(d_state=2, expand=1),
        )
        model = DeepWiener(2, 1, config, seed=seed)
    return model.double()


def inputs(model, length: int, seed: int = 1) -> np.ndarray:
    """White noise (L, d_input)."""
    return np.random.default_rng(seed).standard_normal((length, model.d_input))


class Map(Recurrence):
    """x⁺ = f(x, u), y = x⁺ of a function on (B, n) and (B, m)."""

    def __init__(self, function, n: int, m: int = 1) -> None:
        super().__init__()
        self.function, self.n = function, n
        self.d_input, self.d_output = m, n
        self.anchor = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def init_state(self, batch):
        return self.rest(batch, self.n)

    def _sample(self, u, state, dt):
        after = self.function(state, u)
        return after, after

    def _sequence(self, u, state, dt, reset, lengths):
        found = []
        for sample in u.unbind(1):
            state = self.function(state, sample)
            found.append(state)
        return torch.stack(found, 1), state


def henon(x, u):
    return torch.stack([1 - 1.4 * x[:, 0] ** 2 + x[:, 1], 0.3 * x[:, 0]], 1)
