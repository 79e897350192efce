"""ParaGRU and ParaLSTM: contract, the loop written out, Newton's method, what training needs."""

from __future__ import annotations

import pytest
import torch

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import ParaGRU, ParaLSTM, parameter_roles
from statewise.ops import ParaGRUCell, ParaLSTMCell, newton_scan


class TestParaGRU(LayerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return ParaGRU(4, d_output=6, seed=seed).to(dtype)


class TestParaGRUWithLimit(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return ParaGRU(3, heads=3, limit=0.5, seed=seed).to(dtype)


class TestParaLSTM(LayerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return ParaLSTM(4, d_output=6, seed=seed).to(dtype)


class TestParaLSTMOfOneHead(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return ParaLSTM(3, heads=1, limit=0.3, seed=seed).to(dtype)


def gates_by_hand(layer, u):
    """p = B u + b for one sample (B, d_input), with B written as a full matrix: three (B, D)."""
    heads, rows, _, columns = layer.gates.weight.shape
    found = []
    for gate in range(3):
        full = torch.zeros(heads * rows, heads * columns, dtype=u.dtype)
        for head in range(heads):
            block = full[head * rows : (head + 1) * rows, head * columns : (head + 1) * columns]
            block.copy_(layer.gates.weight[head, :, gate])
        found.append(u @ full + layer.gates.bias[gate])
    return found


def gru_by_hand(layer, u):
    a, h, outputs = layer.recurrent, torch.zeros(u.shape[0], layer.d_output, dtype=u.dtype), []
    for t in range(u.shape[1]):
        p_z, p_r, p_n = gates_by_hand(layer, u[:, t])
        z, r = torch.sigmoid(a[0] * h + p_z), torch.sigmoid(a[1] * h + p_r)
        n = torch.tanh(a[2] * (h * r) + p_n)
        h = (1 - z) * h + z * n
        outputs.append(h)
    return torch.stack(outputs, 1)


def lstm_by_hand(layer, u):
    a, w = layer.recurrent, layer.peephole
    c = h = torch.zeros(u.shape[0], layer.d_output, dtype=u.dtype)
    outputs = []
    for t in range(u.shape[1]):
        p_f, p_g, p_o = gates_by_hand(layer, u[:, t])
        f = torch.sigmoid(a[0] * h + p_f + w[0] * c)
        c = f * c + (1 - f) * torch.tanh(a[1] * h + p_g)
        h = torch.sigmoid(a[2] * h + p_o + w[1] * c) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize(("kind", "by_hand"), [(ParaGRU, gru_by_hand), (ParaLSTM, lstm_by_hand)])
def test_equals_the_loop_written_out(kind, by_hand):
    layer = kind(4, d_output=6, seed=3).double()
    u = torch.randn(3, 25, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, _ = layer(u)
    expected = by_hand(layer, u)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-13)
    found = gradients(layer, y.square().sum())
    for name, one in gradients(layer, expected.square().sum()).items():
        torch.testing.assert_close(found[name], one, rtol=1e-9, atol=1e-11)


def test_newton_over_the_sequence_gives_the_layer():
    u = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gru, lstm = ParaGRU(4, limit=0.5).double(), ParaLSTM(4, limit=0.5).double()
    weights = gru.recurrent.clamp(-0.5, 0.5)
    found = newton_scan(ParaGRUCell(weights), gru.gates(u))
    assert found.converged
    assert found.iterations <= 8
    close(found.h, gru(u)[0])
    pairs = newton_scan(ParaLSTMCell(*lstm._weights()), lstm.gates(u))
    assert pairs.converged
    close(pairs.h.unflatten(-1, (4, 2))[..., 1], lstm(u)[0])


def test_start_and_roles():
    layer = ParaLSTM(400, seed=0)
    assert float(layer.recurrent.detach().var()) == pytest.approx(0.8 / 400, rel=0.1)
    close(layer.gates.bias[0], -torch.linspace(0, 1, 400), rtol=1e-5, atol=1e-7)
    assert not layer.gates.bias[1:].any()
    assert parameter_roles(layer) == {
        "recurrent": "A",
        "peephole": "A",
        "gates.weight": "B",
        "gates.bias": "bias",
    }


def test_limit_bounds_the_recurrent_weights():
    layer = ParaGRU(4, limit=0.5).double()
    u = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        layer.recurrent.fill_(3.0)
        loose = layer(u)[0]
        layer.recurrent.fill_(0.5)
        close(layer(u)[0], loose)


@pytest.mark.parametrize("kind", [ParaGRU, ParaLSTM])
def test_wrong_options_are_told(kind):
    with pytest.raises(ValueError, match="heads = 2, d_input = 3"):
        kind(3, d_output=4)
    with pytest.raises(ValueError, match=r"positive limit.*given -1"):
        kind(4, limit=-1.0)
