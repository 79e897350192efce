"""What the linear scan accepts, what it refuses, and in which types it answers."""

from __future__ import annotations

import pytest
import torch

from statewise.ops import linear_scan, linear_scan_pairs, use_backend

B, L, D = 2, 5, 3


def _b(dtype=torch.float64, pairs=False):
    shape = (B, L, D, 2) if pairs else (B, L, D)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(
    "shape", [(), (1,), (D,), (1, D), (L, 1), (L, D), (1, 1, D), (B, 1, D), (1, L, D), (B, L, 1)]
)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_any_broadcast_of_a(shape, backend):
    b = _b()
    a = torch.rand(shape, dtype=torch.float64).requires_grad_()
    full = a.detach().expand(B, L, D).clone().requires_grad_()
    with use_backend(backend):
        outputs = [linear_scan(x, b)[0] for x in (a, full)]
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-14)
        for h in outputs:
            h.square().sum().backward()
    torch.testing.assert_close(a.grad, full.grad.sum_to_size(shape), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (D, 2), (L, D, 2), (B, 1, 1, 2), (B, L, D, 2)])
def test_any_broadcast_of_pairs(shape):
    b = _b(pairs=True)
    a = torch.rand(shape, dtype=torch.float64).requires_grad_()
    full = a.detach().expand(B, L, D, 2).clone().requires_grad_()
    outputs = [linear_scan_pairs(x, b)[0] for x in (a, full)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-14)
    for h in outputs:
        h.square().sum().backward()
    torch.testing.assert_close(a.grad, full.grad.sum_to_size(shape), rtol=1e-12, atol=1e-13)


def test_a_may_be_a_number():
    b = torch.ones(1, 4, 1)
    assert linear_scan(0.5, b)[0].flatten().tolist() == [1.0, 1.5, 1.75, 1.875]
    h, last = linear_scan(1j, b)
    assert h.dtype == torch.complex64
    assert last.item() == 0j
    assert linear_scan(2, b)[1].item() == 15.0


def test_a_number_in_a_tensor_does_not_change_the_precision():
    for b_type, a_type, out in [
        (torch.float32, torch.float64, torch.float32),
        (torch.float32, torch.complex128, torch.complex64),
        (torch.float64, torch.complex64, torch.complex128),
        (torch.complex64, torch.float64, torch.complex64),
    ]:
        h, _ = linear_scan(torch.tensor(0.5, dtype=a_type), torch.ones(1, 2, 1, dtype=b_type))
        assert h.dtype == out
        assert h.flatten().tolist() == [1.0, 1.5]


def test_reverse_runs_from_the_end():
    b = torch.tensor([[[1.0], [2.0], [4.0]]])
    h, last = linear_scan(0.5, b, torch.tensor([[8.0]]), reverse=True)
    assert h.flatten().tolist() == [4.0, 6.0, 8.0]
    assert last.item() == 4.0


def test_reset_zeroes_the_state_before_the_step():
    b = torch.ones(1, 3, 1)
    reset = torch.tensor([[True, False, True]])
    h, _ = linear_scan(0.5, b, torch.full((1, 1), 100.0), reset=reset)
    assert h.flatten().tolist() == [1.0, 1.5, 1.0]
    h, _ = linear_scan(0.5, b, torch.full((1, 1), 100.0), reset=reset, reverse=True)
    assert h.flatten().tolist() == [1.0, 1.5, 1.0]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_complex_agrees_with_pairs(backend):
    a, b = torch.view_as_complex(_b(pairs=True))[0, 0] / 3, torch.view_as_complex(_b(pairs=True))
    with use_backend(backend):
        h, last = linear_scan(a, b)
        pairs, last_pairs = linear_scan_pairs(torch.view_as_real(a), torch.view_as_real(b))
        assert torch.equal(torch.view_as_real(h), pairs)
        assert torch.equal(torch.view_as_real(last), last_pairs)
        lazy, _ = linear_scan(a.conj(), b.conj())
    torch.testing.assert_close(lazy, h.conj().resolve_conj(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("a", "b", "h0", "out", "state"),
    [
        ("float32", "float64", None, "float64", "float64"),
        ("bfloat16", "float32", None, "float32", "float32"),
        ("bfloat16", "bfloat16", None, "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "float32", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "bfloat16", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "float64", "float64", "float64"),
        ("float16", "bfloat16", None, "float32", "float32"),
        ("float32", "float32", "float64", "float64", "float64"),
        ("float32", "float32", "bfloat16", "float32", "float32"),
        ("float32", "complex64", None, "complex64", "complex64"),
        ("complex64", "float32", "float32", "complex64", "complex64"),
        ("float32", "float32", "complex64", "complex64", "complex64"),
        ("float32", "bfloat16", "complex64", "complex64", "complex64"),
        ("float64", "complex64", None, "complex128", "complex128"),
        ("int64", "float32", None, "float32", "float32"),
    ],
)
def test_types_promote(a, b, h0, out, state):
    def make(name, shape):
        return torch.ones(shape).to(getattr(torch, name))

    h, last = linear_scan(make(a, (D,)), make(b, (B, L, D)), h0 and make(h0, (B, D)))
    assert h.dtype == getattr(torch, out)
    assert last.dtype == getattr(torch, state)
    assert last.real.unique().tolist() == [L if h0 is None else L + 1]


def test_gradients_have_the_types_of_the_inputs():
    a = torch.rand(D, dtype=torch.float64, requires_grad=True)
    b = torch.randn(B, L, D, dtype=torch.float32, requires_grad=True)
    h0 = torch.randn(B, D, dtype=torch.bfloat16, requires_grad=True)
    h, _ = linear_scan(a, b, h0)
    h.sum().backward()
    assert [x.grad.dtype for x in (a, b, h0)] == [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
def test_nothing_to_do(backend, batch, channels):
    a = torch.rand(channels, requires_grad=True)
    b = torch.randn(batch, L, channels, requires_grad=True)
    with use_backend(backend):
        h, last = linear_scan(a, b)
        h.sum().backward()
    assert h.shape == b.shape
    assert last.shape == (batch, channels)
    assert a.grad.tolist() == [0.0] * channels


def test_states_may_be_infinite_or_nan_like_the_reference():
    b = torch.tensor([[[1.0], [float("inf")], [1.0], [float("nan")], [1.0]]])
    found = []
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            found.append(linear_scan(torch.tensor([-0.0]), b)[0])
    torch.testing.assert_close(*found, equal_nan=True, rtol=0, atol=0)
    assert found[0].flatten().isnan().tolist() == [False, False, True, True, True]


def test_long_sum_keeps_its_digits():
    """The gradient of a constant coefficient sums L terms; float32 alone would lose three."""
    length = 200_000
    a = torch.zeros(8, requires_grad=True)
    b = torch.full((1, length, 8), 0.1)
    h, _ = linear_scan(a, b)
    h.sum().backward()
    expected = float(b[0, 0, 0]) * (length - 1)
    assert abs(a.grad[0].item() / expected - 1) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0.5, torch.ones(3)), {}, ValueError, r"b has shape \(3,\); it must be \(B, L, D\)"),
        ((0.5, torch.ones(2, 0, 3)), {}, ValueError, r"\(2, 0, 3\), no steps; L must be at"),
        ((torch.ones(4), torch.ones(2, 5, 3)), {}, ValueError, r"a has shape \(4,\).*\(2, 5, 3\)"),
        ((torch.ones(7, 5, 3), torch.ones(1, 5, 3)), {}, ValueError, r"a has shape \(7, 5, 3\)"),
        ((torch.ones(1, 2, 5, 3), torch.ones(2, 5, 3)), {}, ValueError, "must broadcast to b"),
        ((0.5, torch.ones(2, 5, 3), torch.ones(3)), {}, ValueError, r"h0 has shape \(3,\).*\(2, 3"),
        ((0.5, torch.ones(2, 5, 3, dtype=torch.int64)), {}, TypeError, "b is torch.int64"),
        (([0.5], torch.ones(2, 5, 3)), {}, TypeError, "a must be a tensor or a number, and is a l"),
        ((0.5, [[1.0]]), {}, TypeError, "b must be a tensor, and is a list"),
        ((0.5, torch.ones(2, 5, 3), 0.0), {}, TypeError, "h0 must be a tensor, and is a float"),
        (
            (0.5, torch.ones(2, 5, 3)),
            {"reset": torch.ones(2, 5)},
            TypeError,
            "reset is torch.float32; it must be bool",
        ),
        (
            (0.5, torch.ones(2, 5, 3)),
            {"reset": torch.ones(5, 2, dtype=torch.bool)},
            ValueError,
            r"reset has shape \(5, 2\).*needs \(2, 5\)",
        ),
    ],
)
def test_errors_say_what_was_given_and_expected(arguments, options, error, message):
    with pytest.raises(error, match=message):
        linear_scan(*arguments, **options)


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (0.5, torch.ones(2, 5, 3, 2), TypeError, "a must be a tensor, and is a float"),
        (torch.ones(3, 2), torch.ones(2, 5, 3), ValueError, r"b has shape \(2, 5, 3\); it must be"),
        (torch.ones(3, 2), torch.ones(2, 5, 3, 3), ValueError, r"must be \(B, L, D, 2\)"),
        (torch.ones(3), torch.ones(2, 5, 3, 2), ValueError, r"a has shape \(3,\).*length 2"),
        (torch.ones(3, 1), torch.ones(2, 5, 3, 2), ValueError, "last axis of length 2"),
        (torch.ones(3, 2) * 1j, torch.ones(2, 5, 3, 2), TypeError, "torch.complex64; it must be"),
    ],
)
def test_errors_of_pairs(a, b, error, message):
    with pytest.raises(error, match=message):
        linear_scan_pairs(a, b)
