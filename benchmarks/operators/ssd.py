"""State-space duality against the chunked form in torch and JAX, and Mamba-2's own kernels."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from operators.problem import Inputs, Problem, Way
from statewise import ops

CHUNK = 64
"""Chunk of the forms in torch and JAX: the fastest of 32, 64, 128 and 256 for torch on CPU."""


def _ours(inputs: Inputs) -> Tensor:
    x, dt, A, B, C = (inputs[name] for name in ("x", "dt", "A", "B", "C"))
    return ops.ssd(x, dt, A, B, C, softplus=True)[0]


def _torch_chunked(inputs: Inputs) -> Tensor:
    """Matrix products within chunks, a recurrence over the states between them; one group."""
    x, dt, B, C = inputs["x"], inputs["dt"], inputs["B"][:, :, 0], inputs["C"][:, :, 0]
    batch, length, heads, width = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    delta = softplus(dt.to(wide))
    log_a = (delta * inputs["A"]).unflatten(1, (-1, CHUNK)).permute(0, 3, 1, 2)
    u = (delta[..., None] * x).to(x.dtype).unflatten(1, (-1, CHUNK)).permute(0, 3, 1, 2, 4)
    B, C = (y.unflatten(1, (-1, CHUNK))[:, None] for y in (B, C))
    # (batch, heads, chunks, steps[, ...]) from here on; B and C have one head.
    total = log_a.cumsum(-1)
    difference = total[..., :, None] - total[..., None, :]
    after = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=x.device).triu(1)
    between = difference.masked_fill(after, -torch.inf).exp()
    within = ((C @ B.mT).to(wide) * between).to(x.dtype) @ u
    decayed = (total[..., -1:] - total).exp()[..., None].to(x.dtype) * u
    added = (decayed.mT @ B).to(wide)
    state, before = added.new_zeros(batch, heads, width, B.shape[-1]), []
    for own, decay in zip(added.unbind(2), total[..., -1].exp().unbind(2), strict=True):
        before.append(state)
        state = decay[..., None, None] * state + own
    carried = total.exp()[..., None] * (C @ torch.stack(before, 2).to(x.dtype).mT).to(wide)
    y = (within + carried).to(x.dtype)
    return y.permute(0, 2, 3, 1, 4).reshape(batch, length, heads, width)


def _jax_chunked() -> Way:
    """The same in JAX, compiled once for the output alone and once with what its gradient needs."""
    if torch.get_num_threads() == 1:
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ.setdefault("XLA_FLAGS", one)
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def function(x, dt, A, B, C):
        batch, length, heads, width = x.shape
        chunks = (batch, length // CHUNK, CHUNK)
        delta = jax.nn.softplus(dt)
        log_a = (delta * A).reshape(*chunks, heads)
        u = (delta[..., None] * x).reshape(*chunks, heads, width)
        b, c = (y.reshape(*chunks, -1) for y in (B, C))
        total = jnp.cumsum(log_a, 2)
        difference = total[:, :, :, None] - total[:, :, None]
        causal = jnp.tril(jnp.ones((CHUNK, CHUNK), bool))[..., None]
        between = jnp.exp(jnp.where(causal, difference, -jnp.inf))
        mixed = jnp.einsum("bktn,bksn->bkts", c, b)[..., None] * between
        within = jnp.einsum("bktsh,bkshp->bkthp", mixed, u)
        decayed = jnp.exp(total[:, :, -1:] - total)[..., None] * u
        added = jnp.einsum("bkshp,bksn->kbhpn", decayed, b)
        decay = jnp.exp(total[:, :, -1]).transpose(1, 0, 2)[..., None, None]

        def step(state, one):
            return one[0] * state + one[1], state

        _, before = jax.lax.scan(step, jnp.zeros_like(added[0]), (decay, added))
        carried = jnp.einsum("bktn,kbhpn->bkthp", c, before) * jnp.exp(total)[..., None]
        return (within + carried).reshape(x.shape)

    return _from_jax(jax, function)


def _from_jax(jax: Any, function: Callable[..., Any]) -> Way:
    """A function of JAX arrays as one of tensors that autograd can differentiate."""
    names = ("x", "dt", "A", "B", "C")
    alone = jax.jit(function)
    forward = jax.jit(lambda *arrays: jax.vjp(function, *arrays))
    backward = jax.jit(lambda pullback, gradient: pullback(gradient))

    def tensor(array: Any) -> Tensor:
        return torch.from_dlpack(jax.block_until_ready(array))

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> Tensor:
            y, ctx.pullback = forward(*(jax.dlpack.from_dlpack(t.detach()) for t in tensors))
            return tensor(y)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
            found = backward(ctx.pullback, jax.dlpack.from_dlpack(gradient.contiguous()))
            return tuple(tensor(array) for array in found)

    def way(inputs: Inputs) -> Tensor:
        tensors = [inputs[name] for name in names]
        if torch.is_grad_enabled():
            return Bridge.apply(*tensors)
        return tensor(alone(*(jax.dlpack.from_dlpack(t.detach()) for t in tensors)))

    return way


def _mamba_ssm() -> Way:
    """The Triton kernels of the Mamba-2 authors."""
    from mamba_ssm.ops.triton.ssd_combined import (  # pyright: ignore[reportMissingImports]
        mamba_chunk_scan_combined,
    )

    def way(inputs: Inputs) -> Tensor:
        tensors = (inputs[name] for name in ("x", "dt", "A", "B", "C"))
        return mamba_chunk_scan_combined(*tensors, chunk_size=256, dt_softplus=True)

    return way


def problems(device: str) -> list[Problem]:
    """Heads of dimension 64, one group: a long and a wide batch on GPU, a small one on CPU."""
    if device == "cuda":
        shapes, dtype, unit = [(8, 2048, 32, 64, 128), (1, 65536, 32, 64, 128)], torch.bfloat16, 2
    else:
        shapes, dtype, unit = [(2, 2048, 8, 64, 64)], torch.float32, 4
    rivals: dict[str, Way] = {"torch chunked": _torch_chunked}
    if device == "cpu" and importlib.util.find_spec("jax") is not None:
        rivals["jax chunked"] = _jax_chunked()
    if device == "cuda" and importlib.util.find_spec("mamba_ssm") is not None:
        rivals["mamba_ssm"] = _mamba_ssm()
    found = []
    for B, L, H, P, N in shapes:

        def inputs(generator: torch.Generator, B=B, L=L, H=H, P=P, N=N) -> Inputs:
            def randn(*shape: int) -> Tensor:
                return torch.randn(shape, generator=generator)

            # Steps from about 1e-3 to 1e-1 and rates from 1 to 16, as Mamba-2 starts.
            return {
                "x": randn(B, L, H, P),
                "dt": randn(B, L, H) - 4.6,
                "A": -1 - 15 * torch.rand(H, generator=generator),
                "B": randn(B, L, 1, N),
                "C": randn(B, L, 1, N),
            }

        wide, narrow, steps = (B * L * n * unit for n in (H * P, N, H))
        products = B * L * H * P * N * 2
        found.append(
            Problem(
                op="ssd",
                label=f"({B}, {L}), H {H}, P {P}, N {N}, softplus",
                dtype=dtype,
                inputs=inputs,
                run=_ours,
                # Forward: read x, dt, B, C, write y. Backward: these and ∂y, and their gradients.
                moved=(
                    2 * wide + 2 * narrow + steps,
                    5 * wide + 6 * narrow + 3 * steps,
                ),
                # The recurrence takes two products a number of the state and step; its gradient
                # the states again, and those of x, B, C and the state.
                rates={"flop" if unit == 4 else "bf16 flop": (2 * products, 7 * products)},
                differentiate=("x", "dt", "A", "B", "C"),
                rivals=rivals,
                keep_float32=("A",),
            )
        )
    return found
