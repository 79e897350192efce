"""The Kalman filter and the smoother behind it, in all their forms."""

from __future__ import annotations

import math

from statewise.papers.registry import Bound, Claim, Measured, Paper, Setting, at_most

SEEDS = (0, 1, 2, 3, 4)


def _joint(setting: Setting) -> Measured:
    from statewise.papers.harness.kalman_exact import against_joint

    return against_joint()


def _ways(setting: Setting) -> Measured:
    from statewise.papers.harness.kalman_exact import against_textbook

    return against_textbook()


def _long(setting: Setting) -> Measured:
    from statewise.papers.harness.kalman_exact import long_series

    return long_series()


def _narrow(setting: Setting) -> Measured:
    from statewise.papers.harness.kalman_exact import in_float32

    return in_float32()


def _settled(setting: Setting) -> Measured:
    from statewise.papers.harness.kalman_exact import settled

    return settled()


def _gradients(setting: Setting) -> Measured:
    from statewise.papers.harness.kalman_exact import gradients

    return gradients()


def _rules(setting: Setting) -> Measured:
    from statewise.papers.harness.kalman_exact import nonlinear_rules

    return nonlinear_rules()


def _ensemble(setting: Setting) -> Measured:
    from statewise import inference
    from statewise.inference import EnsembleKalman
    from statewise.papers.harness.gaussian_models import random_model, simulate

    details = {}
    for members in (100, 1000, 10_000):
        errors = []
        for seed in SEEDS:
            model = random_model(3, 2, seed)
            y = simulate(model, 50, seed)
            expected = inference.filter(model, y)
            found = inference.filter(model, y, method=EnsembleKalman(members, seed=seed))
            spread = expected.cov.diagonal(dim1=-2, dim2=-1).sqrt()
            mean = ((found.mean - expected.mean) / spread).square().mean().sqrt()
            sizes = (found.cov - expected.cov).square().sum() / expected.cov.square().sum()
            errors.append(max(float(mean), float(sizes.sqrt())))
        details[f"{members} members"] = sum(errors) / len(errors)
    return Measured(
        details["10000 members"],
        details,
        seeds=len(SEEDS),
        remark="The larger of the error of means, in posterior standard deviations, and the "
        "relative error of covariances.",
    )


def _draws(setting: Setting) -> Measured:
    import torch

    from statewise import inference
    from statewise.papers.harness.gaussian_models import random_model, simulate

    count, worst = 20_000, 0.0
    for seed in SEEDS[:3]:
        model = random_model(3, 2, seed)
        y = simulate(model, 20, seed, gaps=0.3)
        found = inference.filter(model, y)
        smoothed = inference.smooth(found)
        drawn = inference.sample_states(found, count, seed=seed)[:, 0]
        root = torch.linalg.cholesky(smoothed.cov[0])
        apart = (drawn - smoothed.mean[0]).unsqueeze(-1)
        white = torch.linalg.solve_triangular(root, apart, upper=False).squeeze(-1)
        second = torch.einsum("stn,stm->tnm", white, white) / count
        off = (second - torch.eye(3, dtype=torch.float64)).abs().max()
        worst = max(worst, float(off), float(white.mean(0).abs().max()))
    return Measured(
        worst,
        {"one standard error": math.sqrt(2 / count)},
        seeds=3,
        remark="Largest entry of the mean and of the covariance less I, of whitened draws of 20 "
        "steps.",
    )


def _nile_fit() -> tuple[float, float, float]:
    import torch

    from statewise import inference
    from statewise.papers.harness.gaussian_models import NILE

    y = torch.tensor(NILE, dtype=torch.float64).reshape(1, -1, 1)
    fit = inference.maximise_likelihood(
        lambda v: inference.local_level(*v.exp()), y, start=[7.0, 9.0], tolerance=1e-14
    )
    level, noise = fit.theta.exp().tolist()
    # The book's likelihood drops log 2π of the first observation.
    return fit.log_likelihood + 0.5 * math.log(2 * math.pi), noise, level


def _nile_likelihood(setting: Setting) -> Measured:
    value, _, _ = _nile_fit()
    return Measured(value)


def _nile_variances(setting: Setting) -> Measured:
    _, noise, level = _nile_fit()
    off = abs(noise / 15098.52 - 1), abs(level / 1469.18 - 1)
    return Measured(max(off), {"measurement": noise, "level": level})


def _learning(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.inference import LinearGaussian, Unconstrained, expectation_maximisation
    from statewise.inference import maximise_likelihood as maximise
    from statewise.papers.harness.gaussian_models import simulate

    F, H = [[0.9, 0.2], [-0.1, 0.7]], [[1.0, 0.0], [0.0, 1.0]]
    truth = LinearGaussian(
        F, H, np.diag([0.3, 0.2]), np.diag([0.2, 0.3]), c=[0.0, 0.0], d=[0.0, 0.0], P0=np.eye(2)
    )
    start = truth.replace(F=0.5 * torch.eye(2), Q=torch.eye(2), R=torch.eye(2))
    free, off, gains, gaps = ("F", "Q", "R"), [], [], []
    for seed in SEEDS[:3]:
        y = simulate(truth, 4000, seed, gaps=0.1)
        setting.say(f"series {seed}")
        em = expectation_maximisation(start, y, free=free, steps=100)
        fit = maximise(Unconstrained(em.model, free), y, tolerance=1e-13)
        gains.append(min(np.diff(em.log_likelihoods)) / abs(em.log_likelihoods[-1]))
        gaps.append((fit.log_likelihood - em.log_likelihoods[-1]) / abs(fit.log_likelihood))
        for name in free:
            errors = fit.standard_errors(lambda m, name=name: getattr(m, name)[0, 0])
            apart = (getattr(fit.model, name) - getattr(truth, name))[0, 0].abs()
            off.append(float((apart / errors).max()))
    return Measured(
        max(off),
        {"smallest gain of a turn of EM": min(gains), "left to gain after EM": max(gaps)},
        seeds=3,
        remark="4000 steps, a tenth missing; 100 turns of EM, then L-BFGS. Gains are relative.",
    )


def _monotone(setting: Setting) -> Measured:
    import numpy as np

    from statewise.inference import expectation_maximisation
    from statewise.papers.harness.gaussian_models import random_model, simulate

    least = math.inf
    for seed in SEEDS:
        y = simulate(random_model(3, 2, seed), 200, seed, gaps=0.3)
        found = expectation_maximisation(random_model(3, 2, seed + 100), y, steps=40)
        least = min(least, float(np.diff(found.log_likelihoods).min()))
    return Measured(max(0.0, -least), {"smallest gain": least}, seeds=len(SEEDS))


PAPER = Paper(
    name="kalman",
    title="A New Approach to Linear Filtering and Prediction Problems",
    identifier="10.1115/1.3662552",
    year=1960,
    says=(
        "The state of a linear system with Gaussian noise is known, after each measurement, by a "
        "mean and a covariance that two short recurrences carry; later work adds the smoother, "
        "square roots, the scan over time and learning."
    ),
    uses=(
        "inference.Kalman",
        "inference.SquareRootKalman",
        "inference.InformationKalman",
        "inference.ParallelKalman",
        "inference.GaussianFilter",
        "inference.EnsembleKalman",
        "inference.smooth",
        "inference.sample_states",
        "inference.steady_state",
        "inference.maximise_likelihood",
        "inference.expectation_maximisation",
    ),
    claims=(
        Claim(
            name="joint-gaussian",
            statement=(
                "Smoothed means, covariances and log-likelihood of 8 steps with 40 % of the "
                "numbers missing, also with a singular Q, are those of one joint Gaussian: largest "
                "deviation."
            ),
            measure=_joint,
            must=at_most(1e-9),
        ),
        Claim(
            name="all-forms-agree",
            statement=(
                "Covariance, square-root, information form and the parallel scan are the textbook "
                "on 500 steps with gaps, and the three smoothers one another: largest deviation."
            ),
            measure=_ways,
            must=at_most(1e-8),
        ),
        Claim(
            name="long-series",
            statement=(
                "Over 100 000 steps with gaps filter and scan do not drift from the textbook: "
                "largest relative deviation of states and log-likelihood."
            ),
            measure=_long,
            must=at_most(1e-8),
            minutes=2,
        ),
        Claim(
            name="single-precision",
            statement=(
                "In float32 Joseph's update and the square root hold on tracks whose start is 10¹² "
                "and 10¹⁶ times as uncertain as a measurement: largest relative error of P after "
                "200 steps, and for Joseph's on the first track at any step."
            ),
            measure=_narrow,
            must=at_most(1e-5),
        ),
        Claim(
            name="steady-state",
            statement=(
                "After 500 steps the covariance is the solution of the Riccati equation: largest "
                "deviation."
            ),
            measure=_settled,
            must=at_most(1e-9),
        ),
        Claim(
            name="three-gradients",
            statement=(
                "The gradient of the log-likelihood by differentiation, by Fisher's identity and "
                "by finite differences is one: largest deviation beside the largest entry."
            ),
            measure=_gradients,
            must=at_most(1e-6),
        ),
        Claim(
            name="rules-are-exact",
            statement=(
                "The extended, unscented, cubature and Gauss–Hermite filters are the Kalman filter "
                "on linear models: largest deviation."
            ),
            measure=_rules,
            must=at_most(1e-8),
        ),
        Claim(
            name="ensemble",
            statement=(
                "An ensemble of 10 000 members comes within 3 % of the means, in posterior "
                "standard deviations, and of the covariances."
            ),
            measure=_ensemble,
            must=at_most(0.03),
        ),
        Claim(
            name="posterior-draws",
            statement=(
                "20 000 draws of the simulation smoother, whitened by the smoother's moments, have "
                "mean 0 and covariance I: largest entry left, within five standard errors."
            ),
            measure=_draws,
            must=at_most(0.05),
        ),
        Claim(
            name="nile-likelihood",
            statement=(
                "The largest log-likelihood of a local level with an exact diffuse start for the "
                "100 years of the Nile is that of Durbin and Koopman."
            ),
            measure=_nile_likelihood,
            must=Bound(-632.5466, -632.5446),
            published=-632.5456,
        ),
        Claim(
            name="nile-variances",
            statement=(
                "Its variances are theirs, 15098.52 of the measurement and 1469.18 of the level: "
                "larger relative deviation."
            ),
            measure=_nile_variances,
            must=at_most(1e-3),
        ),
        Claim(
            name="em-gains",
            statement=(
                "No turn of EM loses likelihood, from other starts and with 30 % missing: largest "
                "loss in 40 turns."
            ),
            measure=_monotone,
            must=at_most(1e-9),
        ),
        Claim(
            name="learning-recovers",
            statement=(
                "EM and then maximum likelihood recover F, Q and R from 4000 steps with gaps: "
                "largest deviation from the truth, in standard errors of the observed information."
            ),
            measure=_learning,
            must=at_most(4.0),
            minutes=2,
        ),
    ),
)
