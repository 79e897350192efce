"""What selective state spaces can compute of a path, by the density of their transitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor

#: Letters of the iterated integral for paths of two and three channels.
WORDS = {2: (0, 1), 3: (0, 1, 2)}


def _error(channels: int, kind: str) -> float:
    from statewise.papers.harness.signatures import (
        dense_features,
        diagonal_features,
        iterated_integral,
        readout_rmse,
        rounded_paths,
    )

    moves = rounded_paths(6000, 100, channels, 0)
    if kind == "dense":
        features = dense_features(moves, 256, 0)
    else:
        features = diagonal_features(moves, 256, 0, lti=kind == "lti")
    return readout_rmse(features, iterated_integral(moves, WORDS[channels]), 5000)


def _dense_2(setting: Setting) -> Measured:
    return Measured(_error(2, "dense"), seeds=1)


def _dense_3(setting: Setting) -> Measured:
    return Measured(_error(3, "dense"), seeds=1)


def _diagonal_2(setting: Setting) -> Measured:
    return Measured(_error(2, "diagonal"), seeds=1)


def _diagonal_3(setting: Setting) -> Measured:
    return Measured(_error(3, "diagonal"), seeds=1)


def _lti(setting: Setting) -> Measured:
    errors = {f"{channels} channels": _error(channels, "lti") for channels in WORDS}
    return Measured(min(errors.values()), errors, seeds=1)


def _area(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.signatures import iterated_integral, nilpotent_integral

    moves = np.random.default_rng(0).standard_normal((100, 200, 2))
    exact = iterated_integral(moves, (0, 1))
    gap = nilpotent_integral(moves).numpy() - exact
    return Measured(float(np.abs(gap).max() / np.abs(exact).max()))


def _order(setting: Setting) -> Measured:
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    channels, states, length = 3, 16, 60
    moves = torch.from_numpy(rng.standard_normal((length, channels)) / length**0.5)
    # Two stretches change places; the increments of the whole path stay.
    swapped = torch.cat([moves[:10], moves[35:50], moves[25:35], moves[10:25], moves[50:]])
    start = torch.from_numpy(rng.standard_normal(states))
    diagonal = torch.from_numpy(rng.standard_normal((channels, states)))
    dense = torch.from_numpy(rng.standard_normal((channels, states, states)) / states**0.5)
    gaps = {
        "diagonal": _gap(*(_free_diagonal(path, diagonal, start) for path in (moves, swapped))),
        "dense": _gap(*(_free_dense(path, dense, start) for path in (moves, swapped))),
    }
    return Measured(gaps["diagonal"], {"dense": gaps["dense"]}, seeds=1)


def _free_diagonal(path: Tensor, rates: Tensor, start: Tensor) -> Tensor:
    import torch

    from statewise.ops import linear_scan

    decay = torch.exp(path @ rates).unsqueeze(0)
    return linear_scan(decay, torch.zeros_like(decay), start.unsqueeze(0))[1][0]


def _free_dense(path: Tensor, rates: Tensor, start: Tensor) -> Tensor:
    import torch

    for step in path:
        start = torch.matrix_exp(torch.einsum("i,inm->nm", step, rates)) @ start
    return start


def _gap(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / first.norm())


PAPER = Paper(
    name="selective-theory",
    title="Theoretical Foundations of Deep Selective State-Space Models",
    identifier="arXiv:2402.19047",
    year=2024,
    says=(
        "State-space layers are linear differential equations that the input drives: those with "
        "constant transitions are convolutions, diagonal ones see increments of the path, and "
        "dense ones see its whole signature with random matrices and a trained read-out."
    ),
    uses=("ops.linear_scan", "ops.selective_scan", "nn.Mamba"),
    claims=(
        Claim(
            name="dense-level-2",
            statement=(
                "256 states of random dense transitions and a linear read-out give the integral "
                "∫∫ dX¹ dX² of new paths: error over its spread."
            ),
            measure=_dense_2,
            must=at_most(0.02),
            published=0.002,
            minutes=2,
        ),
        Claim(
            name="dense-level-3",
            statement="The same for ∫∫∫ dX¹ dX² dX³ of paths in three channels.",
            measure=_dense_3,
            must=at_most(0.2),
            published=0.12,
            minutes=2,
        ),
        Claim(
            name="diagonal-level-2",
            statement=(
                "Random diagonal transitions do it at level 2 too, as that integral is one of "
                "increments: error over its spread."
            ),
            measure=_diagonal_2,
            must=at_most(0.01),
        ),
        Claim(
            name="diagonal-fails-at-level-3",
            statement="One diagonal layer does not do it at level 3: error over the spread.",
            measure=_diagonal_3,
            must=at_least(0.6),
        ),
        Claim(
            name="constant-transitions-are-blind",
            statement=(
                "Constant transitions, as in S4, see neither integral without a nonlinearity: "
                "smaller error over the spread."
            ),
            measure=_lti,
            must=at_least(0.98),
        ),
        Claim(
            name="area-is-exact",
            statement=(
                "Three states with nilpotent transitions hold ∫∫ dX¹ dX² of a piecewise linear "
                "path exactly: largest relative difference to Chen's formula."
            ),
            measure=_area,
            must=at_most(1e-12),
        ),
        Claim(
            name="diagonal-is-blind-to-order",
            statement=(
                "Without a drive, diagonal transitions give the same state when two stretches of "
                "the path change places: relative difference."
            ),
            measure=_order,
            must=at_most(1e-12),
        ),
    ),
)
