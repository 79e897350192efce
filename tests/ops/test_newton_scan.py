"""The Newton scan: exact prefixes, convergence, honesty about divergence, and gradients."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from statewise.ops import (
    Blocks,
    Cell,
    Damped,
    Dense,
    Diagonal,
    Newton,
    ParaGRUCell,
    ParaLSTMCell,
    QuasiNewton,
    newton_scan,
    para_gru,
    para_lstm,
)
from statewise.ops.newton_scan.linearised import jacobian

B, L, D = 2, 60, 4


def _random(*shape, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, dtype=torch.float64, generator=generator)).to(dtype)


def _gru(scale, length=L, seed=0, channels=D):
    a = _random(3, channels, seed=seed + 1, scale=scale).requires_grad_()
    return ParaGRUCell(a), _random(B, length, 3, channels, seed=seed)


def _lstm(scale, length=L):
    a, w = _random(3, D, seed=1, scale=scale), _random(2, D, seed=2, scale=scale)
    return ParaLSTMCell(a.requires_grad_(), w.requires_grad_()), _random(B, length, 3, D)


class _Dense(torch.nn.Module):
    """A tanh network of three states and two inputs, contracting or not."""

    size = 3

    def __init__(self, gain=0.4):
        super().__init__()
        self.inner = torch.nn.Parameter(_random(3, 3, seed=3, scale=gain))
        self.outer = torch.nn.Parameter(_random(3, 2, seed=4))

    def forward(self, h, x):
        return torch.tanh(h @ self.inner.T + x @ self.outer.T)


def _loop(cell, x, h0=None, reset=None, reverse=False):
    """The sequential run, differentiable by back-propagation through time."""
    h = x.new_zeros(x.shape[0], cell.size) if h0 is None else h0
    states = [None] * x.shape[1]
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        if reset is not None:
            h = torch.where(reset[:, t, None], torch.zeros_like(h), h)
        h = cell(h.unsqueeze(1), x[:, t : t + 1]).squeeze(1)
        states[t] = h
    return torch.stack(states, 1), h


CELLS = {
    "gru": lambda: _gru(0.5),
    "lstm": lambda: _lstm(0.5),
    "dense": lambda: (_Dense(), _random(B, L, 2)),
}


@pytest.fixture(params=CELLS)
def case(request):
    return CELLS[request.param]()


def _close(given, expected, bound):
    assert given.shape == expected.shape
    assert (given - expected).abs().max().item() <= bound * max(1.0, expected.abs().max().item())


# -- the answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("resets", [False, True])
def test_answer_and_gradients_are_those_of_the_sequential_run(case, state, resets, reverse):
    cell, x = case
    x.requires_grad_()
    h0 = _random(B, cell.size, seed=9).requires_grad_() if state else None
    reset = _random(B, L, seed=8) > 1 if resets else None
    leaves = [x, *([h0] if state else [])]
    leaves += list(cell.parameters()) if isinstance(cell, torch.nn.Module) else [cell.a]
    weight, weight_last = _random(B, L, cell.size, seed=5), _random(B, cell.size, seed=6)
    found = newton_scan(cell, x, h0, reset=reset, reverse=reverse)
    expected = _loop(cell, x, h0, reset, reverse)
    assert found.converged
    gradients = []
    for h, last in ((found.h, found.last), expected):
        reading = (h * weight).sum() + (last * weight_last).sum()
        gradients.append(torch.autograd.grad(reading, leaves))
    _close(found.h, expected[0], 1e-10)
    _close(found.last, expected[1], 1e-10)
    for one, other in zip(*gradients, strict=True):
        _close(one, other, 1e-10)


@pytest.mark.parametrize("lstm", [False, True])
def test_fused_operators_agree(lstm):
    cell, x = _lstm(0.5) if lstm else _gru(0.5)
    h0 = _random(B, cell.size, seed=9)
    found = newton_scan(cell, x, h0)
    if lstm:
        h, last = para_lstm(x, cell.a, cell.w, h0.unflatten(-1, (D, 2)))
        _close(found.h[..., 1::2], h, 1e-10)
        _close(found.last.unflatten(-1, (D, 2)), last, 1e-10)
    else:
        h, last = para_gru(x, cell.a, h0)
        _close(found.h, h, 1e-10)
        _close(found.last, last, 1e-10)


@pytest.mark.parametrize("make", [lambda: _gru(3.0), lambda: (_Dense(2.0), _random(B, L, 2))])
@pytest.mark.parametrize("method", [Newton(), QuasiNewton()])
def test_iterate_k_is_exact_for_the_first_k_steps(make, method):
    cell, x = make()
    expected, _ = _loop(cell, x)
    for k in (1, 2, 5, 9):
        found = newton_scan(cell, x, method=method, iterations=k, tolerance=0.0)
        assert found.iterations == k
        _close(found.h[:, : k + 1], expected[:, : k + 1], 1e-12)
        # Elsewhere it is not yet, so that the line above has something to see.
        assert k > 2 or (found.h - expected).abs().max() > 1e-3


def test_an_affine_cell_takes_one_iteration():
    matrix, shift = _random(3, 3, scale=0.4), _random(B, L, 3)
    cell = Cell(lambda h, x: h @ matrix.T + x, size=3)
    found = newton_scan(cell, shift)
    assert found.converged
    assert found.iterations == 1
    _close(found.h, _loop(cell, shift)[0], 1e-13)


def test_convergence_is_quadratic_for_weights_up_to_a_half():
    cell, x = _gru(0.5, length=200, channels=8)
    with torch.no_grad():
        cell.a.clamp_(-0.5, 0.5)
        expected, _ = _loop(cell, x)
        errors = [
            (newton_scan(cell, x, iterations=k, tolerance=0.0).h - expected).abs().max().item()
            for k in (1, 2, 3, 4)
        ]
    assert errors[3] <= 1e-6
    assert errors[2] <= 1e-4
    for before, after in pairwise(errors[1:]):
        assert after <= max(before**1.5, 1e-15)


@pytest.mark.parametrize("guess", [0.0, 1.0])
def test_any_first_guess_leads_there(guess):
    cell, x = _gru(0.5)
    start = torch.full((B, L, D), guess, dtype=torch.float64)
    _close(newton_scan(cell, x, guess=start).h, _loop(cell, x)[0], 1e-10)
    answer = newton_scan(cell, x)
    assert newton_scan(cell, x, guess=answer.h.detach()).iterations == 0


# -- methods ---------------------------------------------------------------------------------------


def test_quasi_newton_is_newton_on_a_diagonal_cell():
    cell, x = _gru(1.0)
    runs = [newton_scan(cell, x, method=m, iterations=3) for m in (Newton(), QuasiNewton())]
    assert torch.equal(runs[0].h, runs[1].h)
    assert runs[0].residuals == runs[1].residuals


def test_quasi_newton_converges_linearly_on_a_dense_cell():
    cell, x = _Dense(), _random(B, L, 2)
    found = newton_scan(cell, x, method=QuasiNewton(), iterations=60)
    assert found.converged
    assert found.iterations > newton_scan(cell, x).iterations
    _close(found.h, _loop(cell, x)[0], 1e-10)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_damping_vanishes_with_its_strength(case, diagonal, reverse):
    cell, x = case
    undamped = QuasiNewton() if diagonal else Newton()
    options = {"iterations": 2, "tolerance": 0.0, "reverse": reverse}
    expected = newton_scan(cell, x, method=undamped, **options)
    for strength, bound in ((0.0, 0.0), (1e-13, 1e-11), (1e-6, 1e-4)):
        found = newton_scan(cell, x, method=Damped(strength, diagonal), **options)
        _close(found.h, expected.h, bound)
    found = newton_scan(cell, x, method=Damped(1.0, diagonal), **options)
    assert (found.h - expected.h).abs().max() > 1e-3


@pytest.mark.parametrize("diagonal", [False, True])
def test_damped_update_is_the_mean_of_a_kalman_filter(diagonal):
    """Against the textbook recursion on the linearised model, step by step."""
    cell, x = _Dense(1.5), _random(1, 7, 2)
    h0, strength = _random(1, 3, seed=3), 0.7
    first = _loop(cell, x, h0)[0].detach() + _random(1, 7, 3, seed=7, scale=0.3)
    found = newton_scan(
        cell, x, h0, guess=first, iterations=1, tolerance=0.0, method=Damped(strength, diagonal)
    )
    before = torch.cat([h0.unsqueeze(1), first[:, :-1]], 1)
    J = jacobian(cell, before, x, Dense())[0, :, 0].detach()
    J = J * torch.eye(3, dtype=J.dtype) if diagonal else J
    mean, P, eye = h0[0], torch.zeros(3, 3, dtype=J.dtype), torch.eye(3, dtype=J.dtype)
    for t in range(7):
        predicted = cell(before[0, t], x[0, t]) + J[t] @ (mean - before[0, t])
        P = J[t] @ P @ J[t].T + eye
        gain = P @ torch.linalg.inv(P + eye / strength)
        mean = (predicted + gain @ (first[0, t] - predicted)).detach()
        P = (eye - gain) @ P
        _close(found.h[0, t], mean, 1e-12)


def test_damping_tames_an_expanding_cell():
    """Where plain updates leave the range of the states, damped ones stay of their size."""
    cell, x = _gru(8.0, length=200)
    wild = newton_scan(cell, x, iterations=1)
    tame = newton_scan(cell, x, iterations=1, method=Damped(1.0))
    assert wild.residual > 50
    assert tame.residual < 2


# -- honesty ---------------------------------------------------------------------------------------


def test_divergence_is_reported_and_its_gradient_refused():
    cell, x = _gru(8.0, length=200)
    found = newton_scan(cell, x, iterations=8)
    assert not found.converged
    assert found.diverged
    assert found.iterations == 8
    assert max(found.residuals) > 100 * found.residuals[0]
    with pytest.raises(RuntimeError, match=r"newton_scan did not converge.* after 8 iterations"):
        found.h.sum().backward()
    assert cell.a.grad is None


def test_leaving_the_numbers_is_reported_with_the_last_finite_states():
    cell = Cell(lambda h, x: 2 * h * h + x, size=1, structure=Diagonal())
    x = torch.full((1, 40, 1), 3.0, dtype=torch.float64, requires_grad=True)
    found = newton_scan(cell, x, iterations=60)
    assert not found.converged
    assert found.diverged
    assert not math.isfinite(found.residual)
    assert torch.isfinite(found.h).all()
    with pytest.raises(RuntimeError, match="its gradient is refused"):
        found.last.sum().backward()


def test_too_few_iterations_are_reported():
    cell, x = _gru(1.0)
    found = newton_scan(cell, x, iterations=1)
    assert not found.converged
    assert not found.diverged
    with pytest.raises(RuntimeError, match="after 1 iterations"):
        found.last.sum().backward()


def test_a_small_residual_of_an_expanding_cell_is_no_agreement():
    """h' = 1.5 h: a residual of 1e-13 at the start is an error of 1e4 after a hundred steps."""
    cell = Cell(lambda h, x: 1.5 * h + x, size=1, structure=Diagonal())
    x = torch.zeros(1, 100, 1, dtype=torch.float64).requires_grad_()
    x.data[0, 0] = 1e-13
    nothing = torch.zeros(1, 100, 1, dtype=torch.float64)
    found = newton_scan(cell, x, guess=nothing, iterations=1)
    assert found.residual <= found.tolerance
    assert found.iterations == 0
    assert found.bound == pytest.approx(1e-13 * 1.5**99, rel=1e-9)
    assert not found.converged
    with pytest.raises(RuntimeError, match="the next correction"):
        found.h.sum().backward()


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_the_bound_is_the_error_to_second_order(iterations):
    cell, x = _gru(0.5)
    found = newton_scan(cell, x, iterations=iterations, tolerance=0.0)
    error = (found.h - _loop(cell, x)[0]).abs().max().item()
    assert abs(found.bound - error) <= 5 * found.bound**2


def test_residuals_are_those_of_the_iterates():
    cell, x = _gru(0.5)
    found = newton_scan(cell, x, iterations=2, tolerance=0.0)
    for k, residual in enumerate(found.residuals[1:], 1):
        h = newton_scan(cell, x, iterations=k, tolerance=0.0).h
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        assert residual == pytest.approx((h - cell(before, x)).abs().max().item(), rel=1e-9)


# -- cells -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [_gru, _lstm])
def test_closed_form_jacobians_are_those_of_autograd(make):
    cell, x = make(1.5)
    h = _random(B, L, cell.size, seed=4)
    plain = Cell(cell.__call__, cell.size, cell.structure)
    found, expected = (jacobian(c, h, x, cell.structure).detach() for c in (cell, plain))
    _close(found, expected, 1e-13)
    full = jacobian(plain, h, x, Dense())[:, :, 0].detach()
    kept = torch.block_diag(*torch.ones(cell.size // 2, 2, 2)) if make is _lstm else torch.eye(D)
    assert (full * (1 - kept)).abs().max() == 0
    if make is _lstm:
        rebuilt = torch.stack([torch.block_diag(*blocks) for blocks in found.flatten(0, 1)])
        _close(rebuilt.reshape(full.shape), full, 1e-13)


def test_structures_agree_where_they_all_hold():
    """A diagonal cell, said to be diagonal, of blocks, and dense."""
    gru, x = _gru(0.5)
    runs = [
        newton_scan(Cell(gru.__call__, D, s), x)
        for s in (Diagonal(), Blocks(2), Blocks(4), Dense())
    ]
    for run in runs[1:]:
        assert run.converged
        _close(run.h, runs[0].h, 1e-12)


def test_a_cell_without_memory():
    x = _random(B, L, 3).requires_grad_()
    found = newton_scan(Cell(lambda h, x: torch.sin(x), size=3), x)
    assert found.converged
    assert found.iterations == 0
    torch.testing.assert_close(found.h, torch.sin(x))
    (gradient,) = torch.autograd.grad(found.h.sum(), x)
    torch.testing.assert_close(gradient, torch.cos(x))


def test_a_plain_function_takes_its_size_from_the_state():
    weight = _random(3, 3, scale=0.3)
    found = newton_scan(
        lambda h, x: torch.tanh(h @ weight + x), _random(B, L, 3), torch.zeros(B, 3).double()
    )
    assert found.converged


def test_inputs_may_be_tokens():
    table = _random(7, D, seed=2).requires_grad_()
    cell = Cell(lambda h, x: torch.tanh(0.3 * h + table[x]), size=D, structure=Diagonal())
    tokens = torch.randint(7, (B, L), generator=torch.Generator().manual_seed(0))
    found = newton_scan(cell, tokens, torch.zeros(B, D, dtype=torch.float64))
    assert found.converged
    found.h.sum().backward()
    assert table.grad.abs().min() > 0


# -- precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32_outside_of_autocast(dtype):
    cell = _Dense().float()
    x = _random(B, L, 2, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = newton_scan(cell, x)
    expected = newton_scan(cell, x.float())
    assert found.converged
    assert found.h.dtype == dtype
    assert found.last.dtype == torch.float32
    assert torch.equal(found.last, expected.last)


def test_float32_reaches_its_tolerance():
    cell, x = _gru(0.5, length=500)
    narrow = ParaGRUCell(cell.a.detach().float())
    found = newton_scan(narrow, x.float())
    assert found.converged
    assert found.iterations <= 4
    _close(found.h.double(), _loop(cell, x)[0].detach(), 1e-4)


def test_nothing_is_kept_for_a_gradient_that_nobody_asks_for():
    cell, x = _gru(0.5)
    with torch.no_grad():
        assert newton_scan(cell, x).h.grad_fn is None
    assert newton_scan(ParaGRUCell(cell.a.detach()), x).h.grad_fn is None


def test_no_sequences():
    cell, x = _gru(0.5)
    found = newton_scan(cell, x[:0])
    assert found.h.shape == (0, L, D)
    assert found.converged
