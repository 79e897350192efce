"""Kernel of a companion matrix, beside dense powers by doubling."""

from __future__ import annotations

import torch
from torch import Tensor

from operators.problem import Inputs, Problem
from statewise import ops


def _length(inputs: Inputs) -> int:
    return inputs["lags"].shape[0]


def _ours(inputs: Inputs) -> Tensor:
    return ops.companion_kernel(inputs["a"], inputs["b"], inputs["c"], _length(inputs))


def _doubling(inputs: Inputs) -> Tensor:
    """B, AB, A²B, …: as many vectors again by one product with the next squared power of A."""
    a, b, c = inputs["a"], inputs["b"], inputs["c"]
    D, N = a.shape
    shift = torch.diag(a.new_ones(N - 1), -1).expand(D, N, N)
    power = shift + a[..., None] * torch.eye(N, dtype=a.dtype, device=a.device)[-1]
    vectors = b[..., None]
    while vectors.shape[-1] < _length(inputs):
        vectors = torch.cat([vectors, power @ vectors], -1)
        power = power @ power
    return torch.einsum("dn,dnl->dl", c, vectors[..., : _length(inputs)])


def _problem(D: int, N: int, L: int) -> Problem:
    def inputs(generator: torch.Generator) -> Inputs:
        a, b, c = (torch.randn(D, N, generator=generator) for _ in range(3))
        a = a / a.abs().sum(1, keepdim=True)
        return {"a": a, "b": b, "c": c, "lags": torch.zeros(L, dtype=torch.int64)}

    vectors = 4 * D * (3 * N + L)
    return Problem(
        op="companion_kernel",
        label=f"D {D}, N {N}, L {L}",
        dtype=torch.float32,
        inputs=inputs,
        run=_ours,
        rivals={"torch doubling": _doubling},
        moved=(vectors, 3 * vectors),
        differentiate=("a", "b", "c"),
    )


def problems(device: str) -> list[Problem]:
    """Few and many states; doubling costs N² L."""
    channels = 128 if device == "cuda" else 16
    return [_problem(channels, 64, 4096), _problem(channels, 1024, 4096)]
