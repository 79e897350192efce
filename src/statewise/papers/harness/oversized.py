"""An over-sized layer on a plant of order 4, with and without a regulariser of its states."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from statewise.data import Experiments, Normaliser, Record
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import LRU, MLP
from statewise.train import FitConfig, FreeRunError, HankelNuclear, fit

LENGTHS = (8000, 2000, 4000)
"""Samples for training, validation and test."""
STATES = 32
"""Complex states of the layer, where 2 would do."""
NOISE = 0.01
"""Standard deviation of the noise, relative to the output."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained stack and the data around it, normalised.

    Attributes:
        model: the stack.
        valid: records that orders may be chosen with.
        test: records to judge on.
    """

    model: DeepWiener
    valid: list[Record]
    test: list[Record]

    def fit_percent(self, model: DeepWiener | None = None) -> float:
        """100 (1 − NRMSE) % of the free run on the test record, of this or another model."""
        return 100 * (1 - FreeRunError(self.test)(self.model if model is None else model))


def plant(length: int, seed: int) -> Record:
    """White noise through two pole pairs and a saturation, with a little noise.

    Args:
        length: number of samples.
        seed: of input and noise.
    """
    draw = np.random.default_rng(seed)
    u = draw.standard_normal(length)
    poles = np.array([0.95 * np.exp(0.3j), 0.8 * np.exp(1.1j)])
    weights = np.array([0.25 - 0.1j, 0.3 + 0.2j])
    x, y = np.zeros(2, dtype=complex), np.empty(length)
    for k in range(length):
        y[k] = 2 * np.real(weights @ x)
        x = poles * x + u[k]
    y = np.tanh(y)
    return Record(y + NOISE * y.std() * draw.standard_normal(length), u, dt=1.0, skip=100)


@functools.cache
def trained(weight: float, seed: int) -> Trained:
    """The stack trained with a weight of the sum of Hankel singular values in the loss; 0 is none.

    Args:
        weight: of the regulariser.
        seed: of the start and of the training.
    """
    parts = [Experiments((plant(n, k),)) for k, n in enumerate(LENGTHS, 1)]
    normaliser = Normaliser.fit(parts[0])
    train, valid, test = (list(normaliser.transform(part)) for part in parts)
    layer = LRU.spec(d_state=STATES, r_min=0.3, r_max=0.99)
    config = DeepWienerConfig(n_layers=1, d_model=4, layer=layer, static=MLP(16))
    model = DeepWiener(1, 1, config, seed=seed)
    settings = FitConfig(
        steps=1500,
        lr=1e-2,
        eval_every=250,
        polish_steps=0,
        regulariser=HankelNuclear(weight) if weight else None,
    )
    fit(model, train, valid, settings, seed=seed, threads=1, progress=False)
    return Trained(model, valid, test)


def largest_ratio(model: DeepWiener) -> float:
    """Largest measured error of a reduced layer over its bound, for every order and method.

    Args:
        model: the stack.

    Returns:
        The largest of ‖G − G_r‖_∞/(2 Σ_{j>r} σ_j) and, for balanced truncation, of
        σ_{r+1}/‖G − G_r‖_∞, with the rounding of the weights on the side of the bound.
    """
    from statewise.compress import BalancedTruncation, SingularPerturbation, reduce

    worst = 0.0
    for method in (BalancedTruncation(), SingularPerturbation()):
        for order in range(1, 2 * STATES, 3):
            for block in reduce(model, to=order, method=method).blocks:
                if block.bound is None or block.order_after >= block.order_before:
                    continue
                worst = max(worst, block.error / (block.bound + block.rounding))
                if isinstance(method, BalancedTruncation):
                    least = float(block.values[block.order_after])
                    worst = max(worst, least / (block.error + block.rounding))
    return worst if worst else math.nan
