"""Public checkpoints, with the transformers library as the oracle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from statewise._errors import DataError
from statewise.models import LanguageModel, LanguageModelConfig, load_pretrained, save_pretrained
from statewise.nn import LRU, LayerSpec, Mamba, Mamba2, Selective

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "vocab_size": 40}
HEADS = {"num_heads": 6, "head_dim": 8, "chunk_size": 4}
CASES = {
    "mamba": ("Mamba", {"state_size": 5}),
    "mamba-other": (
        "Mamba",
        {"use_bias": True, "conv_kernel": 3, "time_step_rank": 3, "tie_word_embeddings": False},
    ),
    "mamba2": ("Mamba2", {**HEADS, "state_size": 6, "n_groups": 2}),
    "mamba2-other": (
        "Mamba2",
        {**HEADS, "state_size": 4, "n_groups": 1, "use_bias": True, "use_conv_bias": False},
    ),
    "mamba2-tied": ("Mamba2", {**HEADS, "n_groups": 3, "tie_word_embeddings": True}),
}


def oracle(case: str, **more):
    """A small model of the other library, its parameters moved away from their start."""
    kind, settings = CASES[case]
    config = getattr(transformers, f"{kind}Config")(**SIZES, **settings, **more)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory):
    """The oracle and ours, from the folder that it wrote."""
    theirs = oracle(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load_pretrained(folder)


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(seed))


def error(given: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return float(((given - expected).abs().max() / expected.abs().max()).detach())


@torch.no_grad()
def test_logits(pair) -> None:
    theirs, ours = pair
    given = text(3, 17)
    assert ours.n_parameters == sum(p.numel() for p in theirs.parameters())
    assert error(ours(given)[0], theirs(given).logits) < 1e-5


@torch.no_grad()
def test_logits_step_by_step(pair) -> None:
    theirs, ours = pair
    given = text(2, 12)
    other = theirs(given[:, :5], use_cache=True)
    logits, state = ours.prefill(given[:, :5])
    assert error(logits, other.logits[:, -1]) < 1e-5
    for k in range(5, 12):
        other = theirs(given[:, k : k + 1], cache_params=other.cache_params, use_cache=True)
        logits, state = ours.step(given[:, k], state)
        assert error(logits, other.logits[:, -1]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_batches(pair, side: str) -> None:
    theirs, ours = pair
    given, lengths = text(3, 11), torch.tensor([11, 4, 7])
    index = torch.arange(11)
    mask = index >= 11 - lengths[:, None] if side == "left" else index < lengths[:, None]
    rows = [theirs(given[row : row + 1, mask[row]]).logits[0] for row in range(3)]
    found = ours(given, mask=mask)[0][mask]
    assert error(found, torch.cat(rows)) < 1e-5
    if side == "right":
        assert error(ours(given, lengths=lengths)[0][mask], torch.cat(rows)) < 1e-5
    # With a bias in front of the convolution, its window reads pads on the left in the oracle.
    if side == "right" or not theirs.config.use_bias:
        padded = theirs(given, attention_mask=mask.long()).logits[mask]
        assert error(found, padded) < 1e-5


@torch.no_grad()
def test_limits_of_the_steps(tmp_path: Path) -> None:
    theirs = oracle("mamba2", time_step_limit=(0.01, 0.05))
    theirs.save_pretrained(tmp_path)
    ours, given = load_pretrained(tmp_path), text(2, 9)
    assert error(ours(given)[0], theirs(given).logits) < 1e-5
    assert ours.layers[0].layer.dt_limit == (0.01, 0.05)
    ours.save_pretrained(tmp_path / "ours")
    assert load_pretrained(tmp_path / "ours").layers[0].layer.dt_limit == (0.01, 0.05)


@torch.no_grad()
def test_our_folders_are_read_by_the_other_library(pair, tmp_path: Path) -> None:
    theirs, ours = pair
    ours.save_pretrained(tmp_path)
    back, told = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    for name, value in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    given = text(2, 8)
    assert error(back(given).logits, theirs(given).logits) < 1e-6


def test_shards(tmp_path: Path) -> None:
    theirs = oracle("mamba")
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = load_pretrained(tmp_path / "one"), load_pretrained(tmp_path / "many")
    for name, value in one.state_dict().items():
        assert torch.equal(many.state_dict()[name], value)


# --- the authors' layout


MODELS = {
    "mamba": Mamba.spec(d_state=4, dt_rank=3, conv_bias=False),
    "mamba2": Mamba2.spec(
        d_state=4, headdim=4, d_ssm=8, n_groups=2, norm_before_gate=True, D_per_channel=True
    ),
    "mamba2-limits": Mamba2.spec(
        d_state=4,
        headdim=4,
        rmsnorm=False,
        dt_lowest=0.01,
        a_max=4.0,
        learnable_init_states=True,
    ),
}


def ours(layer: LayerSpec, **more) -> LanguageModel:
    return LanguageModel(LanguageModelConfig(21, 8, 2, layer, **more), seed=1)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("tied", [True, False])
def test_the_authors_layout_goes_there_and_back(name: str, tied: bool, tmp_path: Path) -> None:
    model = ours(MODELS[name], tie_embeddings=tied, pad_vocab_size_multiple=16)
    save_pretrained(model, tmp_path, layout="state-spaces")
    back = LanguageModel.from_pretrained(tmp_path)
    assert not back.training
    assert (back.config.vocab_size, back.config.padded_vocab_size) == (21, 32)
    given = text(2, 7) % 21
    assert torch.equal(back(given)[0], model(given)[0])


@pytest.mark.parametrize(
    ("layer", "ssm_cfg", "own"),
    [
        (
            "Mamba",
            {},
            {
                "in_proj.weight": (32, 8),
                "conv1d.weight": (16, 1, 4),
                "conv1d.bias": (16,),
                "x_proj.weight": (33, 16),
                "dt_proj.weight": (16, 1),
                "dt_proj.bias": (16,),
                "A_log": (16, 16),
                "D": (16,),
                "out_proj.weight": (8, 16),
            },
        ),
        (
            "Mamba2",
            {"layer": "Mamba2", "headdim": 4, "d_state": 16, "chunk_size": 64},
            {
                "in_proj.weight": (68, 8),
                "conv1d.weight": (48, 1, 4),
                "conv1d.bias": (48,),
                "dt_bias": (4,),
                "A_log": (4,),
                "D": (4,),
                "norm.weight": (16,),
                "out_proj.weight": (8, 16),
            },
        ),
    ],
)
def test_a_folder_as_the_authors_publish_it(
    layer: str, ssm_cfg: dict, own: dict, tmp_path: Path
) -> None:
    shapes = {"backbone.embedding.weight": (24, 8), "backbone.norm_f.weight": (8,)}
    for i in range(2):
        shapes[f"backbone.layers.{i}.norm.weight"] = (8,)
        for name, shape in own.items():
            shapes[f"backbone.layers.{i}.mixer.{name}"] = shape
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    config = {
        "d_model": 8,
        "n_layer": 2,
        "vocab_size": 21,
        "ssm_cfg": ssm_cfg,
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_pretrained(tmp_path)
    assert model.config.layer.layer == layer
    assert model.lm_head is None
    assert model(text(1, 5) % 21)[0].isfinite().all()
    model.save_pretrained(tmp_path / "again", layout="state-spaces")
    again = load_file(tmp_path / "again" / "model.safetensors")
    del tensors["lm_head.weight"]
    assert set(again) == set(tensors)
    for name, value in tensors.items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("name", list(MODELS))
def test_half_precision_files(name: str, tmp_path: Path) -> None:
    model = ours(MODELS[name]).bfloat16()
    model.save_pretrained(tmp_path, layout="state-spaces")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    single, half = load_pretrained(tmp_path), load_pretrained(tmp_path, dtype=torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in single.parameters())
    wide = {key for key, p in half.named_parameters() if p.dtype == torch.float32}
    ends = {"Mamba": ("A_log", ".D", "dt_proj.bias"), "Mamba2": ("A_log", ".D", "dt_bias")}
    kept = ends[MODELS[name].layer]
    assert wide == {key for key in half.state_dict() if key.endswith(kept)}
    for key, value in model.state_dict().items():
        assert torch.equal(half.state_dict()[key].float(), value.float())
    given = text(2, 9) % 21
    logits, state = half(given)
    assert logits.dtype == torch.bfloat16
    assert error(logits.float(), single(given)[0]) < 2e-2
    assert half.step(given[:, 0], state)[0].dtype == torch.bfloat16
    assert all(p.requires_grad for p in half.parameters())


def test_what_a_config_leaves_out(tmp_path: Path) -> None:
    """The oracle's own values stand for what is left out; the weights say what is tied."""
    for tied in (True, False):
        model = ours(Mamba2.spec(n_groups=8, headdim=2, d_state=128), tie_embeddings=tied)
        model.save_pretrained(tmp_path)
        left_out = {"n_groups", "state_size", "expand", "conv_kernel", "use_bias", "use_conv_bias"}
        edit(tmp_path, **dict.fromkeys(left_out | {"tie_word_embeddings"}, ...))
        given = text(1, 5) % 21
        assert torch.equal(load_pretrained(tmp_path)(given)[0], model(given)[0])


@pytest.mark.parametrize("layout", ["transformers", "state-spaces"])
@pytest.mark.parametrize("layer", [Mamba2.spec(), Mamba2.spec(n_groups=2)])
def test_heads_that_nobody_counted(layer: LayerSpec, layout: str, tmp_path: Path) -> None:
    model = ours(layer)
    model.save_pretrained(tmp_path, layout=layout)
    given = text(1, 5) % 21
    assert torch.equal(load_pretrained(tmp_path)(given)[0], model(given)[0])


# --- what is refused


def edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}, default=str))


@pytest.mark.parametrize(
    ("layout", "changes", "words"),
    [
        ("transformers", {"model_type": "llama"}, '"mamba2"; given .llama'),
        ("transformers", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ("transformers", {"hidden_act": "gelu"}, "hidden_act.*silu.*gelu"),
        ("transformers", {"intermediate_size": 99}, "intermediate_size.*16.*99"),
        ("transformers", {"hidden_size": 10, "intermediate_size": 20}, "shape"),
        ("transformers", {"hidden_size": "8"}, "no model can be built"),
        ("transformers", {"num_hidden_layers": 3}, "lack tensor backbone.layers.2"),
        ("transformers", {"num_hidden_layers": 1}, "unknown tensor backbone.layers.1"),
        ("transformers", {"tie_word_embeddings": False}, "lack tensor lm_head"),
        ("state-spaces", {"rms_norm": False}, "rms_norm"),
        ("state-spaces", {"attn_layer_idx": [1]}, "attn_cfg needs num_heads"),
        ("state-spaces", {"d_intermediate": 64}, "lack tensor backbone.layers.0.mlp.fc1"),
        ("state-spaces", {"ssm_cfg": {"layer": "Mamba3"}}, '"Mamba2"; given .Mamba3'),
        ("state-spaces", {"ssm_cfg": {"wings": 2}}, "wings"),
    ],
)
def test_wrong_configs_are_told(layout: str, changes: dict, words: str, tmp_path: Path) -> None:
    ours(MODELS["mamba"]).save_pretrained(tmp_path, layout=layout)
    edit(tmp_path, **changes)
    with pytest.raises(DataError, match=words) as caught:
        load_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_folders_are_told(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(DataError, match=words):
            load_pretrained(tmp_path)

    refused("config.json")
    (tmp_path / "config.json").write_text("[]")
    refused("JSON object")
    (tmp_path / "config.json").write_text('{"d_model": 4}')
    refused("no weights here")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused("pickle.*run code")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    refused("no safetensors file")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    refused("weight_map")
    index.write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    refused("files beside it")
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    refused("missing")
    save_file({"b": torch.ones(1)}, tmp_path / "gone.safetensors")
    refused("lack tensor a")


def test_a_head_that_is_not_the_vectors_is_told(tmp_path: Path) -> None:
    ours(MODELS["mamba"]).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="ties"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("layer", "layout", "words"),
    [
        (Mamba.spec(rule="zoh"), "state-spaces", "rule = 'zoh'"),
        (Mamba.spec(selective=Selective(B=False)), "transformers", "selective"),
        (MODELS["mamba2"], "transformers", "norm_before_gate = True"),
        (LRU.spec(), "transformers", "LRU"),
        (Mamba.spec(), "pickle", "'pickle'"),
    ],
)
def test_what_a_layout_cannot_say_is_told(
    layer: LayerSpec, layout: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        ours(layer).save_pretrained(tmp_path / "out", layout=layout)
    assert not (tmp_path / "out").exists()
