"""What a newcomer gets wrong, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import COLUMNS, TINY, Run, write_csv

from statewise.cli import app


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ft"], "there is no command 'ft'; did you mean 'fit'?"),
        (["xyzzy"], "there is no command 'xyzzy' (commands: fit, identify linear"),
        (["data"], "'data' needs a second word: statewise data describe"),
        (["--seed", "1"], "the command comes first, then its options; given '--seed'"),
        (["fit"], "DATA is missing"),
        (["fit", "fulda", "--sede", "1"], "there is no option --sede; did you mean --seed?"),
        (["fit", "fulda", "--d-state=4"], "--d-state; did you mean --model.d-state?"),
        (["fit", "fulda", "--zzz"], "there is no option --zzz (see statewise fit --help)"),
        (["fit", "fulda", "more"], "unexpected argument 'more'"),
        (["fit", "fulda", "--seed"], "--seed needs a value"),
        (["fit", "fulda", "--seed", "one"], "--seed takes a whole number; given 'one'"),
        (["fit", "fulda", "--seed", "-1"], "--seed is 0 or more; given -1"),
        (["fit", "fulda", "--threads", "0"], "--threads is 1 or more; given 0"),
        (["fit", "fulda", "--training.lr", "fast"], "--training.lr takes a number; given 'fast'"),
        (["fit", "fulda", "--training.steps", "-5"], "--training: FitConfig needs steps >= 0"),
        (["fit", "fulda", "--model.d-state", "0"], "--model: DeepWiener needs d_state >= 1"),
        (["fit", "fulda", "--model.static", "Foo"], "--model.static: 'Foo' is none of ELU, GELU"),
        (["fit", "fulda", "--ahead", "0"], "--ahead takes numbers of steps, 1 or more; given 0"),
        (["fit", "fulda", "--device", "abacus"], "abacus"),
        (["fit", "fulda", "--recipe", "rivr"], "no recipe 'rivr'"),
        (["fit", "fulda", "--recipe=rivr"], "did you mean 'river'?"),
        (["fit", "fulda", "--window", "3"], "--window is for data files; fulda brings its own"),
        (["fit", "fulda", "--dt", "3"], "--dt is for data files"),
        (["fit", "fuldda"], "neither a file nor the name of a benchmark; did you mean fulda?"),
        (["fit", "qqqqq"], "names are fulda"),
        (["fit", "silverbox"], "STATEWISE_DATA"),
        (["fit", "nothing.csv"], "there is no file nothing.csv"),
        (["fit", "."], ". is a folder; expected a data file"),
        (["fit", "fulda", "--resume", "--force"], "give one of them"),
        (["simulate", "nowhere", "fulda"], "there is no folder nowhere"),
        (["simulate", "a", "b", "--out", "x.xls"], "must end in one of .csv, .parquet, .npz"),
        (["simulate", "a"], "is missing"),
        (["predict", "a", "fulda", "--steps", "0"], "--steps is a number of samples, 1 or more"),
        (["evaluate", "a", "fulda", "--mode", "0"], "--mode is simulation or a number of steps"),
        (["evaluate", "a", "fulda", "--mode", "x"], "given 'x'"),
        (["report", "nowhere"], "there is no folder nowhere"),
        (["data", "describe", "nothing.csv"], "there is no file nothing.csv"),
        (["data", "describe", "silverbox"], "is the name of a benchmark; expected a data file"),
        (["demo", "--seed", "-1"], "--seed is 0 or more"),
        (["demo", "--steps", "-1"], "steps >= 0"),
        (["doctor", "--wram"], "did you mean --warm?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_give_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(*words)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "has no column named as an output"),
        ([], "give --inputs and --outputs"),
        (["--outputs", "speed"], "give --inputs from its columns: volt, load"),
        (["--inputs", "vlt", "--outputs", "speed"], "no column 'vlt'"),
        (["--inputs", "vlt", "--outputs", "speed"], "did you mean 'volt'?"),
        (["--inputs", "--outputs", "speed"], "has no inputs; name at least one with --inputs"),
        (["--inputs", "volt", "--outputs", "volt"], "chosen more than once"),
        ([*COLUMNS, "--time", "when"], "no column 'when'"),
        ([*COLUMNS, "--time", "volt", "--dt", "1"], "--time and --dt are both given"),
        ([*COLUMNS, "--dt", "-1"], "dt is -1"),
        ([*COLUMNS, "--test-fraction", "1.5"], "--test-fraction must be in (0, 1), got 1.5"),
        ([*COLUMNS, "--valid-fraction", "-1"], "--valid-fraction must be in [0, 1), got -1"),
        ([*COLUMNS, "--window", "-1"], "window must be a whole number of samples, 0 or more"),
        ([*COLUMNS, "--window", "100000"], "none is left to score"),
        ([*COLUMNS, "--test-records", "b"], "--test-records names 'b'"),
        ([*COLUMNS, "--test-records", "0"], "is left to train on"),
    ],
)
def test_wrong_columns_and_splits(
    run: Run, tmp_path: Path, motor_csv: Path, words: list[str], said: str
) -> None:
    outcome = run("fit", motor_csv, *words, *TINY, "--out", tmp_path / "out")
    assert outcome.status == 2
    assert said in outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unreadable_files(run: Run, tmp_path: Path) -> None:
    contents = {
        "empty.csv": b"",
        "text.csv": b"u,y\n1,2\n3,four\n5,6\n",
        "binary.csv": bytes(range(256)) * 20,
        "broken.npz": b"PK\x03\x04nonsense",
        "broken.parquet": b"PAR1nonsense",
        "short.csv": b"u,y\n1,2\n3,4\n5,6\n",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        outcome = run("fit", path, *TINY, "--out", tmp_path / "out")
        assert outcome.status == 2, name
        assert name in outcome.err
        assert "Traceback" not in outcome.err
        assert outcome.err.count("\n") == 1
    assert "'four' at line 3" in run("fit", tmp_path / "text.csv").err


def test_misspelt_file_names_the_near_one(run: Run, tmp_path: Path) -> None:
    write_csv(tmp_path / "motor.csv", np.ones((3, 2)), "u,y")
    assert "did you mean" in run("fit", tmp_path / "moter.csv").err
    assert "motor.csv?" in run("fit", tmp_path / "moter.csv").err


def test_errors_are_json_as_well_when_asked(run: Run) -> None:
    outcome = run("fit", "nothing.csv", "--json")
    assert outcome.status == 2
    assert outcome.json == {"error": "there is no file nothing.csv", "status": 2}
    assert outcome.err == "error: there is no file nothing.csv\n"


def test_faults_of_the_program_are_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: object) -> None:
        raise KeyError("here")

    monkeypatch.setattr(app, "_dispatch", broken)
    outcome = run("fit")
    assert outcome.status == 1
    assert outcome.err.startswith("error: KeyError: 'here' (a fault of statewise; set STATEWISE_")
    assert "Traceback" not in outcome.err
    monkeypatch.setenv("STATEWISE_DEBUG", "1")
    assert "Traceback" in run("fit").err


def test_interrupt_without_a_run_is_one_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_dispatch", stop)
    outcome = run("fit", "--json")
    assert outcome.status == 130
    assert outcome.err == "stopped\n"
    assert outcome.json == {"error": "stopped", "status": 130}


def test_a_closed_pipe_is_quiet() -> None:
    code = (
        "import sys\n"
        "from statewise.cli import main\n"
        "import statewise.cli.app as app\n"
        "app._help = lambda: 'line\\n' * 100000\n"
        "sys.exit(main(['--help']))\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert run.returncode == 141
    assert run.stderr == b""
