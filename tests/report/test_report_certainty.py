"""How sure the model is: what is collected, and the section of the page."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from report_builders import Page, certain, minimal

from statewise.data import Experiments
from statewise.data.task import Task
from statewise.estimators import LinearSystem
from statewise.report import collect, render_html, to_json
from statewise.report.certainty import Certainty, _states, certainty
from statewise.report.collect import _traces
from statewise.report.content import Trace
from statewise.report.stretches import Stretch

LENGTH = 900


def _records(outputs: int = 1, seed: int = 0) -> Experiments:
    """A slow system with a disturbance that has a memory, and noise."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((LENGTH, 1))
    x, e, y = np.zeros(outputs), np.zeros(outputs), []
    for row in u:
        x = 0.8 * x + row
        e = 0.9 * e + 0.3 * rng.standard_normal(outputs)
        y.append(x + e + 0.1 * rng.standard_normal(outputs))
    return Experiments.from_arrays(u, np.array(y), dt=0.5, time_unit="s")


def _judge(outputs: int = 1) -> tuple[LinearSystem, Experiments, list[Trace]]:
    """A fitted model, a test set, and its outputs of the free run there."""
    train, valid, test = _records(outputs).split_time((0.4, 0.2, 0.4), context=32)
    model = LinearSystem(2, "cva").fit(train)
    model.fit_noise(train, valid)
    simulated = {"linear": model.simulate_experiments(test)}
    return model, test, _traces("test", test, 0, test[0], simulated)


@pytest.fixture(scope="module", params=[1, 2])
def judged(request: pytest.FixtureRequest) -> tuple[LinearSystem, Experiments, Certainty]:
    model, test, traces = _judge(request.param)
    found = certainty(model, "test", test, traces, "linear")
    assert found is not None
    return model, test, found


def test_shares_are_those_of_the_bands(
    judged: tuple[LinearSystem, Experiments, Certainty],
) -> None:
    model, test, found = judged
    (record,) = test
    bands = model.filter(record.u, record.y)
    skip = record.skip
    known = dataclasses.replace(
        bands, **{n: getattr(bands, n)[skip:] for n in ("mean", "lower", "upper")}
    )
    expected = 100 * known.coverage(record.y[skip:])
    own = [s for s in found.shares if (s.split, s.horizon) == ("test", 1)]
    assert [s.channel for s in own] == list(test.output_names)
    np.testing.assert_allclose([s.inside for s in own], expected)
    assert all(s.count == len(record) - skip for s in own)
    assert all(abs(s.inside - 90) < 8 for s in own)
    assert model.noise_ is not None
    held = [s for s in found.shares if s.split == found.judged_on and s.way == "ahead"]
    assert [s.inside / 100 for s in held] == pytest.approx([c.after for c in model.noise_.coverage])


def test_bands_are_those_of_filter_and_forecast(
    judged: tuple[LinearSystem, Experiments, Certainty],
) -> None:
    model, test, found = judged
    record = test[0]
    assert [b.kind for b in found.bands] == ["worst", "typical"] * test.n_y
    time = record.times()
    (filtered,) = model.filter(test)
    for k in range(test.n_y):
        worst, typical = found.bands[2 * k : 2 * k + 2]
        first = int(np.searchsorted(time, worst.time[0]))
        part = slice(first, first + len(worst.time))
        assert worst.origin == len(worst.time)
        np.testing.assert_array_equal(worst.lower, filtered.lower[part, k])
        first = int(np.searchsorted(time, typical.time[0]))
        known, stop = first + typical.origin, first + len(typical.time)
        (ahead,) = model.filter(
            test.map(
                lambda r, known=known, stop=stop: dataclasses.replace(
                    r.part(0, stop, skip=r.skip),
                    y=np.where(np.arange(stop)[:, None] < known, r.y[:stop], np.nan),
                )
            )
        )
        np.testing.assert_allclose(typical.upper, ahead.upper[first:stop, k])
        width = typical.upper - typical.lower
        assert width[-1] > 1.3 * width[typical.origin - 1]


def test_states_are_those_of_the_observer(
    judged: tuple[LinearSystem, Experiments, Certainty],
) -> None:
    model, test, found = judged
    (filtered,) = model.filter(test)
    free = model.simulate_experiments(test)[0]
    assert [one.channel for one in found.states] == [f"error of {n}" for n in test.output_names]
    order = filtered.state_mean.shape[1] // test.n_y
    for k, one in enumerate(found.states):
        first = int(np.searchsorted(test[0].times(), one.time[0]))
        known = slice(first, first + one.origin)
        np.testing.assert_allclose(
            one.mean[: one.origin], filtered.state_mean[known, k * order], rtol=1e-9
        )
        half = 1.6448536269514722 * filtered.state_std[known, k * order]
        np.testing.assert_allclose((one.upper - one.lower)[: one.origin], 2 * half, rtol=1e-9)
        # The state follows the error of the free run, in other units; nothing corrects a forecast.
        assert np.corrcoef(one.mean[: one.origin], (test[0].y - free)[known, k])[0, 1] > 0.9
        assert (one.upper - one.lower)[-1] > 2 * (one.upper - one.lower)[0]


def test_states_of_a_network_are_the_least_known() -> None:
    rng = np.random.default_rng(0)
    model, test, traces = _judge()
    (filtered,) = model.filter(test)
    shape = (len(filtered), 5)
    changed = dataclasses.replace(
        filtered,
        state_mean=rng.standard_normal(shape),
        state_std=np.broadcast_to([0.1, 5.0, 0.2, 3.0, 4.0], shape),
    )
    about = (None, test.output_names, traces[0], Stretch("typical", 40, 100, 1.0), 20)
    found = _states(*about, changed)
    assert [one.channel for one in found] == ["state 2 of 5", "state 5 of 5", "state 4 of 5"]
    np.testing.assert_array_equal(found[0].mean, changed.state_mean[40:100, 1])
    assert _states(*about, dataclasses.replace(changed, state_mean=None)) == []


def test_innovations_of_the_right_model_pass() -> None:
    model = LinearSystem(2, "cva")
    records = _records(seed=3)
    train, valid, test = records.split_time((0.5, 0.2, 0.3), context=32)
    model.fit(train).fit_noise(train, valid)
    found = certainty(model, "test", test, (), "linear")
    assert found is not None
    assert found.bands == []
    (moments,) = found.moments
    assert abs(moments.mean) < 0.3
    assert 0.8 < moments.deviation < 1.25
    assert found.whiteness[0].sentence.startswith("The innovations of y")
    # With a wrong memory of the errors they are not white.
    model.noise_ = None
    assert certainty(model, "test", test, (), "linear") is None


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (91.25, "91.2 % of 365 measurements of Q on test are inside the 90 % intervals one sample"),
        (71.0, "they are too narrow for these data"),
        (99.0, "they are wider than these data ask for"),
    ],
)
def test_the_section_says_whether_intervals_hold(share: float, said: str) -> None:
    page = Page(render_html(minimal(certainty=certain(share=share))))
    assert said in page.text
    assert "How sure is it?" in page.text
    assert "4 and more" in page.text
    assert "The innovations of Q are not normal" in page.text
    ids = {"figure-bands-0", "figure-bands-states", "figure-innovations"}
    assert ids <= set(page.attributes("id"))
    assert "What measurements tell of the error of the simulation" in page.text


def test_many_outputs_and_few_samples_render() -> None:
    names = tuple(f"y{k}" for k in range(9))
    found = certain(names, dates=False)
    page = Page(render_html(minimal(certainty=found)))
    assert "Other outputs are in the JSON twin" in page.text
    nan = float("nan")
    few = dataclasses.replace(
        certain(),
        bands=(),
        shares=(),
        moments=[dataclasses.replace(m, normal_p=nan) for m in certain().moments],
    )
    assert "too few innovations of Q" in Page(render_html(minimal(certainty=few))).text


def test_the_twin_holds_bands_and_tests() -> None:
    twin = json.loads(json.dumps(to_json(minimal(certainty=certain())), allow_nan=False))
    found = twin["certainty"]
    assert found["bands"][0]["time"][0] == "2001-03-01"
    assert len(found["bands"][0]["lower"]) == 60
    assert found["shares"][0]["inside"] == 91.25
    assert found["moments"][0]["excess"] == 2.5
    assert len(found["whiteness"][0]["values"]) == 11
    assert to_json(minimal())["certainty"] is None


def test_data_that_other_models_simulated_are_named() -> None:
    found = dataclasses.replace(certain(), judged_on="validation and left-out training")
    text = Page(render_html(minimal(certainty=found))).text
    assert (
        "found on validation and left-out training data, each part simulated by a model that was "
        "trained without it." in text
    )


def test_models_without_noise_have_no_section() -> None:
    from report_builders import FakeIdentifier, experiments

    train = experiments((240,))
    task = Task("rig", train, None, {"test": train.map(lambda r: r.part(40, 240))})
    data = collect(FakeIdentifier(task), task)
    assert data.certainty is None
    assert "How sure is it?" not in render_html(data)
