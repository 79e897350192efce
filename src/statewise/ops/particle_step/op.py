"""Weighing and choosing: the public door, where arguments are checked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.particle_step.reference import SCHEMES, ParticleSteps, ancestors

OP = "particle_step"

dispatch.register(
    OP,
    reference="statewise.ops.particle_step.reference",
    cpu="statewise.ops.particle_step.cpu",
    gpu="statewise.ops.particle_step.reference",
)

CPU = torch.device("cpu")

__all__ = ["ParticleSteps", "ancestors", "particle_steps"]


def particle_steps(
    steps: int,
    batch: int,
    particles: int,
    *,
    threshold: float = 0.5,
    scheme: str | Callable[[Tensor], Tensor] = "systematic",
    history: bool = True,
    device: torch.device = CPU,
) -> ParticleSteps:
    """The part of a particle filter that is the same for every model, without gradients.

    Args:
        steps: T.
        batch: series, B.
        particles: N.
        threshold: a series takes ancestors where its effective sample size is below this share of
            N; above 1 for always.
        scheme: ``"systematic"``, ``"stratified"``, ``"multinomial"`` or ``"residual"``; or a
            function of weights (B, N) that draws ancestors (B, N) int64.
        history: whether weights and ancestors of all steps are kept, not only the last.
        device: where the particles are.

    Returns:
        An object to be called once or twice a step; it holds what was found.

    Raises:
        ValueError: a size below 1, or a scheme that is not known.

    Source: Chopin and Papaspiliopoulos, An introduction to sequential Monte Carlo (2020), ch. 9-10.
    """
    for label, size in (("steps", steps), ("batch", batch), ("particles", particles)):
        if size < 1:
            raise ValueError(f"{OP}: {label} is {size}; it must be at least 1")
    if isinstance(scheme, str) and scheme not in SCHEMES:
        raise ValueError(f"{OP}: scheme is {scheme!r}; it must be one of {', '.join(SCHEMES)}")
    backend = dispatch.select(OP, device.type, torch.float64)
    return backend.Steps((steps, batch, particles), threshold, scheme, history, device)
