"""The JSON twin: strict JSON that holds each number of the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from report_builders import Page, layer, minimal, report, trace

from statewise.report import to_json


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)


_SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def _read(text: str) -> tuple[float, float] | None:
    """The number a cell begins with, and half a unit of its last digit."""
    text = text.strip().replace("\u202f", "").replace("−", "-")
    match = re.match(r"(-?\d+)(?:\.(\d+))?(?:·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?(?=$| )", text)
    if not match:
        return None
    power = 10.0 ** int(match[3].translate(_SUPERSCRIPT)) if match[3] else 1.0
    decimals = len(match[2] or "")
    return float(f"{match[1]}.{match[2] or 0}") * power, 0.5001 * 10.0**-decimals * power


def _derived(twin: dict[str, Any]) -> list[float]:
    """Numbers that a table counts or takes over arrays of the twin."""
    found = []
    for one in twin["layers"]:
        tau = [value for value in one["time_constants"] if value is not None]
        poles = np.array(one["eigenvalues"]["re"]) + 1j * np.array(one["eigenvalues"]["im"])
        found += [np.median(tau), len(tau), *np.abs(poles), *np.angle(poles)]
        found.append(sum(damping < 0.95 for damping in one["damping"]))
    found += [part["samples"] - part["skip"] for part in twin["data"]["parts"]]
    return [float(value) for value in found]


def test_each_number_of_a_table_is_in_the_twin(page: Page) -> None:
    twin = json.loads(json.dumps(to_json(report()), allow_nan=False))
    known = np.array([*_numbers(twin), *_derived(twin)])
    checked = 0
    for cell in page.cells:
        read = _read(cell)
        if read is None:
            continue
        value, half = read
        assert np.min(np.abs(known - value)) <= half, cell
        checked += 1
    assert checked > 60


def test_samples_dates_and_complex_numbers_survive() -> None:
    data = minimal(traces=(trace(50), trace(40, dates=False)), layers=(layer(),))
    twin = json.loads(json.dumps(to_json(data), allow_nan=False))
    dated, timed = twin["traces"]
    assert dated["time"][:2] == ["2001-03-01", "2001-03-02"]
    assert timed["time"][:3] == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(dated["measured"], data.traces[0].measured, rtol=1e-7)
    np.testing.assert_allclose(
        timed["simulated"]["FIR"], data.traces[1].simulated["FIR"], rtol=1e-7
    )
    poles = twin["layers"][0]["eigenvalues"]
    np.testing.assert_array_equal(
        np.array(poles["re"]) + 1j * np.array(poles["im"]), data.layers[0].eigenvalues
    )
    np.testing.assert_array_equal(
        twin["layers"][0]["time_constants"], data.layers[0].time_constants
    )


def test_what_is_not_finite_becomes_null() -> None:
    gaps = trace(60)
    gaps.measured[3] = np.nan
    gaps.simulated["FIR"][4] = np.inf
    data = minimal(
        traces=(gaps,),
        environment={"a": np.float32("nan"), "b": np.int64(3), "c": np.datetime64("NaT")},
    )
    twin = json.loads(json.dumps(to_json(data), allow_nan=False))
    assert twin["traces"][0]["measured"][3] is None
    assert twin["traces"][0]["simulated"]["FIR"][4] is None
    assert twin["environment"] == {"a": None, "b": 3, "c": None}


def test_headline_and_stretches_are_there() -> None:
    data = report()
    twin = to_json(data)
    assert twin["headline"]["value"] == pytest.approx(0.8151)
    assert twin["headline"]["baseline"] == "FIR"
    assert twin["headline"]["error_ratio"] == pytest.approx(19.90321 / 29.4)
    worst, typical = twin["traces"][0]["stretches"]
    assert (worst["kind"], typical["kind"]) == ("worst", "typical")
    error = data.traces[0].errors("deep Wiener")[worst["first"] : worst["stop"]]
    assert worst["rmse"] == pytest.approx(float(np.sqrt(np.mean(error**2))))
    tests = twin["residuals"]["whiteness"]
    assert len(tests[0]["values"]) == 11
    assert tests[0]["sentence"].startswith("The residuals of Q")
