"""Partial fractions: a system as its poles and the residue matrix of each."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from statewise.lti.diagonal_form import DiagonalForm, from_diagonal, to_diagonal
from statewise.lti.state_space import StateSpace


@dataclasses.dataclass(frozen=True, eq=False)
class PoleResidue:
    """G(s) = D + Σ_i R_i / (s − λ_i), simple poles.

    Attributes:
        poles: λ, (..., n), complex; conjugate pairs are both listed.
        residues: R, (..., n, p, m), complex.
        D: direct term, (..., p, m).
        dt: sampling time, or None for continuous time.
    """

    poles: Tensor
    residues: Tensor
    D: Tensor
    dt: float | None = None

    def __call__(self, points: Any) -> Tensor:
        """G at ``points``, which broadcast with the batch dimensions: (..., p, m), complex."""
        s = torch.as_tensor(points, dtype=self.poles.dtype, device=self.poles.device)
        weights = 1 / (s[..., None] - self.poles)
        return (weights[..., None, None] * self.residues).sum(-3) + self.D


def to_pole_residue(system: StateSpace) -> PoleResidue:
    """The partial fractions of a system with simple poles; see :func:`to_diagonal` for errors."""
    form = to_diagonal(system)
    return PoleResidue(form.poles, form.residues, form.D, form.dt)


def from_pole_residue(
    form: PoleResidue, *, real: bool = True, tolerance: float = 1e-12
) -> StateSpace:
    """A realisation of least order: each residue of rank r gives r states (Gilbert).

    Args:
        form: the partial fractions.
        real: make the matrices real; poles and residues must come in conjugate pairs.
        tolerance: singular values of a residue below this part of its largest are 0. In a batch,
            a residue has the largest rank that it has in any of the systems.

    Returns:
        The system.

    Raises:
        ValueError: ``real`` and poles that are no conjugate pairs.
    """
    poles, residues = form.poles, form.residues
    # The two of a pair must have conjugate factors, so the lower one takes those of the upper.
    lower = (poles.imag < 0)[..., None, None] & torch.tensor(real, device=poles.device)
    upper = torch.where(lower, residues.conj(), residues)
    on_axis = (poles.imag == 0)[..., None, None] & torch.tensor(real, device=poles.device)
    upper = torch.where(on_axis, upper.real.to(upper.dtype), upper)
    U, S, Vh = torch.linalg.svd(upper, full_matrices=False)
    if real:
        U, Vh = _real_where(on_axis, upper, U, Vh)
    ranks = (
        (tolerance * S[..., :1] < S)
        .sum(-1)
        .reshape(math.prod(poles.shape[:-1]), poles.shape[-1])
        .amax(0)
    )
    rows = [i for i, rank in enumerate(ranks.tolist()) for _ in range(rank)]
    columns = [k for rank in ranks.tolist() for k in range(rank)]
    root = S.sqrt()
    out = torch.where(lower, U.conj(), U) * root[..., None, :]
    into = torch.where(lower, Vh.conj(), Vh) * root[..., None]
    C = out.mT[..., rows, columns, :].mT
    B = into[..., rows, columns, :]
    return from_diagonal(DiagonalForm(poles[..., rows], B, C, form.D, form.dt), real=real)


def _real_where(mask: Tensor, matrix: Tensor, U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
    """Real singular vectors of the matrices that are real."""
    Ur, _, Vr = torch.linalg.svd(matrix.real, full_matrices=False)
    return torch.where(mask, Ur.to(U.dtype), U), torch.where(mask, Vr.to(Vh.dtype), Vh)
