"""Which samples the windows hold, and that the samplers go on where they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statewise._errors import DataError
from statewise.data import Record
from statewise.train.batches import assemble
from statewise.train.carry import CarrySampler
from statewise.train.sampling import WindowSampler
from statewise.train.signals import Signals


def _record(length: int, first: float = 0.0, **fields) -> Record:
    time = first + np.arange(length, dtype=float)
    return Record(np.stack([time, -time], axis=1), time[:, None], **fields)


def _signals(*records: Record, longest: int = 10) -> Signals:
    return Signals(records, longest, dtype=torch.float64)


def _windows(signals: Signals, window: int = 10, **changes) -> WindowSampler:
    parts = {"stride": 5, "batch_size": 4, "context": 0, "washout": 0, "learned": False, "seed": 3}
    return WindowSampler(signals, window=window, **(parts | changes))


def _lanes(signals: Signals, window: int = 10, **changes) -> CarrySampler:
    parts = {"batch_size": 3, "context": 0, "washout": 0, "learned": False, "seed": 3}
    return CarrySampler(signals, window=window, **(parts | changes))


def test_windows_are_slices_of_the_records() -> None:
    records = [_record(23), _record(31, 100.0)]
    signals = _signals(*records)
    sampler = _windows(signals)
    for _ in range(10):
        plan = sampler.next()
        batch = assemble(signals, plan, sampler.length, 0)
        for row, (start, record) in enumerate(zip(plan.starts, plan.record, strict=True)):
            first = start - signals.offsets[record]
            expected = records[record].y[first : first + 10]
            np.testing.assert_array_equal(batch.data.y[row].numpy(), expected)
            np.testing.assert_array_equal(batch.data.u[row, :, 0].numpy(), expected[:, 0])
        assert batch.data.weight is None
        assert batch.count == 4 * 10 * 2


def test_every_epoch_sees_every_sample() -> None:
    signals = _signals(_record(23), _record(10), _record(4), _record(57))
    sampler = _windows(signals, batch_size=1)
    seen = np.zeros((3, signals.n_samples), dtype=bool)
    while sampler._epoch < 3:
        plan = sampler.next()
        if sampler._epoch < 3:
            seen[sampler._epoch, plan.starts[0] : plan.starts[0] + plan.lengths[0]] = True
    assert seen.all()


def test_offsets_change_from_epoch_to_epoch() -> None:
    sampler = _windows(_signals(_record(200)), batch_size=1)
    first = {tuple(sampler._draw(epoch)[:, 1]) for epoch in range(4)}
    assert len(first) == 4


def test_padding_and_washout_do_not_count() -> None:
    signals = _signals(_record(7), _record(30, 100.0))
    sampler = _windows(signals, washout=2, batch_size=64)
    assert sampler.batch_size == 1 + 21
    plan = sampler.next()
    batch = assemble(signals, plan, sampler.length, 0)
    assert batch.first == 2
    row = int(np.flatnonzero(plan.record == 0)[0])
    assert batch.data.weight is not None
    np.testing.assert_array_equal(batch.data.weight[row, :, 0].numpy(), [0] * 2 + [1] * 5 + [0] * 3)
    assert batch.count == 2 * float(batch.data.weight.sum())


def test_missing_and_skipped_outputs_do_not_count() -> None:
    y = np.ones((10, 2))
    y[4, 0] = np.nan
    signals = _signals(Record(y, np.ones((10, 1)), skip=3))
    sampler = _windows(signals)
    batch = assemble(signals, sampler.next(), 10, 0)
    expected = np.ones((10, 2))
    expected[:3] = 0
    expected[4, 0] = 0
    assert batch.data.weight is not None
    np.testing.assert_array_equal(batch.data.weight[0].numpy(), expected)
    assert batch.count == expected.sum()
    assert torch.isfinite(batch.data.y).all()


def test_a_learned_start_has_no_washout_at_the_start_of_a_record() -> None:
    signals = _signals(_record(40))
    sampler = _windows(signals, washout=4, learned=True, batch_size=31)
    plan = sampler.next()
    np.testing.assert_array_equal(plan.dead, np.where(plan.at_start, 0, 4))
    assert plan.at_start.any()
    assert not plan.at_start.all()


def test_the_context_is_what_lies_in_front() -> None:
    signals = _signals(_record(40, skip=2), _record(12, 100.0))
    sampler = _windows(signals, context=3, washout=5)
    assert sampler.length == 7
    for _ in range(5):
        batch = assemble(signals, sampler.next(), sampler.length, 3)
        assert batch.context is not None
        torch.testing.assert_close(batch.context.y[:, -1, 0] + 1, batch.data.y[:, 0, 0])
        assert batch.context.weight is None  # skipped samples may serve as context
        assert batch.first == 0


def test_windows_without_outputs_are_left_out() -> None:
    y = np.full((60, 1), np.nan)
    y[33:36] = 1.0
    signals = _signals(Record(y, np.ones((60, 1))))
    sampler = _windows(signals)
    for _ in range(8):
        assert assemble(signals, sampler.next(), 10, 0).count > 0
    assert all((signals.counts(p.starts, p.starts + 10) > 0).all() for p in sampler.cover(1000))


@pytest.mark.parametrize("make", [_windows, _lanes])
def test_nothing_to_learn_from_is_a_sentence(make) -> None:
    with pytest.raises(DataError, match="the longest record has 8 samples"):
        make(_signals(_record(8), _record(5)), washout=9)


@pytest.mark.parametrize("make", [_windows, _lanes])
def test_a_sampler_goes_on_where_it_was(make) -> None:
    signals = _signals(_record(57), _record(33), _record(95))
    whole = make(signals, washout=2)
    plans = [whole.next() for _ in range(30)]
    for at in (0, 1, 7, 19):
        first = make(signals, washout=2)
        for _ in range(at):
            first.next()
        second = make(signals, washout=2)
        second.load(first.state())
        for plan in plans[at:]:
            for mine, expected in zip(second.next(), plan, strict=True):
                np.testing.assert_array_equal(mine, expected)


def test_another_seed_gives_other_windows() -> None:
    signals = _signals(_record(500))
    first, second = _windows(signals, seed=1).next(), _windows(signals, seed=2).next()
    assert (first.starts != second.starts).any()


def test_cover_counts_each_sample_once_and_keeps_to_its_budget() -> None:
    signals = _signals(_record(102), _record(6))
    sampler = _windows(signals, washout=2)
    plans = sampler.cover(10_000)
    hits = np.zeros(signals.n_samples)
    for plan in plans:
        for start, dead, length in zip(plan.starts, plan.dead, plan.lengths, strict=True):
            hits[start + dead : start + length] += 1
    assert (hits[2:102] >= 1).all()
    assert hits[2:102].sum() <= 102 + 8
    assert (hits[104:] == 1).all()
    few = sampler.cover(30)
    assert sum(len(plan.starts) for plan in few) == 3


def test_lanes_walk_their_segments_without_gaps() -> None:
    signals = _signals(_record(205), _record(44))
    sampler = _lanes(signals, washout=4)
    before = sampler.next()
    assert before.fresh is not None
    assert before.fresh.all()
    for _ in range(40):
        plan = sampler.next()
        assert plan.fresh is not None
        assert before.fresh is not None
        goes_on = ~plan.fresh
        np.testing.assert_array_equal(plan.starts[goes_on], before.starts[goes_on] + 10)
        np.testing.assert_array_equal(plan.dead, np.where(plan.fresh, 4, 0))
        ends = plan.starts + plan.lengths
        limit = (signals.offsets + signals.lengths)[plan.record]
        assert (ends <= limit).all()
        before = plan


def test_lanes_cover_all_but_the_first_washout() -> None:
    signals = _signals(_record(205), _record(44), _record(3))
    sampler = _lanes(signals, washout=4)
    hits = np.zeros(signals.n_samples, dtype=int)
    for record, begin, stop in sampler._draw(5):
        first = signals.offsets[record] + begin
        hits[first + 4 : signals.offsets[record] + stop] += 1
    expected = np.ones(signals.n_samples, dtype=int)
    for offset in signals.offsets:
        expected[offset : offset + 4] = 0
    np.testing.assert_array_equal(hits, expected)


def test_after_a_restart_every_lane_is_fresh() -> None:
    sampler = _lanes(_signals(_record(205)), washout=4)
    sampler.next()
    sampler.restart()
    plan = sampler.next()
    assert plan.fresh is not None
    assert plan.fresh.all()


def test_records_of_other_channels_are_refused() -> None:
    with pytest.raises(DataError, match="has 1 inputs and 1 outputs; the first record has 1 and 2"):
        _signals(_record(20), Record(np.ones((20, 1)), np.ones((20, 1))))
