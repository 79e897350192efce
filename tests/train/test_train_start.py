"""Weights that a model comes with, judged as a candidate."""

from __future__ import annotations

import pytest
import torch
from train_systems import linear_model, oscillator, quick, same_weights

from statewise.train import FreeRunError, fit


def nearly_right() -> tuple:
    model, valid = linear_model(), [oscillator(200, 2, skip=20)]
    fit(model, [oscillator(300, 1)], valid, quick(lr=0.03, polish_steps=60))
    return model, valid


def test_weights_that_training_only_spoils_are_kept() -> None:
    model, valid = nearly_right()
    twin, before = linear_model(), FreeRunError(valid)(model)
    twin.load_state_dict(model.state_dict())
    ruin = quick(steps=20, lr=1.0, eval_every=5, warmup=0.0)
    result = fit(model, [oscillator(300, 1)], valid, ruin, judge_start=True)
    assert (result.best_step, result.best_valid) == (0, pytest.approx(before))
    assert same_weights(model, twin)
    assert [row["step"] for row in result.history] == [0, 5, 10, 15, 20]
    assert result.history[0]["phase"] == "start"
    assert result.history[0]["loss"] is None
    lost = fit(twin, [oscillator(300, 1)], valid, ruin)
    assert lost.best_valid is not None
    assert lost.best_valid > before


def test_without_validation_there_is_nothing_to_judge() -> None:
    model, _ = nearly_right()
    result = fit(model, [oscillator(300, 1)], None, quick(), judge_start=True)
    assert all(row["phase"] != "start" for row in result.history)


def test_judging_changes_nothing_else(tmp_path) -> None:
    (one, valid), (other, _) = nearly_right(), nearly_right()
    train = [oscillator(300, 1)]
    first = fit(one, train, valid, quick(), judge_start=True, folder=tmp_path)
    second = fit(other, train, valid, quick())
    numbers = [[row["valid"] for row in result.history] for result in (first, second)]
    assert numbers[0][1:] == numbers[1]
    again = fit(one, train, valid, quick(), judge_start=True, folder=tmp_path, resume=True)
    assert again.history == first.history
    assert torch.isfinite(torch.tensor(again.best_valid))
