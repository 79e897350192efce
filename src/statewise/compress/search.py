"""Which orders lose no more fit than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SHARE = 0.25
"""Part of the tolerance that the common threshold may use."""
SHRINK = (0.5, 0.25, 0.125, 0.0)
"""Fractions of a layer's order that are tried at once; at last a few states are."""
FEW = (1, 2, 3)
"""A conjugate pair goes at once, because half of one is often worse than none."""


def largest_cut(
    values: Sequence[np.ndarray],
    build: Callable[[Sequence[int]], Any],
    score: Callable[[Any], float],
    tolerance: float,
) -> list[int]:
    """Small orders with a score at most ``tolerance`` lower than that of the full ones.

    First by bisection over a common threshold: every layer is cut where the sum of its values left
    out is at most the same fraction of the sum of all. Then greedily: of all layers, the one is cut
    that loses least score for each state, in steps that become smaller until no layer can lose a
    state more. Only orders that were scored are given, so the tolerance holds even where the score
    does not fall with every state.

    Args:
        values: of each layer, descending.
        build: makes a model of some orders.
        score: judges it, higher is better.
        tolerance: how much lower the score may be.
    """
    known: dict[tuple[int, ...], float] = {}

    def scored(candidate: Sequence[int]) -> float:
        key = tuple(candidate)
        if key not in known:
            known[key] = score(build(candidate))
        return known[key]

    full = [len(v) for v in values]
    top = scored(full)
    orders = _common_cut(values, lambda candidate: scored(candidate) >= top - SHARE * tolerance)
    for fraction in SHRINK:
        while True:
            options = []
            for k, step in _steps(orders, fraction):
                order = orders[k]
                candidate = [*orders[:k], order - step, *orders[k + 1 :]]
                found = scored(candidate)
                if found >= top - tolerance:
                    options.append(((scored(orders) - found) / step, candidate))
            if not options:
                break
            orders = min(options, key=lambda option: option[0])[1]
    return orders


def _steps(orders: Sequence[int], fraction: float) -> list[tuple[int, int]]:
    """What to try to take from which layer."""
    sizes = [(k, {int(fraction * n)} if fraction else FEW) for k, n in enumerate(orders)]
    return [(k, step) for k, steps in sizes for step in steps if 0 < step < orders[k]]


def _common_cut(values: Sequence[np.ndarray], fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """The orders of the largest common threshold that fits, or the full ones."""
    orders = [len(v) for v in values]
    tails = [_tails(v) for v in values]
    thresholds = sorted({float(t) for tail in tails for t in tail[1:]})
    low, high = -1, len(thresholds)
    while high - low > 1:
        middle = (low + high) // 2
        candidate = [_cut(tail, thresholds[middle]) for tail in tails]
        if fits(candidate):
            low, orders = middle, candidate
        else:
            high = middle
    return orders


def _tails(values: np.ndarray) -> np.ndarray:
    """The fraction that is left out at every order, 0 to n."""
    total = values.sum()
    tails = np.append(values[::-1].cumsum()[::-1], 0.0)
    return tails / total if total > 0 else tails


def _cut(tails: np.ndarray, threshold: float) -> int:
    """The least order, 1 at least, that leaves out no more than the threshold."""
    return max(1, int(np.argmax(tails <= threshold)))
