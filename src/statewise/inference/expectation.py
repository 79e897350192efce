"""Expectation maximisation for linear-Gaussian models, with missing data and unequal lengths."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from statewise.inference.engine import filter
from statewise.inference.linear_gaussian import LinearGaussian, Problem
from statewise.inference.moments import dot, symmetric
from statewise.inference.smoother import SmootherResult, smooth

NAMES = ("F", "H", "Q", "R", "m0", "P0")


@dataclasses.dataclass(frozen=True)
class EMResult:
    """Where expectation maximisation ended.

    Attributes:
        model: the last model.
        log_likelihoods: log p(y) over all series of the model before each step and of the last.
        converged: whether the last gain was below the tolerance.
    """

    model: LinearGaussian
    log_likelihoods: list[float]
    converged: bool


def expectation_maximisation(
    model: LinearGaussian,
    y: Any,
    u: Any = None,
    *,
    free: tuple[str, ...] = NAMES,
    mask: Any = None,
    lengths: Any = None,
    steps: int = 100,
    tolerance: float = 1e-8,
) -> EMResult:
    """Fit constant parameters by turns of smoothing and regression; each turn gains likelihood.

    F = Σ V_{t,t−1} (Σ V_{t−1})⁻¹, Q the mean of V_t − F V_{t−1,t}; H and R likewise from the
    outputs, of which those that are missing are replaced by what the state and the observed ones
    say of them. What inputs and offsets add stays as it is.

    Args:
        model: where to start: F, H, Q, R one for all series and steps, the prior at the first
            observation and proper.
        y: observations (B, T, p); NaN where nothing is observed.
        u: inputs (B, T, m), or None.
        free: what is fitted, among F, H, Q, R, m0 and P0.
        mask: (B, T) or (B, T, p) bool, True where y is observed.
        lengths: steps of each series, (B,).
        steps: turns at most.
        tolerance: gain per observation that ends it.

    Raises:
        ValueError: a name that is not known, or a model of another kind.

    Source: Shumway and Stoffer (1982); Durbin and Koopman (2012), section 7.3.4.
    """
    unknown = [name for name in free if name not in NAMES]
    if unknown or not free:
        raise ValueError(f"free is {free!r}; it must be some of {', '.join(NAMES)}")
    single = all(getattr(model, k).shape[:2] == (1, 1) for k in ("F", "H", "Q", "R"))
    alone = len(model.m0) == 1 and (model.P0 is None or len(model.P0) == 1)
    if not single or not alone or model.prior_at != 1 or model.unknown is not None:
        raise ValueError(
            "expectation maximisation needs F, H, Q, R, m0 and P0 that are one for all series and "
            "steps, and a proper prior at the first observation"
        )
    history: list[float] = []
    converged = False
    with torch.no_grad():
        found = filter(model, y, u, mask=mask, lengths=lengths)
        count = int(found.problem.seen().sum())
        history.append(found.log_likelihood.sum().item())
        for _ in range(steps):
            model = _maximise(model, found.problem, smooth(found), free)
            found = filter(model, y, u, mask=mask, lengths=lengths)
            history.append(found.log_likelihood.sum().item())
            if abs(history[-1] - history[-2]) <= tolerance * max(count, 1):
                converged = True
                break
    return EMResult(model, history, converged)


def _outer(x: Tensor, y: Tensor) -> Tensor:
    return x.unsqueeze(-1) * y.unsqueeze(-2)


def _total(x: Tensor, where: Tensor) -> Tensor:
    """Sum over series and the steps where it holds."""
    return torch.where(where.unsqueeze(-1).unsqueeze(-1), x, 0.0).sum((0, 1))


def _maximise(
    model: LinearGaussian, problem: Problem, s: SmootherResult, free: tuple[str, ...]
) -> LinearGaussian:
    valid = problem.valid()
    changes: dict[str, Tensor] = {}
    second = s.cov + _outer(s.mean, s.mean)
    if valid.shape[1] > 1 and bool(valid[:, 1:].any()):
        later = valid[:, 1:]
        c = problem.c
        if c is not None:
            c = c if c.shape[1] == 1 else c[:, 1:]
        moved = s.mean[:, 1:] if c is None else s.mean[:, 1:] - c
        ahead = _total(s.cov[:, 1:] + _outer(moved, moved), later)
        across = _total(s.cross[:, 1:] + _outer(moved, s.mean[:, :-1]), later)
        before = _total(second[:, :-1], later)
        F = torch.linalg.solve(before, across, left=False) if "F" in free else model.F[0, 0]
        if "F" in free:
            changes["F"] = F
        if "Q" in free:
            rest = ahead - F @ across.mT - across @ F.mT + F @ before @ F.mT
            changes["Q"] = symmetric(rest) / later.sum()
    if "H" in free or "R" in free:
        changes |= _outputs(model, problem, s, second, valid, free)
    if "m0" in free:
        changes["m0"] = s.mean[:, 0].mean(0)
    if "P0" in free:
        centre = changes.get("m0", model.m0[0])
        change = s.mean[:, 0] - centre
        changes["P0"] = symmetric((s.cov[:, 0] + _outer(change, change)).mean(0))
    return model.replace(**changes)


def _outputs(
    model: LinearGaussian,
    problem: Problem,
    s: SmootherResult,
    second: Tensor,
    valid: Tensor,
    free: tuple[str, ...],
) -> dict[str, Tensor]:
    """H and R; given the state, an output is A x + a + noise with covariance N."""
    H, R = model.H[0, 0], symmetric(model.R[0, 0])
    seen = problem.seen()
    p = H.shape[0]
    both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
    eye = torch.eye(p, dtype=R.dtype, device=R.device)
    inside = torch.where(both, R, 0.0) + torch.diag_embed((~seen).to(R))
    across = torch.where((~seen).unsqueeze(-1) & seen.unsqueeze(-2), R, 0.0)
    # Rows of missing outputs: their regression on the noise of the observed ones.
    weight = torch.linalg.solve(inside, across.mT).mT
    y = problem.y if problem.d is None else problem.y - problem.d
    y = torch.where(seen, y, 0.0)
    known = torch.diag_embed(seen.to(R))
    take = known + weight
    A = (eye - take) @ H
    a = dot(take, y)
    both_missing = (~seen).unsqueeze(-1) & (~seen).unsqueeze(-2)
    N = torch.where(both_missing, R - weight @ across.mT, 0.0)
    mean = dot(A, s.mean) + a
    # Ay holds the part that moves with x; seen rows of A are zero, since take keeps y there.
    with_state = A @ s.cov + _outer(mean, s.mean)
    squares = A @ s.cov @ A.mT + _outer(mean, mean) + N
    where = valid & seen.any(-1) if bool(seen.any()) else valid
    yy, yx, xx = _total(squares, where), _total(with_state, where), _total(second, where)
    new = torch.linalg.solve(xx, yx, left=False) if "H" in free else H
    found = {"H": new} if "H" in free else {}
    if "R" in free:
        rest = yy - new @ yx.mT - yx @ new.mT + new @ xx @ new.mT
        found["R"] = symmetric(rest) / where.sum()
    return found
