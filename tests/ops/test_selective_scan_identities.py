"""What is known in closed form about the selective scan, and what must not change its result."""

from __future__ import annotations

import math

import pytest
import torch

from statewise.ops import selective_scan, use_backend

BACKENDS = ["reference", "cpu"]


def _draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["euler", "zoh"])
@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_constant_parameters_make_a_convolution(backend, rule, kind):
    """K_j = Σ_n C_n e^{jΔA_n} B̄_n, and twice the real part for complex A."""
    length, channels, states = 100, 5, 4
    A = -torch.rand(channels, states, generator=torch.Generator().manual_seed(1)).double() - 0.1
    A = torch.complex(A, _draw(channels, states)) if kind.is_complex else A
    B, C = (_draw(channels, states, dtype=kind, seed=k) for k in (2, 3))
    delta = torch.linspace(0.05, 0.5, channels, dtype=torch.float64)
    u = _draw(1, length, channels)
    gain = ((delta[:, None] * A).exp() - 1) / A if rule == "zoh" else delta[:, None]
    steps = torch.arange(length)[:, None, None]
    kernel = (C * (steps * delta[:, None] * A).exp() * gain * B).sum(-1)
    kernel = 2 * kernel.real if kind.is_complex else kernel
    size = 2 * length
    expected = torch.fft.irfft(
        torch.fft.rfft(u[0], size, dim=0) * torch.fft.rfft(kernel, size, dim=0), size, dim=0
    )[:length]
    with use_backend(backend):
        y, _ = selective_scan(u, delta.expand_as(u), A, B, C, rule=rule)
    torch.testing.assert_close(y[0], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gated_cell_is_a_special_case(backend):
    """Theorem 1: N = 1, A = −1, B = C = 1 under ZOH is h = (1 − g) h + g u with g = σ(x)."""
    u, x = _draw(2, 40, 3), _draw(2, 40, 3, seed=1)
    one = torch.ones(3, 1, dtype=torch.float64)
    h, expected = torch.zeros(2, 3, dtype=torch.float64), []
    for t in range(40):
        g = torch.sigmoid(x[:, t])
        h = (1 - g) * h + g * u[:, t]
        expected.append(h)
    with use_backend(backend):
        y, last = selective_scan(u, x, -one, one, one, softplus=True, rule="zoh")
        euler, _ = selective_scan(u, x, -one, one, one, softplus=True)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(last[..., 0], h, rtol=1e-13, atol=1e-14)
    assert (euler - y).abs().max() > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_input_settles(backend):
    """To ΔB / (1 − e^{ΔA}) under Euler, to −B/A under ZOH."""
    A = torch.tensor([[-0.5, -1.0, -4.0]], dtype=torch.float64)
    B, one = _draw(1, 3), torch.ones(1, 400, 1, dtype=torch.float64)
    with use_backend(backend):
        _, euler = selective_scan(one, 0.3 * one, A, B, B)
        _, zoh = selective_scan(one, 0.3 * one, A, B, B, rule="zoh")
    torch.testing.assert_close(euler[0], 0.3 * B / -torch.expm1(0.3 * A), rtol=1e-13, atol=0)
    torch.testing.assert_close(zoh[0], -B / A, rtol=1e-13, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
@pytest.mark.parametrize("power", [-30, -9, -4, -2, -1])
def test_the_hold_keeps_its_digits_near_zero(backend, kind, power):
    """(e^x − 1)/x and its derivative at small |x|, against more terms than any code has."""
    x = -(10.0**power) * (1 + 1j if kind.is_complex else 1)
    A = torch.tensor([[x]], dtype=kind, requires_grad=True)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    with use_backend(backend):
        _, last = selective_scan(one, one, A, one[0].to(kind), one[0].to(kind), rule="zoh")
        last.real.sum().backward()
    phi = sum(x**k / math.factorial(k + 1) for k in range(30))
    slope = sum((k + 1) * x**k / math.factorial(k + 2) for k in range(30))
    assert abs(last.item() - phi) < 4e-16 * 2
    assert abs(A.grad.item().conjugate() - slope) < 4e-15


@pytest.mark.parametrize("backend", BACKENDS)
def test_softplus_passes_large_steps_through(backend):
    dt = torch.tensor([-800.0, -3.0, 0.0, 19.9, 20.1, 700.0], dtype=torch.float64)
    one = torch.ones(1, 1, 6, dtype=torch.float64)
    with use_backend(backend):
        _, last = selective_scan(
            one, dt[None, None], -0 * one[0].T, one[0].T, one[0].T, softplus=True
        )
    expected = torch.where(dt > 20, dt, torch.log1p(dt.clamp(max=20).exp()))
    torch.testing.assert_close(last[0, :, 0], expected, rtol=1e-15, atol=0)


def test_long_sequences_keep_their_digits():
    """Float32 over 20,000 steps; a decay of 0.99 is itself known to 3e-6 of its memory."""
    length, channels, states = 20_000, 16, 4
    u, B, C = (_draw(1, length, n, seed=n) for n in (channels, states, states + 1))
    dt = torch.full_like(u, 1e-2)
    A = -torch.logspace(0, 2, states, dtype=torch.float64).expand(channels, states)
    wide = [x.clone().requires_grad_() for x in (u, dt, A, B, C[..., :states])]
    found = []
    for leaves in (wide, [x.detach().float().requires_grad_() for x in wide]):
        y, last = selective_scan(*leaves)
        gradients = torch.autograd.grad(y.square().sum() + last.sum(), leaves)
        found.append([y.detach(), last.detach(), *gradients])
    for exact, single in zip(*found, strict=True):
        assert (single - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    u, dt, z = (_draw(2, 150, 208, seed=k, dtype=torch.float32) for k in range(3))
    A = -_draw(208, 4, dtype=torch.float32).abs()
    B, C = (_draw(2, 150, 4, seed=k, dtype=torch.float32) for k in (3, 4))
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setenv("STATEWISE_THREADS", str(threads))
        leaves = [x.clone().requires_grad_() for x in (u, dt, A, B, C, A[:, 0], z)]
        y, last = selective_scan(*leaves, softplus=True)
        found.append([y, last, *torch.autograd.grad(y.sum() + last.sum(), leaves)])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))
