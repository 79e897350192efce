"""The training run: what it learns, what it keeps, what it repeats, what it survives."""

from __future__ import annotations

import contextlib
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from train_systems import curve, linear_model, oscillator, quick, same_weights, small_model

from statewise._errors import DataError
from statewise.data import Record
from statewise.nn import DiscreteDiagonal, Ring
from statewise.train import Carry, FitConfig, FreeRunError, Huber, fit, free_run
from statewise.train.adam import AdamPhase, rate_factor, uses_bfloat16
from statewise.train.problem import Problem


def test_a_linear_system_is_recovered() -> None:
    model = linear_model()
    config = FitConfig(window=200, batch_size=8, steps=100, lr=0.02, eval_every=50, polish_steps=80)
    result = fit(model, [oscillator(1000, 1)], [oscillator(500, 2)], config)
    assert result.best_valid is not None
    assert result.best_valid < 1e-3
    assert result.polish_steps > 0
    assert FreeRunError([oscillator(500, 3)])(model) < 1e-3
    eigenvalues = model.blocks[0].lti.eigenvalues().detach().numpy()
    assert np.abs(eigenvalues - 0.9 * np.exp(0.4j)).min() < 1e-3
    assert next(model.parameters()).dtype == torch.float32


def test_equal_arguments_give_equal_bits() -> None:
    runs = []
    for seed in (3, 3, 4):
        model = small_model(dropout=0.2)
        config = quick(polish_steps=10, average=0.9, weight_decay=0.01)
        runs.append(
            (model, fit(model, [oscillator(300, 1)], [oscillator(150, 2)], config, seed=seed))
        )
    (first, one), (second, two), (third, three) = runs
    assert curve(one.history) == curve(two.history)
    assert same_weights(first, second)
    assert curve(one.history) != curve(three.history)
    assert not same_weights(first, third)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fit(small_model(dropout=0.3), [oscillator(200, 1)], None, quick())
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_the_best_weights_are_kept_and_loaded() -> None:
    """From weights that are nearly right, a rate that rises to far too high leads away."""
    model, valid = linear_model(), [oscillator(200, 2, skip=20)]
    fit(model, [oscillator(300, 1)], valid, quick(lr=0.03, polish_steps=60))
    config = quick(steps=20, lr=1.0, eval_every=1, warmup=1.0)
    result = fit(model, [oscillator(300, 1)], valid, config)
    errors = [row["valid"] for row in result.history]
    best = int(np.argmin(errors))
    assert best < 10
    assert errors[-1] > 2 * errors[best]
    assert result.best_step == result.history[best]["step"]
    assert result.best_valid == errors[best]
    assert FreeRunError(valid)(model) == pytest.approx(errors[best], rel=1e-6)


def test_the_last_weights_are_kept_when_asked() -> None:
    model, valid = linear_model(), [oscillator(200, 2, skip=20)]
    fit(model, [oscillator(300, 1)], valid, quick(lr=0.03, polish_steps=60))
    config = quick(steps=20, lr=1.0, eval_every=1, warmup=1.0, keep="last")
    result = fit(model, [oscillator(300, 1)], valid, config)
    assert result.best_step == result.steps == 20
    assert result.best_valid == result.history[-1]["valid"]
    assert FreeRunError(valid)(model) == pytest.approx(result.best_valid, rel=1e-6)


def test_patience_ends_the_run() -> None:
    config = quick(steps=400, lr=0.5, eval_every=5, patience=3, warmup=0.0)
    result = fit(small_model(), [oscillator(300, 1)], [oscillator(200, 2)], config)
    assert result.steps < 400
    assert result.steps == result.best_step + 15
    assert result.reason == "no better validation error in 3 evaluations"


def test_without_validation_the_last_weights_stay() -> None:
    model = small_model()
    result = fit(model, [oscillator(300, 1)], None, quick())
    assert result.best_valid is None
    assert result.best_step == result.steps == 40
    assert all(row["valid"] is None for row in result.history)
    again = small_model()
    fit(again, [oscillator(300, 1)], None, quick(eval_every=40))
    assert same_weights(model, again)


def test_no_steps_leave_the_model_as_it_was() -> None:
    model, expected = small_model(), small_model()
    result = fit(model, [oscillator(300, 1)], [oscillator(100, 1)], quick(steps=0))
    assert same_weights(model, expected)
    assert result.history == []
    assert result.best_valid is None


def test_the_schedule_warms_up_and_falls() -> None:
    config = quick(steps=100, warmup=0.1, lr_final=0.02)
    factors = [rate_factor(config, step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))
    assert factors[100] == pytest.approx(0.02)


def test_rates_decay_and_clipping_reach_the_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments, **names):
        norm = math.sqrt(
            sum(float(p.grad.norm()) ** 2 for group in self.param_groups for p in group["params"])
        )
        seen.append((norm, {g["name"]: (g["lr"], g["weight_decay"]) for g in self.param_groups}))
        return step(self, *arguments, **names)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    config = quick(steps=10, warmup=0.0, clip=1e-3, weight_decay=0.1, dynamics_factor=0.25)
    fit(small_model(), [oscillator(300, 1)], None, config)
    assert max(norm for norm, _ in seen) == pytest.approx(1e-3, rel=1e-3)
    assert seen[0][1]["dynamics"] == pytest.approx((5e-3 * 0.25, 0.0))
    assert seen[0][1]["maps"] == pytest.approx((5e-3, 0.1))


def test_missing_samples_uneven_steps_and_short_records() -> None:
    """Records that differ in every way at once; gaps hold garbage that must not matter."""
    rng = np.random.default_rng(0)
    records = []
    for index, length in enumerate((200, 90, 40)):
        base = oscillator(length, index)
        u, y = np.array(base.u), np.array(base.y)
        y[rng.random(y.shape) < 0.2] = np.nan
        u[rng.random(u.shape) < 0.05] = np.nan
        t = np.cumsum(rng.uniform(0.8, 1.2, length))
        records.append(Record(y, u, t=t, skip=5 * index))
    for config in (quick(lr=0.02), quick(lr=0.02, method=Carry())):
        result = fit(small_model(), records, [oscillator(200, 7)], config)
        assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
        assert math.isfinite(result.history[-1]["valid"])


def test_what_does_not_count_does_not_matter() -> None:
    """Skipped and missing outputs may be anything; the weights stay the same."""
    models = []
    for value in (0.0, 1e3):
        base = oscillator(120, 1)
        y = np.array(base.y)
        y[:30] = value
        model = small_model()
        config = quick(window=None, washout=5, steps=20, polish_steps=5)
        fit(model, [Record(y, base.u, skip=30)], None, config)
        models.append(model)
    assert same_weights(*models)


def test_uneven_steps_reach_the_model() -> None:
    """A sampled oscillator at uneven times is recovered only with the steps."""
    rng = np.random.default_rng(1)
    step = rng.uniform(0.5, 1.5, 600)
    u = rng.standard_normal((600, 1))
    log_pole = np.log(0.9) + 0.4j
    x, y = 0j, np.empty((600, 1))
    for k in range(600):
        a = np.exp(log_pole * step[k])
        x = a * x + (a - 1) / (np.exp(log_pole) - 1) * u[k, 0]
        y[k] = ((0.3 + 0.2j) * x).real / 0.75
    errors = {}
    for name, t in (("uneven", np.cumsum(step)), ("even", None)):
        record = Record(y, u, t=t)
        config = quick(steps=80, lr=0.03, polish_steps=40)
        errors[name] = fit(linear_model(seed=1), [record], [record], config).best_valid
    assert errors["uneven"] < 0.02 < 0.1 < errors["even"]


def test_full_records_in_one_batch() -> None:
    records = [oscillator(length, length) for length in (60, 90, 75)]
    config = quick(window=None, washout=10, steps=120, lr=0.02)
    result = fit(linear_model(seed=1), records, [oscillator(200, 7)], config)
    assert result.best_valid is not None
    assert result.best_valid < 0.7 * result.history[0]["valid"]


def _slow(length: int, seed: int) -> Record:
    base = oscillator(length, seed, pole=0.99)
    return Record(base.y / 3.0, base.u)


def test_carried_states_see_beyond_the_window() -> None:
    """A memory of hundreds of samples, windows of 32: only a carried state explains the output."""
    train = [_slow(1600, 1), _slow(800, 2)]
    valid = [_slow(800, 3)]
    errors = {}
    for method in (Carry(), None):
        config = quick(
            window=32,
            washout=8,
            batch_size=8,
            steps=100,
            lr=0.08,
            clip=None,
            eval_every=50,
            **({} if method is None else {"method": method}),
        )
        model = linear_model(seed=1, d_state=1, poles=DiscreteDiagonal(Ring(0.97, 0.98, 0.05)))
        errors[type(method).__name__] = fit(model, train, valid, config).best_valid
    assert errors["Carry"] < 0.6 * errors["NoneType"]


def test_huber_is_not_moved_by_outliers() -> None:
    base = oscillator(1000, 1)
    y = np.array(base.y)
    y[np.random.default_rng(0).random(y.shape) < 0.02] += 40.0
    errors = {}
    for loss in (FitConfig().loss, Huber(0.3)):
        model = linear_model(seed=1)
        config = quick(steps=100, lr=0.03, loss=loss, polish_steps=40)
        fit(model, [Record(y, base.u)], None, config)
        errors[type(loss).__name__] = FreeRunError([oscillator(500, 2)])(model)
    assert errors["Huber"] < 0.3 * errors["MSE"]


def test_a_moving_average_is_what_is_judged() -> None:
    model, valid = small_model(), [oscillator(200, 2)]
    config = quick(steps=60, lr=0.2, warmup=0.0, average=0.9, lr_final=1.0)
    plain = quick(steps=60, lr=0.2, warmup=0.0, lr_final=1.0)
    smooth = [r["valid"] for r in fit(model, [oscillator(300, 1)], valid, config).history]
    rough = [r["valid"] for r in fit(small_model(), [oscillator(300, 1)], valid, plain).history]
    assert smooth != rough
    assert np.std(np.diff(smooth)) < np.std(np.diff(rough))
    assert FreeRunError(valid)(model) == pytest.approx(min(smooth), rel=1e-6)


def test_bfloat16_autocast_runs_on_the_cpu() -> None:
    dtypes = []
    model = small_model()
    model.output_map.register_forward_hook(lambda _m, _i, out: dtypes.append(out.dtype))
    config = quick(steps=80, lr=0.02, precision="bfloat16", clip=None)
    result = fit(model, [oscillator(300, 1)], [oscillator(150, 2)], config)
    assert torch.bfloat16 in dtypes
    assert next(model.parameters()).dtype == torch.float32
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    exact = fit(
        small_model(),
        [oscillator(300, 1)],
        [oscillator(150, 2)],
        quick(steps=80, lr=0.02, clip=None),
    )
    assert result.best_valid == pytest.approx(exact.best_valid, rel=0.1)


def test_automatic_precision_is_full_on_the_cpu() -> None:
    assert not uses_bfloat16(FitConfig(), torch.device("cpu"), 10**9)
    assert uses_bfloat16(FitConfig(precision="bfloat16"), torch.device("cpu"), 10)


def test_a_loss_that_is_not_finite_leads_back_to_the_best_weights() -> None:
    """One output of 1e30 overflows the loss of every window that holds it."""
    base = oscillator(600, 1)
    y = np.array(base.y)
    y[300] = 1e30
    model, valid = small_model(), [oscillator(200, 2)]
    config = quick(steps=2000, batch_size=1)
    result = fit(model, [Record(y, base.u)], valid, config)
    assert result.restarts == 5
    assert result.reason == "the loss was not finite 6 times"
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert np.isfinite(free_run(model, valid)[0]).all()
    assert result.history[-1]["lr"] < 0.3 * max(row["lr"] for row in result.history)


def test_a_polish_that_is_not_finite_stops() -> None:
    base = oscillator(600, 1)
    y = np.array(base.y)
    y[300] = 1e30
    model, expected = small_model(), small_model()
    config = quick(steps=0, polish_steps=20, polish_double=False)
    result = fit(model, [Record(y, base.u)], [oscillator(200, 2)], config)
    assert result.reason.endswith("polish: the loss of the polish was not finite")
    assert same_weights(model, expected)


def test_a_single_bad_step_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    loss = Problem.loss

    def sometimes(self, batch, state):
        calls.append(0)
        value, last = loss(self, batch, state)
        return (value * float("nan"), last) if len(calls) == 25 else (value, last)

    monkeypatch.setattr(Problem, "loss", sometimes)
    result = fit(small_model(), [oscillator(300, 1)], [oscillator(100, 2)], quick())
    assert result.restarts == 1
    assert result.steps == 40
    assert all(row["loss"] is not None for row in result.history)


def test_the_modes_and_the_log_are_as_promised(tmp_path, capsys: pytest.CaptureFixture) -> None:
    model = small_model().eval()
    folder = tmp_path / "a run"
    result = fit(
        model, [oscillator(300, 1)], [oscillator(100, 2)], quick(polish_steps=10), folder=folder
    )
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert rows == result.history
    assert [row["phase"] for row in rows] == ["adam"] * 4 + ["polish"]
    expected = {"phase", "step", "loss", "valid", "lr", "grad_norm", "seconds"}
    assert all(set(row) == expected for row in rows)
    assert capsys.readouterr() == ("", "")
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "log.jsonl"]


def test_the_bar_shows_when_asked(capsys: pytest.CaptureFixture) -> None:
    fit(small_model(), [oscillator(300, 1)], None, quick(polish_steps=5), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "polish" in shown.err
    assert "loss" in shown.err


def test_an_interrupt_leaves_a_usable_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    calls = []
    step = AdamPhase.step

    def interrupted(self):
        calls.append(0)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(AdamPhase, "step", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        fit(model, [oscillator(300, 1)], None, quick())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert np.isfinite(free_run(model, [oscillator(50, 2)])[0]).all()


class _TwoTypes(nn.Module):
    """A model with parameters of two types."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_model()
        self.outer = nn.Linear(1, 1, dtype=torch.float64)
        self.d_input, self.d_output = 1, 1

    def init_state(self, batch: int):
        return self.inner.init_state(batch)

    def forward(self, u, state=None, **arguments):
        y, state = self.inner(u, state, **arguments)
        return self.outer(y.double()).to(y.dtype), state


def test_parameters_of_two_types_train_together() -> None:
    model = _TwoTypes()
    before = float(model.outer.weight.detach())
    fit(model, [oscillator(300, 1)], None, quick(polish_steps=5))  # type: ignore[arg-type]
    assert float(model.outer.weight.detach()) != before
    assert model.outer.weight.dtype == torch.float64
    assert model.inner.output_map.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("train", "valid", "error", "words"),
    [
        ([], None, DataError, "at least one record"),
        (
            [Record(np.ones((50, 2)), np.ones((50, 1)))],
            None,
            ValueError,
            "the training records have 1 and 2",
        ),
        ([Record(np.ones((50, 1)))], None, ValueError, "the training records have 0 and 1"),
        (
            [oscillator(90, 1)],
            [Record(np.ones((50, 1)), np.ones((50, 3)))],
            ValueError,
            "the validation records have 3 and 1",
        ),
        ([oscillator(90, 1)], [], DataError, "at least one record"),
        ([oscillator(10, 1)], None, DataError, "the longest record has 10 samples"),
    ],
)
def test_records_that_do_not_fit_are_named(train, valid, error, words: str) -> None:
    with pytest.raises(error, match=words):
        fit(small_model(), train, valid, quick())


def test_arguments_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="seed is 0 or more; given -1"):
        fit(small_model(), [oscillator(90, 1)], None, quick(), seed=-1)
    with pytest.raises(ValueError, match="needs the folder"):
        fit(small_model(), [oscillator(90, 1)], None, quick(), resume=True)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            fit(small_model(), [oscillator(90, 1)], None, quick(), device="cuda")


@pytest.mark.parametrize("length", [1, 3])
def test_a_record_shorter_than_the_washout_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"longest record has {length} sample"):
        fit(small_model(), [oscillator(length, 0)], None, quick())


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="given 'tpu'"):
        fit(small_model(), [oscillator(200, 0)], None, quick(), device="tpu")
