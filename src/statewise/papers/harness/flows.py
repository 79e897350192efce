"""Closed forms of gradient flow in linear networks and systems, to be held against training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


def logistic(time: Array, start: float, strength: float, power: float = 1.0) -> Array:
    """w(t) of dw/dt = 2 w (s − w p): (s/p) / (1 + (s/(p w_0) − 1) e^{−2 s t}).

    Args:
        time: t.
        start: w_0 > 0.
        strength: s, the covariance of input and output.
        power: p, the variance of the input.
    """
    end = strength / power
    return end / (1 + (end / start - 1) * np.exp(-2 * strength * np.asarray(time)))


def time_to(level: float, start: float, strength: float, power: float = 1.0) -> float:
    """The time at which :func:`logistic` reaches ``level``."""
    end = strength / power
    ratio = level * (end - start) / (start * (end - level))
    return float(np.log(ratio) / (2 * strength))


def deep_flow(
    times: Array, start: float, strength: float, power: float, depth: int, steps: int = 20_000
) -> Array:
    """W(t) of dW/dt = D W^{2 − 2/D} (s − W p) by Runge–Kutta, D balanced factors.

    Args:
        times: ascending times at which W is wanted.
        start: W(0) > 0.
        strength: s.
        power: p.
        depth: D.
        steps: steps from 0 to the last time.
    """

    def slope(w: float) -> float:
        return depth * w ** (2 - 2 / depth) * (strength - w * power)

    grid = np.linspace(0, times[-1], steps + 1)
    h, path = grid[1], np.empty(steps + 1)
    path[0] = w = start
    for k in range(steps):
        one = slope(w)
        two = slope(w + h / 2 * one)
        three = slope(w + h / 2 * two)
        four = slope(w + h * three)
        w = w + h / 6 * (one + 2 * two + 2 * three + four)
        path[k + 1] = w
    return np.interp(times, grid, path)


def crossing(time: Array, curve: Array, level: float) -> float:
    """The time at which a rising curve passes a level, by linear interpolation; inf for never."""
    above = np.flatnonzero(curve >= level)
    if not len(above) or above[0] == 0:
        return float("inf")
    k = above[0]
    share = (level - curve[k - 1]) / (curve[k] - curve[k - 1])
    return float(time[k - 1] + share * (time[k] - time[k - 1]))


def descend_product(
    weights: list[Tensor], target: Tensor, rate: float, steps: int, every: int = 1
) -> Array:
    """Gradient descent on ½ ‖S − W_D … W_1‖² over white inputs; the products along the way.

    Args:
        weights: W_1 … W_D, changed in place.
        target: S.
        rate: step.
        steps: number of steps.
        every: a product is kept before every step of this many, and behind the last.

    Returns:
        Shape (K, *S).
    """
    kept = []
    depth = len(weights)
    unit = torch.eye(weights[0].shape[-1], dtype=target.dtype)
    for k in range(steps + 1):
        before = [unit]
        for weight in weights:
            before.append(weight @ before[-1])
        if k % every == 0 or k == steps:
            kept.append(before[-1].numpy().copy())
        if k == steps:
            break
        back = target - before[-1]
        moves = []
        for level in reversed(range(depth)):
            moves.append(back @ before[level].mT)
            back = weights[level].mT @ back
        for weight, move in zip(weights, reversed(moves), strict=True):
            weight += rate * move
    return np.stack(kept)


def epochs_to(
    weights: list[Tensor], target: Tensor, rates: Array, share: float, most: int
) -> tuple[int, float]:
    """Steps of gradient descent until the loss is ``share`` times that of the zero map.

    Args:
        weights: W_1 … W_D, left as they are.
        target: S.
        rates: learning rates to try.
        share: of ½ ‖S‖².
        most: largest number of steps.

    Returns:
        The fewest steps over the rates (``most`` for none) and the rate.
    """
    best, chosen = most, float("nan")
    for rate in rates:
        copies = [weight.clone() for weight in weights]
        for k in range(best):
            before = [torch.eye(target.shape[-1], dtype=target.dtype)]
            for weight in copies:
                before.append(weight @ before[-1])
            back = target - before[-1]
            loss = float(back.square().sum() / target.square().sum())
            if loss <= share:
                best, chosen = k, float(rate)
                break
            if not loss < 1e3:
                break
            for level in reversed(range(len(copies))):
                move = back @ before[level].mT
                back = copies[level].mT @ back
                copies[level] += rate * move
    return best, chosen


def orthogonal(size: int, rng: np.random.Generator) -> Tensor:
    """A random orthogonal matrix."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return torch.from_numpy(q * np.sign(np.diag(r)))
