"""S4ND: outer products of axis kernels, their separable form, and other resolutions."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from statewise.nn import S4ND, S4DLin, parameter_roles


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def full_kernel(layer: S4ND, lengths: tuple[int, ...], rate: float = 1.0) -> np.ndarray:
    """K at lags −(L − 1) … L − 1 of every axis, (D, 2 L_1 − 1, …), in float64."""
    kernels = layer.axis_kernels(lengths, rate)
    total = 0.0
    ranks = kernels[0][0].shape[0]
    for r in range(ranks):
        product = np.ones((layer.d_model, *[1] * layer.axes))
        for axis, (ahead, behind) in enumerate(kernels):
            k0 = ahead[r].detach().numpy()
            k1 = np.zeros_like(k0) if behind is None else behind[r].detach().numpy()
            both = np.concatenate([k1[:, :-1][:, ::-1], k0], 1)
            shape = [layer.d_model, *[1] * layer.axes]
            shape[1 + axis] = both.shape[1]
            product = product * both.reshape(shape)
        total = total + product / ranks
    return total


def direct(layer: S4ND, u: np.ndarray) -> np.ndarray:
    """Σ over all pairs of points, one by one."""
    lengths = u.shape[1:-1]
    kernel = full_kernel(layer, lengths)
    y = layer.D.detach().numpy() * u
    for there in itertools.product(*map(range, lengths)):
        for here in itertools.product(*map(range, lengths)):
            lag = tuple(t - h + n - 1 for t, h, n in zip(there, here, lengths, strict=True))
            y[(slice(None), *there)] += kernel[(slice(None), *lag)] * u[(slice(None), *here)]
    return y


@pytest.mark.parametrize(
    ("lengths", "causal", "rank"),
    [
        ((7,), False, 1),
        ((5, 4), False, 1),
        ((4, 6), (True, False), 2),
        ((1, 5), True, 1),
        ((3, 2, 4), (True, False, False), 3),
    ],
)
def test_it_is_the_direct_sum_and_the_fourier_product(lengths, causal, rank) -> None:
    axes = len(lengths)
    layer = S4ND(2, axes=axes, d_state=3, rank=rank, causal=causal, seed=3).double()
    u = noise(2, *lengths, 2)
    y = layer(u).detach().numpy()
    np.testing.assert_allclose(y, direct(layer, u.numpy()), rtol=1e-12, atol=1e-12)
    over = tuple(range(1, axes + 1))
    padded = [3 * n for n in lengths]
    kernel = np.fft.fftn(full_kernel(layer, lengths), padded, over)
    signal = np.fft.fftn(np.moveaxis(u.numpy(), -1, 1), padded, tuple(n + 1 for n in over))
    product = np.fft.ifftn(kernel * signal, axes=tuple(n + 1 for n in over)).real
    cut = tuple(slice(n - 1, 2 * n - 1) for n in lengths)
    expected = np.moveaxis(product[(slice(None), slice(None), *cut)], 1, -1)
    expected = expected + layer.D.detach().numpy() * u.numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_two_sided_is_causal_and_its_mirror() -> None:
    layer = S4ND(2, axes=1, d_state=3).double()
    ((ahead, behind),) = layer.axis_kernels((9,))
    u = noise(1, 9, 2)
    y = layer(u) - layer.D * u
    for t in range(9):
        expected = sum(ahead[0, :, s] * u[0, t - s] for s in range(t + 1))
        expected = expected + sum(behind[0, :, s - 1] * u[0, t + s] for s in range(1, 9 - t))
        torch.testing.assert_close(y[0, t], expected)


def test_a_rank_is_a_sum_of_ranks() -> None:
    layer = S4ND(3, rank=2, d_state=4).double()
    u = noise(2, 6, 5, 3)
    total = layer.D.detach() * u
    for r in range(2):
        one = S4ND(3, rank=1, d_state=4).double()
        values = layer.state_dict()
        one.load_state_dict(
            {k: v[:, r : r + 1] if k.endswith("C") else v for k, v in values.items()}
        )
        total = total + (one(u) - one.D * u).detach() / 2
    torch.testing.assert_close(layer(u).detach(), total, rtol=1e-12, atol=1e-12)


def test_transposing_the_image_and_swapping_the_axes_commute() -> None:
    layer = S4ND(2, d_state=3, causal=(True, False)).double()
    swapped = copy.deepcopy(layer)
    swapped.systems = torch.nn.ModuleList(reversed(list(swapped.systems)))
    u = noise(1, 6, 9, 2)
    torch.testing.assert_close(swapped(u.transpose(1, 2)).transpose(1, 2), layer(u))


def test_a_constant_image_meets_the_product_of_static_gains() -> None:
    layer = S4ND(2, d_state=2, dt_min=1.0, dt_max=1.0, law=S4DLin()).double()
    with torch.no_grad():
        for system in layer.systems:
            system.poles.log_decay.fill_(0.5)
    long = layer.axis_kernels((200, 200))
    gains = [ahead.sum(-1) + behind.sum(-1) for ahead, behind in long]
    expected = gains[0][0] * gains[1][0] + layer.D
    # ∫ k = −2 Re C/λ for each direction.
    for system, gain in zip(layer.systems, gains, strict=True):
        c = torch.view_as_complex(system.C.detach())
        static = (-2 * c / system.poles.continuous.view(2, 2)).sum(-1).real.sum(0)
        torch.testing.assert_close(gain[0].detach(), static[0])
    y = layer(torch.ones(1, 81, 81, 2, dtype=torch.float64))
    torch.testing.assert_close(y[0, 40, 40], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parts", [2, 4, 5])
def test_a_finer_grid_samples_the_same_curve(parts: int) -> None:
    """A held tap is the integral of the curve over its point, so finer taps add up to it."""
    layer = S4ND(3, axes=1, d_state=6).double()
    ((ahead, behind),) = layer.axis_kernels((12,))
    ((fine_ahead, fine_behind),) = layer.axis_kernels((12 * parts,), 1 / parts)
    for fine, coarse in ((fine_ahead, ahead), (fine_behind, behind)):
        together = fine.unflatten(-1, (12, parts)).sum(-1)
        torch.testing.assert_close(together, coarse, rtol=1e-11, atol=1e-13)


def test_another_resolution_gives_the_same_output_where_the_band_is_limited() -> None:
    layer = S4ND(4, d_state=16, bandlimit=0.2, seed=1).double()
    unlimited = S4ND(4, d_state=16, seed=1).double()
    grid = [torch.arange(n, dtype=torch.float64) / n for n in (32, 64)]

    def image(x: torch.Tensor) -> torch.Tensor:
        bump = torch.exp(-((x - 0.5) ** 2) / 0.02)
        value = bump[:, None] * bump * torch.cos(6 * x[:, None] + 4 * x)
        return value[None, :, :, None].expand(1, -1, -1, 4)

    errors = []
    for each in (layer, unlimited):
        coarse = each(image(grid[0])) - each.D * image(grid[0])
        fine = each(image(grid[1]), 0.5) - each.D * image(grid[1])
        # A held output stands for the middle of its point: four fine ones surround a coarse one.
        fine = fine.unflatten(2, (32, 2)).mean(3).unflatten(1, (32, 2)).mean(2)
        errors.append(float(((fine - coarse).norm() / coarse.norm()).detach()))
    assert errors[0] < errors[1]
    assert errors[0] < 0.05


def test_the_band_limit_takes_fast_modes_alone() -> None:
    layer = S4ND(1, axes=1, d_state=8, bandlimit=0.3, law=S4DLin(), causal=True).double()
    (system,) = layer.systems
    cycles = system.poles.dt * system.poles.continuous.imag.abs() / (2 * torch.pi)
    ((limited, _),) = layer.axis_kernels((30,), 0.7)
    with torch.no_grad():
        system.C.view(-1, 2)[cycles > 0.15] = 0
    assert 0 < int((cycles > 0.15).sum()) < 8
    layer.bandlimit = None
    ((expected, _),) = layer.axis_kernels((30,), 0.7)
    torch.testing.assert_close(limited, expected, rtol=1e-12, atol=1e-14)


def test_a_turned_pattern_needs_two_ranks() -> None:
    """A Gabor kernel along an axis is a product; turned by π/4 it is the sum of two."""
    x = np.linspace(-4, 4, 81)
    grid = np.meshgrid(x, x, indexing="ij")

    def errors(angle: float) -> list[float]:
        along = np.cos(angle) * grid[0] + np.sin(angle) * grid[1]
        gabor = np.exp(-(grid[0] ** 2 + grid[1] ** 2) / 2) * np.cos(3 * along)
        s = np.linalg.svd(gabor, compute_uv=False)
        return [float(np.sqrt((s[r:] ** 2).sum() / (s**2).sum())) for r in (1, 2)]

    assert errors(0.0)[0] < 1e-12
    assert abs(errors(np.pi / 4)[0] - 0.699) < 0.01
    assert errors(np.pi / 4)[1] < 1e-12
    lengths = (6, 7)
    for rank in (1, 2):
        kernel = full_kernel(S4ND(1, rank=rank, d_state=4).double(), lengths)[0]
        assert np.linalg.matrix_rank(kernel, 1e-9) == rank


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_all_of_it_learns(axes: int) -> None:
    layer = S4ND(2, axes=axes, d_state=2, rank=2).double()
    names, values = zip(*layer.named_parameters(), strict=True)
    found = torch.autograd.grad(layer(noise(2, *[5] * axes, 2)).square().sum(), values)
    for name, gradient in zip(names, found, strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
    roles = parameter_roles(layer)
    assert set(roles.values()) == {"A", "C", "D", "dt"}


def test_half_precision_is_close() -> None:
    layer = S4ND(3, d_state=4).bfloat16()
    u = noise(1, 9, 8, 3).bfloat16()
    y = layer(u)
    expected = layer.float()(u.float())
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() < 0.01 * expected.norm()


def test_the_seed_decides() -> None:
    one, same, other = (S4ND(2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_wrong_options_and_shapes_are_told() -> None:
    wrong = [
        {"axes": 0},
        {"rank": 0},
        {"bandlimit": 0.0},
        {"causal": (True,)},
        {"dt_min": (0.1, 0.1, 0.1)},
        {"dt_min": 2.0},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match="given"):
            S4ND(2, **options)
    layer = S4ND(2)
    for shape in ((1, 4, 2), (1, 4, 4, 3), (1, 0, 4, 2)):
        with pytest.raises(ValueError, match="given"):
            layer(torch.zeros(shape))
    for rate in (0.0, (1.0, -1.0), (1.0, 1.0, 1.0)):
        with pytest.raises(ValueError, match="given"):
            layer(torch.zeros(1, 4, 4, 2), rate)
