"""Discretisation rules against matrix exponentials, exact solutions and their orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise._config import from_dict, to_dict
from statewise.lti import FOH, ZOH, BackwardEuler, Bilinear, Euler, Impulse, Trapezoid
from statewise.lti.functions import complex_exp, phi1, phi2

RULES = [
    ZOH(),
    FOH(),
    Bilinear(),
    Bilinear(prewarp=2.5),
    Euler(),
    BackwardEuler(),
    Trapezoid(),
    Impulse(),
]
COMPLEX = torch.tensor([-0.5 + 3.0j, -2.0 - 1.0j, -0.1 + 0.0j], dtype=torch.complex128)
REAL = torch.tensor([-0.5, -2.0, -7.0], dtype=torch.float64)


def step(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def exact_phi1(z: np.ndarray) -> np.ndarray:
    """φ₁ in extended precision: its series near 0, its definition elsewhere."""
    wide = z.astype(np.clongdouble)
    term, total = np.ones_like(wide), np.ones_like(wide)
    for k in range(2, 40):
        term = term * wide / k
        total = total + term
    return np.where(np.abs(z) < 1, total, (np.exp(wide) - 1) / np.where(z == 0, 1, wide))


@pytest.mark.parametrize("poles", [COMPLEX, REAL], ids=["complex", "real"])
@pytest.mark.parametrize("dt", [1e-3, 0.1, 2.0])
def test_zoh_is_the_matrix_exponential(poles: torch.Tensor, dt: float) -> None:
    a, gain, previous = ZOH()(poles, step(dt))
    assert previous is None
    for k, pole in enumerate(poles.tolist()):
        augmented = scipy.linalg.expm(np.array([[pole, 1], [0, 0]]) * dt)
        # expm is exact to rounding of its norm, which is about 1, not of each entry.
        assert abs(a[k].item() - augmented[0, 0]) < 3e-14
        assert abs(gain[k].item() - augmented[0, 1]) < 3e-14 * max(1, dt)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_short_steps_integrate(rule) -> None:
    dt = 1e-9
    a, gain, previous = rule(COMPLEX, step(dt))
    total = gain if previous is None else gain + previous
    torch.testing.assert_close(total / dt, torch.ones_like(COMPLEX), rtol=1e-8, atol=0)
    torch.testing.assert_close((a - 1) / dt, COMPLEX, rtol=1e-6, atol=1e-6)


def test_phi1_keeps_its_digits() -> None:
    rng = np.random.default_rng(0)
    size = 10 ** rng.uniform(-14, 1, 4000)
    z = -size * np.exp(1j * rng.uniform(-np.pi / 2, np.pi / 2, 4000))
    found = phi1(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(found, exact_phi1(z).astype(complex), rtol=2e-14, atol=1e-15)
    found = phi1(torch.from_numpy(-size)).numpy()
    np.testing.assert_allclose(found, exact_phi1(-size + 0j).real.astype(float), rtol=2e-14)
    single = phi1(torch.from_numpy(-size).float()).numpy()
    np.testing.assert_allclose(single, found, rtol=1e-6)


def test_phi2_keeps_its_digits() -> None:
    rng = np.random.default_rng(0)
    size = 10 ** rng.uniform(-14, 1, 4000)
    z = -size * np.exp(1j * rng.uniform(-np.pi / 2, np.pi / 2, 4000))
    wide = z.astype(np.clongdouble)
    term, series = np.full_like(wide, 0.5), np.full_like(wide, 0.5)
    for k in range(3, 60):
        term = term * wide / k
        series = series + term
    exact = np.where(np.abs(z) < 2, series, (exact_phi1(z) - 1) / wide)
    found = phi2(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(found, exact.astype(complex), rtol=2e-14, atol=1e-15)
    poles = torch.tensor([-1 + 0.5j, -0.1 - 1j, 3j], dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(phi2, poles, eps=1e-7, atol=1e-6)


def test_foh_is_exact_for_a_linear_input() -> None:
    pole, dt = -0.3 + 1.1j, 0.7
    found = FOH()(torch.tensor([pole], dtype=torch.complex128), step(dt))
    assert found.gain_previous is not None
    x = found.gain.item() * 2.0 + found.gain_previous.item() * 0.5
    ramp = scipy.integrate.solve_ivp(
        lambda t, z: pole * z + 0.5 + 1.5 * t / dt, (0, dt), [0j], rtol=1e-11, atol=1e-12
    )
    assert abs(x - ramp.y[0, -1]) < 1e-9


def test_a_trained_step_beyond_the_prewarped_frequency_stays_stable() -> None:
    rule = Bilinear(prewarp=2.0)
    below, above = (rule(COMPLEX, step(dt)) for dt in (0.95 * np.pi / 2, 50.0))
    torch.testing.assert_close(above.a, below.a)
    assert (above.a.abs() < 1).all()


def test_phi1_and_its_slope_at_zero() -> None:
    z = torch.zeros(1, dtype=torch.complex128, requires_grad=True)
    value = phi1(z)
    value.real.sum().backward()
    assert value.item() == 1
    assert z.grad is not None
    assert z.grad.item() == 0.5


@pytest.mark.parametrize("size", [1e-5, 0.999e-3, 1.001e-3, 0.3, 4.0])
def test_phi1_is_differentiable(size: float) -> None:
    z = (torch.tensor([-1 + 0.5j, -0.1 - 1j, 1j], dtype=torch.complex128) * size).requires_grad_()
    assert torch.autograd.gradcheck(phi1, z, eps=1e-7, atol=1e-6)


def test_complex_exp() -> None:
    z = torch.randn(50, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(complex_exp(z), torch.exp(z), rtol=1e-14, atol=0)
    torch.testing.assert_close(complex_exp(z.real), torch.exp(z.real), rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "low"), [(torch.complex64, -105), (torch.complex128, -746)])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_complex_exp_has_gradients_through_the_underflow(dtype, low: int, count: int) -> None:
    for real in np.linspace(low, low + 4, 41):
        z = torch.full((count,), complex(real, 2.0), dtype=dtype).requires_grad_()
        value = complex_exp(z)
        (gradient,) = torch.autograd.grad(value.real.sum() + 2 * value.imag.sum(), z)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=60, deadline=None)
@given(
    log_decay=st.floats(-3, 5),
    frequency=st.floats(-1e3, 1e3),
    log_dt=st.floats(-12, 5),
)
def test_rules_are_stable(rule, log_decay: float, frequency: float, log_dt: float) -> None:
    pole = torch.tensor([complex(-np.exp(log_decay), frequency)], dtype=torch.complex128)
    a = rule(pole, step(np.exp(log_dt)))[0]
    assert a.abs().item() < 1
    a = rule(pole.real, step(np.exp(log_dt)))[0]
    assert a.abs().item() < 1


def test_euler_is_forward_euler_below_its_bound() -> None:
    pole = torch.tensor([-1.0 + 2.0j], dtype=torch.complex128)
    bound = 2 / 5
    a, gain, _ = Euler()(pole, step(0.5 * bound))
    assert a.item() == pytest.approx(1 + 0.5 * bound * pole.item(), rel=1e-15)
    assert gain.item() == pytest.approx(0.5 * bound)
    for dt in (bound, 100.0):
        a, gain, _ = Euler(margin=0.9)(pole, step(dt))
        assert gain.item() == pytest.approx(0.9 * bound)
        assert abs(a.item()) < 1


@pytest.mark.parametrize("poles", [COMPLEX, REAL], ids=["complex", "real"])
def test_bilinear_kernel_is_the_zoh_kernel_to_second_order(poles: torch.Tensor) -> None:
    errors = []
    for count in (64, 128, 256):
        dt = 1.0 / count
        kernels = []
        for rule in (ZOH(), Bilinear()):
            a, gain, _ = rule(poles, step(dt))
            kernels.append(gain / dt * a**count)
        errors.append((kernels[0] - kernels[1]).abs())
    for coarse, fine in itertools.pairwise(errors):
        assert ((coarse / fine > 3.8) & (coarse / fine < 4.2)).all()


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        (Trapezoid(), 2),
        (FOH(), 2),
        (Euler(), 1),
        (BackwardEuler(), 1),
        (ZOH(), 1),
        (Impulse(), 1),
    ],
)
def test_order_of_convergence(rule, order: int) -> None:
    """x' = λ x + sin ωt from x(0) = 0, whose solution is known."""
    pole, omega, horizon = -0.7 + 2.0j, 1.3, 4.0
    solution = (
        omega * np.exp(pole * horizon)
        - omega * np.cos(omega * horizon)
        - pole * np.sin(omega * horizon)
    ) / (pole**2 + omega**2)
    errors = []
    for count in (200, 400, 800):
        dt = horizon / count
        v = np.sin(omega * dt * np.arange(count + 1))
        found = rule(torch.tensor([pole], dtype=torch.complex128), step(dt))
        a, gain = found.a.item(), found.gain.item()
        previous = 0 if found.gain_previous is None else found.gain_previous.item()
        x = 0j
        for k in range(1, count + 1):
            x = a * x + gain * v[k] + previous * v[k - 1]
        errors.append(abs(x - solution))
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.1)


def test_zoh_is_exact_for_a_held_input() -> None:
    """Against SciPy's integrator on an input that is constant between samples."""
    pole, dt = -0.3 + 1.1j, 0.7
    u = np.random.default_rng(0).standard_normal(6)
    a, gain, _ = ZOH()(torch.tensor([pole], dtype=torch.complex128), step(dt))
    x, y = 0j, 0j
    for value in u:
        x = a.item() * x + gain.item() * value
        run = scipy.integrate.solve_ivp(
            lambda t, z, v=value: pole * z + v, (0, dt), [y], rtol=1e-11, atol=1e-12
        )
        y = run.y[0, -1]
        assert abs(x - y) < 1e-9


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_steps_broadcast(rule) -> None:
    dt = torch.tensor([[0.1], [0.7]], dtype=torch.float64)
    found = rule(COMPLEX, dt)
    for row in range(2):
        single = rule(COMPLEX, dt[row])
        for one, other in zip(found, single, strict=True):
            if one is not None:
                torch.testing.assert_close(one[row], other, rtol=1e-15, atol=0)
    assert (found.gain_previous is None) == (rule.points == 1)


@pytest.mark.parametrize("rule", [*RULES, Euler(0.5)], ids=repr)
def test_rules_are_data(rule) -> None:
    assert from_dict(to_dict(rule)) == rule
