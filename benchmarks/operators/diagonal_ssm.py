"""The diagonal bank against convolution by FFT in torch and JAX, and a scan over time in JAX."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from operators.problem import Inputs, Problem, Way
from statewise import ops

CONSTANT = ("u", "a", "b", "c", "d")
VARYING = (*CONSTANT, "dt")


def _ours(inputs: Inputs) -> Tensor:
    return ops.diagonal_ssm(*(inputs[name] for name in CONSTANT))[0]


def _ours_varying(inputs: Inputs) -> Tensor:
    return ops.diagonal_ssm(*(inputs[name] for name in CONSTANT), dt=inputs["dt"], rule="zoh")[0]


def _stride(length: int) -> int:
    """T of l = r T + s: about √L."""
    return 1 << ((length - 1).bit_length() + 1) // 2


def _torch_fft(inputs: Inputs) -> Tensor:
    """The kernel as a matrix product of a^{rT} and a^s, and one circular convolution of 2L."""
    u, a, b, c, d = (inputs[name] for name in CONSTANT)
    L = u.shape[1]
    log = torch.log(torch.view_as_complex(a))[..., None]
    weights = torch.view_as_complex(b) * torch.view_as_complex(c)
    index = torch.arange(L, device=u.device, dtype=a.dtype)

    def powers(steps: Tensor) -> Tensor:
        # Through real functions, since torch's complex exponential is scalar.
        size, phase = torch.exp(log.real * steps), log.imag * steps
        return torch.complex(size * torch.cos(phase), size * torch.sin(phase))

    rows, columns = weights[..., None] * powers(index[:: _stride(L)]), powers(index[: _stride(L)])
    left = torch.cat((rows.real, -rows.imag), 1).mT
    kernel = (left @ torch.cat((columns.real, columns.imag), 1)).flatten(1).T[:L]
    spectrum = torch.fft.rfft(u.to(a.dtype), 2 * L, dim=1) * torch.fft.rfft(kernel, 2 * L, dim=0)
    return (torch.fft.irfft(spectrum, 2 * L, dim=1)[:, :L] + d * u).to(u.dtype)


def jax_modules() -> tuple[Any, Any]:
    """JAX on as many threads as torch has, in double precision where it is given that."""
    if torch.get_num_threads() == 1:
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ.setdefault("XLA_FLAGS", one)
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    return jax, jnp


def from_jax(jax: Any, function: Callable[..., Any], names: Sequence[str]) -> Way:
    """A function of JAX arrays as one of tensors that autograd can differentiate."""
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


def _jax_fft() -> Way:
    jax, jnp = jax_modules()

    def function(u, a, b, c, d):
        L = u.shape[1]
        poles, inward, outward = (x[..., 0] + 1j * x[..., 1] for x in (a, b, c))
        log, index = jnp.log(poles)[..., None], jnp.arange(L)
        rows = (inward * outward)[..., None] * jnp.exp(log * index[:: _stride(L)])
        columns = jnp.exp(log * index[: _stride(L)])
        product = jnp.einsum("dnr,dns->drs", rows.real, columns.real)
        product = product - jnp.einsum("dnr,dns->drs", rows.imag, columns.imag)
        kernel = product.reshape(len(d), -1).T[:L]
        spectrum = jnp.fft.rfft(u, 2 * L, axis=1) * jnp.fft.rfft(kernel, 2 * L, axis=0)
        return jnp.fft.irfft(spectrum, 2 * L, axis=1)[:, :L].astype(u.dtype) + d * u

    return from_jax(jax, function, CONSTANT)


def _jax_scan() -> Way:
    """One step after the other, discretised where it is used, the states kept for the gradient."""
    jax, jnp = jax_modules()

    def function(u, a, b, c, d, dt):
        poles, inward, outward = (x[..., 0] + 1j * x[..., 1] for x in (a, b, c))

        def step(h, now):
            x, delta = now
            pole = jnp.exp(poles * delta[:, None, None])
            h = pole * h + (pole - 1) / poles * inward * x[..., None]
            return h, (outward * h).real.sum(-1)

        start = jnp.zeros((u.shape[0], *poles.shape), poles.dtype)
        _, y = jax.lax.scan(step, start, (u.swapaxes(0, 1), dt.T))
        return y.swapaxes(0, 1) + d * u

    return from_jax(jax, function, VARYING)


def problems(device: str) -> list[Problem]:
    """Constant poles at the shapes of S4D, and steps that vary, as irregular samples have them."""
    found = []
    jax = device == "cpu" and importlib.util.find_spec("jax") is not None
    cases = [(8, 1024, 256, 32, False), (1, 8192, 256, 32, False), (4, 512, 128, 16, True)]
    if device == "cuda":
        cases = [(8, 2048, 1024, 32, False), (1, 65536, 256, 32, False), (8, 2048, 256, 32, True)]
    for B, L, D, N, varying in cases:

        def inputs(generator: torch.Generator, B=B, L=L, D=D, N=N, varying=varying) -> Inputs:
            decay = -0.5 - 0.1 * torch.rand(D, N, generator=generator)
            poles = torch.complex(decay, torch.pi * torch.arange(N).expand(D, N).float())
            step = torch.logspace(-3, -1, D)[:, None]
            drawn = {
                "u": torch.randn(B, L, D, generator=generator),
                "a": torch.view_as_real(poles if varying else torch.exp(poles * step)).clone(),
                "b": torch.randn(D, N, 2, generator=generator),
                "c": torch.randn(D, N, 2, generator=generator) / N**0.5,
                "d": torch.randn(D, generator=generator),
            }
            if varying:
                drawn["dt"] = 0.02 * torch.rand(B, L, generator=generator)
            return drawn

        rivals: dict[str, Way] = {}
        if varying:
            rivals |= {"jax scan": _jax_scan()} if jax else {}
        else:
            rivals |= {"torch fft": _torch_fft} | ({"jax fft": _jax_fft()} if jax else {})
        size, states = 4 * B * L * D, B * L * D * N
        found.append(
            Problem(
                op="diagonal_ssm",
                label=f"({B}, {L}, {D}), N {N}" + (", steps (B, L), zoh" if varying else ""),
                dtype=torch.float32,
                inputs=inputs,
                run=_ours_varying if varying else _ours,
                moved=(2 * size, 5 * size),
                differentiate=VARYING if varying else CONSTANT,
                rivals=rivals,
                # With tables of powers; the recurrence as it stands would take twice as many.
                rates={"flop": (8 * states, 28 * states)},
            )
        )
    return found
