"""S4: the contract, and the same system written out densely with all its conjugate states."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from contracts.layer_suite import EagerContract, LayerContract
from statewise.lti import Bilinear, FouT, HiPPO, LagT, LegS, LegT
from statewise.nn import S4, S4D, S4DLin

MEASURES = [LegS(), LegT(), LagT(), LagT(beta=0.5), FouT()]


class TestLegS(LayerContract):
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return S4(3, 4, seed=seed).to(dtype)


class CauchyContract(EagerContract):
    """Chunks of two samples, so that the short sequences of the suite take the kernel of Cauchy."""

    exact = False
    measure: HiPPO = LegS()

    def build(self, dtype=torch.float64, seed=0):
        layer = S4(2, 3, measure=self.measure, dt_max=0.5, seed=seed).to(dtype)
        layer.chunk = 2
        return layer


class TestCauchyLegS(CauchyContract):
    pass


class TestCauchyLegT(CauchyContract):
    measure = LegT()


class TestCauchyFouT(CauchyContract):
    measure = FouT()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.fixture
def precise() -> Iterator[None]:
    """Layers are made in float64, so that A is not rounded to float32 first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def shaken(layer: S4, size: float = 0.3, seed: int = 0) -> S4:
    """The layer with all parameters moved, as after training."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(size * torch.from_numpy(rng.standard_normal(tuple(parameter.shape))))
    return layer


def numbers(pairs: torch.Tensor) -> np.ndarray:
    values = pairs.detach().double().numpy()
    return values[..., 0] + 1j * values[..., 1]


def dense(layer: S4, h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """A = Λ − P P*, B, C over whole conjugate pairs, and Δ, of one channel."""

    def both(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, x.conj()], -1)

    poles = -np.exp(layer.log_decay[h].detach().double().numpy())
    poles = both(poles + 1j * layer.frequency[h].detach().double().numpy())
    p = both(numbers(layer.P)[:, h]).T
    a = np.diag(poles) - p @ p.conj().T
    return a, both(numbers(layer.B)[h]), both(numbers(layer.C)[h]), np.exp(layer.log_dt[h].item())


def discrete(
    layer: S4, h: int, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Ā, B̄, C and D of one channel, by the bilinear rule with a dense inverse."""
    a, b, c, dt = dense(layer, h)
    half, eye = scale * dt / 2 * a, np.eye(len(a))
    left = np.linalg.inv(eye - half)
    return left @ (eye + half), scale * dt * left @ b, c, layer.D[h].item()


def loop(layer: S4, u: np.ndarray, state: torch.Tensor, steps: np.ndarray | None = None):
    """Outputs (L, H) and last states (H, 2N) of the dense recurrence from a state (H, N, 2)."""
    x = numbers(state)
    x, y = np.concatenate([x, x.conj()], -1), np.zeros(u.shape)
    for h in range(u.shape[1]):
        for k in range(len(u)):
            a, b, c, d = discrete(layer, h, 1.0 if steps is None else steps[k])
            x[h] = a @ x[h] + b * u[k, h]
            out = c @ x[h]
            assert abs(out.imag) < 1e-10 * (1 + abs(out.real))
            y[k, h] = out.real + d * u[k, h]
    return y, x


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("length", [1, 7, 64, 65, 150])
def test_layer_is_the_dense_recurrence(measure: HiPPO, length: int) -> None:
    layer = shaken(S4(2, 4, measure=measure, dt_max=0.5).double())
    u, start = noise(1, length, 2), noise(1, 2, 4, 2, seed=1)
    y, state = layer(u, start)
    expected, last = loop(layer, u[0].numpy(), start[0])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(y[0].detach(), expected, rtol=0, atol=1e-12 * scale)
    ends = numbers(state)[0]
    np.testing.assert_allclose(
        np.concatenate([ends, ends.conj()], -1), last, rtol=0, atol=1e-12 * np.abs(last).max()
    )


@pytest.mark.parametrize("measure", [LegS(), LegT()], ids=str)
def test_uneven_steps_are_the_dense_recurrence(measure: HiPPO) -> None:
    layer = shaken(S4(2, 3, measure=measure, dt_max=0.5).double())
    u, start = noise(1, 12, 2), noise(1, 2, 3, 2, seed=1)
    dt = np.random.default_rng(2).uniform(0.0, 3.0, 12)
    dt[4] = 0.0
    y, _ = layer(u, start, dt=torch.from_numpy(dt))
    expected, _ = loop(layer, u[0].numpy(), start[0], dt)
    np.testing.assert_allclose(y[0].detach(), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("length", [65, 66, 128, 301])
def test_cauchy_kernel_is_the_impulse_response(measure: HiPPO, length: int) -> None:
    layer = shaken(S4(2, 6, measure=measure, dt_max=0.5).double())
    assert length > layer.chunk
    kernel = layer.kernel(length).detach().numpy()
    for h in range(2):
        a, x, c, _ = discrete(layer, h)
        for k in range(length):
            np.testing.assert_allclose(
                kernel[h, k], (c @ x).real, rtol=0, atol=1e-12 * np.abs(kernel[h]).max()
            )
            x = a @ x


def test_kernel_does_not_depend_on_the_length() -> None:
    """The truncation C (I − Ā^L) follows L: the taps that two lengths share are equal."""
    layer = S4(3, 16).double()
    long = layer.kernel(1000)
    for length in (1, 63, 65, 250, 500, 999):
        short = layer.kernel(length)
        gap = (short - long[:, :length]).abs().max() / long.abs().max()
        assert gap < 1e-12, length


def test_without_the_low_rank_part_it_is_s4d_by_the_bilinear_rule() -> None:
    s4 = S4(2, 5, dt_max=0.5).double()
    s4d = S4D(2, 5, law=S4DLin(), rule=Bilinear()).double()
    with torch.no_grad():
        s4.P.zero_()
        s4d.poles.log_decay.copy_(s4.log_decay.flatten())
        s4d.poles.frequency.copy_(s4.frequency.flatten())
        s4d.poles.log_dt.copy_(s4.log_dt)
        s4d.coupling.B.copy_(s4.B)
        s4d.coupling.C.copy_(s4.C)
        s4d.D.copy_(s4.D)
    u = noise(2, 100, 2)
    y, state = s4(u)
    expected, last = s4d(u)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state.flatten(1, 2), last, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("measure", [LegS(), LagT(beta=0.5)], ids=str)
def test_start_is_the_hippo_system(precise, measure: HiPPO) -> None:
    """x = W z turns the states into those of the real operator, for equal steps."""
    layer = S4(1, 8, measure=measure, dt_max=0.1)
    a, _, _, dt = dense(layer, 0)
    real, _ = measure.operator(16)
    # Similar matrices: the same characteristic polynomial, at a few points.
    for s in (0.3, 2j, 5 + 9j):
        one = np.linalg.slogdet(s * np.eye(16) - a)
        other = np.linalg.slogdet(s * np.eye(16) - real)
        assert one.logabsdet == pytest.approx(other.logabsdet, rel=1e-12)
        assert one.sign == pytest.approx(other.sign, rel=1e-10)
    assert 1e-3 < dt < 0.1


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@given(seed=st.integers(0, 10**6), size=st.floats(0.1, 3.0))
def test_it_is_stable_for_every_parameter(measure: HiPPO, seed: int, size: float) -> None:
    layer = shaken(S4(1, 4, measure=measure).double(), size, seed)
    a, _, _, dt = dense(layer, 0)
    assert np.linalg.eigvalsh(a + a.conj().T).max() < 0
    step = discrete(layer, 0)[0]
    # The bilinear image of a dissipative matrix is a contraction, whatever Δ is.
    assert np.linalg.norm(step, 2) < 1 + 1e-12, dt
    assert np.abs(np.linalg.eigvals(step)).max() < 1


def test_eigenvalues_of_legs_are_images_of_the_integers(precise) -> None:
    """(1 − Δm/2)/(1 + Δm/2) for m = 1 … 2N: few, because the eigenvalues are ill conditioned."""
    layer = S4(2, 3)
    for h, dt in enumerate(layer.log_dt.exp().tolist()):
        m = dt / 2 * np.arange(6, 0, -1)
        found = np.sort(layer.eigenvalues()[h].detach().real.numpy())
        np.testing.assert_allclose(found, (1 - m) / (1 + m), rtol=0, atol=1e-10)


def test_twice_the_step_is_half_the_rate() -> None:
    layer, twice = S4(2, 4).double(), S4(2, 4).double()
    with torch.no_grad():
        twice.log_dt.add_(np.log(2))
    u = noise(1, 30, 2)
    y, state = layer(u, dt=torch.full((30,), 2.0, dtype=torch.float64))
    expected, last = twice(u)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("cut", [1, 64, 65, 150, 299])
def test_long_sequences_may_be_cut_anywhere_with_gradients(cut: int) -> None:
    layer = S4(2, 16, measure=LegT(), dt_max=0.05).double()
    u = noise(2, 300, 2)
    weights = noise(2, 300, 2, seed=5)

    def slopes(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        y = run()
        return y, list(torch.autograd.grad((y * weights).sum(), list(layer.parameters())))

    def parts() -> torch.Tensor:
        first, state = layer(u[:, :cut])
        return torch.cat([first, layer(u[:, cut:], state)[0]], 1)

    whole, expected = slopes(lambda: layer(u)[0])
    joined, found = slopes(parts)
    torch.testing.assert_close(joined, whole, rtol=1e-10, atol=1e-10)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-9 * other.abs().max()


def test_convolution_compiles_as_one_graph() -> None:
    """The suite compiles with uneven steps, which the recurrence runs; this is the other path."""
    layer = S4(2, 3, measure=LegT()).double()
    u, start = noise(2, 70, 2), noise(2, 2, 3, 2, seed=1)
    reset = torch.from_numpy(np.random.default_rng(2).random((2, 70)) < 0.05)
    given = {"reset": reset, "lengths": torch.tensor([70, 33])}
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for run in (compiled, layer):
        y, state = run(u, start, **given)
        loss = y.square().sum() + state.square().sum()
        results.append([y, state, *torch.autograd.grad(loss, list(layer.parameters()))])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("length", [1, 40, 65, 1000])
def test_float32_keeps_six_digits_of_large_states(measure: HiPPO, length: int) -> None:
    narrow = S4(4, 32, measure=measure)
    wide = S4(4, 32, measure=measure).double()
    u = noise(2, length, 4)
    y, state = narrow(u.float())
    expected, last = wide(u)
    assert (y - expected).norm() < 5e-6 * expected.norm()
    assert (state - last).norm() < 5e-6 * last.norm()


def test_frozen_legs_with_a_ridge_read_out_recalls_a_delay() -> None:
    """Target u_{k−128}, 64 states, 1/Δ = 128: NMSE at most 0.03; the poles alone are no match."""
    rng = np.random.default_rng(0)
    numerator, denominator = scipy.signal.butter(4, 0.1)
    u = scipy.signal.lfilter(numerator, denominator, rng.standard_normal(20_500))[500:]
    u /= u.std()

    def error(low_rank: bool) -> float:
        layer = S4(64, 32, dt_min=1 / 128, dt_max=1 / 128).double()
        with torch.no_grad():
            # Channel 2n reads Re x_n and channel 2n + 1 reads Im x_n.
            layer.C.zero_()
            layer.C[::2, :, 0] = torch.eye(32, dtype=torch.float64)
            layer.C[1::2, :, 1] = torch.eye(32, dtype=torch.float64)
            layer.D.zero_()
            if not low_rank:
                layer.P.zero_()
            x = layer(torch.from_numpy(u)[None, :, None].expand(-1, -1, 64))[0][0].numpy()
        x, target = x[500:], u[500 - 128 : -128]
        train, test = slice(0, 14_000), slice(14_000, None)
        gram = x[train].T @ x[train] + 1e-6 * np.eye(64)
        read = np.linalg.solve(gram, x[train].T @ target[train])
        return float(np.mean((target[test] - x[test] @ read) ** 2) / target[test].var())

    assert error(low_rank=True) <= 0.03
    assert error(low_rank=False) > 0.08


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state of at least 1; given 0"),
        ({"dt_min": 0.0}, r"dt_min = 0\.0"),
        ({"measure": LagT(alpha=0.5)}, r"alpha = 0 only; given alpha = 0\.5"),
    ],
)
def test_options_are_checked(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        S4(2, **options)


def test_kernels_and_states_are_checked() -> None:
    layer = S4(2, 3)
    with pytest.raises(ValueError, match="at least one tap; given length = 0"):
        layer.kernel(0)
    with pytest.raises(ValueError, match=r"state of shape \(1, 2, 3, 2\).*given \(1, 3, 2\)"):
        layer(torch.zeros(1, 4, 2), torch.zeros(1, 3, 2))
