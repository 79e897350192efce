"""Responses in time and frequency against loops and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from lti_systems import card_system, stable

from statewise.lti import (
    StateSpace,
    dc_gain,
    frequency_response,
    from_diagonal,
    impulse_response,
    markov_parameters,
    simulate,
    step_response,
    to_diagonal,
)


def loop(system: StateSpace, u: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = []
    for v in u.unbind(-2):
        outputs.append((system.C @ x[..., None] + system.D @ v[..., None])[..., 0])
        x = (system.A @ x[..., None] + system.B @ v[..., None])[..., 0]
    return torch.stack(outputs, -2), x


def drawn(*shape: int, seed: int = 0, kind: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=kind, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
def test_simulation_is_the_loop(complex_valued, diagonal, batch) -> None:
    system = stable(5, batch=batch, complex_valued=complex_valued)
    if diagonal:
        system = from_diagonal(to_diagonal(system), real=False)
    kind = system.dtype
    u, start = drawn(3, *[1] * (len(batch) - 1), 40, 2, kind=kind), drawn(5, seed=1, kind=kind)
    if batch:
        u = u[:1] if batch == (2,) else u
    y, last = simulate(system, u, start)
    expected, end = loop(system, u, start.expand(*y.shape[:-2], 5))
    torch.testing.assert_close(y, expected.expand_as(y))
    torch.testing.assert_close(last, end.expand_as(last))


def test_two_halves_are_the_whole() -> None:
    system, u = stable(4, batch=(2,)), drawn(2, 30, 2)
    whole, last = simulate(system, u)
    first, state = simulate(system, u[:, :11])
    second, end = simulate(system, u[:, 11:], state)
    torch.testing.assert_close(torch.cat((first, second), -2), whole)
    torch.testing.assert_close(end, last)


@given(st.integers(0, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 20))
def test_simulation_of_any_size(n: int, m: int, p: int, length: int) -> None:
    D = drawn(p, m, seed=9)
    system = stable(n, m, p) if n else StateSpace.gain(D, dt=1.0)
    u = drawn(length, m)
    y, last = simulate(system, u)
    expected, end = loop(system, u, torch.zeros(n, dtype=torch.float64))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last, end)


def test_simulation_has_gradients() -> None:
    base, u = stable(3), drawn(6, 2)

    def outputs(A, B, x):
        return simulate(StateSpace(A, B, base.C, base.D, 1.0), u, x)[0]

    inputs = [M.clone().requires_grad_() for M in (base.A, base.B, drawn(3))]
    assert torch.autograd.gradcheck(outputs, inputs)


def test_what_does_not_fit_is_refused() -> None:
    system = stable(3)
    for u in (drawn(2), drawn(5, 3), drawn(0, 2)):
        with pytest.raises(ValueError, match="u has shape"):
            simulate(system, u)
    with pytest.raises(ValueError, match="x0 has shape"):
        simulate(system, drawn(5, 2), drawn(4))
    with pytest.raises(ValueError, match="discrete system"):
        simulate(stable(3, dt=None), drawn(5, 2))
    with pytest.raises(ValueError, match="its own sampling time"):
        impulse_response(system, 5, step=0.1)
    with pytest.raises(ValueError, match="positive time step"):
        step_response(stable(3, dt=None), 5)
    with pytest.raises(ValueError, match="count is 0"):
        markov_parameters(system, 0)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 64, 77])
def test_markov_parameters_are_pulse_responses(count) -> None:
    system = stable(5, batch=(2,))
    found = markov_parameters(system, count)
    pulses = torch.zeros(2, 1, count, 2, dtype=torch.float64)
    pulses[0, :, 0, 0] = pulses[1, :, 0, 1] = 1
    y, _ = simulate(system, pulses)
    torch.testing.assert_close(found, y.movedim(0, -1), rtol=1e-11, atol=1e-12)
    if count > 1:
        steps = step_response(system, count)
        torch.testing.assert_close(steps, found.cumsum(-3))


def test_continuous_responses_are_those_of_scipy() -> None:
    system = stable(4, 1, 1, dt=None)
    peer = scipy.signal.StateSpace(*(M.numpy() for M in system.matrices))
    times = np.arange(30) * 0.2
    _, expected = scipy.signal.step(peer, T=times)
    found = step_response(system, 30, step=0.2)[:, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    no_direct = StateSpace(system.A, system.B, system.C)
    _, expected = scipy.signal.impulse((*(M.numpy() for M in no_direct.matrices),), T=times)
    found = impulse_response(system, 30, step=0.2)[:, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dt", [None, 0.2])
@pytest.mark.parametrize("n", [4, 20])
def test_frequency_responses_by_every_way_are_one(dt, n) -> None:
    system = stable(n, dt=dt, batch=(2,))
    w = torch.linspace(-6, 9, 41, dtype=torch.float64)
    found = frequency_response(system, w)
    assert found.shape == (2, 41, 3, 2)
    at = 1j * w if dt is None else torch.exp(1j * w * dt)
    direct = torch.stack([system(s) for s in at], 1)
    torch.testing.assert_close(found, direct, rtol=1e-10, atol=1e-11)
    modal = frequency_response(from_diagonal(to_diagonal(system), real=False), w)
    torch.testing.assert_close(modal, direct, rtol=1e-9, atol=1e-10)


def test_frequency_responses_are_those_of_scipy() -> None:
    system = stable(6, 1, 1, dt=0.5)
    peer = scipy.signal.dlti(*(M.numpy() for M in system.matrices), dt=0.5)
    w = np.linspace(0.1, 6, 30)
    _, expected = scipy.signal.dfreqresp(peer, w * 0.5)
    found = frequency_response(system, w)[:, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_frequency_responses_have_gradients() -> None:
    base = stable(14, 1, 1)
    A = base.A.clone().requires_grad_()
    G = frequency_response(StateSpace(A, base.B, base.C, base.D, 1.0), torch.ones(1))
    G.abs().sum().backward()
    s = torch.exp(torch.tensor(1j, dtype=torch.complex128))
    inner = torch.linalg.inv(s * torch.eye(14, dtype=torch.float64) - base.A)
    left, right = base.C.to(inner.dtype) @ inner, inner @ base.B.to(inner.dtype)
    unit = (G / G.abs()).conj().detach()[0]
    torch.testing.assert_close(A.grad, (unit * (right @ left).T).real, rtol=1e-9, atol=1e-10)


def test_a_pole_on_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="is a pole"):
        dc_gain(StateSpace([[1.0]], [[1.0]], [[1.0]], dt=1.0))
    with pytest.raises(ValueError, match="is a pole"):
        dc_gain(StateSpace([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], [[1.0, 0.0]]))
    with pytest.raises(ValueError, match="real vector"):
        frequency_response(stable(2), torch.ones(2, 2))


def test_dc_gain_is_the_end_of_the_step_response() -> None:
    system = card_system()
    expected = step_response(system, 2000)[-1]
    torch.testing.assert_close(dc_gain(system), expected)
    assert not dc_gain(system).is_complex()
    still = stable(3, dt=None)
    A, B, C, D = still.matrices
    torch.testing.assert_close(dc_gain(still), D - C @ torch.linalg.solve(A, B))
