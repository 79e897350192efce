"""Runs that are killed or stopped go on where they were."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import COLUMNS, TINY, Run

from statewise.estimators import SystemIdentifier

LONG = [*TINY, "--training.steps=200", "--training.eval-every=5"]


def _rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def _stopped(words: list[str], folder: Path, sign: signal.Signals) -> tuple[int, str]:
    """Start a fit, send a signal after its third evaluation, give status and standard error."""
    script = Path(__file__).with_name("killed_fit.py")
    process = subprocess.Popen(
        [sys.executable, str(script), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log, deadline = folder / "log.jsonl", time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sign)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, motor_csv: Path) -> Path:
    """The folder of the run that nobody stopped."""
    from statewise.cli import main

    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["fit", str(motor_csv), *COLUMNS, *LONG, "--out", str(out), "--json"]) == 0
    return out


def test_a_killed_run_goes_on(run: Run, tmp_path: Path, motor_csv: Path, whole: Path) -> None:
    out = tmp_path / "out"
    words = ["fit", str(motor_csv), *COLUMNS, *LONG, "--out", str(out)]
    status, _ = _stopped(words, out, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not (out / "model").exists()
    assert (out / "checkpoint").is_dir()
    outcome = run(*words)
    assert outcome.status == 2
    assert "holds an interrupted run; add --resume to go on with it" in outcome.err
    assert "finish it with statewise fit --resume" in run("simulate", out, motor_csv).err
    assert run(*words, "--resume").status == 0
    assert not (out / "checkpoint").exists()
    assert _rows(out) == _rows(whole)
    u = np.random.default_rng(0).standard_normal((50, 2))
    ours, theirs = (SystemIdentifier.load(one / "model").simulate(u) for one in (out, whole))
    assert np.array_equal(ours, theirs)


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, motor_csv: Path) -> None:
    out = tmp_path / "out"
    words = ["fit", str(motor_csv), *COLUMNS, *LONG, "--out", str(out)]
    status, said = _stopped(words, out, signal.SIGINT)
    assert status == 130
    assert said.splitlines()[-1].startswith("stopped; go on with: statewise fit ")
    assert said.splitlines()[-1].endswith(" --resume")
    assert "Traceback" not in said
    assert (out / "checkpoint").is_dir()


def test_a_failure_before_the_training_leaves_no_folder_behind(
    run: Run, tmp_path: Path, motor_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, *args: object, **settings: object) -> None:
        raise ValueError("the data do not suit")

    monkeypatch.setattr(SystemIdentifier, "fit", fail)
    out = tmp_path / "out"
    outcome = run("fit", motor_csv, *COLUMNS, *TINY, "--out", out)
    assert outcome.status == 2
    assert outcome.err.endswith("error: the data do not suit\n")
    assert not out.exists()
