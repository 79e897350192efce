from __future__ import annotations

import json
from pathlib import Path

from cli_runs import COLUMNS, TINY, Run

from statewise.estimators import LinearStart, SystemIdentifier


def test_a_run_starts_at_a_linear_model(run: Run, motor_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["fit", str(motor_csv), *COLUMNS, *TINY, "--start", "LinearStart(order=2)"]
    outcome = run(*words, "--out", str(out))
    assert outcome.status == 0, outcome.err
    assert SystemIdentifier.load(out / "model").start == LinearStart(order=2)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20]
    assert rows[0]["loss"] is None
    assert rows[0]["valid"] < 1.0


def test_a_start_that_is_none_is_told(run: Run, motor_csv: Path, tmp_path: Path) -> None:
    words = ["fit", str(motor_csv), *COLUMNS, "--start", "Arx", "--out", str(tmp_path / "out")]
    outcome = run(*words)
    assert outcome.status != 0
    assert "LinearStart" in outcome.err
