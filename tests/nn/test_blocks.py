"""The layers that models put between and around others: blocks, shells, attention, feed-forward."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from contracts.layer_base import close
from contracts.layer_suite import EagerContract, LayerContract
from statewise._config import from_dict, to_dict
from statewise.lti import Bilinear
from statewise.nn import (
    GLU,
    LRU,
    S4D,
    Attention,
    Block,
    BlockSpec,
    FeedForward,
    Gated,
    LayerNorm,
    LayerSpec,
    RMSNorm,
)


class TestAttention(LayerContract):
    refuses = frozenset({"dt"})
    # A weight of exactly 0 on a NaN is NaN; finite values in the future do not matter at all.
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return Attention(8, n_heads=2, window=5, seed=seed).to(dtype)


class TestAttentionWithoutPositions(EagerContract):
    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return Attention(3, n_heads=1, window=4, base=0, bias=True, seed=seed).to(dtype)


class TestAttentionOfSharedHeads(EagerContract):
    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        layer = Attention(
            5, n_heads=4, n_heads_kv=2, d_head=6, rotary=4, d_conv=3, window=6, seed=seed
        )
        return layer.to(dtype)


class TestGated(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return Gated(3, S4D.spec(d_state=2), seed=seed).to(dtype)


class TestGatedWithoutConvolution(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return Gated(2, LRU.spec(d_state=3), d_conv=0, expand=1, seed=seed).to(dtype)


class TestBlockOfGated(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        spec = BlockSpec(Gated.spec(inner=S4D.spec(d_state=2)), norm=LayerNorm())
        return spec.build(3, np.random.default_rng(seed)).to(dtype)


def test_attention_is_softmax_attention_over_the_window() -> None:
    layer = Attention(6, n_heads=3, window=4, base=100.0).double()
    u = torch.randn(2, 11, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    query, key, value = layer.enter(u).chunk(3, -1)
    angle = lambda t: torch.tensor(float(t), dtype=torch.float64)  # noqa: E731 (one pair a head)
    expected = torch.zeros_like(u)
    for t in range(11):
        for head in range(3):
            part = slice(2 * head, 2 * head + 2)
            past = range(max(0, t - 3), t + 1)
            scores = []
            for s in past:
                c, n = angle(s - t).cos(), angle(s - t).sin()
                turned = query[:, t, part] @ torch.stack(
                    [torch.stack([c, -n]), torch.stack([n, c])]
                ).to(u)
                scores.append((turned * key[:, s, part]).sum(-1) / 2**0.5)
            weight = torch.stack(scores, -1).softmax(-1)
            expected[:, t, part] = sum(
                weight[:, i, None] * value[:, s, part] for i, s in enumerate(past)
            )
    torch.testing.assert_close(layer(u)[0], layer.leave(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("window", [3, None])
def test_attention_of_shared_heads_is_the_definition(window: int | None) -> None:
    """A loop over samples: convolution, partly turned heads, keys shared by two heads of four."""
    layer = Attention(
        5, n_heads=4, n_heads_kv=2, d_head=6, rotary=4, d_conv=3, window=window, base=50.0
    ).double()
    u = torch.randn(2, 9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    entered = layer.enter(u)
    before = torch.cat([entered.new_zeros(2, 2, 48), entered], 1)
    taps, offset = layer.conv1d.weight, layer.conv1d.bias
    mixed = torch.stack(
        [(before[:, t : t + 3] * taps.T).sum(1) + offset for t in range(9)], 1
    ).unflatten(-1, (8, 6))
    frequency = torch.tensor([1.0, 50.0**-0.5], dtype=torch.float64)
    turned = torch.complex(mixed[..., :2], mixed[..., 2:4])
    turned = turned * torch.exp(1j * torch.arange(9)[:, None, None] * frequency)
    q = torch.cat([turned.real, turned.imag, mixed[..., 4:]], -1)
    expected = []
    for t in range(9):
        heads = []
        for head in range(4):
            past = slice(0 if window is None else max(0, t - window + 1), t + 1)
            keys, values = q[:, past, 4 + head // 2], mixed[:, past, 6 + head // 2]
            weight = torch.softmax((keys @ q[:, t, head, :, None]).squeeze(-1) / 6**0.5, -1)
            heads.append((weight[..., None] * values).sum(1))
        expected.append(layer.leave(torch.cat(heads, -1)))
    y = layer(u)[0]
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-10, atol=1e-12)


def test_attention_to_everything_is_a_wide_window() -> None:
    """Its memory grows, and steps, pads and resets give what a window of 64 gives."""
    options = {"n_heads": 2, "n_heads_kv": 1, "d_conv": 2}
    grows = Attention(4, window=None, **options).double()
    wide = Attention(4, window=64, **options).double()
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(3, 10, 4, dtype=torch.float64, generator=generator)
    reset = torch.zeros(3, 10, dtype=torch.bool)
    reset[0, 3] = reset[1, 0] = True
    given = {"reset": reset, "lengths": torch.tensor([10, 6, 0])}
    assert grows.init_state(3).key.shape == (3, 0, 2)
    one, other = grows.init_state(3), wide.init_state(3)
    for extra in ({}, given, {}):
        (y, one), (expected, other) = grows(u, one, **extra), wide(u, other, **extra)
        close(y, expected)
        close((one.seen, one.conv), (other.seen, other.conv))
        for part, all_of_it in ((one.key, other.key), (one.value, other.value)):
            close(part, all_of_it[:, -part.shape[1] :])
    assert one.key.shape == (3, 30, 2)
    for k in range(3):
        (y, one), (expected, other) = grows.step(u[:, k], one), wide.step(u[:, k], other)
        close(y, expected)
    with pytest.raises(ValueError, match=r"state.*\(2, 33, 2\).*given"):
        grows(u[:2], one)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_heads": 5}, "n_heads equal parts.*n_heads = 5"),
        ({"n_heads": 4, "n_heads_kv": 3}, "divides n_heads = 4; given 3"),
        ({"n_heads": 2, "d_head": 5}, "even number of the 5 channels"),
        ({"n_heads": 2, "rotary": 6}, "rotary = 6"),
        ({"window": 0}, "window = 0"),
        ({"d_conv": -1}, "d_conv = -1"),
    ],
)
def test_attention_tells_sizes_that_do_not_fit(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Attention(8, **options)


@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward_has_no_memory(gated: bool) -> None:
    layer = FeedForward(3, expand=2, activation="silu", gated=gated).double()
    u = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, True, True]] * 2)
    y, state = layer(u, mask=mask, lengths=torch.tensor([5, 2]))
    assert state == () == layer.init_state(2)
    assert not y[1, 2:].any()
    for k in range(5):
        torch.testing.assert_close(layer.step(u[:, k], (), mask=mask[:, k])[0][0], y[0, k])


def test_feed_forward_refuses_what_it_has_not() -> None:
    with pytest.raises(ValueError, match="'tanh'"):
        FeedForward(3, activation="tanh")
    with pytest.raises(ValueError, match="expand = 0"):
        FeedForward(3, expand=0)


def test_specs_go_through_json_and_build_the_same_layer() -> None:
    spec = BlockSpec(
        Gated.spec(inner=S4D.spec(d_state=2, rule=Bilinear()), expand=3),
        static=GLU(),
        norm=RMSNorm(),
        dropout=0.1,
    )
    back = from_dict(to_dict(spec))
    assert back == spec
    assert hash(back) == hash(spec)
    one, other = (s.build(3, np.random.default_rng(4)) for s in (spec, back))
    assert isinstance(one, Block)
    assert isinstance(one.layer, Gated)
    assert one.layer.inner.d_input == 9
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert dataclasses.replace(spec, dropout=0.0) != spec


def test_specs_tell_what_is_wrong() -> None:
    with pytest.raises(TypeError, match="S4D has no option 'states'; its options are: d_state"):
        S4D.spec(states=3)
    with pytest.raises(ValueError, match=r"no layer 'S4E'; the layers are: .*S4D"):
        LayerSpec("S4E").build(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"S4D has as many outputs as inputs; asked for 3 .* 2"):
        S4D.spec().build(3, np.random.default_rng(0), 2)
    with pytest.raises(TypeError, match="such as Mamba2"):
        BlockSpec("S4D")  # type: ignore[arg-type]
    assert LRU.spec(d_state=4).build(3, np.random.default_rng(0), 2).d_output == 2
