"""What a diagonal bank is equal to: a convolution, a recursion, a system in continuous time."""

from __future__ import annotations

import math

import pytest
import torch

from statewise.ops import diagonal_ssm, use_backend, vandermonde_kernel

B, L, D, N = 2, 150, 5, 4
BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])
RULES = pytest.mark.parametrize("rule", ["zoh", "bilinear"])


def _draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _discrete():
    generator = torch.Generator().manual_seed(3)
    radius = 0.6 + 0.39 * torch.rand(D, N, dtype=torch.float64, generator=generator)
    return torch.polar(radius, 3.1 * torch.rand(D, N, dtype=torch.float64, generator=generator))


def _continuous():
    return torch.complex(-0.1 - _draw(D, N, seed=4).abs(), 3 * _draw(D, N, seed=5))


def _weights(seed):
    return torch.complex(_draw(D, N, seed=seed), _draw(D, N, seed=seed + 1))


def _impulse(length=L):
    u = torch.zeros(1, length, D, dtype=torch.float64)
    u[:, 0] = 1
    return u


def _close(found, expected, bound=1e-13):
    assert (found - expected).abs().max() <= bound * expected.abs().max()


@BACKENDS
def test_impulse_response_is_the_vandermonde_kernel(backend):
    a, b, c = _discrete(), _weights(1), _weights(2)
    with use_backend(backend):
        y, _ = diagonal_ssm(_impulse(), a, b, c)
        _close(vandermonde_kernel(a, c * b, L), y[0].T)


@BACKENDS
def test_scan_is_convolution_is_step(backend):
    a, b, c, d, u = _discrete(), _weights(1), _weights(2), _draw(D), _draw(B, L, D)
    with use_backend(backend):
        whole, last = diagonal_ssm(u, a, b, c, d)
        kernel = vandermonde_kernel(a, c * b, L)
        state, steps = torch.zeros(B, D, N, dtype=torch.complex128), []
        for t in range(L):
            y, state = diagonal_ssm(u[:, t : t + 1], a, b, c, d, state)
            steps.append(y)
    _close(torch.cat(steps, 1), whole)
    _close(torch.view_as_real(state), torch.view_as_real(last))
    spectrum = torch.fft.rfft(u, 2 * L, dim=1) * torch.fft.rfft(kernel.T, 2 * L, dim=0)
    _close(torch.fft.irfft(spectrum, 2 * L, dim=1)[:, :L] + d * u, whole)


@BACKENDS
def test_initial_state_answers_with_one_more_power(backend):
    a, c, h0 = _discrete(), _weights(2), torch.view_as_complex(_draw(1, D, N, 2))
    with use_backend(backend):
        y, last = diagonal_ssm(torch.zeros(1, L, D, dtype=torch.float64), a, c, c, h0=h0)
        _close(vandermonde_kernel(a, c * a * h0[0], L), y[0].T)
    _close(torch.view_as_real(last), torch.view_as_real(h0 * a**L))


@BACKENDS
def test_doubled_weights_stand_for_conjugate_states(backend):
    a, b, c, u = _discrete(), _weights(1), _weights(2), _draw(B, L, D)
    both = [torch.cat((x, x.conj().resolve_conj()), -1) for x in (a, b, c)]
    with use_backend(backend):
        _close(diagonal_ssm(u, a, b, 2 * c)[0], diagonal_ssm(u, *both)[0])


@BACKENDS
@pytest.mark.parametrize("per_step", [False, True])
@RULES
def test_pole_at_zero_integrates(backend, per_step, rule):
    u, zero = _draw(1, L, D), torch.zeros(D, 1, 2, dtype=torch.float64)
    one = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(D, 1, 2)
    dt = _draw(1, L, D).abs() if per_step else _draw(D).abs()
    with use_backend(backend):
        y, _ = diagonal_ssm(u, zero, one, one, dt=dt, rule=rule)
    _close(y, (dt * u).cumsum(1))


@BACKENDS
@pytest.mark.parametrize("per_step", [False, True])
@RULES
@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 0.03, 0.49, 0.51])
def test_derivatives_keep_their_digits_near_zero(backend, per_step, rule, size):
    """Against the power series of ā and b̄ in z = λΔ, differentiated by autograd."""
    pole = (size * torch.tensor([[[0.6, 0.8]]], dtype=torch.float64)).requires_grad_()
    step = torch.ones(1, dtype=torch.float64, requires_grad=True)
    weight, u = _draw(1, 1, 2, seed=1), _draw(1, 3, 1)
    dt = step.expand(1, 3, 1) if per_step else step
    with use_backend(backend):
        y, _ = diagonal_ssm(u, pole, weight, weight, dt=dt, rule=rule)
    found = torch.autograd.grad(y.sum(), (pole, step))
    z = torch.view_as_complex(pole) * step
    terms = 40
    if rule == "zoh":
        inward = sum(z**k / float(math.factorial(k + 1)) for k in range(terms))
    else:
        inward = sum((z / 2) ** k for k in range(terms))
    pole_power, gain = 1 + z * inward, torch.view_as_complex(weight) * step * inward
    w = torch.view_as_complex(weight)
    h, total = torch.zeros_like(z), torch.zeros((), dtype=torch.float64)
    for t in range(3):
        h = pole_power * h + gain * u[0, t, 0]
        total = total + (w * h).real.sum()
    for one, other in zip(found, torch.autograd.grad(total, (pole, step)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@BACKENDS
@RULES
def test_constant_steps_in_every_form_agree(backend, rule):
    a, b, c, u = _continuous(), _weights(1), _weights(2), _draw(B, L, D)
    with use_backend(backend):
        first, *others = (
            diagonal_ssm(u, a, b, c, dt=torch.full(shape, 0.2, dtype=torch.float64), rule=rule)[0]
            for shape in ((D,), (B, L), (B, L, D))
        )
    for y in others:
        _close(y, first, 1e-12)


@BACKENDS
def test_zero_order_hold_does_not_depend_on_the_grid(backend):
    """A step with a constant input is the same as its two parts."""
    a, b, c, u = _continuous(), _weights(1), _weights(2), _draw(B, L, D)
    dt = 0.3 * _draw(B, L, seed=6).abs()
    share = torch.rand(B, L, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    fine = torch.stack((share * dt, (1 - share) * dt), 2).flatten(1)
    with use_backend(backend):
        coarse, last = diagonal_ssm(u, a, b, c, dt=dt, rule="zoh")
        twice, end = diagonal_ssm(u.repeat_interleave(2, 1), a, b, c, dt=fine, rule="zoh")
    _close(twice[:, 1::2], coarse, 1e-12)
    _close(torch.view_as_real(end), torch.view_as_real(last), 1e-12)


@BACKENDS
def test_rate_change_adds_neighbouring_taps(backend):
    a, b, c = _continuous(), _weights(1), _weights(2)
    step = torch.full((D,), 0.05, dtype=torch.float64)
    with use_backend(backend):
        fine, _ = diagonal_ssm(_impulse(2 * L), a, b, c, dt=step, rule="zoh")
        coarse, _ = diagonal_ssm(_impulse(L), a, b, c, dt=2 * step, rule="zoh")
    _close(coarse, fine[:, ::2] + fine[:, 1::2], 1e-12)


@BACKENDS
def test_rules_differ_in_second_order(backend):
    a, b, c = _continuous(), _weights(1), _weights(2)
    gaps = []
    for size in (0.01, 0.005):
        step = torch.full((D,), size, dtype=torch.float64)
        with use_backend(backend):
            held, warped = (
                diagonal_ssm(_impulse(1), a, b, c, dt=step, rule=rule)[0] / size
                for rule in ("zoh", "bilinear")
            )
        gaps.append((held - warped).abs().max().item())
    assert 3.6 < gaps[0] / gaps[1] < 4.4


@pytest.mark.parametrize("kind", ["constant", "varying"])
def test_single_precision_keeps_the_phase_of_fast_poles(kind):
    """Im λ of the largest LegS state, Δ = 0.1: 130 radians a step."""
    length = 64
    a = torch.tensor([[[-0.5, 1303.0]]])
    one = torch.tensor([[[1.0, 0.0]]])
    shape = (1,) if kind == "constant" else (1, length, 1)
    dt = (0.1 * (1 + 0.1 * _draw(*shape))).float()
    u = torch.zeros(1, length, 1)
    u[:, 0] = 1
    with use_backend("cpu"):
        y, _ = diagonal_ssm(u, a, one, one, dt=dt, rule="zoh")
    with use_backend("reference"):
        wide, _ = diagonal_ssm(*(x.double() for x in (u, a, one, one)), dt=dt.double(), rule="zoh")
    assert (y - wide).abs().max() < 3e-6 * wide.abs().max()


def test_single_precision_holds_over_a_long_sequence():
    generator = torch.Generator().manual_seed(0)
    length, channels, states = 16384, 8, 16
    u = torch.randn(1, length, channels, generator=generator)
    a = torch.polar(
        0.99 + 0.0099 * torch.rand(channels, states, generator=generator),
        3 * torch.rand(channels, states, generator=generator),
    )
    w = torch.randn(2, channels, states, 2, generator=generator)
    b, c = torch.view_as_complex(w)
    with use_backend("cpu"):
        y, last = diagonal_ssm(u, a, b, c)
        wide, wide_last = diagonal_ssm(u.double(), *(x.to(torch.complex128) for x in (a, b, c)))
    assert (y - wide).abs().max() < 5e-6 * wide.abs().max()
    assert (last - wide_last).abs().max() < 5e-6 * wide_last.abs().max()


@pytest.mark.parametrize("turns", [0.0, 3.0])
def test_single_precision_keeps_slow_poles(turns):
    """Time constants of six times the sequence: a rounded a^m would drift by 1.7e-5 over it."""
    generator = torch.Generator().manual_seed(0)
    length, channels, states = 16384, 8, 4
    u = torch.randn(1, length, channels, generator=generator)
    modulus = torch.exp(-1e-5 * (1 + torch.rand(channels, states, generator=generator)))
    a = torch.polar(modulus, turns * torch.rand(channels, states, generator=generator))
    b, c = torch.view_as_complex(torch.randn(2, channels, states, 2, generator=generator))

    def solve(dtype: torch.dtype) -> list[torch.Tensor]:
        pole, signal = a.to(dtype).requires_grad_(), u.to(dtype.to_real())
        y, last = diagonal_ssm(signal, pole, b.to(dtype), c.to(dtype))
        return [y, last, *torch.autograd.grad((y * signal.flip(1)).sum(), pole)]

    with use_backend("cpu"):
        for one, other in zip(solve(torch.complex64), solve(torch.complex128), strict=True):
            assert (one - other).abs().max() < 5e-6 * other.abs().max()


@BACKENDS
@RULES
def test_shared_steps_are_those_of_every_channel(backend, rule):
    """Over several blocks of channels, the last one not full."""
    channels = 11
    u, dt = _draw(B, L, channels), 0.05 + 0.1 * _draw(B, L, seed=10).abs()
    a = torch.complex(-0.1 - _draw(channels, N, seed=4).abs(), 3 * _draw(channels, N, seed=5))
    b, c = (
        torch.complex(_draw(channels, N, seed=k), _draw(channels, N, seed=k + 1)) for k in (6, 8)
    )
    reset = torch.arange(L).expand(B, L) % 37 == 5
    found = []
    for shared in (True, False):
        steps = dt.clone().requires_grad_()
        given = steps if shared else steps[..., None].expand(u.shape)
        with use_backend(backend):
            y, last = diagonal_ssm(u, a, b, c, dt=given, rule=rule, reset=reset)
        gradient = torch.autograd.grad(y.square().sum() + last.abs().sum(), steps)[0]
        found.append((y, last, gradient))
    for one, other in zip(*found, strict=True):
        _close(one, other, 1e-12)
