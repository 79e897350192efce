"""``filter``, ``smooth`` and ``forecast``."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cli_runs import COLUMNS, TINY, Run, motor, write_csv

from statewise.cli import main
from statewise.data import Experiments, Task
from statewise.estimators import FIR, LinearSystem, SystemIdentifier

HEADER = "t [s],volt [V],load,speed [rad/s]"
LENGTH = 600
#: Enough for the intervals to be calibrated on the validation part alone.
LONG = 2000


def _noisy(rows: int = LENGTH, seed: int = 0) -> np.ndarray:
    """Columns t, volt, load, speed, with errors that have a memory."""
    rng = np.random.default_rng(seed)
    values, e = motor(rows, seed), 0.0
    for row in values:
        e = 0.8 * e + 0.05 * rng.standard_normal()
        row[2] += e + 0.02 * rng.standard_normal()
    return np.column_stack([0.1 * np.arange(rows), values])


@pytest.fixture(scope="module")
def noisy_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("noisy") / "noisy.csv", _noisy(LONG), HEADER)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, noisy_csv: Path) -> Path:
    out = tmp_path_factory.mktemp("noisy") / "deep"
    from statewise.report import page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render_html", lambda data: "")
        assert main(["fit", str(noisy_csv), *COLUMNS, *TINY, "--out", str(out), "--json"]) == 0
    return out


def _read(path: Path) -> Experiments:
    return Experiments.from_file(path, ["volt", "load"], "speed")


def _bands(text: str) -> np.ndarray:
    frame = pl.read_csv(io.StringIO(text))
    names = [f"speed {word} [rad/s]" for word in ("mean", "lower", "upper")]
    assert frame.columns[-3:] == names
    return frame.select(names).to_numpy()


def _with(path: Path, values: np.ndarray) -> Path:
    """A CSV in which what is missing is empty."""
    lines = [",".join("" if np.isnan(x) else f"{x:.8g}" for x in row) for row in values]
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def test_filter_is_that_of_python(run: Run, tmp_path: Path, deep: Path, noisy_csv: Path) -> None:
    outcome = run("filter", deep, noisy_csv)
    assert outcome.status == 0, outcome.err
    found = _bands(outcome.out)
    assert outcome.out.startswith("time [s],speed [rad/s],speed mean [rad/s],")
    model = SystemIdentifier.load(deep / "model")
    (expected,) = model.filter(_read(noisy_csv))
    ends = np.column_stack([expected.mean, expected.lower, expected.upper])
    np.testing.assert_array_equal(found, ends)
    assert "90 % bands one step ahead" in outcome.err
    out, plot = tmp_path / "f.csv", tmp_path / "f.png"
    words = ["--window", 20, "--interval", 0.8, "--adapt", 0.05, "--out", out, "--plot", plot]
    outcome = run("filter", deep, noisy_csv, *words)
    assert "80 % bands one step ahead" in outcome.out
    assert "held out" not in outcome.out
    assert plot.read_bytes()[:4] == b"\x89PNG"
    found = run("filter", deep, noisy_csv, *words, "--json").json
    assert (found["out"], found["plot"], found["interval"]) == (str(out), str(plot), 0.8)
    (row,) = found["rows"]
    record = _read(noisy_csv)[0]
    (adapted,) = model.filter(
        _read(noisy_csv).map(lambda r: r.with_fields(skip=20)), interval=0.8, adapt=0.05
    )
    y = record.y[20:]
    inside = (y >= adapted.lower[20:]) & (y <= adapted.upper[20:])
    assert row["inside"] == pytest.approx(inside.mean())
    assert row["measured"] == LONG - 20
    assert found["judged_on"] == "validation"
    assert {r["horizon"] for r in found["validation"]["ahead"]} >= {1, 2, 4}


def test_shares_are_shown_beside_those_held_out(
    run: Run, tmp_path: Path, deep: Path, noisy_csv: Path
) -> None:
    words = ["filter", deep, noisy_csv, "--out", tmp_path / "f.csv"]
    table = run(*words).out
    noise = SystemIdentifier.load(deep / "model").noise_
    assert noise is not None
    assert f"{100 * noise.coverage[0].after:.1f}" in table
    assert "held out: the share on validation data" in table
    (row,) = run(*words, "--json").json["rows"]
    assert f"{100 * row['inside']:.1f}" in table
    assert row["held_out"] == noise.coverage[0].after
    model = SystemIdentifier.load(deep / "model")
    model.noise_ = dataclasses.replace(noise, judged_on="validation and left-out training")
    model.save(tmp_path / "crossed")
    told = run("filter", tmp_path / "crossed", noisy_csv, "--out", tmp_path / "c.csv").out
    told = " ".join(told.split())
    assert "on validation and left-out training data, each half judged by" in told
    assert "for want of" not in told


def test_smooth_fills_gaps(run: Run, tmp_path: Path, deep: Path) -> None:
    values = _noisy()
    values[100:115, 3] = values[300, 3] = np.nan
    gappy = _with(tmp_path / "gappy.csv", values)
    out, plot = tmp_path / "s.csv", tmp_path / "s.svg"
    outcome = run("smooth", deep, gappy, "--out", out, "--plot", plot)
    assert outcome.status == 0, outcome.err
    assert "gaps filled, 90 % bands" in outcome.out
    assert "<svg" in plot.read_text(encoding="utf-8")
    found = _bands(out.read_text(encoding="utf-8"))
    (expected,) = SystemIdentifier.load(deep / "model").smooth(_read(gappy))
    np.testing.assert_array_equal(
        found, np.column_stack([expected.mean, expected.lower, expected.upper])
    )
    truth, width = _noisy()[100:115, 3], found[:, 2] - found[:, 1]
    assert np.mean((truth >= found[100:115, 1]) & (truth <= found[100:115, 2])) > 0.6
    (row,) = run("smooth", deep, gappy, "--out", out, "--json").json["rows"]
    assert (row["measured"], row["missing"], row["longest_gap"]) == (LENGTH - 16, 16, 15)
    gaps = np.isnan(values[:, 3])
    assert row["width"] == pytest.approx(np.median(width[gaps]))
    whole = _with(tmp_path / "whole.csv", _noisy())
    assert "there are no gaps to fill" in run("smooth", deep, whole, "--out", out).out


def test_forecast_from_rows_and_from_a_file_agree(run: Run, tmp_path: Path, deep: Path) -> None:
    values = _noisy()
    tail = values.copy()
    tail[590:, 3] = np.nan
    whole = _with(tmp_path / "whole.csv", tail)
    past = _with(tmp_path / "past.csv", values[:590])
    future = write_csv(tmp_path / "future.csv", values[590:, :3], "t [s],volt,load")
    one = run("forecast", deep, whole)
    assert one.status == 0, one.err
    other = run("forecast", deep, past, "--future", future)
    assert other.status == 0, other.err
    assert one.out == other.out
    found = _bands(one.out)
    assert len(found) == 10
    assert pl.read_csv(io.StringIO(one.out))["time [s]"][0] == pytest.approx(59.0)
    model, record = SystemIdentifier.load(deep / "model"), _read(past)[0]
    u = values[590:, 1:3]
    expected = model.forecast(record.u, record.y, u, interval=0.9)
    ends = np.column_stack([expected.mean, expected.lower, expected.upper])
    np.testing.assert_allclose(found, ends, rtol=1e-5, atol=1e-6)
    short = run("forecast", deep, past, "--future", future, "--horizon", 3).out
    assert short == "\n".join(one.out.splitlines()[:4]) + "\n"
    plain = write_csv(tmp_path / "plain.csv", values[590:, 1:3], "volt,load")
    assert run("forecast", deep, past, "--future", plain).out == one.out


def test_forecast_looks_back(run: Run, tmp_path: Path, deep: Path, noisy_csv: Path) -> None:
    out, plot = tmp_path / "f.parquet", tmp_path / "f.pdf"
    words = ["forecast", deep, noisy_csv, "--after", 500, "--horizon", 20, "--out", out]
    outcome = run(*words, "--plot", plot)
    assert outcome.status == 0, outcome.err
    assert plot.read_bytes()[:4] == b"%PDF"
    assert "measured" in outcome.out
    frame = pl.read_parquet(out)
    assert len(frame) == 20
    assert np.allclose(frame["speed [rad/s]"], _noisy()[500:520, 3], atol=1e-6)
    rows = run(*words, "--json").json["rows"]
    assert [row["ahead"] for row in rows] == [1, 2, 4, 8, 16, 20]
    assert [row["time"] for row in rows[:2]] == pytest.approx([50.0, 50.1])
    assert rows[-1]["upper"] == pytest.approx(frame["speed upper [rad/s]"][-1])
    noise = SystemIdentifier.load(deep / "model").noise_
    assert noise is not None
    shares = {row.horizon: row.after for row in noise.coverage}
    assert [row["held_out"] for row in rows] == [
        shares[max(h for h in shares if h <= row["ahead"])] for row in rows
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["past.csv"],
            "has inputs for 0 samples behind the last measured output: add rows with inputs and "
            "empty outputs to it, give the inputs with --future FILE, or look back with --after N",
        ),
        (["past.csv", "--horizon", "4"], "measured output, --horizon asks for 4: add rows"),
        (["past.csv", "--future", "future.csv", "--horizon", "11"], "for 10 samples behind"),
        (["past.csv", "--future", "late.csv"], "begins at 59.5, "),
        (["past.csv", "--future", "nowhere.csv"], "there is no file nowhere.csv"),
        (["past.csv", "--future", "fulda"], "--future fulda is no file"),
        (["past.csv", "--horizon", "0"], "--horizon is a number of samples, 1 or more; given 0"),
        (["past.csv", "--after", "9999"], "--after 9999: "),
        (["blank.csv"], "has no inputs in sample 593; a forecast needs the inputs"),
        (["past.csv", "--interval", "90"], "--interval is a probability between 0 and 1"),
        (["past.csv", "--plot", "x.jpg"], "--plot x.jpg must end in one of .png, .svg, .pdf"),
        (["past.csv", "--out", "x.xls"], "--out x.xls must end in one of"),
    ],
)
def test_what_cannot_be_forecast_is_said(
    run: Run,
    tmp_path: Path,
    deep: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    values = _noisy()
    _with(tmp_path / "past.csv", values[:590])
    write_csv(tmp_path / "future.csv", values[590:, :3], "t [s],volt,load")
    write_csv(tmp_path / "late.csv", values[595:, :3], "t [s],volt,load")
    blank = values.copy()
    blank[590:, 3] = blank[592, 1:3] = np.nan
    _with(tmp_path / "blank.csv", blank)
    outcome = run("forecast", deep, *words)
    assert outcome.status == 2
    assert said in outcome.err
    assert outcome.out == ""


def test_several_records_are_forecast_each(run: Run, tmp_path: Path) -> None:
    values = _noisy(1200)[:, [1, 3]]
    table = np.column_stack([np.repeat([1, 2], 600), values])
    path = write_csv(tmp_path / "runs.csv", table, "run,u,y")
    records = Experiments.from_file(path, record="run")
    model = LinearSystem(2, "cva").fit(records)
    model.fit_noise(records)
    model.save(tmp_path / "linear")
    words = ["--record", "run", "--after", "500", "--horizon", "5"]
    outcome = run("forecast", tmp_path / "linear", path, *words)
    assert outcome.status == 0, outcome.err
    frame = pl.read_csv(io.StringIO(outcome.out))
    assert frame.columns == ["record", "sample", "y", "y mean", "y lower", "y upper"]
    assert frame["record"].to_list() == [1] * 5 + [2] * 5
    assert frame["sample"].to_list() == [*range(500, 505)] * 2
    assert "1: forecast, 90 % bands" in outcome.err
    assert "2: forecast, 90 % bands" in outcome.err
    assert "for want of enough validation data" in outcome.err
    future = write_csv(tmp_path / "future.csv", np.zeros((3, 1)), "u")
    outcome = run("forecast", tmp_path / "linear", path, "--record", "run", "--future", future)
    assert "--future goes with one record" in outcome.err or "no column 'run'" in outcome.err


def test_a_linear_model_from_the_command_line_has_bands(
    run: Run, linear: Path, motor_csv: Path
) -> None:
    outcome = run("filter", linear, motor_csv, "--dt", "0.1")
    assert outcome.status == 0, outcome.err
    assert len(_bands(outcome.out)) == 240


@pytest.mark.parametrize("command", ["filter", "smooth", "forecast"])
def test_models_without_bands_say_what_to_do(
    run: Run, tmp_path: Path, deep: Path, noisy_csv: Path, command: str
) -> None:
    old = tmp_path / "old"
    shutil.copytree(deep, old)
    config = json.loads((old / "model" / "config.json").read_text(encoding="utf-8"))
    config["fitted"]["noise"] = None
    (old / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    outcome = run(command, old, noisy_csv)
    assert outcome.status == 2
    assert f"{old} has no noise levels, which bands need: fit the model again" in outcome.err
    assert "model.fit_noise(train, valid)" in outcome.err
    FIR(lags=3, ridge=0.1).fit(_read(noisy_csv)).save(tmp_path / "fir")
    outcome = run(command, tmp_path / "fir", noisy_csv)
    assert outcome.status == 2
    assert "holds a FIR, which gives no bands" in outcome.err


def test_noise_folds_calibrate_as_python_does(run: Run, tmp_path: Path, motor_csv: Path) -> None:
    out = tmp_path / "out"
    outcome = run("fit", motor_csv, *COLUMNS, *TINY, "--noise-folds", 2, "--out", out)
    assert outcome.status == 0, outcome.err
    assert "calibrating the bands with 2 more trainings" in outcome.err
    model = SystemIdentifier.load(out / "model")
    task = Task.from_file(motor_csv, COLUMNS[1:3], "speed", dt=0.1, context=10)
    again = SystemIdentifier.load(out / "model").fit_noise(task.train, task.valid, folds=2)
    assert model.noise_ == again.noise_
    assert model.noise_ is not None
    assert model.noise_.judged_on == "validation and left-out training"
    refused = run("fit", motor_csv, *COLUMNS, *TINY, "--noise-folds", 3, "--out", out)
    assert refused.status == 2
    assert "noise_folds" in refused.err


@pytest.mark.parametrize(
    ("folds", "said"), [(1, "--noise-folds is 2 or more; given 1"), (999, "given 999")]
)
def test_noise_folds_that_cannot_be_cut_are_refused(
    run: Run, tmp_path: Path, motor_csv: Path, folds: int, said: str
) -> None:
    out = tmp_path / "out"
    outcome = run("fit", motor_csv, *COLUMNS, *TINY, "--noise-folds", folds, "--out", out)
    assert outcome.status == 2
    assert said in outcome.err
    assert not out.exists()
