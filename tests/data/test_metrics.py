"""Metrics against their definitions, their undefined cases, and the words around a score."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from statewise.data import metrics
from statewise.data.metrics import Score, fit_percent, mae, nrmse, nse, r2, rmse, score, vaf

ALL = [rmse, mae, nrmse, fit_percent, r2, nse, vaf]
RELATIVE = [nrmse, fit_percent, r2, vaf]


@dataclasses.dataclass
class Part:
    y: np.ndarray
    skip: int = 0
    name: str = ""

    def __len__(self):
        return len(self.y)


class Parts(list):
    """The part of an Experiments that scoring reads."""

    def __init__(self, parts, names=("level",), units=("V",)):
        super().__init__(parts)
        self.output_names, self.output_units = names, units


def test_values_by_hand():
    y, y_hat = np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.0, 1.0, 5.0, 6.0])
    # e = (0, 1, −2, 0), ȳ = 3, Σ(y − ȳ)² = 14, var(e) = 5/4 − 1/16
    assert rmse(y, y_hat) == pytest.approx([math.sqrt(5 / 4)], rel=1e-14)
    assert mae(y, y_hat) == pytest.approx([3 / 4], rel=1e-14)
    assert nrmse(y, y_hat) == pytest.approx([math.sqrt(5 / 14)], rel=1e-14)
    assert fit_percent(y, y_hat) == pytest.approx([100 * (1 - math.sqrt(5 / 14))], rel=1e-14)
    assert r2(y, y_hat) == pytest.approx([1 - 5 / 14], rel=1e-14)
    assert vaf(y, y_hat) == pytest.approx([100 * (1 - (5 / 4 - 1 / 16) / (14 / 4))], rel=1e-14)
    assert nse is r2


def test_agrees_with_an_independent_r2():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y = rng.standard_normal((50, 3))
    y_hat = y + 0.3 * rng.standard_normal((50, 3))
    expected = sklearn_metrics.r2_score(y, y_hat, multioutput="raw_values")
    np.testing.assert_allclose(r2(y, y_hat), expected, rtol=1e-12)
    expected = sklearn_metrics.root_mean_squared_error(y, y_hat, multioutput="raw_values")
    np.testing.assert_allclose(rmse(y, y_hat), expected, rtol=1e-12)


def test_vaf_is_blind_to_an_offset_and_fit_is_not():
    y = np.sin(np.arange(100.0))
    assert vaf(y, y + 5.0) == pytest.approx([100.0])
    assert fit_percent(y, y + 5.0)[0] < 0


@pytest.mark.parametrize("metric", ALL)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_masked_samples_do_not_count(metric, data):
    length = data.draw(st.integers(2, 30))
    channels = data.draw(st.integers(1, 3))
    shape = (length, channels)
    values = st.floats(-100, 100)
    y = data.draw(hnp.arrays(float, shape, elements=values))
    y_hat = data.draw(hnp.arrays(float, shape, elements=values))
    mask = data.draw(hnp.arrays(bool, shape))
    mask[0] = True
    kept = np.array([metric(y[m, i], y_hat[m, i])[0] for i, m in enumerate(mask.T)])
    poisoned = np.where(mask, y_hat, np.nan)
    np.testing.assert_array_equal(metric(y, poisoned, mask), kept)
    np.testing.assert_array_equal(metric(np.where(mask, y, np.nan), poisoned), kept)


@pytest.mark.parametrize("metric", RELATIVE)
@pytest.mark.parametrize("level", [0.0, 0.1, 1e9 / 3])
def test_relative_metrics_of_a_constant_are_nan(metric, level):
    y = np.full(7, level)
    assert np.isnan(metric(y, y)).all()
    assert np.isnan(metric(y, y + 1)).all()
    assert np.isnan(metric(y[:1], y[:1] + 1)).all()


def test_absolute_metrics_of_one_sample_are_defined():
    assert rmse([1.0], [3.0]) == pytest.approx([2.0])
    assert mae([1.0], [3.0]) == pytest.approx([2.0])


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_not_finite_gives_nan_in_its_channel_only(metric, bad):
    rng = np.random.default_rng(1)
    y, y_hat = rng.standard_normal((2, 20, 2))
    y_hat[3, 1] = bad
    values = metric(y, y_hat)
    assert np.isfinite(values[0])
    assert np.isnan(values[1])


def test_huge_errors_do_not_warn():
    assert rmse(np.arange(3.0), np.full(3, 1e200))[0] == np.inf


@pytest.mark.parametrize("metric", ALL)
def test_nothing_to_score_is_an_error(metric):
    y = np.ones((4, 2))
    mask = np.array([True, False])[None] & np.ones((4, 1), bool)
    with pytest.raises(ValueError, match="channel 1 has no observed sample"):
        metric(y, y, mask)
    with pytest.raises(ValueError, match="channel 0 has no observed sample"):
        metric(np.zeros(0), np.zeros(0))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(4,\) and \(4, 1\)"):
        rmse(np.ones(4), np.ones((4, 1)))
    with pytest.raises(ValueError, match="mask of shape"):
        rmse(np.ones(4), np.ones(4), np.ones(3, bool))
    with pytest.raises(ValueError, match="boolean"):
        rmse(np.ones(4), np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        rmse(np.ones((2, 3, 4)), np.ones((2, 3, 4)))


def test_mask_of_one_column_covers_all_channels():
    y, y_hat = np.arange(8.0).reshape(4, 2), np.zeros((4, 2))
    mask = np.array([True, True, False, False])
    np.testing.assert_array_equal(rmse(y, y_hat, mask), rmse(y[:2], y_hat[:2]))
    np.testing.assert_array_equal(rmse(y, y_hat, mask[:, None]), rmse(y[:2], y_hat[:2]))


def test_score_says_everything():
    y = np.linspace(0, 1, 1024)[:, None]
    [result] = score(Parts([Part(y, 50)]), [y + 0.31], metrics=["rmse"])
    assert str(result) == (
        "RMSE 0.31 V (channel level, test, simulation, "
        "samples 51–1024: first 50 for the initial state)"
    )
    [result] = score(Parts([Part(y)]), [y], metrics=["fit"], mode=3, split="valid")
    assert str(result) == "FIT 100 % (channel level, valid, 3-step prediction, samples 1–1024)"


def test_score_pools_records_and_drops_the_skipped_start():
    rng = np.random.default_rng(2)
    y = [rng.standard_normal((n, 2)) for n in (30, 50)]
    y_hat = [part + 0.1 * rng.standard_normal(part.shape) for part in y]
    y[0][20, 1] = np.nan
    parts = Parts([Part(y[0], 5), Part(y[1], 7)], names=("a", "b"), units=("V", ""))
    spoiled = [part.copy() for part in y_hat]
    spoiled[0][:5], spoiled[1][:7] = 1e9, np.nan
    results = score(parts, spoiled, metrics=list(metrics._METRICS))
    pooled = np.concatenate([y[0][5:], y[1][7:]]), np.concatenate([y_hat[0][5:], y_hat[1][7:]])
    n = len(metrics._METRICS)
    for index, name in enumerate(metrics._METRICS):
        expected = metrics._METRICS[name].function(*pooled)
        assert results[index].value == expected[0]
        assert results[index + n].value == expected[1]
    assert [r.channel for r in results] == ["a"] * n + ["b"] * n
    assert results[0].window == "68 samples of 2 records: first 5–7 of each for the initial state"
    assert results[n].window.endswith(", 1 missing")
    assert [r.unit for r in results[:n]] == ["V", "V", "", "%", "%", "", "", "%"]


def test_scale_changes_only_metrics_with_a_unit():
    y = np.linspace(0, 1, 9)[:, None]
    plain = score(Parts([Part(y)]), [y**2])
    scaled = score(Parts([Part(y)]), [y**2], scale=1000.0, unit="mV")
    assert scaled[0].value == pytest.approx(1000 * plain[0].value)
    assert scaled[0].unit == "mV"
    assert scaled[1:] == plain[1:]
    with pytest.raises(ValueError, match="unit"):
        score(Parts([Part(y)]), [y], scale=1000.0)


def test_windows_of_several_records():
    assert metrics.describe_window([10, 10], [0, 0]) == "samples 1–10 of each of 2 records"
    assert metrics.describe_window([10, 20], [0, 0]) == "30 samples of 2 records"
    text = metrics.describe_window([10, 20], [4, 4])
    assert text == "22 samples of 2 records: first 4 of each for the initial state"


def test_score_refuses_what_does_not_fit():
    y = np.linspace(0, 1, 9)[:, None]
    with pytest.raises(ValueError, match="unknown metric 'mse'"):
        score(Parts([Part(y)]), [y], metrics=["mse"])
    with pytest.raises(ValueError, match="1 records need as many predictions, got 2"):
        score(Parts([Part(y)]), [y, y])
    with pytest.raises(ValueError, match=r"record tank has outputs of shape \(9, 1\)"):
        score(Parts([Part(y, name="tank")]), [y[:-1]])
    with pytest.raises(ValueError, match="channel level has no observed sample"):
        score(Parts([Part(np.full((9, 1), np.nan))]), [y])
    with pytest.raises(ValueError, match="at least 1 step"):
        score(Parts([Part(y)]), [y], mode=0)


def test_to_dict_is_json():
    value = Score("fit", float("nan"), "y", "%", "test", "samples 1–3", "simulation")
    assert json.loads(json.dumps(value.to_dict(), allow_nan=False))["value"] is None
    one = dataclasses.replace(value, value=2.5)
    assert Score(**json.loads(json.dumps(one.to_dict()))) == one
