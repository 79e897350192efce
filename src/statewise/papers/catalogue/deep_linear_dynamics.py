"""Exact learning curves of deep linear networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor

STRENGTHS = (4.0, 3.0, 2.0, 1.0, 0.5)


def _modes(rate: float) -> tuple[dict[str, float], dict[str, float]]:
    """Mode gains at t = 2 of a trained layer of five inputs and outputs, and by the formula."""
    import numpy as np
    import torch

    from statewise.papers.harness.flows import logistic, orthogonal
    from statewise.papers.harness.trained_systems import descend, filtered, one_pole_layer

    rng = np.random.default_rng(0)
    left, right, middle = (orthogonal(5, rng) for _ in range(3))
    layer = one_pole_layer(0.8, 5, 0.0, 5, 5)
    # Five impulses: what the pole makes of them is white, as the theory wants.
    u = torch.zeros(5, 60, 5, dtype=torch.float64)
    u[:, 0] = torch.eye(5)
    power = float(filtered(layer, u).square().sum() / 5)
    u = u * (5 * 60 / power) ** 0.5
    z = filtered(layer, u)
    gains = torch.tensor(STRENGTHS, dtype=torch.float64)
    target = z @ (left @ torch.diag(gains) @ right.T).T
    size = 1e-3**0.5
    with torch.no_grad():
        layer.coupling.B.copy_(size * middle @ right.T)
        layer.coupling.C.copy_(size * left @ middle.T)
    ((b, c),) = descend([layer], u, target, rate, round(2 / rate))[-1]
    found = torch.diagonal(left.T @ c @ b @ right).tolist()
    expected = [float(logistic(np.array(2.0), 1e-3, s)) for s in STRENGTHS]
    names = [f"s = {s:g}" for s in STRENGTHS]
    return dict(zip(names, found, strict=True)), dict(zip(names, expected, strict=True))


def _five_modes(setting: Setting) -> Measured:
    found, expected = _modes(5e-4)
    worst = max(abs(found[name] / expected[name] - 1) for name in found)
    return Measured(worst, found | {f"formula, {name}": x for name, x in expected.items()}, seeds=1)


def _first_order(setting: Setting) -> Measured:
    errors = []
    for rate in (2e-3, 1e-3):
        found, expected = _modes(rate)
        errors.append(max(abs(found[name] - expected[name]) for name in found))
    return Measured(errors[1] / errors[0], {"error": errors[0], "half the step": errors[1]})


def _hitting_times(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.papers.harness.flows import crossing, descend_product

    strengths, rate = np.array([0.5, 1.0, 2.0, 4.0, 8.0]), 2e-3
    slopes = {}
    for start in (1e-6, 1e-10):
        times = []
        for strength in strengths:
            weights = [torch.full((1, 1), start**0.5, dtype=torch.float64) for _ in range(2)]
            step = rate / strength
            target = torch.full((1, 1), strength, dtype=torch.float64)
            curve = descend_product(weights, target, step, round(14 / rate))[:, 0, 0]
            times.append(crossing(step * np.arange(len(curve)), curve, strength / 2))
        slopes[f"slope from {start:g}"] = float(np.polyfit(np.log(strengths), np.log(times), 1)[0])
    return Measured(abs(slopes["slope from 1e-10"] + 1), slopes)


def _small_random(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.papers.harness.flows import descend_product, logistic, orthogonal

    errors = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        left, right = orthogonal(5, rng), orthogonal(5, rng)
        target = left @ torch.diag(torch.tensor(STRENGTHS, dtype=torch.float64)) @ right.T
        weights = [torch.from_numpy(1e-3 * rng.standard_normal((5, 5))) for _ in range(2)]
        path = descend_product(weights, target, 2e-3, 10_000, every=20)
        modes = np.einsum("im,tij,jm->tm", left.numpy(), path, right.numpy())
        time = 2e-3 * 20 * np.arange(len(modes))
        worst = 0.0
        for curve, strength in zip(modes.T, STRENGTHS, strict=True):
            # The start of the formula is fitted at half height, as the random one is not aligned.
            k = int(np.argmax(curve >= strength / 2))
            start = strength / (1 + (strength / curve[k] - 1) * np.exp(2 * strength * time[k]))
            theory = logistic(time, start, strength)
            worst = max(worst, float(np.sqrt(np.mean((curve - theory) ** 2))) / strength)
        errors[f"seed {seed}"] = worst
    return Measured(max(errors.values()), errors, seeds=3)


def _start(kind: str, depth: int, size: int, seed: int) -> list[Tensor]:
    import numpy as np
    import torch

    from statewise.papers.harness.flows import orthogonal

    rng = np.random.default_rng(seed)
    if kind == "orthogonal":
        return [orthogonal(size, rng) for _ in range(depth)]
    return [torch.from_numpy(rng.standard_normal((size, size)) / size**0.5) for _ in range(depth)]


def _task() -> Tensor:
    """Covariance of ten one-hot classes, centred, with 32 whitened inputs, (10, 32)."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    classes = np.arange(2000) % 10
    x = 1.5 * rng.standard_normal((10, 32))[classes] + rng.standard_normal((2000, 32))
    x = x - x.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    white = x @ vectors / np.sqrt(values)
    y = np.sqrt(10) * (np.eye(10)[classes] - 0.1)
    return torch.from_numpy(y.T @ white / len(x))


def _epochs(kind: str) -> dict[str, float]:
    import numpy as np

    from statewise.papers.harness.flows import epochs_to

    found, target = {}, _task()
    for depth in (2, 8, 32, 64):
        weights = _start(kind, depth, 32, 1)
        weights[-1] = weights[-1][:10]
        rates = np.geomspace(1e-3, 1, 13) / depth
        found[f"{kind}, depth {depth}"] = float(epochs_to(weights, target, rates, 0.1, 1500)[0])
    return found


def _orthogonal_depth(setting: Setting) -> Measured:
    found = _epochs("orthogonal")
    return Measured(max(found.values()) / min(found.values()), found, seeds=1)


def _gaussian_depth(setting: Setting) -> Measured:
    found = _epochs("normal")
    remark = "1500 steps stand for a failure."
    return Measured(max(found.values()) / min(found.values()), found, seeds=1, remark=remark)


def _isometry(setting: Setting) -> Measured:
    import torch

    deviation, details = 0.0, {}
    for depth in (10, 100):
        for kind in ("orthogonal", "normal"):
            product = torch.linalg.multi_dot(_start(kind, depth, 100, 0))
            values = torch.linalg.svdvals(product)
            if kind == "orthogonal":
                deviation = max(deviation, float((values - 1).abs().max()))
            else:
                details[f"normal, depth {depth}, largest"] = float(values.max())
                details[f"normal, depth {depth}, median"] = float(values.median())
    return Measured(deviation, details, seeds=1)


PAPER = Paper(
    name="deep-linear-dynamics",
    title="Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
    identifier="arXiv:1312.6120",
    year=2013,
    says=(
        "Deep linear networks learn their modes one after the other, along sigmoids that singular "
        "values of the data set, and from orthogonal weights their learning time hardly depends "
        "on depth."
    ),
    uses=("nn.LTI", "nn.RealDiagonal"),
    claims=(
        Claim(
            name="five-modes",
            statement=(
                "A linear layer of five inputs, states and outputs with aligned weights learns "
                "five modes as the closed form says: largest relative deviation at t = 2."
            ),
            measure=_five_modes,
            must=at_most(5e-3),
        ),
        Claim(
            name="first-order-in-the-step",
            statement=(
                "The deviation is that of Euler steps: halving the step halves it, ratio of the "
                "two."
            ),
            measure=_first_order,
            must=at_most(0.55),
        ),
        Claim(
            name="strong-modes-first",
            statement=(
                "From very small weights, of product 10⁻¹⁰, the time to half a mode is inverse to "
                "its strength: deviation of the exponent from −1."
            ),
            measure=_hitting_times,
            must=at_most(0.05),
        ),
        Claim(
            name="small-random-starts",
            statement=(
                "From small random weights, which are not aligned, the modes follow the same "
                "curves once the start is fitted: largest rms deviation over the mode."
            ),
            measure=_small_random,
            must=at_most(0.02),
        ),
        Claim(
            name="orthogonal-is-depth-free",
            statement=(
                "On ten classes with white inputs and from orthogonal weights, the steps to a "
                "tenth of the loss at the best rate differ by a factor of 2 at most between 2 and "
                "64 layers."
            ),
            measure=_orthogonal_depth,
            must=at_most(2.0),
            minutes=3,
        ),
        Claim(
            name="gaussian-is-not",
            statement="From Gaussian weights of the same variance that factor is 4 or more.",
            measure=_gaussian_depth,
            must=at_least(4.0),
            minutes=5,
        ),
        Claim(
            name="isometry",
            statement=(
                "Products of 10 and 100 orthogonal matrices have singular values of 1: largest "
                "deviation; those of Gaussian ones spread over decades."
            ),
            measure=_isometry,
            must=at_most(1e-12),
        ),
    ),
)
