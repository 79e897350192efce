"""The companion kernel beside dense powers, and the series it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statewise.ops import companion_kernel, fft_conv, reciprocal_series, use_backend

DOUBLE = torch.float64


def _vectors(D, N, seed=0):
    """a, b, c, F with sums of absolute values at most one, and states x (4, D, N)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, dtype=DOUBLE, generator=generator)

    def unit(x):
        return x / x.abs().sum(-1, keepdim=True)

    a, b, c, f = (unit(draw(D, N)) for _ in range(4))
    return a, b, c, 0.3 * f, draw(4, D, N)


def _matrix(a, b=None, f=None):
    D, N = a.shape
    A = torch.zeros(D, N, N, dtype=a.dtype)
    A[:, range(1, N), range(N - 1)] = 1
    A[:, :, -1] += a
    return A if f is None else A + b[:, :, None] * f[:, None]


def _steps(A, c, x, length):
    """c A^l x by the recurrence."""
    found = []
    for _ in range(length):
        found.append((c * x).sum(-1))
        x = torch.einsum("dij,...dj->...di", A, x)
    return torch.stack(found, -1)


def _error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


SHAPES = [(1, 1, 1), (2, 1, 5), (3, 5, 16), (2, 25, 9), (2, 64, 1000), (1, 128, 2048), (2, 8, 1)]


@pytest.mark.parametrize(("D", "N", "L"), SHAPES)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_is_the_kernel_of_the_recurrence(backend, D, N, L):
    a, b, c, f, x = _vectors(D, N)
    with use_backend(backend):
        assert _error(companion_kernel(a, b, c, L), _steps(_matrix(a), c, b, L)) < 1e-12
        closed = _matrix(a, b, f)
        found = companion_kernel(a, b, c, L, feedback=f)
        assert _error(found, _steps(closed, c, b, L)) < 1e-12
        found = companion_kernel(a, b, c, L, feedback=f, start=x)
        assert _error(found, _steps(closed, c, x, L)) < 1e-12
        found = companion_kernel(a, b, c, L, start=x[0])
        assert _error(found, _steps(_matrix(a), c, x[0], L)) < 1e-12


def test_float32_is_rounded_once():
    a, b, c, f, x = _vectors(3, 256)
    narrow = [t.float() for t in (a, b, c, f, x)]
    wide = [t.double() for t in narrow]
    found = companion_kernel(*narrow[:3], 3000, feedback=narrow[3], start=narrow[4])
    expected = companion_kernel(*wide[:3], 3000, feedback=wide[3], start=wide[4])
    assert found.dtype == torch.float32
    assert _error(found.double(), expected) < 1e-7


def test_a_pole_at_a_root_of_unity_does_no_harm():
    a = torch.zeros(1, 4, dtype=DOUBLE)
    a[0, 0] = 1
    c = torch.tensor([[1.0, 0, 0, 0]], dtype=DOUBLE)
    b = torch.tensor([[1.0, 2, 3, 4]], dtype=DOUBLE)
    found = companion_kernel(a, b, c, 8)
    torch.testing.assert_close(found, torch.tensor([[1.0, 4, 3, 2] * 2], dtype=DOUBLE))


def test_a_growing_system_is_followed():
    a = torch.tensor([[0.3, -0.2, 1.4]], dtype=DOUBLE)
    b, c = torch.ones(2, 1, 3, dtype=DOUBLE)
    found, expected = companion_kernel(a, b, c, 60), _steps(_matrix(a), c, b, 60)
    assert expected[0, -1] > 1e8
    assert _error(found, expected) < 1e-12


def test_a_shift_filters_by_its_output_vector():
    """a = 0 and B = e_1: the kernel is C itself, an autoregression's regressors."""
    c = torch.randn(2, 6, dtype=DOUBLE)
    first = torch.zeros(2, 6, dtype=DOUBLE)
    first[:, 0] = 1
    found = companion_kernel(torch.zeros_like(c), first, c, 10)
    torch.testing.assert_close(found, torch.nn.functional.pad(c, (0, 4)), rtol=0, atol=1e-14)


def test_an_autoregression_forecasts_itself_in_closed_loop():
    """AR(6): shift matrix, B = e_1, C = F = φ; encode 100 points, forecast 100."""
    roots = [0.99 * torch.exp(torch.tensor(1j * w)) for w in (0.5, -0.5)]
    roots += [0.98 * torch.exp(torch.tensor(1j * w)) for w in (1.3, -1.3)] + [0.9, -0.8]
    polynomial = torch.ones(1, dtype=torch.complex128)
    for root in roots:
        shifted = torch.cat([torch.zeros(1, dtype=torch.complex128), -root * polynomial])
        polynomial = torch.cat([polynomial, torch.zeros(1, dtype=torch.complex128)]) + shifted
    phi = -polynomial.real[1:][None]
    series = torch.randn(206, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    for t in range(6, 206):
        series[t] = (phi[0] * series[t - 6 : t].flip(0)).sum()
    zero, first = torch.zeros(1, 6, dtype=DOUBLE), torch.eye(6, dtype=DOUBLE)[:1]
    state = series[100:106].flip(0)[None]
    found = companion_kernel(zero, first, phi, 100, feedback=phi, start=state)
    assert (found[0] - series[106:]).abs().max() < 1e-12 * series.abs().max()
    one_step, _ = fft_conv(series[None, :, None], companion_kernel(zero, first, phi, 206))
    assert (one_step[0, 5:-1, 0] - series[6:]).abs().max() < 1e-12 * series.abs().max()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_gradient_against_finite_differences(backend, length):
    a, b, c, f, x = (t.requires_grad_() for t in _vectors(2, 3))
    with use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda *t: companion_kernel(*t[:3], length, feedback=t[3], start=t[4]), (a, b, c, f, x)
        )
        assert torch.autograd.gradcheck(lambda *t: companion_kernel(*t, length), (a, b, c))
        assert torch.autograd.gradcheck(lambda p: reciprocal_series(p, length), a)


@pytest.mark.parametrize(("rows", "count", "length"), [((), 1, 9), ((2, 3), 7, 50), ((1,), 70, 33)])
def test_series_back_ends_agree(rows, count, length):
    p = torch.randn(*rows, count, dtype=DOUBLE) / count
    weight = torch.randn(*rows, length, dtype=DOUBLE)
    found = []
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            leaf = p.clone().requires_grad_()
            y = reciprocal_series(leaf, length)
            found.append([y.detach(), *torch.autograd.grad((y * weight).sum(), leaf)])
    for one, other in zip(*found, strict=True):
        assert _error(one, other) < 1e-13
    series = torch.nn.functional.pad(p, (1, 0), value=1.0).reshape(-1, count + 1)
    for row, y in zip(series, found[0][0].reshape(-1, length), strict=True):
        product = torch.from_numpy(np.convolve(row.numpy(), y.numpy()))[:length]
        assert (product - torch.eye(length, dtype=DOUBLE)[0]).abs().max() < 1e-12


@pytest.mark.gpu
def test_on_the_device():
    a, b, c, f, x = _vectors(16, 128)
    moved = [t.cuda().requires_grad_() for t in (a, b, c, f, x)]
    found = companion_kernel(*moved[:3], 4096, feedback=moved[3], start=moved[4])
    assert _error(found.detach().cpu(), _steps(_matrix(a, b, f), c, x, 4096)) < 1e-11
    kept = [t.requires_grad_() for t in (a, b, c, f, x)]
    expected = companion_kernel(*kept[:3], 4096, feedback=kept[3], start=kept[4])
    here = torch.autograd.grad(expected.square().sum(), kept)
    there = torch.autograd.grad(found.square().sum(), moved)
    assert all(_error(one.cpu(), other) < 1e-10 for one, other in zip(there, here, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch
def test_opcheck():
    p = torch.randn(2, 3, dtype=DOUBLE, requires_grad=True)
    torch.library.opcheck(torch.ops.statewise.reciprocal_series.default, (p, 5))
    y = torch.randn(2, 5, dtype=DOUBLE)
    arguments = (y * 2, y, 3, None)
    torch.library.opcheck(torch.ops.statewise.reciprocal_series_backward.default, arguments)


def test_compiles_as_one_graph_and_exports():
    a, b, c, f, x = _vectors(2, 3)
    leaves = [t.requires_grad_() for t in (a, b, c, f, x)]

    def loss(a, b, c, f, x):
        return companion_kernel(a, b, c, 9, feedback=f, start=x).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(g(*leaves), leaves) for g in (loss, compiled)]
    for one, other in zip(*found, strict=True):
        assert _error(one, other) < 1e-12

    class Wrapper(torch.nn.Module):
        def forward(self, a, b, c):
            return companion_kernel(a, b, c, 9)

    arguments = tuple(t.detach() for t in leaves[:3])
    program = torch.export.export(Wrapper(), arguments)
    assert torch.equal(program.module()(*arguments), companion_kernel(*arguments, 9))


def test_second_derivative_is_refused():
    p = torch.randn(1, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(reciprocal_series(p, 4).square().sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="reciprocal_series has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": torch.ones(3)}, ValueError, r"a has shape \(3,\); it must be \(D, N\)"),
        ({"a": torch.ones(2, 0)}, ValueError, r"a has shape \(2, 0\).*N ≥ 1"),
        ({"b": torch.ones(2, 4)}, ValueError, r"b has shape \(2, 4\); a of shape.*needs \(2, 3\)"),
        ({"start": torch.ones(5, 2, 4)}, ValueError, r"start has shape.*needs \(5, 2, 3\)"),
        ({"feedback": [1.0]}, TypeError, "feedback must be a tensor, and is a list"),
        ({"c": torch.ones(2, 3).half()}, TypeError, "c is torch.float16; it must be one of"),
        ({"length": 0}, ValueError, "length is 0; it must be at least 1"),
    ],
)
def test_errors_say_what_was_given_and_expected(change, error, message):
    x = torch.ones(2, 3)
    with pytest.raises(error, match=message):
        companion_kernel(**({"a": x, "b": x, "c": x, "length": 4} | change))


def test_errors_of_the_series():
    with pytest.raises(ValueError, match=r"p has shape \(\); it must be \(..., n\)"):
        reciprocal_series(torch.tensor(1.0), 3)
    with pytest.raises(ValueError, match="length is 0; it must be at least 1"):
        reciprocal_series(torch.ones(2), 0)
    with pytest.raises(TypeError, match="p must be a tensor, and is a float"):
        reciprocal_series(1.0, 3)
