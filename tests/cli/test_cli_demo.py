from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Run

from statewise.data import Experiments, load_fulda
from statewise.estimators import recipes
from statewise.models import DeepWienerConfig


@pytest.fixture(autouse=True)
def small_river(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of the demo with a network that trains in a second."""
    river = recipes.RECIPES["river"]
    training = dataclasses.replace(
        river.training, window=200, washout=50, batch_size=2, eval_every=2
    )
    small = dataclasses.replace(
        river, model=DeepWienerConfig(n_layers=1, d_model=2, d_state=2), training=training
    )
    monkeypatch.setitem(recipes.RECIPES, "river", small)


def test_demo_goes_the_whole_way_twice(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "demo out"
    outcome = run("demo", "--out", out, "--steps", "2")
    assert outcome.status == 0, outcome.err
    assert "test: simulation" in outcome.out
    assert "samples 366–1461: first 365 for the initial state" in outcome.out
    assert f"report  {out / 'report.html'}" in outcome.out
    assert f"statewise data describe '{out / 'fulda.csv'}'" in outcome.out
    record = Experiments.from_file(
        out / "fulda.csv", ["Prec", "tmean", "tmax", "tmin"], "Q", time="time"
    )
    fulda = load_fulda()
    assert (record.input_units, record.output_units) == (fulda.input_units, fulda.output_units)
    assert (record.dt, record.time_unit, record[0].start) == (1.0, "d", fulda[0].start)
    assert np.array_equal(record[0].u, fulda[0].u)
    assert np.array_equal(record[0].y, fulda[0].y)
    again = run("demo", "--out", out, "--steps", "4", "--seed", "1", "--json")
    assert again.status == 0, again.err
    assert again.json["environment"]["seed"] == 1
    assert run("demo", "--out", out, "--steps", "4", "--seed", "1", "--resume").status == 0
    assert run("report", out, "--out", tmp_path / "again").status == 0


def test_demo_leaves_other_results_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"kind": "FIR"}))
    outcome = run("demo", "--out", tmp_path)
    assert outcome.status == 2
    assert "holds a result already" in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
