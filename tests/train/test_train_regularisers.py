"""Regularisers: their values, their gradients, and what training makes of them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from train_systems import oscillator, quick, small_model

from statewise._config import from_dict, to_dict
from statewise.cli.parts import read_part
from statewise.lti import Trapezoid, from_diagonal, hankel_singular_values
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import LRU, LTI, S4D, S5, ContinuousDiagonal, Mamba, PolarDiagonal
from statewise.nn.modes import layer_modes
from statewise.train import FitConfig, HankelNuclear, ModalL1, fit
from statewise.train.penalties import hankel_sum

LAYERS = {
    "LRU": lambda: LRU(2, 3, 5, r_max=0.95),
    "S5": lambda: S5(2, 2, 3),
    "S4D": lambda: S4D(3, 3, dt_max=0.5),
    "S4D-real": lambda: S4D(2, 3, real=True, dt_max=0.5),
    "polar": lambda: LTI(2, 2, 4, poles=PolarDiagonal()),
    "two-points": lambda: LTI(1, 2, 3, poles=ContinuousDiagonal(rule=Trapezoid())),
}


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_the_sum_is_that_of_the_hankel_singular_values(build) -> None:
    layer = build().double()
    with torch.no_grad():
        expected = hankel_singular_values(from_diagonal(layer_modes(layer))).sum()
        assert hankel_sum(layer).item() == pytest.approx(expected.item(), rel=1e-10)


def test_the_sum_is_that_of_the_matrix_of_impulse_responses() -> None:
    """Conjugation in the wrong place gives other values, which this would show."""
    layer = LRU(1, 1, 3, r_max=0.8, seed=2).double()
    with torch.no_grad():
        impulse = torch.zeros(1, 400, 1, dtype=torch.float64)
        impulse[0, 0] = 1
        taps = layer(impulse)[0].flatten()
        rows = torch.arange(150)
        hankel = taps[1 + rows[:, None] + rows]
        expected = torch.linalg.svdvals(hankel).sum()
        assert hankel_sum(layer).item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("regulariser", [HankelNuclear(0.7), ModalL1(0.7)])
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_gradients_are_those_of_finite_differences(build, regulariser) -> None:
    layer = build().double()
    value = regulariser.penalty(layer)
    names = [n for n, p in layer.named_parameters() if p.requires_grad]
    parameters = [dict(layer.named_parameters())[n] for n in names]
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    draw = torch.Generator().manual_seed(0)
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        ends = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                parameter += step * direction
                ends.append(regulariser.penalty(layer).item())
            parameter += 1e-5 * direction
        slope = (ends[0] - ends[1]) / 2e-5
        found = 0.0 if gradient is None else (gradient * direction).sum().item()
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-6), name


def test_gradients_hold_where_states_are_idle() -> None:
    layer = LRU(1, 1, 6)
    with torch.no_grad():
        layer.coupling.C[:, 2:] = 0
        layer.coupling.B[5] = 0
    HankelNuclear().penalty(layer).backward()
    for parameter in (layer.coupling.B, layer.coupling.C, layer.poles.nu, layer.poles.theta):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() < 10


def hankel(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return HankelNuclear(1.0).penalty(model).item()


def moduli(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return ModalL1(1.0).penalty(model).item()


@pytest.mark.parametrize("polish", [0, 10])
def test_training_makes_the_sums_smaller(polish: int) -> None:
    records = [oscillator(400, seed=0)]
    sums = {}
    for regulariser in (None, HankelNuclear(0.1), ModalL1(1.0)):
        model = small_model(d_state=6)
        config = quick(
            regulariser=regulariser, polish_steps=polish, steps=40, lr=0.05, dynamics_factor=1.0
        )
        fit(model, records, None, config)
        sums[type(regulariser)] = hankel(model), moduli(model)
    assert sums[HankelNuclear][0] < 0.7 * sums[type(None)][0]
    assert sums[ModalL1][1] < 0.9 * sums[type(None)][1]


def test_no_weight_changes_nothing() -> None:
    records = [oscillator(300, seed=0)]
    rows = []
    for regulariser in (None, HankelNuclear(0.0)):
        model = small_model(d_state=4)
        rows.append(fit(model, records, records, quick(regulariser=regulariser)).best_valid)
    assert rows[0] == rows[1]


def test_the_reported_loss_holds_the_penalty() -> None:
    records = [oscillator(300, seed=0)]
    losses = []
    for regulariser in (None, ModalL1(0.5)):
        model = small_model(d_state=4)
        before = moduli(model)
        config = quick(regulariser=regulariser, steps=1, eval_every=1, polish_steps=0)
        losses.append(fit(model, records, None, config).history[0]["loss"])
    assert losses[1] - losses[0] == pytest.approx(0.5 * before, rel=1e-5)


def test_settings_survive_json_and_the_command_line() -> None:
    for one in (HankelNuclear(0.3), ModalL1()):
        config = FitConfig(regulariser=one)
        assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    part = read_part("HankelNuclear(weight=0.3)", [HankelNuclear, ModalL1], optional=True)
    assert part == HankelNuclear(0.3)


def test_refusals_say_what_was_given() -> None:
    with pytest.raises(ValueError, match="HankelNuclear needs weight >= 0; given -1"):
        HankelNuclear(-1)
    with pytest.raises(TypeError, match="regulariser to be None or one of HankelNuclear"):
        FitConfig(regulariser=0.1)  # type: ignore[arg-type]
    model = DeepWiener(1, 1, DeepWienerConfig(layer=Mamba.spec(d_state=4)))
    with pytest.raises(ValueError, match="DeepWiener has no LTI layer"):
        fit(model, [oscillator(300, seed=0)], None, quick(regulariser=ModalL1()))
    assert dataclasses.replace(FitConfig(), regulariser=None) == FitConfig()
