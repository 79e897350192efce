"""S4-PTD and S5-PTD: the contract, and the perturbed operator at the start."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from contracts.layer_suite import EagerContract
from statewise.lti import LegT, legs, perturb_then_diagonalise
from statewise.nn import S4D, S4PTD, S5PTD, GivenContinuous


class TestS4PTD(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return S4PTD(3, 4, seed=seed).to(dtype)


class TestS5PTD(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return S5PTD(3, 2, 8, blocks=2, perturbation=0.3, seed=seed).to(dtype)


@pytest.fixture
def precise():
    """Layers are made in float64, so that poles are not rounded to float32 first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def numbers(pairs: torch.Tensor) -> np.ndarray:
    values = pairs.detach().numpy()
    return values[..., 0] + 1j * values[..., 1]


def zoh(a: np.ndarray, b: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """e^{ΔA} and ∫_0^Δ e^{sA} B ds by one matrix exponential."""
    n, width = b.shape
    joint = np.zeros((n + width, n + width))
    joint[:n, :n], joint[:n, n:] = a, b
    whole = scipy.linalg.expm(dt * joint)
    return whole[:n, :n], whole[:n, n:]


def test_s4_ptd_starts_as_the_dense_perturbed_system(precise) -> None:
    """K_l = C₀ e^{lΔ(A+E)} B̄ with a zero-order hold and real C₀ = 2 Re(C V⁺)."""
    layer = S4PTD(2, 8, seed=5)
    a, b = legs(16)
    form = perturb_then_diagonalise(a, 0.1, seed=np.random.default_rng(5))
    impulse = torch.zeros(1, 40, 2)
    impulse[:, 0] = 1
    kernel = (layer(impulse)[0] - layer.D * impulse)[0].detach().numpy()
    c = 2 * (numbers(layer.coupling.C) @ form.inverse).real
    for h, dt in enumerate(layer.poles.log_dt.exp().tolist()):
        step, x = zoh(a + form.perturbation, b[:, None], dt)
        for k in range(40):
            np.testing.assert_allclose(kernel[k, h], (c[h] @ x)[0], rtol=0, atol=1e-10)
            x = step @ x


def test_s5_ptd_starts_as_dense_perturbed_blocks(precise) -> None:
    layer = S5PTD(2, 2, 8, blocks=2, dt_min=0.05, dt_max=0.05, perturbation=0.3, seed=6)
    rng = np.random.default_rng(6)
    forms = [perturb_then_diagonalise(legs(8)[0], 0.3, seed=rng) for _ in range(2)]
    a = scipy.linalg.block_diag(*[legs(8)[0] + form.perturbation for form in forms])
    vectors = scipy.linalg.block_diag(*[form.vectors for form in forms])
    inverse = scipy.linalg.block_diag(*[form.inverse for form in forms])
    b = 2 * (vectors @ numbers(layer.coupling.B)).real
    c = 2 * (numbers(layer.coupling.C) @ inverse).real
    step, drive = zoh(a, b, 0.05)
    u, x = np.random.default_rng(0).standard_normal((30, 2)), np.zeros(16)
    y = layer(torch.from_numpy(u)[None])[0][0].detach().numpy()
    for k in range(30):
        x = step @ x + drive @ u[k]
        expected = c @ x + layer.D.detach().numpy() * u[k]
        np.testing.assert_allclose(y[k], expected, rtol=0, atol=1e-10)


def test_s5_ptd_draws_lecun_normal_maps(precise) -> None:
    """B₀ and C₀ are real, with variances 1/d_input and 1/(2 d_state)."""
    layer = S5PTD(64, 64, 8, perturbation=0.3, seed=1)
    form = perturb_then_diagonalise(legs(16)[0], 0.3, seed=np.random.default_rng(1))
    b = 2 * (form.vectors @ numbers(layer.coupling.B)).real
    c = 2 * (numbers(layer.coupling.C) @ form.inverse).real
    # 1024 entries each: five standard errors of a variance are 5·√(2/1024) = 22 %.
    assert b.var() * 64 == pytest.approx(1, abs=0.22)
    assert c.var() * 16 == pytest.approx(1, abs=0.22)


def test_noise_at_the_top_resonance_is_not_amplified(precise) -> None:
    """The normal part answers a sinusoid at ω_max far more strongly than A does; A + E does not.

    All read the same C₀ from 16 states with Δ = 0.02, where ω_max is 1.6 radians per sample.
    """
    s4d, ptd = (
        S4D(8, 8, dt_min=0.02, dt_max=0.02),
        S4PTD(8, 8, dt_min=0.02, dt_max=0.02),
    )
    a, b = legs(16)
    form = perturb_then_diagonalise(a, 0.1, seed=np.random.default_rng(0))
    c = 2 * (numbers(ptd.coupling.C) @ form.inverse).real
    normal = a + np.outer(b, b) / 2
    values, vectors = np.linalg.eigh(-1j * (normal + 0.5 * np.eye(16)))
    vectors = vectors[:, values > 0]
    with torch.no_grad():
        for target, source in (
            (s4d.coupling.B, np.tile(vectors.conj().T @ b / 2, (8, 1))),
            (s4d.coupling.C, c @ vectors),
        ):
            target.copy_(torch.from_numpy(np.stack([source.real, source.imag], -1)))
        s4d.D.zero_()
        ptd.D.zero_()
    omega = 0.02 * values.max()
    assert 1.5 < omega < 1.7
    step, drive = zoh(a, b[:, None], 0.02)
    resolvent = np.linalg.solve(np.eye(16) - step * np.exp(-1j * omega), drive)
    exact = (c @ resolvent)[:, 0]
    answers = [
        layer.frequency_response(torch.tensor([omega]))[0].diagonal().detach().numpy()
        for layer in (s4d, ptd)
    ]
    dropped, kept = (np.abs(answer - exact).max() for answer in answers)
    assert dropped > 5 * kept
    assert dropped > np.abs(exact).max()


def test_measures_and_perturbations_are_options() -> None:
    layer = S4PTD(2, 4, measure=LegT(), perturbation=0.05)
    assert (layer.poles.continuous.real < 0).all()
    small = S4PTD(2, 8, perturbation=0.01).coupling.B.detach().norm()
    large = S4PTD(2, 8, perturbation=0.5).coupling.B.detach().norm()
    assert small > large


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="3 blocks do not divide 8 complex states"):
        S5PTD(2, 2, 8, blocks=3)
    with pytest.raises(ValueError, match=r"size = -1\.0"):
        S4PTD(2, 4, perturbation=-1.0)
    law = GivenContinuous((-1.0, -2.0), (1.0, 2.0))
    with pytest.raises(ValueError, match="holds 2 poles, the layer has 3"):
        law.sample(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"left half plane; the largest real part is 0\.5"):
        GivenContinuous((0.5,), (1.0,)).sample(1, np.random.default_rng(0))
