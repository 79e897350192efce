"""Chimera: a state-space system over time and variates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor


def _coefficients(seed: int, *shape: int) -> list[Tensor]:
    """Four coefficients in (−½, ½) and two inputs."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(shape, dtype=torch.float64, generator=generator) - 0.5 for _ in range(4)]
    inputs = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2)]
    return drawn + inputs


def _double_loop(setting: Setting) -> Measured:
    import torch

    from statewise.ops import scan2d

    worst = 0.0
    for seed in range(3):
        a1, a2, a3, a4, b1, b2 = _coefficients(seed, 2, 11, 7, 3)
        (p, q), _ = scan2d(a1, a2, a3, a4, b1, b2)
        first, second = torch.zeros_like(b1), torch.zeros_like(b2)
        for t in range(11):
            for v in range(7):
                first[:, t, v], second[:, t, v] = b1[:, t, v], b2[:, t, v]
                if t:
                    first[:, t, v] += a1[:, t, v] * first[:, t - 1, v]
                    first[:, t, v] += a2[:, t, v] * second[:, t - 1, v]
                if v:
                    second[:, t, v] += a3[:, t, v] * first[:, t, v - 1]
                    second[:, t, v] += a4[:, t, v] * second[:, t, v - 1]
        gaps = (p - first).abs().max(), (q - second).abs().max()
        worst = max(worst, float(max(gaps)))
    return Measured(worst, seeds=3)


def _impulse(a: Tensor, size: int, b: Tensor, c: Tensor) -> Tensor:
    """The impulse response of constant coefficients (4, N), inputs (2, N) and read-outs (2, N)."""
    import torch

    from statewise.ops import scan2d

    inputs = torch.zeros(2, 1, size, size, a.shape[1], dtype=torch.float64)
    inputs[:, 0, 0, 0] = b
    (p, q), _ = scan2d(*a, *inputs)
    return (p[0] @ c[0]) + (q[0] @ c[1])


def _rank(setting: Setting) -> Measured:
    import torch

    generator = torch.Generator().manual_seed(0)
    a = 0.2 + 0.3 * torch.rand(4, 3, dtype=torch.float64, generator=generator)
    b, c = torch.randn(2, 2, 3, dtype=torch.float64, generator=generator)
    apart = a.clone()
    apart[1:3] = 0
    ranks = {
        name: int(torch.linalg.matrix_rank(_impulse(kind, 16, b, c), rtol=1e-10))
        for name, kind in (("coupled", a), ("apart", apart))
    }
    return Measured(float(ranks["coupled"]), {"without coupling": float(ranks["apart"])}, seeds=1)


def _growth(setting: Setting) -> Measured:
    import torch

    one = torch.ones(2, 1, dtype=torch.float64)
    found = {}
    for level in (0.45, 0.5, 0.55):
        a = torch.full((4, 1), level, dtype=torch.float64)
        found[level] = float(_impulse(a, 128, one, one)[100:, 100:].abs().max())
    details = {f"largest, c = {level:g}": value for level, value in found.items()}
    return Measured(found[0.55] / found[0.5], details)


def _bounded(setting: Setting) -> Measured:
    import torch

    from statewise.nn import Chimera

    worst, growth = 0.0, {}
    for coupling in ("bounded", "published"):
        largest = 0.0
        for seed in range(3):
            layer = Chimera(96, variates=96, d_state=2, coupling=coupling, seed=seed)
            generator = torch.Generator().manual_seed(seed)
            u = torch.randn(1, 96, 96, generator=generator)
            with torch.no_grad():
                y = layer(u)[0]
            largest = max(largest, float(y.abs().max()) if y.isfinite().all() else float("inf"))
        growth[coupling] = largest
        worst = largest if coupling == "bounded" else worst
    return Measured(worst, {"published coupling": growth["published"]}, seeds=3)


def _reversed(setting: Setting) -> Measured:
    import torch

    from statewise.nn import Chimera

    layer = Chimera(12, variates=6, d_state=3, tied=True, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(2, 30, 12, dtype=torch.float64, generator=generator)

    def turned(x: Tensor) -> Tensor:
        return x.unflatten(-1, (6, 2)).flip(-2).flatten(-2)

    with torch.no_grad():
        y, other = layer(u)[0], turned(layer(turned(u))[0])
    return Measured(float((other - y).abs().max() / y.abs().max()))


PAPER = Paper(
    name="chimera",
    title=(
        "Chimera: Effectively Modeling Multivariate Time Series with 2-Dimensional State Space "
        "Models"
    ),
    identifier="arXiv:2406.04320",
    year=2024,
    says=(
        "A state-space system with one state along time and one across variates, coupled and "
        "selective, models several time series together."
    ),
    uses=("nn.Chimera", "ops.scan2d"),
    claims=(
        Claim(
            name="scan-is-double-loop",
            statement=(
                "The scan over rows is the double loop over time and variates with coefficients "
                "that vary from place to place: largest difference."
            ),
            measure=_double_loop,
            must=at_most(1e-12),
        ),
        Claim(
            name="coupled-kernels-are-rich",
            statement=(
                "Three states with coupling have an impulse response on 16 by 16 places of rank "
                "10 or more, where two axes apart have 2: rank."
            ),
            measure=_rank,
            must=at_least(10.0),
        ),
        Claim(
            name="coupling-explodes",
            statement=(
                "With all four coefficients at 0.55 in place of 0.5 the impulse response beyond "
                "100 places grows by 10⁶ or more: ratio."
            ),
            measure=_growth,
            must=at_least(1e6),
        ),
        Claim(
            name="bounded-coupling-does-not",
            statement=(
                "The layer with bounded coupling keeps its output within 100 on 96 by 96 places "
                "of unit noise: largest output."
            ),
            measure=_bounded,
            must=at_most(100.0),
        ),
        Claim(
            name="order-of-variates",
            statement=(
                "With tied directions, reversing the order of the variates reverses the output: "
                "largest relative difference."
            ),
            measure=_reversed,
            must=at_most(1e-12),
        ),
    ),
)
