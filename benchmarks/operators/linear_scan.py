"""The linear scan against scans in plain torch, mambapy's and JAX's."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from operators.problem import Inputs, Problem, Way
from statewise import ops

Scan = Callable[[Tensor, Tensor], Tensor]


def loop(a: Tensor, b: Tensor) -> Tensor:
    """One torch statement a step."""
    h, out = torch.zeros_like(b[:, 0]), []
    # Indexing b[:, t] instead would make the backward pass quadratic in the length.
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = torch.addcmul(b_t, a_t, h)
        out.append(h)
    return torch.stack(out, 1)


def doubling(a: Tensor, b: Tensor) -> Tensor:
    """Pairs (a, b) combined over 1, 2, 4, … steps: log₂ L passes over everything."""
    h, step = b, 1
    while step < b.shape[1]:
        h = torch.cat([h[:, :step], torch.addcmul(h[:, step:], a[:, step:], h[:, :-step])], 1)
        a = torch.cat([a[:, :step], a[:, step:] * a[:, :-step]], 1)
        step *= 2
    return h


def log_space(a: Tensor, b: Tensor) -> Tensor:
    """h = exp(Σ log a + log cumsum exp(log b − Σ log a)), for positive a; b enters as complex."""
    wide = torch.complex128 if b.dtype == torch.float64 else torch.complex64
    decay = a.log().cumsum(1)
    inflow = b.to(wide).log() - decay
    return (decay + inflow.logcumsumexp(1)).exp().real


def _torch_scan() -> Scan:
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(first: tuple, second: tuple) -> tuple:
        return first[0] * second[0], torch.addcmul(second[1], second[0], first[1])

    return lambda a, b: associative_scan(combine, (a, b), dim=1, combine_mode="generic")[1]


def _mambapy() -> Scan:
    from mambapy.pscan import pscan

    return lambda a, b: pscan(a[..., None], b[..., None])[..., 0]


def _jax(in_order: bool) -> Scan:
    """A tree, or a loop over time; compiled for the output alone, and for the gradient too."""
    if torch.get_num_threads() == 1:
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ.setdefault("XLA_FLAGS", one)
    import jax

    def combine(first: Any, second: Any) -> tuple:
        return second[0] * first[0], second[0] * first[1] + second[1]

    def step(h: Any, terms: tuple) -> tuple:
        h = terms[0] * h + terms[1]
        return h, h

    def function(a: Any, b: Any) -> Any:
        if not in_order:
            return jax.lax.associative_scan(combine, (a, b), axis=1)[1]
        # Eight steps to a pass of the loop halve the time of the forward pass.
        moved = (a.swapaxes(0, 1), b.swapaxes(0, 1))
        return jax.lax.scan(step, 0 * b[:, 0], moved, unroll=8)[1].swapaxes(0, 1)

    alone = jax.jit(function)
    with_pullback = jax.jit(lambda a, b: jax.vjp(function, a, b))
    pull = jax.jit(lambda pullback, gradient: pullback(gradient))

    def array(x: Tensor) -> Any:
        return jax.dlpack.from_dlpack(x.detach().contiguous())

    def tensor(x: Any) -> Tensor:
        return torch.from_dlpack(jax.block_until_ready(x))

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
            h, ctx.pullback = with_pullback(array(a), array(b))
            return tensor(h)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
            return tuple(tensor(x) for x in pull(ctx.pullback, array(gradient)))

    def scan(a: Tensor, b: Tensor) -> Tensor:
        return Bridge.apply(a, b) if torch.is_grad_enabled() else tensor(alone(array(a), array(b)))

    return scan


def _works(scan: Scan, device: str) -> bool:
    """Whether a peer computes and differentiates on this device and version of torch."""
    a = torch.full((1, 4, 2), 0.5, device=device, requires_grad=True)
    b = torch.ones(1, 4, 2, device=device, requires_grad=True)
    try:
        h = scan(a, b)
        h.sum().backward()
    except (RuntimeError, NotImplementedError):
        return False
    return torch.allclose(h[0, -1], torch.tensor(1.875, device=device), rtol=1e-3)


def _rivals(device: str) -> dict[str, Way]:
    scans: dict[str, Scan] = {"torch doubling": doubling, "torch log-space": log_space}
    if importlib.util.find_spec("torch._higher_order_ops.associative_scan") is not None:
        scans["torch associative_scan"] = _torch_scan()
    if device == "cpu":
        scans["torch loop"] = loop
        if importlib.util.find_spec("mambapy") is not None:
            scans["mambapy pscan"] = _mambapy()
        if importlib.util.find_spec("jax") is not None:
            scans["jax associative_scan"] = _jax(in_order=False)
            scans["jax scan"] = _jax(in_order=True)

    def way(scan: Scan) -> Way:
        return lambda inputs: scan(inputs["a"].expand(inputs["b"].shape), inputs["b"])

    return {name: way(scan) for name, scan in scans.items() if _works(scan, device)}


def _ours(inputs: Inputs) -> Tensor:
    return ops.linear_scan(inputs["a"], inputs["b"])[0]


def _our_pairs(inputs: Inputs) -> Tensor:
    return ops.linear_scan_pairs(inputs["a"], inputs["b"])[0]


def _problem(
    shape: tuple[int, int, int], varying: bool, pairs: bool, dtype: torch.dtype, rivals: dict
) -> Problem:
    B, L, D = shape
    lead = shape if varying else (D,)

    def inputs(generator: torch.Generator) -> Inputs:
        radius = 0.8 + 0.19 * torch.rand(lead, generator=generator)
        b = torch.randn(*shape, *(2,) * pairs, generator=generator)
        if not pairs:
            return {"a": radius, "b": b}
        angle = 3 * torch.rand(lead, generator=generator)
        return {"a": torch.view_as_real(torch.polar(radius, angle)).clone(), "b": b}

    size = B * L * D * (2 if pairs else 1) * dtype.itemsize
    # Forward: read b (and a), write h. Backward: read ∂h (and a, h), write ∂b (and ∂a); a constant
    # a costs nothing, but its gradient still reads h.
    forward = (3 if varying else 2) * size
    kind = ("pairs, " if pairs else "") + ("a (B, L, D)" if varying else "a (D,)")
    return Problem(
        op="linear_scan",
        label=f"{shape}, {kind}",
        dtype=dtype,
        inputs=inputs,
        run=_our_pairs if pairs else _ours,
        moved=(forward, forward + (5 if varying else 3) * size),
        differentiate=("a", "b"),
        rivals=rivals,
    )


def problems(device: str) -> list[Problem]:
    """Coefficients given for each step beside peers; constant and complex ones, and bfloat16."""
    rivals = _rivals(device)
    if device == "cuda":
        shapes = [(8, 2048, 2048), (1, 65536, 2048)]
    else:
        shapes = [(8, 1024, 256), (1, 16384, 256), (32, 512, 12)]
    single = torch.float32
    found = [_problem(shape, True, False, single, rivals) for shape in shapes]
    found.append(_problem(shapes[0], False, False, single, {}))
    found.append(_problem(shapes[0], True, True, single, {}))
    found.append(_problem(shapes[0], False, True, single, {}))
    if device == "cuda":
        found += [_problem(shape, True, False, torch.bfloat16, {}) for shape in shapes]
    return found
