"""Stable parametrisations and the laws from which their poles start."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise._config import from_dict, to_dict
from statewise.lti import ZOH, Bilinear, Euler, Trapezoid, legs_normal
from statewise.nn import (
    LRU,
    LTI,
    S4D,
    S5,
    Bank,
    ContinuousDiagonal,
    DiscreteDiagonal,
    GivenDiscrete,
    LegSBlocks,
    LogTimeConstants,
    NyquistFan,
    RealDiagonal,
    Ring,
    S4DInv,
    S4DLegS,
    S4DLin,
    S4DReal,
)

RULES = [ZOH(), Bilinear(), Euler(), Trapezoid()]


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def fill(parameter: torch.nn.Parameter, value: float) -> None:
    with torch.no_grad():
        parameter.fill_(value)


# --- stability and precision


@settings(max_examples=100, deadline=None)
@given(nu=st.floats(-30, 5), theta=st.floats(-20, 3), dt=st.floats(0.1, 20))
def test_discrete_poles_are_stable(nu: float, theta: float, dt: float) -> None:
    poles = DiscreteDiagonal().build(1, 1, generator()).double()
    fill(poles.nu, nu)
    fill(poles.theta, theta)
    for step in (None, torch.tensor([dt], dtype=torch.float64)):
        a, gain, _ = poles.discretise(step)
        assert a.abs().item() < 1
        assert math.isfinite(gain.abs().item())
        assert gain.abs().item() > 0


@pytest.mark.parametrize("nu", [-40.0, -25.0, -15.0, 0.0, 5.0, 80.0])
def test_discrete_poles_do_not_grow_in_float32(nu: float) -> None:
    """At the edge of float32 the modulus is 1 to rounding, and the values stay finite."""
    poles = DiscreteDiagonal().build(64, 1, generator())
    fill(poles.nu, nu)
    a, gain, _ = poles.discretise()
    assert (a.abs() <= 1 + 2**-23).all()
    (gain.abs().sum() + a.real.sum()).backward()
    assert poles.nu.grad.isfinite().all()
    assert poles.theta.grad.isfinite().all()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@settings(max_examples=50, deadline=None)
@given(
    log_decay=st.floats(-3, 5),
    frequency=st.floats(-1e3, 1e3),
    log_dt=st.floats(-10, 3),
    dt=st.floats(0.1, 20),
)
def test_continuous_poles_are_stable(
    rule, log_decay: float, frequency: float, log_dt: float, dt: float
) -> None:
    for config in (ContinuousDiagonal(rule=rule), RealDiagonal(rule=rule)):
        poles = config.build(2, 1, generator()).double()
        fill(poles.log_decay, log_decay)
        fill(poles.log_dt, log_dt)
        if poles.is_complex:
            fill(poles.frequency, frequency)
        for step in (None, torch.tensor([dt], dtype=torch.float64)):
            assert (poles.discretise(step).a.abs() < 1).all()


def test_gain_keeps_its_digits_near_the_unit_circle() -> None:
    """γ = √(1 − |λ|²) with |λ| = 0.9999999, where 1 − |λ|² in float32 has no correct digit."""
    exact = math.sqrt(1e-7 * 1.9999999)
    poles = DiscreteDiagonal().build(3, 1, generator()).double()
    fill(poles.nu, math.log(-math.log1p(-1e-7)))
    a, gain, _ = poles.discretise()
    torch.testing.assert_close(gain.real, torch.full_like(gain.real, exact), rtol=1e-13, atol=0)
    torch.testing.assert_close(a.abs(), torch.full_like(gain.real, 1 - 1e-7), rtol=1e-15, atol=0)
    single = poles.float()
    decay = math.exp(single.nu[0].item())
    expected = math.sqrt(-math.expm1(-2 * decay))
    found = single.discretise().gain.real[0].item()
    assert found == pytest.approx(expected, rel=2e-6)
    modulus = np.float32(math.exp(-decay))
    assert abs(math.sqrt(1 - modulus * modulus) - expected) > 0.05 * expected


def test_trained_gain_starts_at_the_derived_one() -> None:
    derived = DiscreteDiagonal().build(6, 1, generator()).double()
    trained = DiscreteDiagonal(gain="trained").build(6, 1, generator()).double()
    free = DiscreteDiagonal(gain="none").build(6, 1, generator()).double()
    torch.testing.assert_close(
        trained.discretise().gain, derived.discretise().gain, rtol=1e-5, atol=0
    )
    assert (free.discretise().gain == 1).all()
    modulus = derived.discretise().a.abs()
    torch.testing.assert_close(
        derived.discretise().gain.real, (1 - modulus**2).sqrt(), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("per_state", [False, True])
def test_time_steps_belong_to_groups_or_states(per_state: bool) -> None:
    config = ContinuousDiagonal(S4DLin(), dt_min=0.01, dt_max=0.2, per_state=per_state)
    poles = config.build(3, 4, generator())
    assert poles.log_dt.shape == ((12,) if per_state else (4,))
    assert poles.dt.shape == (12,)
    assert (poles.dt >= 0.01 * 0.999).all()
    assert (poles.dt <= 0.2 * 1.001).all()
    if not per_state:
        assert (poles.dt.view(4, 3) == poles.dt.view(4, 3)[:, :1]).all()
    torch.testing.assert_close(
        poles.continuous.imag, torch.pi * torch.arange(3.0).repeat(4), rtol=1e-6, atol=0
    )


# --- laws


@pytest.mark.parametrize(("r_min", "r_max"), [(0.0, 1.0), (0.5, 0.9)])
def test_ring_is_uniform_on_the_annulus(r_min: float, r_max: float) -> None:
    """|λ|² is uniform in [r_min², r_max²] and the phase in (0, phase_max)."""
    law = Ring(r_min, r_max, phase_max=2.0, phase_min=0.5)
    poles = DiscreteDiagonal(law).build(100_000, 1, generator()).double()
    found = poles.eigenvalues.detach().numpy()
    assert (np.abs(found) < 1).all()
    area = r_max**2 - r_min**2
    radius = scipy.stats.kstest(np.abs(found) ** 2, "uniform", (r_min**2, area))
    phase = scipy.stats.kstest(np.angle(found), "uniform", (0.5, 1.5))
    assert radius.pvalue > 0.01
    assert phase.pvalue > 0.01


def test_lru_draws_the_whole_ring_and_its_matrices() -> None:
    layer = LRU(4, 4, 20_000, r_min=0.4, r_max=0.8)
    poles = layer.eigenvalues().detach().numpy()
    assert scipy.stats.kstest(np.abs(poles) ** 2, "uniform", (0.16, 0.48)).pvalue > 0.01
    # A pole and its conjugate are the same real system: phases count up to their sign.
    assert scipy.stats.kstest(np.abs(np.angle(poles)), "uniform", (0, np.pi)).pvalue > 0.01
    b, c = layer.coupling.B.detach().numpy(), layer.coupling.C.detach().numpy()
    for part in range(2):
        assert b[..., part].var() == pytest.approx(1 / 8, rel=0.03)
        assert c[..., part].var() == pytest.approx(1 / 20_000, rel=0.03)
    phases = LRU(1, 1, 5000, phase_max=0.3).eigenvalues().angle()
    assert phases.max() <= 0.3 + 1e-6
    assert phases.min() >= 0


def test_log_time_constants() -> None:
    poles = LogTimeConstants(2.0, 200.0, 0.1).sample(20_000, generator())
    tau = -1 / np.log(np.abs(poles))
    law = (math.log(2.0), math.log(100.0))
    assert scipy.stats.kstest(np.log(tau), "uniform", law).pvalue > 0.01
    assert np.angle(poles).max() <= 0.1


def test_nyquist_fan_has_one_damping() -> None:
    poles = np.log(NyquistFan(math.pi / 3).sample(5, generator()))
    np.testing.assert_allclose(np.abs(poles), math.pi * np.arange(1, 6) / 5)
    np.testing.assert_allclose(-poles.real / np.abs(poles), 0.5)


def test_given_poles_are_the_poles_of_the_layer() -> None:
    law = GivenDiscrete((0.9, 0.3, -0.5, 0.7), (0.1, 0.8, 0.0, 0.0))
    layer = LTI(1, 1, 4, poles=DiscreteDiagonal(law)).double()
    expected = torch.tensor([0.9 + 0.1j, 0.3 + 0.8j, -0.5, 0.7], dtype=torch.complex128)
    torch.testing.assert_close(layer.eigenvalues(), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="holds 4 poles, the layer has 3"):
        LTI(1, 1, 3, poles=DiscreteDiagonal(law))
    with pytest.raises(ValueError, match=r"unit disc.*1\.25"):
        LTI(1, 1, 1, poles=DiscreteDiagonal(GivenDiscrete((0.75,), (1.0,))))


def test_s4d_laws() -> None:
    n, rng = 32, generator()
    index = np.arange(n)
    np.testing.assert_array_equal(S4DLegS().sample(n, rng), legs_normal(64)[0])
    np.testing.assert_allclose(S4DLin().sample(n, rng), -0.5 + 1j * np.pi * index)
    np.testing.assert_allclose(S4DReal().sample(n, rng), -(index + 1))
    inverse = S4DInv().sample(n, rng)
    assert (inverse.real == -0.5).all()
    # The values tabulated for N = 64.
    np.testing.assert_allclose(inverse.imag[:5], [1283, 414, 240, 166, 124], rtol=0, atol=1)
    assert inverse.imag[-1] == pytest.approx(0.32, abs=0.01)


def test_s5_starts_in_the_eigenbasis_of_its_blocks() -> None:
    layer = S5(3, 2, 6, blocks=2).double()
    values, vectors = legs_normal(6)
    np.testing.assert_allclose(
        layer.poles.continuous.detach().numpy(), np.tile(values, 2), rtol=1e-6
    )
    b = layer.coupling.matrices()[0].detach().numpy()
    assert b.shape == (6, 3)
    # Rows of V^H B0 and C0 V keep the variance of B0 and C0, split between the parts.
    wide = S5(64, 32, 64, blocks=4).double()
    assert wide.coupling.B.square().sum(-1).mean().item() == pytest.approx(1 / 64, rel=0.1)
    assert wide.coupling.C.square().sum(-1).mean().item() == pytest.approx(1 / 128, rel=0.1)
    # V and its conjugate are an orthonormal basis: V b + conj gives back the real rows.
    real = 2 * (np.kron(np.eye(2), vectors) @ b).real
    assert real.shape == (12, 3)
    again = np.kron(np.eye(2), vectors).conj().T @ real
    np.testing.assert_allclose(again, b, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="4 blocks do not divide 6"):
        S5(3, 2, 6, blocks=4)


# --- errors and data


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Ring(0.9, 0.5), r"r_min = 0\.9, r_max = 0\.5"),
        (lambda: Ring(0.1, 1.5), r"r_max = 1\.5"),
        (lambda: Ring(phase_max=7.0), r"phase_max = 7\.0"),
        (lambda: Ring(phase_min=-1.0), r"phase_min = -1\.0"),
        (lambda: LogTimeConstants(5.0, 2.0), r"shortest = 5\.0, longest = 2\.0"),
        (lambda: DiscreteDiagonal(gain="half"), "'half'"),
        (lambda: ContinuousDiagonal(dt_min=0.2, dt_max=0.1), r"dt_min = 0\.2, dt_max = 0\.1"),
        (lambda: RealDiagonal(dt_min=0.0), r"dt_min = 0\.0"),
        (lambda: LTI(0, 1, 1), "d_input of at least 1; given 0"),
        (lambda: LTI(1, -1, 1), "d_output of at least 1; given -1"),
        (lambda: S4D(2, 0), "d_state of at least 1; given 0"),
        (lambda: LTI(2, 3, 1, coupling=Bank()), "d_input = 2, d_output = 3"),
    ],
)
def test_wrong_sizes_and_laws_are_told(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "config",
    [
        DiscreteDiagonal(Ring(0.2, 0.7), "trained"),
        DiscreteDiagonal(LogTimeConstants(1, 5)),
        DiscreteDiagonal(GivenDiscrete((0.5, 0.1), (0.0, 0.2)), "none"),
        DiscreteDiagonal(NyquistFan(0.3)),
        ContinuousDiagonal(S4DInv(), Euler(0.5), 0.01, 0.02, True),
        ContinuousDiagonal(LegSBlocks(3), Trapezoid()),
        ContinuousDiagonal(S4DLegS(), Bilinear()),
        RealDiagonal(S4DReal(), ZOH()),
    ],
    ids=repr,
)
def test_parametrisations_are_data(config) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
