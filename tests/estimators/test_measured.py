"""The linear baselines on measured data: errors that are known for these splits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from statewise.data import Experiments, load_fulda
from statewise.estimators import ARX, FIR


def test_known_error_on_the_fulda_discharge():
    train, test = load_fulda().split_time((0.7, 0.3), context=365)
    model = FIR().fit(train)
    [nse] = model.evaluate(test, metrics=["nse"])
    assert 0.58 <= nse.value <= 0.63


def measured(*parts):
    """Columns of a measured data set, or skip."""
    path = Path(os.environ.get("STATEWISE_DATA", "")).joinpath(*parts)
    if not os.environ.get("STATEWISE_DATA") or not path.is_file():
        pytest.skip(f"STATEWISE_DATA has no {'/'.join(parts)}")
    return np.loadtxt(path, delimiter=",", skiprows=1)


@pytest.mark.parametrize(("order", "one_step", "simulated"), [(3, 0.053, 0.66), (8, 0.053, 0.61)])
def test_known_errors_on_the_cascaded_tanks(order, one_step, simulated):
    table = measured("cascaded_tanks", "cascaded_tanks.csv.gz")
    model = ARX(order, order, ridge=0.0).fit(table[:, 0], table[:, 1])
    test = Experiments.from_arrays(table[:, 2], table[:, 3], skip=50)
    assert model.evaluate(test, metrics=["rmse"])[0].value == pytest.approx(simulated, abs=0.005)
    assert model.evaluate(test, 1, metrics=["rmse"])[0].value == pytest.approx(one_step, abs=5e-4)


def test_known_error_on_the_hair_dryer():
    table = measured("daisy", "hair_dryer.csv.gz")
    train, test = Experiments.from_arrays(table[:, 0], table[:, 1]).split_time(
        (0.5, 0.5), context=10
    )
    fixed = ARX(4, 5, ridge=0.0).fit(train).evaluate(test, metrics=["nrmse"])[0].value
    assert fixed == pytest.approx(0.145, abs=0.002)
    assert ARX().fit(train).evaluate(test, metrics=["nrmse"])[0].value < 0.15


def test_known_error_on_the_buck_converter():
    train, test = (measured("buck_converter", f"buck_{part}.csv.gz") for part in ("id", "valid"))
    model = ARX(2, 2, ridge=0.0).fit(train[:, 1], train[:, 2])
    scored = Experiments.from_arrays(test[:, 1], test[:, 2], skip=10)
    assert model.evaluate(scored, metrics=["rmse"])[0].value == pytest.approx(0.57, abs=0.005)


@pytest.mark.parametrize(("first", "error"), [(0, 0.254), (2, 0.202)])
def test_known_errors_on_the_coupled_drives(first, error):
    u, y = measured("coupled_drives", "ced_uniform.csv.gz")[:, first : first + 2].T
    model = ARX(6, 6, ridge=0.0).fit(u[:400], y[:400])
    test = Experiments.from_arrays(u[400:], y[400:], skip=10)
    assert model.evaluate(test, metrics=["rmse"])[0].value == pytest.approx(error, abs=0.001)
