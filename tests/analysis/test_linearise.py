"""Linearisation: matrices of linear layers, finite differences of the others, units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analysis_systems import LINEAR, NONLINEAR, Map, build, inputs

from statewise.analysis import InUnits, linearise
from statewise.data import Normaliser
from statewise.lti import UpdatedForm, frequency_response, from_updated, simulate


def real_pairs(matrix):
    """A complex matrix as a real one on pairs (Re, Im), interleaved."""
    rows = torch.stack([matrix.real, -matrix.imag], -1), torch.stack([matrix.imag, matrix.real], -1)
    p, m = matrix.shape
    return torch.stack(rows, -2).permute(0, 2, 1, 3).reshape(2 * p, 2 * m)


@pytest.mark.parametrize("name", ["lru", "lru_wide", "s5"])
def test_a_linear_layer_gives_back_its_matrices(name):
    layer = build(name)
    with torch.no_grad():
        a, gain, _ = layer.poles.discretise()
        b, c = layer.coupling.matrices()
        A = real_pairs(torch.diag(a))
        B = real_pairs(gain[:, None] * b)[:, 0::2]
        C = layer.poles.output_scale * real_pairs(c)[0::2]
        D = torch.diag(layer.D) if layer.D.ndim == 1 else layer.D
    expected = from_updated(UpdatedForm(A, B, C, D, 0.5))
    found = linearise(layer, inputs(layer, 3), dt=0.5)
    assert found.system.dt == 0.5
    for given, wanted in zip(found.system.matrices, expected.matrices, strict=True):
        torch.testing.assert_close(given, wanted.expand_as(given), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_the_linearisation_of_a_linear_layer_simulates_it(name):
    layer = build(name)
    u = torch.from_numpy(inputs(layer, 40))
    with torch.no_grad():
        y = layer(u[None])[0][0]
    system = linearise(layer, np.zeros(layer.d_input)).system
    torch.testing.assert_close(simulate(system, u)[0], y, rtol=0, atol=1e-12)
    if name in ("lru", "s5", "s4d", "trapezoid"):
        omega = torch.linspace(0.1, 3.0, 7, dtype=torch.float64)
        wanted = layer.frequency_response(omega).detach()
        torch.testing.assert_close(
            frequency_response(system, omega), wanted, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("name", NONLINEAR)
def test_derivatives_along_a_run_are_those_of_finite_differences(name):
    model = build(name)
    found = linearise(model, inputs(model, 6))
    assert found.along_a_run
    assert found.system.batch_shape == (6,)
    n, k, h = found.x.shape[1], 4, 1e-6
    rng = np.random.default_rng(0)
    dx = torch.from_numpy(rng.standard_normal(n))
    du = torch.from_numpy(rng.standard_normal(model.d_input))
    ahead = [
        linearise(model, found.u[k] + s * h * du, found.x[k] + s * h * dx) for s in (1.0, -1.0)
    ]
    A, B, C, D = (matrix[k] for matrix in found.system.matrices)
    slope = (ahead[0].x_next - ahead[1].x_next) / (2 * h)
    torch.testing.assert_close(A @ dx + B @ du, slope, rtol=1e-6, atol=1e-8)
    slope = (ahead[0].y - ahead[1].y) / (2 * h)
    torch.testing.assert_close(C @ dx + D @ du, slope, rtol=1e-6, atol=1e-8)


def test_the_states_of_a_run_are_those_of_the_model():
    model = build("stack")
    u = torch.from_numpy(inputs(model, 12))
    found = linearise(model, u)
    with torch.no_grad():
        y, state = model(u[None])
    torch.testing.assert_close(found.y, y[0], rtol=0, atol=1e-12)
    last = torch.cat([part.flatten() for part in state])
    torch.testing.assert_close(found.x_next[-1], last, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.x[1:], found.x_next[:-1], rtol=0, atol=0)
    half = model(u[None, :6])[1]
    later = linearise(model, u[6:], half)
    torch.testing.assert_close(later.y, found.y[6:], rtol=0, atol=1e-12)


def test_units_of_the_data_enter_by_the_normalisation():
    model = build("stack")
    scaling = Normaliser(np.array([3.0, -1.0]), np.array([2.0, 0.5]), np.array([7.0]), [4.0])
    physical = InUnits(model, scaling)
    u = inputs(model, 5)
    inside = linearise(model, u)
    outside = linearise(physical, scaling.inverse_u(u))
    torch.testing.assert_close(outside.y, 4.0 * inside.y + 7.0, rtol=0, atol=1e-12)
    A, B, C, D = outside.system.matrices
    s_u = torch.tensor([2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(A, inside.system.A, rtol=0, atol=1e-12)
    torch.testing.assert_close(B, inside.system.B / s_u, rtol=0, atol=1e-12)
    torch.testing.assert_close(C, 4.0 * inside.system.C, rtol=0, atol=1e-12)
    torch.testing.assert_close(D, 4.0 * inside.system.D / s_u, rtol=0, atol=1e-12)


def test_units_keep_the_contract():
    model = build("stack")
    scaling = Normaliser(np.array([3.0, -1.0]), np.array([2.0, 0.5]), np.array([7.0]), [4.0])
    physical = InUnits(model, scaling)
    u = torch.from_numpy(inputs(model, 5))[None]
    mask = torch.ones(1, 5, dtype=torch.bool)
    mask[0, 2] = False
    y, _ = physical(u, mask=mask)
    y2, between = physical(u[:, :3], mask=mask[:, :3])
    now, between = physical.step(u[:, 3], between)
    torch.testing.assert_close(torch.cat([y2, now[:, None]], 1), y[:, :4])
    # An input that was not observed is the mean.
    u2 = u.clone()
    u2[0, 2] = torch.tensor([3.0, -1.0])
    torch.testing.assert_close(physical(u2)[0], y)
    short, _ = physical(u, lengths=torch.tensor([3]))
    assert not short[:, 3:].any()
    with pytest.raises(ValueError, match="2 inputs and 1 outputs; the model has 3"):
        InUnits(build("mamba"), scaling)


def test_a_point_is_the_equilibrium_unless_a_state_is_given():
    model = build("gru")
    settled = linearise(model, [0.3, -0.2])
    assert settled.residual < 1e-10
    elsewhere = linearise(model, [0.3, -0.2], torch.full((1, 3), 0.5, dtype=torch.float64))
    assert elsewhere.residual > 1e-2
    flat = linearise(model, [0.3, -0.2], torch.full((3,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(flat.system.A, elsewhere.system.A, rtol=0, atol=0)


def test_the_model_is_left_alone_and_works_in_float32_too():
    model = build("stack").float().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = linearise(model, inputs(model, 4))
    assert found.system.dtype == torch.float64
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_refusals_say_what_was_given():
    model = build("gru")
    with pytest.raises(TypeError, match="given Linear"):
        linearise(torch.nn.Linear(1, 1), [0.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an input has 2 channels here; given 3"):
        linearise(model, [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"shape \(length, 2\) here; given \(4, 3\)"):
        linearise(model, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="not finite"):
        linearise(model, np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match="a flat state has 3 numbers here; given 2"):
        linearise(model, [0.0, 0.0], torch.zeros(2))
    with pytest.raises(ValueError, match="parts of shape"):
        linearise(model, [0.0, 0.0], torch.zeros(1, 4))
    with pytest.raises(ValueError, match="no equilibrium was found from 8 starts"):
        linearise(Map(lambda x, u: x + 1 + 0.1 * x**2, 1), [0.0])
