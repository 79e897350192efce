"""The coupled two-dimensional scan against loops in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from operators.problem import Inputs, Problem, Way
from statewise import ops

NAMES = ("a1", "a2", "a3", "a4", "b1", "b2")


def loop(a1: Tensor, a2: Tensor, a3: Tensor, a4: Tensor, b1: Tensor, b2: Tensor) -> Tensor:
    """p, (B, L, V, D), by one torch statement a step; q by one a step and variate."""
    p, q = torch.zeros_like(b1[:, 0]), torch.zeros_like(b2[:, 0])
    found = []
    # Indexing x[:, t] instead would make the backward pass quadratic in the length.
    for a1_t, a2_t, a3_t, a4_t, b1_t, b2_t in zip(
        *(x.unbind(1) for x in (a1, a2, a3, a4, b1, b2)), strict=True
    ):
        p = a1_t * p + a2_t * q + b1_t
        # What lies below the first variate is zero.
        gain = torch.cat([b2_t[:, :1], a3_t[:, 1:] * p[:, :-1] + b2_t[:, 1:]], 1)
        across = [torch.zeros_like(gain[:, 0])]
        for factor, term in zip(a4_t.unbind(1), gain.unbind(1), strict=True):
            across.append(torch.addcmul(term, factor, across[-1]))
        q = torch.stack(across[1:], 1)
        found.append(p)
    return torch.stack(found, 1)


def _ours(inputs: Inputs) -> Tensor:
    return ops.scan2d(*(inputs[name] for name in NAMES))[0][0]


def _problem(B: int, L: int, V: int, D: int, rivals: dict[str, Way]) -> Problem:
    def inputs(generator: torch.Generator) -> Inputs:
        shape = (B, L, V, D)
        coefficients = {n: 0.5 * torch.rand(shape, generator=generator) for n in NAMES[:4]}
        return coefficients | {n: torch.randn(shape, generator=generator) for n in NAMES[4:]}

    size = B * L * V * D * 4
    return Problem(
        op="scan2d",
        label=f"({B}, {L}, {V}, {D}), a (B, L, V, D)",
        dtype=torch.float32,
        inputs=inputs,
        run=_ours,
        # Forward: read six, write p and q. Backward: read a, p, q and ∂p, write six.
        moved=(8 * size, 21 * size),
        differentiate=NAMES,
        rivals=rivals,
    )


def problems(device: str) -> list[Problem]:
    """Coefficients for each cell of the grid, as the selective layer of Chimera makes them."""
    shapes = [(8, 1024, 8, 256)] if device == "cuda" else [(4, 256, 8, 64), (1, 1024, 16, 32)]
    rivals: dict[str, Way] = {"torch loop": lambda x: loop(*(x[name] for name in NAMES))}
    return [_problem(*shape, rivals) for shape in shapes]
