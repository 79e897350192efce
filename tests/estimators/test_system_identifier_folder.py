"""SystemIdentifier on disk: the same model back, in any process, or a sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from identifier_systems import identifier, measured, quick
from safetensors.numpy import load_file, save_file

from statewise._errors import DataError
from statewise.data import Experiments, Record
from statewise.estimators import FIR, SystemIdentifier
from statewise.estimators._base import NotFittedError
from statewise.estimators.noise import ErrorModel
from statewise.estimators.transform import SignedPower
from statewise.train import EncoderState

U, Y = measured(400, seed=1)
DATA = Experiments([Record(y=Y, u=U, skip=20, dt=0.5)])


@pytest.fixture
def folder(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, change):
    """Apply ``change`` to the config of a saved model."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def assert_same(one, two):
    np.testing.assert_array_equal(one.simulate(U), two.simulate(U))
    np.testing.assert_array_equal(one.predict(U, Y, steps=3), two.predict(U, Y, steps=3))
    np.testing.assert_array_equal(one.forecast(U, Y, U[:9]), two.forecast(U, Y, U[:9]))
    np.testing.assert_array_equal(one.simulate(DATA)[0], two.simulate(DATA)[0])
    for name in ("history_", "scores_", "fit_seconds_", "input_names_", "output_units_"):
        assert getattr(one, name) == getattr(two, name), name
    for name in ("time_unit_", "dt_", "nominal_dt_", "n_features_in_"):
        assert getattr(one, name) == getattr(two, name), name
    assert one.get_params() == two.get_params()


def test_loaded_model_is_the_saved_one(fitted, folder):
    loaded = SystemIdentifier.load(folder)
    assert_same(loaded, fitted)
    loaded.save(folder)
    assert_same(SystemIdentifier.load(folder), fitted)


def test_folder_holds_plain_files_only(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    for name in ("config.json", "metrics.json"):
        text = (folder / name).read_text(encoding="utf-8")
        json.loads(text, parse_constant=refuse)
    assert load_file(folder / "model.safetensors")


def test_history_is_ready_for_json(fitted):
    assert json.loads(json.dumps(fitted.history_, allow_nan=False)) == fitted.history_
    assert {row["phase"] for row in fitted.history_} == {"adam", "polish"}


@pytest.mark.parametrize(
    ("training", "settings"),
    [
        (quick(initial_state=EncoderState(16, 8)), {"transform": SignedPower(0.5, floor=0.0)}),
        (None, {"valid_fraction": 0.0, "seed": 7}),
    ],
    ids=["encoder and transform", "defaults"],
)
def test_every_part_comes_back(tmp_path, training, settings):
    model = identifier(training, **settings).fit(DATA)
    model.save(tmp_path / "model")
    assert_same(SystemIdentifier.load(tmp_path / "model"), model)


def test_error_model_without_memory_comes_back(tmp_path):
    model = identifier().fit(U, Y)
    model.error_model_ = ErrorModel(np.zeros((2, 0)), np.array([0.5, 0.25]))
    model.save(tmp_path / "model")
    loaded = SystemIdentifier.load(tmp_path / "model")
    assert loaded.error_model_.coefficients.shape == (2, 0)
    assert loaded.error_model_.variance.tolist() == [0.5, 0.25]
    np.testing.assert_array_equal(loaded.predict(U, Y), model.predict(U, Y))


def test_fresh_process_gives_the_same_numbers(tmp_path):
    settings = {"transform": SignedPower(0.9), "valid_fraction": 0.1}
    model = identifier(quick(initial_state=EncoderState(16, 8)), **settings).fit(DATA)
    model.save(tmp_path / "model")
    np.save(tmp_path / "u.npy", U)
    script = (
        "import sys, numpy as np\n"
        "from statewise.estimators import SystemIdentifier\n"
        "model = SystemIdentifier.load(sys.argv[1] + '/model')\n"
        "np.save(sys.argv[1] + '/y.npy', model.simulate(np.load(sys.argv[1] + '/u.npy')))\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model.simulate(U))


# ---- damage ----


def test_missing_or_foreign_folders_are_refused(fitted, folder, tmp_path):
    with pytest.raises(DataError, match=r"is no saved model: it lacks config\.json"):
        SystemIdentifier.load(tmp_path / "nothing")
    FIR(lags=3, ridge=0.0).fit(U, Y).save(tmp_path / "fir")
    with pytest.raises(DataError, match="fir holds a FIR, not a SystemIdentifier"):
        SystemIdentifier.load(tmp_path / "fir")
    with pytest.raises(DataError, match="model holds a SystemIdentifier, not a FIR"):
        FIR.load(folder)
    with pytest.raises(NotFittedError):
        identifier().save(folder)
    assert_same(SystemIdentifier.load(folder), fitted)


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "binary"])
def test_damaged_files_are_refused(folder, name, damage):
    path = folder / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        pieces = {"empty": b"", "half": whole[: len(whole) // 2], "binary": b"\x80\xff" * 50}
        path.write_bytes(pieces[damage])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        SystemIdentifier.load(folder)


def test_files_of_different_models_are_refused(folder, tmp_path):
    identifier().fit(U[:, :1], Y).save(tmp_path / "other")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(DataError, match="the weights do not fit the model"):
        SystemIdentifier.load(folder)
    weights.write_bytes(whole)
    rewrite(folder, lambda config: config["signals"]["input_names"].pop())
    with pytest.raises(DataError, match="names 1 inputs and 2 outputs; the network has 2 and 2"):
        SystemIdentifier.load(folder)


def test_sizes_of_all_parts_are_compared(folder):
    def cut(config):
        config["fitted"]["normaliser"]["u_mean"].pop()
        config["fitted"]["normaliser"]["u_std"].pop()

    rewrite(folder, cut)
    with pytest.raises(DataError, match="names 2 inputs and 2 outputs; the scaling has 1 and 2"):
        SystemIdentifier.load(folder)


def test_encoder_weights_belong_to_the_folder(tmp_path):
    folder = tmp_path / "model"
    identifier(quick(initial_state=EncoderState(16, 8))).fit(U, Y).save(folder)
    tensors = load_file(folder / "initial_state.safetensors")
    save_file({name: value[..., :1] for name, value in tensors.items()}, folder / "x")
    (folder / "x").rename(folder / "initial_state.safetensors")
    with pytest.raises(DataError, match=r"initial_state\.safetensors: the weights do not fit"):
        SystemIdentifier.load(folder)
    (folder / "initial_state.safetensors").unlink()
    with pytest.raises(DataError, match=r"initial_state\.safetensors: the file .* is missing"):
        SystemIdentifier.load(folder)


def leaves(value, path=()):
    """Paths to every value of nested dictionaries and lists, inner nodes included."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


@pytest.mark.parametrize("value", [None, "x", -1, {}, [], {"kind": "ZeroState"}, 0.5], ids=repr)
def test_odd_values_in_the_config_load_or_are_refused_in_a_sentence(folder, value):
    text = (folder / "config.json").read_text(encoding="utf-8")
    said = []
    for path in leaves(json.loads(text)):
        if path[:2] == ("fitted", "history") and len(path) > 2:
            continue

        def put(config, path=path):
            for key in path[:-1]:
                config = config[key]
            config[path[-1]] = value

        rewrite(folder, put)
        try:
            SystemIdentifier.load(folder)
        except DataError as error:
            said.append(str(error))
        (folder / "config.json").write_text(text, encoding="utf-8")
    assert len(said) > 20
    assert not any("\n" in sentence for sentence in said)
