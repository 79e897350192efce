"""Counts of neurons that a turning state drives, decoded from windows by an LSTM."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor, nn

from statewise.inference import ConstantCovariance, CovarianceRegression, Pairs, Regression
from statewise.inference.discriminative import Law


def turning_counts(length: int, seed: int, neurons: int = 30) -> tuple[Tensor, Tensor]:
    """A state of two numbers that turns and fades, (1, T, 2), and Poisson counts (1, T, neurons).

    The state has variance 1; rates are softplus(b + W z), about one count in a bin.
    """
    rng = np.random.default_rng(seed)
    c, s = math.cos(0.1), math.sin(0.1)
    F, rest = 0.95 * np.array([[c, -s], [s, c]]), math.sqrt(1 - 0.95**2)
    W, b = rng.normal(size=(neurons, 2)), 0.5 * rng.normal(size=neurons) - 0.5
    z, x = np.zeros((length, 2)), rng.normal(size=2)
    for t in range(length):
        x = F @ x + rest * rng.normal(size=2)
        z[t] = x
    counts = rng.poisson(np.logaddexp(0, z @ W.T + b)).astype(float)
    return torch.as_tensor(z)[None], torch.as_tensor(counts)[None]


def windows(y: Tensor, size: int) -> Tensor:
    """The last observations up to each step, the oldest first, (B, T, size · p); 0 before."""
    padded = nn.functional.pad(y, (0, 0, size - 1, 0))
    return padded.unfold(1, size, 1).mT.flatten(2)


class _Reader(nn.Module):
    def __init__(self, channels: int, states: int, hidden: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.out = nn.Linear(hidden, states)

    def forward(self, y: Tensor) -> Tensor:
        return self.out(self.lstm(y.unflatten(-1, (self.window, -1)))[0][:, -1])


@dataclasses.dataclass(frozen=True)
class WindowLSTM(Regression):
    """An LSTM over windows gives f, the errors it makes on what is held out give V.

    Attributes:
        window: observations in a window.
        hidden: units.
        epochs: passes of Adam.
        covariance: how V is found.
    """

    window: int = 10
    hidden: int = 32
    epochs: int = 20
    covariance: CovarianceRegression = dataclasses.field(default_factory=ConstantCovariance)

    def fit(self, train: Pairs, held: Pairs, S: Tensor, rng: np.random.Generator) -> Law:
        """See :meth:`statewise.inference.Regression.fit`."""
        centre, deviation = train.y.mean(0), train.y.std(0).clamp_min(1e-3)
        y, z = ((train.y - centre) / deviation).float(), train.z.float()
        with torch.random.fork_rng([]):
            torch.manual_seed(int(rng.integers(2**63)))
            network = _Reader(y.shape[-1] // self.window, z.shape[-1], self.hidden, self.window)
            optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.1)
            for _ in range(self.epochs):
                for part in torch.randperm(len(y)).split(64):
                    optimiser.zero_grad()
                    (network(y[part]) - z[part]).square().mean().backward()
                    optimiser.step()
        network.eval().requires_grad_(requires_grad=False)

        def f(y: Tensor) -> Tensor:
            flat = ((y - centre) / deviation).float().reshape(-1, y.shape[-1])
            return network(flat).double().reshape(*y.shape[:-1], -1)

        V = self.covariance.fit_covariance(held.y, held.z - f(held.y), S, rng)
        return lambda y: (f(y), V(y))
