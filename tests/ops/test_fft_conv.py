"""The causal convolution under the op contract, for few taps, many, and with a skip."""

from __future__ import annotations

from typing import ClassVar

import torch

from contracts.op_suite import OpContract
from statewise.ops import fft_conv


class _Conv(OpContract):
    op = "fft_conv"
    timed = ("u",)
    taps: ClassVar[int]
    gpu_shapes: ClassVar = [(1, 1, 1)]

    def inputs(self, B, L, D, dtype, generator):
        def draw(*shape):
            return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

        return {"u": draw(B, L, D), "k": draw(D, self.taps)}

    def state(self, B, D, dtype, generator):
        x = torch.randn((B, self.taps - 1, D), dtype=torch.float64, generator=generator)
        return x.to(dtype)

    def apply(self, inputs, h0=None, **options):
        return fft_conv(inputs["u"], inputs["k"], inputs.get("d"), h0, **options)

    def test_kernels_repeat_bit_for_bit(self, kernels):
        """On a shape that the interpreter, which takes a second a transform, can do."""
        case = self.case((1, 5, 2), state=True, reset=False, reverse=False)
        first, second = (self.on(kernels, case, torch.float32) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def samples(self):
        forward = torch.ops.statewise.fft_conv.default
        back = torch.ops.statewise.fft_conv_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 5, 3), state=full, reset=full, reverse=full)
            u, k, d, reset = inputs["u"], inputs["k"], inputs.get("d"), options.get("reset")
            if full:
                leaves = [None if x is None else x.requires_grad_() for x in (u, k, d, h0)]
                yield forward, (*leaves, reset, full, True)
                yield forward, (*leaves, reset, full, False)
            else:
                yield back, (u * 2, None, u, k, d, None, None, full, True, True, None)
                yield back, (None, None, u, k, d, None, None, full, True, False, None)


class TestFewTaps(_Conv):
    taps = 3


class TestSkip(_Conv):
    taps = 6
    gpu_shapes: ClassVar = [(2, 5, 3)]

    def inputs(self, B, L, D, dtype, generator):
        d = torch.randn(D, dtype=torch.float64, generator=generator).to(dtype)
        return super().inputs(B, L, D, dtype, generator) | {"d": d}


class TestMoreTapsThanSteps(_Conv):
    taps = 45
