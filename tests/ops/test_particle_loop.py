"""The compiled particle filter beside the loop of tensors, given the same formulas and numbers."""

from __future__ import annotations

import math
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise import ops
from statewise.ops import Formula, Program, particle_formula, particle_loop
from statewise.ops.particle_loop.program import OPERATIONS
from statewise.ops.particle_step.reference import SCHEMES

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def constants(*values):
    return torch.tensor([[values]], dtype=torch.float64)


def walk(n, *, steps=1, rows=1, inputs=False):
    """x_d' = c_d x_d + c_{n+d} z_d (+ u_0), and y_d normal about x_d with the scale c_d."""
    lines, outputs = [], []
    for d in range(n):
        at = len(lines)
        lines += [("x", (d,)), ("c", (d,)), ("mul", (at, at + 1)), ("z", (d,)), ("c", (n + d,))]
        lines += [("mul", (at + 3, at + 4)), ("add", (at + 2, at + 5))]
        if inputs:
            lines += [("u", (0,)), ("add", (at + 6, at + 7))]
        outputs.append(len(lines) - 1)
    spread = 0.1 * normal(steps, rows, 2 * n, seed=7)
    move = Formula(Program(tuple(lines), tuple(outputs)), 0.7 + spread)
    lines, outputs = [], []
    for d in range(n):
        at = len(lines)
        lines += [("y", (d,)), ("x", (d,)), ("sub", (at, at + 1)), ("c", (d,))]
        lines += [("div", (at + 2, at + 3)), ("mul", (at + 4, at + 4)), ("c", (n,))]
        lines += [("mul", (at + 5, at + 6)), ("log", (at + 3,)), ("sub", (at + 7, at + 8))]
        outputs.append(len(lines) - 1)
    weigh = torch.cat([0.5 + spread[..., :n].abs(), torch.full((steps, rows, 1), -0.5)], -1)
    return move, Formula(Program(tuple(lines), tuple(outputs)), weigh)


def same(found, expected, bound=1e-10):
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=bound, atol=bound)


def both(*args, bound=1e-10, **options):
    found = particle_loop(*args, **options)
    with ops.use_backend("reference"):
        same(found, particle_loop(*args, **options), bound)
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.1])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 37, 1), (2, 300, 2), (2, 70, 3), (2, 33, 6)])
def test_back_ends_agree(scheme, threshold, shape):
    B, N, n = shape
    x, y = normal(B, N, n), normal(B, 9, n, seed=1)
    options = {"scheme": scheme, "threshold": threshold, "key": 5}
    found = both(x, y, *walk(n), **options)
    if threshold == 0:
        assert (found.ancestors == torch.arange(N)).all()
    both(x, y, *walk(n), **options, history=False, covariances=True)


@pytest.mark.parametrize("history", [False, True])
def test_constants_of_steps_and_rows_inputs_gaps_and_ends(history):
    B, N, n, T = 3, 40, 2, 80
    y, u = normal(B, T, n, seed=1), normal(B, T, 2, seed=2)
    seen = torch.rand(B, T, n, generator=torch.Generator().manual_seed(3)) < 0.7
    seen[:, 5] = False
    ends = torch.tensor([79, 0, 40])
    for steps, rows in ((1, B), (T, 1), (T, B)):
        model = walk(n, steps=steps, rows=rows, inputs=True)
        given = {"seen": seen, "inputs": u, "ends": ends, "history": history}
        both(normal(B, N, n), y, *model, **given)


def test_states_in_single_precision_are_rounded_only_when_kept():
    x, y = normal(2, 50, 1).float(), normal(2, 20, 1)
    found = both(x, y, *walk(1), bound=1e-6)
    wide = particle_loop(x.double(), y, *walk(1))
    assert found.particles.dtype == torch.float32
    assert torch.equal(found.particles, wide.particles.float())


def test_an_impossible_output_gives_minus_infinity_and_even_weights():
    move, _ = walk(1)
    program = Program(
        (("x", (0,)), ("y", (0,)), ("lt", (0, 1)), ("c", (0,)), ("c", (1,)), ("where", (2, 3, 4))),
        (5,),
    )
    weigh = Formula(program, constants(-math.inf, 0.0))
    y = torch.tensor([[[-9.0], [99.0], [-9.0]]], dtype=torch.float64)
    found = both(normal(1, 20, 1), y, move, weigh)
    assert found.log_likelihoods[1, 0] == -math.inf
    assert found.ess[1, 0] == pytest.approx(20)
    assert not found.log_weights.isnan().any()


def test_numbers_depend_on_the_key_alone():
    x, y = normal(4, 60, 1), normal(4, 200, 1, seed=1)
    one = particle_loop(x, y, *walk(1), key=1)
    same(one, particle_loop(x, y, *walk(1), key=1), 0)
    assert not torch.equal(one.particles, particle_loop(x, y, *walk(1), key=2).particles)
    # Series do not share numbers.
    alike = particle_loop(x[:1].expand(4, -1, -1), y[:1].expand(4, -1, -1), *walk(1))
    assert not torch.equal(alike.particles[:, 0], alike.particles[:, 1])


def test_threads_give_the_same(monkeypatch):
    x, y = normal(6, 500, 2), normal(6, 100, 2, seed=1)
    one = particle_loop(x, y, *walk(2))
    monkeypatch.setenv("STATEWISE_THREADS", "3")
    same(one, particle_loop(x, y, *walk(2)), 0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: particle_loop(x, y, *walk(2)), range(4)):
            same(one, found, 0)


def _in_child(x, y, out):
    out.put(particle_loop(x, y, *walk(1)).log_likelihoods.sum().item())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_filters():
    x, y = normal(1, 50, 1), normal(1, 30, 1, seed=1)
    expected = particle_loop(x, y, *walk(1)).log_likelihoods.sum().item()
    context = multiprocessing.get_context("fork")
    out = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(x, y, out))
    child.start()
    found = out.get()
    child.join()
    assert found == expected


ALONE = [k for k in OPERATIONS if k not in ("where", "add", "sub", "mul", "div", "pow")]
ALONE = [k for k in ALONE if k not in ("maximum", "minimum", "lt", "le", "eq")]
PAIRS = ["add", "add", "mul", "mul", "sub", "div", "maximum", "minimum", "lt", "le", "eq", "pow"]


@st.composite
def programs(draw):
    code = [("x", (0,)), ("x", (1,)), ("z", (1,)), ("y", (0,)), ("u", (0,)), ("c", (0,))]
    code += [("c", (1,)), ("c", (2,))]
    for _ in range(draw(st.integers(1, 25))):
        before = st.integers(0, len(code) - 1)
        kind = draw(st.integers(0, 6))
        if kind < 3:
            code.append((draw(st.sampled_from(PAIRS)), (draw(before), draw(before))))
        elif kind < 6:
            code.append((draw(st.sampled_from(ALONE)), (draw(before),)))
        else:
            code.append(("where", (draw(before), draw(before), draw(before))))
    outputs = draw(st.lists(st.integers(0, len(code) - 1), min_size=1, max_size=4))
    return Program(tuple(code), tuple(outputs))


@settings(max_examples=250, deadline=None)
@given(programs(), st.integers(0, 1000), st.sampled_from([1, 5, 256, 300]))
def test_random_formulas(program, seed, N):
    """Values agree wherever the reference is finite and rounding is not blown up."""
    x, z = normal(2, N, 2, seed=seed), normal(2, N, 2, seed=seed + 1)
    given = {"y": normal(2, 1, seed=seed + 2), "u": normal(2, 1, seed=seed + 3)}
    c = normal(1, 2, 3, seed=seed + 4)
    formula = Formula(program, c)
    found = particle_formula(formula, x, z=z, **given)
    with ops.use_backend("reference"):
        expected = particle_formula(formula, x, z=z, **given)
        # How much a change of the last digits of what goes in changes what comes out.
        moved = [
            particle_formula(
                Formula(program, c * (1 + e)),
                x * (1 - e),
                z=z * (1 + 0.7 * e),
                **{k: v * (1 - 0.6 * e) for k, v in given.items()},
            )
            for e in (1e-9, -1e-9)
        ]
    spread = torch.stack([(one - expected).abs() for one in moved]).amax(0)
    ok = expected.isfinite() & spread.isfinite() & (expected.abs() < 1e6)
    ok &= spread < 1e-6 * (1 + expected.abs())
    # Where an argument of a comparison is on the edge, one side is as good as the other.
    bound = 1e-12 * (1 + expected.abs()) + 1e-3 * spread
    assert (((found - expected).abs() <= bound) | ~ok).float().mean() > 0.99


@pytest.mark.parametrize("name", ALONE)
def test_functions_are_those_of_torch(name):
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([0.0, 1e-9, -1e-5, 0.3999, 0.4001])])
    x = x.double().reshape(1, -1, 1)
    found = particle_formula(Formula(Program((("x", (0,)), (name, (0,))), (1,)), constants(0.0)), x)
    expected = OPERATIONS[name](x)
    ok = expected.isfinite()
    assert torch.equal(found.isnan(), expected.isnan())
    torch.testing.assert_close(found[ok], expected[ok], rtol=1e-14, atol=1e-15)


def test_registers_are_used_again():
    """A long sum of products takes few registers and multiply-adds."""
    from statewise.ops.particle_loop import _machine
    from statewise.ops.particle_loop._lower import lower

    code = [("x", (0,)), ("z", (0,)), ("mul", (0, 1))]
    for _ in range(50):
        code += [("mul", (len(code) - 1, 1)), ("add", (len(code), 0))]
    found = lower(Program(tuple(code), (len(code) - 1,)))
    assert found.room < 6 * (_machine.CHUNK + _machine.APART)
    assert (found.varying[:, 0] == _machine.MADD).sum() == 50


def test_arguments_that_do_not_fit():
    move, weigh = walk(1)
    x, y = normal(2, 5, 1), normal(2, 4, 1)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 1\) and y \(3, 4, 1\)"):
        particle_loop(x, normal(3, 4, 1), move, weigh)
    with pytest.raises(ValueError, match="scheme is 'none'"):
        particle_loop(x, y, move, weigh, scheme="none")
    with pytest.raises(ValueError, match="key is -1"):
        particle_loop(x, y, move, weigh, key=-1)
    with pytest.raises(ValueError, match="covariances go with history=False"):
        particle_loop(x, y, move, weigh, covariances=True)
    with pytest.raises(ValueError, match="move gives 1 numbers; x has 2"):
        particle_loop(normal(2, 5, 2), y, move, weigh)
    with pytest.raises(ValueError, match="the formula reads 1 entries of y, which has 0"):
        particle_formula(weigh, x)
    with pytest.raises(ValueError, match=r"constants of move have shape \(1, 3, 2\)"):
        particle_loop(x, y, Formula(move.program, normal(1, 3, 2)), weigh)
    with pytest.raises(ValueError, match=r"seen, ends and inputs have shapes \(2, 4, 2\)"):
        particle_loop(x, y, move, weigh, seen=torch.ones(2, 4, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="'nothing', which is no operation"):
        Program((("nothing", (0,)),), (0,))
    with pytest.raises(ValueError, match="line 1 of a program takes"):
        Program((("x", (0,)), ("neg", (1,))), (0,))
    with pytest.raises(ValueError, match="a program of 1 lines gives lines"):
        Program((("x", (0,)),), (1,))
