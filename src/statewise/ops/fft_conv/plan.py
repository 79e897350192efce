"""How a convolution is cut into transforms: their size, their passes, their pieces.

The transform of M points maps a real sequence x of 2M positions, packed as the complex numbers
z_n = x_n + i x_{n+M}, to the values of the polynomial Σ z_n ζ^n at the M roots of ζ^M = i. There
the product of two polynomials is their negacyclic convolution: position 2M comes back as minus
position 0. See README.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Piece(NamedTuple):
    """One product: inputs at [start, stop) in scan order give the outputs at [first, stop).

    ``row`` is the sequence. Positions below 0 are those of the state.
    """

    row: int
    start: int
    first: int
    stop: int


def points(inputs: int, lead: int, taps: int) -> int:
    """Complex points that a piece needs.

    The product of ``inputs`` positions and ``taps`` taps, of which only positions from ``lead``
    on are wanted, may wrap around onto the positions before ``lead`` and onto no others.
    """
    return -(-max(inputs + taps - 1 - lead, inputs, 1) // 2)


@lru_cache(maxsize=256)
def radices(points: int) -> tuple[int, ...]:
    """Radix of each pass: 3 and 5 first, then 4s, and a 2 if one is left."""
    rest, found = points, []
    for factor in (3, 5, 4, 2):
        while rest % factor == 0:
            found.append(factor)
            rest //= factor
    if rest != 1:
        raise ValueError(f"fft_conv: there is no transform of {points} points")
    return tuple(found)


def angles(passes: Sequence[int]) -> list[np.ndarray]:
    """For each pass, the angle θ/r of every block, in turns.

    A block of n points modulo ζ^n = e^{iθ} splits by a pass of radix r into r blocks of n / r,
    modulo ζ^{n/r} = e^{i(θ/r + 2πp/r)}. The first block is modulo i, a quarter turn.
    """
    found, theta = [], np.array([0.25])
    for radix in passes:
        found.append(theta / radix)
        theta = ((theta / radix)[:, None] + np.arange(radix) / radix).reshape(-1)
    return found


@lru_cache(maxsize=64)
def twiddles(points: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Factors e^{iqθ/r}, q = 1 … r − 1, of every block of every pass, and where each pass begins.

    Returns:
        (count, 2) cosines and sines, computed in double and rounded once, and the row at which
        each pass begins.
    """
    parts, offsets, total = [], [], 0
    passes = radices(points)
    for radix, angle in zip(passes, angles(passes), strict=True):
        turns = (angle[:, None] * np.arange(1, radix)).reshape(-1)
        parts.append(np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], 1))
        offsets.append(total)
        total += len(turns)
    return np.concatenate(parts).astype(dtype), np.array(offsets, np.int64)


class Sizes(NamedTuple):
    """Which transforms a back end has: smallest · f · 2^a points, f among ``odd``.

    ``cached`` is the largest that stays in the cache; 0 where cutting a sequence gains nothing.
    """

    smallest: int = 2
    odd: tuple[int, ...] = (1, 3, 5)
    cached: int = 0

    def cost(self, points: int) -> float:
        """Relative time of one transform; one that leaves the cache pays for its memory."""
        return points * (math.log2(points) + 2) * (1.0 if points <= self.cached else 1.15)


@lru_cache(maxsize=1024)
def size(at_least: int, sizes: Sizes) -> int:
    """The smallest transform of at least so many points."""
    best = 0
    for factor in sizes.odd:
        found = factor * sizes.smallest
        while found < at_least:
            found *= 2
        best = found if not best else min(best, found)
    return best


@lru_cache(maxsize=1024)
def _block(inputs: int, lead: int, taps: int, sizes: Sizes) -> tuple[int, int]:
    """Transform size and outputs per piece for a stretch of ``inputs`` after ``lead`` others."""
    reach = min(taps, inputs + lead)
    best = size(points(inputs + lead, lead, reach), sizes)
    outputs, least = inputs, sizes.cost(best)
    candidate = size(reach, sizes) if sizes.cached else best
    while candidate < best:
        room = 2 * candidate - reach + 1
        cost = -(-inputs // room) * sizes.cost(candidate)
        if cost < least:
            best, outputs, least = candidate, room, cost
        candidate *= 2
    return best, outputs


def segments(
    resets: Iterable[tuple[int, int]], batch: int, length: int
) -> list[tuple[int, int, int, bool]]:
    """Stretches (row, start, stop, whether it goes on from the state) between resets.

    ``resets`` are the (row, step) pairs where a reset is, in order.
    """
    cuts: list[list[int]] = [[] for _ in range(batch)]
    for row, step in resets:
        cuts[row].append(step)
    found = []
    for row, steps in enumerate(cuts):
        bounds = [0, *[s for s in steps if s > 0], length]
        fresh = bool(steps) and steps[0] == 0
        for index in range(len(bounds) - 1):
            carried = index == 0 and not fresh
            found.append((row, bounds[index], bounds[index + 1], carried))
    return found


def pieces(
    stretches: list[tuple[int, int, int, bool]], taps: int, has_state: bool, sizes: Sizes
) -> dict[tuple[int, int], list[Piece]]:
    """The products to compute, each list in order of row and time.

    Args:
        stretches: as :func:`segments` gives them.
        taps: K.
        has_state: whether there are inputs before the first.
        sizes: what transforms there are.

    Returns:
        Lists of pieces by (points of their transform, taps that their spectrum must hold). Taps
        beyond the length of a piece without a past do nothing but wrap around, and stay out.
    """
    found: dict[tuple[int, int], list[Piece]] = {}
    for row, start, stop, carried in stretches:
        lead = taps - 1 if carried and has_state else 0
        count, outputs = _block(stop - start, lead, taps, sizes)
        reach = taps if lead else min(taps, count)
        group = found.setdefault((count, reach), [])
        for first in range(start, stop, outputs):
            begin = max(first - taps + 1, start - lead)
            group.append(Piece(row, begin, first, min(first + outputs, stop)))
    return found


Plan = dict[tuple[int, int], list[Piece]]


@lru_cache(maxsize=64)
def _whole(rows: int, length: int, taps: int, has_state: bool, sizes: Sizes) -> Plan:
    return pieces(segments((), rows, length), taps, has_state, sizes)


def plan(
    rows: int,
    length: int,
    taps: int,
    has_state: bool,
    reset: Tensor | None,
    reverse: bool,
    sizes: Sizes,
) -> Plan:
    """The products of a whole call, as :func:`pieces` gives them; resets are brought to the CPU."""
    if reset is None:
        return _whole(rows, length, taps, has_state, sizes)
    ordered = reset.flip(1) if reverse else reset
    found = segments(ordered.nonzero().tolist(), rows, length)
    return pieces(found, taps, has_state, sizes)
