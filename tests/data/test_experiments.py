from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise._errors import DataError
from statewise.data import Experiments, Record


def two_records(**more) -> Experiments:
    return Experiments(
        [
            Record(y=np.arange(10.0), u=np.arange(20.0).reshape(10, 2), dt=0.5, name="a"),
            Record(y=-np.arange(6.0), u=np.ones((6, 2)), dt=0.5, name="b"),
        ],
        input_names=["p", "q"],
        output_names=["r"],
        input_units=["V", "A"],
        output_units=["m"],
        time_unit="s",
        **more,
    )


def test_importing_the_package_needs_neither_torch_nor_pandas():
    code = (
        "import sys, statewise.data as d; d.Experiments; d.Normaliser; d.Record; "
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_sequence_and_meta():
    data = two_records()
    assert len(data) == 2
    assert data[1].name == "b"
    assert [record.name for record in data] == ["a", "b"]
    assert isinstance(data[:1], Experiments)
    assert data[:1].input_names == ("p", "q")
    assert (data.n_u, data.n_y, data.n_samples, data.dt) == (2, 1, 16, 0.5)
    assert data[0].time_unit == "s"
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.time_unit = "h"
    assert dataclasses.replace(data, records=(data[1],))[0].name == "b"


def test_repr():
    data = Experiments(
        [Record(y=np.zeros(4000), u=np.zeros((4000, 2)), dt=0.5)] * 3,
        input_names=("a", "b"),
    )
    assert repr(data) == (
        "Experiments(3 records, 12 000 samples, inputs: a, b; outputs: y; dt 0.5 s)"
    )
    alone = Experiments(Record(y=np.zeros((3, 9)), t=[0.0, 5.0, 6.0]), time_unit="h")
    assert repr(alone) == (
        "Experiments(1 record, 3 samples, no inputs; "
        "outputs: y1, y2, y3, y4, y5, y6, … (9); uneven time in h)"
    )


def test_default_names_and_units():
    data = Experiments(Record(y=np.zeros((3, 2)), u=np.zeros(3)))
    assert data.input_names == ("u",)
    assert data.output_names == ("y1", "y2")
    assert data.output_units == ("", "")
    assert data.time_unit == "samples"
    assert data.dt is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"records": []}, "at least one record"),
        (
            {"records": [Record(y=[1.0, 2.0]), Record(y=np.zeros((2, 2)), name="b")]},
            r"record 1 \('b'\) has 2 outputs and record 0 has 1",
        ),
        (
            {"records": [Record(y=[1.0], u=[1.0]), Record(y=[1.0])]},
            "record 1 has 0 inputs and record 0 has 1",
        ),
        ({"records": Record(y=[1.0]), "output_names": ["a", "b"]}, "2 entries for 1 channels"),
        ({"records": Record(y=np.ones((1, 2))), "output_names": ["a", "a"]}, "'a' more than once"),
        ({"records": Record(y=[1.0], u=[1.0]), "output_names": ["u"]}, "'u' is given to an input"),
        ({"records": Record(y=[1.0]), "output_units": ["m", "s"]}, "2 entries for 1 channels"),
        (
            {"records": [Record(y=[1.0], time_unit="s"), Record(y=[1.0], time_unit="h")]},
            "different time units",
        ),
    ],
)
def test_records_must_go_together(arguments, message):
    with pytest.raises(DataError, match=message):
        Experiments(**arguments)


def test_only_records_are_taken():
    with pytest.raises(TypeError, match="expected Record objects, got int"):
        Experiments([1])


def test_different_intervals_share_one_nominal():
    data = Experiments(
        [Record(y=np.zeros(9), dt=1.0), Record(y=np.zeros(3), dt=2.0), Record(y=[0.0], t=[3.0])]
    )
    assert data.dt is None
    assert data.nominal_dt == 1.0
    assert data[0].steps() is None
    np.testing.assert_array_equal(data[1].steps(), [1.0, 2.0, 2.0])
    np.testing.assert_array_equal(data.with_nominal_dt(0.5)[0].steps(), [1.0] + [2.0] * 8)
    with pytest.raises(ValueError, match="nominal_dt is 0"):
        data.with_nominal_dt(0)


def test_windows_of_uneven_data_keep_the_common_nominal_interval():
    data = Experiments(Record(y=np.zeros(8), t=[0, 1, 2, 3, 4, 7, 10, 13]))
    assert data.nominal_dt == 1.0
    last = data.windows(3, drop_last=False)[2]
    np.testing.assert_array_equal(last.steps(), [1.0, 3.0])


class TestFromArrays:
    def test_one_channel_and_units(self):
        data = Experiments.from_arrays(
            [1, 2, 3], [4, 5, 6], dt=0.1, input_names=["v"], input_units=["V"], time_unit="ms"
        )
        np.testing.assert_array_equal(data[0].u, [[1.0], [2.0], [3.0]])
        np.testing.assert_array_equal(data[0].y, [[4.0], [5.0], [6.0]])
        assert (data.dt, data.time_unit, data.input_units) == (0.1, "ms", ("V",))

    def test_nested_lists_are_one_record(self):
        assert Experiments.from_arrays(None, [[1, 2], [3, 4], [5, 6]])[0].y.shape == (3, 2)

    def test_lists_of_arrays_are_records_of_any_length(self):
        u = [np.arange(3.0), np.arange(5.0)]
        y = [np.ones((3, 2)), np.zeros((5, 2))]
        data = Experiments.from_arrays(u, y, dt=[1.0, 2.0], names=["a", "b"], skip=2)
        assert [len(r) for r in data] == [3, 5]
        assert [r.dt for r in data] == [1.0, 2.0]
        assert [r.name for r in data] == ["a", "b"]
        assert data[1].skip == 2

    def test_three_dimensions_are_records(self):
        y = np.arange(24.0).reshape(2, 4, 3)
        data = Experiments.from_arrays(None, y)
        np.testing.assert_array_equal(data[1].y, y[1])
        assert data[0].u is None

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
    def test_torch_tensors(self, dtype):
        u = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to(dtype)
        y = torch.nn.Parameter(torch.tensor([0.5, float("nan")]))
        data = Experiments.from_arrays(u, y)
        np.testing.assert_array_equal(data[0].u, [[0.0, 1.0], [1.0, 0.0]])
        np.testing.assert_array_equal(data[0].y, [[0.5], [np.nan]])
        assert len(Experiments.from_arrays([u, u], [y, y])) == 2
        assert len(Experiments.from_arrays(torch.zeros(3, 4, 1), torch.zeros(3, 4, 2))) == 3

    def test_complex_tensors_are_refused(self):
        with pytest.raises(DataError, match="complex"):
            Experiments.from_arrays(None, torch.zeros(3, dtype=torch.complex64))

    def test_masked_arrays_and_masks(self):
        y = np.ma.masked_array([1, 2, 3], mask=[False, True, False])
        data = Experiments.from_arrays(np.ones(3), y, u_mask=np.array([True, True, False]))
        np.testing.assert_array_equal(data[0].y_mask[:, 0], [True, False, True])
        np.testing.assert_array_equal(data[0].u_mask[:, 0], [True, True, False])

    def test_calendar_stamps_choose_their_unit(self):
        t = np.datetime64("2020-01-01") + np.arange(4) * np.timedelta64(90, "m")
        data = Experiments.from_arrays(None, np.zeros(4), t=t)
        assert (data.dt, data.time_unit) == (1.5, "h")
        assert data[0].start == t[0]
        np.testing.assert_array_equal(data[0].dates(), t)
        assert Experiments.from_arrays(None, np.zeros(4), t=t, time_unit="min").dt == 90.0

    def test_a_time_axis_for_all_records_or_for_each(self):
        shared = Experiments.from_arrays(None, np.zeros((2, 3, 1)), t=np.array([0.0, 1.0, 5.0]))
        assert [r.t.tolist() for r in shared] == [[0.0, 1.0, 5.0]] * 2
        each = Experiments.from_arrays(
            None, [np.zeros(2), np.zeros(3)], t=[np.arange(2), np.arange(3) * 2]
        )
        assert [r.dt for r in each] == [1.0, 2.0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"u": None, "y": None}, "both None"),
            ({"u": [], "y": []}, "empty list"),
            ({"u": np.zeros((5, 2)), "y": np.zeros((2, 5))}, "looks transposed"),
            (
                {"u": np.zeros(3), "y": np.zeros(4)},
                r"u has shape \(3, 1\) and y has shape \(4, 1\)",
            ),
            ({"u": np.zeros((2, 3, 1)), "y": np.zeros(3)}, "a list of 2 record.* one record"),
            ({"u": None, "y": np.zeros((2, 2, 2, 2))}, "expected .L,. or .L, channels."),
            (
                {"u": [np.zeros(2), np.zeros(3)], "y": [np.zeros(2), np.zeros(4)]},
                "of record 1 has shape",
            ),
            ({"u": None, "y": np.zeros(3), "t": [0, 1]}, r"t has shape \(2,\)"),
            ({"u": None, "y": np.zeros(3), "t": [0, 2, 1]}, "t goes backwards at sample 2"),
            (
                {"u": None, "y": np.zeros((2, 3, 1)), "t": [np.arange(3), np.array([0, 1, 1])]},
                "t of record 1 repeats",
            ),
            ({"u": None, "y": np.zeros((2, 3, 1)), "names": ["a"]}, "names has 1 entries"),
            ({"u": None, "y": [[1], [2, 3]]}, "rows of equal length"),
            ({"u": None, "y": object()}, "got object"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(DataError, match=message):
            Experiments.from_arrays(**arguments)

    def test_time_stamps_and_interval_exclude_each_other(self):
        with pytest.raises(ValueError, match="t and dt"):
            Experiments.from_arrays(None, [1, 2], t=[0, 1], dt=1.0)


class TestSplitTime:
    def test_exact_parts_with_context(self):
        data = Experiments(Record(y=np.arange(10.0), dt=2.0, start=np.datetime64("2020-01-01")),
                           time_unit="d")  # fmt: skip
        train, test = data.split_time((0.7, 0.3), context=4)
        np.testing.assert_array_equal(train[0].y[:, 0], np.arange(7.0))
        np.testing.assert_array_equal(test[0].y[:, 0], np.arange(3.0, 10.0))
        assert (train[0].skip, test[0].skip) == (0, 4)
        np.testing.assert_array_equal(test[0].times(), np.arange(3, 10) * 2.0)
        assert test[0].start == np.datetime64("2020-01-07")

    def test_seventy_percent_of_3653_days(self):
        train, test = Experiments(Record(y=np.zeros(3653))).split_time((0.7, 0.3))
        assert (len(train[0]), len(test[0])) == (2557, 1096)

    def test_what_is_left_over_is_dropped(self):
        (part,) = Experiments(Record(y=np.arange(8.0))).split_time((0.5,))
        np.testing.assert_array_equal(part[0].y[:, 0], np.arange(4.0))

    @given(
        lengths=st.lists(st.integers(20, 60), min_size=1, max_size=4),
        weights=st.lists(st.integers(1, 5), min_size=1, max_size=4),
        context=st.integers(0, 30),
        skip=st.integers(0, 5),
    )
    @settings(max_examples=60, deadline=None)
    def test_scored_samples_partition_each_record(self, lengths, weights, context, skip):
        records = [Record(y=np.arange(float(n)), t0=1.0, dt=1.0, skip=skip) for n in lengths]
        fractions = [w / sum(weights) for w in weights]
        parts = Experiments(records).split_time(fractions, context=context)
        for i, n in enumerate(lengths):
            scored = np.concatenate([part[i].y[part[i].skip :, 0] for part in parts])
            np.testing.assert_array_equal(scored, np.arange(float(skip), n))
            for k, part in enumerate(parts):
                whole = part[i].y[:, 0]
                assert (np.diff(whole) == 1).all()
                np.testing.assert_array_equal(part[i].times(), whole + 1.0)
                begin = whole[part[i].skip]
                assert part[i].skip == (skip if k == 0 else min(context, begin))

    @pytest.mark.parametrize(
        ("fractions", "error", "message"),
        [
            ((), ValueError, "expected one or more positive"),
            ((0.5, -0.1), ValueError, "positive"),
            ((0.8, 0.3), ValueError, "sum to 1.1"),
            ((float("nan"),), ValueError, "positive"),
            ((0.999, 0.001), DataError, "too few to give part 1"),
        ],
    )
    def test_refusals(self, fractions, error, message):
        with pytest.raises(error, match=message):
            Experiments(Record(y=np.arange(5.0), name="a")).split_time(fractions)


class TestSplitRecords:
    data = Experiments([Record(y=[float(i)], name=str(i)) for i in range(10)])

    def test_counts_and_shares_in_order(self):
        for sizes in ((6, 4), (0.6, 0.4)):
            first, second = self.data.split_records(sizes)
            assert [r.name for r in first] == list("012345")
            assert [r.name for r in second] == list("6789")

    def test_a_seed_shuffles_and_repeats(self):
        first, second = self.data.split_records((0.5, 0.5), seed=3)
        again, _ = self.data.split_records((0.5, 0.5), seed=3)
        other, _ = self.data.split_records((0.5, 0.5), seed=4)
        names = [r.name for r in first]
        assert sorted(names + [r.name for r in second]) == list("0123456789")
        assert names == [r.name for r in again]
        assert names != [r.name for r in other]
        assert names != list("01234")

    @pytest.mark.parametrize("sizes", [(), (0,), (6, 5), (0.9, 0.2)])
    def test_impossible_sizes(self, sizes):
        with pytest.raises(ValueError):
            self.data.split_records(sizes)

    def test_too_few_records(self):
        with pytest.raises(DataError, match="too few to give part 1"):
            self.data.split_records((0.99, 0.01))


class TestWindows:
    def test_exact_windows(self):
        y = np.arange(7.0)
        y[2] = np.nan
        data = Experiments(Record(y=y, u=y, dt=1.0, name="a", skip=2))
        found = data.windows(3, 2)
        assert [w.times().tolist() for w in found] == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
        assert [w.skip for w in found] == [0, 0, 0]
        np.testing.assert_array_equal(found[0].y_mask[:, 0], [True, True, False])
        np.testing.assert_array_equal(found[0].u_mask[:, 0], [True, True, False])
        assert found[2].y_mask is None
        assert found.dt == 1.0
        assert found[0].name == "a"

    @given(
        lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
        length=st.integers(1, 12),
        stride=st.integers(1, 12),
    )
    @settings(max_examples=80, deadline=None)
    def test_windows_cover_every_sample_when_none_is_dropped(self, lengths, length, stride):
        stride = min(stride, length)
        records = [Record(y=100.0 * i + np.arange(n)) for i, n in enumerate(lengths)]
        found = Experiments(records).windows(length, stride, drop_last=False)
        seen = np.unique(np.concatenate([w.y[:, 0] for w in found]))
        np.testing.assert_array_equal(seen, np.unique(np.concatenate([r.y[:, 0] for r in records])))
        assert all(len(w) <= length and (np.diff(w.y[:, 0]) == 1).all() for w in found)
        full = sum(max(0, (n - length) // stride + 1) for n in lengths)
        if full:
            dropped = Experiments(records).windows(length, stride)
            assert len(dropped) == full
            assert all(len(w) == length for w in dropped)

    def test_refusals(self):
        data = Experiments(Record(y=np.arange(5.0)))
        with pytest.raises(DataError, match=r"no window of 6 samples fits.* 5 samples"):
            data.windows(6)
        with pytest.raises(ValueError, match="length is 0"):
            data.windows(0)
        with pytest.raises(ValueError, match="stride is 0"):
            data.windows(2, 0)
        with pytest.raises(TypeError, match=r"length is 2\.5"):
            data.windows(2.5)


def test_map_keeps_names_and_follows_the_interval():
    data = two_records()
    doubled = data.map(lambda r: dataclasses.replace(r, y=2 * r.y))
    np.testing.assert_array_equal(doubled[0].y[:, 0], 2 * np.arange(10.0))
    assert doubled.output_names == ("r",)
    assert doubled.output_units == ("m",)
    thin = data.map(lambda r: dataclasses.replace(r, y=r.y[::2], u=r.u[::2], dt=2 * r.dt))
    assert thin.dt == thin.nominal_dt == 1.0
    assert thin[0].steps() is None
    alone = data.map(lambda r: Record(y=r.u, dt=r.dt))
    assert alone.n_u == 0
    assert alone.output_names == ("y1", "y2")
    with pytest.raises(TypeError, match="Record"):
        data.map(lambda r: r.y)


def test_select():
    data = two_records().select(inputs=["q"])
    assert (data.input_names, data.input_units, data.n_y) == (("q",), ("A",), 1)
    np.testing.assert_array_equal(data[0].u[:, 0], np.arange(1.0, 20.0, 2))
    assert data[0].dt == 0.5
    assert two_records().select(inputs=[]).n_u == 0
    assert two_records().select(inputs=[1, 0]).input_names == ("q", "p")
    with pytest.raises(DataError, match=r"no input 'pp'; it has p, q; did you mean 'p'\?"):
        two_records().select(inputs="pp")
    with pytest.raises(DataError, match="more than once"):
        two_records().select(inputs=["p", 0])


def test_concat():
    data = two_records()
    both = Experiments.concat([data, data[1:]])
    assert [r.name for r in both] == ["a", "b", "b"]
    assert both.input_units == ("V", "A")
    with pytest.raises(DataError, match="part 1 has input names"):
        Experiments.concat([data, data.select(inputs=["p"])])
    with pytest.raises(DataError, match="at least one part"):
        Experiments.concat([])


class TestArchive:
    def test_exact_round_trip(self, tmp_path):
        y = np.array([0.1, np.nan, 1e-300])
        data = Experiments(
            [
                Record(y=y, u=y[::-1], t=[0.0, 0.1, 1 / 3], name="a", skip=1),
                Record(y=y[:2], u=y[:2], dt=0.1, t0=1 / 3, start=np.datetime64("2020-01-01T01")),
            ],
            input_names=["û"],
            output_units=["m³/s"],
            time_unit="h",
        )
        data.to_npz(tmp_path / "data.npz")
        for back in (
            Experiments.from_npz(tmp_path / "data.npz"),
            Experiments.from_file(tmp_path / "data.npz"),
        ):
            for key in ("input_names", "output_names", "input_units", "output_units", "time_unit"):
                assert getattr(back, key) == getattr(data, key)
            for ours, theirs in zip(back, data, strict=True):
                for field in dataclasses.fields(Record):
                    mine, other = getattr(ours, field.name), getattr(theirs, field.name)
                    if isinstance(other, np.ndarray):
                        np.testing.assert_array_equal(mine, other, strict=True)
                    else:
                        assert mine == other

    def test_other_files_are_refused(self, tmp_path):
        np.savez(tmp_path / "x.npz", y=np.zeros(3))
        with pytest.raises(DataError, match=r"not written by Experiments\.to_npz"):
            Experiments.from_npz(tmp_path / "x.npz")
        np.savez(tmp_path / "x.npz", statewise_experiments=np.array('{"version": 2}'))
        with pytest.raises(DataError, match="format version 2"):
            Experiments.from_npz(tmp_path / "x.npz")
        np.savez(tmp_path / "x.npz", statewise_experiments=np.array('{"version": 1}'))
        with pytest.raises(DataError, match="header"):
            Experiments.from_npz(tmp_path / "x.npz")
