"""Particle filters and smoothers, and parameters by them: PMMH and SMC²."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from statewise.papers.registry import Bound, Claim, Measured, Paper, Setting, at_most

if TYPE_CHECKING:
    from torch import Tensor

#: Standard deviations of log Ẑ at N = 100 and 100 steps of one data set: (filter, resampling).
SPREADS = {
    ("bootstrap", "systematic"): 1.33,
    ("bootstrap", "multinomial"): 1.35,
    ("guided", "systematic"): 0.59,
    ("guided", "multinomial"): 0.79,
    ("adapted", "systematic"): 0.53,
    ("adapted", "multinomial"): 0.56,
}
VOLATILITY = (-1.0, 0.95, 0.3)


def _unbiased(setting: Setting) -> Measured:
    from statewise.papers.harness import linear_particles as linear

    y, runs = linear.series(10, 0), 4000
    worst, details = 0.0, {}
    for method in ("bootstrap", "guided", "adapted"):
        for way in ("multinomial", "stratified", "systematic", "residual"):
            for threshold in (0.0, 0.5, 1.1):
                ratio = linear.errors_of(
                    y, runs, 20, method, way, threshold=threshold, seed=1
                ).exp()
                z = float((ratio.mean() - 1).abs() / ratio.std() * math.sqrt(runs))
                details[f"{method}, {way}, ESS below {threshold:g} N"] = z
                worst = max(worst, z)
    return Measured(worst, details, seeds=runs, remark="Largest of 36 |z|; N = 20, 10 steps.")


def _table(setting: Setting) -> dict[tuple[str, str], Tensor]:
    """Errors of 200 runs on each of 20 series of 100 steps at N = 100, by filter and resampling."""
    import torch

    from statewise.papers.harness import linear_particles as linear

    y = torch.cat([linear.series(100, seed) for seed in range(20)])
    return {key: linear.errors_of(y, 200, 100, *key, seed=2) for key in SPREADS}


def _spreads(setting: Setting) -> Measured:
    found = _table(setting)
    details, worst = {}, 0.0
    for key, errors in found.items():
        spread = float(errors.std(1).median())
        name = ", ".join(key)
        details[f"sd, {name}"] = spread
        details[f"bias, {name}"] = float(errors.mean(1).median())
        worst = max(worst, abs(spread / SPREADS[key] - 1))
    return Measured(
        worst,
        details,
        seeds=20,
        remark="Medians over 20 data sets; the reference is of one, by another program.",
    )


def _log_normal(setting: Setting) -> Measured:
    found = _table(setting)
    gap = {key: (errors.mean(1) + errors.var(1) / 2).mean() for key, errors in found.items()}
    details = {", ".join(key): float(value) for key, value in gap.items()}
    return Measured(
        max(abs(value) for value in details.values()),
        details,
        seeds=20,
        remark="Mean of bias + sd²/2 over 20 data sets of 100 steps, N = 100.",
    )


def _slope(sizes: tuple[int, ...], errors: list[float]) -> float:
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def _root_n(setting: Setting) -> Measured:
    from statewise.papers.harness import linear_particles as linear

    y, sizes = linear.series(100, 0), (200, 400, 800, 1600, 3200)
    found = [
        float(linear.errors_of(y, 400, N, "bootstrap", "systematic", seed=3).std(1)) for N in sizes
    ]
    details = {f"sd, N = {N}": sd for N, sd in zip(sizes, found, strict=True)}
    return Measured(_slope(sizes, found), details, seeds=400)


def _smoothing(setting: Setting) -> Measured:
    from statewise import inference
    from statewise.papers.harness import linear_particles as linear

    y, sizes, runs = linear.series(50, 1), (50, 100, 200, 400, 800), 400
    whole = inference.smooth(inference.filter(linear.kalman(), y))
    mean, cross = whole.mean[0, :, 0], whole.cross[0, 1:, 0, 0]
    exact = float((cross + mean[1:] * mean[:-1]).sum())
    ways = {
        "Markov chain": inference.MetropolisBackward(),
        "genealogy": inference.GenealogyBackward(),
    }
    errors: dict[str, list[float]] = {name: [] for name in ways}
    for N in sizes:
        found = inference.particle_filter(
            linear.model(), y.expand(runs, -1, -1), particles=N, seed=N
        )
        for name, way in ways.items():
            x = inference.sample_paths(found, N, backward=way, seed=N)[..., 0]
            estimate = (x[..., 1:] * x[..., :-1]).sum(-1).mean(0)
            errors[name].append(float((estimate - exact).square().mean().sqrt()))
    details = {
        f"error of {name}, N = {N}": error
        for name, values in errors.items()
        for N, error in zip(sizes, values, strict=True)
    }
    return Measured(
        _slope(sizes, errors["Markov chain"]),
        details,
        seeds=runs,
        remark="Root mean square errors of the smoothed Σ x_t x_{t−1} over 50 steps, N paths each.",
    )


def _pmmh(setting: Setting) -> Measured:
    from statewise import inference
    from statewise.papers.harness import linear_particles as linear

    y = linear.series(30, 2)
    _, mean, sd = linear.on_grid(y)
    spread = float(linear.errors_of(y, 400, 20, "bootstrap", "systematic", seed=4).std())
    found = inference.pmmh(
        linear.unknown,
        linear.prior(),
        y,
        particles=20,
        chains=128,
        burn_in=400,
        draws=1500,
        names=["a", "log sd"],
        seed=5,
    )
    chains = found.chains.reshape(-1, 2)
    off, wide = (chains.mean(0) - mean) / sd, chains.std(0) / sd - 1
    details = {"sd of log Ẑ at the truth": spread, "acceptance": float(found.acceptance.mean())}
    for i, name in enumerate(found.names):
        details |= {f"mean of {name}, in sd": float(off[i]), f"sd of {name}": float(wide[i])}
        details |= {f"R̂ of {name}": float(found.rhat[i]), f"ESS of {name}": found.ess_bulk[i]}
    value = max(float(off.abs().max()), float(wide.abs().max()))
    return Measured(value, details, seeds=128, remark="Posterior of the exact likelihood by grid.")


def _smc2(setting: Setting) -> Measured:
    import torch

    from statewise import inference
    from statewise.papers.harness import linear_particles as linear

    y = linear.series(50, 3)
    truth, mean, sd = linear.on_grid(y)
    runs = [
        inference.smc2(linear.unknown, linear.prior(), y, thetas=1000, particles=100, seed=seed)
        for seed in range(6)
    ]
    values = torch.stack([run.log_evidence[-1] for run in runs])
    off = torch.stack([(run.mean - mean) / sd for run in runs])
    details = {
        "log-evidence by the grid": truth,
        "mean of runs": float(values.mean()),
        "standard deviation of runs": float(values.std()),
        "standard error told by a run": float(
            torch.stack([run.evidence.standard_error for run in runs]).median()
        ),
        "largest N": max(float(run.particles[-1]) for run in runs),
        "mean of a, in sd": float(off[:, 0].mean()),
        "mean of log sd, in sd": float(off[:, 1].mean()),
    }
    value = float((values - truth).abs().mean())
    return Measured(value, details, seeds=6, remark="Mean |error| of single runs of 1000 θ.")


def _two_ways(setting: Setting) -> Measured:
    import numpy as np
    import torch
    from torch.distributions import Normal

    from statewise import inference
    from statewise.papers.harness import volatility

    mu, phi, sd = VOLATILITY
    rng, seen = np.random.default_rng(7), []
    x = mu + sd / math.sqrt(1 - phi**2) * rng.normal()
    for _ in range(200):
        seen.append(math.exp(x / 2) * rng.normal())
        x = mu + phi * (x - mu) + sd * rng.normal()
    y = torch.tensor(seen, dtype=torch.float64).reshape(1, -1, 1)
    truth = torch.tensor([mu, math.atanh(phi), math.log(sd)], dtype=torch.float64)
    prior = Normal(truth, torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64))
    chains = 48
    start = truth.expand(chains, 3)
    marginal = inference.pmmh(
        volatility.volatility,
        prior,
        y,
        particles=200,
        chains=chains,
        start=start,
        burn_in=200,
        draws=600,
        proposal=inference.RandomWalk([0.1, 0.1, 0.1]),
        seed=8,
    )
    setting.say("particle Gibbs")
    gibbs = volatility.gibbs(y, 800, chains, start, prior)[200:].transpose(0, 1)
    first, second = marginal.chains.reshape(-1, 3), gibbs.reshape(-1, 3)
    off = (first.mean(0) - second.mean(0)) / first.std(0)
    details = {"acceptance of PMMH": float(marginal.acceptance.mean())}
    labels = ("μ", "artanh φ", "log σ")
    sizes = marginal.ess_bulk, inference.ess_bulk(gibbs)
    for i, name in enumerate(labels):
        details |= {
            f"{name} by PMMH": float(first[:, i].mean()),
            f"{name} by particle Gibbs": float(second[:, i].mean()),
            f"ratio of sd of {name}": float(first[:, i].std() / second[:, i].std()),
            f"ESS of {name}, PMMH": float(sizes[0][i]),
            f"ESS of {name}, particle Gibbs": float(sizes[1][i]),
        }
    return Measured(float(off.abs().max()), details, seeds=chains)


PAPER = Paper(
    name="particle",
    title="Particle Markov chain Monte Carlo methods; SMC²",
    identifier="doi:10.1111/j.1467-9868.2009.00736.x",
    year=2010,
    says=(
        "A particle filter of any size estimates the likelihood of a state-space model without "
        "bias; with that in place of the likelihood, Metropolis–Hastings (PMMH) and sequential "
        "Monte Carlo on parameters (SMC², arXiv:1101.1528) have the exact posterior."
    ),
    uses=(
        "inference.particle_filter",
        "inference.sample_paths",
        "inference.pmmh",
        "inference.smc2",
        "inference.particle_gibbs",
    ),
    claims=(
        Claim(
            name="unbiased",
            statement=(
                "The mean of Ẑ/Z over 4000 runs is 1, for three filters, four ways of resampling "
                "and three thresholds: largest deviation in standard errors."
            ),
            measure=_unbiased,
            must=at_most(4.0),
        ),
        Claim(
            name="spreads",
            statement=(
                "With 100 particles and 100 steps log Ẑ of the bootstrap, guided and fully "
                "adapted filters has the standard deviations of a reference run on other data, "
                "systematic and multinomial: largest relative difference."
            ),
            measure=_spreads,
            must=at_most(0.25),
            minutes=4,
        ),
        Claim(
            name="log-normal",
            statement=(
                "log Ẑ is low by half its variance, as of a log-normal estimate: largest "
                "|bias + sd²/2| of the same filters."
            ),
            measure=_log_normal,
            must=at_most(0.15),
            unit="nats",
            minutes=4,
        ),
        Claim(
            name="root-n",
            statement="The standard deviation of log Ẑ falls as N^−1/2: slope of the logarithms.",
            measure=_root_n,
            must=Bound(-0.57, -0.43),
            published=-0.5,
            minutes=2,
        ),
        Claim(
            name="smoothing-root-n",
            statement=(
                "A smoothed functional by backward draws of a Markov chain, O(1) a path and step, "
                "converges as N^−1/2: slope of the logarithms of its error."
            ),
            measure=_smoothing,
            must=Bound(-0.6, -0.4),
            published=-0.5,
            minutes=2,
        ),
        Claim(
            name="pmmh-20",
            statement=(
                "PMMH with 20 particles has the posterior of the exact likelihood: largest "
                "difference of means in standard deviations, or of standard deviations in parts."
            ),
            measure=_pmmh,
            must=at_most(0.1),
            minutes=6,
        ),
        Claim(
            name="smc2-evidence",
            statement=(
                "The log-evidence by SMC² is that of the Kalman filter on a grid of parameters."
            ),
            measure=_smc2,
            must=at_most(0.1),
            unit="nats",
            minutes=4,
        ),
        Claim(
            name="volatility-two-ways",
            statement=(
                "PMMH and particle Gibbs with ancestor sampling agree on the three parameters of a "
                "stochastic volatility model, 200 observations: largest difference of means in "
                "standard deviations."
            ),
            measure=_two_ways,
            must=at_most(0.2),
            minutes=8,
        ),
    ),
)
