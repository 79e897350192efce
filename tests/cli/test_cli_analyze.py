from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Run

from statewise.analysis import InUnits, blocks, gain
from statewise.data import fulda_task
from statewise.estimators import FIR, LinearSystem, SystemIdentifier


def test_a_linear_model_is_told_in_units_of_the_data(
    run: Run, linear: Path, motor_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "look"
    words = ["analyze", linear, "--data", motor_csv, "--dt", "0.1", "--out", out]
    outcome = run(*words)
    assert outcome.status == 0, outcome.err
    assert max(map(len, outcome.out.split("numbers ")[0].splitlines())) <= 80
    for word in ("time constant [s]", "gain      at most", "memory    99 %", "share [%]"):
        assert word in outcome.out
    assert sorted(path.name for path in out.iterdir()) == [
        "analysis.json",
        "blocks.png",
        "gain.png",
        "linearisation.png",
        "memory.png",
        "sensitivity.png",
    ]
    found = json.loads((out / "analysis.json").read_text())
    model = LinearSystem.load(linear / "model")
    (block,) = found["blocks"]
    assert np.allclose(block["time_constants"], model.time_constants_)
    system = InUnits(model.model_, model.normaliser_)
    assert found["gain"]["bound"] == pytest.approx(gain(system).bound)
    point = found["operating_point"]
    assert np.allclose(point["y"], model.normaliser_.y_mean)
    eigenvalues = np.array(point["eigenvalues"]["re"]) + 1j * np.array(point["eigenvalues"]["im"])
    assert np.allclose(np.sort_complex(eigenvalues), np.sort_complex(model.poles_))
    assert sum(row["share"] for row in found["sensitivity"]) == pytest.approx(1.0)
    assert {row["input"] for row in found["sensitivity"]} == {"volt", "load"}
    assert "holds a result already" in run(*words).err


def test_a_stack_is_told_block_by_block(run: Run, fitted: Path) -> None:
    found = run("analyze", fitted, "--at", "0.5", "0", "--json").json
    model = SystemIdentifier.load(fitted / "model")
    expected = blocks(InUnits(model.model_, model.normaliser_), dt=model.nominal_dt_).blocks
    assert [one["name"] for one in found["blocks"]] == [one.name for one in expected]
    for one, block in zip(found["blocks"], expected, strict=True):
        assert np.allclose(sorted(one["time_constants"]), sorted(block.time_constants))
        assert np.allclose(one["hankel"], block.hankel)
    assert found["operating_point"]["u"] == pytest.approx([0.5, 0.0])
    assert found["sensitivity"] is None
    # The default static map is a gate, of which no bound is known: the reason is told.
    assert found["gain"]["bound"] is None
    assert "gate" in found["gain"]["reasons"][0]
    assert "no finite bound is known" in run("analyze", fitted).out


def test_what_cannot_be_analyzed_is_told(run: Run, linear: Path, tmp_path: Path) -> None:
    assert "--at takes 2 numbers (volt, load); given 1" in run("analyze", linear, "--at", 1).err
    FIR(lags=5, ridge=0.1).fit(fulda_task().train).save(tmp_path / "river")
    assert (
        "holds a FIR; what fit and identify linear wrote" in run("analyze", tmp_path / "river").err
    )
    assert "there is no folder nowhere" in run("analyze", "nowhere").err
