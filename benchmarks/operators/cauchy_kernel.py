"""Cauchy products of S4's kernel, beside the sum written out in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from operators.problem import Inputs, Problem
from statewise import ops

PRODUCTS = 4


def _ours(inputs: Inputs) -> Tensor:
    return ops.cauchy_product(inputs["v"], inputs["poles"], inputs["nodes"])


def _written_out(inputs: Inputs) -> Tensor:
    """All (D, N, J) reciprocals, and an einsum; in the type of v, the differences in that of λ."""
    v, poles = (torch.view_as_complex(inputs[name]) for name in ("v", "poles"))
    nodes = 1j * inputs["nodes"]
    upper = (1 / (nodes - poles[..., None])).to(v.dtype)
    lower = (1 / (nodes - poles.conj()[..., None])).to(v.dtype)
    r = torch.einsum("pdn,dnj->pdj", v, upper) + torch.einsum("pdn,dnj->pdj", v.conj(), lower)
    return torch.view_as_real(r)


def _problem(D: int, N: int, L: int) -> Problem:
    J = (L + 1) // 2

    def inputs(generator: torch.Generator) -> Inputs:
        step = torch.exp(math.log(0.1) * (1 + 2 * torch.rand(D, 1, generator=generator)))
        frequency = math.pi * torch.arange(N).expand(D, N)
        poles = step[..., None] * torch.stack([torch.full((D, N), -0.5), frequency], -1)
        return {
            "v": torch.randn(PRODUCTS, D, N, 2, generator=generator) * step[..., None],
            "poles": poles,
            "nodes": 2 * torch.tan(torch.pi / L * torch.arange(J, dtype=torch.float64)).float(),
        }

    pairs, out = D * N * J, 8 * PRODUCTS * D * J
    return Problem(
        op="cauchy_kernel",
        label=f"D {D}, N {N}, L {L}, {PRODUCTS} products",
        dtype=torch.float32,
        inputs=inputs,
        run=_ours,
        rivals={"torch einsum": _written_out},
        moved=(out, 2 * out),
        rates={"flop": ((14 + 8 * PRODUCTS) * pairs, (42 + 24 * PRODUCTS) * pairs)},
        differentiate=("v", "poles"),
    )


def problems(device: str) -> list[Problem]:
    """S4's defaults: 64 states, of which 32 are kept."""
    if device == "cuda":
        return [_problem(512, 32, 16384), _problem(256, 32, 2048)]
    return [_problem(256, 32, 2048), _problem(16, 32, 16384)]
