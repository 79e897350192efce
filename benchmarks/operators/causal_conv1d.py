"""The short causal convolution against torch's grouped convolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from operators.problem import Inputs, Problem
from statewise import ops

TAPS = 4


def _torch(inputs: Inputs) -> Tensor:
    x = inputs["x"].transpose(1, 2)
    weight = inputs["weight"].to(x)[:, None]
    y = functional.conv1d(x, weight, inputs["bias"].to(x), padding=TAPS - 1, groups=x.shape[1])
    return functional.silu(y[..., : x.shape[2]]).transpose(1, 2)


def _ours(inputs: Inputs) -> Tensor:
    return ops.causal_conv1d(inputs["x"], inputs["weight"], inputs["bias"], silu=True)[0]


def problems(device: str) -> list[Problem]:
    """Mamba's convolution at the shapes of its scan."""
    found = []
    shapes = [(8, 2048, 2048), (1, 65536, 2048)] if device == "cuda" else [(4, 1024, 512)]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for B, L, D in shapes:

        def inputs(generator: torch.Generator, B=B, L=L, D=D) -> Inputs:
            return {
                "x": torch.randn(B, L, D, generator=generator),
                "weight": torch.randn(D, TAPS, generator=generator) / TAPS,
                "bias": torch.randn(D, generator=generator),
            }

        size = B * L * D * dtype.itemsize
        found.append(
            Problem(
                op="causal_conv1d",
                label=f"({B}, {L}, {D}), {TAPS} taps, silu",
                dtype=dtype,
                inputs=inputs,
                run=_ours,
                moved=(2 * size, 5 * size),
                differentiate=("x", "weight", "bias"),
                rivals={"torch conv1d": _torch},
                keep_float32=("weight", "bias"),
            )
        )
    return found
