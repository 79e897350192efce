"""Companion: the layer contract, exact processes, and the closed loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import Companion


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def put(parameter: torch.nn.Parameter | None, value) -> None:
    assert parameter is not None
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value).expand_as(parameter))


class CompanionContract(EagerContract):
    refuses = frozenset({"dt"})
    exact = False


class TestCompanion(LayerContract):
    refuses = frozenset({"dt"})
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return Companion(4, d_state=5, heads=2, seed=seed).to(dtype)


class TestCompanionScaled(CompanionContract):
    """More states than most sequences of the suite have steps."""

    def build(self, dtype=torch.float64, seed=0):
        options = {"norm": "scaled", "feedthrough": False}
        return Companion(2, d_state=12, **options, seed=seed).to(dtype)


class TestCompanionShift(CompanionContract):
    def build(self, dtype=torch.float64, seed=0):
        return Companion(3, d_state=1, norm="none", init="shift", seed=seed).to(dtype)


def dense(layer: Companion, closed: bool = False) -> tuple[np.ndarray, ...]:
    """A, B, C, D and F of every system, in float64."""
    n = layer.d_state
    a = np.stack([np.eye(n, k=-1)] * layer.a.shape[0])
    a[:, :, -1] += layer.column().detach().numpy()
    b, c, d = (p.detach().numpy() for p in (layer.B, layer.C, layer.D))
    f = layer.F.detach().numpy() if layer.F is not None else None
    return (a + b[:, :, None] * f[:, None, :] if closed else a), b, c, d, f


@pytest.mark.parametrize("norm", ["l1", "scaled", "none"])
@pytest.mark.parametrize(("length", "n"), [(16, 5), (9, 25), (300, 16)])
def test_it_is_its_recurrence_and_its_krylov_kernel(norm: str, length: int, n: int) -> None:
    layer = Companion(6, d_state=n, heads=3, norm=norm, seed=4).double()
    a, b, c, d, _ = dense(layer)
    u, start = noise(2, length, 6), noise(2, 6, n, seed=1)
    y, state = layer(u, start)
    x = start.numpy().reshape(2, 2, 3, n).copy()
    inputs = u.numpy().reshape(2, length, 2, 3)
    for k in range(length):
        now = inputs[:, k]
        x = np.einsum("sij,bshj->bshi", a, x) + b[:, None] * now[..., None]
        expected = np.einsum("si,bshi->bsh", c, x) + d[:, None] * now
        np.testing.assert_allclose(y[:, k].detach().numpy(), expected.reshape(2, 6), atol=1e-12)
    np.testing.assert_allclose(state.detach().numpy(), x.reshape(2, 6, n), atol=1e-12)
    impulse = torch.zeros(1, length, 6, dtype=torch.float64)
    impulse[:, 0] = 1
    power, krylov = np.stack([np.eye(n)] * 2), []
    for _ in range(length):
        krylov.append(np.einsum("si,sij,sj->s", c, power, b))
        power = a @ power
    krylov[0] = krylov[0] + d
    response = layer(impulse)[0][0].detach().numpy()
    np.testing.assert_allclose(response, np.repeat(krylov, 3, 1), atol=1e-13)


def test_the_norm_bounds_the_spectrum() -> None:
    for seed in range(5):
        layer = Companion(8, d_state=17, seed=seed).double()
        torch.testing.assert_close(layer.column().abs().sum(1), torch.ones(8).double())
        assert layer.eigenvalues().abs().max() <= 1 + 1e-12
        scaled = Companion(8, d_state=17, norm="scaled", seed=seed).double()
        put(scaled.log_scale, -2.0)
        assert scaled.eigenvalues().abs().max() < layer.eigenvalues().abs().max()
        size = scaled.column().abs().sum(1)
        torch.testing.assert_close(size, torch.full_like(size, 1 / (1 + np.exp(2))))


def test_a_shift_is_a_finite_filter() -> None:
    layer = Companion(1, d_state=3, norm="none", init="shift", feedthrough=False).double()
    put(layer.B, [1.0, 0.0, 0.0])
    for order, taps in enumerate(([1.0, 0, 0], [1.0, -1.0, 0], [1.0, -2.0, 1.0])):
        put(layer.C, taps)
        u = noise(1, 20, 1)
        expected = np.diff(u[0, :, 0].numpy(), order)
        y = layer(u)[0][0, order:, 0].detach().numpy()
        np.testing.assert_allclose(y, expected, atol=1e-13)


def autoregression(poles: np.ndarray) -> np.ndarray:
    """φ of u_k = Σ φ_i u_{k−i} with these poles."""
    return -np.real(np.poly(poles))[1:]


POLES = np.concatenate(
    [r * np.exp(1j * np.array([w, -w])) for r, w in ((0.99, 0.5), (0.98, 1.3))] + [[0.9, -0.8]]
)


def test_a_noiseless_autoregression_is_forecast_exactly() -> None:
    phi = autoregression(POLES)
    series = list(np.random.default_rng(2).standard_normal(6))
    for _ in range(194):
        series.append(phi @ np.array(series[-1:-7:-1]))
    u = torch.tensor(series, dtype=torch.float64)[None, :, None]
    options = {"norm": "none", "init": "shift", "closed_loop": True, "feedthrough": False}
    layer = Companion(1, d_state=6, **options).double()
    put(layer.B, np.eye(6)[0])
    put(layer.C, phi)
    put(layer.F, phi)
    y, state = layer(u[:, :100])
    outputs, inputs, _ = layer.rollout(state, 100)
    # The size of the series is about 1; forecasts are a hundred steps of feedback.
    assert (inputs - u[:, 100:]).abs().max() < 1e-12
    assert (y[:, 10:] - u[:, 11:101]).abs().max() < 1e-12
    assert (outputs[:, :-1] - u[:, 101:]).abs().max() < 1e-12


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("horizon", [1, 7, 60])
def test_the_rollout_is_the_stepped_loop(heads: int, horizon: int) -> None:
    layer = Companion(4, d_state=9, heads=heads, closed_loop=True, seed=7).double()
    _, start = layer(noise(3, 30, 4))
    outputs, inputs, last = layer.rollout(start, horizon)
    feedback, state = layer.F.repeat_interleave(heads, 0), start
    for h in range(horizon):
        u = (feedback * state).sum(-1)
        y, state = layer.step(u, state)
        torch.testing.assert_close(inputs[:, h], u, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(outputs[:, h], y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last, state, rtol=1e-10, atol=1e-12)


def test_the_rollout_is_the_power_of_the_closed_loop() -> None:
    layer = Companion(3, d_state=5, closed_loop=True, seed=1).double()
    _, start = layer(noise(1, 12, 3))
    outputs, _, _ = layer.rollout(start, 20)
    _, _, c, d, f = dense(layer)
    a, *_ = dense(layer, closed=True)
    x = start[0].detach().numpy()
    for h in range(20):
        u = np.einsum("si,si->s", f, x)
        x = np.einsum("sij,sj->si", a, x)
        expected = np.einsum("si,si->s", c, x) + d * u
        np.testing.assert_allclose(outputs[0, h].detach().numpy(), expected, atol=1e-13)


def test_the_next_input_is_the_first_of_a_rollout() -> None:
    layer = Companion(2, d_state=6, closed_loop=True, seed=2).double()
    u = noise(2, 15, 2)
    predicted = layer.next_input(u)
    for k in (0, 8, 14):
        _, state = layer(u[:, : k + 1])
        torch.testing.assert_close(layer.rollout(state, 1)[1][:, 0], predicted[:, k])
    _, middle = layer(u[:, :9])
    torch.testing.assert_close(layer.next_input(u[:, 9:], middle), predicted[:, 9:])


def test_the_closed_loop_learns() -> None:
    layer = Companion(2, d_state=6, closed_loop=True, norm="scaled").double()
    _, state = layer(noise(2, 15, 2))
    outputs, _, _ = layer.rollout(state, 9)
    names, values = zip(*layer.named_parameters(), strict=True)
    found = torch.autograd.grad(outputs.square().sum(), values)
    for name, gradient in zip(names, found, strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


def test_a_root_of_unity_does_no_harm() -> None:
    layer = Companion(1, d_state=4, norm="none").double()
    put(layer.a, [1.0, 0, 0, 0])
    y, state = layer(noise(1, 16, 1))
    assert y.isfinite().all()
    assert state.isfinite().all()


def test_wrong_options_are_told() -> None:
    for options in ({"heads": 2}, {"d_state": 0}, {"norm": "l2"}, {"init": "shift"}):
        with pytest.raises(ValueError, match="given"):
            Companion(3, **options)
    layer = Companion(3, d_state=4)
    with pytest.raises(ValueError, match="closed_loop=True"):
        layer.rollout(layer.init_state(1), 3)
    with pytest.raises(ValueError, match="closed_loop=True"):
        layer.next_input(torch.zeros(1, 2, 3))
    looped = Companion(3, d_state=4, closed_loop=True)
    with pytest.raises(ValueError, match="given 0"):
        looped.rollout(looped.init_state(1), 0)
    with pytest.raises(ValueError, match=r"\(1, 3, 2\)"):
        looped.rollout(torch.zeros(1, 3, 2), 2)
