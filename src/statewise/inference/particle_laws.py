"""Laws that a particle filter knows, drawn from and weighed in fewer passes than by themselves.

Normal laws, independent or of vectors with one covariance for all particles, are known by their
exact class; every other law is asked for ``sample`` and ``log_prob``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from statewise.ops import philox_normal, philox_uniform
from statewise.ops.particle_loop import steps_at_once

FLOATS = (torch.float32, torch.float64)


class Stream:
    """Random numbers in blocks of steps: on the CPU by counting, elsewhere torch's own.

    Those of the first kind and shape that are asked for are those of ``ops.particle_loop``.

    Args:
        key: a number from 0 to 2⁶³ − 1.
        device: where they are wanted.
    """

    def __init__(self, key: int, device: torch.device) -> None:
        self.key, self.device = key, device
        self.made = {"normal": 0, "uniform": 1}
        self.left: dict[tuple, list[Tensor]] = {}

    def normal(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Independent standard normal numbers."""
        return self._next("normal", shape, dtype)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Independent uniform numbers in [0, 1), float64."""
        return self._next("uniform", shape, torch.float64)

    def _next(self, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        key = (kind, shape, dtype)
        left = self.left.get(key)
        if not left:
            size = math.prod(shape)
            steps = steps_at_once(size)
            if self.device.type != "cpu":
                make = torch.randn if kind == "normal" else torch.rand
                block = make(steps * size, dtype=dtype, device=self.device)
            else:
                count = philox_normal if kind == "normal" else philox_uniform
                block = count(self.key, self.made[kind], steps * size, dtype=dtype)
            self.made[kind] += 2
            left = self.left[key] = list(reversed(block.view(steps, *shape).unbind(0)))
        return left.pop()


class Numbers(NamedTuple):
    """A law of independent normal numbers.

    Attributes:
        loc: means.
        scale: standard deviations, of the same shape.
        whole: whether its numbers are one event, observed together or not at all.
    """

    loc: Tensor
    scale: Tensor
    whole: bool


def numbers(law: Distribution) -> Numbers | None:
    """The law as one of independent normal numbers, if it is of exactly such a class."""
    kind, whole = type(law), False
    if kind is Independent:
        law, whole = law.base_dist, law.reinterpreted_batch_ndims == 1  # pyright: ignore
        if not whole:
            return None
        kind = type(law)
    if kind is not Normal:
        return None
    loc, scale = law.loc, law.scale  # pyright: ignore[reportAttributeAccessIssue]
    return Numbers(loc, scale, whole) if loc.dtype is scale.dtype in FLOATS else None


def root(law: Distribution) -> Tensor | None:
    """L with L Lᵀ the covariance, (n, n), of a normal law of vectors that all share it."""
    if type(law) is not MultivariateNormal:
        return None
    L = law._unbroadcasted_scale_tril
    return L if L.dim() == 2 and L.dtype is law.loc.dtype in FLOATS else None


def draw(law: Distribution, stream: Stream, out: Tensor | None = None) -> Tensor:
    """A value of the law, written to ``out`` where that is given and fits."""
    known = numbers(law)
    if known is not None:
        loc = known.loc
        noise = stream.normal(loc.shape, loc.dtype)
        if out is not None and out.dtype is loc.dtype:
            return torch.addcmul(loc, known.scale, noise, out=out)
        return torch.addcmul(loc, known.scale, noise)
    L = root(law)
    if L is not None:
        loc = law.loc  # pyright: ignore[reportAttributeAccessIssue]
        return loc + stream.normal(loc.shape, loc.dtype) @ L.mT
    return law.sample()


def joint_log_density(law: Distribution, y: Tensor) -> Tensor | None:
    """Log-density (B, N) of vectors y (B, 1, p), if all laws share one covariance; else None."""
    L = root(law)
    if L is None:
        return None
    eye = torch.eye(len(L), dtype=L.dtype, device=L.device)
    inside = torch.linalg.solve_triangular(L, eye, upper=False)
    white = (y - law.loc) @ inside.mT  # pyright: ignore[reportAttributeAccessIssue]
    constant = L.diagonal().log().sum() + 0.5 * len(L) * math.log(2 * math.pi)
    return -0.5 * white.square().sum(-1) - constant
