"""Summaries of blocks and of the whole model, against simulation and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import (
    ELU,
    GELU,
    GLU,
    MLP,
    Bank,
    ContinuousDiagonal,
    Identity,
    LayerNorm,
    Polynomial,
    RealDiagonal,
    RMSNorm,
    StaticMap,
    Tanh,
)
from statewise.report import (
    Channel,
    LayerSummary,
    layer_summaries,
    path_summary,
    small_signal_response,
    steady_state,
)

SMALL = {"n_layers": 2, "d_model": 4, "d_state": 5}
CONFIGS = {
    "plain": DeepWienerConfig(**SMALL),
    "norm, direct, bias": DeepWienerConfig(**SMALL, norm=LayerNorm(), direct=True, bias=True),
    "norm behind": DeepWienerConfig(**SMALL, norm=RMSNorm(), prenorm=False, static=Tanh()),
    "no input map": DeepWienerConfig(**SMALL, input_map=False, skip="linear", static=GELU()),
    "bank": DeepWienerConfig(
        **SMALL, coupling=Bank(), poles=ContinuousDiagonal(dt_min=0.1), static=MLP(6)
    ),
    "real": DeepWienerConfig(
        **SMALL, poles=RealDiagonal(dt_min=0.1), skip="none", static=Polynomial()
    ),
}


def _model(name: str, n_inputs: int = 2) -> DeepWiener:
    model = DeepWiener(n_inputs, 2, CONFIGS[name], seed=3).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.05 * noise)
    return model.eval()


def _decay(model: DeepWiener) -> int:
    """Samples after which the slowest mode is below 1e-12."""
    radius = max(float(block.lti.eigenvalues().detach().abs().max()) for block in model.blocks)
    return min(int(math.log(1e-12) / math.log(radius)) + 1, 20_000)


@pytest.mark.parametrize("name", CONFIGS)
def test_steady_state_is_the_limit_of_a_simulation(name: str) -> None:
    model = _model(name)
    levels = np.array([[0.3, -0.7], [1.5, 0.2]])
    held = torch.from_numpy(levels)[:, None].expand(-1, 2 * _decay(model), -1)
    with torch.no_grad():
        y, _ = model(held)
    np.testing.assert_allclose(steady_state(model, levels), y[:, -1], atol=1e-8)


@pytest.mark.parametrize("name", CONFIGS)
def test_small_signal_response_is_that_of_a_simulation(name: str) -> None:
    model = _model(name)
    point, size, period = np.array([0.4, -0.2]), 1e-5, 16
    start = _decay(model)
    start += -start % period
    k = np.arange(start + period)
    wave = np.exp(1j * 2 * np.pi * k / period)
    response = small_signal_response(model, np.array([2 * np.pi / period]), point)[0]
    for source in range(2):
        runs = []
        for part in (wave.real, -wave.real):
            u = np.tile(point, (len(k), 1))
            u[:, source] += size * part
            with torch.no_grad():
                runs.append(model(torch.from_numpy(u)[None])[0][0].numpy())
        difference = (runs[0] - runs[1])[-period:] / 2
        measured = 2 / (size * period) * (difference * wave[-period:, None].conj()).sum(0)
        np.testing.assert_allclose(measured, response[:, source], rtol=1e-5, atol=1e-7)


def test_poles_become_times() -> None:
    poles = np.array([0.5, np.exp(-0.1 + 0.6j), -0.5, 0.0, 1.0])
    summary = LayerSummary(
        "block 1", 1, 1, poles, True, 2.0, "h", np.ones(1), np.ones((1, 1)), "ELU"
    )
    expected = [2 / math.log(2), 20.0, 2 / math.log(2), 0.0, math.inf]
    np.testing.assert_allclose(summary.time_constants, expected)
    assert summary.periods[0] == math.inf
    assert summary.periods[1] == pytest.approx(2 * 2 * math.pi / 0.6)
    assert summary.periods[2] == pytest.approx(4.0)
    assert summary.damping[0] == 1.0
    assert summary.damping[1] == pytest.approx(0.1 / math.hypot(0.1, 0.6))
    assert summary.damping[3] == 1.0
    assert math.isnan(summary.damping[4])


def test_blocks_are_summed_up() -> None:
    model = _model("plain")
    first, second = layer_summaries(model, 0.25, "s")
    assert (first.name, second.name) == ("block 1", "block 2")
    assert (first.dt, first.time_unit, first.paired) == (0.25, "s", True)
    np.testing.assert_allclose(first.eigenvalues, model.blocks[0].lti.eigenvalues().detach())
    assert first.omega[-1] == pytest.approx(math.pi)
    assert (np.diff(first.omega) > 0).all()
    omega = torch.from_numpy(first.omega[[0, 50, -1]])
    with torch.no_grad():
        response = model.blocks[0].lti.frequency_response(omega)
    expected = torch.linalg.svdvals(response)
    np.testing.assert_allclose(first.singular_values[[0, 50, -1]], expected, rtol=1e-10)
    assert layer_summaries(model)[0].time_unit == "samples"
    assert not layer_summaries(_model("real"))[0].paired
    assert layer_summaries(_model("norm behind"))[0].norm == "RMSNorm"
    assert layer_summaries(_model("real"))[0].skip == "none"


def test_the_model_is_not_changed() -> None:
    model = DeepWiener(2, 1, DeepWienerConfig(**SMALL), seed=0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layer_summaries(model, u=np.ones((20, 2)))
    steady_state(model, np.ones((1, 2)))
    small_signal_response(model, np.ones(1))
    assert model.training
    assert all(not block.static._forward_pre_hooks for block in model.blocks)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("static", "function"),
    [
        (ELU(), lambda x: np.where(x > 0, x, np.expm1(x))),
        (Tanh(), np.tanh),
        (Identity(), lambda x: x),
        (GELU(), lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
    ],
)
def test_shared_static_maps_are_one_curve(static: StaticMap, function) -> None:
    model = DeepWiener(1, 1, DeepWienerConfig(**SMALL, static=static))
    summary = layer_summaries(model)[0]
    assert summary.static == type(static).__name__
    assert summary.static_values is not None
    assert summary.static_values.shape == (121, 1)
    assert summary.static_grid is not None
    assert (summary.static_grid[0], summary.static_grid[-1]) == (-3.0, 3.0)
    np.testing.assert_allclose(summary.static_values[:, 0], function(summary.static_grid))


def test_polynomials_have_a_curve_per_channel() -> None:
    model = _model("real")
    summary = layer_summaries(model)[1]
    assert summary.static_values is not None
    assert summary.static_values.shape == (121, 4)
    assert summary.static_note == "One curve per channel."
    assert np.ptp(summary.static_values[-1]) > 0


@pytest.mark.parametrize("static", [GLU(), MLP(7)])
def test_maps_that_mix_channels_are_explained(static: StaticMap) -> None:
    summary = layer_summaries(DeepWiener(1, 1, DeepWienerConfig(**SMALL, static=static)))[0]
    assert summary.static_values is None
    assert "mixes all 4 channels" in summary.static_note


def test_one_channel_can_always_be_drawn() -> None:
    config = DeepWienerConfig(n_layers=1, d_model=1, d_state=2, static=MLP(3))
    summary = layer_summaries(DeepWiener(1, 1, config))[0]
    assert summary.static_values is not None
    assert summary.static_values.shape == (121, 1)


def test_visited_range_is_that_of_the_data() -> None:
    model = _model("no input map")
    u = np.random.default_rng(0).standard_normal((300, 2))
    u[7, 1] = np.nan
    first = layer_summaries(model, u=u)[0]
    with torch.no_grad():
        eta = model.blocks[0].lti(torch.from_numpy(np.nan_to_num(u))[None])[0][0].numpy()
    assert first.visited is not None
    np.testing.assert_allclose(first.visited, np.stack([eta.min(0), eta.max(0)], 1))
    assert first.static_grid is not None
    assert first.static_grid[0] < eta.min()
    assert first.static_grid[-1] > eta.max()


def test_path_is_in_physical_units() -> None:
    model = _model("plain")
    inputs = (Channel("a", "N", -1.0, 0.5, 9.0), Channel("b"))
    outputs = (Channel("y", "mm"), Channel("z"))
    u_mean, u_std = np.array([0.5, 2.0]), np.array([4.0, 0.1])

    def to_physical(z: np.ndarray) -> np.ndarray:
        return np.exp(z) * [1.0, 3.0]

    path = path_summary(model, inputs, outputs, u_mean=u_mean, u_std=u_std, to_physical=to_physical)
    np.testing.assert_allclose(path.levels[0, [0, -1]], [-1.0, 8.5])
    np.testing.assert_allclose(path.levels[1, [0, -1]], [1.8, 2.2])
    held = np.array([[(path.levels[0, 10] - 0.5) / 4.0, 0.0]])
    np.testing.assert_allclose(path.steady[0, 10], to_physical(steady_state(model, held))[0])
    slope = to_physical(steady_state(model, np.zeros((1, 2))))[0]
    response = np.abs(small_signal_response(model, path.omega))
    np.testing.assert_allclose(path.gain, response * slope[:, None] / u_std, rtol=1e-7)
