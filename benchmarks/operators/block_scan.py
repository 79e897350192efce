"""The block scan against scans of small matrices in plain torch and JAX."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from operators.problem import Inputs, Problem, Way
from statewise import ops


def loop(A: Tensor, b: Tensor) -> Tensor:
    """One batched product a step."""
    h, out = torch.zeros_like(b[:, 0]), []
    # Indexing b[:, t] instead would make the backward pass quadratic in the length.
    for A_t, b_t in zip(A.unbind(1), b.unbind(1), strict=True):
        h = (A_t @ h.unsqueeze(-1)).squeeze(-1) + b_t
        out.append(h)
    return torch.stack(out, 1)


def doubling(A: Tensor, b: Tensor) -> Tensor:
    """Pairs (A, b) combined over 1, 2, 4, … steps: log₂ L passes over everything."""
    h, step = b.unsqueeze(-1), 1
    while step < b.shape[1]:
        h = torch.cat([h[:, :step], A[:, step:] @ h[:, :-step] + h[:, step:]], 1)
        A = torch.cat([A[:, :step], A[:, step:] @ A[:, :-step]], 1)
        step *= 2
    return h.squeeze(-1)


def _jax() -> Way:
    if torch.get_num_threads() == 1:
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ.setdefault("XLA_FLAGS", one)
    import jax
    from jax import numpy as jnp

    def combine(first: Any, second: Any) -> tuple:
        (A1, b1), (A2, b2) = first, second
        return A2 @ A1, jnp.einsum("...ij,...j->...i", A2, b1) + b2

    def function(A: Any, b: Any) -> Any:
        return jax.lax.associative_scan(combine, (A, b), axis=1)[1]

    alone = jax.jit(function)
    with_pullback = jax.jit(lambda A, b: jax.vjp(function, A, b))
    pull = jax.jit(lambda pullback, gradient: pullback(gradient))

    def array(x: Tensor) -> Any:
        return jax.dlpack.from_dlpack(x.detach().contiguous())

    def tensor(x: Any) -> Tensor:
        return torch.from_dlpack(jax.block_until_ready(x))

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, A: Tensor, b: Tensor) -> Tensor:
            h, ctx.pullback = with_pullback(array(A), array(b))
            return tensor(h)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            dA, db = pull(ctx.pullback, array(gradients[0]))
            return tensor(dA), tensor(db)

    def way(inputs: Inputs) -> Tensor:
        A, b = inputs["A"], inputs["b"]
        if torch.is_grad_enabled():
            return Bridge.apply(A, b)
        return tensor(alone(array(A), array(b)))

    return way


def _problem(B: int, L: int, D: int, k: int, rivals: dict[str, Way]) -> Problem:
    def inputs(generator: torch.Generator) -> Inputs:
        A = torch.randn(B, L, D, k, k, generator=generator)
        norm = torch.linalg.matrix_norm(A, 2 if k <= 8 else "fro", keepdim=True)
        return {"A": 0.95 * A / norm, "b": torch.randn(B, L, D, k, generator=generator)}

    matrices, vectors = B * L * D * k * k * 4, B * L * D * k * 4
    return Problem(
        op="block_scan",
        label=f"({B}, {L}, {D}), k {k}",
        dtype=torch.float32,
        inputs=inputs,
        run=lambda x: ops.block_scan(x["A"], x["b"])[0],
        # Forward: read A and b, write h. Backward: read A, h and ∂h, write ∂A and ∂b.
        moved=(matrices + 2 * vectors, 3 * matrices + 5 * vectors),
        differentiate=("A", "b"),
        rivals=rivals,
    )


def problems(device: str) -> list[Problem]:
    """Blocks as Newton steps on gated cells make them, and one dense system."""
    rivals: dict[str, Way] = {
        "torch loop": lambda x: loop(x["A"], x["b"]),
        "torch doubling": lambda x: doubling(x["A"], x["b"]),
    }
    if device == "cpu" and importlib.util.find_spec("jax"):
        rivals["JAX"] = _jax()
    shapes = [(8, 2048, 256, 2), (8, 2048, 128, 4), (8, 2048, 1, 32)]
    if device == "cpu":
        shapes = [(8, 512, 128, 2), (8, 512, 85, 3), (8, 512, 64, 4), (4, 512, 1, 32)]
    return [_problem(*shape, rivals) for shape in shapes]
