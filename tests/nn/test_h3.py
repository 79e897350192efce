"""H3: the layer contract, its loop, and what it can remember."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import H3, S4DInv


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TestH3(LayerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return H3(4, d_state=3, shift=4, head_dim=2, dt_max=0.9, seed=seed).to(dtype)


class TestH3OneChannelAHead(EagerContract):
    """More shift taps than most sequences of the suite have steps."""

    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return H3(3, d_state=2, shift=12, law=S4DInv(), seed=seed).to(dtype)


def arrays(layer: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in layer.named_parameters()}


@pytest.mark.parametrize("shift", [5, 11])
@pytest.mark.parametrize("head_dim", [1, 2, 4])
def test_it_is_its_loop(head_dim: int, shift: int) -> None:
    layer = H3(4, d_state=3, shift=shift, head_dim=head_dim, dt_max=0.9, seed=2).double()
    p, u, d = arrays(layer), noise(1, 20, 4), 4
    y, _ = layer(u)
    heads = d // head_dim
    qkv = u[0].numpy() @ p["enter.weight"].T + p["enter.bias"]
    q, k, v = qkv[:, :d], qkv[:, d : 2 * d], qkv[:, 2 * d :]
    lam = -np.exp(p["diag.log_decay"]) + 1j * p["diag.frequency"]
    step = np.exp(p["diag.log_dt"])[:, None]
    pole, gain = np.exp(lam * step), (np.exp(lam * step) - 1) / lam
    c = 2 * (p["diag.C"][..., 0] + 1j * p["diag.C"][..., 1])
    x = np.zeros((heads, head_dim, head_dim, 3), complex)
    for t in range(20):
        key = p["direct"] * k[t]
        for s in range(min(shift, t + 1)):
            key = key + p["taps"][:, s] * k[t - s]
        outer = np.einsum("hi,hj->hij", key.reshape(heads, head_dim), v[t].reshape(heads, head_dim))
        x = pole[:, None, None] * x + gain[:, None, None] * outer[..., None]
        stored = np.einsum("hn,hijn->hij", c, x).real + p["diag.D"][:, None, None] * outer
        answer = np.einsum("hi,hij->hj", q[t].reshape(heads, head_dim), stored).reshape(d)
        expected = p["leave.weight"] @ answer + p["leave.bias"]
        np.testing.assert_allclose(y[0, t].detach().numpy(), expected, atol=1e-13)


def test_with_a_delta_and_a_memory_it_recalls() -> None:
    """The value after a key comes back when the key does: k_{t−1} v_t stored, q_t asks."""
    layer = H3(8, d_state=1, shift=2, head_dim=4, dt_min=1.0, dt_max=1.0).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.taps[:, 1] = 1.0
        # A pole of no decay and no frequency, with gain one: a sum over time.
        layer.diag.log_decay.fill_(-40.0)
        layer.diag.C[..., 0] = 0.5
        # Keys are in the first four inputs, values in the last four; the second head is idle.
        for name, source in (("q", 0), ("k", 0), ("v", 4)):
            row = {"q": 0, "k": 8, "v": 16}[name]
            layer.enter.weight[row : row + 4, source : source + 4] = torch.eye(4)
        layer.leave.weight[:4, :4] = torch.eye(4)
    u = torch.zeros(1, 9, 8, dtype=torch.float64)
    values = noise(4, 4)
    for i in range(4):
        u[0, 2 * i, i] = 1.0
        u[0, 2 * i + 1, 4:] = values[i]
    u[0, 8, 2] = 1.0
    y, _ = layer(u)
    torch.testing.assert_close(y[0, 8, :4].detach(), values[2], rtol=1e-12, atol=1e-12)


def test_wrong_options_are_told() -> None:
    for options in ({"shift": 0}, {"head_dim": 2}, {"d_state": 0}, {"dt_min": 2.0, "dt_max": 1.0}):
        with pytest.raises(ValueError, match="given"):
            H3(3, **options)
