"""Joined systems against their transfer matrices."""

from __future__ import annotations

import pytest
import torch
from lti_systems import same_map, stable, values

from statewise.lti import StateSpace, append, feedback, parallel, series


@pytest.mark.parametrize("dt", [None, 0.3])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_joined_systems_have_the_maps_of_algebra(dt, complex_valued) -> None:
    one = stable(3, m=2, p=3, dt=dt, seed=1, complex_valued=complex_valued)
    two = stable(4, m=2, p=3, dt=dt, seed=2, batch=(2,))
    three = stable(2, m=3, p=1, dt=dt, seed=3)
    G1, G2, G3 = values(one).unsqueeze(1), values(two), values(three).unsqueeze(1)
    torch.testing.assert_close(values(parallel(one, two)), G1 + G2)
    torch.testing.assert_close(values(one - two), G1 - G2)
    torch.testing.assert_close(values(series(two, three)), G3 @ G2)
    torch.testing.assert_close(values(three @ two), G3 @ G2)
    torch.testing.assert_close(values(three @ one), (G3 @ G1)[:, 0])
    torch.testing.assert_close(values(2.5 * two), 2.5 * G2)
    side = values(append(two, three))
    torch.testing.assert_close(side[..., :3, :2], G2)
    torch.testing.assert_close(side[..., 3:, 2:], G3.expand(-1, 2, -1, -1))
    assert side[..., 3:, :2].abs().max() == 0


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dt", [None, 0.3])
def test_a_loop_has_its_closed_map(sign, dt) -> None:
    plant = stable(4, m=2, p=3, dt=dt, batch=(2,))
    controller = stable(3, m=3, p=2, dt=dt, seed=9)
    G, K = values(plant), values(controller).unsqueeze(1)
    eye = torch.eye(3, dtype=torch.complex128)
    expected = torch.linalg.solve(eye - sign * G @ K, G)
    torch.testing.assert_close(values(feedback(plant, controller, sign=sign)), expected)


def test_unity_feedback() -> None:
    plant = stable(3, m=2, p=2)
    same_map(feedback(plant), feedback(plant, StateSpace.gain(torch.eye(2), dt=1.0)), 1e-15)
    with pytest.raises(ValueError, match="as many outputs"):
        feedback(stable(3, m=2, p=3))


def test_what_does_not_fit_is_refused() -> None:
    one, two = stable(3, m=2, p=3), stable(3, m=2, p=3, dt=0.5)
    with pytest.raises(ValueError, match="sampling time"):
        parallel(one, two)
    with pytest.raises(ValueError, match="must be equal"):
        series(one, one)
    with pytest.raises(ValueError, match="equal numbers"):
        parallel(one, one.select(inputs=0))
    with pytest.raises(ValueError, match="controller has"):
        feedback(one, one)
    with pytest.raises(ValueError, match="sign is 2"):
        feedback(one, sign=2)
    with pytest.raises(ValueError, match="well-posed"):
        feedback(StateSpace.gain([[1.0]]), StateSpace.gain([[1.0]]), sign=1)
    with pytest.raises(ValueError, match="no systems"):
        append()
    with pytest.raises(TypeError):
        one * two
