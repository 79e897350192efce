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


def test_subspace_models_say_how_sure_they_are(run: Run, motor_csv: Path, tmp_path: Path) -> None:
    words = ["identify", "linear", motor_csv, *COLUMNS, "--dt", "0.1", "--method", "cva"]
    outcome = run(*words, "--order", "2", "--out", tmp_path / "out")
    assert "poles (standard errors: bootstrap, 50 simulated records)" in outcome.out
    assert "90 % band" in outcome.out
    assert max(map(len, outcome.out.split("model   ")[0].splitlines())) <= 80
    found = json.loads((tmp_path / "out" / "identification.json").read_text())
    assert found["uncertainty"] == "bootstrap, 50 simulated records"
    assert all(value > 0 for value in found["pole_deviation"])
    for tau, (low, high) in zip(found["time_constants"], found["time_constant_band"], strict=True):
        assert low < tau < (high or np.inf)
    response = found["response"]
    gain, band = np.array(response["gain"]), np.array(response["gain_band"])
    assert gain.shape == (200, 1, 2)
    assert (band[..., 0] < gain).all()
    assert (gain < band[..., 1]).all()
    assert np.array(response["excited"]).shape == (200, 2)


def test_inputs_that_never_move_are_told(run: Run, motor_csv: Path, tmp_path: Path) -> None:
    rows = np.loadtxt(motor_csv, delimiter=",", skiprows=1)
    rows[:, 0] = 5.0
    still = write_csv(tmp_path / "still.csv", rows, "volt,load,speed")
    words = ["identify", "linear", still, *COLUMNS, "--order", "1", "--method", "cva"]
    outcome = run(*words, "--out", tmp_path / "out")
    assert outcome.status == 0
    assert outcome.err.count("warning: volt is constant in the training records: nothing") == 1
    rows[:, 1] = 0.0
    write_csv(tmp_path / "still.csv", rows, "volt,load,speed")
    outcome = run(*words, "--out", tmp_path / "both")
    assert "warning: volt and load are constant in the training records" in outcome.err
    assert (tmp_path / "both" / "identification.png").exists()


def test_an_unstable_model_is_told_to_have_no_bands(run: Run, tmp_path: Path) -> None:
    x, rows = 0.01, np.random.default_rng(0).standard_normal((300, 2))
    for row in rows:
        row[1], x = x, 1.03 * x + row[0]
    path = write_csv(tmp_path / "grows.csv", rows, "u,y")
    words = ["identify", "linear", path, "--order", "1", "--method", "n4sid"]
    outcome = run(*words, "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert "no standard errors: the model is not stable (largest |pole| 1.03)" in outcome.err
    assert "--radius 0.999 keeps poles" in outcome.err
    assert "std. error" not in outcome.out


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


def test_an_output_that_never_moves_has_no_gain_to_draw(
    run: Run, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.standard_normal(300), np.ones(300)])
    still = write_csv(tmp_path / "still.csv", rows, "u,y")
    outcome = run("identify", "linear", still, "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "out" / "identification.png").exists()
    assert "Warning" not in outcome.err
    assert not recwarn.list


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
