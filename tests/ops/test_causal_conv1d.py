"""The short causal convolution under the op contract, and beside torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from contracts.op_suite import OpContract
from statewise import ops
from statewise.ops import causal_conv1d


class _Convolution(OpContract):
    op = "causal_conv1d"
    timed = ("x",)
    taps = 4
    silu = False
    bias = True

    def inputs(self, B, L, D, dtype, generator):
        def draw(*shape):
            return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

        found = {"x": draw(B, L, D), "weight": draw(D, self.taps)}
        return found | ({"bias": draw(D)} if self.bias else {})

    def state(self, B, D, dtype, generator):
        shape = (B, self.taps - 1, D)
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    def apply(self, inputs, h0=None, **options):
        return causal_conv1d(**inputs, h0=h0, silu=self.silu, **options)

    def samples(self):
        forward = torch.ops.statewise.causal_conv1d.default
        backward = torch.ops.statewise.causal_conv1d_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 5, 3), state=full, reset=full, reverse=full)
            x, weight, bias = inputs["x"], inputs["weight"], inputs.get("bias")
            rest = (h0, options.get("reset"), self.silu, full)
            leaves = [None if t is None else t.requires_grad_() for t in (x, weight, bias)]
            yield forward, (*leaves, *rest)
            plain = [None if t is None else t.detach() for t in leaves]
            yield backward, (plain[0], None, *plain, *rest, None)


class TestPlain(_Convolution):
    bias = False
    taps = 3


class TestSilu(_Convolution):
    silu = True


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("taps", [1, 2, 4, 9])
@pytest.mark.parametrize("length", [1, 3, 20])
def test_equals_the_convolution_of_torch(backend, taps, length):
    generator = torch.Generator().manual_seed(taps)
    x = torch.randn(2, length, 5, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, taps, dtype=torch.float64, generator=generator)
    bias = torch.randn(5, dtype=torch.float64, generator=generator)
    padded = functional.pad(x.transpose(1, 2), (taps - 1, 0))
    expected = functional.silu(
        functional.conv1d(padded, weight[:, None], bias, groups=5)
    ).transpose(1, 2)
    with ops.use_backend(backend):
        y, window = causal_conv1d(x, weight, bias, silu=True)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-13)
    assert torch.equal(window, padded[..., padded.shape[-1] - taps + 1 :].transpose(1, 2))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("taps", [1, 2, 9])
def test_gradients_are_those_of_torch(backend, taps):
    generator = torch.Generator().manual_seed(taps)
    shapes = ((2, 6, 5), (5, taps), (5,))
    given = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    x, weight, bias = (tensor.requires_grad_() for tensor in given)
    padded = functional.pad(x.transpose(1, 2), (taps - 1, 0))
    expected = functional.conv1d(padded, weight[:, None], bias, groups=5).transpose(1, 2)
    wanted = torch.autograd.grad(expected.square().sum(), (x, weight, bias))
    with ops.use_backend(backend):
        y, _ = causal_conv1d(x, weight, bias)
        found = torch.autograd.grad(y.square().sum(), (x, weight, bias))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_one_tap_needs_no_state():
    y, window = causal_conv1d(torch.ones(2, 3, 4), 2 * torch.ones(4, 1))
    assert torch.equal(y, 2 * torch.ones(2, 3, 4))
    assert window.shape == (2, 0, 4)


X, W = torch.ones(2, 5, 3), torch.ones(3, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], W), ValueError, r"x has shape \(5, 3\); it must be \(B, L, D\)"),
        ((X[:, :0], W), ValueError, r"x has shape \(2, 0, 3\), no steps"),
        ((X, W.t()), ValueError, r"weight has shape \(4, 3\); .* needs \(3, W\)"),
        ((X, W[:, :0]), ValueError, r"weight has shape .* with W at least 1"),
        ((X, W, W), ValueError, r"bias has shape \(3, 4\); .* needs \(3,\)"),
        ((X, W, None, X), ValueError, r"h0 has shape \(2, 5, 3\); .* needs \(2, 3, 3\)"),
        ((X.int(), W), TypeError, "x is torch.int32; it must be one of float32"),
        (([1.0], W), TypeError, "x must be a tensor, and is a list"),
    ],
)
def test_what_does_not_fit_is_said(arguments, error, message):
    with pytest.raises(error, match=f"causal_conv1d: {message}"):
        causal_conv1d(*arguments)


def test_reset_of_another_shape_or_type_is_refused():
    with pytest.raises(ValueError, match=r"reset has shape \(2, 4\)"):
        causal_conv1d(X, W, reset=torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"reset is torch.float32; it must be bool"):
        causal_conv1d(X, W, reset=torch.zeros(2, 5))
