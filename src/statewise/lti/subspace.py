"""Subspace identification: N4SID, MOESP, CVA and SSARX as weights of one engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from statewise.lti._estimates import FOCUS, Estimate, estimate
from statewise.lti._hankel import (
    layout_of,
    read_batch,
    read_records,
    triangular_factor,
)
from statewise.lti._lanes import lanes_of, window_gram
from statewise.lti._order import CRITERIA, checked_order, order_scores
from statewise.lti._projections import decompose
from statewise.lti.state_space import StateSpace
from statewise.lti.weightings import CVA, Weighting

LARGEST = 10
# Samples of a batch that are worked on at once: enough to hide the calls, few enough for caches.
PIECE = 240_000


@dataclasses.dataclass(frozen=True, eq=False)
class SubspaceResult:
    """What subspace identification found; the first axis is the record, or the series of a batch.

    x_{t+1} = A x_t + B u_t + K e_t,  y_t = C x_t + D u_t + e_t.

    Attributes:
        system: A, B, C and D; with the batch shape (B,) for a batch.
        K: gain of the stationary Kalman predictor, (n, p) or (B, n, p); 0 for data without noise.
        innovation_covariance: of one-step errors e, (p, p) or (B, p, p), in units of y squared.
        x0: first states, (records, n) or (B, n).
        fit: of the simulation from x0, per cent, 100 (1 − ‖y − ŷ‖/‖y − mean(y)‖),
            (records, p) or (B, p).
        prediction_fit: the same of one-step predictions.
        singular_values: weighted ones, (k,) or (B, k); canonical correlations for CVA and SSARX.
        order: the order n.
        order_scores: by criterion, scores of the orders 1, 2, …; empty if the order was given.
        suggested_orders: by criterion, the order that it picks; empty if the order was given.
        weighting: the method.
        horizon: block rows of the past and of the future.
        focus: what B, D and x0 were fitted to: "simulation", "prediction", "states", or for a batch
            "mixed" where some systems are unstable.
        stabilised: whether poles were moved, (1,) or (B,).
    """

    system: StateSpace
    K: Tensor
    innovation_covariance: Tensor
    x0: Tensor
    fit: Tensor
    prediction_fit: Tensor
    singular_values: Tensor
    order: int
    order_scores: dict[str, Tensor]
    suggested_orders: dict[str, int]
    weighting: Weighting
    horizon: tuple[int, int]
    focus: str
    stabilised: Tensor

    @property
    def predictor(self) -> StateSpace:
        """The one-step predictor from (u_t, y_t) to ŷ_t: A − K C, [B − K D, K], C, [D, 0]."""
        A, B, C, D = self.system.matrices
        p = C.shape[-2]
        inputs = torch.cat((B - self.K @ D, self.K), -1)
        direct = torch.cat((D, D.new_zeros(*D.shape[:-1], p)), -1)
        return StateSpace(A - self.K @ C, inputs, C, direct, self.system.dt)

    def __repr__(self) -> str:
        fit = ", ".join(f"{value:.4g}" for value in self.fit.mean(0).tolist())
        return (
            f"SubspaceResult({self.weighting.name}, order {self.order}, horizon {self.horizon}, "
            f"mean fit [{fit}] %, {self.system!r})"
        )


@torch.no_grad()
def identify(
    u: Any,
    y: Any,
    order: int | None = None,
    *,
    dt: float = 1.0,
    weighting: Weighting = CVA,
    horizon: int | tuple[int, int] | None = None,
    largest_order: int | None = None,
    criterion: str = "bic",
    focus: str | None = None,
    direct: bool = True,
    stability: float | None = None,
    factor: str = "qr",
) -> SubspaceResult:
    """Identify one linear system from one record or several, without iterations.

    Windows of past and future samples are stacked over the records, never across them. The
    projection of future outputs on the past, weighted, is W₁ Γ X W₂ = U S Vᵀ; its factors give
    C, A and the state sequences, whose regression gives the noise covariances and, by the Riccati
    equation, K. B, D and one x_0 per record are then least squares on the outputs.

    Means are not removed. Inputs must excite the horizons: order of excitation past + future.

    Args:
        u: inputs, (T, m) or (T,), or a list of those, of any lengths; None for a system without.
        y: outputs, (T, p) or (T,), or a list of those.
        order: number of states; None to choose it by ``criterion``.
        dt: sampling time.
        weighting: ``N4SID``, ``MOESP``, ``CVA``, ``SSARX`` or another :class:`Weighting`. Only
            ``SSARX`` is consistent for data from a closed loop; it needs some noise in the data.
        horizon: block rows of past and future, or a pair; None for 10 (⌈order/p⌉ + 2 if that is
            more), fewer for short records.
        largest_order: last order to try, 10 by default; no more than the horizons allow.
        criterion: "bic", "mdl" (BIC/2: the same choice), "aic", or "gap" of singular values.
        focus: fit B, D and x_0 to a "simulation" or to one-step "prediction"; None for the first,
            but the second if A is unstable or the weighting is one for feedback. "states" takes B
            and D from the regression of next states and outputs on states and inputs, for which the
            weighting must have dynamics="states": the choice for plants that drift, since errors
            that last are not summed up.
        direct: whether y_t may depend on u_t; False holds D at 0, which feedback that answers
            within the sample needs, since u_t then depends on e_t.
        stability: a radius, such as 0.999, beyond which poles λ are moved to
            min(1/|λ|, radius) λ/|λ|, which keeps frequency and, for growth, the rate; the
            estimates of K, B, D and x_0 follow. None to leave A as estimated.
        factor: "qr"; "gram" by Cholesky, faster and with half of the digits; "auto".

    Returns:
        The estimates with singular values, scores and fits.

    Raises:
        TypeError: a weighting that is none.
        ValueError: shapes that do not fit, records that are too short, or an unknown option.

    Source: Van Overschee & De Moor, Subspace Identification for Linear Systems (1996); Jansson,
    Subspace identification and ARX modeling (2003); Qin, An overview of subspace identification
    (2006).

    Example:
        >>> u = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> result = identify(u, torch.cat((torch.zeros(1, 1), u[:-1])), 1)
        >>> result.system.n_states, bool(result.fit.min() > 99.99)
        (1, True)
    """
    records = read_records(u, y)
    method = _options(weighting, focus, stability, criterion)
    order = None if order is None else checked_order(order)
    least = 1 if order is None else order
    largest = LARGEST if largest_order is None else checked_order(largest_order, "largest_order")
    wanted = largest if order is None else order
    try:
        layout = layout_of(records, horizon, wanted, direct)
    except ValueError:
        if order is not None:
            raise
        layout = layout_of(records, horizon, least, direct)
    found = decompose(triangular_factor(records, layout, factor), layout, method)
    scores: dict[str, Tensor] = {}
    suggested: dict[str, int] = {}
    if order is None:
        allowed = min(wanted, (layout.future - 1) * layout.p, found.singular_values.shape[-1])
        scores, suggested = order_scores(found, records, allowed)
        order = suggested[criterion]
    parts = estimate(found, records, order, focus, stability)
    system = StateSpace(*(M[0] for M in parts.matrices), dt=dt)
    return SubspaceResult(
        system,
        parts.K[0],
        parts.covariance[0],
        torch.cat(parts.x0),
        torch.cat(parts.fit),
        torch.cat(parts.prediction_fit),
        found.singular_values[0],
        order,
        scores,
        suggested,
        method,
        (layout.past, layout.future),
        parts.focus,
        parts.stabilised,
    )


@torch.no_grad()
def identify_batch(
    u: Any,
    y: Any,
    order: int,
    *,
    dt: float = 1.0,
    weighting: Weighting = CVA,
    horizon: int | tuple[int, int] | None = None,
    focus: str | None = None,
    direct: bool = True,
    stability: float | None = None,
    factor: str = "auto",
) -> SubspaceResult:
    """Identify one system for each of many series of equal length, in batched linear algebra.

    The estimates are those of :func:`identify`, series by series, up to rounding. On a CPU the sums
    over samples are compiled code that works on eight series at a time, on as many threads as
    torch may use. With ``factor="auto"`` Gram matrices stand for orthogonal factors where pivots
    show that this costs few digits, in the fit of B, D and x_0 too: data without noise give the
    system back to about 1e-12 then, and to 1e-14 with ``factor="qr"``.

    Args:
        u: inputs, (B, T, m) or (B, T); None for systems without.
        y: outputs, (B, T, p) or (B, T).
        order: number of states of every system.
        dt: sampling time.
        weighting: see :func:`identify`.
        horizon: see :func:`identify`.
        focus: see :func:`identify`; by default systems with an unstable A are fitted to
            predictions, the others to simulations.
        direct: see :func:`identify`.
        stability: see :func:`identify`.
        factor: see :func:`identify`; "auto" takes the Cholesky way where it keeps enough digits.

    Returns:
        The estimates, with the series as first axis.

    Raises:
        ValueError: as :func:`identify`.
    """
    records = read_batch(u, y)
    method = _options(weighting, focus, stability, CRITERIA[0])
    order = checked_order(order)
    layout = layout_of(records, horizon, order, direct)
    pieces: list[Estimate] = []
    sigma = []
    step = max(1, PIECE // records.lengths[0])
    for start in range(0, len(records.y[0]), step):
        part = records.part(slice(start, start + step))
        lanes = None if factor == "qr" else lanes_of(part)
        gram = None if lanes is None else partial(window_gram, lanes, layout)
        found = decompose(triangular_factor(part, layout, factor, gram), layout, method)
        sigma.append(found.singular_values)
        pieces.append(estimate(found, part, order, focus, stability, lanes))
    kinds = {piece.focus for piece in pieces}
    return SubspaceResult(
        StateSpace(*_joined([piece.matrices for piece in pieces]), dt=dt),
        torch.cat([piece.K for piece in pieces]),
        torch.cat([piece.covariance for piece in pieces]),
        torch.cat([piece.x0[0] for piece in pieces]),
        torch.cat([piece.fit[0] for piece in pieces]),
        torch.cat([piece.prediction_fit[0] for piece in pieces]),
        torch.cat(sigma),
        order,
        {},
        {},
        method,
        (layout.past, layout.future),
        kinds.pop() if len(kinds) == 1 else "mixed",
        torch.cat([piece.stabilised for piece in pieces]),
    )


def _joined(groups: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*groups, strict=True)]


def _options(
    weighting: Weighting,
    focus: str | None,
    stability: float | None,
    criterion: str,
) -> Weighting:
    if focus is not None and focus not in FOCUS:
        raise ValueError(f"focus is {focus!r}; it must be one of {FOCUS}, or None")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion is {criterion!r}; it must be one of {CRITERIA}")
    if stability is not None and not 0 < stability <= 1:
        raise ValueError(f"stability is {stability!r}; a radius in (0, 1] is needed, or None")
    if not isinstance(weighting, Weighting):
        raise TypeError(f"weighting is {weighting!r}; a Weighting such as CVA or MOESP is needed")
    if focus == "states" and weighting.dynamics != "states":
        raise ValueError(
            f'focus "states" takes B and D from the regression that A comes from too; '
            f'{weighting.name} has dynamics="{weighting.dynamics}", and not "states"'
        )
    return weighting
