"""What ``ssd`` and ``linear_attention`` accept, what they refuse, in which types they answer."""

from __future__ import annotations

import math

import pytest
import torch

from statewise.ops import linear_attention, ssd, use_backend

B, L, H, P, G, N = 2, 5, 4, 3, 2, 6


def _tensors(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    shapes = {"x": (B, L, H, P), "dt": (B, L, H), "A": (H,), "B": (B, L, G, N), "C": (B, L, G, N)}
    return {name: torch.randn(shape, generator=g).to(dtype) for name, shape in shapes.items()}


def test_one_group_needs_no_axis():
    given = _tensors()
    given |= {"B": given["B"][:, :, :1], "C": given["C"][:, :, :1]}
    flat = {**given, "B": given["B"][:, :, 0], "C": given["C"][:, :, 0]}
    for one, other in zip(ssd(**given), ssd(**flat), strict=True):
        assert torch.equal(one, other)


def test_a_skip_per_head_is_repeated():
    given, D = _tensors(), torch.arange(4.0)
    plain, _ = ssd(**given)
    short, _ = ssd(**given, D=D)
    long, _ = ssd(**given, D=D[:, None].repeat(1, P))
    assert torch.equal(short, long)
    torch.testing.assert_close(short, plain + D[:, None] * given["x"])


def test_limits_clamp_the_step():
    given = _tensors()
    clamped = {**given, "dt": given["dt"].clamp(0.2, 0.5)}
    assert torch.equal(ssd(**given, dt_limit=(0.2, 0.5))[0], ssd(**clamped)[0])
    default = {**given, "dt": given["dt"].clamp_min(0)}
    assert torch.equal(ssd(**given)[0], ssd(**default)[0])
    free = (-math.inf, math.inf)
    assert not torch.equal(ssd(**given, dt_limit=free)[0], ssd(**default)[0])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("x", "directions", "out", "state"),
    [
        ("bfloat16", "bfloat16", "bfloat16", "float32"),
        ("float16", "float16", "float16", "float32"),
        ("bfloat16", "float32", "float32", "float32"),
        ("float32", "float64", "float64", "float64"),
    ],
)
def test_types_promote(backend, x, directions, out, state):
    given = _tensors()
    given["x"] = given["x"].to(getattr(torch, x)).requires_grad_()
    for name in ("B", "C"):
        given[name] = given[name].to(getattr(torch, directions)).requires_grad_()
    h0 = torch.zeros(B, H, P, N, dtype=torch.bfloat16, requires_grad=True)
    with use_backend(backend):
        y, last = ssd(**given, h0=h0)
        (y.sum() + last.sum()).backward()
    assert (y.dtype, last.dtype) == (getattr(torch, out), getattr(torch, state))
    assert given["x"].grad.dtype == given["x"].dtype
    assert given["B"].grad.dtype == given["B"].dtype
    assert h0.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("b", "h", "p", "n"), [(0, 2, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)])
def test_nothing_to_do(backend, b, h, p, n):
    x = torch.randn(b, L, h, p, requires_grad=True)
    direction = torch.randn(b, L, 1, n, requires_grad=True)
    with use_backend(backend):
        y, last = linear_attention(direction, direction, x)
        y.sum().backward()
    assert y.shape == x.shape
    assert last.shape == (b, h, p, n)
    assert y.abs().sum() == 0 or n
    assert x.grad.abs().sum() == 0 or n


def test_the_last_state_may_be_given_back():
    given = _tensors(torch.bfloat16)
    _, last = ssd(**given)
    again, _ = ssd(**given, h0=last)
    assert again.dtype is torch.bfloat16
    _, twice = ssd(**{n: t if n == "A" else torch.cat([t, t], 1) for n, t in given.items()})
    torch.testing.assert_close(ssd(**given, h0=last)[1], twice, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"x": torch.ones(2, 5, 3)},
            ValueError,
            r"ssd: x has shape \(2, 5, 3\); it must be \(B, L",
        ),
        (
            {"x": torch.ones(2, 0, 4, 3)},
            ValueError,
            r"\(2, 0, 4, 3\), no steps; L must be at least",
        ),
        ({"x": None}, TypeError, "ssd: x must be a tensor, and is a NoneType"),
        ({"x": torch.ones(B, L, H, P, dtype=torch.int64)}, TypeError, "ssd: x is torch.int64"),
        ({"dt": torch.ones(2, 5, 3)}, ValueError, r"dt has shape \(2, 5, 3\).*needs \(2, 5, 4\)"),
        ({"A": torch.ones(3)}, ValueError, r"A has shape \(3,\).*needs \(4,\)"),
        ({"A": torch.ones(4, dtype=torch.int32)}, TypeError, "A is torch.int32; it must be one of"),
        (
            {"B": torch.ones(2, 5)},
            ValueError,
            r"B has shape \(2, 5\); it must be \(B, L, G, N\) or",
        ),
        ({"C": torch.ones(2, 5, 2, 7)}, ValueError, r"C has shape \(2, 5, 2, 7\).*\(2, 5, 2, 6\)"),
        ({"D": torch.ones(3)}, ValueError, r"D has shape \(3,\).*needs \(4, 3\)"),
        ({"z": torch.ones(2, 5, 4, 1)}, ValueError, r"z has shape \(2, 5, 4, 1\).*\(2, 5, 4, 3\)"),
        ({"dt_bias": torch.ones(1)}, ValueError, r"dt_bias has shape \(1,\).*needs \(4,\)"),
        ({"h0": torch.ones(2, 4, 6, 3)}, ValueError, r"h0 has shape.*needs \(2, 4, 3, 6\)"),
        ({"h0": 0.0}, TypeError, "h0 must be a tensor, and is a float"),
        ({"reset": torch.ones(2, 5)}, TypeError, "reset is torch.float32; it must be bool"),
        ({"dt_limit": (1.0, 0.5)}, ValueError, r"dt_limit is \(1.0, 0.5\); the first must not"),
    ],
)
def test_errors_say_what_was_given_and_expected(change, error, message):
    with pytest.raises(error, match=message):
        ssd(**{**_tensors(), **change})


def test_groups_must_divide_heads():
    given = _tensors()
    given |= {name: torch.ones(B, L, 3, N) for name in ("B", "C")}
    with pytest.raises(ValueError, match="B has 3 groups, and x 4 heads; the number of groups"):
        ssd(**given)
    given |= {name: torch.ones(B, L + 1, G, N) for name in ("B", "C")}
    with pytest.raises(ValueError, match=r"B has shape \(2, 6, 2, 6\).*needs \(2, 5, 2, 6\)"):
        ssd(**given)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"v": torch.ones(2, 5, 3)}, ValueError, r"linear_attention: v has shape \(2, 5, 3\)"),
        ({"q": torch.ones(2, 5, 1, 6)}, ValueError, r"q has shape \(2, 5, 1, 6\); k of shape"),
        ({"k": [1.0]}, TypeError, "linear_attention: k must be a tensor, and is a list"),
        ({"log_decay": torch.ones(2, 5)}, ValueError, r"log_decay has shape \(2, 5\).*\(2, 5, 4\)"),
    ],
)
def test_errors_of_linear_attention(change, error, message):
    given = {"q": torch.ones(B, L, G, N), "k": torch.ones(B, L, G, N), "v": torch.ones(B, L, H, P)}
    with pytest.raises(error, match=message):
        linear_attention(**{**given, **change})


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("heads", [1, 5, 8])
def test_step_sizes_of_the_back_ends_agree(softplus, heads):
    """Values far out on both sides, at the limits, infinite, and more of them than a pattern."""
    raw = torch.linspace(-60, 60, 67 * heads, dtype=torch.float64).reshape(1, 67, heads).clone()
    raw[0, :3, 0] = torch.tensor([math.inf, 0.25, 30.0])
    bias = torch.linspace(0, 1, heads, dtype=torch.float64)
    rates = -1 - bias
    x, narrow = torch.ones(1, 67, heads, 1).double(), torch.ones(1, 67, 1).double()
    found = []
    for backend in ("reference", "cpu"):
        leaves = [t.clone().requires_grad_() for t in (raw, rates, bias)]
        dt, A, added = leaves
        with use_backend(backend):
            y, _ = ssd(x, dt, A, narrow, narrow, dt_bias=added, softplus=softplus,
                       dt_limit=(0.25, 30.0))  # fmt: skip
        found.append([y, *torch.autograd.grad(y.sum(), leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_no_limits_pass_what_is_not_a_number():
    given = _tensors()
    given["dt"][0, 2, 1] = math.nan
    y, _ = ssd(**given, softplus=True)
    assert y[0, 2:, 1].isnan().all()
    assert y[0, :2].isfinite().all()
    assert y[0, :, [0, 2, 3]].isfinite().all()
