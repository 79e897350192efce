"""One-step errors of a system in innovation form and their sensitivities, record by record."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from statewise.lti._coordinates import Matrices, tangent_complement
from statewise.lti._descent import Linearised
from statewise.lti._hankel import Records, fold
from statewise.lti._output_fit import states_before
from statewise.ops import block_scan

ROWS = 16384
# Eigenvalues of the covariance of the errors, relative to their mean, below which they are noise.
SINGULAR = 1e-10
FLOOR = 1e-32


@dataclasses.dataclass(frozen=True)
class Point:
    """A system with what it makes of the records.

    Attributes:
        matrices: A, B, K, C and D.
        errors: one-step errors ε of each record, (T, p).
        states: x̂ of each record, (T, n).
        x0: first states, (records, n).
        covariance: mean of ε εᵀ, (p, p).
    """

    matrices: Matrices
    errors: list[Tensor]
    states: list[Tensor]
    x0: Tensor
    covariance: Tensor

    @property
    def samples(self) -> int:
        """Number of samples of all records."""
        return sum(len(e) for e in self.errors)

    @property
    def cost(self) -> float:
        """N log det of the covariance, of which nothing below rounding counts."""
        if not self.covariance.isfinite().all():
            return math.inf
        values = torch.linalg.eigvalsh(self.covariance)
        least = max(SINGULAR * float(values.clamp_min(0).mean()), FLOOR)
        return self.samples * float(values.clamp_min(least).log().sum())

    @property
    def weight(self) -> Tensor:
        """W with Wᵀ W the inverse of the covariance, kept from being singular."""
        values, axes = torch.linalg.eigh(self.covariance)
        least = max(SINGULAR * float(values.clamp_min(0).mean()), FLOOR)
        return axes.mT / values.clamp_min(least).sqrt()[:, None]


def predict(records: Records, matrices: Matrices, weight: Tensor, at_rest: bool) -> Point:
    """Run the predictor, with the first states that minimise Σ ‖W ε‖² unless at rest."""
    A, B, K, C, D = matrices
    inner = A - K @ C
    n = len(A)
    errors, states, starts = [], [], []
    for u, y in zip(records.u, records.y, strict=True):
        drive = (u @ (B - K @ D).mT + y @ K.mT)[:, :, None]
        x0 = A.new_zeros(n)
        if not at_rest:
            bare = states_before(inner[None], drive, x0[None, None])[0, :, 0]
            rest = y[0] - bare @ C.mT - u[0] @ D.mT
            free = _free(inner, C, len(rest))
            x0 = _least_norm((weight @ free).flatten(0, 1), (rest @ weight.mT).flatten())
        x = states_before(inner[None], drive, x0[None, None])[0, :, 0]
        errors.append(y[0] - x @ C.mT - u[0] @ D.mT)
        states.append(x)
        starts.append(x0)
    every = torch.cat(errors)
    return Point(matrices, errors, states, torch.stack(starts), every.mT @ every / len(every))


def linearise(
    records: Records, point: Point, basis: Tensor, at_rest: bool
) -> tuple[Linearised, int]:
    """The triangular factor of W ∂ε/∂θ along the basis, first states eliminated.

    With G(q) = C (qI − Ā)⁻¹, Ā = A − K C: ∂ε/∂A_ij = −G e_i x̂_j, likewise for B with u_j and for
    K with ε_j; ∂ε/∂C_ij = −e_i x̂_j + G K e_i x̂_j, likewise for D with u_j; ∂ε/∂x_0 = −C Āᵗ.

    Returns:
        The factor, and how many numbers the first states take.
    """
    A, _, K, C, _ = point.matrices
    inner, weight, n = A - K @ C, point.weight, len(A)
    factor: Tensor | None = None
    lead = 0 if at_rest else n
    for u, x, e in zip((u[0] for u in records.u), point.states, point.errors, strict=True):
        signals = torch.cat((x, u, e), 1)
        carry = A.new_zeros(1, len(C), signals.shape[1] + 1, n)
        carry[0, :, 0] = C
        own: Tensor | None = None
        for start in range(0, len(e), ROWS):
            part = slice(start, start + ROWS)
            rows, carry = _rows(inner, K, C, signals[part], u.shape[1], carry)
            J = rows[..., n:] @ basis
            block = torch.cat((rows[..., :lead], J, e[part, :, None]), -1)
            own = fold(own, (weight @ block).flatten(0, 1))
        assert own is not None
        factor = fold(factor, own[lead:, lead:])
    assert factor is not None
    d = basis.shape[1]
    R = factor[:d].numpy()
    level = float(point.covariance.diagonal().mean())
    taken = lead * len(point.errors)
    return Linearised(R[:, :d], R[:, d], 1.0, level, basis.numpy()), taken


def basis_of(point: Point, noise: bool, direct: bool) -> Tensor:
    """Local coordinates at a point."""
    return tangent_complement(point.matrices, noise, direct)


def _rows(
    inner: Tensor, K: Tensor, C: Tensor, signals: Tensor, m: int, carry: Tensor
) -> tuple[Tensor, Tensor]:
    """∂ε/∂(x_0, A, B, K, C, D), (T, p, …), and the responses G s at the next sample.

    ``carry`` is (1, p, 1 + signals, n): rows C Āᵗ, then those of each signal.
    """
    (p, n), (length, q) = C.shape, signals.shape
    drive = inner.new_zeros(1, length, p, 1 + q, n)
    torch.mul(signals[:, None, :, None], C[:, None], out=drive[0, :, :, 1:])
    later = block_scan(
        inner.mT.contiguous()[None, None, None], drive.flatten(2, 3), carry.flatten(1, 2)
    )
    states = later[0].reshape(1, length, p, 1 + q, n)
    rows = torch.cat((carry[:, None], states[:, :-1]), 1)[0]
    response = rows[:, :, 1:]
    eye = torch.eye(p, dtype=C.dtype)
    moved = response @ K
    parts = [-rows[:, :, 0]]
    for part in (slice(0, n), slice(n, n + m), slice(n + m, q)):
        parts.append(-response[:, :, part].mT.flatten(2))
    for part in (slice(0, n), slice(n, n + m)):
        direct = eye[:, :, None] * signals[:, None, None, part]
        parts.append((moved[:, :, part].mT - direct).flatten(2))
    return torch.cat(parts, -1), later[1].reshape(1, p, 1 + q, n)


def _free(inner: Tensor, C: Tensor, length: int) -> Tensor:
    """C Āᵗ, (T, p, n)."""
    if length == 1:
        return C[None]
    zero = inner.new_zeros(1, length - 1, *C.shape)
    later = block_scan(inner.mT.contiguous()[None, None, None], zero, C[None].contiguous())[0][0]
    return torch.cat((C[None], later))


def _least_norm(M: Tensor, y: Tensor) -> Tensor:
    R = fold(None, torch.cat((M, y[:, None]), 1))
    n = M.shape[1]
    return torch.linalg.pinv(R[:n, :n], rtol=1e-11) @ R[:n, n]


def simulated(records: Records, point: Point) -> list[Tensor]:
    """Errors of the simulation from the first states, (T, p) for each record."""
    A, B, _, C, D = point.matrices
    rests = []
    for u, y, x0 in zip(records.u, records.y, point.x0, strict=True):
        x = states_before(A[None], (u @ B.mT)[:, :, None], x0[None, None])[0, :, 0]
        rests.append(y[0] - x @ C.mT - u[0] @ D.mT)
    return rests
