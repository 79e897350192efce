from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from linear_floor import fir_errors, rms

from statewise._errors import DataError
from statewise.data import benchmarks
from statewise.data.benchmarks import Benchmark, Segment
from statewise.data.task import Task


@pytest.fixture(autouse=True)
def _no_folder_no_package(monkeypatch, request):
    """Without ``data_folder`` a test sees neither the user's folder nor the official package."""
    if "data_folder" not in request.fixturenames:
        monkeypatch.delenv("STATEWISE_DATA", raising=False)
    monkeypatch.setattr(benchmarks.registry, "_registered", {})
    if "package" not in request.fixturenames:
        monkeypatch.setattr(benchmarks.registry.importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def pump(tmp_path):
    """A description in Python and its file: 100 rows of k, 2 k, 3 k."""
    k = np.arange(100)
    rows = "\n".join(f"{i},{2 * i},{3 * i}" for i in k)
    (tmp_path / "pump.csv").write_text(f"volt,level,flow\n{rows}\n", encoding="utf-8")
    return Benchmark(
        name="pump",
        file="pump.csv",
        inputs=("volt",),
        outputs=("level",),
        train=(Segment(rows=(0, 60)),),
        tests={"late": (Segment(rows=(60, None)),), "flow": (Segment(outputs=("flow",)),)},
        window=5,
        dt=0.5,
        time_unit="s",
        input_units=("V",),
        output_units=("m",),
        unit="mm",
        scale=1000.0,
        references={"PID": {"late": 3.0}},
        folder=str(tmp_path),
    )


FIELDS = {
    "name": "pump",
    "file": "pump.csv",
    "inputs": ["volt"],
    "outputs": ["level"],
    "train": {"rows": [0, 60]},
    "tests": {"late": {"rows": [60, None]}},
    "window": 5,
    "dt": 0.5,
    "time_unit": "s",
}


def check_pump(task: Task) -> None:
    assert task.valid is not None
    assert span(task.train) == [(0, 94, 0)]
    assert span(task.valid) == [(86, 118, 5)]
    assert span(task.test["late"]) == [(120, 198, 5)]
    assert task.train.dt == 0.5
    assert task.train.time_unit == "s"


def span(experiments):
    return [(r.y[0, 0], r.y[-1, 0], r.skip) for r in experiments]


def test_rows_columns_window_and_units(pump):
    task = pump.load()
    check_pump(task)
    assert span(task.test["flow"]) == [(0, 297, 5)]
    np.testing.assert_array_equal(task.test["late"][0].u[:, 0], np.arange(60, 100))
    assert task.train.input_names == ("volt",)
    assert task.train.output_units == ("m",)
    assert (task.unit, task.scale, task.references) == ("mm", 1000.0, {"PID": {"late": 3.0}})
    assert task.train[0].name == "train"


def test_the_validation_part_can_be_chosen(pump):
    assert pump.load(valid_fraction=0).valid is None
    task = pump.load(valid_fraction=0.5, valid_context=20)
    assert task.valid is not None
    assert span(task.valid) == [(20, 118, 20)]


def test_descriptions_in_json_and_toml_find_files_beside_them(pump, tmp_path):
    (tmp_path / "pump.json").write_text(json.dumps(FIELDS), encoding="utf-8")
    (tmp_path / "pump.toml").write_text(
        'name = "pump"\nfile = "pump.csv"\ninputs = "volt"\noutputs = "level"\nwindow = 5\n'
        'dt = 0.5\ntime_unit = "s"\ntrain.rows = [0, 60]\ntests.late.rows = [60, 100]\n',
        encoding="utf-8",
    )
    check_pump(Benchmark.from_json(tmp_path / "pump.json").load())
    check_pump(Benchmark.from_toml(tmp_path / "pump.toml").load())
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DataError, match=r"expected the file pump\.csv in the folder .*other"):
        Benchmark.from_json(tmp_path / "pump.json").load(other)


def test_a_registered_description_is_loaded_by_name(pump, tmp_path):
    benchmarks.register_benchmark(pump)
    assert "pump" in benchmarks.available()
    check_pump(benchmarks.load("pump"))
    check_pump(benchmarks.load("pump", tmp_path))
    with pytest.raises(ValueError, match="already called 'pump'"):
        benchmarks.register_benchmark(pump)
    benchmarks.register_benchmark(pump, replace=True)
    with pytest.raises(TypeError, match="expected a Benchmark, got dict"):
        benchmarks.register_benchmark({"name": "x"})  # pyright: ignore[reportArgumentType]


def test_the_environment_names_the_folder(pump, tmp_path, monkeypatch):
    monkeypatch.setenv("STATEWISE_DATA", str(tmp_path))
    check_pump(Benchmark.from_dict(FIELDS).load())


def test_npz_files_and_several_records(tmp_path):
    np.savez(tmp_path / "a.npz", u=np.arange(30.0), y=np.arange(30.0))
    np.savez(tmp_path / "b.npz", u=np.arange(40.0), y=100 + np.arange(40.0))
    task = Benchmark(
        name="two",
        inputs=("u",),
        outputs=("y",),
        train=(Segment(file="a.npz"), Segment(file="b.npz", rows=(0, 20), name="half of b")),
        tests={"test": (Segment(file="b.npz", rows=(20, 40)),)},
        valid_fraction=0.5,
    ).load(tmp_path)
    assert [r.name for r in task.train] == ["train 1", "half of b"]
    assert span(task.train) == [(0, 14, 0), (100, 109, 0)]
    assert span(task.test["test"]) == [(120, 139, 0)]
    assert task.train.dt is None


def test_a_system_without_inputs(tmp_path):
    rows = "\n".join(str(k) for k in range(50))
    (tmp_path / "free.csv").write_text(f"y\n{rows}\n", encoding="utf-8")
    fields = {**FIELDS, "file": "free.csv", "inputs": [], "outputs": ["y"]}
    fields |= {"train": {"rows": [0, 25]}, "tests": {"test": {"rows": [25, 50]}}}
    task = Benchmark.from_dict(fields).load(tmp_path)
    assert task.train.n_u == 0
    assert task.train[0].u is None


def test_no_folder_names_the_variable_and_the_file():
    with pytest.raises(DataError) as caught:
        benchmarks.load("cascaded_tanks")
    assert "STATEWISE_DATA" in str(caught.value)
    assert "cascaded_tanks/cascaded_tanks.csv.gz" in str(caught.value)


def test_a_missing_file_names_the_variable_the_file_and_the_folder(tmp_path):
    with pytest.raises(DataError) as caught:
        benchmarks.load("silverbox", tmp_path)
    for words in ("STATEWISE_DATA", "silverbox_snls80mV.csv.gz", str(tmp_path)):
        assert words in str(caught.value)


def test_rows_that_the_file_does_not_have(pump, tmp_path):
    fields = {**FIELDS, "tests": {"late": {"rows": [60, 101]}}}
    with pytest.raises(DataError, match=r"rows 60 to 101 of .*pump\.csv, which has 100"):
        Benchmark.from_dict(fields).load(tmp_path)


def test_a_column_that_the_file_does_not_have(pump, tmp_path):
    with pytest.raises(DataError, match=r"pump\.csv.*'voltage'"):
        Benchmark.from_dict({**FIELDS, "inputs": ["voltage"]}).load(tmp_path)


def test_an_unknown_name_gets_suggestions():
    with pytest.raises(ValueError, match=r"did you mean one of .*'silverbox'"):
        benchmarks.load("silver_box")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colums": 1}, "benchmark 'pump' has the unknown field 'colums'"),
        ({"train": {"rws": [0, 1]}}, "unknown field 'rws'"),
        ({"train": {"rows": [5, 5]}}, "two increasing row numbers, got [5, 5]"),
        ({"train": {"rows": [0, 1.5]}}, "row numbers, got [0, 1.5]"),
        ({"train": {"rows": [-4, None]}}, "row numbers, got [-4, None]"),
        ({"train": []}, "at least one record"),
        ({"tests": {}}, "at least one record"),
        ({"tests": {"a": []}}, "at least one record"),
        ({"train": [3]}, "expected a segment, got 3"),
        ({"file": ""}, "names no file"),
        ({"outputs": []}, "outputs names no column"),
        ({"inputs": [1]}, "inputs must hold column names, got [1]"),
        ({"output_units": ["V", "A"]}, "output_units has 2 entries for 1 outputs"),
        ({"train": {"inputs": ["a", "b"]}}, "takes 2 columns as inputs, the benchmark has 1"),
    ],
)
def test_a_description_that_makes_no_sense(change, words):
    with pytest.raises(DataError) as caught:
        Benchmark.from_dict({**FIELDS, **change})
    assert words in str(caught.value)


def test_a_description_that_lacks_a_field():
    fields = {key: value for key, value in FIELDS.items() if key != "train"}
    with pytest.raises(DataError, match="benchmark 'pump' lacks the field 'train'"):
        Benchmark.from_dict(fields)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "cannot understand"), ("[1]", "holds list, expected an object")]
)
def test_a_file_that_is_no_description(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        Benchmark.from_json(path)
    with pytest.raises(DataError, match="cannot read the description"):
        Benchmark.from_json(tmp_path / "absent.json")


class Data:
    """What the official package hands out, by its documented attributes."""

    def __init__(self, start, n, window=None):
        self.u = np.arange(start, start + n, dtype=float)
        self.y = 2 * self.u
        self.sampling_time = 0.25
        self.name = "data"
        self.state_initialization_window_length = window


@pytest.fixture
def package(monkeypatch):
    module = types.ModuleType("nonlinear_benchmarks")
    tests = (Data(100, 30, 7), Data(200, 40, 7), Data(300, 50, 7))
    module.Silverbox = lambda: (Data(0, 50), tests)  # pyright: ignore
    module.Cascaded_Tanks = lambda: (Data(0, 50), Data(100, 30, 3))  # pyright: ignore
    module.CED = lambda: ((Data(0, 50), Data(60, 50)), (Data(100, 30, 3), Data(200, 30, 4)))  # pyright: ignore

    def offline():
        raise OSError("no route to host")

    module.WienerHammerBenchMark = offline  # pyright: ignore
    module.__spec__ = types.SimpleNamespace()  # pyright: ignore
    monkeypatch.setitem(sys.modules, "nonlinear_benchmarks", module)
    return module


def test_the_official_package_is_asked_when_no_folder_is_given(package):
    task = benchmarks.load("silverbox")
    assert list(task.test) == ["multisine", "arrow", "arrow_no_extrapolation"]
    assert span(task.test["arrow"]) == [(400, 478, 7)]
    assert task.train.dt == 0.25
    assert task.unit == "mV"
    assert task.valid is not None
    assert span(task.train) == [(0, 78, 0)]
    tanks = benchmarks.official("cascaded_tanks", valid_fraction=0)
    assert span(tanks.test["test"]) == [(200, 258, 3)]
    assert tanks.valid is None


def test_a_folder_comes_before_the_official_package(package, tmp_path):
    with pytest.raises(DataError, match="expected the file silverbox"):
        benchmarks.load("silverbox", tmp_path)


def test_what_the_official_package_cannot_do_is_one_sentence(package):
    with pytest.raises(DataError, match=r"could not get .*OSError: no route.*STATEWISE_DATA"):
        benchmarks.load("wiener_hammerstein_2009")
    with pytest.raises(DataError, match=r"different initialisation windows \[3, 4\]"):
        benchmarks.load("coupled_drives")
    with pytest.raises(DataError, match="'daisy_ph' is not in the package"):
        benchmarks.official("daisy_ph")
    package.Silverbox = package.Cascaded_Tanks
    with pytest.raises(DataError, match="gives 1 test sets, expected"):
        benchmarks.load("silverbox")
    del package.Silverbox
    with pytest.raises(DataError, match="has no loader 'Silverbox'"):
        benchmarks.official("silverbox")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nonlinear_benchmarks", None)
    with pytest.raises(ImportError, match=r"statewise\[benchmarks\]"):
        benchmarks.official("silverbox")


def test_shipped_descriptions_name_source_licence_and_window():
    assert len(benchmarks.available()) == 23
    for name in benchmarks.available():
        benchmark = benchmarks.get(name)
        assert benchmark.description
        assert benchmark.source
        assert benchmark.licence
        assert benchmark.window >= 10


# name: (train records + validation, test name: (samples, window)), n_u, n_y, dt.
SIZES = {
    "silverbox": (
        [65062],
        {"multisine": [21688], "arrow": [40475], "arrow_no_extrapolation": [32000]},
        (1, 1),
        1 / 610.35,
    ),
    "wiener_hammerstein_2009": ([100_000], {"test": [78_800]}, (1, 1), 1 / 51_200),
    "cascaded_tanks": ([1024], {"test": [1024]}, (1, 1), 4.0),
    "coupled_drives": ([400, 400], {"CED1": [100], "CED2": [100]}, (1, 1), 0.02),
    "coupled_drives_prbs": (
        [250] * 3,
        {"PRBS 1": [250], "PRBS 1.5": [250], "PRBS 0.5": [250]},
        (1, 1),
        0.02,
    ),
    "buck_converter": ([1001], {"test": [999]}, (1, 1), 1e-5),
    "daisy_ballbeam": ([500], {"test": [500]}, (1, 1), 0.1),
    "daisy_cd_player_arm": ([1024], {"test": [1024]}, (2, 2), None),
    "daisy_cstr": ([3750], {"test": [3750]}, (1, 2), 0.1),
    "daisy_dryer2": ([433], {"test": [434]}, (3, 3), 10.0),
    "daisy_evaporator": ([3152], {"test": [3153]}, (3, 3), None),
    "daisy_exchanger": ([2000], {"test": [2000]}, (1, 1), 1.0),
    "daisy_flutter": ([512], {"test": [512]}, (1, 1), None),
    "daisy_foetal_ecg": ([1250], {"test": [1250]}, (3, 5), 0.004),
    "daisy_glassfurnace": ([623], {"test": [624]}, (3, 6), None),
    "daisy_hair_dryer": ([500], {"test": [500]}, (1, 1), 0.08),
    "daisy_heating_system": ([400], {"test": [401]}, (1, 1), 2.0),
    "daisy_ph": ([1000], {"test": [1001]}, (2, 1), 10.0),
    "daisy_powerplant": ([100], {"test": [100]}, (5, 3), 1228.8),
    "daisy_robot_arm": ([512], {"test": [512]}, (1, 1), None),
    "daisy_steamgen": ([4800], {"test": [4800]}, (4, 4), 3.0),
    "daisy_thermic_res_wall": ([840], {"test": [840]}, (2, 1), None),
    "daisy_winding": ([1250], {"test": [1250]}, (5, 2), 0.1),
}
WINDOWS = {"coupled_drives": 10, "coupled_drives_prbs": 10, "buck_converter": 10}
WINDOWS |= {"daisy_powerplant": 10}


@pytest.mark.parametrize("name", SIZES)
def test_every_shipped_benchmark_has_the_right_rows(name, data_folder):
    train, tests, (n_u, n_y), dt = SIZES[name]
    task = benchmarks.load(name)
    assert (task.train.n_u, task.train.n_y) == (n_u, n_y)
    assert task.train.dt == (None if dt is None else pytest.approx(dt))
    assert task.valid is not None
    window = WINDOWS.get(name, 50)
    for part, valid, length in zip(task.train, task.valid, train, strict=True):
        assert len(part) + len(valid) - valid.skip == length
        assert len(part) == round(0.8 * length)
        assert valid.skip == min(window, len(part))
        # The context of validation is the end of the training part.
        np.testing.assert_array_equal(valid.y[: valid.skip], part.y[-valid.skip :])
    assert {key: [len(r) for r in test] for key, test in task.test.items()} == tests
    assert {r.skip for test in task.test.values() for r in test} == {window}
    for part in (task.train, *task.test.values()):
        for record in part:
            assert record.y_mask is None
            assert record.u_mask is None


def test_every_shipped_benchmark_is_in_the_table():
    assert sorted(SIZES) == list(benchmarks.available())


def test_silverbox_and_wiener_hammerstein_have_the_known_linear_error(data_folder):
    """The least-squares FIR errors that the descriptions quote, in mV."""
    for name, ridge in (("silverbox", 1e-6), ("wiener_hammerstein_2009", 1e-8)):
        task = benchmarks.load(name, valid_fraction=0)
        known = task.references["linear FIR, 150 lags (measured)"]
        found = {k: 1000 * rms(e) for k, e in fir_errors(task.train, task.test, 150, ridge).items()}
        assert found == pytest.approx(known, rel=0.005)
