from __future__ import annotations

import gzip
import hashlib
import importlib.resources

import numpy as np
from linear_floor import fir_errors, scored

from statewise.data.fulda import FILE, fulda_task, load_fulda


def test_the_bundled_file_is_the_published_text_with_its_licence():
    folder = importlib.resources.files("statewise.data") / "bundled"
    packed = (folder / FILE).read_bytes()
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == (
        "e9866a7ba28f99f941cfbc1ad8cb55caa5c5e43dbac15a076b820917e59b1fbe"
    )
    # Bytes 4 to 8 of a gzip header are the time of packing.
    assert packed[4:8] == b"\0\0\0\0"
    licence = (folder / "fulda_climate.LICENSE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2015 Tobias Houska" in licence
    assert "The MIT License" in licence


def test_load_fulda():
    data = load_fulda()
    assert len(data) == 1
    record = data[0]
    assert record.y.shape == (3653, 1)
    assert record.u is not None
    assert record.u.shape == (3653, 4)
    assert record.y_mask is None
    assert record.u_mask is None
    assert data.input_names == ("Prec", "tmean", "tmax", "tmin")
    assert data.input_units == ("mm/day", "°C", "°C", "°C")
    assert (data.output_names, data.output_units) == (("Q",), ("m³/s",))
    assert (data.dt, data.time_unit) == (1.0, "d")
    # First and last row of the file, by hand.
    np.testing.assert_array_equal(record.u[0], [1.0, -16.5, -12.9, -20.1])
    np.testing.assert_array_equal(record.u[-1], [0.3, 3.95, 4.8, 3.1])
    assert (record.y[0, 0], record.y[-1, 0]) == (143.0, 30.5)
    dates = record.dates()
    assert dates is not None
    assert dates[0] == np.datetime64("1979-01-01")
    assert dates[-1] == np.datetime64("1988-12-31")


def test_the_task_scores_all_of_the_last_thirty_percent_and_no_other_day():
    whole = load_fulda()[0].y
    task = fulda_task()
    assert task.valid is not None
    train, valid, test = task.train[0], task.valid[0], task.test["test"][0]
    np.testing.assert_array_equal(train.y, whole[:2192])
    np.testing.assert_array_equal(valid.y[valid.skip :], whole[2192:2557])
    np.testing.assert_array_equal(test.y[test.skip :], whole[2557:])
    np.testing.assert_array_equal(test.y[: test.skip], whole[2557 - 365 : 2557])
    assert (valid.skip, test.skip) == (365, 365)
    dates = test.dates()
    assert dates is not None
    assert dates[test.skip] == np.datetime64("1986-01-01")
    assert task.metric == "nse"
    assert "MIT" in task.licence


def test_the_linear_floor_on_this_split():
    task = fulda_task()
    y = scored(task.test["test"])
    for lags in (30, 90, 180):
        errors = fir_errors(task.train, task.test, lags, ridge=0.05)["test"]
        nse = 1 - np.mean(errors**2) / np.var(y)
        assert 0.55 < nse < 0.65
