"""Iterated integrals of paths, and linear systems that paths drive with random matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


def rounded_paths(count: int, steps: int, channels: int, seed: int) -> Array:
    """Increments of random paths: rounded normal numbers over the largest |path|.

    Returns:
        Shape (count, steps, channels).
    """
    drawn = np.round(np.random.default_rng(seed).standard_normal((count, steps, channels)))
    return drawn / np.abs(drawn.cumsum(1)).max()


def iterated_integral(increments: Array, word: tuple[int, ...]) -> Array:
    """S^{i…} = ∫ … ∫ dX^i … of piecewise linear paths for a word of up to three letters.

    Args:
        increments: (P, T, d).
        word: indices of the channels.

    Returns:
        Shape (P,).
    """
    total = [np.zeros(len(increments)) for _ in word]
    for step in np.moveaxis(increments, 1, 0):
        moves = [step[:, i] for i in word]
        for level in reversed(range(len(word))):
            # Chen: what the path had so far, times the iterated integrals of the straight piece.
            grown = np.zeros(len(increments))
            for start in range(level + 1):
                piece = np.prod(moves[start : level + 1], axis=0)
                piece = piece / float(np.prod(np.arange(1, level - start + 2)))
                grown += piece if start == 0 else total[start - 1] * piece
            total[level] = total[level] + grown
    return total[-1]


def dense_features(increments: Array, states: int, seed: int, degree: int = 2) -> Tensor:
    """Last states of dZ = Σ_i A_i Z dω^i + B dω with dense random A_i, ω = (t, X).

    A_i is normal with variance 1/N, B and Z_0 are standard normal. A step is e^{M} Z by its series
    up to ``degree``, plus B Δω.

    Args:
        increments: of X, (P, T, d).
        states: N.
        seed: seed of the draw.
        degree: terms of the series.

    Returns:
        Shape (P, N), float64.
    """
    moves = _with_time(increments)
    channels = moves.shape[-1]
    rng = np.random.default_rng(seed)
    a = torch.from_numpy(rng.standard_normal((channels, states, states)) / np.sqrt(states))
    b = torch.from_numpy(rng.standard_normal((channels, states)))
    z = torch.from_numpy(rng.standard_normal(states)).repeat(len(moves), 1)
    stacked = a.permute(2, 0, 1).reshape(states, -1)
    for k in range(moves.shape[1]):
        step, term, grown = moves[:, k], z, z
        for power in range(1, degree + 1):
            images = (term @ stacked).view(len(z), channels, states)
            term = torch.einsum("pi,pin->pn", step, images) / power
            grown = grown + term
        z = grown + step @ b
    return z


def diagonal_features(increments: Array, states: int, seed: int, *, lti: bool = False) -> Tensor:
    """Last states of the same system with diagonal A_i, or of a time-invariant one.

    Decays are e^{Σ_i a_i Δω^i} with a_i standard normal; with ``lti`` they are e^{−|a| Δt}, the
    same for every path.

    Args:
        increments: of X, (P, T, d).
        states: N.
        seed: seed of the draw.
        lti: ω of the decay is time alone.

    Returns:
        Shape (P, N), float64.
    """
    from statewise.ops import linear_scan

    moves = _with_time(increments)
    rng = np.random.default_rng(seed)
    a = torch.from_numpy(rng.standard_normal((moves.shape[-1], states)))
    b = torch.from_numpy(rng.standard_normal((moves.shape[-1], states)))
    start = torch.from_numpy(rng.standard_normal(states)).repeat(len(moves), 1)
    rate = -a[0].abs() * moves[0, 0, 0] if lti else moves @ a
    decay = torch.exp(rate.expand(*moves.shape[:2], states))
    return linear_scan(decay, moves @ b, start)[1]


def nilpotent_integral(increments: Array) -> Tensor:
    """S^{12} as the last state of three, A_1 = E_21, A_2 = E_32, Z_0 = e_1, without B: (P,)."""
    moves = torch.from_numpy(increments)
    z = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(len(moves), 1)
    for k in range(moves.shape[1]):
        step = torch.zeros(len(moves), 3, 3, dtype=torch.float64)
        step[:, 1, 0], step[:, 2, 1] = moves[:, k, 0], moves[:, k, 1]
        z = torch.einsum("pij,pj->pi", torch.matrix_exp(step), z)
    return z[:, 2]


def readout_rmse(features: Tensor, target: Array, train: int) -> float:
    """Error of a ridge read-out on held-out paths over the spread of the target."""
    from statewise.papers.harness.readout import ridge

    table = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], 1)
    scale = table[:train].square().mean(0).sqrt().clamp_min(1e-300)
    aim = torch.from_numpy(target)
    weight = ridge(table[:train] / scale, aim[:train], 1e-9)
    left = aim[train:] - table[train:] / scale @ weight
    return float(left.square().mean().sqrt() / aim[train:].std())


def _with_time(increments: Array) -> Tensor:
    time = np.full((*increments.shape[:2], 1), 1 / increments.shape[1])
    return torch.from_numpy(np.concatenate([time, increments], -1))
