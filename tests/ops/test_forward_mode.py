"""Forward-mode derivatives: no operator may drop a tangent without a word."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.autograd import forward_ad

from contracts.forward_suite import QUIET, hold_together, normal_like, pushed
from statewise import ops
from statewise.ops import library

pytestmark = QUIET


def draw(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, dtype=torch.float64, generator=generator)


def definite(*shape, seed=0):
    root = draw(*shape, shape[-1], seed=seed)
    return root @ root.mT + 0.1 * torch.eye(shape[-1], dtype=torch.float64)


def kalman(one):
    """The filter, or its likelihood, of two series of three steps."""
    y, m0, P0 = draw(2, 3, 2), draw(2, 3, seed=1), definite(2, 3, seed=2)
    F, H = draw(1, 1, 3, 3, seed=3, scale=0.4), draw(2, 3, 2, 3, seed=4)
    Q, R = definite(1, 3, 3, seed=5), definite(2, 1, 2, seed=6)
    c, d = draw(1, 3, 3, seed=7), draw(2, 1, 2, seed=8)
    seen = torch.tensor([[[True, True], [True, False], [False, False]]] * 2)

    def run(y, F, H, Q, R, m0, P0, c, d):
        found = one(y, F, H, Q, R, m0, P0, c=c, d=d, observed=seen)
        return found if isinstance(found, tuple) else (found,)

    return run, [y, F, H, Q, R, m0, P0, c, d]


def markov():
    P, start = draw(1, 4, 3, 3, seed=1), draw(2, 3, seed=2)
    tensors = [start.log_softmax(-1), P.log_softmax(-1), draw(2, 4, 3)]
    return lambda *x: ops.hidden_markov(*x, lengths=torch.tensor([4, 2])), tensors


def cauchy():
    nodes = torch.linspace(0.2, 3, 5, dtype=torch.float64)
    return lambda v, poles: (ops.cauchy_product(v, poles, nodes),), [
        draw(2, 3, 4, 2),
        draw(3, 4, 2, seed=1),
    ]


OTHERS = {
    "matvec": lambda: (lambda *x: (ops.matvec(*x),), [draw(2, 5), draw(3, 5, seed=1), draw(3)]),
    "kalman_filter": lambda: kalman(ops.kalman_filter),
    "kalman_likelihood": lambda: kalman(ops.kalman_likelihood),
    "hidden_markov": markov,
    "cauchy_product": cauchy,
    "vandermonde_kernel": lambda: (
        lambda a, c: (ops.vandermonde_kernel(a, c, 7),),
        [draw(3, 4, 2, scale=0.3), draw(3, 4, 2, seed=1)],
    ),
    "reciprocal_series": lambda: (
        lambda p: (ops.reciprocal_series(p, 9),),
        [draw(2, 4, scale=0.3)],
    ),
    "linear_attention": lambda: (
        lambda q, k, v, a: ops.linear_attention(q, k, v, -a.square()),
        [draw(2, 5, 2, 3), draw(2, 5, 2, 3, seed=1), draw(2, 5, 2, 4, seed=2), draw(2, 5, 2)],
    ),
}
"""Operators that are differentiable, beside those that inherit the op contract."""

WITHOUT = {"mamba_step", "particle_loop", "particle_step", "philox", "rts_smoother", "stack_step"}
"""Operators without derivatives."""

CONTRACT = {
    *("block_scan", "causal_conv1d", "diagonal_ssm", "fft_conv", "linear_scan", "para_gru"),
    *("para_lstm", "scan2d", "selective_scan", "ssd"),
}


def test_every_operator_is_looked_at():
    assert set(ops.operators()) <= CONTRACT | set(OTHERS) | WITHOUT


@pytest.mark.parametrize("name", OTHERS)
def test_right_by_the_reference_and_refused_by_kernels(name):
    hold_together(*OTHERS[name](), "cpu")


A, B = draw(2, scale=0.3), draw(1, 3, 2, seed=1)


def scan(b):
    return ops.linear_scan(A, b)[0]


def test_the_reference_that_runs_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr(library, "_told", set())
    caplog.set_level(logging.WARNING, "statewise")
    for _ in range(2):
        pushed(lambda b: (scan(b),), [B], [B])
    assert [r.getMessage() for r in caplog.records] == [
        "linear_scan: the reference back end runs, slowly, because a tensor has a forward-mode "
        "tangent, which compiled kernels do not carry"
    ]


def test_tensors_without_tangents_stay_with_the_kernels(monkeypatch):
    from statewise.ops.linear_scan import reference

    monkeypatch.setattr(reference, "forward", None)
    with forward_ad.dual_level():
        assert torch.equal(scan(B), scan(B.clone().requires_grad_()))


def test_transforms_of_torch():
    slope = torch.func.jvp(scan, (B,), (B,))[1]
    torch.testing.assert_close(slope, scan(B))
    jacobian = torch.func.jacfwd(scan)(B)
    expected = torch.autograd.functional.jacobian(scan, B)
    torch.testing.assert_close(jacobian, expected)
    hessian = torch.func.hessian(lambda b: scan(b).square().sum() / 2)(B)
    expected = torch.einsum("abcdef,abcghi->defghi", jacobian, jacobian)
    torch.testing.assert_close(hessian, expected)


def test_a_tangent_of_an_outer_transform_is_seen_inside():
    def product(b):
        return torch.func.jvp(lambda s: scan(b) * s, (B,), (torch.ones_like(B),))[1]

    torch.testing.assert_close(torch.func.jvp(product, (B,), (B,))[1], scan(B))


def test_a_gradient_with_a_tangent():
    """Forward over reverse, where the forward pass was recorded before there were tangents."""
    b, weight = B.clone().requires_grad_(), draw(1, 3, 2, seed=3)
    h = scan(b)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones_like(h), weight)
        (gradient,) = torch.autograd.grad(h, b, dual)
        found = forward_ad.unpack_dual(gradient).tangent
    (expected,) = torch.autograd.grad(scan(b), b, weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("inside", [True, False])
def test_a_compiled_graph_refuses_tangents_and_nothing_else(inside):
    torch.compiler.reset()
    function = torch.compile(scan, fullgraph=True, backend="aot_eager")
    if not inside:
        function(B)
    with forward_ad.dual_level():
        torch.testing.assert_close(function(B), scan(B))
        with pytest.raises(RuntimeError, match="linear_scan was given a tensor with a forward"):
            function(forward_ad.make_dual(B, B))


def test_a_compiled_derivative_is_refused():
    def slope(b):
        return torch.func.jvp(scan, (b,), (b,))[1]

    torch.compiler.reset()
    with pytest.raises(RuntimeError, match="forward-mode tangent"):
        torch.compile(slope, fullgraph=True, backend="aot_eager")(B)


def test_past_the_door_tangents_are_refused():
    call = torch.ops.statewise.linear_scan.default
    with (
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="where the reference back end carries"),
    ):
        call(A, forward_ad.make_dual(B, B), None, None, False)


def mamba():
    shapes = [(12, 5), None, (6, 3), None, (2 + 8, 6), (6, 2), (6,), (6, 4), (6,), (5, 6), None]
    return ops.MambaWeights(*(None if s is None else draw(*s) for s in shapes))


def formulas():
    """x' = c x + z, log p(y | x) = −(y − x)²."""
    lines = (("c", (0,)), ("x", (0,)), ("mul", (0, 1)), ("z", (0,)), ("add", (2, 3)))
    move = ops.Formula(ops.Program(lines, (4,)), torch.ones(1, 1, 1, dtype=torch.float64))
    lines = (("y", (0,)), ("x", (0,)), ("sub", (0, 1)), ("mul", (2, 2)), ("neg", (3,)))
    none = torch.zeros(1, 1, 0, dtype=torch.float64)
    return move, ops.Formula(ops.Program(lines, (4,)), none)


def weigh(x):
    steps = ops.particle_steps(2, 1, 4)
    steps.weigh(0, x)
    return steps.log_likelihoods


def weigh_normal(x):
    y = torch.zeros(1, 1, dtype=torch.float64)
    one = torch.ones(1, 1, 1, dtype=torch.float64).expand(1, 4, 1)
    return ops.particle_steps(2, 1, 4).weigh_normal(0, y, one, x * one)


REFUSED = {
    "mamba_step": (lambda u: ops.mamba_step(u, draw(2, 2, 6), draw(2, 6, 4), mamba()), (2, 5)),
    "stack_step": (
        lambda x: ops.stack_step(
            x, [(draw(2, 2, 6), draw(2, 6, 4))], ops.BlockStack([draw(5)], [mamba()])
        ),
        (2, 5),
    ),
    "rts_smoother": (
        lambda m: ops.rts_smoother(m, definite(2, 4, 3), draw(1, 1, 3, 3), definite(1, 1, 3)),
        (2, 4, 3),
    ),
    "hidden_markov_smoother": (
        lambda f: ops.hidden_markov_smoother(f, draw(2, 3), draw(1, 1, 3, 3)),
        (2, 4, 3),
    ),
    "particle_loop": (lambda x: ops.particle_loop(x, draw(1, 3, 1), *formulas()), (1, 4, 1)),
    "particle_formula": (lambda x: ops.particle_formula(formulas()[0], x), (1, 4, 1)),
    "particle_step": (weigh, (1, 4)),
    "particle_step, one scale": (weigh_normal, (1,)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operators_without_derivatives_refuse(name):
    function, shape = REFUSED[name]
    x = draw(*shape, seed=9).abs()
    with forward_ad.dual_level():
        function(x)
        with pytest.raises(ValueError, match=f"{name.split(',')[0]}.* has no derivative"):
            function(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("structure", [ops.Diagonal(), ops.Dense()])
@pytest.mark.parametrize("reverse", [False, True])
def test_newton_scan(structure, reverse):
    """The tangent of the answer is that of the loop, for inputs, state and parameters."""
    weight, x, h0 = draw(3, scale=0.3), draw(2, 6, 3, seed=1), draw(2, 3, seed=2)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[0, 3] = True

    def cell(weight):
        mixed = weight if isinstance(structure, ops.Diagonal) else weight.diag() + 0.1
        return lambda h, u: torch.tanh((h * mixed if mixed.dim() == 1 else h @ mixed) + u)

    def newton(weight, x, h0):
        f = ops.Cell(cell(weight), size=3, structure=structure)
        found = ops.newton_scan(f, x, h0, reset=reset, reverse=reverse)
        return found.h, found.last

    def loop(weight, x, h0):
        h, states = h0, [h0] * 6
        for t in reversed(range(6)) if reverse else range(6):
            h = cell(weight)(torch.where(reset[:, t, None], 0.0, h), x[:, t])
            states[t] = h
        return torch.stack(states, 1), h

    given = [weight, x, h0]
    along = normal_like(given, 4)
    for one in range(4):
        chosen = [v if one in (k, 3) else torch.zeros_like(v) for k, v in enumerate(along)]
        for found, expected in zip(
            pushed(newton, given, chosen), pushed(loop, given, chosen), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_newton_scan_refuses_an_answer_that_has_not_converged():
    f = ops.Cell(lambda h, x: 3 * torch.sin(3 * h) + x, size=1, structure=ops.Diagonal())
    x = draw(1, 40, 1)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="did not converge"):
        ops.newton_scan(f, forward_ad.make_dual(x, x), iterations=1)
