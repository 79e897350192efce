"""Measures of how exact Kalman filters are, for the claims about them."""

from __future__ import annotations

import math

import numpy as np
import torch

from statewise import inference
from statewise.inference import (
    Cubature,
    FirstOrder,
    GaussHermite,
    GaussianFilter,
    InformationKalman,
    LinearGaussian,
    Method,
    ParallelKalman,
    SquareRootKalman,
    Unconstrained,
    Unscented,
    steady_state,
)
from statewise.papers.harness.gaussian_models import (
    constant_velocity,
    covariances,
    deviation,
    joint,
    random_model,
    simulate,
    textbook,
)
from statewise.papers.harness.score import fisher_score
from statewise.papers.registry import Measured

SEEDS = (0, 1, 2, 3, 4)
TRACKS = ((1e-4, 1e-8, 1e4), (1e-6, 1e-10, 1e6))
"""Level of the state noise, of the measurement and of the start of the ill-conditioned tracks."""


def against_joint() -> Measured:
    """Smoothing against the joint Gaussian of all states and outputs."""
    worst: dict[str, float] = dict.fromkeys(("full rank", "singular Q", "nearly singular"), 0.0)
    for seed in SEEDS:
        models = (
            random_model(4, 2, seed),
            random_model(4, 2, seed, rank=2),
            random_model(4, 2, seed, conditioned=1e-8),
        )
        for (name, error), model in zip(worst.items(), models, strict=True):
            y = simulate(model, 8, seed, gaps=0.4)
            found = inference.filter(model, y)
            smoothed, expected = inference.smooth(found), joint(model, y)
            now = max(
                deviation(smoothed.mean[0], expected.mean),
                deviation(smoothed.cov[0], expected.cov),
                abs(found.log_likelihood.item() - expected.log_likelihood),
            )
            worst[name] = max(error, now)
    return Measured(max(worst.values()), worst, seeds=len(SEEDS))


def against_textbook() -> Measured:
    """Every form of the filter against the textbook, and the smoothers against one another."""
    ways = {
        "compiled": {},
        "step by step": {"fused": False},
        "square root": {"method": SquareRootKalman()},
        "information": {"method": InformationKalman()},
        "parallel": {"method": ParallelKalman(), "parallel": True},
    }
    worst = dict.fromkeys((*ways, "smoothers"), 0.0)
    for seed in SEEDS:
        model = random_model(5, 3, seed)
        y = simulate(model, 500, seed, gaps=0.3)
        expected = textbook(model, y)
        for name, way in ways.items():
            found = inference.filter(model, y, **way)
            size = abs(found.log_likelihood.item() / expected.log_likelihood - 1)
            now = (deviation(found.mean[0], expected.mean), deviation(found.cov[0], expected.cov))
            worst[name] = max(worst[name], size, *now)
        found = inference.filter(model, y, method=SquareRootKalman())
        first, *others = (
            inference.smooth(found, **how)
            for how in ({}, {"parallel": True}, {"square_root": True})
        )
        for other in others:
            now = deviation(other.mean, first.mean), deviation(other.cov, first.cov)
            worst["smoothers"] = max(worst["smoothers"], *now)
    return Measured(max(worst.values()), worst, seeds=len(SEEDS))


def long_series() -> Measured:
    """Filter and scan against the textbook over 100 000 steps."""
    model = random_model(3, 2, 0)
    y = simulate(model, 100_000, 0, gaps=0.1)
    expected = textbook(model, y)
    details = {}
    for name, way in (
        ("compiled", {}),
        ("parallel", {"method": ParallelKalman(), "parallel": True}),
    ):
        found = inference.filter(model, y, **way)
        details[f"{name}, states"] = deviation(found.mean[0], expected.mean)
        ratio = found.log_likelihood.item() / expected.log_likelihood
        details[f"{name}, likelihood"] = abs(ratio - 1)
    return Measured(max(details.values()), details, seeds=1)


def in_float32() -> Measured:
    """Covariances in float32 against extended precision."""
    details: dict[str, float] = {}
    judged: list[float] = []
    y = torch.zeros(1, 200, 2)
    for track, (q, r, spread) in enumerate(TRACKS, 1):
        model = constant_velocity(q, r, spread)
        exact = covariances(model, 200, np.longdouble, joseph=True).astype(float)
        names = ("F", "H", "Q", "R", "m0", "P0")
        narrow = LinearGaussian(
            **{name: getattr(model, name).float() for name in names}, prior_at=0
        )
        found = {
            "Joseph": inference.filter(narrow, y).cov[0],
            "square root": inference.filter(narrow, y, method=SquareRootKalman()).cov[0],
            "(I − K H) P": covariances(model, 200, np.float32, joseph=False),
        }
        for name, P in found.items():
            apart = np.linalg.norm(np.asarray(P, float) - exact, axis=(-2, -1))
            error = apart / np.linalg.norm(exact, axis=(-2, -1))
            details[f"{name}, track {track}"] = float(error[-1])
            details[f"{name}, track {track}, worst step"] = float(error.max())
            judged += [] if name.startswith("(") else [float(error[-1])]
    judged.append(details["Joseph, track 1, worst step"])
    return Measured(
        max(judged),
        details,
        remark="Against extended precision. Until the velocities are known, at the second step, "
        "the printed update is off by orders of magnitude.",
    )


def settled() -> Measured:
    """The covariance after 500 steps against the Riccati equation."""
    one = [[1.0]]
    level = LinearGaussian(one, one, one, one, P0=one)
    scalar = LinearGaussian([[0.9]], one, [[0.1]], [[0.1]], P0=one)
    settled = steady_state(scalar)
    details = {
        "golden ratio": abs(steady_state(level).predicted_cov.item() - (1 + math.sqrt(5)) / 2),
        "scalar P": abs(settled.predicted_cov.item() - 0.1483900) / 0.1483900,
        "scalar K": abs(settled.gain.item() - 0.5974073) / 0.5974073,
    }
    worst = 0.0
    for seed in SEEDS:
        model = random_model(4, 2, seed)
        y = torch.zeros(1, 500, 2, dtype=torch.float64)
        found = inference.filter(model, y).predicted_cov[0, -1]
        worst = max(worst, deviation(found, steady_state(model).predicted_cov[0]))
    return Measured(
        worst,
        details,
        seeds=len(SEEDS),
        remark="Details: deviation from (1 + √5)/2, and from values given to seven digits.",
    )


def gradients() -> Measured:
    """Three ways to the gradient of the log-likelihood."""
    worst: dict[str, float] = dict.fromkeys(
        ("finite differences", "Fisher's identity", "square root"), 0.0
    )
    for seed in SEEDS:
        model = random_model(3, 2, seed)
        y = simulate(model, 40, seed)
        build = Unconstrained(model, ("F", "H", "Q", "R"))
        theta = build.start.clone().requires_grad_()

        def value(v: torch.Tensor, method: Method | None = None) -> torch.Tensor:
            return inference.log_likelihood(build(v), y, method=method).sum()  # noqa: B023

        (slope,) = torch.autograd.grad(value(theta), theta)
        (other,) = torch.autograd.grad(value(theta, SquareRootKalman()), theta)
        step, ends = 1e-5, []
        for unit in torch.eye(len(theta), dtype=torch.float64):
            up, down = (float(value(build.start + sign * step * unit)) for sign in (1, -1))
            ends.append((up - down) / (2 * step))
        for name, found in (
            ("finite differences", torch.tensor(ends)),
            ("Fisher's identity", fisher_score(build, theta, y)),
            ("square root", other),
        ):
            now = float((found - slope).abs().max() / slope.abs().max())
            worst[name] = max(worst[name], now)
    return Measured(max(worst.values()), worst, seeds=len(SEEDS))


def nonlinear_rules() -> Measured:
    """Gaussian filters of nonlinear models on linear ones."""
    rules = {
        "first order": FirstOrder(),
        "unscented": Unscented(),
        "cubature": Cubature(),
        "Gauss–Hermite": GaussHermite(3),
    }
    worst = dict.fromkeys(rules, 0.0)
    for seed in SEEDS:
        model = random_model(3, 2, seed)
        y = simulate(model, 50, seed, gaps=0.2)
        expected = inference.filter(model, y)
        for name, rule in rules.items():
            found = inference.filter(model, y, method=GaussianFilter(rule))
            now = deviation(found.mean, expected.mean), deviation(found.cov, expected.cov)
            size = float((found.log_likelihood / expected.log_likelihood - 1).abs())
            worst[name] = max(worst[name], size, *now)
    return Measured(max(worst.values()), worst, seeds=len(SEEDS))
