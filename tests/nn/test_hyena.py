"""Hyena: the layer contract, its loop, and its implicit filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import Hyena
from statewise.nn.hyena import ImplicitFilters


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TestHyena(LayerContract):
    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        options = {"filter_width": 6, "filter_depth": 2, "sine": 1.0}
        return Hyena(2, max_length=6, **options, seed=seed).to(dtype)


class TestHyenaOfOrderThree(EagerContract):
    """Filters longer than most sequences of the suite, as the published code has them."""

    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        options = {"filter_width": 5, "window_shift": 0.1, "features": 3, "first_filter": False}
        return Hyena(3, order=3, max_length=14, d_conv=2, **options, seed=seed).to(dtype)


@pytest.mark.parametrize(("order", "first"), [(1, True), (2, True), (3, True), (3, False)])
def test_it_is_its_loop(order: int, first: bool) -> None:
    options = {"order": order, "first_filter": first, "max_length": 9, "sine": 1.0}
    layer = Hyena(3, **options, seed=4).double()
    p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    h = layer.filters(9).detach().numpy()
    u = noise(1, 20, 3)
    y, _ = layer(u)
    projected = u[0].numpy() @ p["enter.weight"].T + p["enter.bias"]
    mixed = np.zeros_like(projected) + p["tap_bias"]
    for t in range(20):
        for s in range(min(3, t + 1)):
            mixed[t] += p["taps"][:, s] * projected[t - s]
    z, *gates = np.split(mixed, order + 1, axis=1)
    for n, gate in enumerate(gates if first else gates[1:]):
        z = z if first or n else gates[0] * z
        filtered = p["D"][n] * z
        for t in range(20):
            for s in range(min(9, t + 1)):
                filtered[t] += h[n][:, s] * z[t - s]
        z = gate * filtered
    expected = z @ p["leave.weight"].T + p["leave.bias"]
    np.testing.assert_allclose(y[0].detach().numpy(), expected, atol=1e-12)


def filters(shift: float = 0.0) -> ImplicitFilters:
    rng = np.random.default_rng(1)
    return ImplicitFilters(2, 4, 5, 6, 2, 1.0, shift, rng).double()


def test_filters_are_values_of_the_network() -> None:
    made = filters(0.2)
    taps = made(50).detach()
    for t in (0, 17, 49):
        tau, angle = t / 49, 2 * np.pi * t / 50
        f = np.array([1e-4, 1.0])
        x = np.concatenate([[tau], np.cos(f * angle), -np.sin(f * angle)])
        for layer, omega in zip(made.hidden, made.omega.detach().numpy(), strict=True):
            weight, bias = (q.detach().numpy() for q in (layer.weight, layer.bias))
            x = np.sin(omega * (weight @ x + bias))
        out = (made.last.weight.detach().numpy() @ x).reshape(2, 4)
        decay = np.linspace(np.log(100) / 0.3, np.log(100) / 1.5, 4)
        np.testing.assert_allclose(
            taps[:, :, t], out * (np.exp(-decay * tau) + 0.2), rtol=1e-10, atol=1e-14
        )


def test_windows_fall_to_a_hundredth() -> None:
    made = filters()
    with torch.no_grad():
        made.last.weight.zero_()
        made.last.weight[:, 0] = 1.0
        made.hidden[1].weight.zero_()
        made.hidden[1].bias.fill_(torch.pi / 2)
    taps = made(1001).detach()
    # The network is constant now: what is left are the windows.
    torch.testing.assert_close(taps[0, 0, 300], torch.tensor(0.01).double())
    torch.testing.assert_close(taps[0, 3, 1000], torch.tensor(0.01 ** (1 / 1.5)).double())
    assert (taps.diff(dim=-1) < 0).all()


def test_longer_filters_are_the_same_curve() -> None:
    made = filters()
    short, long = made(101).detach(), made(1001).detach()
    assert (long[..., ::10] - short).abs().max() < 0.02 * short.abs().max()


def test_memory_ends_with_the_longest_filter() -> None:
    layer = Hyena(2, max_length=5, d_conv=1).double()
    u = noise(1, 30, 2).requires_grad_()
    (sensitivity,) = torch.autograd.grad(layer(u)[0][0, 29].sum(), u)
    # Two filters in a row reach back twice four samples.
    assert sensitivity[0, :21].abs().max() < 1e-13
    assert sensitivity[0, 21].abs().max() > 1e-9


def test_half_precision_does_not_touch_the_filters() -> None:
    layer = Hyena(2, max_length=40)
    expected = layer.filters(40)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.filters(40), expected)


def test_wrong_options_are_told() -> None:
    for options in ({"order": 0}, {"max_length": 0}, {"features": 4}, {"features": 1}):
        with pytest.raises(ValueError, match=f"given {next(iter(options.values()))}"):
            Hyena(2, **options)
    with pytest.raises(ValueError, match="no filter"):
        Hyena(2, order=1, first_filter=False)


def test_steps_keep_their_filters_until_something_changes(monkeypatch) -> None:
    layer = Hyena(2, max_length=7, seed=1).double().eval()
    made = []
    plain = ImplicitFilters.forward
    monkeypatch.setattr(
        ImplicitFilters, "forward", lambda self, k: made.append(k) or plain(self, k)
    )
    u, state = noise(1, 2), layer.init_state(1)

    def steps() -> tuple[int, torch.Tensor]:
        made.clear()
        after = layer.step(u, state)[1]
        return len(made), layer.step(u, after)[0]

    with torch.no_grad():
        assert steps()[0] == 1
        count, before = steps()
        assert count == 0
        layer.filters.omega.mul_(1.5)
        count, after = steps()
        assert count == 1
        assert not torch.equal(before, after)
        layer.float().double()
        assert steps()[0] == 1
        layer.load_state_dict(layer.state_dict())
        assert steps()[0] == 1
        layer.filters.last.weight.data.mul_(2)
        count, after = layer.eval() and steps()
        assert count == 1
        layer.filters.last.weight.data.div_(2)
        assert not torch.equal(layer.eval() and steps()[1], after)
        weights = {name: 2 * value for name, value in layer.named_parameters()}
        given = torch.func.functional_call(layer, weights, (u.unsqueeze(1), state))[0]
        layer.train()
        steps()
        assert len(made) == 2
    layer.eval()
    steps()
    assert len(made) == 2
    with torch.no_grad():
        for name, value in layer.named_parameters():
            value.copy_(weights[name])
        torch.testing.assert_close(layer.step(u, state)[0], given[:, 0])


def test_gradients_of_steps_reach_the_filters() -> None:
    layer = Hyena(2, max_length=7, seed=1).double().eval()
    u, state = noise(1, 2), layer.init_state(1)
    with torch.no_grad():
        layer.step(u, state)
    y, state = layer.step(u, state)
    y.square().sum().backward()
    assert all(p.grad is not None for p in layer.filters.parameters())
