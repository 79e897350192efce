"""Parisian particle Gibbs: smoothed sums without the bias of PaRIS, and learning by them."""

from __future__ import annotations

import functools
import math
from typing import Any

from statewise.papers.registry import Bound, Claim, Measured, Paper, Setting, at_least, at_most

STEPS, SLOPE, NOISE = 51, 0.9, 0.1
"""x_t = 0.9 x_{t−1} + N(0, 0.1), y_t = x_t + N(0, 0.1), stationary at the start."""
SWEEPS = 5


@functools.cache
def _series() -> tuple[Any, Any, Any, float]:
    """Model, data, sum and Kalman's value of the linear-Gaussian example."""
    import numpy as np
    import torch
    from torch.distributions import Normal

    from statewise import inference

    first = NOISE / (1 - SLOPE**2)
    rng, spread = np.random.default_rng(3), math.sqrt(NOISE)
    x, y = math.sqrt(first) * rng.standard_normal(), []
    for t in range(STEPS):
        x = SLOPE * x + spread * rng.standard_normal() if t else x
        y.append(x + spread * rng.standard_normal())
    zero = torch.zeros(1, dtype=torch.float64)
    model = inference.StateSpaceModel(
        lambda: Normal(zero, math.sqrt(first), validate_args=False),
        lambda x, t: Normal(SLOPE * x, spread, validate_args=False),
        lambda x, t: Normal(x, spread, validate_args=False),
    )
    linear = inference.LinearGaussian([[SLOPE]], [[1.0]], [[NOISE]], [[NOISE]], P0=[[first]])
    data = torch.as_tensor(np.array(y)).reshape(1, STEPS, 1)
    found = inference.smooth(inference.filter(linear, data))
    exact = (found.mean[:, 1:] * found.mean[:, :-1]).sum() + found.cross[:, 1:].sum()
    product = inference.Additive(lambda x, after, s: (x * after).sum(-1))
    return model, data, product, exact.item()


@functools.cache
def _bias(particles: int, runs: int, sweeps: int) -> tuple[list[float], list[float], list[float]]:
    """Bias, its standard error and the spread of PaRIS and of each sweep after it."""
    import torch

    from statewise.inference import ParisianGibbs

    model, data, product, exact = _series()
    blocks, block = [], 1000
    for seed in range(runs // block):
        kernel = ParisianGibbs(model, data.expand(block, -1, -1), product, particles=particles)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            means, path = [], None
            for _ in range(sweeps + 1):
                mean, path = kernel(path)
                means.append(mean)
        blocks.append(torch.stack(means))
    found = torch.cat(blocks, 1)
    spread = found.std(1)
    error = spread / math.sqrt(found.shape[1])
    return (found.mean(1) - exact).tolist(), error.tolist(), spread.tolist()


def _table(particles: int, runs: int, sweeps: int) -> dict[str, float]:
    bias, error, spread = _bias(particles, runs, sweeps)
    names = ["PaRIS", *(f"sweep {k}" for k in range(1, sweeps + 1))]
    found = {}
    for name, *values in zip(names, bias, error, spread, strict=True):
        for what, value in zip(("bias", "its s.e.", "spread"), values, strict=True):
            found[f"N={particles}, {name}, {what}"] = value
    return found


RUNS = 12_000


def _paris(setting: Setting) -> Measured:
    bias, error, _ = _bias(25, RUNS, SWEEPS)
    remark = "The exact value of the sum is 13.1691."
    return Measured(bias[0], {"standard error": error[0]}, seeds=RUNS, remark=remark)


def _removed(setting: Setting) -> Measured:
    bias, _, _ = _bias(25, RUNS, SWEEPS)
    return Measured(abs(bias[SWEEPS]), _table(25, RUNS, SWEEPS), seeds=RUNS)


def _geometric(setting: Setting) -> Measured:
    import numpy as np

    bias, _, _ = _bias(25, RUNS, SWEEPS)
    slope = np.polyfit(range(4), np.log(np.abs(bias[:4])), 1)[0]
    factors = {f"sweep {k} over {k - 1}": abs(bias[k] / bias[k - 1]) for k in range(1, 4)}
    return Measured(
        float(slope),
        factors,
        seeds=RUNS,
        remark="Least squares over PaRIS and three sweeps; later ones are within their errors.",
    )


def _budget(setting: Setting) -> Measured:
    runs = 3000
    setting.say("PaRIS with 100 particles")
    many = _bias(100, runs, 0)
    few = _bias(25, RUNS, SWEEPS)
    return Measured(
        abs(few[0][3] / many[0][0]),
        {
            "PaRIS, N=100, bias": many[0][0],
            "PaRIS, N=100, its s.e.": many[1][0],
            "PaRIS, N=100, spread": many[2][0],
            "PPG, N=25, sweep 3, bias": few[0][3],
            "PPG, N=25, sweep 3, its s.e.": few[1][3],
            "PPG, N=25, sweep 3, spread": few[2][3],
        },
        seeds=runs,
        remark="PPG pays for its bias with the larger spread of a sweep with fewer particles.",
    )


RULES = ("PPG, 4 sweeps of N=25", "PaRIS, N=100")


def _climbs(build: Any, y: Any, start: Any, setting: Setting, **options: Any) -> dict[str, Any]:
    """Mean of the last third of the way up, from each rule, a row for each series."""
    from statewise.inference import ParisianScore, ParisScore, climb_likelihood

    # The path is kept from step to step, so that the climb itself is the burn-in.
    rules = (ParisianScore(25, sweeps=4, burn=0), ParisScore(100))
    found = {}
    for name, rule in zip(RULES, rules, strict=True):
        setting.say(name)
        climb = climb_likelihood(
            build, y, start=start.expand(len(y), -1), rule=rule, seed=0, **options
        )
        found[name] = climb.average(1 / 3)
    return found


def _linear(setting: Setting) -> Measured:
    import numpy as np
    import torch
    from torch.distributions import Normal

    from statewise import inference

    A = np.array([[0.9, 0.2], [-0.2, 0.8]])
    one, eye = torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    def build(theta: Any) -> inference.StateSpaceModel:
        slope = theta[:, :4].reshape(-1, 2, 2).mT
        q, r = ((theta[:, k] / 2).exp().reshape(-1, 1, 1) for k in (4, 5))
        return inference.StateSpaceModel(
            lambda: Normal(0 * one, one, validate_args=False),
            lambda x, t: Normal(x @ slope, q, validate_args=False),
            lambda x, t: Normal(x, r, validate_args=False),
        )

    def exact(theta: Any) -> inference.LinearGaussian:
        F, q, r = theta[:4].reshape(2, 2), theta[4].exp(), theta[5].exp()
        return inference.LinearGaussian(F, eye, q * eye, r * eye, P0=eye)

    y = torch.stack([_simulated(lambda x: A @ x, 2, NOISE**0.5, NOISE**0.5, s) for s in DATA])
    start = torch.tensor([0.6, 0, 0, 0.6, math.log(0.2), math.log(0.2)], dtype=torch.float64)
    best = torch.stack(
        [inference.maximise_likelihood(exact, one[None], start=start).theta for one in y]
    )
    rate = torch.tensor([0.15] * 4 + [1.5] * 2, dtype=torch.float64)
    climbs = _climbs(build, y, start, setting, steps=150, hold=75, rate=rate)
    away = {name: (theta - best).norm(dim=-1) for name, theta in climbs.items()}
    return Measured(
        (away[RULES[0]] / away[RULES[1]]).median().item(),
        _rows(away, "distance"),
        seeds=len(DATA),
        remark="Median over six data sets; the paths of one climb are kept, k₀ = 0.",
    )


def _network(setting: Setting) -> Measured:
    import numpy as np
    import torch
    from torch.distributions import Normal

    from statewise import inference

    size, gain, dt, q, r = 5, 4.0, 0.5, 0.1, 0.3
    W = np.random.default_rng(14).normal(size=(size, size)) / math.sqrt(size)
    one = torch.ones(size, dtype=torch.float64)

    def move(x: Any) -> Any:
        return x + dt * (-x + gain * W @ np.tanh(x))

    def build(theta: Any) -> inference.StateSpaceModel:
        weights = theta.reshape(-1, size, size).mT
        return inference.StateSpaceModel(
            lambda: Normal(0 * one, one, validate_args=False),
            lambda x, t: Normal(x + dt * (-x + gain * x.tanh() @ weights), q, validate_args=False),
            lambda x, t: Normal(x, r, validate_args=False),
        )

    truth = torch.as_tensor(W).flatten()
    y = torch.stack([_simulated(move, size, q, r, s) for s in DATA])
    options = {"steps": 60, "hold": 30, "rate": 0.01, "longest": 0.2}
    climbs = _climbs(build, y, 0.7 * truth, setting, **options)
    likely = {
        name: inference.particle_filter(build(theta), y, particles=20_000).log_likelihood
        for name, theta in (climbs | {"truth": truth[None]}).items()
    }
    away = {name: (theta - truth).norm(dim=-1) for name, theta in climbs.items()}
    growth = _lyapunov(move, W, gain, dt)
    return Measured(
        (likely[RULES[0]] - likely[RULES[1]]).median().item(),
        _rows(likely, "log-likelihood") | _rows(away, "distance from the truth"),
        seeds=len(DATA),
        remark=f"Median over six data sets; Lyapunov exponent {growth:.2f} a step without noise.",
    )


DATA = range(10, 16)
"""Seeds of the series that are learned from."""


def _simulated(move: Any, size: int, q: float, r: float, seed: int, steps: int = 100) -> Any:
    import numpy as np
    import torch

    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=size), []
    for t in range(steps):
        x = move(x) + q * rng.normal(size=size) if t else x
        y.append(x + r * rng.normal(size=size))
    return torch.as_tensor(np.array(y))


def _lyapunov(move: Any, W: Any, gain: float, dt: float) -> float:
    """Mean logarithmic growth of a small difference, without noise."""
    import numpy as np

    rng = np.random.default_rng(5)
    x, change, total = 0.3 * rng.normal(size=len(W)), rng.normal(size=len(W)), 0.0
    for t in range(3000):
        change = (1 - dt) * change + dt * gain * W @ ((1 - np.tanh(x) ** 2) * change)
        size = np.linalg.norm(change)
        x, change = move(x), change / size
        total += math.log(size) if t >= 500 else 0.0
    return total / 2500


def _rows(found: dict[str, Any], what: str) -> dict[str, float]:
    return {
        f"{name}, {what}, data {seed}": value
        for name, values in found.items()
        for seed, value in zip(DATA, values.tolist(), strict=True)
    }


PAPER = Paper(
    name="ppg",
    title="State and parameter learning with PaRIS particle Gibbs",
    identifier="arXiv:2301.00900",
    year=2023,
    says=(
        "Smoothed expectations of sums over a path by PaRIS have a bias of order 1/N; run on "
        "conditional sweeps of particle Gibbs it falls geometrically with the sweeps, and "
        "parameters learned by such estimates end nearer to the maximum of the likelihood."
    ),
    uses=(
        "inference.parisian_gibbs",
        "inference.paris",
        "inference.climb_likelihood",
        "inference.particle_gibbs",
    ),
    claims=(
        Claim(
            name="paris-biased",
            statement=(
                "PaRIS with 25 particles and 2 draws is biased for the sum of x_s x_{s+1} over 51 "
                "steps of a linear-Gaussian series, whose exact value is Kalman's."
            ),
            measure=_paris,
            must=at_most(-0.5),
            minutes=6,
        ),
        Claim(
            name="bias-removed",
            statement=(
                "After 5 sweeps of Parisian particle Gibbs with 25 particles the bias is within "
                "0.07 of 0: its size."
            ),
            measure=_removed,
            must=at_most(0.07),
            minutes=6,
        ),
        Claim(
            name="geometric",
            statement="The bias falls by a constant factor a sweep: slope of its logarithm.",
            measure=_geometric,
            must=Bound(math.log(0.35), math.log(0.65)),
            minutes=6,
        ),
        Claim(
            name="equal-budget",
            statement=(
                "Three sweeps with 25 particles behind a first one of PaRIS have less bias than "
                "PaRIS with 100 particles: the share of it that is left."
            ),
            measure=_budget,
            must=at_most(0.5),
            minutes=8,
        ),
        Claim(
            name="learn-linear",
            statement=(
                "Stochastic approximation by PPG ends nearer to the maximum of the likelihood of a "
                "linear-Gaussian model with two states and six parameters than by PaRIS with as "
                "many particles a step: distance from Kalman's maximum over that of PaRIS."
            ),
            measure=_linear,
            must=at_most(1.0),
            minutes=8,
        ),
        Claim(
            name="learn-network",
            statement=(
                "So it does, after 60 steps from 0.7 times the truth, for the 25 weights of a "
                "chaotic recurrent network seen in noise: log-likelihood at its end less that of "
                "PaRIS."
            ),
            measure=_network,
            must=at_least(0.0),
            minutes=8,
        ),
    ),
)
