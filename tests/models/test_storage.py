"""Models as folders: exact round trips, and one sentence for everything that is damaged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from statewise._errors import DataError
from statewise.lti import Euler, Trapezoid
from statewise.models import DeepWiener, DeepWienerConfig, load_model, save_model
from statewise.nn import (
    MLP,
    Auto,
    Bank,
    ContinuousDiagonal,
    DiscreteDiagonal,
    GivenDiscrete,
    LayerNorm,
    Polynomial,
    RealDiagonal,
    RMSNorm,
    S4DInv,
    Scan,
    state_tensors,
)

SMALL = DeepWienerConfig(n_layers=2, d_model=3, d_state=2)
CONFIGS = {
    "default": SMALL,
    "trapezoid bank": DeepWienerConfig(
        n_layers=2,
        d_model=2,
        d_state=2,
        poles=ContinuousDiagonal(S4DInv(), Trapezoid(), 0.01, 0.2, True),
        coupling=Bank(),
        static=Polynomial(4, 2.0),
        norm=RMSNorm(),
        prenorm=False,
        direct=True,
        simulator=Scan(),
    ),
    "given poles": DeepWienerConfig(
        n_layers=1,
        d_model=3,
        d_state=2,
        poles=DiscreteDiagonal(GivenDiscrete((0.9, 0.5), (0.1, 0.4)), "trained"),
        static=MLP(4),
        skip="linear",
        norm=LayerNorm(),
        dropout=0.25,
        input_map=False,
        bias=True,
        simulator=Auto(128),
    ),
    "real": DeepWienerConfig(n_layers=1, d_model=2, d_state=2, poles=RealDiagonal(rule=Euler(0.7))),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a saved model."""
    path = tmp_path / "a model"
    save_model(DeepWiener(2, 1, SMALL, seed=3), path)
    return path


def told(path: Path, *words: str) -> str:
    """Loading fails with one sentence that names the folder and the words."""
    with pytest.raises(DataError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message, f"{word!r} is not in {message!r}"
    return message


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_is_exact(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    model = DeepWiener(3, 2, CONFIGS[name], seed=5).to(dtype)
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.config == model.config
    assert (again.d_input, again.d_output) == (3, 2)
    assert not again.training
    stored, found = model.state_dict(), again.state_dict()
    assert list(stored) == list(found)
    for key, value in stored.items():
        assert found[key].dtype == dtype
        assert torch.equal(found[key], value)
    u = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    y, state = model.eval()(u)
    repeated, last = again(u)
    assert torch.equal(repeated, y)
    for one, other in zip(state_tensors(last), state_tensors(state), strict=True):
        assert torch.equal(one, other)


def test_folder_holds_two_readable_files(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["format"] == 1
    assert config["model"] == "DeepWiener"
    assert config["parts"]["kind"] == "DeepWienerConfig"
    assert "blocks.0.lti.poles.nu" in load_file(folder / "model.safetensors")


def test_saving_replaces_the_folder(folder: Path) -> None:
    (folder / "stray.txt").write_text("old", encoding="utf-8")
    model = DeepWiener(1, 1, CONFIGS["given poles"])
    save_model(model, folder)
    assert load_model(folder).config == model.config
    assert not (folder / "stray.txt").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_failed_saving_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("statewise.models.storage.save_file", fail)
    with pytest.raises(OSError, match="disk is full"):
        save_model(DeepWiener(1, 1, SMALL), folder)
    assert load_model(folder).d_input == 2
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_missing_parts_are_told(folder: Path, tmp_path: Path) -> None:
    told(tmp_path / "nowhere", "no model here", "config.json")
    (folder / "model.safetensors").unlink()
    told(folder, "model.safetensors", "missing")
    (folder / "config.json").unlink()
    told(folder, "no model here")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "expected JSON"),
        (b'{"format": 1,', "expected JSON"),
        (b"\xff\xfe\x00", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b"{}", "expected format 1, found None"),
        (b'{"format": 2}', "expected format 1, found 2"),
        (b'{"format": 1}', "DeepWiener"),
        (b'{"format": 1, "model": "Transformer"}', "'Transformer'"),
        (b'{"format": 1, "model": "DeepWiener"}', "lacks dtype, n_inputs, n_outputs, parts"),
    ],
)
def test_damaged_config_is_told(folder: Path, text: bytes, words: str) -> None:
    (folder / "config.json").write_bytes(text)
    told(folder, "config.json", words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(dtype="float8"), "'float8'"),
        (lambda c: c.update(dtype=None), "given None"),
        (lambda c: c.update(n_inputs="two"), "'two'"),
        (lambda c: c.update(n_outputs=0), "n_outputs of at least 1; given 0"),
        (lambda c: c.update(parts=3), "DeepWienerConfig"),
        (lambda c: c.update(parts=[]), "DeepWienerConfig"),
        (lambda c: c["parts"].update(kind="Popen"), "'Popen'"),
        (lambda c: c["parts"].update(depth=4), "unknown field(s) depth"),
        (lambda c: c["parts"].update(n_layers="many"), "n_layers of type int; given 'many'"),
        (lambda c: c["parts"].update(d_model=0), "d_model >= 1; given 0"),
        (lambda c: c["parts"].update(static={"kind": "Ring"}), "static of type StaticMap"),
        (lambda c: c["parts"]["poles"].update(gain="some"), "'some'"),
        (lambda c: c["parts"]["poles"].update(law=7), "no model can be built"),
        (lambda c: c["parts"]["poles"]["law"].update(r_min="x"), "no model can be built"),
        (lambda c: c["parts"].update(d_state=10**15), "no model can be built"),
    ],
)
def test_wrong_values_in_the_config_are_told(
    folder: Path, change: Callable[[dict], None], words: str
) -> None:
    rewrite(folder, change)
    told(folder, "config.json", words)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_damaged_weights_are_told(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    told(folder, "model.safetensors", "do not fit")


def test_weights_of_another_model_are_told(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    renamed = {name.replace("nu", "mu"): value for name, value in tensors.items()}
    save_file(renamed, path)
    told(folder, "blocks.0.lti.poles.nu")
    tensors["output_map.bias"] = torch.zeros(2)
    save_file(tensors, path)
    told(folder, "output_map.bias", "size mismatch")


class _Trap:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("loading ran code from the file",))


def test_loading_runs_no_code(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(_Trap()))
    told(folder, "do not fit")
    (folder / "config.json").write_bytes(pickle.dumps(_Trap()))
    told(folder, "expected JSON")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["kind", "law", "gain"]), inner, max_size=3)
        ),
        max_leaves=4,
    ),
    st.sampled_from(
        ["poles", "coupling", "static", "skip", "norm", "dropout", "bias", "simulator"]
    ),
)
def test_any_value_of_a_field_is_a_model_or_a_sentence(
    folder: Path, value: object, field: str
) -> None:
    original = (folder / "config.json").read_text(encoding="utf-8")
    rewrite(folder, lambda config: config["parts"].update({field: value}))
    try:
        outcome: DeepWiener | str = load_model(folder)
    except DataError as error:
        outcome = str(error)
    (folder / "config.json").write_text(original, encoding="utf-8")
    if isinstance(outcome, str):
        assert "\n" not in outcome
        assert str(folder) in outcome
    else:
        assert outcome(torch.zeros(1, 2, 2))[0].shape == (1, 2, 1)
