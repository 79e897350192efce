"""Responses in time: any input, impulse and step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from statewise.lti.matrices import block
from statewise.lti.state_space import StateSpace, as_tensor
from statewise.ops import block_scan, linear_scan


def simulate(system: StateSpace, u: Any, x0: Any = None) -> tuple[Tensor, Tensor]:
    """The outputs of a discrete system: x_{k+1} = A x_k + B u_k,  y_k = C x_k + D u_k.

    Diagonal dynamics run through :func:`~statewise.ops.linear_scan`, others through
    :func:`~statewise.ops.block_scan`; both have gradients.

    Args:
        system: a discrete system.
        u: inputs, (..., L, m), L ≥ 1; batch dimensions broadcast with those of the system.
        x0: state before the first sample, (..., n); None for rest.

    Returns:
        Outputs, (..., L, p), and the state after the last sample x_L, (..., n).

    Raises:
        ValueError: continuous time, or a shape that does not fit.
    """
    if system.dt is None:
        raise ValueError("simulate needs a discrete system; to_discrete makes one, and dt is None")
    u = as_tensor("u", u)
    n, m = system.n_states, system.n_inputs
    if u.dim() < 2 or u.shape[-1] != m or not u.shape[-2]:
        raise ValueError(f"u has shape {tuple(u.shape)}; {m} inputs need (..., L, {m}) with L ≥ 1")
    kind = torch.promote_types(u.dtype, system.dtype)
    batch = torch.broadcast_shapes(u.shape[:-2], system.batch_shape)
    if x0 is not None:
        x0 = as_tensor("x0", x0)
        if x0.dim() < 1 or x0.shape[-1] != n:
            raise ValueError(f"x0 has shape {tuple(x0.shape)}; {n} states need (..., {n})")
        kind = torch.promote_types(kind, x0.dtype)
        batch = torch.broadcast_shapes(batch, x0.shape[:-1])
    A, B, C, D = (M.to(kind) for M in system.matrices)
    u = u.to(kind)
    length = u.shape[-2]
    direct = (u @ D.mT).expand(*batch, length, system.n_outputs)
    start = u.new_zeros(*batch, n) if x0 is None else x0.to(kind).expand(*batch, n)
    if not n:
        return direct, start
    drive = (u @ B.mT).expand(*batch, length, n)
    states, last = _states(A, drive.reshape(-1, length, n), start.reshape(-1, n), batch)
    states, last = states.reshape(*batch, length, n), last.reshape(*batch, n)
    before = torch.cat((start[..., None, :], states[..., :-1, :]), -2)
    return before @ C.mT + direct, last


def _states(A: Tensor, drive: Tensor, start: Tensor, batch: torch.Size) -> tuple[Tensor, Tensor]:
    """Every x_{k+1} = A x_k + drive_k, (B, L, n), and the last one."""
    n = A.shape[-1]
    shared = A.dim() == 2
    diagonal = A.diagonal(dim1=-2, dim2=-1)
    if not torch.count_nonzero(A - torch.diag_embed(diagonal)):
        a = diagonal if shared else diagonal.expand(*batch, n).reshape(-1, 1, n)
        return linear_scan(a, drive, start)
    if A.is_complex():
        A = block([[A.real, -A.imag], [A.imag, A.real]])
        drive, start = (torch.cat((x.real, x.imag), -1) for x in (drive, start))
        parts = _states(A, drive, start, batch)
        return tuple(torch.complex(x[..., :n], x[..., n:]) for x in parts)  # type: ignore[return-value]
    a = A[None] if shared else A.expand(*batch, n, n).reshape(-1, 1, 1, n, n)
    states, last = block_scan(a, drive[..., None, :], start[..., None, :])
    return states[..., 0, :], last[..., 0, :]


def markov_parameters(system: StateSpace, count: int) -> Tensor:
    """D, CB, CAB, CA²B, …: the pulse response of a discrete system, by doubling.

    In continuous time these are D and the derivatives of the impulse response at 0.

    Args:
        system: the system.
        count: how many, at least 1.

    Returns:
        (..., count, p, m).
    """
    if count < 1:
        raise ValueError(f"count is {count}; at least 1 is needed")
    n, m = system.n_states, system.n_inputs
    reached, power, columns = system.B, system.A, 1
    while columns < count - 1:
        reached = torch.cat((reached, power @ reached), -1)
        columns *= 2
        if columns < count - 1:
            power = power @ power
    reached = reached.reshape(*reached.shape[:-2], n, columns, m).movedim(-2, -3)
    later = system.C[..., None, :, :] @ reached[..., : count - 1, :, :]
    return torch.cat((system.D[..., None, :, :], later), -3)


def impulse_response(system: StateSpace, length: int, *, step: float | None = None) -> Tensor:
    """The response to an impulse at time 0.

    Discrete: the pulse response h_0 = D, h_k = C A^{k−1} B. Continuous: samples C e^{A k step} B,
    without the impulse of D itself.

    Args:
        system: the system.
        length: number of samples.
        step: distance of samples, in the unit of time; for continuous systems only.

    Returns:
        (..., length, p, m).
    """
    step = _checked_step(system, step)
    if step is None:
        return markov_parameters(system, length)
    flow = torch.linalg.matrix_exp(system.A * step)
    start = StateSpace(flow, system.B, system.C, torch.zeros_like(system.D), dt=step)
    return markov_parameters(start, length + 1)[..., 1:, :, :]


def step_response(system: StateSpace, length: int, *, step: float | None = None) -> Tensor:
    """The response to inputs that are 1 from time 0 on, one input at a time.

    Args:
        system: the system.
        length: number of samples.
        step: distance of samples, in the unit of time; for continuous systems only, whose
            response is exact at the samples.

    Returns:
        (..., length, p, m).
    """
    step = _checked_step(system, step)
    if step is not None:
        from statewise.lti.convert_rules import to_discrete

        system = to_discrete(system, step)
    return markov_parameters(system, length).cumsum(-3)


def _checked_step(system: StateSpace, step: float | None) -> float | None:
    if system.is_discrete:
        if step is not None:
            raise ValueError(
                f"step is {step}, and the system has its own sampling time {system.dt}"
            )
        return None
    if step is None or not step > 0:
        raise ValueError(f"step is {step}; a continuous system needs a positive time step")
    return float(step)
