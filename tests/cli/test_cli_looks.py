"""``data describe`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_runs import Run

import statewise
from statewise.data import describe_file
from statewise.ops import dispatch, jit, status


def test_describe_shows_columns_and_a_command_to_try(run: Run, motor_csv: Path) -> None:
    outcome = run("data", "describe", motor_csv)
    assert outcome.status == 0, outcome.err
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in outcome.out.splitlines()
        if line.startswith("│")
    ]
    assert [row[:3] for row in rows] == [
        ["volt", "number", "V"],
        ["load", "number", ""],
        ["speed", "number", "rad/s"],
    ]
    assert f"try      statewise fit '{motor_csv}' --inputs volt load --outputs speed" in outcome.out


def test_describe_json_is_the_description(run: Run, motor_csv: Path) -> None:
    found = run("data", "describe", motor_csv, "--json").json
    assert found.pop("command") == "data describe"
    expected = describe_file(motor_csv)
    assert found["rows"] == 240
    assert [column["name"] for column in found["columns"]] == ["volt", "load", "speed"]
    assert found["columns"][0]["mean"] == expected.columns[0].mean


def test_describe_tells_of_problems(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("u,y,[note]\n1,2,a\n3,oops,b\n5,6,c\n7,8,d\n")
    outcome = run("data", "describe", path)
    assert "! y: has the text 'oops' at line 3" in outcome.out
    assert "[note]" in outcome.out


def test_describe_dates(run: Run, tmp_path: Path) -> None:
    days = np.arange("2020-01-01", "2020-02-01", dtype="datetime64[D]")
    lines = [f"{day},{k},{k**2}" for k, day in enumerate(days)]
    path = tmp_path / "days.csv"
    path.write_text("date,u,y\n" + "\n".join(lines) + "\n")
    outcome = run("data", "describe", path)
    assert "time     date: even, dt 1 d" in outcome.out
    assert "start    2020-01-01" in outcome.out


def test_doctor_says_which_back_ends_work(run: Run) -> None:
    found = run("doctor", "--json").json
    assert found["statewise"] == statewise.__version__
    assert found["threads"] >= 1
    assert found["cores"] >= 1
    assert found["backends"] == [line._asdict() for line in status()]
    assert found["devices"][0]["device"] == "cpu"
    assert "warm_seconds" not in found
    text = run("doctor").out
    assert "linear_scan" in text
    assert "reference" in text
    assert f"statewise  {statewise.__version__}, Python" in text


def test_doctor_warms_the_kernels(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(dispatch, "warm", lambda: called.append(True))
    outcome = run("doctor", "--warm")
    assert called == [True]
    assert "all CPU kernels compiled in" in outcome.out


def test_doctor_asks_whether_kernels_can_be_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    for folder, writable in (("there", True), ("new", True), ("file", False)):
        cache = SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path / folder)))
        monkeypatch.setattr(jit, "kernel", lambda function, cache=cache: cache)
        found = run("doctor", "--json").json["kernel_cache"]
        assert (found["folder"], found["writable"]) == (str(tmp_path / folder), writable)
    nowhere = SimpleNamespace(stats=SimpleNamespace(cache_path=None))
    monkeypatch.setattr(jit, "kernel", lambda function: nowhere)
    assert "no cache folder: cannot be written; no folder can be" in run("doctor").out


def test_doctor_finds_where_numba_keeps_kernels(run: Run) -> None:
    found = run("doctor", "--json").json["kernel_cache"]
    assert found["folder"] is None or Path(found["folder"]).is_dir()
