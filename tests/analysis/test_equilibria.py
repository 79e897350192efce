"""Equilibria: closed forms of linear systems, bistable maps, none at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from analysis_systems import LINEAR, NONLINEAR, Map, build, henon

from statewise.analysis import equilibria, linearise
from statewise.lti import dc_gain


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_system_settles_at_its_gain(name):
    layer = build(name)
    u = torch.tensor([0.7, -0.4], dtype=torch.float64)
    found = equilibria(layer, u, settle=0)
    system = linearise(layer, u).system
    eye = torch.eye(system.n_states, dtype=torch.float64)
    assert len(found.points) == 1
    point = found.points[0]
    wanted = torch.linalg.solve(eye - system.A, system.B @ u)
    torch.testing.assert_close(point.x, wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(point.y, dc_gain(system) @ u, rtol=1e-9, atol=1e-11)
    assert point.stable
    assert point.starts == found.starts == 8
    assert found.failed == 0
    assert math.isnan(found.worst)
    poles = torch.linalg.eigvals(system.A).abs().sort(descending=True).values.numpy()
    np.testing.assert_allclose(np.abs(point.eigenvalues), poles, rtol=1e-9)


@pytest.mark.parametrize("name", NONLINEAR)
def test_a_long_run_ends_at_the_stable_equilibrium(name):
    model = build(name)
    u = torch.from_numpy(np.random.default_rng(3).standard_normal(model.d_input))
    found = equilibria(model, u)
    assert found.points
    point = found.points[0]
    assert point.stable
    assert point.residual < 1e-10
    with torch.no_grad():
        y, _ = model.step(u[None], point.state)
    torch.testing.assert_close(y[0], point.y, rtol=0, atol=1e-10)
    moved = linearise(model, u, point.state)
    assert moved.residual < 1e-9


def test_a_bistable_map_has_three_equilibria():
    model = Map(lambda x, u: torch.tanh(2 * x) + u, 1)
    found = equilibria(model, [0.0], starts=24, spread=1.5)
    values = sorted(float(point.x[0]) for point in found.points)
    top = values[-1]
    assert math.tanh(2 * top) == pytest.approx(top, abs=1e-12)
    np.testing.assert_allclose(values, [-top, 0.0, top], atol=1e-12)
    assert [point.stable for point in found.points] == [True, True, False]
    assert found.points[-1].eigenvalues[0] == pytest.approx(2.0)
    assert "3 equilibria found, 2 of them stable" in found.sentence


def test_both_fixed_points_of_the_henon_map_are_found_and_unstable():
    found = equilibria(Map(henon, 2), [0.0], starts=16, spread=2.0, settle=0)
    values = sorted(float(point.x[0]) for point in found.points)
    root = math.sqrt(0.7**2 + 4 * 1.4)
    np.testing.assert_allclose(values, [(-0.7 - root) / 2.8, (-0.7 + root) / 2.8], atol=1e-12)
    assert not any(point.stable for point in found.points)
    for point in found.points:
        assert np.prod(point.eigenvalues).real == pytest.approx(-0.3)


def test_no_equilibrium_is_reported_as_none():
    found = equilibria(Map(lambda x, u: x + 1 + 0.1 * x**2, 1), [0.0], settle=0)
    assert found.points == ()
    assert found.failed == found.starts
    assert found.worst >= 1.0
    assert found.sentence == ("0 equilibria found, 0 of them stable; 8 of 8 starts did not settle.")


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="given starts = 0"):
        equilibria(build("gru"), [0.0, 0.0], starts=0)
