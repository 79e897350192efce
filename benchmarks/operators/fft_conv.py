"""Causal convolution with as many taps as steps, beside the transforms of torch and scipy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.problem import Inputs, Problem, Way
from statewise import ops


def _ours(inputs: Inputs) -> Tensor:
    return ops.fft_conv(inputs["u"], inputs["k"], inputs["d"], need_state=False)[0]


def _torch_fft(inputs: Inputs) -> Tensor:
    """Padded to twice the length, transformed along time, multiplied, and brought back."""
    u, k, d = inputs["u"], inputs["k"], inputs["d"]
    length, dtype = u.shape[1], torch.promote_types(u.dtype, torch.float32)
    spectrum = torch.fft.rfft(u.to(dtype).transpose(1, 2), n=2 * length)
    spectrum = spectrum * torch.fft.rfft(k, n=2 * length)
    y = torch.fft.irfft(spectrum, n=2 * length)[..., :length].transpose(1, 2)
    return (y + u * d).to(u.dtype)


def _scipy() -> Way:
    """scipy.signal.fftconvolve, its gradients by the same function."""
    from scipy.signal import fftconvolve

    def convolve(x: Tensor, y: Tensor, length: int) -> Tensor:
        return torch.from_numpy(fftconvolve(x.numpy(), y.numpy(), axes=1)[:, :length])

    class Convolution(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, k):
            ctx.save_for_backward(u, k)
            return convolve(u, k.t()[None], u.shape[1])

        @staticmethod
        def backward(ctx, *gradients):
            u, k = ctx.saved_tensors
            length = u.shape[1]
            g = gradients[0].flip(1)
            du = convolve(g, k.t()[None], length).flip(1)
            return du, convolve(g, u, length).flip(1).sum(0).t()

    def way(inputs: Inputs) -> Tensor:
        u, k, d = inputs["u"], inputs["k"], inputs["d"]
        return Convolution.apply(u, k) + u * d  # pyright: ignore[reportOperatorIssue]

    return way


def _problem(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Problem:
    B, L, D = shape

    def inputs(generator: torch.Generator) -> Inputs:
        decay = torch.exp(-torch.arange(L) / (0.2 * L))
        return {
            "u": torch.randn(B, L, D, generator=generator),
            "k": decay * torch.randn(D, L, generator=generator) / math.sqrt(L),
            "d": torch.randn(D, generator=generator),
        }

    item, numbers = dtype.itemsize, B * L * D
    taps = 4 * D * L
    transform = 5 * L * math.log2(L) * B * D
    rivals: dict[str, Way] = {"torch.fft, padded": _torch_fft}
    if device == "cpu":
        rivals["scipy.signal"] = _scipy()
    return Problem(
        op="fft_conv",
        label=f"{shape}, K = L, skip",
        dtype=dtype,
        inputs=inputs,
        run=_ours,
        rivals=rivals,
        moved=(2 * item * numbers + taps, 5 * item * numbers + 3 * taps),
        rates={"flop": (2 * transform, 5 * transform)},
        differentiate=("u", "k", "d"),
        keep_float32=("k", "d"),
    )


def problems(device: str) -> list[Problem]:
    """Float32 throughout; on a GPU also bfloat16 signals, which are transformed in float32."""
    if device == "cuda":
        shapes = [(8, 16384, 1024), (8, 2048, 2048), (1, 131072, 512)]
        found = [_problem(shape, torch.float32, device) for shape in shapes]
        return [*found, _problem(shapes[0], torch.bfloat16, device)]
    shapes = [(8, 1024, 256), (2, 16384, 64), (1, 4096, 256), (32, 512, 12)]
    return [_problem(shape, torch.float32, device) for shape in shapes]
