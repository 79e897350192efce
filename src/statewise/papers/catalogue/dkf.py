"""The discriminative Kalman filter."""

from __future__ import annotations

import functools

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_most

CHANNELS = (10, 32, 100, 316, 1000)
SEEDS = (0, 1, 2)


@functools.cache
def _errors(channels: int) -> dict[str, float]:
    """Mean RMSE over 1000 steps of each seed, with the exact regression."""
    from statewise.papers.harness.sign_mixture import SignMixture, rmse

    found: dict[str, float] = dict.fromkeys(("zero", "f alone", "DKF", "robust", "repaired"), 0.0)
    for seed in SEEDS:
        model = SignMixture.drawn(channels, seed)
        z, y = model.simulate(1000, 100 + seed)
        filters = (model.discriminative(), model.discriminative(robust=True))
        values = (
            rmse(0 * z, z),
            rmse(model.law(y)[0], z),
            *(rmse(one.filter(y).mean, z) for one in filters),
            float(filters[0].measure(y).repaired.double().mean()),
        )
        for name, value in zip(found, values, strict=True):
            found[name] += value / len(SEEDS)
    return found


def _alone(setting: Setting) -> Measured:
    ratios, details = [], {}
    for channels in (1, 3, *CHANNELS):
        found = _errors(channels)
        details |= {f"{name}, {channels} channels": value for name, value in found.items()}
        if channels in CHANNELS:
            ratios.append(found["DKF"] / found["f alone"])
    return Measured(
        max(ratios),
        details,
        seeds=len(SEEDS),
        remark="RMSE of a state of variance 1; repaired is the share of steps where V is not "
        "below S.",
    )


def _robust(setting: Setting) -> Measured:
    found = {channels: _errors(channels) for channels in CHANNELS}
    ratios = {channels: one["robust"] / one["DKF"] for channels, one in found.items()}
    details = {f"{channels} channels": ratio for channels, ratio in ratios.items()}
    return Measured(ratios[1000], details, seeds=len(SEEDS))


def _against_particles(channels: int, setting: Setting) -> Measured:
    from statewise.inference import particle_filter
    from statewise.papers.harness.sign_mixture import SignMixture, rmse

    found = {"DKF": 0.0, "10 000 particles": 0.0}
    for seed in SEEDS[:2]:
        setting.say(f"series {seed}")
        model = SignMixture.drawn(channels, seed)
        z, y = model.simulate(500, 100 + seed)
        cloud = particle_filter(model.particles(), y.float(), particles=10_000, seed=seed)
        found["DKF"] += rmse(model.discriminative().filter(y).mean, z) / 2
        found["10 000 particles"] += rmse(cloud.mean, z) / 2
    ratio = found["DKF"] / found["10 000 particles"]
    return Measured(ratio, found, seeds=2, remark="RMSE over 500 steps of each series.")


@functools.cache
def _learned() -> dict[str, float]:
    """Mean RMSE over 2000 steps after 5000 pairs; all but the last two are learned from them."""
    import torch

    from statewise import inference
    from statewise.inference import CholeskyNetwork, LinearGaussian, fit_discriminative
    from statewise.papers.harness.sign_mixture import SignMixture, rmse, with_power

    found: dict[str, float] = {}
    for seed in SEEDS:
        model = SignMixture.drawn(32, seed)
        z, y = model.simulate(7000, 100 + seed)
        before, told, rest = z[:, :5000], y[:, :5000], z[:, 5000:]
        H = torch.linalg.lstsq(before[0], told[0]).solution.mT
        left = told[0] - before[0] @ H.mT
        values: dict[str, float] = {}
        for name, features in (("", with_power), (", channels alone", lambda y: y)):
            fit = fit_discriminative(before, features(told), CholeskyNetwork(), seed=seed)
            seen = features(y[:, 5000:])
            values[f"DKF{name}"] = rmse(fit.filter(seen).mean, rest)
            values[f"network{name}"] = rmse(fit.law(seen)[0], rest)
            if not name:
                kalman = LinearGaussian(fit.F, H, fit.Q, left.mT @ left / 5000, P0=fit.S)
                tracked = inference.filter(kalman, y[:, 5000:])
                values["linear Kalman filter"] = rmse(tracked.mean, rest)
        values["prior"] = rmse(0 * rest, rest)
        values["DKF, exact f and V"] = rmse(model.discriminative().filter(y[:, 5000:]).mean, rest)
        for name, value in values.items():
            found[name] = found.get(name, 0.0) + value / len(SEEDS)
    return found


def _order(setting: Setting) -> Measured:
    found = _learned()
    steps = (found["DKF"] / found["network"], found["network"] / found["linear Kalman filter"])
    return Measured(
        max(steps),
        found,
        seeds=len(SEEDS),
        remark="Mean RMSE. From the channels alone, without their power, 5000 pairs teach the "
        "network next to nothing, and the filter cannot make up for that.",
    )


def _linear(setting: Setting) -> Measured:
    found = _learned()
    ratio = found["linear Kalman filter"] / found["prior"]
    return Measured(
        abs(ratio - 1), {name: found[name] for name in ("linear Kalman filter", "prior")}
    )


def _windows(setting: Setting) -> Measured:
    from statewise.inference import fit_discriminative
    from statewise.papers.harness.decoding import WindowLSTM, turning_counts, windows
    from statewise.papers.harness.sign_mixture import rmse

    found: dict[str, float] = {}
    for seed in SEEDS:
        z, counts = turning_counts(2800, seed)
        for size in (1, 10):
            y = windows(counts, size)
            fit = fit_discriminative(z[:, :800], y[:, :800], WindowLSTM(size), seed=seed)
            rest, told = z[:, 800:], y[:, 800:]
            for name, mean in (("LSTM", fit.law(told)[0]), ("DKF", fit.filter(told).mean)):
                key = f"{name}, {size} {'bin' if size == 1 else 'bins'}"
                found[key] = found.get(key, 0.0) + rmse(mean, rest) / len(SEEDS)
    return Measured(
        found["DKF, 10 bins"] / found["LSTM, 10 bins"],
        found,
        seeds=len(SEEDS),
        remark="Windows share bins, so that what the LSTM says of successive states is not "
        "independent given them, as the filter takes it to be; on single bins, where it is, the "
        "filter gains most of all.",
    )


PAPER = Paper(
    name="dkf",
    title=(
        "A Discriminative Approach to Bayesian Filtering with Applications to Human Neural Decoding"
    ),
    identifier="arXiv:1807.06173",
    year=2018,
    says=(
        "Where observations are many and their law is hard, a regression of the state on them is "
        "turned into a likelihood by Bayes' rule: a filter as cheap as Kalman's comes near the "
        "optimal one as the observations grow."
    ),
    uses=(
        "inference.Discriminative",
        "inference.fit_discriminative",
        "inference.NadarayaWatson",
        "inference.GaussianProcess",
        "inference.CholeskyNetwork",
    ),
    claims=(
        Claim(
            name="filter-beats-regression",
            statement=(
                "Ten slow states seen by 10 to 1000 channels in a mixture of signs: the filter is "
                "at least 10 % better than its regression alone: largest ratio of the RMSE."
            ),
            measure=_alone,
            must=at_most(0.9),
        ),
        Claim(
            name="particles-32",
            statement=(
                "With 32 channels it is within 5 % of a bootstrap filter of 10 000 particles: "
                "ratio of the RMSE."
            ),
            measure=functools.partial(_against_particles, 32),
            must=at_most(1.05),
            minutes=2,
        ),
        Claim(
            name="particles-100",
            statement="With 100 channels it is better than that filter: ratio of the RMSE.",
            measure=functools.partial(_against_particles, 100),
            must=at_most(1.0),
            minutes=2,
        ),
        Claim(
            name="robust-form",
            statement=(
                "The robust form, which leaves the prior in, comes to the same as channels grow: "
                "ratio of the RMSE at 1000 channels."
            ),
            measure=_robust,
            must=at_most(1.03),
        ),
        Claim(
            name="learned-order",
            statement=(
                "Learned from 5000 pairs of 32 channels and their power by a small network with a "
                "Cholesky head, the filter is better than the network alone, and that better than "
                "a linear Kalman filter: the larger of the two ratios of the RMSE."
            ),
            measure=_order,
            must=at_most(1.0),
            minutes=4,
        ),
        Claim(
            name="linear-filter-fails",
            statement=(
                "As no channel has a mean that depends on the state, the linear Kalman filter "
                "learned from the same pairs is no better than the prior: deviation of the ratio "
                "of the RMSE from 1."
            ),
            measure=_linear,
            must=at_most(0.05),
            minutes=4,
        ),
        Claim(
            name="windows-of-an-lstm",
            statement=(
                "Where an LSTM on windows of 10 bins is learned from 800 steps, filtering "
                "what it gives still helps: ratio of the RMSE to that of the LSTM alone."
            ),
            measure=_windows,
            must=at_most(1.0),
        ),
    ),
)
