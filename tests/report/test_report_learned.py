"""What the model learned: responses beside the data, reduced copies, sentences."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from report_builders import FakeIdentifier, Page, comparison, experiments, layer, minimal, report

from statewise.analysis import blocks
from statewise.compress import reduce
from statewise.data import Experiments
from statewise.data.task import Task
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import Bank, ContinuousDiagonal, Identity
from statewise.report import (
    Channel,
    ReductionCurve,
    findings,
    layer_summaries,
    pulse_memory,
    reduction_curve,
    render_html,
    response_comparison,
    small_signal_response,
    to_json,
)
from statewise.report.comparison import independent
from statewise.report.shrinking import orders_for
from statewise.train import EncoderState

LINEAR = DeepWienerConfig(n_layers=1, d_model=3, d_state=3, static=Identity())


def _plant(n_inputs: int = 1, seed: int = 2) -> DeepWiener:
    return DeepWiener(n_inputs, 1, LINEAR, seed=seed).double().eval()


def _run(model: DeepWiener, u: np.ndarray | None) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(u)[None])[0][0].numpy()


def _records(model: DeepWiener, lengths: tuple[int, ...], noise: float = 0.0) -> Experiments:
    rng = np.random.default_rng(3)
    us = [rng.standard_normal((length, model.d_input)) for length in lengths]
    ys = [_run(model, u) for u in us]
    ys = [y + noise * rng.standard_normal(y.shape) for y in ys]
    return Experiments.from_arrays(us, ys, dt=0.5, time_unit="h")


def _compare(model: DeepWiener, train: Experiments, simulated=None, scale: float = 1.0):
    names = [Channel(f"u{j}") for j in range(train.n_u)]
    runs = [r.y for r in train] if simulated is None else simulated
    return response_comparison(
        model,
        train,
        runs,
        names,
        [Channel("y")],
        u_std=np.full(train.n_u, 0.5),
        to_physical=lambda z: scale * z,
    )


def test_a_linear_plant_has_one_response() -> None:
    model = _plant()
    found = _compare(model, _records(model, (3000, 2000)))
    assert found is not None
    own = small_signal_response(model, found.omega)
    np.testing.assert_allclose(found.data, own, atol=2e-4 * np.abs(own).max())
    np.testing.assert_allclose(found.linearised, own / 0.5, rtol=1e-8)
    assert found.inside.all()


def test_the_disc_holds_the_true_response_as_often_as_it_says() -> None:
    model = _plant()
    train = _records(model, (6000,), noise=0.5)
    clean = _run(model, train[0].u)
    found = _compare(model, train, [clean])
    assert found is not None
    assert 0.8 <= found.inside.mean() <= 1.0
    assert np.median(found.radius / np.abs(found.data)) > 0.01
    wrong = _compare(_plant(seed=9), train, [-clean])
    assert wrong is not None
    assert wrong.inside.mean() < 0.5


def test_gaps_and_uneven_times() -> None:
    model = _plant()
    train = _records(model, (3000,))
    y = train[0].y.copy()
    y[700] = np.nan
    found = _compare(model, train.map(lambda r: r.with_fields(y=y)), [train[0].y])
    assert found is not None
    assert np.isfinite(found.data).all()
    times = np.cumsum(np.random.default_rng(0).uniform(0.2, 1.0, 3000))
    assert _compare(model, train.map(lambda r: r.with_fields(dt=None, t=times))) is None
    assert _compare(model, _records(model, (40,))) is None


def test_inputs_that_follow_others_are_left_out() -> None:
    rng = np.random.default_rng(1)
    u = rng.standard_normal((500, 2))
    both = np.hstack([u, (u @ [2.0, -1.0])[:, None] + 0.01 * rng.standard_normal((500, 1))])
    kept, left, along = independent(both)
    assert (kept, left) == ([0, 1], [2])
    np.testing.assert_allclose(along, [[2.0, -1.0]], atol=0.01)
    assert independent(np.zeros((10, 1)))[0] == []
    model = _plant(3)
    train = _records(model, (3000,))
    u = train[0].u
    assert u is not None
    u = np.column_stack([u[:, :2], u[:, 0] + u[:, 1]])
    y = _run(model, u)
    found = _compare(model, train.map(lambda r: r.with_fields(u=u, y=y)), [y])
    assert found is not None
    assert found.left_out == ("u2",)
    # Of a linear plant the response with what follows is the linearisation with it; windows at the
    # end of the band are one-sided, and follow the response less well.
    inner = found.omega < 0.9 * np.pi
    scale = np.abs(found.data).max()
    np.testing.assert_allclose(found.data[inner], 0.5 * found.linearised[inner], atol=2e-4 * scale)


@pytest.mark.parametrize(
    "config",
    [
        DeepWienerConfig(n_layers=2, d_model=3, d_state=4),
        DeepWienerConfig(
            n_layers=2, d_model=3, d_state=4, coupling=Bank(), poles=ContinuousDiagonal(dt_min=0.1)
        ),
    ],
    ids=["full", "bank"],
)
def test_blocks_have_their_hankel_values(config: DeepWienerConfig) -> None:
    model = DeepWiener(1, 1, config, seed=1).double()
    for summary, block in zip(layer_summaries(model), blocks(model).blocks, strict=True):
        expected = block.hankel if block.hankel.ndim == 1 else block.hankel.max(0)
        np.testing.assert_allclose(summary.hankel, expected, rtol=1e-8, atol=1e-10)


def test_orders_lose_the_same_share() -> None:
    assert orders_for([2.0 ** -np.arange(8), 2.0 ** -np.arange(8)], 0.5) == [4, 4]
    assert orders_for([np.array([1.0, 1.0, 1.0, 1.0]), np.array([1.0, 1e-9, 1e-9])], 0.8) == [4, 1]
    assert orders_for([np.array([1.0, 0.5]), np.array([1.0, 0.5])], 0.1) == [1, 1]


def test_the_curve_is_that_of_reduced_models() -> None:
    task = Task.from_experiments(experiments((400,), dt=1.0), context=20)

    class Simulating(FakeIdentifier):
        def simulate_experiments(self, experiments: Experiments) -> list[np.ndarray]:
            scaled = self.normaliser_.transform(experiments)
            with torch.no_grad():
                runs = [self.model_(torch.tensor(r.u).float()[None])[0][0] for r in scaled]
            return [self.normaliser_.inverse_y(run.double().numpy()) for run in runs]

    identifier = Simulating(task, DeepWienerConfig(n_layers=2, d_model=3, d_state=6))
    hankel = [one.hankel for one in layer_summaries(identifier.model_)]
    assert task.valid is not None
    curve = reduction_curve(identifier, task.valid, "valid", hankel)
    assert curve is not None
    assert curve.states[0] == 24
    assert (np.diff(curve.states) < 0).all()
    whole = identifier.model_
    identifier.model_ = reduce(whole, to=curve.orders[2].tolist()).model
    (fit,) = [one.value for one in identifier.evaluate(task.valid) if one.metric == "fit"]
    assert curve.fit[2] == pytest.approx(fit, abs=1e-6)
    identifier.initial_state_ = EncoderState(10)
    assert reduction_curve(identifier, task.valid, "valid", hankel) is None


def test_memory_holds_most_of_a_pulse() -> None:
    model = _plant()
    length = pulse_memory(model, 0.5)
    assert length is not None
    pulse = torch.zeros(1, 4000, 1, dtype=torch.float64)
    with torch.no_grad():
        rest = model(pulse)[0]
        pulse[0, 0] = 1.0
        energy = (model(pulse)[0] - rest)[0, :, 0].square().cumsum(0)
    k = round(length / 0.5)
    assert energy[k - 1] >= 0.99 * energy[-1] > energy[k - 2]
    wide = DeepWienerConfig(n_layers=4, d_model=2, d_state=64)
    assert pulse_memory(DeepWiener(1, 1, wide), 1.0) is None


def test_findings_are_plain_and_on_the_page() -> None:
    data = report()
    said = findings(data)
    text = " ".join(said)
    assert "(block 2); the fastest of all has" in text
    assert "of its 12 modes oscillate, with periods from" in text
    assert "has passed after 23.0 days" in text
    assert "7 of its 24 states are enough" in text
    assert "within 1 point" in text
    assert "The response of y0 to u0 agrees with the data at" in text
    page = Page(render_html(data))
    for sentence in said:
        assert sentence in page.text
    twin = to_json(data)
    assert twin["findings"] == said
    assert twin["reduction"]["enough"] == 7
    assert len(twin["comparison"]["data"]["re"]) == 30
    assert twin["layers"][0]["hankel"][:2] == [1.0, 0.5]


def test_findings_of_other_models() -> None:
    poles = np.array([0.5, 0.9], complex)
    smooth = dataclasses.replace(layer(0, 2), eigenvalues=poles)
    assert "None of its 2 modes" in " ".join(findings(minimal(layers=(smooth,))))
    still = dataclasses.replace(smooth, eigenvalues=np.array([1.0 + 0j, 0.5]))
    assert "does not decay" in findings(minimal(layers=(still,), memory=math.inf))[0]
    stays = findings(minimal(layers=(still,), memory=math.inf))
    assert "a trace that does not fade" in " ".join(stays)
    full = ReductionCurve(np.array([[8], [4], [2]]), np.array([90.0, 50.0, 10.0]), "train")
    assert "All of its 8 states matter" in findings(minimal(reduction=full))[0]
    base = comparison()
    poor = dataclasses.replace(base, radius=2 * np.abs(base.data))
    assert "say too little about the response" in findings(minimal(comparison=poor))[0]
    assert findings(minimal()) == []
    page = Page(render_html(report(comparison=comparison(2, 2))))
    assert "figure-response-comparison" in page.attributes("id")
    assert "Left out: twin" in page.text
