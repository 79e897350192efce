"""Longhorn: contract, closed form, the recurrence written out, bounds of the decay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv1d, silu

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import Longhorn
from statewise.nn.longhorn import decay_and_write


class TestLonghorn(LayerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return Longhorn(3, d_state=4, rank=2, seed=seed).to(dtype)


class TestLonghornExactUpdate(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return Longhorn(3, d_state=2, expand=1, d_conv=2, update="rank1", seed=seed).to(dtype)


class TestLonghornWithoutWindow(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return Longhorn(2, d_state=1, d_conv=1, seed=seed).to(dtype)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(layer, u):
    """The layer as the paper writes it, one sample and one channel at a time."""
    d, n, r = layer.d_inner, layer.d_state, layer.rank
    xz = u @ layer.in_proj.weight.T
    x, z = xz[..., :d], xz[..., d:]
    taps = layer.conv1d.width
    padded = torch.nn.functional.pad(x.mT, (taps - 1, 0))
    x = silu(conv1d(padded, layer.conv1d.weight[:, None], layer.conv1d.bias, groups=d)).mT
    outputs = []
    for row in range(u.shape[0]):
        memory = [torch.zeros(n, dtype=u.dtype) for _ in range(d)]
        for t in range(u.shape[1]):
            parts = layer.x_proj.weight @ x[row, t]
            k, q = parts[r : r + n], parts[r + n :]
            beta = torch.sigmoid(layer.rate_proj.weight @ parts[:r] + layer.rate_proj.bias)
            y = []
            for i in range(d):
                eps = beta[i] / (1 + beta[i] * k.dot(k))
                if layer.update == "diag":
                    memory[i] = (1 - eps * k * k) * memory[i] + eps * x[row, t, i] * k
                else:
                    system = torch.eye(n, dtype=u.dtype) + beta[i] * torch.outer(k, k)
                    right = memory[i] + beta[i] * x[row, t, i] * k
                    memory[i] = torch.linalg.solve(system, right)
                y.append(memory[i].dot(q) + layer.D[i] * x[row, t, i])
            outputs.append(layer.out_proj.weight @ (torch.stack(y) * silu(z[row, t])))
    return torch.stack(outputs).view(u.shape)


@pytest.mark.parametrize("update", ["diag", "rank1"])
def test_equals_the_recurrence_written_out(update):
    layer = Longhorn(3, d_state=5, update=update, seed=1).double()
    u = noise(2, 9, 3)
    y, expected = layer(u)[0], by_hand(layer, u)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-13)
    one = gradients(layer, y.square().sum())
    for name, gradient in gradients(layer, expected.square().sum()).items():
        torch.testing.assert_close(one[name], gradient, rtol=1e-9, atol=1e-11)


def test_closed_form_minimises_the_online_loss():
    layer = Longhorn(1, d_state=4, expand=2, update="rank1").double()
    k, x = noise(1, 4, seed=1), noise(1, 2, seed=2)
    before, rate = noise(1, 2, 4, seed=3), torch.tensor([[0.3, 0.9]], dtype=torch.float64)
    _, memory = layer.learn(x, rate, k, k, before)
    memory.requires_grad_()
    error = torch.einsum("bdn,bn->bd", memory, k) - x
    loss = (memory - before).square().sum() + (rate * error.square()).sum()
    (slope,) = torch.autograd.grad(loss, memory)
    assert slope.abs().max() < 1e-14


def test_rank1_is_the_delta_rule_for_unit_keys():
    layer = Longhorn(1, d_state=4, expand=2, update="rank1").double()
    k, x, before = noise(1, 4, seed=1), noise(1, 2, seed=2), noise(1, 2, 4, seed=3)
    k = k / k.norm()
    rate = torch.tensor([[0.3, 0.9]], dtype=torch.float64)
    _, memory = layer.learn(x, rate, k, k, before)
    delta = (rate / (1 + rate))[0]
    for i in range(2):
        expected = before[0, i] - delta[i] * (before[0, i].dot(k[0]) - x[0, i]) * k[0]
        torch.testing.assert_close(memory[0, i], expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("length", [1.0, 3.0, 1e4])
def test_diagonal_update_is_exact_for_keys_along_an_axis(length):
    k = torch.zeros(1, 3, dtype=torch.float64)
    k[0, 1] = length
    x, rate, before = noise(1, 2), torch.full((1, 2), 0.8, dtype=torch.float64), noise(1, 2, 3)
    found = {}
    for update in ("diag", "rank1"):
        layer = Longhorn(1, d_state=3, expand=2, update=update).double()
        found[update] = layer.learn(x, rate, k, k, before)[1]
    close(found["diag"], found["rank1"])
    read = found["diag"] @ k[0]
    share = 0.8 * length**2 / (1 + 0.8 * length**2)
    close(read, (1 - share) * (before @ k[0]) + share * x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    scale=st.floats(-8, 8).map(lambda e: 10.0**e),
    states=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_decay_lies_between_zero_and_one(dtype, scale, states, seed):
    key = (scale * noise(7, states, seed=seed)).to(dtype)
    rate = torch.sigmoid(3 * noise(7, 2, seed=seed + 1)).to(dtype)
    decay, _ = decay_and_write(torch.ones_like(rate), rate, key)
    assert (decay > 0).all()
    assert (decay <= 1).all()


def test_keys_of_zero_leave_the_state():
    layer = Longhorn(3, d_state=4, seed=1).double()
    _, start = layer(noise(2, 6, 3))
    with torch.no_grad():
        layer.x_proj.weight[layer.rank : layer.rank + 4] = 0
    _, state = layer(noise(2, 5, 3, seed=2), start)
    assert torch.equal(state.memory, start.memory)


@pytest.mark.parametrize("chunk", [1, 4, 13, 50])
def test_pieces_are_the_whole(chunk):
    whole, pieces = (Longhorn(3, d_state=4, chunk=c, seed=1).double() for c in (None, chunk))
    u, reset = noise(2, 13, 3), torch.zeros(2, 13, dtype=torch.bool)
    reset[0, 6] = reset[1, 0] = True
    found = []
    for layer in (pieces, whole):
        _, start = layer(noise(2, 4, 3, seed=1))
        y, state = layer(u, start, reset=reset, lengths=torch.tensor([13, 9]))
        found.append((y, state, gradients(layer, y.square().sum() + state.memory.sum())))
    (y, state, one), (expected, last, other) = found
    close((y, state), (expected, last))
    for name, gradient in other.items():
        torch.testing.assert_close(one[name], gradient, rtol=1e-10, atol=1e-12)


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match="d_state of at least 1; given 0"):
        Longhorn(3, d_state=0)
    with pytest.raises(ValueError, match="given 'full'"):
        Longhorn(3, update="full")
