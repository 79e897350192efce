"""Smaller systems by balancing and by choice of modes, with bounds of the error."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from statewise.lti.diagonal_form import DiagonalForm, from_diagonal, to_diagonal
from statewise.lti.gramians import (
    check_stable,
    compressed,
    controllability_factor,
    observability_factor,
)
from statewise.lti.interconnect import series
from statewise.lti.matrices import eigenvectors, identity_like, needs_one
from statewise.lti.state_space import StateSpace


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Reduction:
    """A reduced system and what is known about its error.

    Attributes:
        system: the reduced system.
        values: what the choice went by, (..., n) descending: Hankel singular values (weighted ones
            with weights), or for modes their share ‖c_i‖‖b_i‖/distance from the boundary.
        bound: an upper bound of ‖G − G_r‖_∞, (...); None where the method has none.
        right: T_r of x ≈ T_r z, (..., n, r).
        left: T_l of z = T_l x, (..., r, n), with T_l T_r = I.
    """

    system: StateSpace
    values: Tensor
    bound: Tensor | None
    right: Tensor
    left: Tensor

    def __repr__(self) -> str:
        bound = "none" if self.bound is None else f"{self.bound.max().item():.3g}"
        return f"Reduction({self.system}, bound {bound})"


def balanced_realisation(system: StateSpace) -> Reduction:
    """The system in states whose Gramians are both diag(σ).

    States with σ below n times the rounding unit of the largest, which are unreachable or unseen
    to working precision, are left out; in a batch, those that are so in every system.
    """
    return balanced_truncation(system, system.n_states)


def balanced_truncation(
    system: StateSpace, order: int | None = None, *, tolerance: float | None = None
) -> Reduction:
    """The ``order`` balanced states with the largest Hankel singular values (square-root method).

    The error lies between the first value left out and twice the sum of all of them:
    σ_{r+1} ≤ ‖G − G_r‖_∞ ≤ 2 Σ_{i>r} σ_i. The reduced system is stable. In discrete time the
    Gramians of the reduced system are not diag(σ), and its direct term is that of the system.

    Args:
        system: a stable system; the order is common to a batch.
        order: number of states r; one of this and ``tolerance``.
        tolerance: take the least order whose bound is at most this, in every system of the batch.

    Raises:
        ValueError: an unstable system, or an order out of range.

    Source: Moore, Principal component analysis in linear systems (1981); Tombs & Postlethwaite
    (1987) for the square-root method; Glover (1984) for the bound.
    """
    return _project(system, *_weighted(system), order, tolerance, bounded=True)


def weighted_truncation(
    system: StateSpace,
    order: int,
    *,
    input_weight: StateSpace | None = None,
    output_weight: StateSpace | None = None,
) -> Reduction:
    """Balanced truncation for small ‖W_o (G − G_r) W_i‖, by the Gramians of W_o G and G W_i.

    There is no bound, and with weights on both sides the reduced system may be unstable.

    Args:
        system: a stable system.
        order: number of states.
        input_weight: W_i, stable; None for 1.
        output_weight: W_o, stable; None for 1.

    Source: Enns, Model reduction with balanced realizations (1984).
    """
    if input_weight is None and output_weight is None:
        return balanced_truncation(system, order)
    for weight in (input_weight, output_weight):
        if weight is not None:
            system = system.to(torch.promote_types(system.dtype, weight.dtype))
    factors = _weighted(system, input_weight, output_weight)
    return _project(system, *factors, order, None, bounded=False)


def singular_perturbation(
    system: StateSpace, order: int | None = None, *, tolerance: float | None = None
) -> Reduction:
    """Balanced states with small Hankel values put at rest: the gain for constant inputs is kept.

    In discrete time, A_r = A₁₁ + A₁₂(I − A₂₂)⁻¹A₂₁ and so on; in continuous time with −A₂₂ for
    I − A₂₂. The bound is that of :func:`balanced_truncation`. Arguments are those of it too.

    Source: Liu & Anderson, Singular perturbation approximation of balanced systems (1989).
    """
    full = balanced_realisation(system)
    r, bound = _chosen(full.values, order, tolerance)
    r = min(r, full.system.n_states)
    A, B, C, D = full.system.matrices
    slow, fast = slice(None, r), slice(r, None)
    rest = A[..., fast, fast]
    stiff = identity_like(rest) - rest if system.is_discrete else -rest
    settle = torch.linalg.solve(stiff, torch.cat((A[..., fast, slow], B[..., fast, :]), -1))
    from_slow, from_input = settle[..., :r], settle[..., r:]
    reduced = StateSpace(
        A[..., slow, slow] + A[..., slow, fast] @ from_slow,
        B[..., slow, :] + A[..., slow, fast] @ from_input,
        C[..., slow] + C[..., fast] @ from_slow,
        D + C[..., fast] @ from_input,
        system.dt,
    )
    return Reduction(reduced, full.values, bound, full.right[..., :r], full.left[..., :r, :])


def modal_truncation(system: StateSpace, order: int, *, match_dc: bool = False) -> Reduction:
    """The modes with the largest share of the response; conjugate pairs stay together.

    The share of a mode, ‖c_i‖‖b_i‖/(1 − |λ_i|), or over |Re λ_i|, is its own H-infinity norm, so
    that the shares left out bound the error (twice with ``match_dc``).

    Args:
        system: one stable system with independent eigenvectors.
        order: largest number of states; a pair that would exceed it is passed over.
        match_dc: put the constant gain of what is left out into D.

    Raises:
        ValueError: a batch, an unstable or defective system, or an order out of range.
    """
    needs_one(system, "modal_truncation")
    check_stable(system, "modal truncation")
    _check_order(order, system.n_states)
    form = to_diagonal(system)
    distance = 1 - form.poles.abs() if system.is_discrete else -form.poles.real
    share = torch.linalg.vector_norm(form.B, dim=-1) * torch.linalg.vector_norm(form.C, dim=-2)
    share = share / distance
    kept: list[int] = []
    for group in _groups(form, share, real=not system.is_complex):
        if len(kept) + len(group) <= order:
            kept += group
    # The eigenvalues of a real matrix have both of a pair side by side.
    kept.sort()
    left_out = [i for i in range(system.n_states) if i not in kept]
    D = form.D
    if match_dc and left_out:
        point = 1.0 if system.is_discrete else 0.0
        static = (form.residues[left_out] / (point - form.poles[left_out])[:, None, None]).sum(0)
        D = D + (static if system.is_complex else static.real)
    part = DiagonalForm(form.poles[kept], form.B[kept], form.C[:, kept], D, system.dt)
    bound = share[left_out].sum() * (2 if match_dc else 1)
    V = eigenvectors(system.A)[1]
    right, left = V[:, kept], torch.linalg.inv(V)[kept]
    values = share.sort(descending=True)[0]
    return Reduction(from_diagonal(part, real=not system.is_complex), values, bound, right, left)


def _groups(form: DiagonalForm, share: Tensor, *, real: bool) -> list[list[int]]:
    """Modes that stay together, those with the largest share first."""
    groups = []
    for i, pole in enumerate(form.poles.tolist()):
        if real and pole.imag < 0:
            continue
        groups.append([i, i + 1] if real and pole.imag > 0 else [i])
    return sorted(groups, key=lambda group: -share[group[0]].item())


def _weighted(
    system: StateSpace,
    input_weight: StateSpace | None = None,
    output_weight: StateSpace | None = None,
) -> tuple[Tensor, Tensor]:
    """Factors of the Gramians of G W_i and W_o G for the states of G."""
    n = system.n_states
    if input_weight is None:
        Lp = controllability_factor(system)
    else:
        first = input_weight.n_states
        Lp = compressed(controllability_factor(series(input_weight, system))[..., first:, :])
    if output_weight is None:
        Lq = observability_factor(system)
    else:
        Lq = compressed(observability_factor(series(system, output_weight))[..., :n, :])
    return Lp, Lq


def _project(
    system: StateSpace,
    Lp: Tensor,
    Lq: Tensor,
    order: int | None,
    tolerance: float | None,
    *,
    bounded: bool,
) -> Reduction:
    """Truncation in the states that balance the Gramians Lp Lp* and Lq Lq*."""
    U, sigma, Vh = torch.linalg.svd(Lq.mH @ Lp)
    r, bound = _chosen(sigma, order, tolerance)
    n = system.n_states
    floor = n * torch.finfo(sigma.dtype).eps * sigma[..., :1]
    r = min(r, int((sigma > floor).sum(-1).max())) if n else 0
    root = sigma[..., :r].maximum(floor).rsqrt().to(system.dtype)
    right = Lp @ Vh[..., :r, :].mH * root[..., None, :]
    left = root[..., None] * (U[..., :r].mH @ Lq.mH)
    reduced = StateSpace(
        left @ system.A @ right, left @ system.B, system.C @ right, system.D, system.dt
    )
    return Reduction(reduced, sigma, bound if bounded else None, right, left)


def _chosen(sigma: Tensor, order: int | None, tolerance: float | None) -> tuple[int, Tensor]:
    """The order, and twice the sum of the values left out."""
    n = sigma.shape[-1]
    tails = torch.nn.functional.pad(2 * sigma.flip(-1).cumsum(-1).flip(-1), (0, 1))
    if order is None and tolerance is not None:
        fits = (tails <= tolerance).reshape(-1, n + 1).all(0)
        order = int(fits.long().argmax())
        if not fits[order]:
            raise ValueError(f"tolerance is {tolerance}; it must not be negative")
    elif order is None or tolerance is not None:
        raise ValueError(
            f"one of order and tolerance is needed; given order={order}, tolerance={tolerance}"
        )
    _check_order(order, n)
    return order, tails[..., order]


def _check_order(order: int, n: int) -> None:
    if not 0 <= order <= n:
        raise ValueError(f"order is {order}; a system of {n} states needs 0 to {n}")
