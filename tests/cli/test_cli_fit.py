from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runs import COLUMNS, TINY, Run, motor, write_csv

from statewise.cli.baselines import Mean
from statewise.cli.folder import RunFolder
from statewise.data import Experiments, Task
from statewise.estimators import SystemIdentifier
from statewise.nn import ELU
from statewise.train import Huber


def test_a_run_writes_model_report_and_log_and_nothing_else(fitted: Path) -> None:
    assert sorted(path.name for path in fitted.iterdir()) == [
        "log.jsonl",
        "model",
        "report.html",
        "report.json",
        "run.json",
    ]
    assert sorted(path.name for path in (fitted / "model").iterdir()) == [
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]
    assert (fitted / "report.html").read_text().count("<svg") > 5
    rows = [json.loads(line) for line in (fitted / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    scores = json.loads((fitted / "model" / "metrics.json").read_text())["scores"]
    assert {item["split"] for item in scores} == {"train", "validation", "test"}
    modes = {item["mode"] for item in scores if item["split"] == "test"}
    assert modes == {"simulation", "1-step prediction"}


def test_the_model_is_the_one_that_python_trains(fitted: Path, motor_csv: Path) -> None:
    saved = SystemIdentifier.load(fitted / "model")
    task = Task.from_file(motor_csv, ["volt", "load"], "speed", dt=0.1, context=10)
    again = SystemIdentifier(saved.model, saved.training, seed=0)
    again.fit(task.train, valid=task.valid, progress=False)
    test = task.test["test"]
    assert np.array_equal(saved.simulate_experiments(test)[0], again.simulate_experiments(test)[0])


def test_json_has_every_number_and_standard_output_nothing_else(
    run: Run, tmp_path: Path, motor_csv: Path
) -> None:
    out = tmp_path / "out"
    outcome = run("fit", motor_csv, *COLUMNS, *TINY, "--out", out, "--ahead", 2, 5, "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    assert found["report"] == str(out / "report.html")
    methods = {row["method"] for row in found["scores"]}
    assert methods == {"mean", "FIR", "ARX", "deep Wiener"}
    tested = {row["mode"] for row in found["scores"] if row["split"] == "test"}
    assert tested == {"simulation", "2-step prediction", "5-step prediction"}
    assert found["headline"]["split"] == "test"
    units = {row["unit"] for row in found["scores"] if row["metric"] == "rmse"}
    assert units == {"rad/s"}
    assert "training on" in outcome.err


def test_options_reach_model_training_and_split(run: Run, tmp_path: Path, motor_csv: Path) -> None:
    out = tmp_path / "out"
    words = "--model.static ELU --model.bias True --training.loss Huber(delta=2.0) --seed 3"
    split = "--test-fraction 0.25 --valid-fraction 0.1 --window 7 --context 5"
    asked = [motor_csv, *COLUMNS, *TINY, *f"{words} {split}".split(), "--out", out]
    outcome = run("fit", *asked)
    assert outcome.status == 0, outcome.err
    model = SystemIdentifier.load(out / "model")
    assert model.seed == 3
    assert model.model is not None
    assert model.training is not None
    assert (model.model.static, model.model.bias, model.model.d_model) == (ELU(), True, 4)
    assert model.training.loss == Huber(2.0)
    assert model.valid_fraction == 0.1
    # 60 of 240 samples are the test, 5 before them are history, 7 more are the window.
    assert "samples 13–65: first 12 for the initial state" in outcome.out
    report = json.loads((out / "report.json").read_text())
    assert report["command"].startswith("statewise fit ")
    assert "'Huber(delta=2.0)'" in report["command"]
    assert report["environment"]["seed"] == 3


def test_the_table_shows_the_model_beside_the_baselines(
    run: Run, tmp_path: Path, motor_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("fit", motor_csv, *COLUMNS, *TINY)
    lines = outcome.out.splitlines()
    assert lines[0] == "test: simulation"
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert names == ["mean", "FIR", "ARX", "deep Wiener"] * 2
    assert "RMSE [rad/s]" in outcome.out
    assert max(map(len, lines)) <= 80
    # The folder is named after the data; no progress bar where there is no terminal.
    assert lines[-1] == "report  motor-out/report.html"
    assert (tmp_path / "motor-out" / "report.html").is_file()
    assert "\x1b" not in outcome.out + outcome.err
    assert "adam" not in outcome.err


def test_a_result_is_not_overwritten_by_accident(
    run: Run, tmp_path: Path, fitted: Path, motor_csv: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(fitted, out)
    before = (out / "model" / "model.safetensors").read_bytes()
    words = ["fit", motor_csv, *COLUMNS, *TINY, "--dt", "0.1", "--out", out]
    outcome = run(*words)
    assert outcome.status == 2
    assert "holds a result already; give another --out, or --force to replace it" in outcome.err
    assert "made with seed = 0, now it is 5" in run(*words, "--seed", 5, "--resume").err
    # Bad data leave the old result, even with --force.
    assert run("fit", motor_csv, "--inputs", "no", "--out", out, "--force").status == 2
    assert (out / "model" / "model.safetensors").read_bytes() == before
    (out / "mine.txt").write_text("kept")
    assert run(*words, "--seed", 5, "--force").status == 0
    assert (out / "model" / "model.safetensors").read_bytes() != before
    assert (out / "mine.txt").read_text() == "kept"


def test_resuming_a_finished_run_shows_it_again(
    run: Run, tmp_path: Path, fitted: Path, motor_csv: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(fitted, out)
    stamp = (out / "report.html").stat().st_mtime_ns
    words = ["fit", motor_csv, *COLUMNS, *TINY, "--dt", "0.1", "--out", out, "--resume"]
    outcome = run(*words)
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith("test: simulation\n")
    assert (out / "report.html").stat().st_mtime_ns == stamp


def test_records_gaps_and_uneven_time(run: Run, tmp_path: Path) -> None:
    values = motor(300)
    runs = np.repeat([1, 2, 3], 100)[:, None]
    values[40, 2] = values[7, 0] = np.nan
    path = write_csv(tmp_path / "runs.csv", np.hstack([runs, values]), "run,u1,u2,y")
    words = ["--record", "run", "--test-records", "3", *TINY, "--out", tmp_path / "a", "--json"]
    outcome = run("fit", path, *words)
    assert outcome.status == 0, outcome.err
    sizes = [(part["split"], part["record"], part["samples"]) for part in outcome.json["data"]]
    assert sizes == [
        ("train", "1", 80),
        ("train", "2", 80),
        ("valid", "1", 30),
        ("valid", "2", 30),
        ("test", "3", 100),
    ]
    time = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 300))[:, None]
    path = write_csv(tmp_path / "uneven.csv", np.hstack([time, values]), "t,u1,u2,y")
    outcome = run("fit", path, *TINY, "--out", tmp_path / "b")
    assert outcome.status == 0, outcome.err
    assert "The baseline FIR is left out: record 0 is unevenly sampled" in outcome.out


def test_a_benchmark_brings_its_split_unit_and_published_figures(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cascaded_tanks").mkdir()
    volts = np.abs(motor(200))[:, [0, 2, 1, 2]]
    file = tmp_path / "cascaded_tanks" / "cascaded_tanks.csv.gz"
    write_csv(file, volts, "uEst,yEst,uVal,yVal")
    words = ["fit", "cascaded_tanks", *TINY, "--data-folder", tmp_path]
    outcome = run(*words, "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert "RMSE [V]" in outcome.out
    assert "published RMSE [V]: ARX (Champneys 2024) 0.6850; " in outcome.out
    assert "samples 51–200: first 50 for the initial state" in outcome.out
    assert "brings its own columns and split" in run(*words, "--window", 5).err


def test_a_local_file_goes_before_a_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "fulda", motor(100)[:, [0, 2]], "u,y")
    outcome = run("fit", "fulda", *TINY, "--json")
    assert outcome.status == 0, outcome.err
    assert {row["channel"] for row in outcome.json["scores"]} == {"y"}


def test_threads_reach_the_training(
    run: Run, tmp_path: Path, motor_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def look(self: object, *args: object, **settings: object) -> None:
        seen.append(settings["threads"])
        raise ValueError("seen")

    monkeypatch.setattr(SystemIdentifier, "fit", look)
    words = ["fit", motor_csv, *COLUMNS, *TINY, "--out", tmp_path / "out"]
    for options in ([], ["--threads", 2]):
        assert run(*words, *options).status == 2
    assert seen == [None, 2]


def test_folder_states(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    settings = {"seed": 0, "inputs": ("a", "b")}
    assert folder.read() is None
    assert not folder.finished(settings, force=False, resume=True)
    folder.write("statewise fit x", settings, finished=False)
    with pytest.raises(ValueError, match="interrupted run; add --resume"):
        folder.finished(settings, force=False, resume=False)
    assert not folder.finished(settings, force=True, resume=False)
    assert not folder.finished(settings, force=False, resume=True)
    with pytest.raises(ValueError, match=r"inputs = \['a', 'b'\], now it is \['a'\]"):
        folder.finished({**settings, "inputs": ("a",)}, force=False, resume=True)
    folder.checkpoint.mkdir()
    folder.finish("statewise fit x", settings)
    assert not folder.checkpoint.exists()
    assert folder.finished(settings, force=False, resume=True)
    folder.note.write_text("{}")
    with pytest.raises(ValueError, match=r"run.json cannot be understood"):
        folder.finished(settings, force=False, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        RunFolder(tmp_path / "file")


def test_the_mean_knows_nothing_of_the_test() -> None:
    train = Experiments.from_arrays(np.zeros(4), np.array([1.0, 3.0, np.nan, 2.0]))
    test = Experiments.from_arrays(np.zeros(3), np.array([5.0, 1.0, 3.0]))
    mean = Mean(train)
    assert np.array_equal(mean.simulate_experiments(test)[0], np.full((3, 1), 2.0))
    (rmse, *_) = mean.evaluate(test, 3, split="late", scale=1000.0, unit="mV")
    assert rmse.value == pytest.approx(1000 * np.sqrt(11 / 3))
    assert (rmse.mode, rmse.split, rmse.unit) == ("3-step prediction", "late", "mV")
