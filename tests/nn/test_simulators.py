"""Convolution by FFT is the scan; ``Auto`` chooses; shapes of all kinds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise._config import from_dict, to_dict
from statewise.lti import Bilinear, Euler, Trapezoid
from statewise.nn import (
    FFT,
    LTI,
    Auto,
    Bank,
    ContinuousDiagonal,
    Dense,
    DiscreteDiagonal,
    RealDiagonal,
    Ring,
    Scan,
    lti,
)
from statewise.nn.simulators import powers

POLES = {
    "discrete": DiscreteDiagonal(),
    "unnormalised": DiscreteDiagonal(Ring(0.9, 0.99999), "none"),
    "complex": ContinuousDiagonal(),
    "bilinear": ContinuousDiagonal(rule=Bilinear()),
    "real": RealDiagonal(),
    "alternating": RealDiagonal(rule=Euler(), dt_min=0.5, dt_max=3.0),
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    """Equal up to a fraction of the largest value, or of 1."""
    scale = max(other.abs().max().item(), 1.0)
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


def both(poles, coupling, sizes: tuple[int, int, int]) -> tuple[LTI, LTI]:
    one = LTI(*sizes, poles=poles, coupling=coupling, simulator=FFT()).double()
    other = LTI(*sizes, poles=poles, coupling=coupling, simulator=Scan()).double()
    return one, other


@pytest.mark.parametrize("coupling", [Dense(), Bank()], ids=["dense", "bank"])
@pytest.mark.parametrize("name", POLES)
@pytest.mark.parametrize("length", [1, 2, 3, 64, 333])
def test_convolution_is_the_scan(name: str, coupling, length: int) -> None:
    fft, scan = both(POLES[name], coupling, (3, 3 if isinstance(coupling, Bank) else 2, 4))
    u = noise(2, length, 3)
    start = scan(noise(2, 20, 3, seed=1))[1].detach()
    for state in (None, start):
        y, last = fft(u, state)
        expected, final = scan(u, state)
        close(y, expected, 1e-10)
        close(last, final, 1e-10)


@pytest.mark.parametrize("coupling", [Dense(), Bank()], ids=["dense", "bank"])
@pytest.mark.parametrize("name", POLES)
def test_gradients_of_the_convolution_are_those_of_the_scan(name: str, coupling) -> None:
    fft, scan = both(POLES[name], coupling, (2, 2, 3))
    found = []
    for layer in (fft, scan):
        u, start = noise(2, 41, 2).requires_grad_(), layer(noise(2, 9, 2, seed=1))[1].detach()
        start.requires_grad_()
        y, last = layer(u, start)
        loss = (y * noise(*y.shape, seed=2)).sum() + (last * noise(*last.shape, seed=3)).sum()
        found.append(torch.autograd.grad(loss, [u, start, *layer.parameters()]))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-10)


def test_powers_keep_their_phase_in_float32() -> None:
    """a^k for k up to 10⁵ on the unit circle, where repeated products would lose the phase."""
    a = torch.polar(torch.ones(3), torch.tensor([0.1, 1.0, 3.0]))
    found = powers(a, 100_001)
    assert found.dtype == torch.complex64
    phase = torch.angle(a.to(torch.complex128)) * 100_000
    size = a.to(torch.complex128).abs() ** 100_000
    torch.testing.assert_close(
        found[-1].to(torch.complex128), torch.polar(size, phase), rtol=1e-6, atol=1e-6
    )
    assert (found[0] == 1).all()


def test_powers_of_zero() -> None:
    zero = torch.zeros(1, dtype=torch.complex128, requires_grad=True)
    found = powers(zero, 3).flatten()
    assert found[0] == 1
    assert found[1:].abs().max() < 1e-299
    found.abs().sum().backward()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("count", range(1456, 1466))
def test_powers_have_gradients_through_the_underflow(count: int) -> None:
    """0.6^1458 is the smallest subnormal number, where a quotient by the modulus is NaN."""
    a = torch.tensor([0.6 * torch.exp(torch.tensor(0.5j))]).to(torch.complex128)
    a.requires_grad_()
    found = powers(a, count)[1450:]
    (gradient,) = torch.autograd.grad(found.real.sum() + 2 * found.imag.sum(), a)
    assert gradient.isfinite().all()


def test_rules_with_two_samples_cannot_be_convolved() -> None:
    layer = LTI(2, 2, 2, poles=ContinuousDiagonal(rule=Trapezoid()), simulator=FFT())
    with pytest.raises(ValueError, match=r"FFT\(\).*two input samples.*Scan\(\)"):
        layer(torch.zeros(1, 4, 2))


def test_auto_scans_on_the_cpu() -> None:
    auto = LTI(2, 2, 3, simulator=Auto(1)).double()
    scan = LTI(2, 2, 3, simulator=Scan()).double()
    u, reset = noise(2, 9, 2), torch.ones(2, 9, dtype=torch.bool)
    for extra in ({}, {"reset": reset}):
        y, state = auto(u, **extra)
        expected, last = scan(u, **extra)
        assert torch.equal(y, expected)
        assert torch.equal(state, last)


def test_auto_convolves_where_training_gains_from_it(monkeypatch) -> None:
    layers = [LTI(1, 1, 64, coupling=Bank(), simulator=one).double() for one in (Auto(), Scan())]
    called = []
    real = lti.bank_convolution
    monkeypatch.setattr(
        lti, "bank_convolution", lambda *given: called.append(given) or real(*given)
    )
    for batch, convolved in ((2, False), (4, True)):
        u = noise(batch, 8192, 1)
        called.clear()
        (y, state), (expected, last) = (layer(u) for layer in layers)
        assert bool(called) == convolved
        close(y, expected, 1e-10)
        close(state, last, 1e-10)
        with torch.no_grad():
            called.clear()
            layers[0](u)
            assert not called


@pytest.mark.parametrize("simulator", [Scan(), FFT()], ids=repr)
@pytest.mark.parametrize("poles", [DiscreteDiagonal(), RealDiagonal()], ids=["complex", "real"])
def test_states_keep_the_precision_of_the_layer(poles, simulator) -> None:
    """Inputs and states of another precision change the type of the output alone."""
    single = LTI(2, 2, 3, poles=poles, simulator=simulator)
    double = LTI(2, 2, 3, poles=poles, simulator=simulator).double()
    u = noise(2, 9, 2)
    for layer, own, other in (
        (single, torch.float32, torch.float64),
        (double, torch.float64, torch.float32),
    ):
        expected, _ = layer(u.to(own))
        rest = layer.init_state(2).to(other)
        for state in (None, rest):
            y, last = layer(u.to(other), state)
            assert y.dtype == other
            assert last.dtype == own
            close(y.to(own), expected, 1e-5)
        stepped, last = layer.step(u[:, 0].to(other), rest)
        assert stepped.dtype == other
        assert last.dtype == own
        close(stepped.to(own), expected[:, 0], 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("coupling", [Dense(), Bank()], ids=["dense", "bank"])
@pytest.mark.parametrize("name", POLES)
def test_auto_convolves_on_the_gpu(name: str, coupling) -> None:
    scan = LTI(3, 3, 4, poles=POLES[name], coupling=coupling, simulator=Scan()).double()
    auto = LTI(3, 3, 4, poles=POLES[name], coupling=coupling, simulator=Auto()).double().cuda()
    u = noise(2, 200, 3)
    start = scan(noise(2, 20, 3, seed=1))[1].detach()
    expected, last = scan(u, start)
    y, state = auto(u.cuda(), start.cuda())
    close(y.cpu(), expected, 1e-10)
    close(state.cpu(), last, 1e-10)


@pytest.mark.parametrize("simulator", [Scan(), FFT(), Auto(), Auto(7)], ids=repr)
def test_simulators_are_data(simulator) -> None:
    assert from_dict(to_dict(simulator)) == simulator


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4),
    length=st.integers(1, 24),
    d_input=st.integers(1, 4),
    d_output=st.integers(1, 4),
    d_state=st.integers(1, 5),
    bank=st.booleans(),
    poles=st.sampled_from([*POLES.values(), ContinuousDiagonal(rule=Trapezoid())]),
    cut=st.integers(0, 24),
)
def test_any_sizes(
    batch: int,
    length: int,
    d_input: int,
    d_output: int,
    d_state: int,
    bank: bool,
    poles,
    cut: int,
) -> None:
    layer = LTI(
        d_input,
        d_input if bank else d_output,
        d_state,
        poles=poles,
        coupling=Bank() if bank else Dense(),
        simulator=Scan(),
    ).double()
    u = noise(batch, length, d_input)
    y, _ = layer(u)
    assert y.shape == (batch, length, layer.d_output)
    state, samples = layer.init_state(batch), []
    for k in range(length):
        sample, state = layer.step(u[:, k], state)
        samples.append(sample)
    close(torch.stack(samples, 1), y, 1e-12)
    if 0 < cut < length:
        first, carried = layer(u[:, :cut])
        second, _ = layer(u[:, cut:], carried)
        close(torch.cat([first, second], 1), y, 1e-12)
