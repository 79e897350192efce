"""A network that gives the mean of a state and a factor of its covariance."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from statewise.inference.discriminative import Law
from statewise.inference.particle import seeded
from statewise.inference.regressors import Pairs, Regression, Scale


class CholeskyHead(nn.Module):
    """A perceptron from observations to f and a lower triangular C with V = C Cᵀ.

    Args:
        channels: p.
        states: n.
        hidden: widths of the layers between.
        dropout: share of hidden units that training leaves out.
    """

    def __init__(
        self, channels: int, states: int, hidden: tuple[int, ...], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.states = states
        layers: list[nn.Module] = []
        wide = channels
        for width in hidden:
            layers += [nn.Linear(wide, width), nn.SiLU(), nn.Dropout(dropout)]
            wide = width
        self.body = nn.Sequential(*layers)
        self.mean = nn.Linear(wide, states)
        self.factor = nn.Linear(wide, states * (states + 1) // 2)
        rows, columns = torch.tril_indices(states, states).unbind()
        self.register_buffer("places", rows * states + columns, persistent=False)
        with torch.no_grad():
            # Before training f is almost 0 and C almost the identity.
            for layer in (self.mean, self.factor):
                layer.weight.mul_(0.1)
                layer.bias.zero_()
            self.factor.bias[rows == columns] = math.log(math.expm1(1.0))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """F (…, n) and C (…, n, n) at observations (…, p)."""
        n, inside = self.states, self.body(y)
        entries = self.factor(inside)
        flat = entries.new_zeros(*entries.shape[:-1], n * n)
        places = self.get_buffer("places").expand(entries.shape)
        C = flat.scatter(-1, places, entries).unflatten(-1, (n, n))
        diagonal = softplus(C.diagonal(dim1=-2, dim2=-1)) + 1e-3
        return self.mean(inside), C.tril(-1) + torch.diag_embed(diagonal)


def negative_log_density(f: Tensor, C: Tensor, z: Tensor) -> Tensor:
    """−log N(z; f, C Cᵀ) without its constant, (…)."""
    white = torch.linalg.solve_triangular(C, (z - f).unsqueeze(-1), upper=False)
    size = C.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * white.square().sum((-2, -1)) + size


@dataclasses.dataclass(frozen=True, eq=False)
class NeuralLaw:
    """A fitted network as a law of states less their mean.

    Attributes:
        network: takes scaled channels, gives states in units of ``unit``.
        scale: of the channels.
        unit: lower factor of the covariance of all states, (n, n).
        spread: factor by which held-out errors were wider than C says, (n, n): V = C K Kᵀ Cᵀ.
    """

    network: CholeskyHead
    scale: Scale
    unit: Tensor
    spread: Tensor

    def __call__(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """F (…, n) and V (…, n, n) at observations (…, p)."""
        weight = self.network.mean.weight
        f, C = self.network(self.scale(y).to(weight))
        root = self.unit @ C.double() @ self.spread
        return f.double() @ self.unit.mT, root @ root.mT


@dataclasses.dataclass(frozen=True)
class CholeskyNetwork(Regression):
    """A perceptron fitted by the log-density of the states, its errors made good on what is held.

    Training ends with the parameters that were best on the pairs held out. The covariance of the
    held-out errors in units of C, K Kᵀ, then corrects C.

    Attributes:
        hidden: widths of the layers.
        epochs: passes over the pairs.
        batch: pairs in a step of Adam.
        lr: of Adam; it falls to zero by a cosine.
        decay: weight decay.
        dropout: share of hidden units left out.
    """

    hidden: tuple[int, ...] = (64, 64)
    epochs: int = 60
    batch: int = 128
    lr: float = 1e-3
    decay: float = 0.3
    dropout: float = 0.0

    def fit(self, train: Pairs, held: Pairs, S: Tensor, rng: np.random.Generator) -> Law:
        """See :meth:`Regression.fit`."""
        scale, unit = Scale.of(train.y), torch.linalg.cholesky(S)
        y, held_y = scale(train.y).float(), scale(held.y).float()
        z, held_z = (
            torch.linalg.solve_triangular(unit, x.mT, upper=False).mT.float()
            for x in (train.z, held.z)
        )
        with seeded(rng, y.device):
            network = CholeskyHead(y.shape[-1], z.shape[-1], self.hidden, self.dropout)
            network.to(y.device)
            self._train(network, (y, z), (held_y, held_z))
        network.eval().requires_grad_(requires_grad=False)
        f, C = network(held_y)
        white = torch.linalg.solve_triangular(C, (held_z - f).unsqueeze(-1), upper=False)
        white = white.squeeze(-1).double()
        spread = torch.linalg.cholesky(white.mT @ white / len(white))
        return NeuralLaw(network, scale, unit, spread)

    def _train(
        self,
        network: CholeskyHead,
        train: tuple[Tensor, Tensor],
        held: tuple[Tensor, Tensor],
    ) -> None:
        y, z = train
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs)
        best, least = None, math.inf
        for _ in range(self.epochs):
            network.train()
            for part in torch.randperm(len(y)).split(self.batch):
                optimiser.zero_grad()
                f, C = network(y[part])
                negative_log_density(f, C, z[part]).mean().backward()
                optimiser.step()
            schedule.step()
            network.eval()
            with torch.no_grad():
                f, C = network(held[0])
                value = negative_log_density(f, C, held[1]).mean().item()
            if value < least:
                least = value
                best = {k: v.clone() for k, v in network.state_dict().items()}
        if best is None:
            raise ValueError(
                f"training the network gave no finite log-density with lr={self.lr}; a smaller "
                "one may"
            )
        network.load_state_dict(best)
