"""A run that was cut off goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from train_systems import curve, oscillator, quick, same_weights, small_model

from statewise._errors import DataError
from statewise.data import Record
from statewise.train import (
    Carry,
    EncoderState,
    FitConfig,
    FitResult,
    Huber,
    LearnedState,
    LeastSquaresState,
    fit,
)
from statewise.train.tracker import Tracker


class CutOffError(Exception):
    """Stands for the power going out."""


TRAIN = [oscillator(300, 1), oscillator(120, 2)]
VALID = [oscillator(150, 3, skip=20)]

CONFIGS = {
    "plain": quick(polish_steps=25),
    "carry": quick(method=Carry(), window=32),
    "learned": quick(initial_state=LearnedState(), polish_steps=20),
    "encoder": quick(initial_state=EncoderState(10, 8), method=Carry()),
    "least squares": quick(initial_state=LeastSquaresState(10, 2), steps=20, polish_steps=15),
    "average": quick(average=0.95, loss=Huber(0.5), patience=50, weight_decay=0.01),
}


def _fit(config: FitConfig, folder: Path | None, resume: bool = False) -> tuple:
    model = small_model(dropout=0.1)
    return model, fit(model, TRAIN, VALID, config, seed=5, folder=folder, resume=resume)


def _cut_off_after(evaluations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run die between the checkpoint of an evaluation and its line in the log."""
    done = []
    append = Tracker.append_to_log

    def dying(self: Tracker) -> None:
        done.append(0)
        if len(done) == evaluations:
            raise CutOffError
        append(self)

    monkeypatch.setattr(Tracker, "append_to_log", dying)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_resumed_run_takes_the_same_course(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    model, result = _fit(config, None)
    rows = len(result.history)
    for at in sorted({1, 3, rows - 1}):
        folder = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as patch:
            _cut_off_after(at, patch)
            with pytest.raises(CutOffError):
                _fit(config, folder)
        again, resumed = _fit(config, folder, resume=True)
        assert curve(resumed.history) == curve(result.history)
        assert same_weights(again, model)
        for name_, value in dataclasses.asdict(_numbers(result)).items():
            assert getattr(resumed, name_) == value
        lines = (folder / "log.jsonl").read_text().splitlines()
        assert curve([json.loads(line) for line in lines]) == curve(result.history)


@dataclasses.dataclass
class _Numbers:
    best_step: int
    best_valid: float | None
    reason: str
    steps: int
    polish_steps: int
    restarts: int


def _numbers(result: FitResult) -> _Numbers:
    return _Numbers(**{f.name: getattr(result, f.name) for f in dataclasses.fields(_Numbers)})


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    config = quick(polish_steps=10)
    model, result = _fit(config, tmp_path)
    log = (tmp_path / "log.jsonl").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("statewise.train.adam.AdamPhase.step", None)
        patch.setattr("statewise.train.polish.PolishPhase.step", None)
        again, resumed = _fit(config, tmp_path, resume=True)
    assert resumed.history == result.history
    assert same_weights(again, model)
    assert (tmp_path / "log.jsonl").read_text() == log


def test_a_run_that_lost_its_patience_stays_ended(tmp_path: Path) -> None:
    config = quick(steps=400, lr=0.5, eval_every=5, patience=2, warmup=0.0)
    _, result = _fit(config, None)
    with pytest.MonkeyPatch.context() as patch:
        _cut_off_after(len(result.history), patch)
        with pytest.raises(CutOffError):
            _fit(config, tmp_path)
    _, resumed = _fit(config, tmp_path, resume=True)
    assert curve(resumed.history) == curve(result.history)
    assert resumed.reason == result.reason


def test_restarts_survive(tmp_path: Path) -> None:
    base = oscillator(600, 1)
    y = np.array(base.y)
    y[300] = 1e30
    config = quick(steps=300, batch_size=1)
    curves = []
    for cut in (None, 2):
        model = small_model()
        arguments = ([Record(y, base.u)], VALID, config)
        if cut is not None:
            with pytest.MonkeyPatch.context() as patch:
                _cut_off_after(cut, patch)
                with pytest.raises(CutOffError):
                    fit(small_model(), *arguments, folder=tmp_path)
        folder = None if cut is None else tmp_path
        result = fit(model, *arguments, folder=folder, resume=cut is not None)
        curves.append((curve(result.history), result.restarts, result.reason))
    assert curves[0] == curves[1]
    assert curves[0][1] == 5


def test_without_a_checkpoint_resuming_starts(tmp_path: Path) -> None:
    model, result = _fit(quick(), tmp_path / "new", resume=True)
    expected, plain = _fit(quick(), None)
    assert curve(result.history) == curve(plain.history)
    assert same_weights(model, expected)


def test_without_resume_a_run_starts_anew(tmp_path: Path) -> None:
    _fit(quick(steps=20), tmp_path)
    _, result = _fit(quick(steps=30), tmp_path)
    assert len(result.history) == 3
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_leftovers_of_a_write_are_swept(tmp_path: Path) -> None:
    config = quick()
    with pytest.MonkeyPatch.context() as patch:
        _cut_off_after(2, patch)
        with pytest.raises(CutOffError):
            _fit(config, tmp_path)
    folder = tmp_path / "checkpoint"
    (folder / ".state.safetensors.abc123").write_bytes(b"half of a file")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"phase": "ad')
    _, resumed = _fit(config, tmp_path, resume=True)
    assert [path.name for path in folder.iterdir()] == ["state.safetensors"]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == resumed.history


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": quick(lr=0.01)}, "with lr = 0.005; given 0.01"),
        ({"config": quick(loss=Huber())}, "with loss = "),
        ({"seed": 6}, "with seed = 5; given 6"),
        ({"train": [oscillator(300, 9), oscillator(120, 2)]}, "with other training data"),
        ({"train": [oscillator(300, 1, skip=1), oscillator(120, 2)]}, "other training data"),
        ({"valid": None}, "with other validation data"),
        ({"model": {"d_state": 3}}, "with other model"),
        ({"model": {"dropout": 0.2}}, "with other model"),
    ],
)
def test_another_run_is_not_resumed(changes: dict, words: str, tmp_path: Path) -> None:
    config = quick(steps=10)
    fit(small_model(), TRAIN, VALID, config, seed=5, folder=tmp_path)
    before = (tmp_path / "log.jsonl").read_text()
    given = {"config": config, "seed": 5, "train": TRAIN, "valid": VALID, "model": {}} | changes
    with pytest.raises(ValueError, match="cannot resume from") as error:
        fit(
            small_model(**given["model"]),
            given["train"],
            given["valid"],
            given["config"],
            seed=given["seed"],
            folder=tmp_path,
            resume=True,
        )
    assert words in str(error.value)
    assert (tmp_path / "log.jsonl").read_text() == before


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x10\0\0\0\0\0\0\0{" + b" " * 15])
def test_a_damaged_checkpoint_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    _fit(quick(steps=10), tmp_path)
    (tmp_path / "checkpoint" / "state.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="no readable checkpoint"):
        _fit(quick(steps=10), tmp_path, resume=True)


@pytest.mark.slow
def test_a_run_killed_twenty_times_loses_nothing(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("killed_worker.py")
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(worker), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["kills"] == 20
    assert report["resumed_at"] == sorted(report["resumed_at"])
    assert len(set(report["resumed_at"])) > 5
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _curve(killed) == _curve(whole)
    assert (killed / "weights.bin").read_bytes() == (whole / "weights.bin").read_bytes()
    assert [path.name for path in (killed / "checkpoint").iterdir()] == ["state.safetensors"]


def _curve(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return curve([json.loads(line) for line in lines])
