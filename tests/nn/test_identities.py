"""What the linear layers compute, against kernels, real forms and exact solutions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise.lti import ZOH, Bilinear, Euler, Trapezoid
from statewise.nn import (
    LRU,
    LTI,
    S4D,
    S5,
    Bank,
    ContinuousDiagonal,
    Dense,
    DiscreteDiagonal,
    RealDiagonal,
    Ring,
    S4DInv,
    S4DLin,
    Scan,
    state_tensors,
)

RULES = [ZOH(), Bilinear(), Euler(), Trapezoid()]
FAST = {"dt_min": 0.3, "dt_max": 0.9}
SYSTEMS = {
    "discrete": DiscreteDiagonal(Ring(0.3, 0.9)),
    "trained": DiscreteDiagonal(Ring(0.3, 0.9), "trained"),
    **{f"complex {type(r).__name__}": ContinuousDiagonal(S4DLin(), r, **FAST) for r in RULES},
    **{f"real {type(r).__name__}": RealDiagonal(rule=r, **FAST) for r in RULES},
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def system(name: str, *sizes: int, coupling: Dense | Bank | None = None) -> LTI:
    """A system of the table that forgets within a thousand samples."""
    layer = LTI(*sizes, poles=SYSTEMS[name], coupling=coupling, simulator=Scan()).double()
    if hasattr(layer.poles, "frequency"):
        # Euler's rule is slow to forget where the frequency exceeds the decay.
        copy(layer.poles.frequency, 0.1 * layer.poles.frequency)
    return layer


def copy(target: torch.nn.Parameter, source: torch.Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)


def pairs(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([array.real, array.imag], -1))


def lru_parts(layer: LRU) -> dict[str, np.ndarray]:
    """Λ, γ, B, C, D of an LRU from its raw parameters, by the paper's equations."""
    raw = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    return {
        "poles": np.exp(-np.exp(raw["poles.nu"]) + 1j * np.exp(raw["poles.theta"])),
        "gamma": np.exp(raw["poles.log_gamma"]),
        "B": raw["coupling.B"][..., 0] + 1j * raw["coupling.B"][..., 1],
        "C": raw["coupling.C"][..., 0] + 1j * raw["coupling.C"][..., 1],
        "D": raw["D"],
    }


def test_lru_is_its_loop_its_kernel_and_its_convolution() -> None:
    layer = LRU(2, 3, 5, r_min=0.3, r_max=0.95, simulator=Scan()).double()
    p, u = lru_parts(layer), noise(1, 60, 2)
    y = layer(u)[0][0].detach().numpy()
    x, loop = np.zeros(5, complex), []
    for sample in u[0].numpy():
        x = p["poles"] * x + p["gamma"] * (p["B"] @ sample)
        loop.append((p["C"] @ x).real + p["D"] @ sample)
    np.testing.assert_allclose(y, loop, rtol=0, atol=1e-12)
    powers = p["poles"] ** np.arange(60)[:, None]
    kernel = np.einsum("os,ks,s,si->koi", p["C"], powers, p["gamma"], p["B"]).real
    kernel[0] += p["D"]
    convolved = np.zeros((60, 3))
    for o in range(3):
        for i in range(2):
            convolved[:, o] += scipy.signal.fftconvolve(u[0, :, i], kernel[:, o, i])[:60]
    np.testing.assert_allclose(y, convolved, rtol=0, atol=1e-12)


def test_lru_is_a_real_system_of_twice_the_states() -> None:
    """Rotation blocks [Re λ, −Im λ; Im λ, Re λ], run by SciPy in its own convention."""
    layer = LRU(2, 2, 3, simulator=Scan()).double()
    p, u = lru_parts(layer), noise(1, 40, 2)
    blocks = [np.array([[z.real, -z.imag], [z.imag, z.real]]) for z in p["poles"]]
    a = scipy.linalg.block_diag(*blocks)
    driven = p["gamma"][:, None] * p["B"]
    b = np.stack([driven.real, driven.imag], 1).reshape(6, 2)
    c = np.stack([p["C"].real, -p["C"].imag], -1).reshape(2, 6)
    # SciPy reads x_k before its update: y_k = C (A x_k + B u_k) + D u_k.
    system = (a, b, c @ a, c @ b + np.diag(p["D"]), 1)
    _, y, _ = scipy.signal.dlsim(system, u[0].numpy())
    np.testing.assert_allclose(layer(u)[0][0].detach().numpy(), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("coupling", [Dense(), Bank()], ids=["dense", "bank"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_frequency_response_is_the_transform_of_the_impulse_response(name: str, coupling) -> None:
    layer = system(name, 2, 2, 3, coupling=coupling)
    length = 1024
    impulses = torch.zeros(2, length, 2, dtype=torch.float64)
    impulses[0, 0, 0] = impulses[1, 0, 1] = 1
    kernel = layer(impulses)[0].permute(1, 2, 0)
    assert kernel[-1].abs().max() < 1e-13
    omega = 2 * torch.pi * torch.arange(length // 2 + 1, dtype=torch.float64) / length
    response = layer.frequency_response(omega)
    assert response.shape == (length // 2 + 1, 2, 2)
    expected = torch.fft.rfft(kernel, dim=0)
    torch.testing.assert_close(response, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SYSTEMS)
def test_eigenvalues_are_the_decay_of_the_free_states(name: str) -> None:
    layer = system(name, 1, 1, 4)
    values = layer.eigenvalues()
    assert values.shape == (4,)
    assert values.is_complex()
    assert (values.abs() < 1).all()
    state = layer(noise(1, 5, 1))[1]
    rest = torch.zeros(1, 1, dtype=torch.float64)
    _, settled = layer.step(rest[:1], state)
    before = state_tensors(settled)[0]
    after = state_tensors(layer.step(rest, settled)[1])[0]
    if layer.poles.is_complex:
        before, after = torch.view_as_complex(before), torch.view_as_complex(after)
    torch.testing.assert_close(after.to(values.dtype), before * values, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", SYSTEMS)
def test_two_runs_meet_at_the_rate_of_the_slowest_pole(name: str) -> None:
    """δISS with equal inputs: |x_k − x'_k| ≤ max|λ|^k |x_0 − x'_0|, state by state."""
    layer = system(name, 2, 2, 5)
    rate = layer.eigenvalues().abs().max().item()
    u = noise(1, 120, 2)
    _, one = layer(noise(1, 3, 2, seed=1))
    _, other = layer(noise(1, 3, 2, seed=2))
    # The previous input is no free state: both runs share it after one sample.
    _, one = layer.step(u[:, 0], one)
    _, other = layer.step(u[:, 0], other)

    def gap() -> float:
        return (state_tensors(one)[0] - state_tensors(other)[0]).norm().item()

    start = gap()
    assert start > 0.01
    for k in range(1, 120):
        _, one = layer.step(u[:, k], one)
        _, other = layer.step(u[:, k], other)
        assert gap() <= rate**k * start * (1 + 1e-9) + 1e-14


def test_s5_with_one_channel_is_s4d() -> None:
    s5, s4d = S5(1, 1, 6).double(), S4D(1, 6, law=S4DInv()).double()
    for target, source in (
        (s5.poles.log_decay, s4d.poles.log_decay),
        (s5.poles.frequency, s4d.poles.frequency),
        (s5.poles.log_dt, s4d.poles.log_dt.expand(6)),
        (s5.coupling.B, s4d.coupling.B.transpose(0, 1)),
        (s5.coupling.C, s4d.coupling.C),
        (s5.D, s4d.D),
    ):
        copy(target, source)
    u = noise(2, 50, 1)
    y, state = s5(u)
    expected, last = s4d(u)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-13)


def test_state_of_s5_is_the_sum_of_the_states_of_s4d() -> None:
    """With one λ and one Δ for all, the dense state sums the states of single-input systems."""
    s5, s4d = S5(3, 3, 4).double(), S4D(3, 4).double()
    copy(s4d.poles.log_decay, s5.poles.log_decay.repeat(3))
    copy(s4d.poles.frequency, s5.poles.frequency.repeat(3))
    copy(s4d.poles.log_dt, torch.full((3,), -3.0))
    copy(s5.poles.log_dt, torch.full((4,), -3.0))
    copy(s4d.coupling.B, s5.coupling.B.transpose(0, 1))
    u = noise(2, 30, 3)
    torch.testing.assert_close(
        s5(u)[1], s4d(u)[1].unflatten(1, (3, 4)).sum(1), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize(
    "poles",
    [DiscreteDiagonal(), DiscreteDiagonal(gain="none"), ContinuousDiagonal(), RealDiagonal()],
    ids=["derived", "none", "complex ZOH", "real ZOH"],
)
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
def test_a_held_input_may_be_stepped_in_parts(poles, cuts: list[float]) -> None:
    """Semigroup: steps δ_1, δ_2, ... with one input are one step of their sum."""
    layer = LTI(2, 2, 4, poles=poles).double()
    held, (_, start) = noise(1, 2), layer(noise(1, 4, 2, seed=3))
    total = torch.tensor([sum(cuts)], dtype=torch.float64)
    y, state = layer.step(held, start, dt=total)
    parts, carried = layer.step(held, start, dt=total * 0)
    torch.testing.assert_close(carried, start, rtol=1e-14, atol=1e-14)
    for cut in cuts:
        parts, carried = layer.step(held, carried, dt=torch.tensor([cut], dtype=torch.float64))
    torch.testing.assert_close(carried, state, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(parts, y, rtol=1e-12, atol=1e-13)


def test_two_half_steps_are_one() -> None:
    for poles in (DiscreteDiagonal(), ContinuousDiagonal(), RealDiagonal()):
        layer = LTI(2, 3, 4, poles=poles).double()
        u = noise(2, 6, 2)
        whole, state = layer(u)
        half = torch.full((12,), 0.5, dtype=torch.float64)
        halved, carried = layer(u.repeat_interleave(2, 1), dt=half)
        torch.testing.assert_close(halved[:, 1::2], whole, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(carried, state, rtol=1e-12, atol=1e-13)


def test_irregular_steps_follow_the_matrix_exponential() -> None:
    layer = LTI(1, 1, 3, poles=ContinuousDiagonal(S4DLin(), dt_min=0.3, dt_max=0.5)).double()
    poles = layer.poles.continuous.detach().numpy()
    nominal = layer.poles.dt.detach().numpy()
    b = layer.coupling.matrices()[0].detach().numpy()[:, 0]
    rng = np.random.default_rng(0)
    dt, u = rng.uniform(0.1, 3.0, 15), rng.standard_normal(15)
    _, state = layer(torch.from_numpy(u)[None, :, None], dt=torch.from_numpy(dt)[None])
    x = np.zeros(3, complex)
    for k in range(15):
        for j in range(3):
            m = scipy.linalg.expm(np.array([[poles[j], b[j]], [0, 0]]) * nominal[j] * dt[k])
            x[j] = m[0, 0] * x[j] + m[0, 1] * u[k]
    torch.testing.assert_close(state[0], pairs(x), rtol=1e-10, atol=1e-12)


def test_white_noise_gives_states_the_variance_of_their_rows() -> None:
    """E|x_j|² → ‖B_j‖² for γ = √(1 − |λ|²) and white inputs of variance one.

    With |λ| = 0.9, |x|² of a state is correlated over (1 + |λ|²)/(1 − |λ|²) = 9.5 samples and has
    a relative standard deviation of at most √2, so the mean over 400 000 samples has one of 0.7 %;
    the test allows five of these.
    """
    layer = LRU(3, 8, 4, simulator=Scan()).double()
    copy(layer.poles.nu, torch.full((4,), np.log(-np.log(0.9))))
    copy(layer.poles.log_gamma, torch.full((4,), 0.5 * np.log(1 - 0.81)))
    copy(layer.D, torch.zeros(8, 3))
    # The outputs are the real and the imaginary parts of the states.
    copy(layer.coupling.C, pairs(np.concatenate([np.eye(4), -1j * np.eye(4)]).astype(complex)))
    with torch.no_grad():
        y = layer(noise(40, 10_100, 3))[0][:, 100:]
    power = y.square().mean((0, 1)).view(2, 4).sum(0)
    expected = layer.coupling.B.detach().square().sum((1, 2))
    torch.testing.assert_close(power, expected, rtol=0.035, atol=0)
