"""The gradient of a log-likelihood from a smoother, without differentiating a filter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from statewise import inference
from statewise.inference import LinearGaussian


def fisher_score(build: Callable[[Tensor], LinearGaussian], theta: Tensor, y: Tensor) -> Tensor:
    """∂ log p(y) = E[∂ log p(x, y) | y], for complete series (B, T, p) of a model with offsets.

    Args:
        build: from a vector to a model that is constant in time, its prior at the first
            observation.
        theta: the vector.
        y: observations.
    """
    with torch.no_grad():
        s = inference.smooth(inference.filter(build(theta.detach()), y))
    at = theta.detach().requires_grad_()
    model = build(at)
    F, H, Q, R = (x[0, 0] for x in (model.F, model.H, model.Q, model.R))
    c, d = (x[0, 0] for x in (model.c, model.d) if x is not None)
    m, P, across = s.mean, s.cov, s.cross[:, 1:]
    moved = m[:, 1:] - m[:, :-1] @ F.mT - c
    left = moved.unsqueeze(-1) * moved.unsqueeze(-2)
    left = left + P[:, 1:] - F @ across.mT - across @ F.mT + F @ P[:, :-1] @ F.mT
    seen = y - m @ H.mT - d
    noise = seen.unsqueeze(-1) * seen.unsqueeze(-2) + H @ P @ H.mT
    value = y.new_zeros(())
    for cov, total, count in (
        (Q, left.sum((0, 1)), left.shape[0] * left.shape[1]),
        (R, noise.sum((0, 1)), noise.shape[0] * noise.shape[1]),
    ):
        value = value - 0.5 * (count * torch.logdet(cov) + torch.linalg.solve(cov, total).trace())
    return torch.autograd.grad(value, at)[0]
