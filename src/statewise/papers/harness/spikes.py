"""Planted spike trains whose couplings switch, and what a fit recovers of them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch

from statewise.inference import SwitchingGLM, exponential_basis

THRESHOLD = 0.15
"""Couplings below half the smallest planted strength count as none."""


@dataclasses.dataclass(frozen=True)
class Spikes:
    """Counts (T + test, N) of a network, its states (T + test,) and couplings (S, N, N)."""

    counts: np.ndarray
    states: np.ndarray
    weight: np.ndarray
    train: int


def planted_spikes(
    train: int, seed: int, *, states: int = 3, neurons: int = 10, test: int = 1000
) -> Spikes:
    """A network that stays finite: types (.2, .6, .2), each kept by a state with probability 0.9.

    Strengths are uniform on [0.3, 1.5], rates softplus, the history exponential over 5 bins, and a
    state lasts with probability 0.98. Networks whose rate passes 15 a bin are drawn again.
    """
    rng = np.random.default_rng(seed)
    phi = exponential_basis(5).numpy()
    while True:
        kinds = rng.choice([-1, 0, 1], p=[0.2, 0.6, 0.2], size=(neurons, neurons))
        kept = rng.random((states, neurons, neurons)) < 0.9
        weight = kinds * kept * rng.uniform(0.3, 1.5, kept.shape)
        bias = rng.uniform(-0.5, 0.5, neurons)
        x, z = np.zeros((train + test + 5, neurons)), np.zeros(train + test, int)
        state, wild = int(rng.integers(states)), False
        for t in range(train + test):
            if rng.random() > 0.98:
                state = (state + int(rng.integers(1, states))) % states
            rate = np.logaddexp(0, bias + weight[state] @ (phi @ x[t : t + 5][::-1]))
            wild = bool(rate.max() > 15)
            if wild:
                break
            x[t + 5], z[t] = rng.poisson(rate), state
        if not wild:
            return Spikes(x[5:], z, weight, train)


def recovery(fit: SwitchingGLM, data: Spikes) -> dict[str, float]:
    """Share of right states, of wrong signs of couplings, and held-out log-likelihood a bin."""
    model, T = fit.markov(), data.train
    x = torch.as_tensor(data.counts)[None]
    held = float(model.filter(x).log_likelihoods[0, T:].mean())
    found = model.smooth(x[:, :T], pairs=False).mean[0].argmax(-1).numpy()
    count = len(data.weight)
    right, order = max(
        (float((np.array(order)[found] == data.states[:T]).mean()), order)
        for order in itertools.permutations(range(count))
    )
    weight = fit.weight.numpy()[np.argsort(order)]
    signs = np.where(np.abs(weight) < THRESHOLD, 0, np.sign(weight))
    wrong = float((signs != np.sign(data.weight)).mean())
    return {"states": right, "wrong signs": wrong, "held out": held}
