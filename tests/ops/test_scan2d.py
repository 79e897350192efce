"""The two-dimensional scan under the op contract, and the identities of its card."""

from __future__ import annotations

import pytest
import torch

from contracts.op_suite import OpContract
from statewise import ops
from statewise.ops import linear_scan, scan2d

V = 3
NAMES = ("a1", "a2", "a3", "a4")


class _Scan2d(OpContract):
    op = "scan2d"

    def coefficient_shape(self, B, L, D):
        raise NotImplementedError

    def inputs(self, B, L, D, dtype, generator):
        def draw(shape):
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        shape = self.coefficient_shape(B, L, D)
        # The largest stable size: |a1| + |a2| and |a3| + |a4| at most 1.
        a = {name: (0.5 * torch.tanh(draw(shape))).to(dtype) for name in NAMES}
        return a | {name: draw((B, L, V, D)).to(dtype) for name in ("b1", "b2")}

    def state(self, B, D, dtype, generator):
        return torch.randn(B, 2, V, D, dtype=torch.float64, generator=generator).to(dtype)

    def apply(self, inputs, h0=None, **options):
        (p, q), last = scan2d(**inputs, h0=h0, **options)
        return torch.cat([p, q], 3), last

    def samples(self):
        forward = torch.ops.statewise.scan2d.default
        backward = torch.ops.statewise.scan2d_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 4, 3), state=full, reset=full, reverse=full)
            a = [inputs[name].reshape((1,) * (4 - inputs[name].dim()) + inputs[name].shape)
                 for name in NAMES]  # fmt: skip
            b = [inputs["b1"], inputs["b2"]]
            rest = (h0, options.get("reset"), full)
            leaves = [x.detach().clone().requires_grad_() for x in (*a, *b)]
            yield forward, (*leaves, *rest)
            yield backward, (b[0], None, None, *a, *b, *rest, None)


class TestConstant(_Scan2d):
    timed = ("b1", "b2")

    def coefficient_shape(self, B, L, D):
        return (D,)


class TestVarying(_Scan2d):
    timed = (*NAMES, "b1", "b2")

    def coefficient_shape(self, B, L, D):
        return (B, L, V, D)


def _draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _impulse_response(a, b, c, length, variates):
    """K (L, V) of y = c1 p + c2 q when u enters as b1 u and b2 u."""
    u = torch.zeros(1, length, variates, 1, dtype=torch.float64)
    u[0, 0, 0] = 1
    return _response(a, b, c, u)[0]


def _response(a, b, c, u):
    (p, q), _ = scan2d(*a, b[0] * u, b[1] * u)
    return (c[0] * p + c[1] * q).sum(-1)


def _system(states=3, seed=0):
    a = [0.5 * torch.tanh(_draw(states, seed=seed + k)) for k in range(4)]
    return a, _draw(2, states, seed=seed + 7), _draw(2, states, seed=seed + 8)


def test_constant_coefficients_are_a_two_dimensional_convolution():
    L, V = 12, 5
    a, b, c = _system()
    u = _draw(1, L, V, 1)
    kernel = _impulse_response(a, b, c, L, V)
    expected = torch.zeros(L, V, dtype=torch.float64)
    for t in range(L):
        for v in range(V):
            expected[t:, v:] += kernel[: L - t, : V - v] * u[0, t, v, 0]
    torch.testing.assert_close(_response(a, b, c, u)[0], expected, rtol=0, atol=1e-12)
    assert torch.allclose(kernel[0, 0], (c * b).sum(), rtol=0, atol=1e-13)


def test_exchanging_the_axes_transposes_the_answer():
    (a1, a2, a3, a4), b, c = _system(seed=3)
    u = _draw(2, 6, 6, 1)
    swapped = _response([a4, a3, a2, a1], b.flip(0), c.flip(0), u.transpose(1, 2))
    # The q of a row takes p and q of the cell before, on either axis, so both agree cell by cell.
    torch.testing.assert_close(
        swapped.transpose(1, 2), _response([a1, a2, a3, a4], b, c, u), rtol=0, atol=1e-12
    )


def test_without_cross_terms_there_are_two_scans():
    a1, a4, zero = *(0.9 * torch.tanh(_draw(2, 4))), torch.zeros(4, dtype=torch.float64)
    b1, b2 = _draw(2, 7, 3, 4), _draw(2, 7, 3, 4, seed=1)
    (p, q), _ = scan2d(a1, zero, zero, a4, b1, b2)
    along, _ = linear_scan(a1, b1.transpose(1, 2).reshape(6, 7, 4))
    across, _ = linear_scan(a4, b2.reshape(14, 3, 4))
    torch.testing.assert_close(p, along.reshape(2, 3, 7, 4).transpose(1, 2), rtol=0, atol=1e-13)
    torch.testing.assert_close(q, across.reshape(2, 7, 3, 4), rtol=0, atol=1e-13)


def test_cross_terms_give_the_kernel_its_rank():
    a, b, c = _system(states=3, seed=11)
    full = _impulse_response(a, b, c, 16, 16)
    separate = _impulse_response([a[0], 0 * a[1], 0 * a[2], a[3]], b, c, 16, 16)
    assert torch.linalg.matrix_rank(full, rtol=1e-10) > 6
    assert torch.linalg.matrix_rank(separate, rtol=1e-10) == 2
    assert not separate[1:, 1:].any()


@pytest.mark.parametrize(
    ("c", "low", "high"),
    [(0.45, 0.0, 1e-8), (0.5, 0.05, 1.0), (0.55, 1e8, 1e11), (0.7, 1e34, 1e38)],
)
def test_stability_needs_row_sums_of_at_most_one(c, low, high):
    a = [torch.full((1,), c, dtype=torch.float64)] * 4
    ones = torch.ones(2, 1, dtype=torch.float64)
    far = _impulse_response(a, ones, ones, 128, 128)[100:, 100:].abs().max()
    assert low <= far <= high


A, B = torch.ones(3), torch.ones(2, 5, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((A, A, A, A, B[0], B), ValueError, r"b1 has shape \(5, 4, 3\); it must be \(B, L, V, D\)"),
        ((A, A, A, A, B[:, :, :0], B), ValueError, r"b1 has shape .* with V at least 1"),
        ((A, A, A, A, B[:, :0], B), ValueError, r"b1 has shape \(2, 0, 4, 3\), no steps"),
        ((A, A, A, A, B, B[:, :4]), ValueError, r"b2 has shape .* needs \(2, 5, 4, 3\)"),
        ((A, A[:2], A, A, B, B), ValueError, r"a2 has shape \(2,\); it must broadcast to b1"),
        ((A, A, A, A, B, B, B), ValueError, r"h0 has shape .* needs \(2, 2, 4, 3\)"),
        ((A, A, A, A, B.cfloat(), B), TypeError, "b1 is torch.complex64"),
        ((0.5, A, A, A, B, B), TypeError, "a1 must be a tensor, and is a float"),
    ],
)
def test_what_does_not_fit_is_said(arguments, error, message):
    with pytest.raises(error, match=f"scan2d: {message}"):
        scan2d(*arguments)


def test_coefficients_that_vary_over_some_axes_only():
    b = _draw(2, 6, 3, 4)
    shapes = [(2, 1, 1, 4), (6, 1, 4), (3, 1), (1, 6, 3, 1)]
    a = [0.5 * torch.tanh(_draw(*shape)) for shape in shapes]
    leaves = [x.clone().requires_grad_() for x in a]
    results = []
    for backend in ("reference", "cpu"):
        with ops.use_backend(backend):
            (p, q), last = scan2d(*leaves, b, b)
            loss = (p * b).sum() + q.square().sum() + last.sum()
            results.append([p, q, *torch.autograd.grad(loss, leaves)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
