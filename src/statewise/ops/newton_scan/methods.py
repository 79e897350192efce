"""How one iterate of a Newton scan follows from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from statewise.ops.newton_scan.linearised import Linearised


class Method(Protocol):
    """The next trajectory from the recurrence linearised along the present one."""

    def update(self, step: Linearised, h: Tensor) -> Tensor:
        """The next iterate, (B, L, n)."""
        ...


@dataclass(frozen=True)
class Newton:
    """Newton's method: h_t = J_t h_{t−1} + f_t − J_t p_t, one linear scan with the full Jacobian.

    Converges quadratically near the answer; iterate k equals the sequential run on the first k
    steps, whatever the cell.

    Source: DEER (arXiv 2309.12252), equation 5.
    """

    def update(self, step: Linearised, h: Tensor) -> Tensor:
        """The next iterate, (B, L, n)."""
        return step.scan(step.J, step.offset())


@dataclass(frozen=True)
class QuasiNewton:
    """Newton's method with the diagonal of the Jacobian alone.

    Converges linearly; iterate k still equals the sequential run on the first k steps. For a
    diagonal cell it is :class:`Newton`.

    Source: quasi-DEER (arXiv 2407.19115), section 4.1.
    """

    def update(self, step: Linearised, h: Tensor) -> Tensor:
        """The next iterate, (B, L, n)."""
        return Newton().update(step.main_diagonal(), h)


@dataclass(frozen=True)
class Damped:
    """Newton's method in a trust region: the update is a Kalman filter's mean.

    The linearised recurrence with unit process noise is the model, the present iterate is observed
    with noise of variance 1/strength, and the filtered mean is the next iterate:

        h_t = p_t' + S_t (m_t − p_t'),  m_t = J_t h_{t−1} + f_t − J_t p_t,  S_t = (I + λ P_t)⁻¹,

    with p_t' the present state, P_t the predicted covariance and λ the strength. The gain S shrinks
    the effective Jacobian S_t J_t where uncertainty would grow, so that expanding stretches cannot
    blow up. λ = 0 is :class:`Newton`.

    Attributes:
        strength: λ ≥ 0.
        diagonal: use the diagonal of the Jacobian alone, with scalar filters.

    Raises:
        ValueError: a negative strength.

    Source: ELK and quasi-ELK (arXiv 2407.19115), section 4.2; the parallel filter of Särkkä and
    García-Fernández (2021), section IV.
    """

    strength: float
    diagonal: bool = False

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"Damped: strength is {self.strength}; it must be at least 0")

    def update(self, step: Linearised, h: Tensor) -> Tensor:
        """The next iterate, (B, L, n)."""
        if self.diagonal:
            step = step.main_diagonal()
        if self.strength == 0:
            return Newton().update(step, h)
        fresh, reverse = step.layout.fresh, step.layout.reverse
        J = torch.where(fresh[(..., *(None,) * (step.J.dim() - 2))], 0, step.J)
        wanted = step.offset() - h
        if step.diagonal:
            gain = 1 / (1 + self.strength * _predicted(J, self.strength, reverse, _Scalars()))
            return step.scan(gain * J, h + gain * wanted)
        eye = torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)
        P = _predicted(J, self.strength, reverse, _Matrices(eye))
        damped = eye + self.strength * P
        right = torch.cat([J, step.blocks(wanted).unsqueeze(-1)], -1)
        solved = torch.linalg.solve(damped, right)
        return step.scan(solved[..., :-1], h + solved[..., -1].flatten(-2))


class _Scalars:
    """Arithmetic of the filter's elements for scalar states."""

    one = 1.0

    def square(self, A: Tensor, C: Tensor | float) -> Tensor:
        """A C Aᵀ."""
        return A * A * C

    def gram(self, A: Tensor) -> Tensor:
        """Aᵀ A."""
        return A * A

    def combine(self, first: tuple, second: tuple) -> tuple:
        """The element of two stretches of time, one after the other."""
        (A1, C1, V1), (A2, C2, V2) = first, second
        shared = 1 / (1 + C1 * V2)
        return A2 * A1 * shared, A2 * A2 * C1 * shared + C2, A1 * A1 * V2 * shared + V1


class _Matrices:
    """The same for vectors."""

    def __init__(self, eye: Tensor) -> None:
        self.one = eye

    def square(self, A: Tensor, C: Tensor) -> Tensor:
        """A C Aᵀ."""
        return A @ C @ A.mT

    def gram(self, A: Tensor) -> Tensor:
        """Aᵀ A."""
        return A.mT @ A

    def combine(self, first: tuple, second: tuple) -> tuple:
        """The element of two stretches of time, one after the other."""
        (A1, C1, V1), (A2, C2, V2) = first, second
        k = A1.shape[-1]
        solved = torch.linalg.solve(self.one + C1 @ V2, torch.cat([A1, C1], -1))
        A = A2 @ solved[..., :k]
        C = A2 @ solved[..., k:] @ A2.mT + C2
        V = A1.mT @ torch.linalg.solve(self.one + V2 @ C1, V2 @ A1) + V1
        return A, C, V


def _predicted(J: Tensor, strength: float, reverse: bool, kind: _Scalars | _Matrices) -> Tensor:
    """The filter's predicted covariance at every step: J P Jᵀ + I, P the filtered one before.

    An associative scan of elements (A, C, V) over 1, 2, 4, … steps; C of the prefix is the
    filtered covariance. J is zero at steps that start anew.
    """
    if reverse:
        J = J.flip(1)
    A = J / (1 + strength)
    C = (kind.one / (1 + strength)) + torch.zeros_like(J)
    V = strength / (1 + strength) * kind.gram(J)
    reach = 1
    while reach < J.shape[1]:
        first = tuple(x[:, :-reach] for x in (A, C, V))
        second = tuple(x[:, reach:] for x in (A, C, V))
        joined = kind.combine(first, second)
        A, C, V = (torch.cat([x[:, :reach], y], 1) for x, y in zip((A, C, V), joined, strict=True))
        reach *= 2
    before = torch.cat([torch.zeros_like(C[:, :1]), C[:, :-1]], 1)
    P = kind.square(J, before) + kind.one  # pyright: ignore[reportArgumentType]
    return P.flip(1) if reverse else P
