"""Long convolutions with free taps, made to generalise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Bound, Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor

TAPS = 512


def _least_squares(sequences: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """The true taps e^{−j/40} cos(j/15), of norm 1, and their least-squares estimate."""
    import numpy as np
    import torch
    from scipy.linalg import toeplitz

    rng = np.random.default_rng(seed)
    index = np.arange(TAPS)
    taps = np.exp(-index / 40) * np.cos(index / 15)
    taps = taps / np.linalg.norm(taps)
    gram, cross = np.zeros((TAPS, TAPS)), np.zeros(TAPS)
    for _ in range(sequences):
        u = rng.standard_normal(TAPS)
        rows = toeplitz(u, np.zeros(TAPS))
        y = rows @ taps + noise * rng.standard_normal(TAPS)
        gram += rows.T @ rows
        cross += rows.T @ y
    return torch.from_numpy(taps), torch.from_numpy(np.linalg.solve(gram, cross))


def _regularised(
    estimate: Tensor, squash: float = 0.0, width: int = 0, edges: str = "inside"
) -> Tensor:
    """What a layer makes of taps."""
    import torch

    from statewise.nn import LongConv

    layer = LongConv(
        1,
        taps=TAPS,
        squash=squash,
        smooth="time" if width else "none",
        smooth_width=width or 1,
        smooth_edges=edges,
    ).double()
    with torch.no_grad():
        layer.taps.copy_(estimate)
        return layer.kernel()[0]


def _output_error(found: Tensor, taps: Tensor) -> float:
    """Relative rms error of the output for white sequences of as many samples as taps."""
    import torch

    seen = torch.arange(TAPS, 0, -1, dtype=taps.dtype)
    return float((seen * (found - taps).square()).sum().sqrt() / (seen * taps**2).sum().sqrt())


def _estimation(setting: Setting) -> Measured:
    ratios, details = [], {}
    for sequences, noise in ((8, 1.0), (200, 3.0)):
        for seed in range(3):
            taps, plain = _least_squares(sequences, noise, seed)
            found = {
                "least squares": plain,
                "smooth": _regularised(plain, width=13),
                "smooth, with zeros beyond the ends": _regularised(plain, width=13, edges="zeros"),
            }
            error = {name: _output_error(kernel, taps) for name, kernel in found.items()}
            error["squash"] = min(
                _output_error(_regularised(plain, level), taps) for level in (0.003, 0.01, 0.03)
            )
            ratios.append(error["least squares"] / error["smooth"])
            if seed == 0:
                case = f"{sequences} sequences, noise {noise:g}"
                details |= {f"{name}, {case}": value for name, value in error.items()}
    remark = (
        "The average of the taps that are there; the public code counts zeros before the first "
        "tap, which halves the start of a kernel that jumps there."
    )
    return Measured(min(ratios), details, seeds=3, remark=remark)


def _roughness(setting: Setting) -> Measured:
    ratios = []
    for seed in range(3):
        _, plain = _least_squares(8, 1.0, seed)
        smooth = _regularised(plain, width=7)
        measures = [float(x.diff().square().sum() / x.square().sum()) for x in (plain, smooth)]
        ratios.append(measures[0] / measures[1])
    return Measured(min(ratios), seeds=3)


def _sparsity(setting: Setting) -> Measured:
    from statewise.nn import LongConv

    layer = LongConv(64, taps=4096, squash=0.002, init="random", seed=0)
    return Measured(float((layer.kernel() == 0).double().mean()), seeds=1)


def _soft_threshold(setting: Setting) -> Measured:
    import torch

    from statewise.nn import LongConv

    layer = LongConv(4, taps=256, squash=0.01, init="geometric", seed=0).double()
    with torch.no_grad():
        layer.taps.mul_(3)
    kernel = layer.kernel()
    (grad,) = torch.autograd.grad(kernel.sum(), layer.taps)
    inside = layer.taps.detach().abs() <= 0.01
    wrong = (grad[inside] != 0).sum() + (grad[~inside] != 1).sum()
    wanted = layer.taps.sign() * (layer.taps.abs() - 0.01).clamp_min(0)
    gap = float((kernel - wanted).detach().abs().max())
    return Measured(float(wrong) + gap, {"taps inside": float(inside.double().mean())})


def _direct(setting: Setting) -> Measured:
    import torch

    from statewise.nn import LongConv

    layer = LongConv(3, taps=100, seed=0).double()
    u = torch.randn(2, 400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y, kernel = layer(u)[0], layer.kernel()
        direct = layer.get_parameter("D") * u
        for lag in range(100):
            direct[:, lag:] += kernel[:, lag] * u[:, : 400 - lag]
    return Measured(float((y - direct).abs().max() / direct.abs().max()))


PAPER = Paper(
    name="long-conv",
    title="Simple Hardware-Efficient Long Convolutions for Sequence Modeling",
    identifier="arXiv:2302.06646",
    year=2023,
    says=(
        "Long convolutions whose taps are learnt directly do what state spaces do, once their "
        "kernels are kept smooth or small taps are squashed."
    ),
    uses=("nn.LongConv", "nn.ButterflyConv", "ops.fft_conv"),
    claims=(
        Claim(
            name="smooth-kernels-generalise",
            statement=(
                "Smoothing taps that were estimated from noisy data at least halves the error of "
                "the output: smallest ratio."
            ),
            measure=_estimation,
            must=at_least(2.0),
        ),
        Claim(
            name="smoother",
            statement=(
                "Smoothing divides the roughness Σ(Δk)²/Σk² of such taps by 3 or more: smallest "
                "ratio."
            ),
            measure=_roughness,
            must=at_least(3.0),
        ),
        Claim(
            name="squash-is-sparse",
            statement=(
                "With λ equal to the spread of normal taps 2Φ(1) − 1 = 68 % of them are zero at "
                "the start: share."
            ),
            measure=_sparsity,
            must=Bound(0.67, 0.695),
        ),
        Claim(
            name="squash-is-a-soft-threshold",
            statement=(
                "Squash is sign(k) max(|k| − λ, 0) and passes no gradient to taps within λ: wrong "
                "gradients and largest difference."
            ),
            measure=_soft_threshold,
            must=at_most(1e-12),
        ),
        Claim(
            name="fft-is-direct",
            statement="The convolution by FFT is the direct sum: largest relative difference.",
            measure=_direct,
            must=at_most(1e-10),
        ),
    ),
)
