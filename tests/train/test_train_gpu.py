"""Training on a GPU: the strategies, mixed precision, and the way back to the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train_systems import curve, linear_model, oscillator, quick, small_model

from statewise.train import (
    Carry,
    EncoderState,
    FitConfig,
    LearnedState,
    LeastSquaresState,
    ZeroState,
    fit,
)
from statewise.train.adam import LARGE, uses_bfloat16

pytestmark = pytest.mark.gpu

TRAIN = [oscillator(300, 1), oscillator(120, 2)]
VALID = [oscillator(150, 3, skip=20)]


@pytest.mark.parametrize(
    "changes",
    [
        {"initial_state": ZeroState()},
        {"initial_state": LearnedState(), "method": Carry()},
        {"initial_state": EncoderState(10, 8)},
        {"initial_state": LeastSquaresState(10, 2), "steps": 10},
        {"average": 0.9, "method": Carry()},
    ],
)
def test_the_gpu_trains_as_the_processor_does(changes: dict) -> None:
    config = quick(polish_steps=10, **changes)
    histories = []
    for device in ("cpu", "cuda"):
        model = small_model()
        result = fit(model, TRAIN, VALID, config, device=device)
        histories.append([row for row in result.history if row["phase"] == "adam"])
        assert all(parameter.device.type == "cpu" for parameter in model.parameters())
        assert all(p.device.type == "cpu" for p in result.initialiser.parameters())
    for on_cpu, on_gpu in zip(*histories, strict=True):
        assert on_gpu["loss"] == pytest.approx(on_cpu["loss"], rel=1e-3)
        assert on_gpu["valid"] == pytest.approx(on_cpu["valid"], rel=1e-3)


def test_bfloat16_is_taken_for_large_models_only() -> None:
    device = torch.device("cuda", 0)
    assert not uses_bfloat16(FitConfig(), device, LARGE - 1)
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    assert uses_bfloat16(FitConfig(), device, LARGE) == supported


def test_mixed_precision_and_dropout_run(tmp_path: Path) -> None:
    config = quick(steps=60, lr=0.02, precision="bfloat16", clip=None)
    runs = []
    for _ in range(2):
        model = linear_model(dropout=0.1)
        runs.append(fit(model, TRAIN, VALID, config, device="cuda", folder=tmp_path))
    assert runs[0].history[-1]["loss"] < runs[0].history[0]["loss"]
    again = fit(
        linear_model(dropout=0.1), TRAIN, VALID, config, device="cuda", folder=tmp_path, resume=True
    )
    assert curve(again.history) == curve(runs[1].history)
