"""Linear controlled differential equations: contract, exactness, signatures, order, blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contracts.layer_base import close
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import LinearCDE


class TestLinearCDE(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return LinearCDE(3, d_state=4, block=2, seed=seed).to(dtype)


class TestDiagonal(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return LinearCDE(3, d_state=4, block=1, d_path=2, seed=seed).to(dtype)


class TestDense(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return LinearCDE(2, d_state=3, block=None, seed=seed).to(dtype)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(layer: LinearCDE) -> list[Tensor]:
    """The matrices A_i with their zeros."""
    return [torch.block_diag(*matrices) for matrices in layer.A]


@pytest.mark.parametrize("block", [1, 2, 6])
@pytest.mark.parametrize("d_path", [None, 2])
def test_states_solve_the_equation(block: int, d_path: int | None) -> None:
    """Against the classical method of Runge and Kutta in small steps."""
    layer = LinearCDE(3, d_state=6, block=block, d_path=d_path, scale=1.0, seed=1).double()
    u, dt = noise(1, 4, 3), noise(1, 4, seed=2).exp()
    matrices, h = whole(layer), noise(1, 6, seed=3)
    y, last = layer(u, h, dt=dt)
    h, few = h[0], 400
    for k in range(4):
        speed = u[0, k] if layer.enter is None else layer.enter.weight @ u[0, k]
        rates = torch.cat([torch.ones(1, dtype=torch.float64), speed])
        total = sum(rate * matrix for rate, matrix in zip(rates, matrices, strict=True))
        step = dt[0, k] / few

        def slope(h: Tensor, total=total, rates=rates) -> Tensor:
            return total @ h + layer.B @ rates

        for _ in range(few):
            a = slope(h)
            b = slope(h + step / 2 * a)
            c = slope(h + step / 2 * b)
            h = h + step / 6 * (a + 2 * b + 2 * c + slope(h + step * c))
        close(y[0, k], layer.leave.weight @ h + layer.D * u[0, k], rtol=1e-8, atol=1e-8)
    close(last[0], h, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("block", [1, 2, None])
def test_a_step_may_be_divided(block: int | None) -> None:
    layer = LinearCDE(2, d_state=4, block=block, scale=1.0).double()
    u, state = noise(1, 3, 2), noise(1, 4, seed=1)
    parts = u.repeat_interleave(5, 1)
    steps = torch.full((15,), 0.2, dtype=torch.float64)
    close(layer(parts, state, dt=steps)[1], layer(u, state)[1])


def test_nilpotent_matrices_give_the_area_of_a_path() -> None:
    """A_1 = E_21, A_2 = E_32 from e_1: the last state is ∫∫ dX¹ dX², exactly."""
    layer = LinearCDE(2, d_state=3, block=None).double()
    with torch.no_grad():
        layer.A.zero_()
        layer.B.zero_()
        layer.A[1, 0, 1, 0] = layer.A[2, 0, 2, 1] = 1
    moves = noise(1, 50, 2)
    _, last = layer(moves, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    first, area = torch.zeros(()), torch.zeros(())
    for one, two in moves[0]:
        area = area + first * two + one * two / 2
        first = first + one
    close(last[0, 1:], torch.stack([first, area]), rtol=1e-12, atol=1e-12)


def test_blocks_of_one_see_increments_and_dense_ones_see_order() -> None:
    moves = noise(1, 30, 3) / 5
    swapped = torch.cat([moves[:, 20:], moves[:, 10:20], moves[:, :10]], 1)
    start, gaps = noise(1, 4, seed=1), []
    for block in (1, None):
        layer = LinearCDE(3, d_state=4, block=block, scale=2.0).double()
        with torch.no_grad():
            layer.B.zero_()
            one, two = layer(moves, start)[1], layer(swapped, start)[1]
        gaps.append(float((one - two).norm() / one.norm()))
    assert gaps[0] < 1e-13
    assert gaps[1] > 0.05


@pytest.mark.parametrize("block", [1, 2])
def test_blocks_are_a_dense_layer_with_zeros(block: int) -> None:
    layer = LinearCDE(2, d_state=4, block=block, seed=1).double()
    dense = LinearCDE(2, d_state=4, block=None).double()
    values = layer.state_dict() | {"A": torch.stack(whole(layer)).unsqueeze(1)}
    dense.load_state_dict(values)
    u, reset = noise(2, 9, 2), torch.arange(9).expand(2, -1) == 4
    close(layer(u, reset=reset), dense(u, reset=reset))


def test_a_path_that_stands_still_has_gradients() -> None:
    """φ(0) = 1 and its slope are limits of 0/0."""
    layer = LinearCDE(2, d_state=3, block=1).double()
    with torch.no_grad():
        layer.A.zero_()
    u = noise(1, 4, 2).requires_grad_()

    def last(A: Tensor, u: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"A": A}, (u,))[1]

    assert torch.autograd.gradcheck(last, (layer.A, u))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state.*0"),
        ({"block": 3}, "block = 3, d_state = 16"),
        ({"block": 0}, "block.*0"),
        ({"d_path": 0}, "d_path.*0"),
    ],
)
def test_wrong_options_are_told(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LinearCDE(2, **options)
