"""Decoding with a captured graph: what it refuses, and on a GPU that it is the model itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contracts.layer_base import close
from statewise.models import CapturedStep, LanguageModel, LanguageModelConfig
from statewise.models.captured_step import EagerStep
from statewise.nn import (
    LRU,
    Attention,
    Hyena,
    LayerSpec,
    Mamba,
    Mamba2,
    map_state,
    state_tensors,
)

LAYERS = [
    Mamba.spec(d_state=16, dt_max=1.0),
    Mamba2.spec(d_state=16, headdim=8, dt_max=1.0),
    LRU.spec(d_state=8),
    Hyena.spec(max_length=8),
]


def model(layer: LayerSpec = LAYERS[0], device: str = "cpu", **settings) -> LanguageModel:
    given = {"vocab_size": 37, "d_model": 32, "n_layer": 3} | settings
    made = LanguageModel(LanguageModelConfig(**given, layer=layer), seed=3).to(device)
    with torch.no_grad():
        made.embedding.weight.mul_(50)
    return made.eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 37, shape, generator=torch.Generator().manual_seed(seed))


def test_a_model_on_the_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"CUDA graph.*on a CUDA device.*on cpu"):
        CapturedStep(model(), 2)
    with pytest.raises(ValueError, match=r"CUDA graph.*on cpu"):
        model().generate(tokens(2, 3), 4, capture=True)
    with pytest.raises(ValueError, match=r"batch of at least 1; given 0"):
        CapturedStep(model(), 0)


def test_calls_one_by_one_do_the_same() -> None:
    """The stand-in that ``generate`` uses without a record goes where the model goes."""
    made, text = model(), tokens(2, 6)
    step = EagerStep(made)
    with torch.no_grad():
        _, state = made.prefill(text[:, :4])
        step.load(state)
        for k in (4, 5):
            expected, state = made.step(text[:, k], state)
            close(step(text[:, k]), expected)
    close(step.save(), state)


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("layer", "dtype"),
    [*((one, torch.float32) for one in LAYERS), *((one, torch.bfloat16) for one in LAYERS[:2])],
)
def test_a_record_is_the_model(layer: LayerSpec, batch: int, dtype: torch.dtype) -> None:
    made, text = model(layer, "cuda").to(dtype), tokens(batch, 12).cuda()
    step = CapturedStep(made, batch)
    with torch.no_grad():
        _, start = made.prefill(text[:, :5])
        kept = map_state(torch.clone, start)
        step.load(start)
        state = start
        for k in range(5, 12):
            expected, state = made.step(text[:, k], state)
            found = step(text[:, k])
            close(found.float(), expected.float(), rtol=0, atol=0)
        close(step.save(), state, rtol=0, atol=0)
        for part, before in zip(state_tensors(start), state_tensors(kept), strict=True):
            assert torch.equal(part, before)


@pytest.mark.gpu
@pytest.mark.parametrize("layer", LAYERS)
def test_a_record_rewinds_and_forks(layer: LayerSpec) -> None:
    made, text = model(layer, "cuda"), tokens(4, 9).cuda()
    step = CapturedStep(made, 4)
    with torch.no_grad():
        _, state = made.prefill(text[:1, :4])
        forked = made.fork(state, 4)
        step.load(forked)
        first = tuple(step(text[:, k]).clone() for k in range(4, 7))
        saved = step.save()
        beyond = step(text[:, 7]).clone()
        step.load(forked)
        again = tuple(step(text[:, k]).clone() for k in range(4, 7))
        close(first, again, rtol=0, atol=0)
        close(step.save(), saved, rtol=0, atol=0)
        step(text[:, 8])
        step.load(saved)
        close(step(text[:, 7]), beyond, rtol=0, atol=0)
        close(made.step(text[:, 7], saved)[0], beyond, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("layer", LAYERS)
def test_continuations_are_those_without_a_record(layer: LayerSpec) -> None:
    made, text = model(layer, "cuda"), tokens(4, 6).cuda()
    lengths = torch.tensor([6, 2, 4, 3]).cuda()
    record = CapturedStep(made, 4)
    free = made.generate(text, 9, lengths=lengths)
    stop = int(free.tokens[0, 2])
    for settings in ({}, {"stop": stop}, {"temperature": 1.0, "top_k": 5, "seed": 3}):
        expected = made.generate(text, 9, lengths=lengths, **settings)
        for capture in (True, record, record):
            found = made.generate(text, 9, lengths=lengths, capture=capture, **settings)
            assert torch.equal(found.tokens, expected.tokens)
            assert torch.equal(found.lengths, expected.lengths)
            close(found.logits, expected.logits, rtol=0, atol=0)
            close(found.state, expected.state, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[3]])
def test_a_record_follows_training(layer: LayerSpec) -> None:
    made = model(layer, "cuda")
    step, start = CapturedStep(made, 2), made.init_state(2)
    before = step(tokens(2).cuda()).clone()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1
        step.load(start)
        after = step(tokens(2).cuda())
        assert not torch.equal(before, after)
        close(after, made.step(tokens(2).cuda(), start)[0], rtol=0, atol=0)


@pytest.mark.gpu
def test_what_does_not_fit_a_record_is_said() -> None:
    made = model(device="cuda")
    step = CapturedStep(made, 2)
    with pytest.raises(ValueError, match=r"tokens of shape \(2,\); given \(3,\)"):
        step(tokens(3).cuda())
    with pytest.raises(ValueError, match=r"part 0 has shape \(2, .*given \(3, "):
        step.load(made.init_state(3))
    endless = Attention.spec(n_heads=2, window=None)
    grows = model(device="cuda", attention=endless, attention_at=(1,))
    with pytest.raises(ValueError, match="state of constant size"):
        CapturedStep(grows, 2)


@pytest.mark.gpu
def test_attention_over_a_window_is_recorded() -> None:
    attention = Attention.spec(n_heads=2, window=4)
    made = model(device="cuda", attention=attention, attention_at=(1,))
    step, state, text = CapturedStep(made, 2), made.init_state(2), tokens(2, 9).cuda()
    with torch.no_grad():
        for k in range(9):
            expected, state = made.step(text[:, k], state)
            close(step(text[:, k]), expected, rtol=1e-5, atol=1e-5)
