"""Subspace identification and the classics around it: realisation, norms, reduction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor

    from statewise.lti import StateSpace

RUNS = 10
HORIZON = 10
#: Median largest pole error of 10 runs, by standard deviation of the noise and length.
POLE_ERRORS = {
    (0.1, 1000): {"n4sid": 0.0025, "moesp": 0.0030, "cva": 0.0022},
    (0.1, 10_000): {"n4sid": 0.0011, "moesp": 0.0009, "cva": 0.0007},
    (0.5, 1000): {"n4sid": 0.023, "moesp": 0.018, "cva": 0.015},
    (0.5, 10_000): {"n4sid": 0.0048, "moesp": 0.0037, "cva": 0.0059},
}
HANKEL, H2, HINF = (6.5526, 5.1437, 0.6344), 3.11214, 12.781
#: Error of balanced truncation of the reference system, by order.
TRUNCATED = {2: 1.0765, 1: 10.241}
#: Pole errors in the closed loop at 20 000 samples.
CLOSED = {"n4sid": 0.0196, "cva": 0.0200, "pbsid": 0.0146}


def _plant(direct: float = 0.1) -> StateSpace:
    """Poles 0.95 e^{±0.5i} and 0.7."""
    from statewise.lti import StateSpace

    c, s = 0.95 * math.cos(0.5), 0.95 * math.sin(0.5)
    A = [[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 0.7]]
    return StateSpace(A, [[1.0], [0.5], [1.0]], [[1.0, 0.0, 0.5]], [[direct]], dt=1.0)


def _random(n: int, m: int, p: int, seed: int) -> StateSpace:
    """A stable system with largest modulus 0.95."""
    import numpy as np

    from statewise.lti import StateSpace

    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    B, C = rng.standard_normal((n, m)), rng.standard_normal((p, n))
    return StateSpace(A, B, C, rng.standard_normal((p, m)), dt=1.0)


def _draw(length: int, channels: int, seed: int) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(length, channels, generator=generator, dtype=torch.float64)


def _noisy(length: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """White input and output with white noise."""
    from statewise.lti import simulate

    u = _draw(length, 1, seed)
    return u, simulate(_plant(), u)[0] + noise * _draw(length, 1, 10_000 + seed)


def _pole_error(found: StateSpace) -> float:
    import torch

    from statewise.lti import poles

    true = torch.linalg.eigvals(_plant().A)
    return float((poles(found)[:, None] - true).abs().amin(0).max())


def _noise_free(setting: Setting) -> Measured:
    from statewise.lti import CVA, MOESP, N4SID, identify

    worst = {}
    for method in (N4SID, MOESP, CVA):
        errors = []
        for seed in range(RUNS):
            u, y = _noisy(1000, 0.0, seed)
            found = identify(u, y, 3, weighting=method, horizon=HORIZON)
            errors.append(_pole_error(found.system))
        worst[method.name] = max(errors)
    return Measured(max(worst.values()), worst, seeds=RUNS)


def _noisy_poles(setting: Setting) -> Measured:
    import statistics

    from statewise.lti import CVA, MOESP, N4SID, identify

    details, ratios = {}, []
    for (noise, length), published in POLE_ERRORS.items():
        for method in (N4SID, MOESP, CVA):
            errors = []
            for seed in range(RUNS):
                u, y = _noisy(length, noise, seed)
                found = identify(u, y, 3, weighting=method, horizon=HORIZON)
                errors.append(_pole_error(found.system))
            median = statistics.median(errors)
            details[f"{method.name}, noise {noise}, {length} samples"] = median
            ratios.append(median / published[method.name])
    return Measured(
        max(ratios),
        details,
        seeds=RUNS,
        remark="The value is the largest ratio; the details are the median pole errors themselves.",
    )


def _fit(setting: Setting) -> Measured:
    import statistics

    from statewise.lti import CVA, N4SID, identify, simulate

    test = _draw(2000, 1, 99)
    clean = simulate(_plant(), test)[0]
    spread = (clean - clean.mean()).norm()
    fits: dict[str, list[float]] = {}
    for method in (CVA, N4SID):
        for seed in range(RUNS):
            found = identify(*_noisy(2000, 0.5, seed), 3, weighting=method, horizon=HORIZON).system
            rest = (simulate(found, test)[0] - clean).norm()
            fits.setdefault(method.name, []).append(100 * (1 - float(rest / spread)))
    medians = {name: statistics.median(values) for name, values in fits.items()}
    return Measured(medians["cva"], {"n4sid": medians["n4sid"]}, seeds=RUNS)


def _order(setting: Setting) -> Measured:
    from statewise.lti import identify

    runs, right = 100, 0
    for seed in range(runs):
        right += identify(*_noisy(2000, 0.5, seed), horizon=HORIZON).order == 3
    return Measured(right / runs, seeds=runs, remark="The order is chosen by BIC.")


def _values(setting: Setting) -> Measured:
    from statewise.lti import balanced_truncation, h2_norm, hankel_singular_values, hinf_norm

    plant = _plant()
    sigma = hankel_singular_values(plant).tolist()
    found = dict(zip(("σ₁", "σ₂", "σ₃"), sigma, strict=True))
    found |= {"H2": float(h2_norm(plant)), "H∞": float(hinf_norm(plant).upper)}
    expected = [*HANKEL, H2, HINF]
    for order, error in TRUNCATED.items():
        reduced = balanced_truncation(plant, order).system
        found[f"error of order {order}"] = float(hinf_norm(plant - reduced).upper)
        expected.append(error)
    gaps = [abs(a / b - 1) for a, b in zip(found.values(), expected, strict=True)]
    return Measured(
        max(gaps),
        found,
        remark="The reference values, computed independently, have four to six digits.",
    )


def _bounds(setting: Setting) -> Measured:
    from statewise.lti import balanced_truncation, hankel_singular_values, hinf_norm

    worst = 0.0
    for seed in range(20):
        system = _random(4 + seed % 5, 1 + seed % 3, 1 + seed % 2, seed)
        sigma = hankel_singular_values(system)
        worst = max(worst, float(sigma[0] / hinf_norm(system).upper))
        for order in range(1, system.n_states):
            reduced = balanced_truncation(system, order).system
            error = hinf_norm(system - reduced)
            worst = max(worst, float(error.lower / (2 * sigma[order:].sum())))
            worst = max(worst, float(sigma[order] / error.upper))
    return Measured(worst, seeds=20)


def _gramians(setting: Setting) -> Measured:
    import torch

    from statewise.lti import controllability_gramian, frequency_response, h2_norm

    residual, parseval = 0.0, 0.0
    omega = torch.linspace(0, 2 * math.pi, 4097, dtype=torch.float64)[:-1]
    for seed in range(20):
        system = _random(4 + seed % 5, 2, 2, seed)
        A, B, _, _ = system.matrices
        P = controllability_gramian(system).X
        gap = A @ P @ A.mT + B @ B.mT - P
        residual = max(residual, float(gap.norm() / P.norm()))
        power = frequency_response(system, omega).abs().square().sum((1, 2)).mean().sqrt()
        parseval = max(parseval, abs(float(power / h2_norm(system)) - 1))
    return Measured(residual, {"H2 against the frequency integral, relative": parseval}, seeds=20)


def _realise(setting: Setting) -> Measured:
    from statewise.lti import era, markov_parameters

    return Measured(_pole_error(era(markov_parameters(_plant(), 60), 3).system))


def _closed_loop(length: int, seed: int) -> tuple[Tensor, Tensor]:
    """The plant without D under u = −0.3 y + 0.5 r, with innovations of deviation 0.5."""
    import torch

    from statewise.lti import StateSpace, simulate

    A, B, C, _ = _plant(0.0).matrices
    K = torch.tensor([[0.3], [0.1], [0.2]], dtype=torch.float64)
    loop = StateSpace(
        A - 0.3 * B @ C,
        torch.cat([0.5 * B, K - 0.3 * B], 1),
        torch.cat([-0.3 * C, C]),
        torch.tensor([[0.5, -0.3], [0.0, 1.0]], dtype=torch.float64),
        dt=1.0,
    )
    noise = _draw(length, 2, seed) * torch.tensor([1.0, 0.5], dtype=torch.float64)
    both = simulate(loop, noise)[0]
    return both[:, :1], both[:, 1:]


def _feedback(length: int) -> dict[str, float]:
    import statistics

    from statewise.lti import CVA, N4SID, SSARX, identify

    medians = {}
    for method, horizon in ((N4SID, HORIZON), (CVA, HORIZON), (SSARX, (20, HORIZON))):
        errors = []
        for seed in range(RUNS):
            u, y = _closed_loop(length, seed)
            found = identify(u, y, 3, weighting=method, horizon=horizon, direct=False)
            errors.append(_pole_error(found.system))
        medians[method.name] = statistics.median(errors)
    return medians


def _feedback_error(setting: Setting) -> Measured:
    short, long = _feedback(2000), _feedback(20_000)
    details = {f"{name}, 2000 samples": value for name, value in short.items()}
    details |= {f"{name}, 20 000 samples": value for name, value in long.items()}
    return Measured(long["ssarx"], details, seeds=RUNS)


def _feedback_bias(setting: Setting) -> Measured:
    found = _feedback(200_000)
    return Measured(found["ssarx"] / found["n4sid"], found, seeds=RUNS)


def _start(setting: Setting) -> Measured:
    import torch

    from statewise.lti import simulate
    from statewise.models import DeepWiener, DeepWienerConfig
    from statewise.nn import S5

    worst = {"the plant": 0.0, "20 random systems": 0.0}
    systems = [("the plant", _plant())]
    systems += [("20 random systems", _random(6, 2, 2, seed)) for seed in range(20)]
    for name, system in systems:
        for config in (DeepWienerConfig(), DeepWienerConfig(layer=S5.spec(d_state=8))):
            model = DeepWiener.from_linear(system, config, dtype=torch.float64).eval()
            u = _draw(500, system.n_inputs, 1)
            expected = simulate(system, u)[0]
            with torch.no_grad():
                gap = (model(u[None])[0][0] - expected).abs().max() / expected.abs().max()
            worst[name] = max(worst[name], float(gap))
    return Measured(max(worst.values()), worst, seeds=20)


def _fewer_steps(setting: Setting) -> Measured:
    from statewise.papers.harness.started import fewer_steps

    return fewer_steps(setting)


PAPER = Paper(
    name="classical-sysid",
    title="Subspace Identification for Linear Systems",
    identifier="doi:10.1007/978-1-4613-0465-4",
    year=1996,
    says=(
        "A linear system is found from records by projections and one singular value "
        "decomposition, without iterations; Gramians then give norms, and reduced systems with "
        "bounds of their error. The reference tables are an independent computation for a system "
        "of order 3 with the poles 0.95 exp(±0.5i) and 0.7."
    ),
    uses=(
        "lti.identify",
        "lti.era",
        "lti.hankel_singular_values",
        "lti.h2_norm",
        "lti.hinf_norm",
        "lti.balanced_truncation",
        "models.DeepWiener",
    ),
    claims=(
        Claim(
            name="noise-free-poles",
            statement=(
                "N4SID, MOESP and CVA give the poles back from 1000 samples without noise: largest "
                "error over 10 records."
            ),
            measure=_noise_free,
            must=at_most(1e-10),
        ),
        Claim(
            name="noisy-poles",
            statement=(
                "With noise of deviation 0.1 and 0.5, and 1000 and 10 000 samples, the median pole "
                "error of 10 records is within twice the reference table for each of the three "
                "methods: largest ratio."
            ),
            measure=_noisy_poles,
            must=at_most(2.0),
        ),
        Claim(
            name="fit-at-15-db",
            statement=(
                "From 2000 samples at 15.3 dB the model simulates a noise-free test record with "
                "99.17 %; what is missing to 100 % is within twice that, median of 10 records."
            ),
            measure=_fit,
            must=at_least(98.34),
            unit="%",
        ),
        Claim(
            name="order",
            statement="At 15.3 dB the order 3 is found: share of 100 records of 2000 samples.",
            measure=_order,
            must=at_least(0.95),
        ),
        Claim(
            name="reference-values",
            statement=(
                "Hankel singular values, H2 and H-infinity norm of the reference system, and the "
                "errors of its balanced truncations: largest relative deviation from the table."
            ),
            measure=_values,
            must=at_most(1e-4),
        ),
        Claim(
            name="truncation-bounds",
            statement=(
                "σ₁ ≤ ‖G‖_∞ and σ_{r+1} ≤ ‖G − G_r‖_∞ ≤ 2 Σ_{j>r} σ_j for every order of 20 random "
                "systems: largest ratio of a left side to its right side."
            ),
            measure=_bounds,
            must=at_most(1 + 1e-6),
        ),
        Claim(
            name="gramians",
            statement=(
                "The controllability Gramian satisfies its Lyapunov equation: largest relative "
                "residual over 20 random systems."
            ),
            measure=_gramians,
            must=at_most(1e-12),
        ),
        Claim(
            name="realisation",
            statement=(
                "The eigensystem realisation of exact Markov parameters has the true poles: "
                "largest error."
            ),
            measure=_realise,
            must=at_most(1e-10),
        ),
        Claim(
            name="closed-loop-error",
            statement=(
                "Under feedback SSARX finds the poles from 20 000 samples as well as PBSID, within "
                "a factor of 2: median error of 10 records."
            ),
            measure=_feedback_error,
            must=at_most(2 * CLOSED["pbsid"]),
        ),
        Claim(
            name="closed-loop-bias",
            statement=(
                "Under feedback N4SID keeps a bias where SSARX is consistent: pole error of SSARX "
                "over that of N4SID at 200 000 samples, medians of 10 records."
            ),
            measure=_feedback_bias,
            must=at_most(0.5),
        ),
        Claim(
            name="starts-at-the-linear-model",
            statement=(
                "A deep model that starts from a linear one simulates what that simulates: largest "
                "relative difference over LRU and S5 layers, the reference system and 20 random "
                "ones, in float64."
            ),
            measure=_start,
            must=at_most(1e-12),
        ),
        Claim(
            name="fewer-steps-from-a-linear-start",
            statement=(
                "A deep stack on 10 000 samples of a cubic spring that starts at a linear model "
                "reaches the least validation error which a random start has within 1000 steps in "
                "a third of the steps or less: ratio of steps, median of 5 seeds."
            ),
            measure=_fewer_steps,
            must=at_least(3.0),
            minutes=8,
        ),
    ),
)
