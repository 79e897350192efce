"""Learning a discriminative Kalman filter from states and observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.inference.discriminative import Discriminative, Repair, shifted
from statewise.inference.linear_gaussian import as_tensor
from statewise.inference.moments import spread, symmetric
from statewise.inference.regressors import NadarayaWatson, Pairs, Regression
from statewise.lti import discrete_lyapunov


def fit_discriminative(
    z: Any,
    y: Any,
    regression: Regression | None = None,
    *,
    lengths: Any = None,
    shift: int = 0,
    held: float = 0.3,
    stationary: bool = False,
    robust: bool = False,
    repair: Repair | None = None,
    seed: int | np.random.Generator = 0,
) -> Discriminative:
    """Fit dynamics by least squares, f on the first part of each series and V on the rest.

    Args:
        z: states (B, T, n); a step with a NaN is left out.
        y: observations (B, T, p), likewise.
        regression: how f and V are learned; None for :class:`NadarayaWatson`.
        lengths: steps of each series, (B,).
        shift: z_t is paired with y_{t−shift}.
        held: share of each series, its end, on whose errors V is fitted.
        stationary: S solves S = F S Fᵀ + Q for the F and Q found, rather than being the covariance
            of the states. Where observations will come from states elsewhere, S is to be set anew.
        robust: see :class:`Discriminative`.
        repair: see :class:`Discriminative`.
        seed: of the regression.

    Returns:
        The model, with its ``filter`` and ``update``.

    Raises:
        ValueError: shapes that do not fit, too few pairs, or for ``stationary`` an F that is not
            stable.

    Source: Burkhart, A discriminative approach to Bayesian filtering (1807.06173), chapter 4.
    """
    z, y = as_tensor("z", z).double(), as_tensor("y", y).double()
    if z.dim() != 3 or y.dim() != 3 or z.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"z has shape {tuple(z.shape)} and y {tuple(y.shape)}; they must be (B, T, n) and "
            "(B, T, p), series first"
        )
    if not 0 < held < 1:
        raise ValueError(f"held is {held}; a share between 0 and 1 is needed")
    batch, length, n = z.shape
    ends = torch.full((batch, 1), length, device=z.device)
    if lengths is not None:
        ends = torch.as_tensor(lengths, device=z.device).reshape(batch, 1)
    steps = torch.arange(length, device=z.device)
    valid = steps < ends
    z, y = (spread(valid, x, torch.full_like(x, torch.nan)) for x in (z, y))
    known = ~z.isnan().any(-1)
    if int(known.sum()) < n + 2:
        raise ValueError(f"z has {int(known.sum())} known steps; {n} states need at least {n + 2}")
    mean = z[known].mean(0)
    z = z - mean
    F, Q = _dynamics(z, known)
    S = torch.cov(z[known].mT, correction=0).reshape(n, n)
    if stationary:
        radius = torch.linalg.eigvals(F).abs().amax().item()
        if not radius < 1:
            raise ValueError(
                f"the transition found has the spectral radius {radius:.6g}; a stationary S needs "
                "one below 1"
            )
        S = discrete_lyapunov(F, Q).X
    y = shifted(y, shift)
    paired = known & ~y.isnan().any(-1)
    first = steps < ((1 - held) * ends).ceil()
    parts = [Pairs(y[at], z[at]) for at in (paired & first, paired & ~first)]
    if min(len(part.y) for part in parts) < n + 1:
        raise ValueError(
            f"there are {len(parts[0].y)} pairs to fit f on and {len(parts[1].y)} for its errors; "
            f"{n} states need at least {n + 1} each"
        )
    rng = np.random.default_rng(seed)
    law = (regression or NadarayaWatson()).fit(parts[0], parts[1], S, rng)

    def moved(y: Tensor) -> tuple[Tensor, Tensor]:
        f, V = law(y)
        return f + mean, V

    return Discriminative(F, Q, S, moved, mean=mean, robust=robust, repair=repair, shift=shift)


def _dynamics(z: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """F by least squares over the steps whose both ends are known, and what it leaves."""
    both = known[:, 1:] & known[:, :-1]
    before, after = z[:, :-1][both], z[:, 1:][both]
    if len(before) < z.shape[-1] + 1:
        raise ValueError(
            f"z has {len(before)} steps with both ends known; {z.shape[-1]} states need at least "
            f"{z.shape[-1] + 1}"
        )
    F = torch.linalg.lstsq(before, after).solution.mT
    errors = after - before @ F.mT
    return F, symmetric(errors.mT @ errors / len(errors))
