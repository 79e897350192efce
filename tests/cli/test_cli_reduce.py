from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Run

from statewise.data import Experiments
from statewise.estimators import FIR, LinearSystem, SystemIdentifier


def test_a_linear_model_is_reduced_on_its_own_data(run: Run, linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    outcome = run("reduce", linear, "--to", "1", "--out", out)
    assert outcome.status == 0, outcome.err
    assert "free run before" in outcome.out
    assert sorted(path.name for path in out.iterdir()) == [
        "model",
        "reduction.json",
        "reduction.png",
        "run.json",
    ]
    found = json.loads((out / "reduction.json").read_text())
    (block,) = found["blocks"]
    assert block["order_after"] == 1
    assert block["error"] <= block["bound"] * (1 + 1e-6)
    assert {one["split"] for one in found["scores_after"]} == {"validation", "test"}
    assert len(LinearSystem.load(out / "model").poles_) == 1
    again = run("reduce", out, "--to", "1", "--out", tmp_path / "same", "--json").json
    assert again["removed"] == 0


def test_a_stack_is_reduced_on_given_data(
    run: Run, fitted: Path, motor_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    words = ["reduce", fitted, "--data", motor_csv, "--dt", "0.1", "--out", out, "--json"]
    found = run(*words, "--to", "0.5", "--method", "modal-truncation").json
    (block,) = found["blocks"]
    assert block["order_after"] <= block["order_before"] / 2
    small = SystemIdentifier.load(out / "model")
    before = SystemIdentifier.load(fitted / "model")
    assert small.model_.n_parameters == found["parameters_after"] < found["parameters_before"]
    assert before.model_.n_parameters == found["parameters_before"]
    # The fit that is told is that of the saved model, in the units of the data.
    records = Experiments.from_file(motor_csv, ["volt", "load"], "speed", dt=0.1)
    records = records.map(lambda record: record.with_fields(skip=60))
    (expected,) = small.evaluate(records, metrics=("rmse",), split="data")
    told = next(one for one in found["scores_after"] if one["metric"] == "rmse")
    assert told["value"] == pytest.approx(expected.value)
    assert told["mode"] == "simulation"


def test_the_loss_of_fit_is_kept(run: Run, fitted: Path, tmp_path: Path) -> None:
    found = run("reduce", fitted, "--tolerance", "2", "--out", tmp_path / "out", "--json").json
    fits = [
        next(one["value"] for one in found[key] if one["metric"] == "fit")
        for key in ("scores_before", "scores_after")
    ]
    assert fits[0] - fits[1] <= 2 + 1e-6
    assert run("report", tmp_path / "out", "--out", tmp_path / "page.html").status == 0


def test_models_stand_side_by_side(
    run: Run, fitted: Path, linear: Path, motor_csv: Path, tmp_path: Path
) -> None:
    records = Experiments.from_file(motor_csv, ["volt", "load"], "speed", dt=0.1)
    fir = tmp_path / "fir"
    FIR(lags=5, ridge=0.1).fit(records).save(fir)
    out = tmp_path / "side"
    words = ["compare", fitted, linear, fir, "--data", motor_csv, "--dt", "0.1"]
    outcome = run(*words, "--out", out)
    assert outcome.status == 0, outcome.err
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "comparison.png"]
    assert "1 step" in outcome.out
    rows = json.loads((out / "comparison.json").read_text())["models"]
    assert [row["kind"] for row in rows] == ["SystemIdentifier", "LinearSystem", "FIR"]
    assert [row["model"] for row in rows] == [str(fitted), str(linear), str(fir)]
    model = LinearSystem.load(linear / "model")
    assert (rows[1]["states"], rows[1]["parameters"]) == (len(model.poles_), model.n_parameters)
    assert (rows[2]["states"], rows[2]["parameters"]) == (2 * 4, 2 * 5 + 1)
    network = SystemIdentifier.load(fitted / "model").model_
    assert rows[0]["parameters"] == network.n_parameters
    assert all(row["seconds"] > 0 for row in rows)
    expected = model.evaluate(records.map(lambda r: r.with_fields(skip=60)), metrics=("fit",))
    told = next(one["value"] for one in rows[1]["scores"] if one["metric"] == "fit")
    assert told == pytest.approx(expected[0].value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one of --to and --tolerance is needed, and not both"),
        (["--to", "2", "--tolerance", "1"], "and not both"),
        (["--to", "few"], "--to takes numbers of states or fractions; given 'few'"),
        (["--to", "0"], "an order is at least 1; given 0"),
        (["--to", "1.5"], "a fraction of the states is in (0, 1]; given 1.5"),
        (["--tolerance", "-1"], "--tolerance is 0 or more points of FIT; given -1.0"),
        (["--to", "2", "--method", "magic"], "invalid choice"),
    ],
)
def test_what_cannot_be_reduced(
    run: Run, linear: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    outcome = run("reduce", linear, *words, "--out", tmp_path / "out")
    assert outcome.status == 2
    assert said in outcome.err
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_go_together(
    run: Run, linear: Path, motor_csv: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    other = tmp_path / "other"
    FIR(lags=3, ridge=0.1).fit(rng.standard_normal(50), rng.standard_normal(50)).save(other)
    words = ["compare", linear, other, "--data", motor_csv, "--dt", "0.1"]
    assert "the same outputs are needed" in run(*words).err
    assert "name the models to compare" in run("compare", "--data", motor_csv).err
    assert "a SystemIdentifier or a LinearSystem can be reduced; given FIR" in run(
        "reduce", other, "--to", "1", "--data", motor_csv, "--inputs", "volt", "--outputs", "speed",
        "--out", tmp_path / "out",
    ).err  # fmt: skip
    assert (
        "does not say which data it was made of; give --data"
        in run("reduce", other, "--to", "1", "--out", tmp_path / "out").err
    )
