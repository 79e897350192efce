"""What the diagonal bank accepts, what it refuses, and in which types it answers."""

from __future__ import annotations

import pytest
import torch

from statewise.ops import diagonal_ssm, use_backend

B, L, D, N = 2, 5, 3, 2


def _draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _pairs(seed=0):
    return _draw(D, N, 2, seed=seed) / 3


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_pairs_complex_and_real_agree(backend):
    u, h0 = _draw(B, L, D), _draw(B, D, N, 2, seed=9)
    pairs = [_pairs(seed) for seed in (1, 2, 3)]
    numbers = [torch.view_as_complex(x) for x in pairs]
    flat = [x[..., 0].contiguous() for x in pairs]
    on_axis = [torch.stack((x, torch.zeros_like(x)), -1) for x in flat]
    with use_backend(backend):
        y, last = diagonal_ssm(u, *pairs, h0=h0)
        same, state = diagonal_ssm(u, *numbers, h0=torch.view_as_complex(h0))
        assert torch.equal(same, y)
        assert torch.equal(torch.view_as_real(state), last)
        lazy, _ = diagonal_ssm(u, *(x.conj() for x in numbers), h0=torch.view_as_complex(h0).conj())
        torch.testing.assert_close(lazy, y)
        straight, real_state = diagonal_ssm(u, *flat, h0=h0[..., 0])
        y, last = diagonal_ssm(u, *on_axis, h0=h0 * torch.tensor([1.0, 0.0]))
        assert torch.equal(straight, y)
        assert torch.equal(real_state, last[..., 0])


def test_gradients_have_the_forms_and_types_of_the_inputs():
    u = _draw(B, L, D).float().requires_grad_()
    a, b, c = (torch.view_as_complex(_pairs(seed)).requires_grad_() for seed in (1, 2, 3))
    d = _draw(D).bfloat16().requires_grad_()
    y, last = diagonal_ssm(u, a, b, c, d)
    assert y.dtype == torch.float32
    assert last.dtype == torch.complex64
    (y.sum() + last.abs().sum()).backward()
    for x in (u, a, b, c, d):
        assert x.grad.dtype == x.dtype
        assert x.grad.shape == x.shape


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
@pytest.mark.parametrize("rule", [None, "zoh"])
def test_nothing_to_do(backend, batch, channels, rule):
    u = torch.randn(batch, L, channels, requires_grad=True)
    a = torch.randn(channels, N, 2, requires_grad=True)
    dt = torch.ones(batch, L, channels, requires_grad=True)
    options = {"rule": rule, "dt": dt} if rule else {}
    with use_backend(backend):
        y, last = diagonal_ssm(u, a, a, a, **options)
        y.sum().backward()
    assert y.shape == u.shape
    assert last.shape == (batch, channels, N, 2)
    assert a.grad.abs().sum() == 0
    assert a.grad.shape == a.shape


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_reverse_runs_from_the_end(backend):
    half, one = torch.full((1, 1), 0.5), torch.ones(1, 1)
    u = torch.tensor([[[1.0], [2.0], [4.0]]])
    with use_backend(backend):
        y, last = diagonal_ssm(u, half, one, one, h0=torch.full((1, 1, 1), 8.0), reverse=True)
        assert y.flatten().tolist() == [4.0, 6.0, 8.0]
        assert last.item() == 4.0
        y, _ = diagonal_ssm(u, half, one, one, one[0], reset=torch.tensor([[False, True, False]]))
        assert y.flatten().tolist() == [2.0, 4.0, 9.0]


def test_threads_do_not_change_the_answer():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(6, 300, 40, generator=generator)
    a, b, c = (0.5 * torch.randn(40, 3, 2, generator=generator) for _ in range(3))
    a = (0.5 * a).requires_grad_()
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, last = diagonal_ssm(u, a, b, c)
            found.append((y, last, *torch.autograd.grad(y.square().sum(), a)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_backward_needs_the_states_of_the_forward_pass():
    u, a = torch.ones(1, 2, 1), torch.ones(1, 1, 2)
    back = torch.ops.statewise.diagonal_ssm_backward
    with pytest.raises(RuntimeError, match="diagonal_ssm: the gradients of a, b, c, d and dt need"):
        back(u, None, u, a, a, a, None, None, None, None, torch.empty(0), "", False, True, None)


_U, _A = torch.ones(B, L, D), torch.ones(D, N, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((_U[0], _A, _A, _A), {}, ValueError, r"u has shape \(5, 3\); it must be \(B, L, D\)"),
        ((_U[:, :0], _A, _A, _A), {}, ValueError, r"\(2, 0, 3\), no steps; L must be at"),
        ((_U, _A[:2], _A, _A), {}, ValueError, r"a has shape \(2, 2, 2\); u with 3 channels needs"),
        ((_U, _A[:, :0], _A, _A), {}, ValueError, "N at least 1"),
        ((_U, torch.ones(D, N, 3), _A, _A), {}, ValueError, r"a has shape \(3, 2, 3\)"),
        ((_U, torch.ones(D), _A, _A), {}, ValueError, r"a has shape \(3,\)"),
        ((_U, _A, _A[:, :1], _A), {}, ValueError, r"b has shape \(3, 1, 2\).*needs \(3, 2, 2\)"),
        ((_U, _A, _A, _A[..., 0]), {}, ValueError, r"c has shape \(3, 2\).*pairs form needs"),
        ((_U, _A, torch.view_as_complex(_A), _A), {}, TypeError, "b is torch.complex64; it must"),
        ((_U * 1j, _A, _A, _A), {}, TypeError, "u is torch.complex64; it must be one of"),
        ((_U, _A, _A, None), {}, TypeError, "c must be a tensor, and is a NoneType"),
        ((_U, _A, _A, _A, torch.ones(2)), {}, ValueError, r"d has shape \(2,\).*needs \(3,\)"),
        ((_U, _A, _A, _A, 0.5), {}, TypeError, "d must be a tensor, and is a float"),
        (
            (_U, _A, _A, _A, None, torch.ones(D, N, 2)),
            {},
            ValueError,
            r"h0 has shape \(3, 2, 2\).*needs \(2, 3, 2, 2\)",
        ),
        ((_U, _A, _A, _A), {"dt": torch.ones(D)}, ValueError, "dt was given without a rule"),
        ((_U, _A, _A, _A), {"rule": "zoh"}, ValueError, "rule 'zoh' needs dt, and dt is None"),
        (
            (_U, _A, _A, _A),
            {"rule": "euler", "dt": torch.ones(D)},
            ValueError,
            r"rule is 'euler'; it must be None or one of \('zoh', 'bilinear'\)",
        ),
        (
            (_U, _A, _A, _A),
            {"rule": "zoh", "dt": torch.ones(L, B)},
            ValueError,
            r"dt has shape \(5, 2\).*needs \(3,\), \(2, 5\) or \(2, 5, 3\)",
        ),
        (
            (_U, _A, _A, _A),
            {"rule": "zoh", "dt": 0.1},
            TypeError,
            "dt must be a tensor, and is a f",
        ),
        (
            (_U, _A, _A, _A),
            {"reset": torch.ones(L, B, dtype=torch.bool)},
            ValueError,
            r"reset has shape \(5, 2\).*needs \(2, 5\)",
        ),
    ],
)
def test_errors_say_what_was_given_and_expected(arguments, options, error, message):
    with pytest.raises(error, match=message):
        diagonal_ssm(*arguments, **options)
