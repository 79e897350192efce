"""The output convention of Statewise's layers, and its exact conversions to the textbook form."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from statewise.lti.state_space import StateSpace


@dataclasses.dataclass(frozen=True, eq=False)
class UpdatedForm:
    """x_k = A x_{k−1} + B u_k,  y_k = C x_k + D u_k: the output uses the updated state.

    Attributes:
        A: dynamics, (..., n, n).
        B: input matrix, (..., n, m).
        C: output matrix, (..., p, n).
        D: direct term, (..., p, m).
        dt: sampling time.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt: float


def from_updated(form: UpdatedForm) -> StateSpace:
    """The textbook form of an updated one: (A, B, CA, D + CB).

    The textbook state is the one *before* the update, s_k = x_{k−1}; an initial state x_{−1} is
    s_0. Exact for every A.
    """
    inner = StateSpace(form.A, form.B, form.C, form.D, form.dt)
    return StateSpace(
        inner.A, inner.B, inner.C @ inner.A, inner.D + inner.C @ inner.B, _discrete(inner)
    )


def to_updated(system: StateSpace, *, augment: bool = False) -> UpdatedForm:
    """The updated form with the input-output map of a textbook one.

    Without ``augment``, (A, B, CA⁻¹, D − CA⁻¹B), which needs an invertible A and keeps the
    states: x_k = s_{k+1}. With it, the states (s_{k+1}, C s_k), n + p of them, which is exact for
    every A.

    Args:
        system: a discrete system.
        augment: add p states that delay the output, instead of inverting A.

    Returns:
        The updated form, of the batch shape of the system.

    Raises:
        ValueError: continuous time, or an A that is singular to working precision.
    """
    dt = _discrete(system)
    A, B, C, D = system.matrices
    if augment:
        p, n = system.n_outputs, system.n_states
        zero = C.new_zeros(*system.batch_shape, n + p, p)
        eye = torch.eye(p, dtype=C.dtype, device=C.device)
        return UpdatedForm(
            torch.cat((torch.cat((A, C), -2), zero), -1),
            torch.cat((B, torch.zeros_like(D)), -2),
            torch.cat((torch.zeros_like(C), eye.expand(*system.batch_shape, p, p)), -1),
            D,
            dt,
        )
    sizes = torch.linalg.svdvals(A)
    if sizes.numel():
        ratio = (sizes[..., -1] / sizes[..., 0].clamp_min(torch.finfo(sizes.dtype).tiny)).min()
        if ratio < system.n_states * torch.finfo(sizes.dtype).eps:
            raise ValueError(
                f"to_updated needs an invertible A, and the reciprocal condition is "
                f"{ratio.item():.3g}; with augment=True the conversion is exact for every A"
            )
    C = torch.linalg.solve(A, C, left=False)
    return UpdatedForm(A, B, C, D - C @ B, dt)


def _discrete(system: StateSpace) -> float:
    if system.dt is None:
        raise ValueError("the updated form is one of discrete time, and dt is None")
    return system.dt
