"""The language model: sizes, states, padded and packed texts, continuations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from contracts.layer_base import close, parts
from statewise.models import Generation, LanguageModel, LanguageModelConfig
from statewise.models.sampling import Sampling
from statewise.nn import LRU, LayerSpec, Mamba, Mamba2, state_tensors

LAYERS = [Mamba.spec(d_state=3, dt_max=1.0), Mamba2.spec(d_state=4, headdim=4, dt_max=1.0)]


def model(layer: LayerSpec = LAYERS[0], **settings) -> LanguageModel:
    """A small model in float64 whose logits differ enough to be told apart."""
    given = {"vocab_size": 19, "d_model": 8, "n_layer": 3} | settings
    made = LanguageModel(LanguageModelConfig(**given, layer=layer), seed=3).double()
    with torch.no_grad():
        made.embedding.weight.mul_(50)
    return made


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 19, shape))


# --- size and start


@pytest.mark.parametrize(
    ("layer", "multiple", "count"),
    [("Mamba", 8, 129_135_360), ("Mamba2", 16, 128_989_632)],
)
def test_the_smallest_public_models_have_their_parameters(
    layer: str, multiple: int, count: int
) -> None:
    config = LanguageModelConfig(50277, 768, 24, LayerSpec(layer), pad_vocab_size_multiple=multiple)
    with torch.device("meta"):
        assert LanguageModel(config).n_parameters == count


def test_start() -> None:
    config = LanguageModelConfig(1000, 32, 4, tie_embeddings=False)
    made, single = LanguageModel(config), LanguageModel(LanguageModelConfig(1000, 32, 1))
    assert abs(made.embedding.weight.std().item() - 0.02) < 5e-4
    bound = 1 / math.sqrt(64) / math.sqrt(4)
    for block in made.layers:
        assert 0.95 * bound < block.layer.out_proj.weight.abs().max() <= bound
    assert single.layers[0].layer.out_proj.weight.abs().max() > 1.9 * bound
    assert made.lm_head.weight.shape == (1000, 32)
    assert single.lm_head is None
    again = LanguageModel(config).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in made.state_dict().items())


def test_vocabulary_is_padded() -> None:
    made = model(pad_vocab_size_multiple=16)
    assert made.embedding.weight.shape == (32, 8)
    assert made(tokens(1, 4))[0].shape == (1, 4, 32)
    assert LanguageModelConfig(16, 4, 1, pad_vocab_size_multiple=16).padded_vocab_size == 16


@pytest.mark.parametrize("keep", [True, False])
def test_the_sum_is_kept_in_float32(keep: bool) -> None:
    made = model(residual_in_fp32=keep).bfloat16()
    seen = []
    made.layers[1].register_forward_hook(lambda _, given, out: seen.append((given[0], out[0])))
    logits, state = made(tokens(2, 5))
    assert logits.dtype == torch.bfloat16
    assert all(part.dtype == torch.float32 for part in state_tensors(state))
    wanted = torch.float32 if keep else torch.bfloat16
    assert [part.dtype for part in seen[0]] == [wanted, wanted]


# --- state


@pytest.mark.parametrize("layer", LAYERS)
def test_prefill_and_steps_are_the_whole(layer: LayerSpec) -> None:
    made, text = model(layer), tokens(2, 14)
    whole, last = made(text)
    for cut in (1, 5, 13):
        first, state = made.prefill(text[:, :cut])
        rows = [first]
        for k in range(cut, 14):
            logits, state = made.step(text[:, k], state)
            rows.append(logits)
        close(torch.stack(rows, 1), whole[:, cut - 1 :])
        close(state, last)
    first, state = made(text[:, :6])
    second, carried = made(text[:, 6:], state)
    close(torch.cat([first, second], 1), whole)
    close(carried, last)
    close(made.init_state(2), tuple(block.init_state(2) for block in made.layers))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("side", ["left", "right", "both", "holes"])
def test_padded_rows_are_rows_alone(layer: LayerSpec, side: str) -> None:
    made, text = model(layer), tokens(4, 9)
    rng = np.random.default_rng(1)
    places = {
        "left": [np.arange(9) >= k for k in (0, 3, 8, 9)],
        "right": [np.arange(9) < k for k in (9, 4, 1, 0)],
        "both": [
            (np.arange(9) >= a) & (np.arange(9) < b) for a, b in ((0, 7), (2, 9), (3, 4), (4, 6))
        ],
        "holes": list(rng.random((4, 9)) < 0.6),
    }[side]
    mask = torch.from_numpy(np.stack(places))
    start = made(tokens(4, 5, seed=7))[1]
    padded = torch.where(mask, text, -100)
    calls = [{"mask": mask}]
    if side == "right":
        calls.append({"lengths": mask.sum(1)})
    for extra in calls:
        logits, state = made(padded, start, **extra)
        assert not logits[~mask].any()
        for row in range(4):
            one = slice(row, row + 1)
            own, alone = parts(start, one), text[one, mask[row]]
            if alone.shape[1]:
                expected, own = made(alone, own)
                close(logits[one][:, mask[row]], expected)
            close(parts(state, one), own)
    rows = mask.any(1)
    close(
        made.prefill(padded[rows], parts(start, rows), mask=mask[rows])[0],
        torch.stack([logits[row, mask[row]][-1] for row in range(4) if rows[row]]),
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_packed_texts_are_apart(layer: LayerSpec) -> None:
    made, text = model(layer), tokens(1, 11)
    reset = torch.zeros(1, 11, dtype=torch.bool)
    reset[0, [0, 4, 5]] = True
    packed, last = made(text, reset=reset)
    pieces = [made(text[:, a:b]) for a, b in ((0, 4), (4, 5), (5, 11))]
    close(packed, torch.cat([logits for logits, _ in pieces], 1))
    close(last, pieces[-1][1])


def test_states_stay_as_they_were_and_fork() -> None:
    made, text = model(), tokens(2, 6)
    _, state = made(text)
    kept = [part.clone() for part in state_tensors(state)]
    forked = made.fork(state, 3)
    ways = tokens(6, 4, seed=4)
    logits, _ = made(ways, forked)
    for row in range(6):
        old = parts(state, slice(row // 3, row // 3 + 1))
        close(logits[row : row + 1], made(ways[row : row + 1], old)[0])
    made.step(ways[:2, 0], state)
    made.generate(ways[:2], 3, state)
    for part, before in zip(state_tensors(state), kept, strict=True):
        assert torch.equal(part, before)
    with pytest.raises(ValueError, match="given 0"):
        made.fork(state, 0)


def test_any_layer_of_the_library_will_do() -> None:
    made, text = model(LRU.spec(d_state=5)), tokens(2, 7)
    whole, _ = made(text)
    first, state = made.prefill(text[:, :6])
    close(first, whole[:, 5])
    close(made.step(text[:, 6], state)[0], whole[:, 6])


def test_every_parameter_gets_a_gradient() -> None:
    for tied in (True, False):
        made = model(tie_embeddings=tied)
        logits, _ = made(tokens(3, 19))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens(57, seed=1)).backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


# --- continuations


def greedy(made: LanguageModel, text: Tensor, n: int) -> Tensor:
    """The most likely continuation of one row, each time from the whole text."""
    for _ in range(n):
        best = made(text)[0][:, -1, :19].argmax(-1, keepdim=True)
        text = torch.cat([text, best], 1)
    return text[:, -n:]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_continuations_of_unequal_prompts(layer: LayerSpec, side: str) -> None:
    made, text = model(layer), tokens(3, 7)
    lengths = torch.tensor([7, 2, 4])
    index = torch.arange(7)
    mask = index >= 7 - lengths[:, None] if side == "left" else index < lengths[:, None]
    found = made.generate(text, 6, mask=mask)
    assert isinstance(found, Generation)
    assert found.lengths.tolist() == [6, 6, 6]
    for row in range(3):
        alone = text[row : row + 1, mask[row]]
        assert torch.equal(found.tokens[row : row + 1], greedy(made, alone, 6))
        whole, last = made(torch.cat([alone, found.tokens[row : row + 1]], 1))
        close(found.logits[row : row + 1], whole[:, -1])
        close(parts(found.state, slice(row, row + 1)), last)


def test_rows_end_at_a_stop_token() -> None:
    made, text = model(), tokens(4, 5)
    free = made.generate(text, 8)
    stop = int(free.tokens[0, 2])
    found = made.generate(text, 8, stop=stop)
    for row in range(4):
        listed = free.tokens[row].tolist()
        count = listed.index(stop) + 1 if stop in listed else 8
        assert found.lengths[row] == count
        assert found.tokens[row, :count].tolist() == listed[:count]
        assert (found.tokens[row, count:] == stop).all()
        alone = torch.cat([text[row], found.tokens[row, :count]])[None]
        logits, last = made(alone)
        close(found.logits[row : row + 1], logits[:, -1])
        close(parts(found.state, slice(row, row + 1)), last)
    assert found.lengths.min() < 8
    every = made.generate(text, 8, stop=range(19))
    assert every.tokens.shape == (4, 1)


def test_tokens_of_the_padding_are_never_drawn() -> None:
    made = model(pad_vocab_size_multiple=64)
    with torch.no_grad():
        made.embedding.weight[19:] *= 100
    assert made.generate(tokens(2, 3), 20, temperature=2.0).tokens.max() < 19


def test_the_seed_decides_the_draw() -> None:
    made, text = model(), tokens(3, 4)
    one = made.generate(text, 12, temperature=1.0, seed=5).tokens
    assert torch.equal(one, made.generate(text, 12, temperature=1.0, seed=5).tokens)
    assert not torch.equal(one, made.generate(text, 12, temperature=1.0, seed=6).tokens)
    generator = np.random.default_rng(5)
    assert torch.equal(one, made.generate(text, 12, temperature=1.0, seed=generator).tokens)


def test_probabilities() -> None:
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.15, 0.05]], dtype=torch.float64)
    logits = p.log() + 3.0

    def given(**settings) -> list[list[float]]:
        found = Sampling(**settings).probabilities(logits)
        assert torch.allclose(found.sum(-1), torch.ones(2, dtype=torch.float64))
        return found.round(decimals=9).tolist()

    assert given() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert given(temperature=1.0) == p.tolist()
    squares = p.square() / p.square().sum(-1, keepdim=True)
    assert given(temperature=0.5) == squares.round(decimals=9).tolist()
    assert given(temperature=1.0, top_k=1) == given()
    third = [
        [0, round(4 / 7, 9), 0, round(3 / 7, 9)],
        [round(0.7 / 0.85, 9), 0, round(0.15 / 0.85, 9), 0],
    ]
    assert given(temperature=1.0, top_k=2) == third
    assert given(temperature=1.0, top_p=0.71)[1] == third[1]
    assert given(temperature=1.0, top_p=0.69)[1] == [1, 0, 0, 0]
    assert given(temperature=1.0, top_p=1e-9) == given()
    assert given(temperature=1.0, top_k=9) == p.tolist()


def test_draws_have_the_probabilities() -> None:
    p = torch.tensor([0.05, 0.0, 0.25, 0.6, 0.1, 0.0], dtype=torch.float64)
    drawn = Sampling(1.0).draw(p.log().expand(20_000, -1), np.random.default_rng(0))
    share = torch.bincount(drawn, minlength=6) / 20_000
    assert (share - p).abs().max() < 4 * math.sqrt(0.25 / 20_000)
    assert share[1] == share[5] == 0


# --- errors


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m: m(torch.ones(2, 3)), TypeError, "whole numbers.*float32"),
        (lambda m: m(tokens(3)), ValueError, r"\(batch, length\).*\(3,\)"),
        (lambda m: m(tokens(2, 0)), ValueError, r"\(2, 0\)"),
        (lambda m: m(tokens(2, 3) + 24), ValueError, "0 to 23.*24"),
        (lambda m: m(tokens(2, 3) - 100), ValueError, "-100"),
        (lambda m: m.step(tokens(2, 3), m.init_state(2)), ValueError, r"\(batch,\)"),
        (lambda m: m(tokens(2, 3), mask=torch.ones(2, 3)), TypeError, "mask.*float32"),
        (lambda m: m(tokens(2, 3), mask=torch.ones(3, 2) > 0), ValueError, r"mask.*\(3, 2\)"),
        (lambda m: m(tokens(2, 3), lengths=torch.ones(3).long()), ValueError, r"lengths.*\(3,\)"),
        (
            lambda m: m(tokens(1, 2), mask=tokens(1, 2) > 0, reset=tokens(1, 2) > 0),
            ValueError,
            "mask.*reset.*not both",
        ),
        (lambda m: m(tokens(2, 3), m.init_state(2)[:2]), ValueError, "3 states.*given 2"),
        (lambda m: m.prefill(tokens(2, 3), lengths=torch.tensor([3, 0])), ValueError, "row 1"),
        (lambda m: m.generate(tokens(2, 3), 0), ValueError, "n = 0"),
        (lambda m: m.generate(tokens(2, 3), 1, temperature=-1.0), ValueError, "-1.0"),
        (lambda m: m.generate(tokens(2, 3), 1, top_k=0), ValueError, "top_k.*0"),
        (lambda m: m.generate(tokens(2, 3), 1, top_p=0.0), ValueError, "top_p.*0.0"),
    ],
)
def test_wrong_calls_are_told(call, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        call(model())


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"n_layer": 0}, ValueError, "n_layer >= 1.*0"),
        ({"d_model": 8.0}, TypeError, "d_model.*8.0"),
        ({"tie_embeddings": 1}, TypeError, "tie_embeddings.*1"),
        ({"layer": "Mamba"}, TypeError, "Mamba2.spec.*'Mamba'"),
    ],
)
def test_wrong_settings_are_told(settings: dict, kind: type, words: str) -> None:
    given = {"vocab_size": 19, "d_model": 8, "n_layer": 3} | settings
    with pytest.raises(kind, match=words):
        LanguageModelConfig(**given)
