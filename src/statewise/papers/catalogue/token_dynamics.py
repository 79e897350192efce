"""What happens to the tokens of a deep stack of selective layers."""

from __future__ import annotations

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most


def _same_map(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.ops import selective_scan
    from statewise.papers.harness.tokens import TokenFlow

    worst = 0.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, into, out, steps = (
            rng.standard_normal(shape) for shape in ((2, 40, 5), (7, 5), (7, 5), (5, 5))
        )
        tokens = torch.from_numpy(x)
        y, _ = selective_scan(
            tokens,
            tokens @ torch.from_numpy(steps).T,
            torch.full((5, 7), -0.7, dtype=torch.float64),
            tokens @ torch.from_numpy(into).T,
            tokens @ torch.from_numpy(out).T,
            softplus=True,
        )
        slope = TokenFlow(out.T @ into, steps, 0.7).slope(x)
        worst = max(worst, float(np.abs(y.numpy() - slope).max() / np.abs(slope).max()))
    return Measured(worst, seeds=5)


def _constants(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.tokens import one_dimension, vanishing_constants

    start = np.random.default_rng(0).uniform(0.5, 1.5, (20, 6, 1))
    deviation = {}
    for until in (500.0, 2000.0, 1e6):
        tokens = one_dimension(-1.0).run(start, until)[0][..., 0]
        ratio = tokens * np.sqrt(until) / vanishing_constants(6, -1.0)
        deviation[until] = float(np.abs(ratio - 1).max())
    value = deviation.pop(2000.0)
    return Measured(value, {f"t = {until:g}": x for until, x in deviation.items()}, seeds=20)


def _exponent(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.tokens import one_dimension

    start = np.random.default_rng(1).uniform(0.5, 1.5, (20, 6, 1))
    times = np.geomspace(100, 10_000, 9)
    sizes = np.stack([one_dimension(-1.0).run(start, t)[0] for t in times]).reshape(9, -1)
    slopes = np.polyfit(np.log(times), np.log(sizes), 1)[0]
    return Measured(
        float(np.abs(slopes + 0.5).max()),
        {"smallest": float(slopes.min()), "largest": float(slopes.max())},
        seeds=20,
    )


def _vanish(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.tokens import one_dimension

    start = np.random.default_rng(0).standard_normal((100, 6, 1))
    tokens, _, kept = one_dimension(-1.0).run(start, 2000.0)
    return Measured(float(np.abs(tokens).max()), {"share that keep signs": kept.mean()}, seeds=100)


def _blow_up(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.tokens import one_dimension

    start = np.random.default_rng(0).standard_normal((100, 6, 1))
    start = start[(start > 0).any((1, 2))]
    tokens, time, kept = one_dimension(1.0).run(start, 2000.0)
    gone = np.abs(tokens).max((1, 2)) >= 1e3
    details = {
        "starts": float(len(start)),
        "median time": float(np.median(time[gone])),
        "latest time": float(time[gone].max()),
        "share that keep signs": float(kept.mean()),
    }
    return Measured(float(gone.mean()), details, seeds=len(start))


def _unequal(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.tokens import one_dimension

    start = np.random.default_rng(0).standard_normal((100, 6, 1))
    start = start[(start > 0).any((1, 2))]
    size = np.abs(one_dimension(1.0).run(start, 2000.0)[0][..., 0])
    ratio = size.max(1) / np.median(size, 1)
    details = {"10 % quantile": float(np.quantile(ratio, 0.1))}
    return Measured(float(np.median(ratio)), details, seeds=len(start))


def _eight(positive: bool) -> Measured:
    import numpy as np

    from statewise.papers.harness.tokens import TokenFlow

    found = {}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        factor, steps = (rng.standard_normal((8, 8)) / 8**0.5 for _ in range(2))
        product = factor @ factor.T if positive else -factor @ factor.T - np.eye(8)
        start = rng.standard_normal((1, 6, 8))
        tokens, time, _ = TokenFlow(product, steps).run(start, 500.0)
        largest = float(np.linalg.norm(tokens, axis=-1).max())
        if positive:
            found[f"seed {seed}"] = float(time[0]) if largest >= 1e3 else float("inf")
        else:
            found[f"seed {seed}"] = largest
    return Measured(max(found.values()), found, seeds=5)


PAPER = Paper(
    name="token-dynamics",
    title="Demystifying the Token Dynamics of Deep Selective State Space Models",
    identifier="arXiv:2410.03292",
    year=2024,
    says=(
        "With depth as time the tokens of a stack of equal S6 layers follow a differential "
        "equation: by the sign of S_Cᵀ S_B they all vanish, or they blow up at unequal rates."
    ),
    uses=("ops.selective_scan", "nn.Mamba"),
    claims=(
        Claim(
            name="scan-is-hidden-attention",
            statement=(
                "The selective scan is the explicit sum over earlier tokens with the weights P: "
                "largest relative difference in float64."
            ),
            measure=_same_map,
            must=at_most(1e-12),
        ),
        Claim(
            name="vanishing-rate",
            statement=(
                "In one dimension with μ = −1 positive tokens fall as t to the power −½: largest "
                "deviation of the exponents from t = 100 to 10 000."
            ),
            measure=_exponent,
            must=at_most(0.03),
        ),
        Claim(
            name="vanishing-constants",
            statement=(
                "There |x_l| √t tends to 1/√(2 ln 2) for the first token and to √(1 − 2^(−a)) of "
                "it for the others: largest relative deviation at t = 2000 over 20 starts."
            ),
            measure=_constants,
            must=at_most(0.06),
        ),
        Claim(
            name="all-vanish",
            statement=(
                "With μ = −1 every token vanishes from every start: largest |x| at t = 2000 over "
                "100 normal starts of 6 tokens."
            ),
            measure=_vanish,
            must=at_most(0.03),
        ),
        Claim(
            name="some-blow-up",
            statement=(
                "With μ = 1 some token passes 1000 in finite time wherever one starts positive: "
                "share of the starts."
            ),
            measure=_blow_up,
            must=at_least(1.0),
        ),
        Claim(
            name="unequal-rates",
            statement=(
                "They blow up at unequal rates: the largest |x| over the median one when the "
                "first passes 1000, median over the starts."
            ),
            measure=_unequal,
            must=at_least(50.0),
        ),
        Claim(
            name="negative-product-vanishes",
            statement=(
                "In eight dimensions a negative definite S_Cᵀ S_B lets all tokens vanish: largest "
                "norm of a token at t = 500 over five runs."
            ),
            measure=lambda setting: _eight(positive=False),
            must=at_most(0.05),
        ),
        Claim(
            name="positive-product-blows-up",
            statement=(
                "A positive definite one makes tokens pass a norm of 1000: latest time over five "
                "runs."
            ),
            measure=lambda setting: _eight(positive=True),
            must=at_most(0.1),
        ),
    ),
)
