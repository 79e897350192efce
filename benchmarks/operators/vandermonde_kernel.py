"""The Vandermonde kernel against a table of powers in torch and JAX, and matrices in two levels."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from operators.diagonal_ssm import from_jax, jax_modules
from operators.problem import Inputs, Problem, Way
from statewise import ops

STRIDE = 128


def _length(inputs: Inputs) -> int:
    return inputs["index"].shape[0]


def _ours(inputs: Inputs) -> Tensor:
    return ops.vandermonde_kernel(inputs["log_a"], inputs["c"], _length(inputs), log=True)


def _exponentials(log: Tensor, index: Tensor) -> Tensor:
    """e^{index · log} through real functions, since torch's complex exponential is scalar."""
    size, phase = torch.exp(log.real[..., None] * index), log.imag[..., None] * index
    return torch.complex(size * torch.cos(phase), size * torch.sin(phase))


def _torch_table(inputs: Inputs) -> Tensor:
    log, c = (torch.view_as_complex(inputs[name]) for name in ("log_a", "c"))
    return torch.einsum("dn,dnl->dl", c, _exponentials(log, inputs["index"])).real


def _torch_two_levels(inputs: Inputs) -> Tensor:
    """The same by l = r T + s, so that only L/T + T powers are taken."""
    log, c = (torch.view_as_complex(inputs[name]) for name in ("log_a", "c"))
    index = inputs["index"]
    rows = c[..., None] * _exponentials(log, index[::STRIDE])
    columns = _exponentials(log, index[:STRIDE])
    left = torch.cat((rows.real, -rows.imag), 1).mT
    return (left @ torch.cat((columns.real, columns.imag), 1)).flatten(1)


def _jax_table() -> Way:
    jax, jnp = jax_modules()

    def function(log_a, c, index):
        log, weight = (x[..., 0] + 1j * x[..., 1] for x in (log_a, c))
        return jnp.einsum("dn,dnl->dl", weight, jnp.exp(log[..., None] * index)).real

    return from_jax(jax, function, ("log_a", "c", "index"))


def problems(device: str) -> list[Problem]:
    """The kernels of S4D layers."""
    found = []
    sizes = [(512, 64, 16384)] if device == "cuda" else [(256, 32, 16384), (256, 32, 1024)]
    for D, N, L in sizes:

        def inputs(generator: torch.Generator, D=D, N=N, L=L) -> Inputs:
            poles = torch.complex(
                -0.5 * torch.ones(D, N), torch.pi * torch.arange(N).expand(D, N).float()
            )
            step = torch.logspace(-3, -1, D)[:, None]
            return {
                "log_a": torch.view_as_real(poles * step).clone(),
                "c": torch.randn(D, N, 2, generator=generator),
                "index": torch.arange(L).float(),
            }

        rivals: dict[str, Way] = {"torch two levels": _torch_two_levels}
        if D * N * L * 8 < 2**31:
            rivals["torch table"] = _torch_table
        if device == "cpu" and importlib.util.find_spec("jax") is not None:
            rivals["jax table"] = _jax_table()
        found.append(
            Problem(
                op="vandermonde_kernel",
                label=f"H {D}, N {N}, L {L}",
                dtype=torch.float32,
                inputs=inputs,
                run=_ours,
                moved=(4 * D * L, 8 * D * L),
                differentiate=("log_a", "c"),
                rivals=rivals,
                rates={"flop": (4 * D * N * L, 12 * D * N * L)},
            )
        )
    return found
