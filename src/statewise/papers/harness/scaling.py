"""One training step of a selective layer, and how far it moves states and outputs."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from statewise.nn.mup import MupFactors, mup_factors
from statewise.ops import selective_scan


@dataclasses.dataclass(frozen=True)
class Moves:
    """Root mean squares at the last sample.

    Attributes:
        x: of the states before the step.
        dx: of their change.
        dy: of the change of the outputs.
    """

    x: float
    dx: float
    dy: float


def one_step(
    size: int,
    *,
    rule: Literal["euler", "zoh"],
    derived: bool,
    optimiser: str,
    length: int = 8,
    seed: int = 0,
) -> Moves:
    """An S6 layer with N_u = N_x = ``size`` and Δ = 0.1, one step down L = Σ_i u_i y_i / N_u.

    A is −1 for the Euler rule and −1 … −N for the zero-order hold. Adam's first step is the sign
    of the gradient.

    Args:
        size: N.
        rule: "euler" or "zoh".
        derived: the factors of "selective C" for W_C, or those of a hidden matrix.
        optimiser: "adam" or "sgd".
        length: number of samples.
        seed: seed of inputs and weights.
    """
    rng = np.random.default_rng(seed)
    u = torch.from_numpy(rng.standard_normal((1, length, size)))
    into = mup_factors("selective B", size, size)
    out = mup_factors("selective C" if derived else "selective B", size, size)
    wb, wc = _drawn(rng, size, into), _drawn(rng, size, out)
    y, x = selective_layer(u, wb, wc, rule)
    loss = (u[0, -1] * y[0, -1]).sum() / size
    grads = torch.autograd.grad(loss, (wb, wc))
    with torch.no_grad():
        moved = [
            weight - factor.rate(optimiser) * (grad.sign() if optimiser == "adam" else grad)
            for weight, factor, grad in zip((wb, wc), (into, out), grads, strict=True)
        ]
        after, states = selective_layer(u, moved[0], moved[1], rule)
        return Moves(_rms(x), _rms(states - x), _rms(after[0, -1] - y[0, -1]))


def selective_layer(
    u: Tensor, wb: Tensor, wc: Tensor, rule: Literal["euler", "zoh"], gain: float = 1.0
) -> tuple[Tensor, Tensor]:
    """y_t = gain · C_t x_t with B_t = W_B u_t, C_t = W_C u_t and Δ = 0.1; y and the last state."""
    size, states = u.shape[-1], len(wb)
    rates = torch.ones(states) if rule == "euler" else torch.arange(1.0, states + 1)
    a = -rates.to(u.dtype).expand(size, -1)
    dt = torch.full_like(u, 0.1)
    return selective_scan(u, dt, a, u @ wb.mT, gain * (u @ wc.mT), rule=rule)


def _drawn(rng: np.random.Generator, size: int, factors: MupFactors) -> Tensor:
    start = factors.init * rng.standard_normal((size, size))
    return torch.tensor(start, requires_grad=True)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
