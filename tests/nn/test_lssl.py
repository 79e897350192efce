"""LSSL: the contract, the dense recurrence written out, and what the rule is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from contracts.layer_suite import EagerContract
from statewise.lti import FouT, LagT, LegS, LegT, legs
from statewise.nn import LSSL


class TestFixed(EagerContract):
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return LSSL(3, 4, outputs=2, seed=seed).to(dtype)


class TestTrained(EagerContract):
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return LSSL(
            2, 5, measure=LegT(), alpha=0.75, train_dynamics=True, dt_max=0.5, seed=seed
        ).to(dtype)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.fixture
def precise() -> Iterator[None]:
    """Layers are made in float64, so that A is not rounded to float32 first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def loop(layer: LSSL, u: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x_k = Ā x_{k−1} + B̄ u_k, y_k = C x_k + D u_k for a sequence (L, H) from x (H, N)."""
    a, b = layer.A.detach().numpy(), layer.B.detach().numpy()
    c, d = layer.C.detach().numpy(), layer.D.detach().numpy()
    dt, eye, y = np.exp(layer.log_dt.detach().numpy()), np.eye(len(b)), []
    x = x.copy()
    for sample in u:
        row = []
        for h in range(len(dt)):
            left = np.linalg.inv(eye - layer.alpha * dt[h] * a)
            right = eye + (1 - layer.alpha) * dt[h] * a
            x[h] = left @ right @ x[h] + dt[h] * left @ b * sample[h]
            row.append(c[h] @ x[h] + d[h] * sample[h])
        y.append(np.concatenate(row))
    return np.array(y), x


@pytest.mark.parametrize(
    "measure", [LegS(), LegT(), LagT(), FouT()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 257])
def test_convolution_is_the_loop(measure, length: int) -> None:
    layer = LSSL(2, 8, outputs=3, measure=measure, dt_max=0.3).double()
    u, start = noise(1, length, 2), noise(1, 2, 8, seed=1)
    y, state = layer(u, start)
    expected, last = loop(layer, u[0].numpy(), start[0].numpy())
    scale = np.abs(expected).max()
    np.testing.assert_allclose(y[0].detach(), expected, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(state[0].detach(), last, rtol=0, atol=1e-12 * np.abs(last).max())


def test_long_sequences_reset_and_end_as_the_loop() -> None:
    layer = LSSL(2, 6, dt_max=0.3).double()
    u, start = noise(3, 300, 2), noise(3, 2, 6, seed=1)
    reset = torch.zeros(3, 300, dtype=torch.bool)
    reset[0, [70, 200]] = reset[1, 0] = reset[2, 250] = True
    lengths = torch.tensor([300, 129, 180])
    y, state = layer(u, start, reset=reset, lengths=lengths)
    for row in range(3):
        x, pieces = start[row].numpy(), []
        end = int(lengths[row])
        cuts = [0, *[int(k) for k in reset[row].nonzero() if 0 < k < end], end]
        for first, last in pairwise(cuts):
            x = np.zeros_like(x) if reset[row, first] else x
            piece, x = loop(layer, u[row, first:last].numpy(), x)
            pieces.append(piece)
        expected = np.concatenate(pieces)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(y[row, :end].detach(), expected, rtol=0, atol=1e-12 * scale)
        assert not y[row, end:].any()
        np.testing.assert_allclose(state[row].detach(), x, rtol=0, atol=1e-12)


def test_kernel_is_the_markov_parameters() -> None:
    layer = LSSL(2, 6, outputs=2).double()
    a, b = (value.detach().numpy() for value in layer.discretise())
    c = layer.C.detach().numpy()
    for length in (1, 5, 64, 100, 193):
        kernel = layer.kernel(length).detach().numpy()
        assert kernel.shape == (2, 2, length)
        for h in range(2):
            x = b[h]
            for k in range(length):
                np.testing.assert_allclose(kernel[h, :, k], c[h] @ x, rtol=0, atol=1e-13)
                x = a[h] @ x


def test_gating_is_a_time_step() -> None:
    """A = −1, B = 1 and backward Euler with Δ = e^z: x_k = (1 − σ(z)) x_{k−1} + σ(z) u_k."""
    layer = LSSL(4, 1, alpha=1.0).double()
    z = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    with torch.no_grad():
        layer.log_dt.copy_(z)
        layer.C.fill_(1)
        layer.D.fill_(0)
    assert layer.A.item() == -1
    assert layer.B.item() == 1
    u, gate, x = noise(1, 20, 4), torch.sigmoid(z), torch.zeros(4, dtype=torch.float64)
    y = layer(u)[0][0]
    state = layer.init_state(1)
    for k in range(20):
        x = (1 - gate) * x + gate * u[0, k]
        torch.testing.assert_close(y[k], x, rtol=1e-13, atol=1e-14)
        stepped, state = layer.step(u[:, k], state)
        torch.testing.assert_close(stepped[0], x, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_rule_is_the_generalised_bilinear_transform(precise, alpha: float) -> None:
    layer = LSSL(2, 5, alpha=alpha, dt_max=0.01)
    a, b = layer.discretise()
    continuous, drive = legs(5)
    for h in range(2):
        dt = np.exp(layer.log_dt[h].item())
        left = np.eye(5) - alpha * dt * continuous
        np.testing.assert_allclose(
            left @ a[h].numpy(), np.eye(5) + (1 - alpha) * dt * continuous, rtol=0, atol=1e-14
        )
        np.testing.assert_allclose(left @ b[h].numpy(), dt * drive, rtol=0, atol=1e-14)
        # Second order for α = ½, first order otherwise.
        gap = np.abs(a[h].numpy() - scipy.linalg.expm(dt * continuous)).max()
        size = dt * np.linalg.norm(continuous, 2)
        assert gap < (size**3 if alpha == 0.5 else size**2)


@pytest.mark.parametrize("measure", [LegS(), LegT(), LagT()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
def test_fixed_systems_are_stable_for_any_step(precise, measure, alpha: float) -> None:
    layer = LSSL(5, 16, measure=measure, alpha=alpha, dt_min=1e-4, dt_max=10.0)
    a, _ = layer.discretise()
    # A + Aᵀ ≤ 0 makes Ā a contraction, which also holds its non-normal powers.
    assert torch.linalg.matrix_norm(a, 2).max() < 1 + 1e-12
    assert torch.linalg.eigvals(a).abs().max() < 1


def test_half_the_rate_is_twice_the_step() -> None:
    layer = LSSL(2, 4).double()
    u, twice = noise(1, 30, 2), LSSL(2, 4).double()
    with torch.no_grad():
        twice.log_dt.add_(np.log(2))
    y, state = layer(u, dt=torch.full((30,), 2.0, dtype=torch.float64))
    expected, last = twice(u)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-11, atol=1e-12)


def test_delay_from_a_fixed_system_and_a_ridge_read_out() -> None:
    """y_k = u_{k−100} from LegT with a window of 1.5 delays: R² > 0.95 on unseen samples."""
    rng = np.random.default_rng(0)
    taps = scipy.signal.firwin(201, 0.04)
    u = scipy.signal.lfilter(taps, 1, rng.standard_normal(6300))[300:]
    u /= u.std()
    layer = LSSL(1, 64, outputs=64, measure=LegT(), dt_min=1 / 150, dt_max=1 / 150).double()
    with torch.no_grad():
        layer.C.copy_(torch.eye(64, dtype=torch.float64))
        layer.D.zero_()
        x = layer(torch.from_numpy(u)[None, :, None])[0][0].numpy()
    inputs, target = x[300:], u[200:-100]
    train, test = slice(0, 4000), slice(4000, None)
    gram = inputs[train].T @ inputs[train] + 1e-6 * np.eye(64)
    read = np.linalg.solve(gram, inputs[train].T @ target[train])
    residual = target[test] - inputs[test] @ read
    assert 1 - residual.var() / target[test].var() > 0.95


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state of at least 1; given 0"),
        ({"outputs": 0}, "outputs of at least 1; given 0"),
        ({"alpha": 1.5}, "alpha from 0 to 1; given 1.5"),
        ({"dt_max": -1.0}, r"dt_max = -1\.0"),
    ],
)
def test_options_are_checked(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LSSL(2, **options)
