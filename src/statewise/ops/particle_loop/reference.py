"""Reference back end: the same loop as operations on tensors, step by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from statewise.ops.particle_loop.program import Formula, evaluate
from statewise.ops.particle_step.reference import ParticleSteps
from statewise.ops.philox import philox_normal, philox_uniform

BLOCK = 32_768
"""Random numbers that are made at once: the second cache keeps them until they are used."""

MOST = 64
"""Steps of a block at most."""


class Task(NamedTuple):
    """What is filtered, and how; see :func:`statewise.ops.particle_loop`."""

    x: Tensor
    y: Tensor
    u: Tensor
    seen: Tensor
    ends: Tensor
    move: Formula
    weigh: Formula
    key: int
    scheme: str
    threshold: float
    history: bool
    covariances: bool


class LoopResult(NamedTuple):
    """What a filter found, steps first.

    Attributes:
        particles: (T, B, N, n); None without history.
        log_weights: normalised, (T, B, N); without history those of the last step, (1, B, N).
        ancestors: of all steps, int64; None without history.
        log_likelihoods: (T, B).
        ess: (T, B).
        means: (T, B, n) float64; None with history.
        covs: (T, B, n, n) float64, or None.
        last: particles at the last step of each series, (B, N, n).
        last_log_weights: theirs, (B, N).
    """

    particles: Tensor | None
    log_weights: Tensor
    ancestors: Tensor | None
    log_likelihoods: Tensor
    ess: Tensor
    means: Tensor | None
    covs: Tensor | None
    last: Tensor
    last_log_weights: Tensor


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: this back end always works."""
    return None


def steps_at_once(size: int) -> int:
    """Steps of ``size`` random numbers that are made at once; even, as numbers come in pairs."""
    return 2 * max(1, min(BLOCK // (2 * max(size, 1)), MOST // 2))


def formula(given: Formula, t: int, x: Tensor, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """Outputs (B, N, q) of a formula at a step."""
    return evaluate(given.program, x.double(), z.double(), y, u, given.at(t))


class _Numbers:
    """Random numbers of steps: of block j the stream 2 j, or 2 j + 1 for uniform ones."""

    def __init__(
        self, key: int, shape: tuple[int, ...], normal: bool, device: torch.device
    ) -> None:
        self.key, self.shape, self.normal, self.device = key, shape, normal, device
        self.size = torch.Size(shape).numel()
        self.steps = steps_at_once(self.size)

    def at(self, t: int) -> Tensor:
        block, step = divmod(t, self.steps)
        make = philox_normal if self.normal else philox_uniform
        stream = 2 * block + (0 if self.normal else 1)
        made = make(self.key, stream, self.steps * self.size, device=self.device)
        return made.view(self.steps, *self.shape)[step]


def loop(task: Task) -> LoopResult:
    """Filter."""
    B, N, n = task.x.shape
    T, device = task.y.shape[1], task.x.device
    steps = ParticleSteps((T, B, N), task.threshold, task.scheme, task.history, device)
    normal = _Numbers(task.key, (B, N, n), True, device)
    uniform = _Numbers(task.key, (B, steps.uniforms()), False, device)
    kept, means, covs = [], [], []
    x = task.x.double()
    last, last_logs = x.clone(), steps.carried.clone()
    for t in range(T):
        y, u = task.y[:, t], task.u[:, t]
        if t:
            x = formula(task.move, t, x, normal.at(t - 1), y, u)
        values = formula(task.weigh, t, x, x, y, u)
        gain = torch.where(task.seen[:, t].unsqueeze(1), values, 0.0).sum(-1)
        steps.weigh(t, gain)
        w = steps.last(t).exp()
        if task.history:
            kept.append(x.to(task.x.dtype))
        else:
            means.append((w.unsqueeze(1) @ x).squeeze(1))
        if task.covariances:
            change = x - means[-1].unsqueeze(1)
            covs.append((w.unsqueeze(-1) * change).mT @ change)
        here = (task.ends == t).unsqueeze(1)
        last = torch.where(here.unsqueeze(-1), x, last)
        last_logs = torch.where(here, steps.last(t), last_logs)
        if t + 1 < T:
            x = steps.choose(t + 1, x, uniform.at(t))
    return LoopResult(
        torch.stack(kept) if kept else None,
        steps.log_weights,
        steps.ancestors if task.history else None,
        steps.log_likelihoods,
        steps.ess,
        torch.stack(means) if means else None,
        torch.stack(covs) if covs else None,
        last.to(task.x.dtype),
        last_logs,
    )
