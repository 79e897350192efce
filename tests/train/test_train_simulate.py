"""Free runs of whole records, and the error they are judged by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from train_systems import linear_model, oscillator, small_model

from statewise._errors import DataError
from statewise.data import Record, metrics
from statewise.nn import DiscreteDiagonal, Ring
from statewise.train import (
    EncoderState,
    FreeRunError,
    LearnedState,
    LeastSquaresState,
    free_run,
    simulate,
)


def _direct(model, record: Record) -> np.ndarray:
    """One call of the model with everything a record holds."""
    u = torch.from_numpy(np.nan_to_num(record.u)).float()[None]
    steps = record.steps()
    dt = None if steps is None else torch.from_numpy(steps).float()[None]
    mask = None if record.u_mask is None else torch.from_numpy(np.array(record.u_mask))[None]
    with torch.no_grad():
        return model(u, dt=dt, mask=mask)[0][0].double().numpy()


def _gaps(record: Record) -> Record:
    u = np.array(record.u)
    u[5:9] = np.nan
    return Record(record.y, u, dt=1.0, name="gaps")


def _uneven(record: Record) -> Record:
    step = np.random.default_rng(0).uniform(0.5, 1.5, len(record))
    return Record(record.y, record.u, t=np.cumsum(step), name="uneven")


def test_records_of_any_kind_run_side_by_side() -> None:
    model = small_model()
    records = [oscillator(length, length) for length in (90, 41, 63)]
    records += [_gaps(oscillator(70, 4)), _uneven(oscillator(55, 5))]
    for group in (records[:3], records[:4], records):
        runs = free_run(model, group, batch_size=2)
        for record, run in zip(group, runs, strict=True):
            assert run.dtype == np.float64
            np.testing.assert_allclose(run, _direct(model, record), atol=2e-6)


def test_long_records_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    records = [_uneven(oscillator(301, 1)), _gaps(oscillator(257, 2))]
    whole = free_run(model, records)
    lengths = []
    forward = type(model).forward
    monkeypatch.setattr(simulate, "SAMPLES_AT_ONCE", 64)
    monkeypatch.setattr(
        type(model),
        "forward",
        lambda self, u, *a, **k: lengths.append(u.shape[1]) or forward(self, u, *a, **k),
    )
    pieces = free_run(model, records)
    assert max(lengths) == 32
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_the_model_stays_in_its_mode_and_has_no_gradient() -> None:
    model = small_model(dropout=0.5).train()
    first, second = free_run(model, [oscillator(50, 1)])[0], free_run(model, [oscillator(50, 1)])[0]
    np.testing.assert_array_equal(first, second)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_skipped_start_sets_the_state() -> None:
    """A model that is the system itself, started far from rest."""
    model = linear_model(seed=3, poles=DiscreteDiagonal(Ring(0.95, 0.99)))
    rng = np.random.default_rng(0)
    u = torch.from_numpy(rng.standard_normal((3, 80, 1))).float()
    state = tuple(
        4 * torch.randn(s.shape, generator=torch.manual_seed(1)) for s in model.init_state(3)
    )
    with torch.no_grad():
        y, _ = model(u, state)
    records = [Record(y[i].numpy(), u[i].numpy(), skip=skip) for i, skip in enumerate((20, 20, 0))]
    rest = free_run(model, records)
    found = free_run(model, records, initial_state=LeastSquaresState(12, ridge=1e-9))
    for record, run, better in zip(records[:2], rest[:2], found[:2], strict=True):
        np.testing.assert_array_equal(run[:20], better[:20])
        error, less = np.abs(run - record.y)[20:].max(), np.abs(better - record.y)[20:].max()
        assert less < 1e-4 < 0.01 < error
    np.testing.assert_array_equal(rest[2], found[2])
    # With fewer skipped samples than the strategy asks for, those there are serve.
    short = free_run(model, records, initial_state=LeastSquaresState(64, ridge=1e-9))
    assert np.abs(short[0] - records[0].y)[20:].max() < 1e-4


def test_an_encoder_must_be_trained() -> None:
    with pytest.raises(ValueError, match="needs its trained network"):
        free_run(small_model(), [oscillator(50, 1)], initial_state=EncoderState())


def test_learned_states_are_rest_elsewhere() -> None:
    model, records = small_model(), [oscillator(50, 1, skip=10)]
    expected = free_run(model, records)[0]
    np.testing.assert_array_equal(
        free_run(model, records, initial_state=LearnedState())[0], expected
    )


def test_the_error_is_the_pooled_nrmse() -> None:
    model = small_model()
    y = np.array(oscillator(60, 2).y)
    y[30:40] = np.nan
    records = [oscillator(80, 1, skip=13), Record(y, oscillator(60, 2).u)]
    runs = free_run(model, records)
    measured = np.concatenate([record.y[record.skip :] for record in records])
    simulated = np.concatenate([run[r.skip :] for run, r in zip(runs, records, strict=True)])
    expected = metrics.nrmse(measured, simulated)[0]
    assert FreeRunError(records)(model) == pytest.approx(expected, rel=1e-12)


def test_an_error_without_outputs_is_a_sentence() -> None:
    y = np.full((20, 1), np.nan)
    y[:5] = 0.0
    with pytest.raises(DataError, match="no observed output"):
        FreeRunError([Record(y, np.ones((20, 1)), skip=5)])


def test_an_output_that_is_not_finite_is_an_infinite_error() -> None:
    model = small_model()
    with torch.no_grad():
        model.output_map.bias.fill_(float("nan"))
    assert FreeRunError([oscillator(30, 1)])(model) == float("inf")
