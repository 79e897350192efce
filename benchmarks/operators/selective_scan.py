"""The selective scan of Mamba, against scans in torch and JAX, and Mamba's own kernel."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from operators.problem import Inputs, Problem, Way
from statewise import ops

NAMES = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")


def _ours(inputs: Inputs) -> Tensor:
    u, dt, A, B, C, D, z, bias = (inputs[name] for name in NAMES)
    return ops.selective_scan(u, dt, A, B, C, D, z, bias, softplus=True)[0]


def _mambapy() -> Way:
    """Mamba.py: a tree scan over all states, which it stores."""
    from mambapy.pscan import pscan

    def way(inputs: Inputs) -> Tensor:
        u, dt, A, B, C, D, z, bias = (inputs[name] for name in NAMES)
        delta = softplus(dt + bias)
        decay = torch.exp(delta[..., None] * A)
        h = pscan(decay, delta[..., None] * B[:, :, None] * u[..., None])
        return ((h @ C[..., None])[..., 0] + D * u) * silu(z)

    return way


def _mamba_ssm() -> Way:
    """The CUDA kernel of the authors, which wants the channels before time."""
    from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore[reportMissingImports]
        selective_scan_fn,
    )

    def way(inputs: Inputs) -> Tensor:
        u, dt, A, B, C, D, z, bias = (inputs[name] for name in NAMES)
        rows = [x.transpose(1, 2) for x in (u, dt)]
        columns = [x.transpose(1, 2) for x in (B, C)]
        gate = z.transpose(1, 2)
        y = selective_scan_fn(*rows, A, *columns, D, gate, bias, delta_softplus=True)
        return y.transpose(1, 2)

    return way


def _jax(in_order: bool) -> Way:
    """A tree, or a loop over time; compiled for the output alone, and for the gradient too."""
    if torch.get_num_threads() == 1:
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ.setdefault("XLA_FLAGS", one)
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def combine(first: Any, second: Any) -> tuple:
        return second[0] * first[0], second[0] * first[1] + second[1]

    def tree(u, delta, A, B, C):
        delta = delta[..., None]
        inflow = delta * B[:, :, None] * u[..., None]
        _, h = jax.lax.associative_scan(combine, (jnp.exp(delta * A), inflow), axis=1)
        return jnp.einsum("bldn,bln->bld", h, C)

    def loop(u, delta, A, B, C):
        def step(h: Any, terms: tuple) -> tuple:
            u, delta, B, C = terms
            h = jnp.exp(delta[..., None] * A) * h + (delta * u)[..., None] * B[:, None]
            return h, (h * C[:, None]).sum(-1)

        start = jnp.zeros((u.shape[0], *A.shape), u.dtype)
        moved = tuple(x.swapaxes(0, 1) for x in (u, delta, B, C))
        return jax.lax.scan(step, start, moved)[1].swapaxes(0, 1)

    def function(u, dt, A, B, C, D, z, bias):
        y = (loop if in_order else tree)(u, jax.nn.softplus(dt + bias), A, B, C)
        return (y + D * u) * jax.nn.silu(z)

    alone = jax.jit(function)
    with_pullback = jax.jit(lambda *arrays: jax.vjp(function, *arrays))
    pull = jax.jit(lambda pullback, gradient: pullback(gradient))

    def arrays(tensors: Any) -> list:
        return [jax.dlpack.from_dlpack(x.detach().contiguous()) for x in tensors]

    def tensor(array: Any) -> Tensor:
        return torch.from_dlpack(jax.block_until_ready(array))

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> Tensor:
            y, ctx.pullback = with_pullback(*arrays(tensors))
            return tensor(y)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
            return tuple(tensor(x) for x in pull(ctx.pullback, *arrays([gradient])))

    def way(inputs: Inputs) -> Tensor:
        tensors = [inputs[name] for name in NAMES]
        if torch.is_grad_enabled():
            return Bridge.apply(*tensors)
        return tensor(alone(*arrays(tensors)))

    return way


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def problems(device: str) -> list[Problem]:
    """Sixteen states a channel, with softplus, skip and gate: a large batch and a long sequence."""
    if device == "cuda":
        shapes = [(8, 2048, 2048, 16), (1, 65536, 2048, 16), (64, 512, 1536, 16)]
        dtype, unit = torch.bfloat16, 2
    else:
        shapes, dtype, unit = [(1, 8192, 768, 16), (4, 1024, 256, 16)], torch.float32, 4
    rivals: dict[str, Way] = {}
    if device == "cpu" and _installed("mambapy"):
        rivals["mambapy"] = _mambapy()
    if device == "cpu" and _installed("jax"):
        rivals["jax associative_scan"] = _jax(in_order=False)
        rivals["jax scan"] = _jax(in_order=True)
    if device == "cuda" and _installed("mamba_ssm") and _installed("selective_scan_cuda"):
        rivals["mamba_ssm"] = _mamba_ssm()
    found = []
    for B, L, D, N in shapes:

        def inputs(generator: torch.Generator, B=B, L=L, D=D, N=N) -> Inputs:
            def randn(*shape: int) -> Tensor:
                return torch.randn(shape, generator=generator)

            # Steps of about 1e-3 to 1e-1 and rates from 1 to N, as Mamba starts.
            return {
                "u": randn(B, L, D),
                "dt": 0.5 * randn(B, L, D),
                "A": -torch.arange(1.0, N + 1).expand(D, N).clone(),
                "B": randn(B, L, N),
                "C": randn(B, L, N),
                "D": torch.ones(D),
                "z": randn(B, L, D),
                "dt_bias": randn(D) - 4.6,
            }

        wide, narrow = B * L * D * unit, B * L * N * unit
        states = B * L * D * N
        found.append(
            Problem(
                op="selective_scan",
                label=f"({B}, {L}, {D}), N {N}, z, softplus",
                dtype=dtype,
                inputs=inputs,
                run=_ours,
                # Forward: read u, dt, z, B, C, write y. Backward: read these and ∂y, write ∂u,
                # ∂dt, ∂z, ∂B, ∂C.
                moved=(4 * wide + 2 * narrow, 11 * wide + 6 * narrow),
                # One exponential a number of the state and step, and again in the backward pass.
                # Forward: a product for the exponent, two for the state, one for the output.
                rates={"exp": (states, 2 * states), "flop": (7 * states, 24 * states)},
                differentiate=NAMES,
                rivals=rivals,
                keep_float32=("A", "D", "dt_bias"),
            )
        )
    return found
