"""Elman, GRU and LSTM: contract, torch's own modules, Newton's method over the sequence."""

from __future__ import annotations

import copy

import pytest
import torch

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise._config import from_dict, to_dict
from statewise.nn import GRU, LSTM, Elman, NewtonSolver, map_state

KINDS = [(Elman, torch.nn.RNN), (GRU, torch.nn.GRU), (LSTM, torch.nn.LSTM)]


class TestElman(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return Elman(3, seed=seed).to(dtype)


class TestGRU(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return GRU(3, d_output=2, seed=seed).to(dtype)


class TestLSTM(LayerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return LSTM(3, d_output=2, seed=seed).to(dtype)


class TestGRUByNewton(EagerContract):
    refuses = frozenset({"dt"})
    # A NaN anywhere keeps Newton's method from converging.
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return GRU(3, d_output=2, solver=NewtonSolver(iterations=30), seed=seed).to(dtype)

    def test_sequences_of_a_batch_do_not_meet(self):
        layer = self.build()
        u, start = self.sequence(layer, 3, 8), self.some_state(layer, 3)
        y, _ = layer(u, start)
        close(layer(u[1:2], start[1:2])[0], y[1:2])
        u[1] = torch.nan
        with pytest.warns(RuntimeWarning, match="has not converged"):
            layer(u, start)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("kind", "published"), KINDS)
def test_equals_torch(kind, published):
    layer = kind(3, d_output=5, seed=4).double()
    other = published(3, 5, batch_first=True, dtype=torch.float64)
    other.load_state_dict({f"{name}_l0": value for name, value in layer.state_dict().items()})
    u, start = noise(4, 30, 3), map_state(torch.detach, layer(noise(4, 3, 3, seed=1))[1])
    y, state = layer(u, start)
    given = tuple(part[None] for part in start) if kind is LSTM else start[None]
    expected, last = other(u, given)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-14)
    last = tuple(part[0] for part in last) if kind is LSTM else last[0]
    close(state, type(state)(*last) if kind is LSTM else last)
    loss = expected.square().sum()
    found = torch.autograd.grad(loss, list(other.parameters()))
    one = gradients(layer, y.square().sum())
    for (name, _), gradient in zip(other.named_parameters(), found, strict=True):
        torch.testing.assert_close(one[name.removesuffix("_l0")], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "published"), KINDS)
@pytest.mark.parametrize(
    "solver",
    [
        NewtonSolver(),
        NewtonSolver(iterations=60, diagonal=True),
        NewtonSolver(iterations=60, damping=0.1),
    ],
)
def test_newton_equals_the_steps(kind, published, solver):
    layer = kind(3, d_output=4, seed=2).double()
    other = copy.deepcopy(layer)
    other.solver = solver
    u, start = noise(3, 40, 3), map_state(torch.detach, layer(noise(3, 3, 3, seed=1))[1])
    reset = torch.zeros(3, 40, dtype=torch.bool)
    reset[0, 7] = reset[1, 0] = reset[1, 20] = True
    given = {"reset": reset, "lengths": torch.tensor([40, 33, 0])}
    y, state = layer(u, start, **given)
    found, last = other(u, start, **given)
    close((found, last), (y, state), rtol=1e-9, atol=1e-9)
    weight = noise(3, 40, 4, seed=5)
    one = gradients(other, (found * weight).sum())
    for name, expected in gradients(layer, (y * weight).sum()).items():
        torch.testing.assert_close(one[name], expected, rtol=1e-8, atol=1e-8)
    second, carried = other(u[:, 25:], other(u[:, :25], start)[1])
    whole, end = layer(u, start)
    close((second, carried), (whole[:, 25:], end), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "published"), KINDS)
def test_closed_jacobians_are_those_of_autograd(kind, published):
    layer = kind(3, d_output=4, seed=2).double()
    size = layer.parts * 4
    h, pre = noise(size, seed=1), noise(layer.gates * 4, seed=2)
    weights = [weight.detach() for weight in layer._weights()]
    expected = torch.autograd.functional.jacobian(lambda h: layer._cell(h, pre, *weights), h)
    torch.testing.assert_close(layer._jacobian(h, pre, *weights), expected, rtol=1e-12, atol=1e-14)


def test_unconverged_answers_are_told_and_have_no_gradient():
    layer = Elman(3, solver=NewtonSolver(iterations=3)).double()
    with torch.no_grad():
        layer.weight_hh.mul_(20)
    with pytest.warns(RuntimeWarning, match="Elman: Newton's method has not converged after 3"):
        y, _ = layer(noise(2, 50, 3))
    with pytest.raises(RuntimeError, match="gradient is refused"):
        y.sum().backward()


def test_solver_goes_through_a_file():
    solver = NewtonSolver(iterations=7, damping=0.5)
    assert from_dict(to_dict(solver)) == solver
    with pytest.raises(ValueError, match="iterations = 0"):
        NewtonSolver(iterations=0)


@pytest.mark.parametrize(("kind", "published"), KINDS)
def test_wrong_widths_are_told(kind, published):
    with pytest.raises(ValueError, match=f"{kind.__name__} needs d_output of at least 1; given 0"):
        kind(3, d_output=0)
