"""Settings: what they refuse, and that they survive JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from train_systems import quick

from statewise._config import from_dict, to_dict
from statewise.train import (
    MSE,
    Carry,
    EncoderState,
    FitConfig,
    Huber,
    LearnedState,
    LeastSquaresState,
    Windows,
    ZeroState,
)


@pytest.mark.parametrize(
    "config",
    [
        FitConfig(),
        FitConfig(window=None, clip=None, loss=Huber(0.5), initial_state=LearnedState()),
        FitConfig(initial_state=EncoderState(8, 16), method=Carry(), patience=3, average=0.99),
        FitConfig(valid_state=LeastSquaresState(20, 3, 0.1), precision="bfloat16"),
    ],
)
def test_settings_survive_json(config: FitConfig) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"washout": 512}, "washout (512) must be shorter than the window (512)"),
        ({"window": 20, "initial_state": EncoderState(20)}, "initial state (20)"),
        ({"batch_size": 0}, "batch_size >= 1; given 0"),
        ({"steps": -1}, "steps >= 0; given -1"),
        ({"patience": 0}, "patience >= 1; given 0"),
        ({"lr": 0.0}, "lr > 0; given 0.0"),
        ({"lr": float("nan")}, "lr > 0; given nan"),
        ({"clip": -1.0}, "clip > 0; given -1.0"),
        ({"warmup": 1.5}, "warmup <= 1; given 1.5"),
        ({"weight_decay": -0.1}, "weight_decay >= 0; given -0.1"),
        ({"average": 1.0}, "average in (0, 1); given 1.0"),
        ({"keep": "first"}, "given 'first'"),
        ({"precision": "half"}, "given 'half'"),
        ({"window": None, "method": Carry()}, "needs a window"),
        ({"valid_state": EncoderState()}, "needs the same initial_state"),
    ],
)
def test_a_setting_out_of_range_is_named(changes: dict, words: str) -> None:
    with pytest.raises(ValueError) as error:
        FitConfig(**changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [{"loss": "mse"}, {"initial_state": 3}, {"method": "carry"}, {"valid_state": "zero"}],
)
def test_a_part_of_another_kind_is_named(changes: dict) -> None:
    (name,) = changes
    with pytest.raises(TypeError, match=name):
        FitConfig(**changes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Huber(0.0),
        lambda: EncoderState(samples=0),
        lambda: LeastSquaresState(iterations=0),
        lambda: LeastSquaresState(ridge=-1.0),
    ],
)
def test_a_part_out_of_range_is_refused(make) -> None:
    with pytest.raises(ValueError, match="given"):
        make()


def test_losses_agree_with_torch() -> None:
    error = torch.linspace(-3, 3, 41)
    zero = torch.zeros_like(error)
    squares = torch.nn.functional.mse_loss(error, zero, reduction="none")
    huber = torch.nn.functional.huber_loss(error, zero, reduction="none", delta=0.7)
    torch.testing.assert_close(MSE().values(error), squares)
    torch.testing.assert_close(Huber(0.7).values(error), huber)


def test_defaults_are_the_plain_method() -> None:
    config = quick()
    assert config.method == Windows()
    assert config.initial_state == ZeroState()
    assert config.loss == MSE()


def test_settings_come_without_torch() -> None:
    code = "import sys, statewise.train as t; t.FitConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
