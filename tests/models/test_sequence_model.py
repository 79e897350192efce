"""The sequence model: contract, tokens, pooled heads, and layers that swap by one argument."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from contracts.layer_suite import EagerContract, LayerContract
from statewise._config import from_dict, to_dict
from statewise.models import (
    DeepWiener,
    DeepWienerConfig,
    PerSample,
    Pooled,
    PooledState,
    SequenceModel,
    SequenceModelConfig,
    Tokens,
)
from statewise.nn import (
    GLU,
    LRU,
    S4D,
    S5,
    Attention,
    BlockSpec,
    FeedForward,
    Gated,
    LayerNorm,
    state_tensors,
)
from statewise.nn.wiener import WienerBlock

TWO_PARTS = (BlockSpec(S4D.spec(d_state=2), static=GLU()), BlockSpec(FeedForward.spec(expand=2)))


def tokens(batch: int, length: int, size: int = 11, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(size, (batch, length), generator=generator)


class TestSignals(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        config = SequenceModelConfig(TWO_PARTS, repeat=2, d_model=4)
        return SequenceModel(3, 2, config, seed=seed).to(dtype)


class TestHybrid(EagerContract):
    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        blocks = (
            Gated.spec(inner=LRU.spec(d_state=3)),
            BlockSpec(Attention.spec(n_heads=2, window=4), norm=LayerNorm(), prenorm=False),
        )
        config = SequenceModelConfig(blocks, d_model=4, norm=None)
        return SequenceModel(3, 2, config, seed=seed).to(dtype)


def language(**changes) -> SequenceModel:
    config = SequenceModelConfig(
        (Gated.spec(inner=S4D.spec(d_state=2)),), d_model=4, encoder=Tokens(), **changes
    )
    return SequenceModel(11, 11, config).double()


def test_tokens_by_step_and_in_pieces():
    model = language(head=PerSample(tied=True))
    u = tokens(2, 9)
    y, state = model(u)
    assert y.shape == (2, 9, 11)
    now = model.init_state(2)
    for k in range(9):
        sample, now = model.step(u[:, k], now)
        torch.testing.assert_close(sample, y[:, k], rtol=1e-9, atol=1e-11)
    first, middle = model(u[:, :4])
    second, last = model(u[:, 4:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=1e-9, atol=1e-11)
    for one, other in zip(state_tensors(last), state_tensors(state), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    assert "head.weight" not in model.state_dict()


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_pooled_output_is_that_of_the_sequence_so_far(pool):
    config = SequenceModelConfig(TWO_PARTS, d_model=4, head=Pooled(pool))
    model = SequenceModel(2, 3, config).double()
    u = torch.randn(3, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([8, 3, 5])
    y, state = model(u, lengths=lengths)
    assert y.shape == (3, 3)
    assert isinstance(state, PooledState)
    for row in range(3):
        own = model.init_state(1)
        for k in range(int(lengths[row])):
            sample, own = model.step(u[row : row + 1, k], own)
        torch.testing.assert_close(sample[0], y[row], rtol=1e-9, atol=1e-11)
    _, middle = model(u[:, :5])
    torch.testing.assert_close(model(u[:, 5:], middle)[0], model(u)[0], rtol=1e-9, atol=1e-11)
    reset = torch.zeros(3, 8, dtype=torch.bool)
    reset[:, 2] = True
    torch.testing.assert_close(model(u, reset=reset)[0], model(u[:, 2:])[0], rtol=1e-9, atol=1e-11)


def test_config_goes_through_json():
    config = SequenceModelConfig(
        (Gated.spec(inner=S4D.spec(d_state=2)), BlockSpec(FeedForward.spec(), dropout=0.1)),
        repeat=3,
        encoder=Tokens(0.02),
        head=PerSample(tied=True),
    )
    back = from_dict(json.loads(json.dumps(to_dict(config))))
    assert back == config
    one, other = SequenceModel(5, 5, config, seed=3), SequenceModel(5, 5, back, seed=3)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize("spec", [S4D.spec(d_state=2), S5.spec(d_state=4, blocks=2), Gated.spec()])
def test_layers_swap_by_one_argument(spec):
    wiener = DeepWiener(2, 1, DeepWienerConfig(n_layers=2, d_model=4, layer=spec)).double()
    stack = SequenceModel(2, 1, SequenceModelConfig((spec,), repeat=2, d_model=4)).double()
    u = torch.randn(2, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for model in (wiener, stack):
        y, state = model(u)
        now = model.init_state(2)
        for k in range(7):
            sample, now = model.step(u[:, k], now)
            torch.testing.assert_close(sample, y[:, k], rtol=1e-9, atol=1e-11)
        assert len(state) == 2
    linear = spec.layer != "Gated"
    assert all(isinstance(block, WienerBlock) == linear for block in wiener.blocks)


def test_rectangular_layers_need_no_input_map():
    config = DeepWienerConfig(n_layers=2, d_model=4, layer=LRU.spec(d_state=3), input_map=False)
    assert DeepWiener(2, 1, config)(torch.zeros(1, 3, 2))[0].shape == (1, 3, 1)
    with pytest.raises(ValueError, match="S4D has as many outputs as inputs"):
        DeepWiener(2, 1, dataclasses.replace(config, layer=S4D.spec()))


def test_what_is_wrong_is_told():
    with pytest.raises(ValueError, match="at least one block"):
        SequenceModelConfig(())
    with pytest.raises(TypeError, match="BlockSpec or LayerSpec; given 'S4D'"):
        SequenceModelConfig(("S4D",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tied=True\) uses the vectors of Tokens"):
        SequenceModelConfig(TWO_PARTS, head=PerSample(tied=True))
    with pytest.raises(ValueError, match="n_inputs = 11, n_outputs = 4"):
        SequenceModel(11, 4, language(head=PerSample(tied=True)).config)
    model = language()
    with pytest.raises(ValueError, match="tokens from 0 to 10; given tokens from 3 to 11"):
        model(torch.tensor([[3, 11]]))
    with pytest.raises(ValueError, match=r"whole numbers of shape \(batch, length\)"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="a tuple of 1 states, one for each block; given 0"):
        model(tokens(1, 2), ())
    with pytest.raises(ValueError, match="PooledState"):
        SequenceModel(2, 3, SequenceModelConfig(TWO_PARTS, head=Pooled()))(torch.ones(1, 2, 2), ())
    with pytest.raises(ValueError, match="given 'max'"):
        Pooled("max")


def test_masked_tokens_enter_as_nothing():
    model = language()
    u = tokens(1, 6)
    mask = torch.tensor([[True, True, False, True, True, True]])
    other = u.clone()
    other[0, 2] = (u[0, 2] + 1) % 11
    torch.testing.assert_close(model(u, mask=mask)[0], model(other, mask=mask)[0], rtol=0, atol=0)
    assert not torch.equal(model(u)[0], model(other)[0])
