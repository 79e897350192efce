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
from statewise.lti import Bilinear, Euler, Trapezoid
from statewise.models import (
    DeepWiener,
    DeepWienerConfig,
    LanguageModel,
    LanguageModelConfig,
    Pooled,
    SequenceModel,
    SequenceModelConfig,
    Tokens,
    load_model,
    save_model,
)
from statewise.nn import (
    MLP,
    S4D,
    Auto,
    Bank,
    BlockSpec,
    ContinuousDiagonal,
    DiscreteDiagonal,
    FeedForward,
    Gated,
    GivenDiscrete,
    LayerNorm,
    Longhorn,
    Mamba,
    Polynomial,
    RealDiagonal,
    RMSNorm,
    S4DInv,
    Scan,
    Selective,
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
    "layer": DeepWienerConfig(
        n_layers=1, d_model=2, layer=Gated.spec(inner=S4D.spec(d_state=2, rule=Bilinear()))
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


def test_a_sequence_model_comes_back_as_one(tmp_path: Path) -> None:
    config = SequenceModelConfig(
        (S4D.spec(d_state=2), BlockSpec(FeedForward.spec())),
        d_model=4,
        encoder=Tokens(),
        head=Pooled("last"),
    )
    model = SequenceModel(7, 3, config, seed=5).eval()
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert isinstance(again, SequenceModel)
    assert again.config == config
    u = torch.tensor([[1, 6, 0, 2]])
    assert torch.equal(again(u)[0], model(u)[0])


LANGUAGE = {
    "layer": Gated.spec(inner=S4D.spec(d_state=2, rule=Bilinear())),
    "longhorn": Longhorn.spec(d_state=4),
    "rule": Mamba.spec(d_state=4, rule="zoh", selective=Selective(B=False)),
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_of_any_layer_comes_back_as_one(
    tmp_path: Path, name: str, tied: bool, half: bool
) -> None:
    config = LanguageModelConfig(11, 4, 2, LANGUAGE[name], tie_embeddings=tied)
    model = LanguageModel(config, seed=5).eval()
    if half:
        # Parameters of two types, as in a public checkpoint read in a half type.
        for parameter_name, parameter in model.named_parameters():
            if not parameter_name.endswith("A_log"):
                parameter.data = parameter.data.bfloat16()
    save_model(model, tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    assert set(stored) == {"format", "model", "dtype", "parts"}
    again = load_model(tmp_path / "model")
    assert isinstance(again, LanguageModel)
    assert not again.training
    assert again.config == config
    for key, value in model.state_dict().items():
        assert again.state_dict()[key].dtype == value.dtype
        assert torch.equal(again.state_dict()[key], value)
    tokens = torch.tensor([[1, 6, 0, 2]])
    if half:
        return
    logits, state = model(tokens)
    repeated, last = again(tokens)
    assert torch.equal(repeated, logits)
    for one, other in zip(state_tensors(last), state_tensors(state), strict=True):
        assert torch.equal(one, other)
    rewrite(tmp_path / "model", lambda c: c["parts"].update(n_layer=3))
    told(tmp_path / "model", "layers.2", "do not fit")
    rewrite(tmp_path / "model", lambda c: c["parts"].pop("d_model"))
    told(tmp_path / "model", "config.json", "d_model")


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
    assert config["format"] == 2
    assert config["model"] == "DeepWiener"
    assert config["parts"]["kind"] == "DeepWienerConfig"
    assert "blocks.0.layer.poles.nu" in load_file(folder / "model.safetensors")


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
        (b'{"format": 2,', "expected JSON"),
        (b"\xff\xfe\x00", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b"{}", "expected format 2, found None"),
        (b'{"format": 3}', "expected format 2, found 3"),
        (b'{"format": 2}', "DeepWiener"),
        (b'{"format": 2, "model": "Transformer"}', "'Transformer'"),
        (b'{"format": 2, "model": "DeepWiener"}', "lacks dtype, n_inputs, n_outputs, parts"),
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
    told(folder, "blocks.0.layer.poles.nu")
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


_LEAF = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=4)


def _nested(inner: st.SearchStrategy) -> st.SearchStrategy:
    words = st.sampled_from(["kind", "law", "gain"])
    return inner | st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    _nested(_nested(_LEAF)),
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
