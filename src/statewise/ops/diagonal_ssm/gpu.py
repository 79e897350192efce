"""GPU back end of the diagonal bank: Triton kernels, parallel over chunks of time."""

# Kernels are called in a way of Triton's own, which a checker of Python cannot follow.
# pyright: reportCallIssue=false, reportArgumentType=false
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from statewise.ops.diagonal_ssm import _triton, rules
from statewise.ops.diagonal_ssm.reference import BOUNDARY, Gradients, bounds_shape, nothing
from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.precision import accumulation_dtype

CHANNELS = 32
"""Channels of a program, one a thread: a program is one warp."""

PROGRAMS = 2048
"""Programs of the backward pass beyond which a program is given several chunks of time, so that
scratch memory and partial sums stay small."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("diagonal_ssm", device, dtype)


def _states(N: int, dtype: torch.dtype, varying: bool) -> int:
    """States of a tile: what a thread can hold in registers beside their coefficients."""
    return min(next_power_of_2(N), (2 if dtype is torch.float64 else 4) * (1 if varying else 2))


class _System(NamedTuple):
    """Coefficients as the kernels read them, and the options that say how.

    ``a`` and ``b`` are discrete (D, N, 2) in double precision, or ``a`` has the columns of
    ``rules.step_columns``; ``power`` is ā to the length of a chunk, (D, N), for constant poles.
    """

    a: Tensor
    b: Tensor
    c: Tensor
    power: Tensor | None
    dt: Tensor
    strides: tuple[int, int, int]
    reset: Tensor
    blocked: Tensor
    sizes: tuple[int, int, int]
    options: dict

    @property
    def varying(self) -> bool:
        return self.power is None


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.double().contiguous())


def _discrete(a: Tensor, b: Tensor, dt: Tensor | None, rule: str) -> tuple[Tensor, Tensor]:
    """ā and b̄, (D, N) complex, in double precision."""
    poles, weights = _complex(a), _complex(b)
    if dt is None:
        return poles, weights
    return rules.discretise(rule, poles, dt.double().unsqueeze(-1), weights)


def _system(
    u: Tensor, a: Tensor, b: Tensor, c: Tensor, dt: Tensor | None, reset: Tensor | None, rule: str,
    reverse: bool,
) -> _System:  # fmt: skip
    B, L, _ = u.shape
    dtype = accumulation_dtype(u.dtype)
    varying = False
    if dt is not None and dt.dim() == 3:
        varying = True
        poles, weights, power = rules.step_columns(_complex(a), _complex(b), dtype), b, None
        step, strides = dt, dt.stride()
    else:
        poles, weights = _discrete(a, b, dt, rule)
        power = poles
        for _ in range(BOUNDARY.bit_length() - 1):
            power = power * power
        poles, weights = torch.view_as_real(poles), torch.view_as_real(weights)
        step, strides = c, (0, 0, 0)
    chunks = cdiv(L, BOUNDARY)
    marks = blocked = c
    if reset is not None:
        marks = reset.contiguous().view(torch.uint8)
        room = torch.zeros((B, chunks * BOUNDARY), dtype=torch.uint8, device=u.device)
        room[:, :L] = marks.flip(1) if reverse else marks
        blocked = room.view(B, chunks, BOUNDARY).amax(-1)
    options = {
        "HAS_RESET": reset is not None,
        "DOWN": reverse,
        "ZOH": rule == "zoh",
        "VARYING": varying,
        "WIDE": dtype is torch.float64,
        "CHUNK": BOUNDARY,
        "BD": CHANNELS,
        "BN": _states(a.shape[1], dtype, varying),
        "num_warps": 1,
    }
    return _System(poles.contiguous(), weights.contiguous(), c.contiguous(), power, step, strides,
                   marks, blocked, (*u.shape[1:], a.shape[1]), options)  # fmt: skip


def _entering(
    system: _System, x: Tensor, start: Tensor | None, bounds: Tensor, adjoint: bool
) -> None:
    """Fill ``bounds`` (B, C, N, 2, D) with the state that enters each chunk."""
    L, D, N = system.sizes
    options = system.options
    B, chunks = bounds.shape[:2]
    ends = torch.empty_like(bounds)
    if system.power is None:
        decays = torch.empty_like(bounds)
    else:
        power = system.power.conj_physical() if adjoint else system.power
        decays = torch.stack((power.real, power.imag)).permute(2, 0, 1).to(bounds.dtype)
        decays = decays.contiguous()
    blocks = cdiv(D, CHANNELS)
    first = x if start is None else start.contiguous()
    _triton.ends_kernel[(blocks * cdiv(N, options["BN"]), chunks, B)](
        x, system.a, system.b, system.c, system.dt, system.reset, first, ends, decays, L, D, N,
        *system.strides, HAS_START=start is not None, ADJOINT=adjoint, **options,
    )  # fmt: skip
    _triton.chain_kernel[(blocks, N, B)](
        ends, decays, system.blocked, first, bounds, chunks, D, N, HAS_START=start is not None,
        HAS_RESET=options["HAS_RESET"], ADJOINT=adjoint, VARYING=system.varying, BD=CHANNELS,
        num_warps=1,
    )  # fmt: skip


def forward(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    h0: Tensor | None,
    dt: Tensor | None,
    reset: Tensor | None,
    rule: str,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The bank on a GPU; arguments and results are those of ``reference.forward``."""
    dtype = accumulation_dtype(u.dtype)
    x = u.contiguous()
    y = torch.empty(u.shape, dtype=dtype, device=u.device)
    last = torch.empty((u.shape[0], *a.shape), dtype=dtype, device=u.device)
    bounds = torch.empty(bounds_shape(u, a), dtype=dtype, device=u.device)
    if u.numel():
        system = _system(x, a, b, c, dt, reset, rule, reverse)
        _entering(system, x, h0, bounds, False)
        grid = (cdiv(u.shape[2], CHANNELS), bounds.shape[1], u.shape[0])
        _triton.outputs_kernel[grid](
            x, system.a, system.b, system.c, x if d is None else d.contiguous(), system.dt,
            system.reset, bounds, y, last, *system.sizes, *system.strides, HAS_D=d is not None,
            HAS_START=h0 is not None, **system.options,
        )  # fmt: skip
    return y.to(u.dtype), last, bounds if keep else bounds.new_empty(0)


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    h0: Tensor | None,
    dt: Tensor | None,
    reset: Tensor | None,
    bounds: Tensor,
    rule: str,
    reverse: bool,
    need_parameters: bool,
) -> Gradients:
    """The adjoint on a GPU; arguments and results are those of ``reference.backward``."""
    dtype = accumulation_dtype(u.dtype)
    B, L, D = u.shape
    N, device = a.shape[1], u.device
    if not u.numel():
        dh0 = None if h0 is None else torch.empty_like(h0)
        return nothing(torch.empty_like(u), a, b, c, d, dh0, dt, need_parameters)
    x = u.contiguous()
    grad = torch.zeros_like(x) if grad_y is None else grad_y.contiguous()
    system = _system(x, a, b, c, dt, reset, rule, reverse)
    adjoints = torch.empty(bounds_shape(u, a), dtype=dtype, device=device)
    _entering(system, grad, grad_last, adjoints, True)
    chunks, blocks = adjoints.shape[1], cdiv(D, CHANNELS)
    run = cdiv(chunks, max(1, PROGRAMS // (blocks * B)))
    groups = cdiv(chunks, run)
    options = system.options
    tile = 2 * BOUNDARY * CHANNELS * options["BN"]
    du = torch.empty(u.shape, dtype=dtype, device=device)
    dh0 = None if h0 is None else torch.empty(h0.shape, dtype=dtype, device=device)
    timed = need_parameters and system.varying
    ddt = torch.empty(u.shape if timed else 0, dtype=dtype, device=device)
    size = B * groups
    room = torch.empty(size * blocks * tile if need_parameters else 0, dtype=dtype, device=device)
    partial = torch.empty((size, D, N, 6) if need_parameters else 0, dtype=dtype, device=device)
    _triton.gradients_kernel[(blocks, groups, B)](
        x, grad, system.a, system.b, system.c, b.contiguous(), x if d is None else d.contiguous(),
        system.dt, system.reset, bounds, adjoints, room, du, ddt, du if dh0 is None else dh0,
        partial, L, D, N, *system.strides, run, HAS_D=d is not None, HAS_START=h0 is not None,
        PARAMETERS=need_parameters, **options,
    )  # fmt: skip
    if not need_parameters:
        return Gradients(du.to(u.dtype), None, None, None, None, dh0, None)
    found = _parameters(system, partial, a, b, dt, rule, dtype)
    dd = None if d is None else (grad.to(dtype) * x.to(dtype)).sum((0, 1))
    da, db, dc, steps = found
    return Gradients(du.to(u.dtype), da, db, dc, dd, dh0, ddt if timed else steps)


def _parameters(
    system: _System, partial: Tensor, a: Tensor, b: Tensor, dt: Tensor | None, rule: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of a, b, c and constant dt, from the sums of the programs."""
    total = partial.sum(0, dtype=torch.float64).unflatten(-1, (3, 2))
    da, db, dc = (torch.view_as_complex(x.contiguous()) for x in total.unbind(-2))
    ddt = None
    if system.varying:
        db = db / rules.away_from_zero(_complex(a)).conj_physical()
    elif dt is not None:
        step = dt.double().unsqueeze(-1)
        da, db, each = rules.gradients(rule, _complex(a), step, _complex(b), da, db)
        ddt = each.sum(-1).to(dtype)
    # Copies, because an operator may not return two views of one tensor.
    pairs = (torch.view_as_real(x).clone().to(dtype) for x in (da, db, dc))
    grad_a, grad_b, grad_c = pairs
    return grad_a, grad_b, grad_c, ddt
