"""The layer of bounded gain: its certificate, its completeness, and maps that stretch nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_are

from contracts.layer_suite import EagerContract, LayerContract
from statewise._config import from_dict, to_dict
from statewise.lti import StateSpace, from_diagonal, hinf_norm, to_diagonal
from statewise.nn import (
    ELU,
    GELU,
    GLU,
    MLP,
    Identity,
    L2Bounded,
    LinearPlus,
    OneLipschitz,
    Tanh,
    WienerBlock,
    certified_gain,
)
from statewise.nn.one_lipschitz import group_sort


class TestContract(LayerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return L2Bounded(3, 2, 4, gain=1.5, trainable_gain=True, rate=0.98, seed=seed).to(dtype)


class TestContractSquare(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return L2Bounded(2, d_state=3, seed=seed).to(dtype)


def norm_of(layer: L2Bounded) -> tuple[float, float]:
    """Certified bounds of the H-infinity norm."""
    with torch.no_grad():
        found = hinf_norm(from_diagonal(layer.modes()))
    return float(found.lower), float(found.upper)


@settings(max_examples=60, deadline=None)
@given(
    d_input=st.integers(1, 4),
    d_output=st.integers(1, 4),
    d_state=st.integers(1, 10),
    gain=st.floats(0.01, 100),
    spread=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    rate=st.sampled_from([1.0, 0.9]),
    seed=st.integers(0, 2**31),
)
def test_gain_is_never_above_the_bound(
    d_input: int,
    d_output: int,
    d_state: int,
    gain: float,
    spread: float,
    rate: float,
    seed: int,
) -> None:
    """Also far from the start: poles that nearly coincide, on the real axis, at the circle."""
    layer = L2Bounded(d_input, d_output, d_state, gain=gain, rate=rate, seed=seed).double()
    draw = torch.Generator().manual_seed(seed % 1000)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=draw).double()
        layer.nu.clamp_(min=math.log(1e-5))
    lower, upper = norm_of(layer)
    assert layer.gain_bound() == pytest.approx(gain, rel=1e-12)
    assert lower <= gain * (1 + 1e-9)
    assert upper <= gain * (1 + 1e-6)
    assert layer.contraction_rate() <= rate


def test_bound_is_tight_at_the_start() -> None:
    for d_input, d_output, d_state in ((1, 1, 1), (1, 1, 8), (3, 2, 5), (2, 3, 16), (8, 8, 16)):
        for seed in range(8):
            layer = L2Bounded(d_input, d_output, d_state, gain=3.0, seed=seed).double()
            assert norm_of(layer)[0] > 0.5 * 3.0


def test_gain_is_reached_where_no_energy_is_hidden() -> None:
    """Without hidden outputs the layer is all-pass: K is orthogonal."""
    layer = L2Bounded(2, 2, 3, gain=2.0, seed=1).double()
    with torch.no_grad():
        layer.H[2:] = 0
        layer.Z[2:] = 0
        gains = torch.linalg.svdvals(
            from_diagonal(layer.modes())(torch.exp(1j * torch.linspace(0, 3.1, 50).double()))
        )
    torch.testing.assert_close(gains, torch.full_like(gains, 2.0), rtol=1e-6, atol=0)
    assert norm_of(layer)[0] == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_every_system_below_the_gain_is_a_layer(m: int, p: int) -> None:
    """Parameters from a system: the hidden outputs are those of its spectral factor."""
    rng = np.random.default_rng(10 * m + p)
    n, gain = 4, 1.0
    pair = 0.8 * np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    other = 0.6 * np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    A = np.block([[pair, np.zeros((2, 2))], [np.zeros((2, 2)), other]])
    B, C = rng.standard_normal((n, m)), rng.standard_normal((p, n))
    D = rng.standard_normal((p, m))
    size = float(hinf_norm(StateSpace(A, B, C, D, dt=1.0)).upper) / 0.9
    B, D = B / size, D / size
    # (A, B, L, W) with G~G + F~F = I: the storage P solves a Riccati equation.
    P = solve_discrete_are(A, B, -C.T @ C, np.eye(m) - D.T @ D, s=-C.T @ D)
    P = -P if np.linalg.eigvalsh(P).max() <= 0 else P
    rest = np.eye(m) - D.T @ D - B.T @ P @ B
    W = np.linalg.cholesky(rest).T
    L = -np.linalg.solve(W.T, D.T @ C + B.T @ P @ A)
    both, direct = np.vstack((C, L)), np.vstack((D, W))
    np.testing.assert_allclose(P - A.T @ P @ A, both.T @ both, atol=1e-10)
    form = to_diagonal(StateSpace(A, B, both, direct, dt=1.0), half=True)
    layer = L2Bounded(m, p, n // 2, gain=gain, seed=0).double()
    at_one = StateSpace(A, B, both, direct, dt=1.0)(1.0).real
    with torch.no_grad():
        layer.nu.copy_(torch.log(-form.poles.abs().log()))
        layer.theta.copy_(form.poles.angle())
        layer.H.copy_(torch.view_as_real(form.C))
        layer.Z.copy_(at_one)
        z = torch.exp(1j * torch.linspace(0, math.pi, 40).double())
        # The columns of Z are found up to signs.
        found = from_diagonal(layer.modes())(z)
        expected = StateSpace(A, B, C, D, dt=1.0)(z)
        turn = torch.linalg.lstsq(found.flatten(0, 1), expected.flatten(0, 1)).solution
        torch.testing.assert_close(found @ turn, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(turn.abs(), torch.eye(m).to(turn).abs(), rtol=0, atol=1e-6)


def test_energy_of_outputs_is_bounded_sample_by_sample() -> None:
    layer = L2Bounded(2, 3, 6, gain=0.7, seed=3).double()
    u = torch.randn(8, 300, 2, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        y, _ = layer(u)
    spent = u.square().sum(-1).cumsum(-1) * 0.7**2 - y.square().sum(-1).cumsum(-1)
    assert spent.min() > -1e-9


def test_states_of_two_runs_meet_at_the_rate() -> None:
    layer = L2Bounded(1, d_state=5, rate=0.9, seed=0).double()
    u = torch.randn(1, 60, 1, generator=torch.Generator().manual_seed(0)).double()
    start = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        apart = layer(u, start)[1] - layer(u)[1]
    assert apart.norm() <= 0.9**60 * start.norm() * (1 + 1e-9)


def test_trained_gain_and_wrong_settings() -> None:
    layer = L2Bounded(1, gain=2.0, trainable_gain=True)
    layer.gain.backward()
    assert layer.log_gain is not None
    assert float(layer.log_gain.grad) == pytest.approx(2.0, rel=1e-6)
    for options, words in (
        ({"gain": 0.0}, "positive number; given 0"),
        ({"rate": 1.5}, r"in \(0, 1\]; given 1.5"),
        ({"d_state": 0}, "d_state of at least 1; given 0"),
    ):
        with pytest.raises(ValueError, match=words):
            L2Bounded(2, **options)


# --- static maps


@pytest.mark.parametrize("activation", ["groupsort", "abs", "tanh", "relu"])
@pytest.mark.parametrize("linear", ["orthogonal", "spectral", "none"])
@pytest.mark.parametrize("channels", [1, 5])
def test_one_lipschitz_stretches_no_difference(activation: str, linear: str, channels: int) -> None:
    config = OneLipschitz(activation, linear)
    assert from_dict(to_dict(config)) == config
    module = config.build(channels, np.random.default_rng(0)).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 2 * torch.randn(parameter.shape, generator=draw).double()
        a = 10 * torch.randn(500, channels, generator=draw).double()
        b = a + torch.randn(500, channels, generator=draw).double()
        ratio = (module(a) - module(b)).norm(dim=1) / (a - b).norm(dim=1)
        assert ratio.max() <= 1 + 1e-12
        if module.matrix is not None:
            sigma = torch.linalg.svdvals(module.matrix)
            assert sigma.max() <= 1 + 1e-12
            if linear == "orthogonal":
                assert sigma.min() >= 1 - 1e-12
    assert module.gain_bound() == 1.0


def test_group_sort_sorts_pairs() -> None:
    eta = torch.tensor([[3.0, 1.0, -2.0, 5.0, 7.0]])
    assert group_sort(eta).tolist() == [[1.0, 3.0, -2.0, 5.0, 7.0]]


def test_one_lipschitz_checks_its_settings() -> None:
    with pytest.raises(ValueError, match=r"activation of OneLipschitz .* given 'gelu'"):
        OneLipschitz("gelu")
    with pytest.raises(ValueError, match=r"linear of OneLipschitz .* given 'free'"):
        OneLipschitz(linear="free")
    with pytest.raises(TypeError, match="takes a static map; given 'tanh'"):
        LinearPlus("tanh")  # type: ignore[arg-type]


def test_linear_plus_starts_as_its_map() -> None:
    module = LinearPlus(MLP(4)).build(3, np.random.default_rng(0)).double()
    plain = MLP(4).build(3, np.random.default_rng(0)).double()
    eta = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(module(eta), plain(eta), rtol=0, atol=0)
    with torch.no_grad():
        module.linear.fill_(2.0)
        module.weight.fill_(-0.5)
    torch.testing.assert_close(module(eta), 2 * eta - 0.5 * plain(eta), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "config", [Identity(), ELU(), GELU(), Tanh(), MLP(4), LinearPlus(GELU()), OneLipschitz()]
)
def test_certified_gain_of_static_maps(config) -> None:
    module = config.build(3, np.random.default_rng(0)).double()
    with torch.no_grad():
        for name in ("linear", "weight"):
            if isinstance(config, LinearPlus):
                getattr(module, name).copy_(torch.tensor([0.5, -1.0, 0.2]))
        bound = float(certified_gain(module))
        a = torch.linspace(-3, 3, 4001).double()[:, None].expand(-1, 3)
        slopes = (module(a)[1:] - module(a)[:-1]).norm(dim=1) / (a[1:] - a[:-1]).norm(dim=1)
    assert 0.2 * bound < slopes.max() <= bound * (1 + 1e-9)


def test_certified_gain_of_blocks() -> None:
    rng = np.random.default_rng(0)
    layer = L2Bounded(3, gain=0.8)
    for skip, expected in (("identity", 1.8), ("none", 0.8)):
        block = WienerBlock(layer, OneLipschitz(), skip=skip, rng=rng)  # type: ignore[arg-type]
        assert float(certified_gain(block)) == pytest.approx(expected, rel=1e-12)
    assert math.isinf(float(certified_gain(GLU().build(3, rng))))
