"""Scaling rules for selective layers of growing width and state."""

from __future__ import annotations

from statewise.papers.registry import Bound, Claim, Measured, Paper, Setting, at_least, at_most

SIZES = (32, 128, 512)


def _slope(derived: bool, optimiser: str) -> Measured:
    import numpy as np

    from statewise.papers.harness.scaling import one_step

    moves = {
        size: [
            one_step(size, rule="euler", derived=derived, optimiser=optimiser, seed=seed)
            for seed in range(4)
        ]
        for size in SIZES
    }
    logs = [np.mean([np.log(move.dy) for move in found]) for found in moves.values()]
    details = {
        f"{name}, N = {size}": float(np.exp(np.mean([np.log(getattr(m, key)) for m in found])))
        for size, found in moves.items()
        for name, key in (("Δy", "dy"), ("Δx", "dx"))
    }
    return Measured(float(np.polyfit(np.log(SIZES), logs, 1)[0]), details, seeds=4)


def _spectral_sgd(setting: Setting) -> Measured:
    return _slope(derived=False, optimiser="sgd")


def _spectral_adam(setting: Setting) -> Measured:
    return _slope(derived=False, optimiser="adam")


def _derived_sgd(setting: Setting) -> Measured:
    return _slope(derived=True, optimiser="sgd")


def _derived_adam(setting: Setting) -> Measured:
    return _slope(derived=True, optimiser="adam")


def _held(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.scaling import one_step

    power = {}
    for size in SIZES:
        found = [
            one_step(size, rule="zoh", derived=True, optimiser="adam", seed=seed).x
            for seed in range(8)
        ]
        power[size] = size * float(np.mean(np.square(found)))
    mean = sum(power.values()) / len(power)
    deviation = max(abs(value / mean - 1) for value in power.values())
    details = {f"N · mean square of x, N = {size}": value for size, value in power.items()}
    return Measured(deviation, details, seeds=8)


def _multiplier(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import mup_factors
    from statewise.papers.harness.scaling import selective_layer

    size, rng = 60, np.random.default_rng(0)
    u = torch.from_numpy(rng.standard_normal((1, 8, size)))
    wb = torch.from_numpy(rng.standard_normal((size, size)) / size**0.5)
    drawn = torch.from_numpy(rng.standard_normal((size, size)))
    own = mup_factors("selective C", size, size)
    plain = mup_factors("selective B", size, size)
    worst = {}
    for optimiser in ("sgd", "adam"):
        after = []
        for factors, gain in ((own, 1.0), (plain, 1 / size)):
            wc = (factors.init * drawn).requires_grad_()
            for _ in range(3):
                y = selective_layer(u, wb, wc, "euler", gain)[0]
                (grad,) = torch.autograd.grad((u[0, -1] * y[0, -1]).sum() / size, wc)
                step = grad.sign() if optimiser == "adam" else grad
                wc = (wc - factors.rate(optimiser) * step).detach().requires_grad_()
            with torch.no_grad():
                after.append(selective_layer(u, wb, wc, "euler", gain)[0])
        gap = (after[0] - after[1]).abs().max() / after[0].abs().max()
        worst[optimiser] = float(gap)
    return Measured(max(worst.values()), worst)


PAPER = Paper(
    name="ssm-mup",
    title="On Feature Learning in Structured State Space Models",
    identifier="NeurIPS 2024 (aQv5AbN1wF)",
    year=2024,
    says=(
        "Scaling rules that are right for other networks make the updates of a selective layer "
        "explode with its state; its map to C needs one more factor, and then learning rates "
        "carry over between sizes."
    ),
    uses=("nn.mup_factors", "nn.mup_groups", "ops.selective_scan"),
    claims=(
        Claim(
            name="spectral-explodes-adam",
            statement=(
                "With the factors of a hidden matrix for W_C one step of Adam moves the output by "
                "a power of N = N_u = N_x: its exponent, Euler rule."
            ),
            measure=_spectral_adam,
            must=at_least(0.5),
        ),
        Claim(
            name="spectral-explodes-sgd",
            statement="The same with one step of gradient descent.",
            measure=_spectral_sgd,
            must=at_least(1.2),
        ),
        Claim(
            name="derived-is-stable-adam",
            statement=(
                "With the factors derived for W_C that exponent is near 0: it is neither growing "
                "nor falling fast."
            ),
            measure=_derived_adam,
            must=Bound(-0.5, 0.1),
        ),
        Claim(
            name="derived-is-stable-sgd",
            statement="The same with one step of gradient descent.",
            measure=_derived_sgd,
            must=Bound(-0.5, 0.1),
        ),
        Claim(
            name="held-states-saturate",
            statement=(
                "With a zero-order hold and A = −1 … −N fast states count for little: N times the "
                "mean square of the states stays the same, largest relative deviation."
            ),
            measure=_held,
            must=at_most(0.3),
        ),
        Claim(
            name="multiplier-form",
            statement=(
                "W_C as a hidden matrix with y = C x / N trains in the same way: largest relative "
                "difference after three steps of gradient descent and of sign descent."
            ),
            measure=_multiplier,
            must=at_most(1e-10),
        ),
    ),
)
