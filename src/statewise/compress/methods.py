"""Ways to make one linear system smaller, as data."""

from __future__ import annotations

import abc
import dataclasses
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from statewise._config import register
from statewise.lti import (
    StateSpace,
    balanced_realisation,
    from_diagonal,
    h2_reduction,
    singular_perturbation,
    to_diagonal,
)
from statewise.lti.diagonal_form import DiagonalForm
from statewise.lti.reduction import Reduction

DEPENDENT = 1e6
"""Condition of eigenvectors from which on modes are not read from a matrix: they lose digits."""


class Reduced(NamedTuple):
    """A reduced system and its error bound.

    Attributes:
        system: the system, real, or in its modes.
        bound: an upper bound of ‖G − G_r‖_∞; None where the method has none.
    """

    system: StateSpace | DiagonalForm
    bound: float | None


class Plant:
    """One linear system, and what methods ask of it.

    Args:
        given: a real system, or its modes, one of each conjugate pair; without batch.
    """

    def __init__(self, given: StateSpace | DiagonalForm) -> None:
        self.given = given

    @cached_property
    def system(self) -> StateSpace:
        """The system with real matrices."""
        given = self.given
        return from_diagonal(given) if isinstance(given, DiagonalForm) else given

    @cached_property
    def form(self) -> DiagonalForm:
        """The modes, one of each conjugate pair.

        Raises:
            ValueError: a system of matrices whose eigenvectors are nearly dependent.
        """
        if isinstance(self.given, DiagonalForm):
            return self.given
        condition = float(torch.linalg.cond(torch.linalg.eig(self.given.A)[1]))
        if not condition <= DEPENDENT:
            raise ValueError(
                f"the modes of a system of {self.given.n_states} states are nearly dependent: its "
                f"eigenvectors have condition {condition:.3g}, above {DEPENDENT:g}"
            )
        return to_diagonal(self.given, half=True)

    @cached_property
    def balanced(self) -> Reduction:
        """The system in balanced states."""
        return balanced_realisation(self.system)

    @cached_property
    def hankel(self) -> Tensor:
        """Hankel singular values, (n,), descending."""
        return self.balanced.values

    @cached_property
    def shares(self) -> Tensor:
        """‖b_i‖‖c_i‖/(1 − |λ_i|) of every mode, an upper bound of its H-infinity norm, (S,)."""
        form = self.form
        size = torch.linalg.vector_norm(form.B, dim=-1) * torch.linalg.vector_norm(form.C, dim=-2)
        return size / (1 - form.poles.abs())

    @cached_property
    def sizes(self) -> list[int]:
        """Real states of every mode: 2 for a conjugate pair, 1 for a real pole."""
        form = self.form
        wide = form.poles.imag != 0
        wide = wide | (form.B.imag != 0).any(-1) | (form.C.imag != 0).any(-2)
        return [2 if pair else 1 for pair in wide.tolist()]


@dataclasses.dataclass(frozen=True)
class ReductionMethod(abc.ABC):
    """A way to reduce a linear system; base of the kinds below."""

    @abc.abstractmethod
    def values(self, plant: Plant) -> Tensor:
        """What states are chosen by, (n,), descending; twice the sum left out bounds the error."""

    @abc.abstractmethod
    def reduce(self, plant: Plant, order: int) -> Reduced:
        """The system with ``order`` real states at most."""


@dataclasses.dataclass(frozen=True)
class _ByHankelValues(ReductionMethod):
    """What methods that balance share."""

    def values(self, plant: Plant) -> Tensor:
        """See :meth:`ReductionMethod.values`."""
        return plant.hankel


@register
@dataclasses.dataclass(frozen=True)
class BalancedTruncation(_ByHankelValues):
    """Keep the balanced states with the largest Hankel singular values.

    ‖G − G_r‖_∞ ≤ 2 Σ_{j>r} σ_j. See :func:`statewise.lti.balanced_truncation`.
    """

    def reduce(self, plant: Plant, order: int) -> Reduced:
        """See :meth:`ReductionMethod.reduce`."""
        A, B, C, D = plant.balanced.system.matrices
        part = StateSpace(A[:order, :order], B[:order], C[:, :order], D, plant.system.dt)
        return Reduced(part, float(2 * plant.hankel[order:].sum()))


@register
@dataclasses.dataclass(frozen=True)
class SingularPerturbation(_ByHankelValues):
    """Put the balanced states with the smallest Hankel singular values at rest.

    The gain for constant inputs is kept, and ‖G − G_r‖_∞ ≤ 2 Σ_{j>r} σ_j. See
    :func:`statewise.lti.singular_perturbation`.
    """

    def reduce(self, plant: Plant, order: int) -> Reduced:
        """See :meth:`ReductionMethod.reduce`."""
        found = singular_perturbation(plant.system, order)
        return Reduced(found.system, _number(found.bound))


@register
@dataclasses.dataclass(frozen=True)
class ModalTruncation(ReductionMethod):
    """Keep the modes with the largest share ‖b_i‖‖c_i‖/(1 − |λ_i|), as they are.

    The sum of the shares left out bounds the error. Conjugate pairs stay together.
    """

    def values(self, plant: Plant) -> Tensor:
        """See :meth:`ReductionMethod.values`."""
        per_state = [share / size for share, size in zip(plant.shares, plant.sizes, strict=True)]
        found = [v for v, size in zip(per_state, plant.sizes, strict=True) for _ in range(size)]
        return torch.stack(found).sort(descending=True)[0] if found else plant.shares

    def reduce(self, plant: Plant, order: int) -> Reduced:
        """See :meth:`ReductionMethod.reduce`."""
        return _modes(plant, order, match_dc=False)


@register
@dataclasses.dataclass(frozen=True)
class ModalSingularPerturbation(ModalTruncation):
    """Keep the modes with the largest share, and the gain for constant inputs of the others.

    Twice the sum of the shares left out bounds the error.
    """

    def reduce(self, plant: Plant, order: int) -> Reduced:
        """See :meth:`ReductionMethod.reduce`."""
        return _modes(plant, order, match_dc=True)


@register
@dataclasses.dataclass(frozen=True)
class H2Optimal(_ByHankelValues):
    """A local minimum of the error for white inputs, ‖G − G_r‖₂; it has no a-priori bound.

    See :func:`statewise.lti.h2_reduction`, which starts from balanced truncation.

    Attributes:
        iterations: most steps of the iteration.
    """

    iterations: int = 100

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"H2Optimal needs iterations >= 1; given {self.iterations}")

    def reduce(self, plant: Plant, order: int) -> Reduced:
        """See :meth:`ReductionMethod.reduce`."""
        found = h2_reduction(plant.system, order, iterations=self.iterations)
        return Reduced(found.system, None)


def _modes(plant: Plant, order: int, *, match_dc: bool) -> Reduced:
    kept: list[int] = []
    room = order
    for i in plant.shares.argsort(descending=True).tolist():
        if plant.sizes[i] <= room:
            kept.append(i)
            room -= plant.sizes[i]
    kept.sort()
    left_out = [i for i in range(len(plant.sizes)) if i not in set(kept)]
    form, D = plant.form, plant.form.D
    if match_dc and left_out:
        weighted = form.C[:, left_out] / (1 - form.poles[left_out])
        D = D + (weighted @ form.B[left_out]).real
    part = DiagonalForm(form.poles[kept], form.B[kept], form.C[:, kept], D, form.dt, half=True)
    bound = plant.shares[left_out].sum() * (2 if match_dc else 1)
    return Reduced(part, float(bound))


def _number(bound: Tensor | None) -> float | None:
    return None if bound is None else float(bound)
