"""LongVQ: contract, quadratic attention with quantised keys, the codebook's own dynamics."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import silu

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import LongVQ, state_tensors


class TestLongVQ(LayerContract):
    refuses = frozenset({"dt"})
    # A future sample has weight 0, which a NaN survives.
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return LongVQ(3, n_codes=5, d_key=4, window=3, d_state=2, seed=seed).to(dtype)


class TestLongVQWithTheLeastWindow(EagerContract):
    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return LongVQ(3, n_codes=3, d_key=2, window=1, d_state=2, seed=seed).to(dtype)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vq(window, **options):
    layer = LongVQ(3, window=window, **({"n_codes": 7, "d_key": 4, "d_state": 2} | options))
    layer = layer.double()
    with torch.no_grad():
        layer.near.add_(noise(window))
        layer.scale.mul_(2)
    return layer


def quadratic(layer, u, quantised=True):
    """Attention of all pairs, gradients straight through within the window."""
    L = u.shape[1]
    x = layer.memory(u)[0]
    z = silu(layer.shared(x))
    k, q = z * layer.scale[0] + layer.shift[0], z * layer.scale[1] + layer.shift[1]
    k = k / torch.sqrt(k.square().mean(-1, keepdim=True) + 1e-5)
    v = silu(layer.enter(u))
    distances = torch.cdist(k.detach(), layer.codes.expand(u.shape[0], -1, -1))
    word = layer.codes[distances.argmin(-1)] if quantised else k.detach()
    distance = torch.arange(L)[:, None] - torch.arange(L)
    near = distance < layer.window
    bias = layer.near[distance.clamp(0, layer.window - 1)] * near
    through = word + (k - k.detach())
    score = torch.where(near, q @ through.mT, q @ word.mT) / math.sqrt(layer.d_key) + bias
    weight = torch.softmax(score.masked_fill(distance < 0, -math.inf), -1)
    phi, gamma, fresh = layer.gates(x).split([3, 6, 3], -1)
    phi = torch.sigmoid(phi)
    inside = layer.leave(silu(gamma) * (weight @ v))
    return phi * silu(fresh + inside) + (1 - phi) * u


@pytest.mark.parametrize("window", [1, 2, 5, 16, 40])
def test_factorised_is_quadratic(window):
    layer, u = vq(window), noise(2, 33, 3)
    y, expected = layer(u)[0], quadratic(layer, u)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-13)
    one = gradients(layer, y.square().sum())
    for name, gradient in gradients(layer, expected.square().sum()).items():
        torch.testing.assert_close(one[name], gradient, rtol=1e-9, atol=1e-11)


def test_a_codebook_of_all_keys_is_full_attention():
    layer, u = vq(3, n_codes=20), noise(1, 20, 3)
    layer.codes.copy_(layer.quantise(u).key[0].detach())
    found = layer.quantise(u)
    assert float(found.commitment.detach()) < 1e-25
    assert float(found.perplexity.detach()) == pytest.approx(20)
    close(layer(u)[0], quadratic(layer, u, quantised=False))


def test_counts_add_up_and_memory_does_not_grow():
    layer, u = vq(4), noise(2, 50, 3)
    _, state = layer(u)
    close(state.count.sum(-1) + state.seen, torch.full((2,), 50.0, dtype=u.dtype))
    sizes = [part.shape for part in state_tensors(layer(u[:, :9])[1])]
    assert [part.shape for part in state_tensors(state)] == sizes


def test_commitment_pulls_keys_to_their_words():
    layer, u = vq(4), noise(2, 9, 3)
    found = layer.quantise(u)
    (slope,) = torch.autograd.grad(found.commitment, found.key)
    close(slope, 2 * (found.key - layer.codes[found.code]) / 18)


def test_code_words_go_to_the_means_of_their_keys():
    layer = vq(4, n_codes=2, d_key=2)
    layer.codes.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    layer.sums.copy_(layer.codes)
    sign = torch.tensor([1.0] * 6 + [-1.0] * 3, dtype=torch.float64).unsqueeze(-1)
    key = torch.cat([sign, 0.1 * noise(9, 1)], -1)
    for k in range(1, 60):
        layer.learn_codes(key, decay=0.5)
        # Weights go to the counts like decay^k, from 1.
        counts = torch.tensor([6.0, 3.0], dtype=torch.float64)
        close(layer.weights, counts + 0.5**k * (1 - counts))
    close(layer.codes, torch.stack([key[:6].mean(0), key[6:].mean(0)]))
    assert float(layer.weights.sum()) == pytest.approx(9)


def test_unused_words_are_drawn_anew():
    layer = vq(4, n_codes=3, d_key=2)
    layer.codes.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [50.0, 50.0]]))
    layer.sums.copy_(layer.codes)
    key = noise(30, 2)
    for _ in range(20):
        layer.learn_codes(key, decay=0.5)
    assert layer.codes[2].norm() > 50
    layer.learn_codes(key, decay=0.5, seed=0)
    assert any(torch.allclose(layer.codes[2], row) for row in key)


def test_a_codebook_starts_at_keys_of_the_data():
    layer = vq(4, n_codes=5, d_key=2)
    key = noise(2, 3, 2)
    layer.start_codes(key, seed=0)
    rows = key.flatten(0, 1)
    at = [int(torch.nonzero((rows == word).all(-1))) for word in layer.codes]
    assert len(set(at)) == 5
    assert torch.equal(layer.sums, layer.codes)
    assert torch.equal(layer.weights, torch.ones(5, dtype=torch.float64))
    layer.start_codes(key[:1, :2], seed=0)
    assert {int(torch.nonzero((rows == word).all(-1))) for word in layer.codes} <= {0, 1}


def test_running_the_layer_leaves_the_codebook_alone():
    layer = vq(4).train()
    before = {name: value.clone() for name, value in layer.named_buffers()}
    layer(noise(2, 9, 3))[0].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match="n_codes of at least 1; given 0"):
        LongVQ(3, n_codes=0)
    with pytest.raises(ValueError, match=r"decay in \[0, 1\); given 1"):
        vq(2).learn_codes(noise(3, 4), decay=1.0)
    with pytest.raises(ValueError, match="given none"):
        vq(2).start_codes(noise(0, 4))
