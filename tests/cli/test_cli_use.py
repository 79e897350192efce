from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cli_runs import Run, motor, write_csv

from statewise.data import Experiments, fulda_task
from statewise.estimators import FIR, SystemIdentifier


def _records(path: Path) -> Experiments:
    return Experiments.from_file(path, ["volt", "load"], "speed", dt=0.1)


def test_simulate_writes_csv_on_standard_output(run: Run, fitted: Path, motor_csv: Path) -> None:
    outcome = run("simulate", fitted, motor_csv, "--dt", "0.1")
    assert outcome.status == 0, outcome.err
    frame = pl.read_csv(io.StringIO(outcome.out))
    assert frame.columns == ["time [s]", "speed [rad/s]", "speed simulated [rad/s]"]
    records = _records(motor_csv)
    expected = SystemIdentifier.load(fitted / "model").simulate(records[0].u)
    assert np.array_equal(frame["speed simulated [rad/s]"].to_numpy(), expected[:, 0])
    assert np.array_equal(frame["speed [rad/s]"].to_numpy(), records[0].y[:, 0])
    assert np.allclose(frame["time [s]"].to_numpy(), 0.1 * np.arange(240))


def test_simulate_needs_no_measured_outputs(
    run: Run, tmp_path: Path, fitted: Path, motor_csv: Path
) -> None:
    inputs = write_csv(tmp_path / "inputs.csv", motor(240)[:, :2], "volt,load")
    alone = run("simulate", fitted / "model", inputs, "--dt", "0.1")
    beside = run("simulate", fitted, motor_csv, "--dt", "0.1")
    assert alone.out.splitlines()[0] == "time [s],speed simulated [rad/s]"
    assert [line.split(",")[-1] for line in alone.out.splitlines()] == [
        line.split(",")[-1] for line in beside.out.splitlines()
    ]


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
def test_simulate_writes_files_that_are_read_back(
    run: Run, tmp_path: Path, fitted: Path, motor_csv: Path, ending: str
) -> None:
    out = tmp_path / f"simulated{ending}"
    words = ["simulate", fitted, motor_csv, "--dt", "0.1", "--out", out]
    assert run(*words).out == ""
    found = run(*words, "--json").json
    assert found["out"] == str(out)
    assert found["samples"] == 240
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    measured, simulated = "speed [rad/s]", "speed simulated [rad/s]"
    if ending == ".npz":
        arrays = dict(np.load(out))
        assert list(arrays) == ["time [s]", measured, simulated]
        values = arrays[simulated]
    else:
        again = Experiments.from_file(out, outputs=["speed simulated"], inputs=["speed"])
        assert (again.dt, again.time_unit) == (pytest.approx(0.1), "s")
        assert again.output_units == ("rad/s",)
        values = again[0].y[:, 0]
    model = SystemIdentifier.load(fitted / "model")
    assert np.array_equal(values, model.simulate(_records(motor_csv)[0].u)[:, 0])


def test_columns_of_another_name(run: Run, tmp_path: Path, fitted: Path, motor_csv: Path) -> None:
    other = write_csv(tmp_path / "other.csv", motor(240), "a,b,c")
    words = ["--inputs", "a", "b", "--outputs", "c", "--dt", "0.1"]
    renamed = run("evaluate", fitted, other, *words, "--json").json["scores"]
    plain = run("evaluate", fitted, motor_csv, "--dt", "0.1", "--json").json["scores"]
    assert [item["value"] for item in renamed] == [item["value"] for item in plain]
    outcome = run("evaluate", fitted, other, "--inputs", "a", "--outputs", "c")
    assert outcome.status == 2
    assert "gives 1 inputs (a); the model has 2 (volt, load)" in outcome.err
    assert "no column 'volt'" in run("simulate", fitted, other).err


def test_predict_is_that_of_python(run: Run, fitted: Path, motor_csv: Path) -> None:
    outcome = run("predict", fitted, motor_csv, "--dt", "0.1", "--steps", "3", "--json")
    values = outcome.json["values"]
    assert list(values)[-1] == "speed predicted 3 steps ahead [rad/s]"
    record = _records(motor_csv)[0]
    expected = SystemIdentifier.load(fitted / "model").predict(record.u, record.y, steps=3)
    assert values["speed predicted 3 steps ahead [rad/s]"] == expected[:, 0].tolist()


def test_predict_needs_measured_outputs(run: Run, tmp_path: Path, fitted: Path) -> None:
    inputs = write_csv(tmp_path / "inputs.csv", motor(50)[:, :2], "volt,load")
    assert "no column 'speed'" in run("predict", fitted, inputs).err


def test_evaluate_scores_in_both_modes(run: Run, fitted: Path, motor_csv: Path) -> None:
    words = ["evaluate", fitted, motor_csv, "--dt", "0.1"]
    model, records = SystemIdentifier.load(fitted / "model"), _records(motor_csv)
    for option, mode in (("simulation", "simulation"), ("4", 4)):
        found = run(*words, "--mode", option, "--json").json["scores"]
        expected = model.evaluate(records, mode, split="data")
        assert found == [item.to_dict() for item in expected]
    table = run(*words, "--window", "20").out
    assert table.startswith("data: simulation\n")
    assert "samples 21–240: first 20 for the initial state" in table
    assert "--window is a number of samples" in run(*words, "--window", "-3").err


def test_a_named_task_is_scored_on_its_test(run: Run, tmp_path: Path) -> None:
    FIR(lags=5, ridge=0.1).fit(fulda_task().train).save(tmp_path / "river")
    found = run("evaluate", tmp_path / "river", "fulda", "--json").json["scores"]
    assert {(item["split"], item["window"]) for item in found} == {
        ("test", "samples 366–1461: first 365 for the initial state")
    }
    simulated = run("simulate", tmp_path / "river", "fulda").out.splitlines()
    assert simulated[0] == "time,Q [m³/s],Q simulated [m³/s]"
    assert simulated[1].startswith("1985-01-01,")
    assert len(simulated) == 1462
    assert "has no report" in run("report", tmp_path / "river").err


def test_several_records_have_a_column_of_names(run: Run, tmp_path: Path) -> None:
    values = np.hstack([np.repeat([1, 2], 30)[:, None], motor(60)[:, [0, 2]]])
    path = write_csv(tmp_path / "runs.csv", values, "run,u,y")
    records = Experiments.from_file(path, record="run")
    FIR(lags=3, ridge=0.1).fit(records).save(tmp_path / "fir")
    outcome = run("simulate", tmp_path / "fir", path, "--record", "run")
    frame = pl.read_csv(io.StringIO(outcome.out))
    assert frame.columns == ["record", "sample", "y", "y simulated"]
    assert frame["record"].to_list() == [1] * 30 + [2] * 30
    assert frame["sample"].to_list() == [*range(30), *range(30)]
    out = tmp_path / "out.npz"
    assert run("simulate", tmp_path / "fir", path, "--record", "run", "--out", out).status == 0
    assert np.load(out)["record"].tolist() == ["1"] * 30 + ["2"] * 30


def test_report_is_written_again_from_the_folder_alone(
    run: Run, tmp_path: Path, fitted: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(fitted, out)
    first = json.loads((out / "report.json").read_text())
    (out / "report.html").unlink()
    (out / "report.json").unlink()
    outcome = run("report", out)
    assert outcome.status == 0, outcome.err
    assert f"report  {out / 'report.html'}" in outcome.out
    again = json.loads((out / "report.json").read_text())
    for key in ("scores", "command", "data", "history", "model"):
        assert again[key] == first[key]
    outcome = run("report", out / "model", "--out", tmp_path / "page.html", "--ahead", 2, "--json")
    assert outcome.json["report"] == str(tmp_path / "page.html")
    modes = {row["mode"] for row in json.loads((tmp_path / "page.json").read_text())["scores"]}
    assert "2-step prediction" in modes


def test_report_of_a_bare_model_needs_data(
    run: Run, tmp_path: Path, fitted: Path, motor_csv: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(fitted / "model", bare)
    outcome = run("report", bare)
    assert outcome.status == 2
    assert "does not say which data it was made of; give DATA as well" in outcome.err
    assert run("report", bare, motor_csv, "--dt", "0.1").status == 0
    assert (bare / "report.html").is_file()
    note = json.loads((fitted / "run.json").read_text())
    note["settings"]["file"] = "/nowhere/motor.csv"
    moved = tmp_path / "moved"
    shutil.copytree(fitted, moved)
    (moved / "run.json").write_text(json.dumps(note))
    assert "the data of the fit, /nowhere/motor.csv, are gone" in run("report", moved).err


def test_what_is_no_model_is_refused(run: Run, tmp_path: Path, motor_csv: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no model" in run("simulate", tmp_path / "empty", motor_csv).err
    assert "is a file; expected the folder" in run("simulate", motor_csv, motor_csv).err
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"kind": "Transformer"}')
    assert "holds a 'Transformer'; expected one of" in run("simulate", other, motor_csv).err
    (other / "config.json").write_text("[]")
    assert "is not the config of a model" in run("simulate", other, motor_csv).err
    (tmp_path / "empty" / "run.json").write_text("{}")
    assert "fit --resume" in run("simulate", tmp_path / "empty", motor_csv).err


def test_steps_are_counted_in_the_interval_of_the_training(
    run: Run, tmp_path: Path, fitted: Path
) -> None:
    values = np.column_stack([np.arange(50) / 300, motor(50)])
    seconds = write_csv(tmp_path / "seconds.csv", values, "t [min],volt,load,speed")
    outcome = run("simulate", fitted, seconds, "--json")
    assert "sampled every 0.003333 min, the model was trained at 0.1 s" in outcome.err
    found = np.array(outcome.json["values"]["speed simulated [rad/s]"])
    model = SystemIdentifier.load(fitted / "model")
    u, y = values[:, 1:3], values[:, 3]
    expected, unheeded = (
        model.simulate_experiments(Experiments.from_arrays(u, y, dt=dt, time_unit="s"))[0]
        for dt in (0.2, 0.1)
    )
    assert np.allclose(found, expected[:, 0], atol=1e-5)
    assert not np.allclose(found, unheeded[:, 0], atol=1e-2)


def test_names_with_brackets_are_shown_whole(run: Run, tmp_path: Path) -> None:
    u = motor(60)
    records = Experiments.from_arrays(
        u[:, 0], u[:, 1:], output_names=["[bold]a", "b[red]"], output_units=["[m]", "[s]"]
    )
    records.to_npz(tmp_path / "data.npz")
    FIR(lags=3, ridge=0.1).fit(records).save(tmp_path / "fir")
    table = run("evaluate", tmp_path / "fir", tmp_path / "data.npz").out
    assert "[bold]a" in table
    assert "b[red]" in table
    assert "[m]" in table
