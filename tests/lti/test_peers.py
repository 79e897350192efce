"""Exchange with python-control, and its numbers where it has the function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lti_systems import same_map, stable

from statewise.lti import (
    FOH,
    ZOH,
    Bilinear,
    StateSpace,
    append,
    dc_gain,
    discrete_riccati,
    feedback,
    frequency_response,
    from_control,
    h2_norm,
    hinf_norm,
    poles,
    series,
    to_continuous,
    to_control,
    to_discrete,
    transmission_zeros,
)

control = pytest.importorskip("control")


@pytest.mark.parametrize("dt", [None, 0.1])
def test_there_and_back(dt) -> None:
    system = stable(4, dt=dt)
    peer = to_control(system)
    assert peer.dt == (dt or 0)
    back = from_control(peer)
    assert back.dt == dt
    for name in "ABCD":
        assert torch.equal(getattr(back, name), getattr(system, name))
    with pytest.raises(ValueError, match="one system"):
        to_control(stable(2, batch=(2,)))
    with pytest.raises(ValueError, match="real matrices"):
        to_control(stable(2, complex_valued=True))


def test_transfer_functions_and_open_sampling_times() -> None:
    num = [[[1.0], [1.0, 2.0]], [[3.0], [1.0, 0.0, 1.0]]]
    den = [[[1.0, 0.5], [1.0, 0.2, 0.1]], [[2.0], [1.0, 0.3, 0.3]]]
    peer = control.TransferFunction(num, den, True)
    with pytest.raises(ValueError, match="give it as dt"):
        from_control(peer)
    system = from_control(peer, dt=0.2)
    assert system.dt == 0.2
    s = 1.1 + 0.4j
    np.testing.assert_allclose(system(s), peer(s), rtol=1e-12)
    with pytest.raises(ValueError, match=r"dt is 0\.3"):
        from_control(control.ss([[0.5]], [[1]], [[1]], [[0]], 0.2), dt=0.3)
    with pytest.raises(TypeError, match="given a FrequencyResponseData"):
        from_control(control.frd([1.0, 2.0], [0.1, 0.2]))


@pytest.mark.parametrize("dt", [None, 0.1])
def test_joined_systems_are_those_of_control(dt) -> None:
    one, two = stable(3, 2, 2, dt=dt, seed=1), stable(2, 2, 2, dt=dt, seed=2)
    p1, p2 = to_control(one), to_control(two)
    same_map(feedback(one, two), from_control(control.feedback(p1, p2)), 1e-11)
    same_map(series(one, two), from_control(control.series(p1, p2)), 1e-12)
    same_map(append(one, two), from_control(control.append(p1, p2)), 1e-12)


@pytest.mark.parametrize("dt", [None, 0.1])
def test_responses_are_those_of_control(dt) -> None:
    system = stable(5, 2, 2, dt=dt)
    peer = to_control(system)
    w = np.linspace(0.1, 5, 20)
    found = frequency_response(system, w).movedim(0, -1)
    np.testing.assert_allclose(
        found, peer(1j * w if dt is None else np.exp(1j * w * dt)), rtol=1e-9
    )
    np.testing.assert_allclose(dc_gain(system), control.dcgain(peer), rtol=1e-10)
    for mine, theirs in (
        (poles(system), control.poles(peer)),
        (transmission_zeros(system), control.zeros(peer)),
    ):
        assert len(mine) == len(theirs)
        gap = np.abs(mine.numpy()[:, None] - theirs)
        assert max(gap.min(0).max(), gap.min(1).max()) < 1e-9


def test_conversions_of_time_are_those_of_control() -> None:
    system = stable(4, dt=None)
    for rule, name in ((ZOH(), "zoh"), (Bilinear(), "bilinear"), (FOH(), "foh")):
        peer = control.c2d(to_control(system), 0.2, name)
        same_map(to_discrete(system, 0.2, rule), from_control(peer), 1e-10)
        same_map(to_continuous(from_control(peer), rule), system, 1e-9)
    peer = control.c2d(to_control(system), 0.5, "bilinear", prewarp_frequency=2.0)
    same_map(to_discrete(system, 0.5, Bilinear(prewarp=2.0)), from_control(peer), 1e-10)


def test_regulators_are_those_of_control() -> None:
    system = stable(4, dt=1.0, radius=1.2)
    Q, R = np.eye(4), np.eye(2)
    gain, X, _ = control.dlqr(to_control(system), Q, R)
    found = discrete_riccati(system.A, system.B, Q, R)
    np.testing.assert_allclose(found.X, X, rtol=1e-8)
    np.testing.assert_allclose(found.gain, gain, rtol=1e-8)


@pytest.mark.parametrize("dt", [None, 0.1])
def test_norms_are_those_of_control(dt) -> None:
    system = stable(4, 1, 1, dt=dt)
    system = StateSpace(system.A, system.B, system.C, dt=dt)
    peer = to_control(system)
    assert abs(control.norm(peer, 2) / h2_norm(system).item() - 1) < 1e-9
    assert abs(control.norm(peer, "inf", tol=1e-9) / hinf_norm(system).lower.item() - 1) < 1e-6
