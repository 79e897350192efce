"""The block scan under the op contract, for each size of matrix and kind of variation."""

from __future__ import annotations

import pytest
import torch

from contracts.op_suite import TOLERANCE, OpContract, error
from statewise.ops import block_scan, linear_scan, use_backend
from statewise.ops.block_scan import gpu


def _random(shape, dtype, generator):
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def _matrices(shape, dtype, generator):
    """Rotations and shears of norm below one, so that long sequences stay of one size."""
    drawn = _random(shape, torch.float64, generator)
    norm = torch.linalg.matrix_norm(drawn, 2, keepdim=True)
    radius = 0.5 + 0.48 * torch.rand(norm.shape, dtype=torch.float64, generator=generator)
    return (radius * drawn / norm).to(dtype)


class _Blocks(OpContract):
    op = "block_scan"
    k = 2
    timed = ("A", "b")

    def lead(self, B, L):
        """The batch and time axes of A."""
        return (B, L)

    def inputs(self, B, L, D, dtype, generator):
        return {
            "A": _matrices((*self.lead(B, L), D, self.k, self.k), dtype, generator),
            "b": _random((B, L, D, self.k), dtype, generator),
        }

    def state(self, B, D, dtype, generator):
        return _random((B, D, self.k), dtype, generator)

    def apply(self, inputs, h0=None, **options):
        return block_scan(inputs["A"], inputs["b"], h0, **options)

    def samples(self):
        scan = torch.ops.statewise.block_scan.default
        back = torch.ops.statewise.block_scan_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 5, 3), state=full, reset=full, reverse=full)
            A, b, plain = inputs["A"], inputs["b"], (h0, options.get("reset"), full)
            if full:
                leaves = [x.detach().requires_grad_() for x in (A, b, h0)]
                yield scan, (*leaves, *plain[1:])
            else:
                yield back, (b, None, A, b, *plain, True, None)


class TestTwo(_Blocks):
    k = 2


class _OnDevicesOnly(_Blocks):
    """The interpreter takes seconds a step where k² entries are unrolled; k = 2 runs there in full,
    the other sizes in ``test_kernels_of_every_size_pass_chunks``."""

    @pytest.fixture
    def kernels(self):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device; the interpreter runs this kernel for k = 2")
        return "cuda"


class TestThreeShared(_OnDevicesOnly):
    """Time-varying and shared by the batch."""

    k = 3

    def lead(self, B, L):
        return (1, L)


class TestFourConstant(_OnDevicesOnly):
    k = 4
    timed = ("b",)

    def lead(self, B, L):
        return (1, 1)


class TestDense(_Blocks):
    """A size without kernels of its own, and no multiple of a pack."""

    k = 5
    gpu_shapes = ((1, 1, 1), (2, 40, 1), (1, 37, 2))
    device_shapes = ((1, 1, 1), (2, 40, 3), (1, 1025, 1))


@pytest.mark.parametrize("k", [1, 3, 4])
def test_kernels_of_every_size_pass_chunks(k):
    """Several chunks in time, with constant matrices whose gradient is summed over them."""
    generator = torch.Generator().manual_seed(k)
    A = _matrices((1, 1, 1, k, k), torch.float64, generator).requires_grad_()
    b = _random((1, 33, 1, k), torch.float64, generator).requires_grad_()
    assert gpu.plan(1, 33, 1).chunks > 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for backend in ("reference", "gpu"):
        with use_backend(backend):
            h, last = block_scan(A.to(device), b.to(device))
        found.append([h, last, *torch.autograd.grad(h.square().sum() + last.sum(), (A, b))])
    for expected, given in zip(*found, strict=True):
        assert error(given, expected) <= 1e-12


def test_the_plan_fills_the_device_and_covers_the_length():
    for shape in [(1, 1, 1), (1, 65536, 128), (8, 2048, 128), (64, 512, 2048), (3, 17, 5)]:
        batch, length, channels = shape
        cut = gpu.plan(*shape)
        assert (cut.chunks - 1) * cut.steps < length <= cut.chunks * cut.steps
        assert cut.chunks == 1 or cut.steps >= 16
        if length >= 2048:
            assert batch * channels * cut.chunks >= min(gpu.LANES, batch * channels * length // 32)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_size_one_is_the_linear_scan(backend):
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 9, 5, dtype=torch.float64, generator=generator)
    b = _random((2, 9, 5), torch.float64, generator)
    with use_backend(backend):
        h, last = block_scan(a[..., None, None], b.unsqueeze(-1))
        expected = linear_scan(a, b)
    torch.testing.assert_close(h.squeeze(-1), expected[0], rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(last.squeeze(-1), expected[1], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("k", [7, 19, 32])
def test_rows_wider_than_a_pack(k, dtype):
    generator = torch.Generator().manual_seed(k)
    A = _matrices((2, 30, 1, k, k), dtype, generator).requires_grad_()
    b = _random((2, 30, 1, k), dtype, generator).requires_grad_()
    found = []
    for backend, width in (("reference", torch.float64), ("cpu", dtype)):
        with use_backend(backend):
            h, last = block_scan(A.to(width), b.to(width))
        found.append([h, last, *torch.autograd.grad(h.square().sum() + last.sum(), (A, b))])
    for expected, given in zip(*found, strict=True):
        assert error(given, expected) <= TOLERANCE[dtype]


def test_powers_of_a_rotation():
    angle = torch.tensor(0.1, dtype=torch.float64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    start = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    h, last = block_scan(turn, torch.zeros(1, 1000, 1, 2, dtype=torch.float64), start)
    steps = torch.arange(1, 1001, dtype=torch.float64)
    expected = torch.stack([(0.1 * steps).cos(), (0.1 * steps).sin()], -1)
    torch.testing.assert_close(h[0, :, 0], expected, rtol=0, atol=1e-11)
    assert torch.equal(last[0], h[0, -1])


@pytest.mark.parametrize(
    "lead", [(), (1,), (3,), (1, 3), (5, 1), (5, 3), (1, 1, 3), (2, 1, 3), (1, 5, 3), (2, 5, 1)]
)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_any_broadcast_of_the_matrices(lead, backend):
    generator = torch.Generator().manual_seed(0)
    b = _random((2, 5, 3, 2), torch.float64, generator)
    A = _matrices((*lead, 2, 2), torch.float64, generator).requires_grad_()
    full = A.detach().expand(2, 5, 3, 2, 2).clone().requires_grad_()
    with use_backend(backend):
        outputs = [block_scan(x, b)[0] for x in (A, full)]
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-14)
        for h in outputs:
            h.square().sum().backward()
    torch.testing.assert_close(A.grad, full.grad.sum_to_size(A.shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("A", "b", "h0", "out", "state"),
    [
        ("float32", "float64", None, "float64", "float64"),
        ("bfloat16", "float32", None, "float32", "float32"),
        ("bfloat16", "bfloat16", "float32", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "float64", "float64", "float64"),
        ("float16", "bfloat16", None, "float32", "float32"),
        ("float32", "float32", "bfloat16", "float32", "float32"),
    ],
)
def test_types_promote(A, b, h0, out, state):
    def make(name, shape):
        return torch.ones(shape).to(getattr(torch, name))

    h, last = block_scan(make(A, (2, 2)), make(b, (1, 2, 3, 2)), h0 and make(h0, (1, 3, 2)))
    assert (h.dtype, last.dtype) == (getattr(torch, out), getattr(torch, state))


def _ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((1.0, _ones(1, 2, 3, 2)), {}, TypeError, "A must be a tensor, and is a float"),
        ((_ones(2, 2), None), {}, TypeError, "b must be a tensor, and is a NoneType"),
        ((_ones(2, 2), _ones(2, 3, 2)), {}, ValueError, r"b has shape \(2, 3, 2\); it must be"),
        ((_ones(2, 2), _ones(1, 0, 3, 2)), {}, ValueError, "L must be at least 1"),
        ((_ones(0, 0), _ones(1, 2, 3, 0)), {}, ValueError, "k at least 1"),
        ((_ones(3, 3), _ones(1, 2, 3, 2)), {}, ValueError, r"ends in \(2, 2\)"),
        ((_ones(2), _ones(1, 2, 3, 2)), {}, ValueError, r"A has shape \(2,\)"),
        ((_ones(4, 2, 2), _ones(1, 2, 3, 2)), {}, ValueError, r"broadcasts to \(1, 2, 3, 2, 2\)"),
        ((_ones(2, 2), _ones(1, 2, 3, 2), _ones(1, 2)), {}, ValueError, r"needs \(1, 3, 2\)"),
        (
            (_ones(2, 2), _ones(1, 2, 3, 2, dtype=torch.int64)),
            {},
            TypeError,
            "b is torch.int64; it must be one of float32",
        ),
        (
            (_ones(2, 2), _ones(1, 2, 3, 2)),
            {"reset": _ones(1, 2)},
            TypeError,
            "reset is torch.float32; it must be bool",
        ),
        (
            (_ones(2, 2), _ones(1, 2, 3, 2)),
            {"reset": _ones(2, 1).bool()},
            ValueError,
            r"reset has shape \(2, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments, options, kind, message):
    with pytest.raises(kind, match=f"block_scan: .*{message}"):
        block_scan(*arguments, **options)


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 3, 0, 2)])
@pytest.mark.parametrize("backend", ["reference", "cpu", "gpu"])
def test_nothing_to_scan(shape, backend):
    device = "cuda" if backend == "gpu" and torch.cuda.is_available() else "cpu"
    b = torch.zeros(shape, device=device).requires_grad_()
    with use_backend(backend):
        h, last = block_scan(torch.ones(2, 2, device=device), b)
        h.sum().backward()
    assert h.shape == b.grad.shape == shape
    assert last.shape == (shape[0], shape[2], 2)
