"""S4ND: state-space convolutions over several axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor

    from statewise.nn import S4ND


def _grid(seed: int, *shape: int) -> Tensor:
    import torch

    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _two_sided(layer: S4ND, lengths: tuple[int, int]) -> list[Tensor]:
    """Kernels of both axes on offsets −(L − 1) … L − 1, each (rank, D, 2 L − 1)."""
    import torch

    found = []
    for ahead, behind in layer.axis_kernels(lengths):
        left = torch.zeros_like(ahead) if behind is None else behind
        found.append(torch.cat([left[..., :-1].flip(-1), ahead], -1))
    return found


def _direct(setting: Setting) -> Measured:
    import torch

    from statewise.nn import S4ND

    worst = {}
    for name, rank, causal in (("causal", 1, True), ("two-sided", 1, False), ("rank 2", 2, False)):
        layer = S4ND(2, d_state=4, rank=rank, causal=causal, seed=0).double()
        u = _grid(0, 1, 7, 9, 2)
        with torch.no_grad():
            y = layer(u)
            rows, columns = _two_sided(layer, (7, 9))
            kernel = torch.einsum("rdi,rdj->dij", rows, columns) / rank
            direct = layer.D * u
            for i in range(7):
                for j in range(9):
                    part = kernel[:, 6 - i : 13 - i, 8 - j : 17 - j]
                    direct[0] += (part * u[0, i, j].view(-1, 1, 1)).permute(1, 2, 0)
        worst[name] = float((y - direct).abs().max() / direct.abs().max())
    return Measured(max(worst.values()), worst)


def _resolution(bandlimit: float | None, halves: tuple[float, ...] = (1.0, 3.0, 5.0, 7.0)) -> float:
    """Largest relative difference of a fine and a coarse grid on their common points.

    Pixels are cells: each holds the image at its centre, and the output of a cell belongs to its
    far corner, where the held input has been seen to its end. Of two fine cells in a row the
    second ends where the coarse one does.
    """
    import torch

    from statewise.nn import S4ND

    worst = 0.0
    for seed in range(3):
        layer = S4ND(4, bandlimit=bandlimit, seed=seed).double()
        weights = _grid(seed, len(halves), len(halves), 4)
        found = {}
        for cells in (64, 128):
            centres = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
            # Half cycles along each axis, so that the image is zero at its edges.
            sines = torch.sin(torch.pi * torch.outer(centres, torch.tensor(halves).double()))
            image = torch.einsum("xa,yb,abd->xyd", sines, sines, weights).unsqueeze(0)
            with torch.no_grad():
                layer.D.zero_()
                found[cells] = layer(image, rate=64 / cells)
        high, low = found[128][:, 1::2, 1::2], found[64]
        worst = max(worst, float((high - low).norm() / low.norm()))
    return worst


def _band_limited(setting: Setting) -> Measured:
    details = {f"α = {limit}": _resolution(limit) for limit in (0.5, None)}
    for half in (1.0, 2.0, 4.0, 8.0):
        details[f"α = 0.2, {half:g} half cycles"] = _resolution(0.2, (half,))
    remark = (
        "Images are taken at the centres of their pixels, and outputs are compared where a coarse "
        "and a fine pixel end together; compared at pixels that begin together, outputs differ by "
        "a quarter of a pixel more, which no band limit undoes."
    )
    return Measured(_resolution(0.2), details, seeds=3, remark=remark)


def _unlimited(setting: Setting) -> Measured:
    limited, free = _resolution(0.2), _resolution(None)
    remark = "The zero-order hold damps modes beyond the Nyquist frequency by itself."
    details = {"α = 0.2": limited, "all modes": free}
    return Measured(free / limited, details, seeds=3, remark=remark)


def _gabor(angle: float) -> list[float]:
    """Relative errors of the best kernels of rank 1 and 2 to a Gabor patch at an angle."""
    import numpy as np

    axis = np.linspace(-4, 4, 129)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    along = np.cos(angle) * x + np.sin(angle) * y
    values = np.linalg.svd(np.exp(-(x**2 + y**2) / 2) * np.cos(3 * along))[1]
    power = values**2 / (values**2).sum()
    return [float(np.sqrt(max(power[rank:].sum(), 0.0))) for rank in (1, 2)]


def _rank_one(setting: Setting) -> Measured:
    import math

    found = {"0": _gabor(0.0), "π/8": _gabor(math.pi / 8), "π/4": _gabor(math.pi / 4)}
    details = {
        f"angle {name}, rank {rank + 1}": errors[rank]
        for name, errors in found.items()
        for rank in range(2)
    }
    return Measured(min(found["π/8"][0], found["π/4"][0]), details)


def _rank_two(setting: Setting) -> Measured:
    import math

    errors = {
        name: _gabor(angle)[1] for name, angle in (("π/8", math.pi / 8), ("π/4", math.pi / 4))
    }
    return Measured(max(errors.values()), errors)


def _transposed(setting: Setting) -> Measured:
    import torch

    from statewise.nn import S4ND

    layer = S4ND(3, d_state=8, seed=0).double()
    u = _grid(1, 2, 12, 10, 3)
    with torch.no_grad():
        y = layer(u)
        layer.systems = torch.nn.ModuleList([layer.systems[1], layer.systems[0]])
        turned = layer(u.transpose(1, 2)).transpose(1, 2)
    return Measured(float((turned - y).abs().max() / y.abs().max()))


PAPER = Paper(
    name="s4nd",
    title="S4ND: Modeling Images and Videos as Multidimensional Signals Using State Spaces",
    identifier="arXiv:2210.06583",
    year=2022,
    says=(
        "One state-space system for each axis makes a global convolution of images and videos "
        "that is a sampled curve, so that a model of one resolution serves another."
    ),
    uses=("nn.S4ND", "ops.vandermonde_kernel"),
    claims=(
        Claim(
            name="outer-product-kernel",
            statement=(
                "The layer is the direct sum over the grid with the outer product of its axis "
                "kernels, causal, two-sided and of rank 2: largest relative difference."
            ),
            measure=_direct,
            must=at_most(1e-12),
        ),
        Claim(
            name="resolution",
            statement=(
                "With a band limit of 0.2 a grid of twice the resolution and half the rate gives "
                "the outputs of the coarse one for a smooth image: relative difference."
            ),
            measure=_band_limited,
            must=at_most(0.05),
        ),
        Claim(
            name="band-limit-matters",
            statement="Without the limit that difference is larger: ratio of the two.",
            measure=_unlimited,
            must=at_least(1.0),
        ),
        Claim(
            name="rank-one-cannot-turn",
            statement=(
                "A Gabor patch at π/8 or π/4 from the axes is no outer product: smaller relative "
                "error of the best kernel of rank 1."
            ),
            measure=_rank_one,
            must=at_least(0.5),
        ),
        Claim(
            name="rank-two-can",
            statement="Rank 2 gives both exactly: larger relative error.",
            measure=_rank_two,
            must=at_most(1e-6),
        ),
        Claim(
            name="axes-are-equal",
            statement=(
                "Turning the image and swapping the systems of the axes turns the output: largest "
                "relative difference."
            ),
            measure=_transposed,
            must=at_most(1e-12),
        ),
    ),
)
