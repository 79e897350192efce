"""Dynamics that are diagonal plus low rank, as S4 has them, to and from matrices."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from statewise.lti.diagonal_form import DiagonalForm
from statewise.lti.state_space import StateSpace, as_tensor


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalPlusLowRank:
    """x' = (Λ − P Q*) x + B u, and y = C x + D u; in discrete time with x_{k+1} on the left.

    With ``half``, conjugate states are implied: the dynamics are those of [Λ; Λ̄], [P; P̄], [Q; Q̄]
    and [B; B̄], and y = Re(C x) + D u.

    Attributes:
        poles: the diagonal Λ, (..., n), complex.
        P: left factor, (..., n, r), complex.
        Q: right factor, (..., n, r), complex.
        B: input matrix, (..., n, m), complex.
        C: output matrix, (..., p, n), complex.
        D: direct term, (..., p, m).
        dt: sampling time, or None for continuous time.
        half: whether conjugate states are implied.
    """

    poles: Tensor
    P: Tensor
    Q: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt: float | None = None
    half: bool = False


def from_dplr(form: DiagonalPlusLowRank) -> StateSpace:
    """The matrices of a diagonal plus low rank form; real with ``half``, else complex.

    Real states are √2 (Re x, Im x), a unitary change of the completed states.
    """
    diagonal = DiagonalForm(form.poles, form.B, form.C, form.D, form.dt, form.half)
    if form.P.shape != form.Q.shape or form.P.shape[-2] != form.poles.shape[-1]:
        raise ValueError(
            f"P has shape {tuple(form.P.shape)} and Q {tuple(form.Q.shape)}; "
            f"{form.poles.shape[-1]} poles need both (..., {form.poles.shape[-1]}, r)"
        )
    whole = diagonal.completed()
    P, Q = form.P, form.Q
    if form.half:
        P, Q = torch.cat((P, P.conj()), -2), torch.cat((Q, Q.conj()), -2)
    A = torch.diag_embed(whole.poles) - P @ Q.mH
    if not form.half:
        return StateSpace(A, whole.B, whole.C, whole.D, form.dt)
    n = form.poles.shape[-1]
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    W = torch.cat((torch.cat((eye, 1j * eye), 1), torch.cat((eye, -1j * eye), 1)), 0) / math.sqrt(2)
    return StateSpace(
        (W.mH @ A @ W).real, (W.mH @ whole.B).real, (whole.C @ W).real, form.D, form.dt
    )


def to_dplr(system: StateSpace, P: Tensor) -> DiagonalPlusLowRank:
    """A system in the basis that makes the normal part of A + P P* diagonal.

    A + P P* must be a multiple of I plus a skew-Hermitian matrix, as for the HiPPO operators; its
    eigenvectors are unitary, so no digits are lost.

    Args:
        system: the system.
        P: low-rank factor, (..., n, r).

    Returns:
        The form with all states and Q = P.

    Raises:
        ValueError: the rest is no such matrix.
    """
    P = as_tensor("P", P)
    if P.dim() < 2 or P.shape[-2] != system.n_states:
        raise ValueError(
            f"P has shape {tuple(P.shape)}; {system.n_states} states need "
            f"(..., {system.n_states}, r)"
        )
    kind = torch.promote_types(torch.promote_types(P.dtype, system.dtype), torch.complex64)
    P = P.to(kind)
    A, B, C = (M.to(kind) for M in (system.A, system.B, system.C))
    normal = A + P @ P.mH
    eye = torch.eye(system.n_states, dtype=kind, device=A.device)
    shift = normal.diagonal(dim1=-2, dim2=-1).real.mean(-1)[..., None, None]
    skew = normal - shift * eye
    rest = (skew + skew.mH).abs().amax() / A.abs().amax().clamp_min(torch.finfo(kind).tiny)
    if rest > math.sqrt(torch.finfo(kind).eps) * 1e-2:
        raise ValueError(
            f"A + P P* must be a multiple of I plus a skew matrix; it misses this by "
            f"{rest.item():.3g} of the largest entry of A"
        )
    frequency, W = torch.linalg.eigh(-0.5j * (skew - skew.mH))
    P = W.mH @ P
    poles = torch.complex(shift[..., 0].expand_as(frequency), frequency)
    return DiagonalPlusLowRank(poles, P, P, W.mH @ B, C @ W, system.D, system.dt)
