"""Steps of chains of blocks: together what they are one by one, whatever happens to the model."""

from __future__ import annotations

import copy
import logging
import threading
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from statewise import ops
from statewise.models import LanguageModel, LanguageModelConfig, SequenceModel, SequenceModelConfig
from statewise.nn import (
    Attention,
    BlockSpec,
    FeedForward,
    LayerNorm,
    Mamba,
    Mamba2,
    Selective,
    map_state,
    stacked,
    state_tensors,
)

SPECS = [Mamba.spec(d_state=8, dt_max=1.0), Mamba2.spec(d_state=4, headdim=4, dt_max=1.0)]


def model(layer=SPECS[0], *, seed: int = 3, **options) -> LanguageModel:
    """A small model in float64 whose logits differ enough to be told apart."""
    given = {"vocab_size": 19, "d_model": 12, "n_layer": 3, "layer": layer} | options
    made = LanguageModel(LanguageModelConfig(**given), seed=seed).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float64)
        made.embedding.weight.mul_(20)
    return made


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 19, shape))


class Seen:
    """How many blocks each call of the operator took."""

    def __init__(self, monkeypatch) -> None:
        self.calls: list[int] = []

        def note(x, states, stack, **more):
            self.calls.append(len(states))
            return ops.stack_step(x, states, stack, **more)

        monkeypatch.setattr(stacked, "stack_step", note)

    def take(self) -> list[int]:
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def seen(monkeypatch) -> Seen:
    torch.manual_seed(0)
    return Seen(monkeypatch)


def same(found, expected, rtol: float = 1e-12) -> None:
    """Outputs and states, relative to their largest number."""
    pairs = zip(flat(found), flat(expected), strict=True)
    for one, two in pairs:
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        if one.numel():
            assert (one - two).abs().max() <= rtol * two.abs().max()


def flat(result) -> list[Tensor]:
    return [result[0], *state_tensors(result[1])]


def alone(made, *arguments):
    """The step with every block by itself: what happens where a hook waits for a call."""
    handle = made.register_forward_hook(lambda *given: None)
    norms = [one.norm.register_forward_hook(lambda *given: None) for one in made._chain]
    try:
        with torch.no_grad():
            return made.step(*arguments)
    finally:
        for one in (handle, *norms):
            one.remove()


@pytest.mark.parametrize("layer", SPECS)
@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_together_as_one_by_one(layer, batch, seen) -> None:
    made, text = model(layer), tokens(batch, 9)
    with torch.no_grad():
        logits, state = made.prefill(text[:, :4])
        expected = map_state(torch.clone, state)
        for k in range(4, 9):
            logits, state = made.step(text[:, k], state)
            separate, expected = alone(made, text[:, k], expected)
            same((logits, state), (separate, expected))
        assert seen.take() == [3] * 5
        whole, last = made(text)
        same((logits, state), (whole[:, -1], last), rtol=1e-10)
        assert [type(one) for one in state] == [type(one) for one in last]


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(["Mamba", "Mamba2"]),
    states=st.sampled_from([1, 2, 4, 8, 16]),
    width=st.integers(1, 9),
    layers=st.integers(1, 3),
    batch=st.integers(1, 4),
    options=st.fixed_dictionaries({"bias": st.booleans(), "conv_bias": st.booleans()}),
    taps=st.integers(1, 4),
    more=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_size(kind, states, width, layers, batch, options, taps, more, seed) -> None:
    options |= {"d_state": states, "d_conv": taps}
    if kind == "Mamba2":
        options |= {"rmsnorm": more, "norm_before_gate": more, "D_per_channel": more}
        layer = Mamba2.spec(**options)
    else:
        layer = Mamba.spec(dt_rank=1 + seed % 5, **options)
    made = model(layer, d_model=2 * width, n_layer=layers, seed=seed)
    text = tokens(batch, 6, seed=seed)
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 3e-5)):
        made = made.to(dtype)
        with torch.no_grad():
            state = made.prefill(text[:, :3])[1]
            for k in range(3, 6):
                found = made.step(text[:, k], state)
                same(found, alone(made, text[:, k], state), rtol)
                state = found[1]


@pytest.mark.parametrize("layer", SPECS)
def test_states_are_kept_forked_and_rewound(layer, seen) -> None:
    made, text = model(layer), tokens(1, 6)
    with torch.no_grad():
        start = made.prefill(text)[1]
        kept = map_state(torch.clone, start)
        first, middle = made.step(tokens(1), start)
        noted = map_state(torch.clone, middle)
        made.step(tokens(1, seed=1), middle)
        same((first, start), (first, kept), 0)
        same((first, middle), (first, noted), 0)
        same(made.step(tokens(1), start), (first, middle), 0)
        two = made.step(tokens(2), made.fork(start, 2))
        same((two[0][:1], map_state(lambda x: x[:1], two[1])), made.step(tokens(2)[:1], start))
        expanded = map_state(lambda x: x.expand(2, *x.shape[1:]), start)
        same(made.step(tokens(2), expanded), two)
    assert len(seen.take()) == 6


@pytest.mark.parametrize("layer", SPECS)
def test_unequal_prompts(layer, seen) -> None:
    made, text, lengths = model(layer), tokens(3, 7), torch.tensor([2, 7, 4])
    found = made.generate(text, 5, lengths=lengths)
    assert seen.take() == [3] * 5
    for k, length in enumerate(lengths.tolist()):
        single = made.generate(text[k : k + 1, :length], 5)
        assert torch.equal(single.tokens[0], found.tokens[k])
        torch.testing.assert_close(single.logits[0], found.logits[k], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layer", SPECS)
def test_parameters_may_change_and_move(layer, seen) -> None:
    made, token = model(layer), tokens(2)
    with torch.no_grad():
        state = made.prefill(tokens(2, 4))[1]

    def check(rtol: float = 1e-12) -> Tensor:
        with torch.no_grad():
            found = made.step(token, state)
        same(found, alone(made, token, state), rtol)
        assert seen.take() == [3]
        return found[0]

    before = check()
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-2)
    made(tokens(2, 5))[0].square().mean().backward()
    optimizer.step()
    trained = check()
    assert not torch.allclose(trained, before)
    other = model(layer, seed=8)
    made.load_state_dict(other.state_dict())
    loaded = check()
    assert not torch.allclose(loaded, trained)
    made.load_state_dict(model(layer, seed=9).state_dict(), assign=True)
    assert not torch.allclose(check(), loaded)
    made.layers[1].layer.out_proj = nn.Linear(*made.layers[1].layer.out_proj.weight.shape[::-1])
    made.double()
    with torch.no_grad():
        made.layers[1].layer.out_proj.bias.zero_()
        found = made.step(token, state)
    assert seen.take() == [1, 1, 1]
    same(found, alone(made, token, state))
    made.layers[1] = copy.deepcopy(made.layers[0])
    check()
    made.layers[0].layer.A_log = nn.Parameter(made.layers[0].layer.A_log.detach() + 1)
    check()
    for block in made.layers:
        block.norm.eps = 0.5
    check()
    state = map_state(Tensor.float, state)
    made.float()
    assert check(2e-6).dtype == torch.float32
    state = map_state(Tensor.double, state)
    made.double()
    check()


@pytest.mark.parametrize("layer", SPECS)
def test_copies_have_plans_of_their_own(layer, seen) -> None:
    made, token = model(layer), tokens(1)
    state = made.init_state(1)
    with torch.no_grad():
        expected = made.step(token, state)
        other = copy.deepcopy(made)
        for parameter in made.parameters():
            parameter.zero_()
        same(other.step(token, state), expected)
        del made
        same(other.step(token, state), expected)
    assert seen.take() == [3] * 3


@pytest.mark.parametrize("layer", SPECS)
def test_blocks_are_stepped_one_by_one_where_they_must(layer, seen, caplog) -> None:
    made, token = model(layer), tokens(1)
    state = made.init_state(1)
    caplog.set_level(logging.INFO, logger="statewise")
    with torch.no_grad():
        expected = made.step(token, state)
        assert seen.take() == [3]
        assert "LanguageModel: 3 of 3 blocks are stepped in 1 call of stack_step" in caplog.text
        calls = []
        handle = made.layers[1].layer.in_proj.register_forward_hook(lambda *a: calls.append(1))
        same(made.step(token, state), expected)
        handle.remove()
        assert calls
        assert "one by one, because a hook waits" in caplog.text
        made.layers[2].layer.step = lambda u, state, dt=None: (2 * u, state)
        assert not torch.allclose(made.step(token, state)[0], expected[0])
        assert seen.take() == [2]
        del made.layers[2].layer.step
        rows = made.step(token.expand(5), made.fork(state, 5))[0]
        torch.testing.assert_close(rows, expected[0].expand(5, -1), rtol=1e-10, atol=1e-10)
        assert "because there are more than 4 rows" in caplog.text
        assert not seen.take()
        made.layers[0].dropout.p = 0.5
        made.train().step(token, state)
        assert seen.take() == [2]
        same(made.eval().step(token, state), expected)
        assert seen.take() == [3]
    logits = made.step(token, state)[0]
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in made.layers.parameters())
    assert not seen.take()
    assert "blocks 0 to 2 are stepped one by one, because gradients are asked for" in caplog.text
    made.requires_grad_(False)
    same(made.step(token, state), expected)
    assert seen.take() == [3]
    state[0].ssm.requires_grad_()
    assert made.step(token, state)[0].requires_grad
    state[0].ssm.requires_grad_(False)
    seen.take()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        made.step(token, state)
    assert not seen.take()


class Twice(nn.Module):
    """A parametrisation."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("layer", SPECS)
def test_parameters_that_are_computed_or_of_two_types(layer, seen) -> None:
    made, token = model(layer), tokens(1)
    state = made.init_state(1)
    conv = made.layers[1].layer.conv1d
    with torch.no_grad():
        made.step(token, state)
        assert seen.take() == [3]
        nn.utils.parametrize.register_parametrization(conv, "weight", Twice())
        found = made.step(token, state)
        assert seen.take() == [1, 1]
        same(found, alone(made, token, state))
        conv.parametrizations.weight.original *= 1.5
        changed = made.step(token, state)
        assert not torch.allclose(changed[0], found[0])
        same(changed, alone(made, token, state))
        nn.utils.parametrize.remove_parametrizations(conv, "weight")
        same(made.step(token, state), changed)
        seen.take()
        for parameter in made.layers[2].parameters():
            parameter.data = parameter.data.float()
        same(made.step(token, state), alone(made, token, state))
        assert not seen.take()


def test_states_that_do_not_fit_are_refused_as_ever(seen) -> None:
    made = model()
    with torch.no_grad(), pytest.raises(ValueError, match="Mamba takes a state of shape"):
        made.step(tokens(2), made.init_state(1))
    with torch.no_grad():
        narrow = made.step(tokens(1), map_state(Tensor.float, made.init_state(1)))
        same(narrow, made.step(tokens(1), made.init_state(1)), 1e-6)


def test_reference_back_end(seen) -> None:
    made, token = model(), tokens(2)
    state = made.init_state(2)
    with torch.no_grad():
        found = made.step(token, state)
        with ops.use_backend("reference"):
            same(made.step(token, state), found, 1e-12)
    assert seen.take() == [3, 3]


def test_runs_between_other_blocks(seen, caplog) -> None:
    caplog.set_level(logging.INFO, logger="statewise")
    made = model(n_layer=5, attention=Attention.spec(n_heads=2, window=4), attention_at=(2,))
    token = tokens(2)
    with torch.no_grad():
        state = made.prefill(tokens(2, 6))[1]
        found = made.step(token, state)
        assert seen.take() == [2, 2]
        same(found, alone(made, token, state))
    assert "block 2 is stepped by itself, because its layer is Attention" in caplog.text
    made = model(mlp=FeedForward.spec(expand=2))
    with torch.no_grad():
        state = made.prefill(tokens(2, 6))[1]
        found = made.step(token, state)
        assert seen.take() == [1, 1, 1]
        same(found, alone(made, token, state))


def test_sequence_models(seen) -> None:
    """Signals with relative steps; blocks of several kinds; blocks that cannot be joined."""
    blocks = (
        *(BlockSpec(SPECS[0]), BlockSpec(SPECS[0]), BlockSpec(SPECS[1])),
        BlockSpec(Mamba.spec(d_state=3, rule="zoh")),
        BlockSpec(Mamba.spec(d_state=3, selective=Selective(B=False))),
        *(BlockSpec(SPECS[0], norm=LayerNorm()), BlockSpec(SPECS[0], prenorm=False)),
        *(BlockSpec(SPECS[1], skip="none"), BlockSpec(SPECS[1])),
    )
    made = SequenceModel(2, 3, SequenceModelConfig(blocks, d_model=8), seed=1).double()
    u, dt = torch.randn(2, 5, 2).double(), torch.rand(2, 5).double() + 0.5
    with torch.no_grad():
        y, last = made(u, dt=dt)
        state = made.init_state(2)
        for k in range(5):
            y_k, state = made.step(u[:, k], state, dt=dt[:, k])
            torch.testing.assert_close(y_k, y[:, k], rtol=1e-9, atol=1e-9)
        same((y_k, state), (y[:, -1], last), 1e-9)
        assert seen.take() == [2, 1, 1] * 5
        with pytest.raises(ValueError, match=r"takes dt of shape \(2,\)"):
            made.step(u[:, 0], state, dt=dt)


def test_four_threads_at_once(seen, monkeypatch) -> None:
    """Steps of one model from several threads."""
    monkeypatch.setenv("STATEWISE_THREADS", "2")
    monkeypatch.setattr(import_module("statewise.ops.stack_step.cpu"), "MIN_ELEMENTS", 10)
    made = model(SPECS[1])
    text = tokens(4, 12)
    with torch.no_grad():
        expected = [made.prefill(text[k : k + 1])[0] for k in range(4)]
    found: list = [None] * 4

    def read(k: int) -> None:
        with torch.no_grad():
            for _ in range(5):
                state = made.init_state(1)
                for j in range(12):
                    found[k], state = made.step(text[k : k + 1, j], state)

    workers = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    assert len(seen.take()) == 4 * 5 * 12
