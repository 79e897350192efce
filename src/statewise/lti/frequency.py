"""Responses in frequency."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from statewise.lti.matrices import identity_like, numpy_each
from statewise.lti.state_space import StateSpace, as_tensor

DIRECT = 12
ENTRIES = 2**24


def boundary(system: StateSpace, frequency: Tensor) -> Tensor:
    """iω, or e^{iω dt} in discrete time: where frequency responses are taken."""
    angle = frequency if system.dt is None else frequency * system.dt
    if system.dt is None:
        return torch.complex(torch.zeros_like(angle), angle)
    return torch.polar(torch.ones_like(angle), angle)


def frequency_response(system: StateSpace, frequency: Any) -> Tensor:
    """The transfer matrix on the boundary of stability: G(iω), or G(e^{iω dt}).

    Diagonal dynamics are summed over poles; small ones and those that need gradients are solved
    directly; larger ones are brought to triangular form once (complex Schur), so that a frequency
    costs n² and not n³ operations.

    Args:
        system: the system.
        frequency: ω in radians per unit of time, (F,), real; the Nyquist frequency is π/dt.

    Returns:
        (..., F, p, m), complex.

    Raises:
        ValueError: frequencies that are no real vector, or one that is a pole.
    """
    frequency = as_tensor("frequency", frequency).to(system.device)
    if frequency.dim() != 1 or frequency.is_complex():
        raise ValueError(
            f"frequency has shape {tuple(frequency.shape)} and type {frequency.dtype}; a real "
            f"vector (F,) is needed"
        )
    kind = torch.promote_types(system.dtype, torch.complex64)
    points = boundary(system, frequency.to(kind.to_real()))
    return on_points(system, points)


def on_points(system: StateSpace, points: Tensor) -> Tensor:
    """The transfer matrix at complex points (F,): (..., F, p, m); see frequency_response."""
    A, B, C, D = (M.to(points.dtype) for M in system.matrices)
    poles = A.diagonal(dim1=-2, dim2=-1)
    if not torch.count_nonzero(A - torch.diag_embed(poles)):
        gap = points[:, None] - poles[..., None, :]
        _refuse_pole(bool((gap == 0).any()))
        weighted = C[..., None, :, :] / gap[..., :, None, :]
        return weighted @ B[..., None, :, :] + D[..., None, :, :]
    wanted = torch.is_grad_enabled() and any(M.requires_grad for M in system.matrices)
    direct = system.n_states <= DIRECT or wanted
    if not direct:
        A, Z = numpy_each(_schur, A)
        B, C = Z.mH @ B, C @ Z
    eye = identity_like(A)
    size = max(1, ENTRIES // max(1, A.numel()))
    parts = []
    for some in points.split(size):
        left = some[:, None, None] * eye - A[..., None, :, :]
        right = B[..., None, :, :].expand(*left.shape[:-1], B.shape[-1])
        if direct:
            inner, info = torch.linalg.solve_ex(left, right)
            _refuse_pole(bool((info != 0).any()))
        else:
            _refuse_pole(bool((left.diagonal(dim1=-2, dim2=-1) == 0).any()))
            inner = torch.linalg.solve_triangular(left, right, upper=True)
        parts.append(C[..., None, :, :] @ inner + D[..., None, :, :])
    return torch.cat(parts, -3)


def dc_gain(system: StateSpace) -> Tensor:
    """The gain for constant inputs, G(0) or G(1): (..., p, m), of the system's type.

    Raises:
        ValueError: the system integrates, so that the gain is infinite.
    """
    point = 0.0 if system.dt is None else 1.0
    kind = torch.promote_types(system.dtype, torch.complex64)
    gain = on_points(system, torch.tensor([point], dtype=kind, device=system.device))[..., 0, :, :]
    return gain if system.is_complex else gain.real


def _schur(A: Any) -> Any:
    import scipy.linalg

    return scipy.linalg.schur(A, output="complex")


def _refuse_pole(found: bool) -> None:
    if found:
        raise ValueError("a frequency is a pole of the system, where its response is infinite")
