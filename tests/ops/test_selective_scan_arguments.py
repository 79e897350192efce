"""What the selective scan accepts, what it refuses, and in which types it answers."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from statewise.ops import selective_scan, use_backend

B, L, D, N = 2, 70, 12, 3
SHAPES = {"shared": (B, L, N), "grouped": (B, L, 4, N), "pairs": (B, L, 6, N), "constant": (D, N)}


def _draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _case(rows, columns, kind=torch.float64, row_kind=None):
    A = -_draw(D, N).abs()
    A = torch.complex(A, _draw(D, N, seed=9)) if kind.is_complex else A
    row_kind = row_kind or kind
    return {
        "u": _draw(B, L, D, seed=1),
        "dt": _draw(B, L, D, seed=2).abs(),
        "A": A,
        "B": _draw(*SHAPES[rows], seed=3, dtype=row_kind),
        "C": _draw(*SHAPES[columns], seed=4, dtype=row_kind),
    }


def _run(backend, inputs, weights, **options):
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    with use_backend(backend):
        y, last = selective_scan(**leaves, **options)
    reading = (y * weights).sum() + last.abs().square().sum()
    return [y, last, *torch.autograd.grad(reading, list(leaves.values()))]


ROWS = [("shared", "shared"), ("grouped", "constant"), ("constant", "grouped")]
ROWS += [("grouped", "pairs"), ("shared", "pairs"), ("constant", "constant")]


@pytest.mark.parametrize(("rows", "columns"), ROWS)
@pytest.mark.parametrize("rule", ["euler", "zoh"])
@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_every_variant_agrees_with_the_reference(rows, columns, rule, kind):
    inputs, weights = _case(rows, columns, kind), _draw(B, L, D, seed=5)
    extras = {
        "D": _draw(D, seed=6),
        "z": _draw(B, L, D, seed=7),
        "dt_bias": _draw(D, seed=8),
        "h0": _draw(B, D, N, seed=10, dtype=kind),
    }
    for k, softplus in product(range(5), (False, True)):
        some = dict(list(extras.items())[k:] if softplus else list(extras.items())[:k])
        options = {"rule": rule, "softplus": softplus}
        expected = _run("reference", inputs | some, weights, **options)
        for x, y in zip(_run("cpu", inputs | some, weights, **options), expected, strict=True):
            assert (x - y).abs().max() <= 1e-12 * y.abs().max()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_groups_are_channels_apart(backend):
    inputs = _case("grouped", "pairs")
    with use_backend(backend):
        y, last = selective_scan(**inputs)
        for d in range(D):
            one = {n: inputs[n][..., d : d + 1] for n in ("u", "dt")}
            one |= {"A": inputs["A"][d : d + 1]}
            one |= {"B": inputs["B"][:, :, d * 4 // D], "C": inputs["C"][:, :, d * 6 // D]}
            alone, state = selective_scan(**one)
            torch.testing.assert_close(alone[..., 0], y[..., d], rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(state[:, 0], last[:, d], rtol=1e-12, atol=1e-14)


def test_complex_states_come_in_conjugate_pairs():
    """2 Re Σ over N states is the real sum over these and their conjugates."""
    inputs = _case("shared", "shared", torch.complex128)
    y, _ = selective_scan(**inputs)
    both = {n: torch.cat([inputs[n], inputs[n].conj()], -1) for n in ("A", "B", "C")}
    twice, _ = selective_scan(**(inputs | both))
    torch.testing.assert_close(twice, 2 * y, rtol=1e-12, atol=1e-12)


def test_real_rows_serve_complex_states():
    inputs = _case("shared", "constant", torch.complex128, torch.float64)
    full = {n: inputs[n].to(torch.complex128) for n in ("B", "C")}
    weights = _draw(B, L, D, seed=5)
    for x, y in zip(_run("cpu", inputs, weights), _run("cpu", inputs | full, weights), strict=True):
        torch.testing.assert_close(x, y.real if y.is_complex() and not x.is_complex() else y)


@pytest.mark.parametrize(
    ("u", "A", "row", "h0", "out", "state"),
    [
        ("float32", "float32", "float32", None, "float32", "float32"),
        ("bfloat16", "float32", "bfloat16", "float32", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "bfloat16", None, "bfloat16", "float32"),
        ("bfloat16", "float32", "float16", None, "float32", "float32"),
        ("float32", "float64", "float32", None, "float64", "float64"),
        ("float32", "float32", "float32", "float64", "float64", "float64"),
        ("bfloat16", "complex64", "bfloat16", None, "bfloat16", "complex64"),
        ("float32", "complex64", "complex64", "float32", "float32", "complex64"),
        ("float32", "complex64", "complex128", None, "float64", "complex128"),
    ],
)
def test_types_promote(u, A, row, h0, out, state):
    def make(name, *shape):
        return torch.ones(shape).to(getattr(torch, name))

    start = h0 and make(h0, B, D, N)
    rows = make(row, B, 2, N)
    y, last = selective_scan(
        make(u, B, 2, D), make(u, B, 2, D), 0 * make(A, D, N), rows, rows, h0=start
    )
    assert y.dtype == getattr(torch, out)
    assert last.dtype == getattr(torch, state)
    assert last.real.unique().tolist() == [2 if h0 is None else 3]


def test_gradients_have_the_types_of_the_inputs():
    inputs = _case("shared", "constant")
    types = {"u": torch.bfloat16, "B": torch.float16}
    inputs = {n: x.to(types.get(n, torch.float32)).requires_grad_() for n, x in inputs.items()}
    y, _ = selective_scan(**inputs)
    y.float().sum().backward()
    assert all(x.grad.dtype == x.dtype for x in inputs.values())


def test_only_gradients_that_are_wanted():
    inputs = _case("shared", "shared")
    weights = _draw(B, L, D, seed=5)
    everything = dict(zip(inputs, _run("cpu", inputs, weights)[2:], strict=True))
    for name in inputs:
        leaf = inputs[name].clone().requires_grad_()
        y, last = selective_scan(**(inputs | {name: leaf}))
        reading = (y * weights).sum() + last.square().sum()
        (gradient,) = torch.autograd.grad(reading, leaf)
        assert torch.equal(gradient, everything[name])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
def test_nothing_to_do(backend, batch, channels):
    u = torch.randn(batch, 4, channels, requires_grad=True)
    A = torch.randn(channels, 2, requires_grad=True)
    rows = torch.randn(batch, 4, 2, requires_grad=True)
    with use_backend(backend):
        y, last = selective_scan(u, u, A, rows, rows)
        (y.sum() + last.sum()).backward()
    assert y.shape == u.shape
    assert last.shape == (batch, channels, 2)
    assert not A.grad.any()
    assert not rows.grad.any()


def _given(**changes):
    given = {
        "u": torch.ones(2, 5, 6),
        "dt": torch.ones(2, 5, 6),
        "A": torch.ones(6, 3),
        "B": torch.ones(2, 5, 3),
        "C": torch.ones(2, 5, 3),
    }
    return given | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"u": torch.ones(2, 5)}, ValueError, r"u has shape \(2, 5\); it must be \(B, L, D\)"),
        ({"u": torch.ones(2, 0, 6)}, ValueError, r"\(2, 0, 6\), no steps; L must be at least 1"),
        ({"dt": torch.ones(2, 5, 1)}, ValueError, r"dt has shape \(2, 5, 1\).*needs \(2, 5, 6\)"),
        ({"A": torch.ones(5, 3)}, ValueError, r"A has shape \(5, 3\).*needs \(6, N\)"),
        ({"A": torch.ones(6, 0)}, ValueError, "N at least 1"),
        ({"B": torch.ones(2, 5, 4)}, ValueError, r"B has shape \(2, 5, 4\).*\(2, 5, 3\).*\(6, 3\)"),
        ({"C": torch.ones(3, 6)}, ValueError, r"C has shape \(3, 6\)"),
        ({"B": torch.ones(2, 5, 4, 3)}, ValueError, "4 groups; .* divide the 6 channels"),
        ({"C": torch.ones(2, 5, 0, 3)}, ValueError, "0 groups"),
        ({"D": torch.ones(1)}, ValueError, r"D has shape \(1,\).*needs \(6,\)"),
        ({"z": torch.ones(2, 5)}, ValueError, r"z has shape \(2, 5\)"),
        ({"dt_bias": torch.ones(5)}, ValueError, r"dt_bias has shape \(5,\)"),
        ({"h0": torch.ones(2, 3, 6)}, ValueError, r"h0 has shape \(2, 3, 6\).*needs \(2, 6, 3\)"),
        ({"rule": "bilinear"}, ValueError, "rule is 'bilinear'; it must be one of euler, zoh"),
        ({"u": [1.0]}, TypeError, "u must be a tensor, and is a list"),
        ({"z": 1.0}, TypeError, "z must be a tensor, and is a float"),
        ({"dt": torch.ones(2, 5, 6).long()}, TypeError, "dt is torch.int64"),
        ({"D": torch.ones(6) * 1j}, TypeError, "D is torch.complex64; it must be one of"),
        ({"B": torch.ones(2, 5, 3) * 1j}, TypeError, "B is torch.complex64 and A is torch.float32"),
        ({"reset": torch.ones(2, 5)}, TypeError, "reset is torch.float32; it must be bool"),
        ({"reset": torch.ones(5, 2).bool()}, ValueError, r"reset has shape \(5, 2\).*\(2, 5\)"),
    ],
)
def test_errors_say_what_was_given_and_expected(changes, error, message):
    with pytest.raises(error, match=message):
        selective_scan(**_given(**changes))


@pytest.mark.parametrize("zoh", [False, True])
def test_tiles_of_the_backward_pass_divide_a_chunk(zoh):
    """Else a tile would run into the next chunk, and its states out of their buffer."""
    pytest.importorskip("triton")
    from statewise.ops.selective_scan._shapes import CHUNK, GPU_CHUNK
    from statewise.ops.selective_scan.gpu import plan_backward

    for per_group, states, words in product((1, 5, 16, 33, 1024), range(1, 40), (1, 2, 4)):
        steps = plan_backward(2, 1000, 1, per_group, states, words, zoh).steps
        assert CHUNK % steps == 0 == GPU_CHUNK % steps, (per_group, states, words)
