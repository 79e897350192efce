from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import COLUMNS, Run, write_csv

from statewise.data import Experiments, Task
from statewise.estimators import LinearSystem


def test_a_run_writes_a_model_its_numbers_and_a_figure(linear: Path) -> None:
    names = ["identification.json", "identification.png", "model", "run.json"]
    assert sorted(path.name for path in linear.iterdir()) == names
    assert sorted(path.name for path in (linear / "model").iterdir()) == [
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]
    assert (linear / "identification.png").read_bytes().startswith(b"\x89PNG")


def test_the_system_is_the_one_that_python_finds(linear: Path, motor_csv: Path) -> None:
    saved = LinearSystem.load(linear / "model")
    task = Task.from_file(motor_csv, ["volt", "load"], "speed", dt=0.1, context=42)
    again = LinearSystem().fit(task.train)
    u = task.test["test"][0].u
    assert np.array_equal(saved.simulate(u), again.simulate(u))
    found = json.loads((linear / "identification.json").read_text())
    assert found["order"] == again.order_
    assert np.allclose(found["poles"]["re"], again.poles_.real)
    assert np.allclose(found["time_constants"], again.time_constants_)
    parts = {(one["split"], one["mode"]) for one in found["scores"]}
    modes = ("simulation", "1-step prediction")
    assert parts == {(part, mode) for part in ("train", "validation", "test") for mode in modes}
    expected = again.evaluate(task.test["test"], metrics=("fit",))[0].value
    (value,) = (
        one["value"]
        for one in found["scores"]
        if (one["split"], one["mode"], one["metric"]) == ("test", "simulation", "fit")
    )
    assert value == pytest.approx(expected)


def test_the_tables_say_order_poles_and_fit(run: Run, motor_csv: Path, tmp_path: Path) -> None:
    words = [motor_csv, *COLUMNS, "--dt", "0.1", "--out", tmp_path / "out"]
    outcome = run("identify", "linear", *words, "--method", "refine", "--order", "2")
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith("method  refine\norder   2\nstable  yes, largest |pole| 0.")
    for word in ("singular value", "std. error", "[s]", "damping", "validation", "test"):
        assert word in outcome.out
    assert f"model   {tmp_path / 'out' / 'model'}" in outcome.out.replace("\n", " ")
    assert max(map(len, outcome.out.split("model   ")[0].splitlines())) <= 80


@pytest.mark.parametrize("method", ["arx", "oe"])
def test_polynomials_have_coefficients_with_errors(
    run: Run, motor_csv: Path, tmp_path: Path, method: str
) -> None:
    words = [motor_csv, *COLUMNS, "--method", method, "--order", "1", "--delay", "1"]
    outcome = run("identify", "linear", *words, "--out", tmp_path / "out", "--json")
    rows = {one["name"]: one for one in outcome.json["coefficients"]}
    below = ["a[1]"] if method == "arx" else ["f1[1]", "f2[1]"]
    assert sorted(rows) == sorted(["b1[0]", "b2[0]", *below])
    assert all(one["standard_error"] > 0 for one in rows.values())
    assert all(value > 0 for value in outcome.json["pole_deviation"])


def test_a_result_is_never_overwritten_unasked(
    run: Run, motor_csv: Path, linear: Path, tmp_path: Path
) -> None:
    words = ["identify", "linear", motor_csv, *COLUMNS, "--order", "1", "--out"]
    assert "holds a result already; give another --out, or --force" in run(*words, linear).err
    out = tmp_path / "out"
    assert run(*words, out).status == 0
    assert run(*words, out, "--force").status == 0
    (out / "mine.txt").write_text("kept")
    assert "holds other files (mine.txt)" in run(*words, out, "--force").err
    assert (out / "mine.txt").read_text() == "kept"
    assert "is a file; expected a folder" in run(*words, motor_csv).err


def test_what_cannot_be_identified_is_a_sentence(run: Run, motor_csv: Path, tmp_path: Path) -> None:
    words = ["identify", "linear", motor_csv, *COLUMNS, "--out", tmp_path / "out"]
    for extra, said in (
        (["--order", "two"], "--order is auto or a number of states, 1 or more; given 'two'"),
        (["--method", "n4"], "invalid choice"),
        (["--delay", "3"], "delay is 0 or 1 with a state-space method; given 3"),
        (["--radius", "2"], "--radius is between 0 and 1; given 2.0"),
        (["--method", "arx", "--criterion", "gap"], "arx has no singular values"),
        (["--largest-order", "0"], "--largest-order is a whole number of at least 1; given 0"),
    ):
        outcome = run(*words, *extra)
        assert outcome.status == 2
        assert said in outcome.err
        assert outcome.err.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()
    assert "'identify' needs a second word: statewise identify linear" in run("identify").err
    rows = np.random.default_rng(0).standard_normal((12, 2))
    short = write_csv(tmp_path / "short.csv", rows, "u,y")
    assert run("identify", "linear", short, "--out", tmp_path / "out").status == 2


def test_the_other_commands_take_the_model(run: Run, linear: Path, motor_csv: Path) -> None:
    model = LinearSystem.load(linear / "model")
    records = Experiments.from_file(motor_csv, ["volt", "load"], "speed", dt=0.1)
    values = run("simulate", linear, motor_csv, "--dt", "0.1", "--json").json["values"]
    assert values["speed simulated [rad/s]"] == model.simulate(records[0].u)[:, 0].tolist()
    assert run("predict", linear, motor_csv, "--dt", "0.1", "--steps", "2").status == 0
    assert run("evaluate", linear, motor_csv, "--dt", "0.1").status == 0
    assert (
        "fitted at a sampling interval of 0.1 s"
        in run("evaluate", linear, motor_csv, "--dt", "0.2").err
    )
    assert "holds a LinearSystem, which has no report" in run("report", linear).err
