"""Hybrids of state-space layers, attention and gated maps; checkpoints as authors publish them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, silu

from contracts.layer_base import close, parts
from statewise._errors import DataError
from statewise.models import (
    LanguageModel,
    LanguageModelConfig,
    load_model,
    load_pretrained,
    save_model,
)
from statewise.nn import Attention, FeedForward, Mamba2

ATTENTION = {
    "causal": True,
    "d_conv": 4,
    "head_dim": 6,
    "num_heads": 4,
    "num_heads_kv": 2,
    "out_proj_bias": False,
    "qkv_proj_bias": False,
    "rotary_emb_dim": 4,
}
CONFIG = {
    "d_model": 8,
    "d_intermediate": 100,
    "n_layer": 4,
    "vocab_size": 19,
    "ssm_cfg": {"layer": "Mamba2", "headdim": 4, "d_state": 4},
    "attn_layer_idx": [1, 3],
    "attn_cfg": ATTENTION,
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
}
MIXER = {
    "in_proj.weight": (44, 8),
    "conv1d.weight": (24, 1, 4),
    "conv1d.bias": (24,),
    "dt_bias": (4,),
    "A_log": (4,),
    "D": (4,),
    "norm.weight": (16,),
    "out_proj.weight": (8, 16),
}
HEADS = {
    "in_proj.weight": (48, 8),
    "conv1d.weight": (48, 1, 4),
    "conv1d.bias": (48,),
    "out_proj.weight": (8, 24),
}


def publish(folder: Path, **changes) -> dict[str, Tensor]:
    """A checkpoint with the authors' names and random numbers."""
    shapes = {"backbone.embedding.weight": (24, 8), "backbone.norm_f.weight": (8,)}
    for i in range(4):
        own = HEADS if i in (1, 3) else MIXER
        given = {f"mixer.{name}": shape for name, shape in own.items()}
        given |= {"norm.weight": (8,), "norm2.weight": (8,)}
        given |= {"mlp.fc1.weight": (256, 8), "mlp.fc2.weight": (8, 128)}
        shapes |= {f"backbone.layers.{i}.{name}": shape for name, shape in given.items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(s, generator=generator) for name, s in shapes.items()}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return tensors


def turned(x: Tensor) -> Tensor:
    """The first 4 channels of each head (B, L, H, P) as 2 complex numbers, turned by position."""
    frequency = torch.tensor([1.0, 0.01], dtype=x.dtype)
    angle = torch.arange(x.shape[1])[:, None, None] * frequency
    z = torch.complex(x[..., :2], x[..., 2:4]) * torch.exp(1j * angle)
    return torch.cat([z.real, z.imag, x[..., 4:]], -1)


def attention(u: Tensor, own: dict[str, Tensor]) -> Tensor:
    """Convolution over q, k and v, turned pairs, two heads of four for each key, full sums."""
    length = u.shape[1]
    entered = linear(u, own["in_proj.weight"]).mT
    padded = torch.nn.functional.pad(entered, (3, 0))
    conv = torch.nn.functional.conv1d(padded, own["conv1d.weight"], own["conv1d.bias"], groups=48)
    q, k, v = conv.mT.unflatten(-1, (8, 6)).split([4, 2, 2], 2)
    k, v = (x.repeat_interleave(2, dim=2) for x in (turned(k), v))
    score = torch.einsum("bthp,bshp->bhts", turned(q), k) / math.sqrt(6)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    y = torch.einsum("bhts,bshp->bthp", score.masked_fill(future, -math.inf).softmax(-1), v)
    return linear(y.flatten(2), own["out_proj.weight"])


def reference(tensors: dict[str, Tensor], text: Tensor) -> Tensor:
    """Logits of the published tensors, layer by layer in float64."""
    given = {name.removeprefix("backbone."): value.double() for name, value in tensors.items()}
    mixer = Mamba2(8, headdim=4, d_state=4).double()
    h = embedding(text, given["embedding.weight"])
    for i in range(4):
        start = f"layers.{i}."
        own = {k.removeprefix(start): v for k, v in given.items() if k.startswith(start)}
        inner = {k.removeprefix("mixer."): v for k, v in own.items() if k.startswith("mixer.")}
        u = rms_norm(h, (8,), own["norm.weight"], 1e-5)
        if i in (1, 3):
            h = h + attention(u, inner)
        else:
            inner["conv1d.weight"] = inner["conv1d.weight"].squeeze(1)
            mixer.load_state_dict(inner)
            h = h + mixer(u)[0]
        u = rms_norm(h, (8,), own["norm2.weight"], 1e-5)
        value, gate = linear(u, own["mlp.fc1.weight"]).chunk(2, -1)
        h = h + linear(value * silu(gate), own["mlp.fc2.weight"])
    return linear(rms_norm(h, (8,), given["norm_f.weight"], 1e-5), given["embedding.weight"])


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 19, shape))


@torch.no_grad()
def test_a_published_hybrid(tmp_path: Path) -> None:
    tensors, text = publish(tmp_path / "a"), tokens(2, 13)
    made = load_pretrained(tmp_path / "a", dtype=torch.float64)
    assert made.n_parameters == sum(value.numel() for value in tensors.values())
    close(made(text)[0], reference(tensors, text))
    made = load_pretrained(tmp_path / "a")
    made.save_pretrained(tmp_path / "b", layout="state-spaces")
    again = load_file(tmp_path / "b" / "model.safetensors")
    assert set(again) == set(tensors)
    for name, value in tensors.items():
        assert torch.equal(again[name], value), name
    assert load_pretrained(tmp_path / "b").config == made.config
    with pytest.raises(ValueError, match="cannot say the attention and mlp"):
        made.save_pretrained(tmp_path / "c")


def hybrid(**changes) -> LanguageModel:
    given = {
        "vocab_size": 19,
        "d_model": 8,
        "n_layer": 3,
        "layer": Mamba2.spec(headdim=4, d_state=4, dt_max=1.0),
        "attention": Attention.spec(n_heads=2, window=None, d_conv=3),
        "attention_at": (1,),
        "mlp": FeedForward.spec(expand=16, activation="silu", gated=True, bias=False),
    }
    made = LanguageModel(LanguageModelConfig(**(given | changes)), seed=3).double()
    with torch.no_grad():
        made.embedding.weight.mul_(50)
    return made


def test_steps_pads_and_packs_are_the_whole() -> None:
    made, text = hybrid(), tokens(3, 9)
    whole, last = made(text)
    logits, state = made.prefill(text[:, :4])
    rows = [logits]
    for k in range(4, 9):
        logits, state = made.step(text[:, k], state)
        rows.append(logits)
    close(torch.stack(rows, 1), whole[:, 3:])
    close(state, last)
    lengths = torch.tensor([9, 2, 5])
    mask = torch.arange(9) >= 9 - lengths[:, None]
    padded, state = made(text, mask=mask)
    following, _ = made.step(text[:, 0], state)
    for row in range(3):
        alone = text[row : row + 1, mask[row]]
        close(padded[row : row + 1, mask[row]], made(alone)[0])
        more = torch.cat([alone, text[row : row + 1, :1]], 1)
        close(following[row : row + 1], made(more)[0][:, -1])
    reset = torch.zeros(3, 9, dtype=torch.bool)
    reset[:, 4] = True
    close(made(text, reset=reset)[0][:, 4:], made(text[:, 4:])[0])


@torch.no_grad()
def test_rows_end_while_memories_grow() -> None:
    made, text = hybrid(), tokens(4, 5)
    free = made.generate(text, 8)
    stop = int(free.tokens[0, 2])
    found = made.generate(text, 8, stop=stop)
    assert found.lengths.min() < found.lengths.max()
    following, _ = made.step(text[:, 0], made.fork(parts(found.state, slice(None)), 1))
    for row in range(4):
        count = int(found.lengths[row])
        assert found.tokens[row, :count].tolist() == free.tokens[row, :count].tolist()
        alone = torch.cat([text[row], found.tokens[row, :count], text[row, :1]])[None]
        close(following[row : row + 1], made(alone)[0][:, -1])


def test_start_and_gradients() -> None:
    made = hybrid()
    bound = 1 / math.sqrt(16) / math.sqrt(6)
    assert made.layers[0].layer.out_proj.weight.abs().max() <= bound
    assert made.layers[1].layer.leave.weight.abs().max() <= 1 / math.sqrt(8 * 6)
    assert made.mlps[2].layer.leave.weight.abs().max() <= 1 / math.sqrt(128 * 6)
    logits, _ = made(tokens(3, 19))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens(57, seed=1)).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_hybrid_goes_through_our_own_folder(tmp_path: Path) -> None:
    made = hybrid().float().eval()
    save_model(made, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.config == made.config
    assert torch.equal(again(tokens(1, 6))[0], made(tokens(1, 6))[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attn_cfg": ATTENTION | {"causal": False}}, "causal = True; given False"),
        ({"attn_cfg": {"num_heads": 2}}, "causal = True; given False"),
        ({"attn_cfg": ATTENTION | {"mlp_dim": 64}}, "mlp_dim = 0; given 64"),
        ({"attn_cfg": ATTENTION | {"out_proj_bias": True}}, "to be equal"),
        ({"attn_cfg": ATTENTION | {"wings": 2}}, "no setting wings"),
        ({"attn_cfg": ATTENTION | {"num_heads_kv": 3}}, "divides n_heads = 4; given 3"),
        ({"attn_layer_idx": [1, 4]}, r"from 0 to 3; given \(1, 4\)"),
        ({"attn_layer_idx": [1]}, "tensor backbone.layers.3"),
        ({"d_intermediate": 300}, "fc1.weight of shape"),
        ({"d_intermediate": 0}, "unknown tensor backbone.layers.0.mlp.fc1"),
    ],
)
def test_wrong_configs_are_told(changes: dict, words: str, tmp_path: Path) -> None:
    publish(tmp_path, **changes)
    with pytest.raises(DataError, match=words):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention": Attention.spec(n_heads=2)}, "window = None; given 256"),
        ({"attention": Mamba2.spec(headdim=4)}, "Attention there; given Mamba2"),
        ({"mlp": FeedForward.spec()}, "FeedForward.spec"),
    ],
)
def test_what_the_layout_cannot_say_is_told(changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        hybrid(**changes).save_pretrained(tmp_path / "a", layout="state-spaces")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"attention_at": ()}, ValueError, "attention and attention_at together"),
        ({"attention": None}, ValueError, "attention and attention_at together"),
        ({"attention_at": (1, 1)}, ValueError, r"different places.*\(1, 1\)"),
        ({"mlp": 512}, TypeError, "mlp as data.*512"),
    ],
)
def test_wrong_settings_are_told(changes: dict, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        hybrid(**changes)
