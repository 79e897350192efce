"""The linear scan under the op contract, for each kind of coefficient."""

from __future__ import annotations

from typing import ClassVar

import torch

from contracts.op_suite import OpContract
from statewise.ops import linear_scan, linear_scan_pairs


def _random(shape, dtype, generator):
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if dtype.is_complex:
        x = torch.complex(x, torch.randn(shape, dtype=torch.float64, generator=generator))
    return x.to(dtype)


def _coefficient(shape, dtype, generator):
    """Inside the unit disc, so that long sequences stay of one size."""
    radius = 0.5 + 0.48 * torch.rand(shape, dtype=torch.float64, generator=generator)
    if dtype.is_complex:
        angle = 6.3 * torch.rand(shape, dtype=torch.float64, generator=generator)
        return torch.polar(radius, angle).to(dtype)
    sign = torch.where(torch.rand(shape, generator=generator) < 0.3, -1.0, 1.0)
    return (sign * radius).to(dtype)


class _Real(OpContract):
    op = "linear_scan"
    device_shapes = (*OpContract.device_shapes, (3, 70, 2))
    timed = ("b",)
    # Longer ones, in tiles, are in test_linear_scan_gpu.py: the interpreter is slow.
    gpu_shapes: ClassVar = [(2, 5, 3)]
    test_kernels_repeat_bit_for_bit = None

    def coefficient_shape(self, B, L, D):
        raise NotImplementedError

    def inputs(self, B, L, D, dtype, generator):
        return {
            "a": _coefficient(self.coefficient_shape(B, L, D), dtype, generator),
            "b": _random((B, L, D), dtype, generator),
        }

    def state(self, B, D, dtype, generator):
        return _random((B, D), dtype, generator)

    def apply(self, inputs, h0=None, **options):
        return linear_scan(inputs["a"], inputs["b"], h0, **options)

    def samples(self):
        scan = torch.ops.statewise.linear_scan.default
        back = torch.ops.statewise.linear_scan_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 5, 3), state=full, reset=full, reverse=full)
            a, b, reset = inputs["a"], inputs["b"], options.get("reset")
            if b.is_complex():
                a, b = torch.view_as_real(a), torch.view_as_real(b)
                h0 = None if h0 is None else torch.view_as_real(h0)
            plain = (h0, reset, full)
            if full:
                leaves = [x.detach().requires_grad_() for x in (a, b, h0)]
                yield scan, (*leaves, *plain[1:])
            else:
                yield back, (b, None, a, b, *plain, True, None)


class _Complex(_Real):
    dtypes = (torch.complex64,)
    gpu_dtypes = (torch.complex64,)
    device_dtypes = (torch.complex64, torch.complex128)
    # The kernels that pairs use, which the interpreter runs for them.
    test_kernels_agree_with_the_reference = None

    def case(self, shape, *, dtype=torch.float64, **options):
        dtype = dtype if dtype.is_complex else torch.promote_types(dtype, torch.complex64)
        return super().case(shape, dtype=dtype, **options)


class _Pairs(_Real):
    def inputs(self, B, L, D, dtype, generator):
        found = super().inputs(B, L, D, torch.complex128, generator)
        return {name: torch.view_as_real(x).to(dtype) for name, x in found.items()}

    def state(self, B, D, dtype, generator):
        return torch.view_as_real(_random((B, D), torch.complex128, generator)).to(dtype)

    def apply(self, inputs, h0=None, **options):
        return linear_scan_pairs(inputs["a"], inputs["b"], h0, **options)


class TestRealConstant(_Real):
    def coefficient_shape(self, B, L, D):
        return (D,)


class TestRealPerSequence(_Real):
    def coefficient_shape(self, B, L, D):
        return (B, 1, D)


class TestRealVarying(_Real):
    timed = ("a", "b")
    test_kernels_repeat_bit_for_bit = OpContract.test_kernels_repeat_bit_for_bit

    def coefficient_shape(self, B, L, D):
        return (B, L, D)


class TestRealShared(_Real):
    """Time-varying and shared by the batch; time on axis 1 of (1, L, D)."""

    timed = ("a", "b")

    def coefficient_shape(self, B, L, D):
        return (1, L, D)


class TestComplexVarying(_Complex):
    timed = ("a", "b")

    def coefficient_shape(self, B, L, D):
        return (B, L, D)


class TestPairsConstant(_Pairs):
    def coefficient_shape(self, B, L, D):
        return (D,)


class TestPairsVarying(_Pairs):
    timed = ("a", "b")

    def coefficient_shape(self, B, L, D):
        return (B, L, D)
